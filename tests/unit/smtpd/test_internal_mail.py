"""Mail that is made here: who it goes to, and who looks at it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from intake_support import BASE

from mtad.config.parameters import Parameters
from mtad.maillog import ListSink, MailLog
from mtad.queue.message import HOLD, Message, Recipient
from mtad.smtpd.internal import InternalMail, Refused
from mtad.wire.reply import Reply

CONTENT = (
    b"Received: by mail.example.com (Postfix)\r\n\tid ID; DATE\r\nDate: DATE\r\n"
    b"From: MAILER-DAEMON@example.com\r\nTo: alice@example.com\r\n"
    b"Subject: Undelivered\r\nMessage-Id: <1@x>\r\n\r\nsecret\r\n"
)
CHECKS = "static:{%s}"
MAPS = {"virtual_alias_maps": "inline:{{alice@example.com=bob@example.net, carol@example.net}}"}


class Made:
    """A notification, and what became of it."""

    def __init__(self, source: str = "bounce", milters: Any = None, **settings: str) -> None:
        p = Parameters.from_mapping({**BASE, **settings})
        self.sink = ListSink()
        own = InternalMail.of_bounces(p, (), MailLog(self.sink, "x"), None, "/nonexistent")
        if milters is not None:
            own._milters = milters
        self.message = Message("ID", b"", [Recipient(b"alice@example.com")], 0.0, len(CONTENT), CONTENT)
        self.kept = asyncio.run(own.clean(self.message, source))

    @property
    def to(self) -> list[bytes]:
        return [one.address for one in self.message.recipients]

    @property
    def log(self) -> str:
        return "\n".join(map(str, self.sink.lines))


def test_nothing_to_do_costs_nothing() -> None:
    made = Made(header_checks=CHECKS % "REJECT")
    assert made.kept and made.message.content is CONTENT and not made.sink.lines


@pytest.mark.parametrize("source", ["bounce", "notify", "forward", "verify"])
def test_addresses_are_mapped(source: str) -> None:
    made = Made(source, header_checks=CHECKS % "REJECT", always_bcc="all@example.net", **MAPS)
    assert made.kept and made.to == [b"bob@example.net", b"carol@example.net"]
    assert made.message.content == CONTENT
    assert (made.message.content is CONTENT) == (source in ("forward", "verify"))


@pytest.mark.parametrize(
    ("classes", "source", "checked"),
    [
        ("bounce", "bounce", True), ("bounce", "notify", False), ("notify", "notify", True),
        ("bounce, notify", "notify", True), ("notify", "bounce", False), ("bounce notify", "forward", False),
    ],
)  # fmt: skip
def test_only_some_classes_are_checked(classes: str, source: str, checked: bool) -> None:
    made = Made(source, internal_mail_filter_classes=classes, header_checks=CHECKS % "PREPEND X-Seen: yes")
    assert (b"X-Seen: yes\r\nSubject:" in (made.message.content or b"")) == checked
    assert made.message.size == len(made.message.content or b"")


@pytest.mark.parametrize(
    ("action", "to", "kept", "held", "told"),
    [
        ("HOLD", b"alice@example.com", True, True, " from local; from=<> to=<alice@example.com>"),
        ("REDIRECT x@example.net", b"x@example.net", True, False, "redirect: header"),
        ("DISCARD", b"alice@example.com", False, False, "ID: removed (discarded)"),
    ],
)
def test_actions(action: str, to: bytes, kept: bool, held: bool, told: str) -> None:
    made = Made(internal_mail_filter_classes="bounce", header_checks=CHECKS % action)
    assert (made.to, made.kept, made.message.state == HOLD) == ([to], kept, held)
    assert told in made.log


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"header_checks": CHECKS % "REJECT no"}, "ID: no"),
        ({"header_checks": "fail:x"}, "ID: Error: queue file write error"),
        ({"virtual_alias_maps": "fail:x"}, "ID: Error: queue file write error"),
    ],
)
def test_refusals(settings: dict[str, str], why: str) -> None:
    with pytest.raises(Refused, match=why):
        Made(internal_mail_filter_classes="bounce", **settings)


def test_milters_are_asked_where_checks_are() -> None:
    class Milters:
        def __init__(self) -> None:
            self.asked: list[Message] = []

        async def screen(self, message: Message, *_: object) -> Reply | None:
            self.asked.append(message)
            return None

    milters = Milters()
    Made(milters=milters, **MAPS)
    assert not milters.asked
    Made(milters=milters, internal_mail_filter_classes="bounce")
    assert len(milters.asked) == 1
