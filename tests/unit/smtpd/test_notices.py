"""What the postmaster is told of sessions, and what not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from mtad.config.parameters import Parameters
from mtad.errors import QueueFull
from mtad.queue.message import Message
from mtad.queue.postmaster import wrap
from mtad.smtpd.notices import History, Notices, error_class
from mtad.wire import events as ev
from mtad.wire.reply import Reply

UNKNOWN = Reply(500, b"Error: command not recognized", b"5.5.2")
REFUSED = Reply(554, b"<a@b>: Recipient address rejected: Access denied", b"5.7.1")
FULL = Reply(452, b"Error: insufficient system storage", b"4.3.1")
OK = Reply(250, b"Ok", b"2.0.0")
CLIENT = "unknown[192.0.2.1]"


def refused(line: bytes, verb: bytes = b"unknown") -> ev.Refused:
    return ev.Refused(UNKNOWN, verb, line)


@pytest.mark.parametrize(
    ("event", "reply", "word"),
    [
        (ev.Noop(), OK, ""),
        (refused(b"X"), UNKNOWN, "protocol"),
        (refused(b"MAIL", b"MAIL"), Reply(503, b"Error: send HELO/EHLO first", b"5.5.1"), "policy"),
        (refused(b"X"), Reply(503, b"Error: access denied for x[y]", b"5.7.0"), ""),
        (ev.Data(), REFUSED, "policy"),
        (ev.Data(), Reply(503, b"<x>: X rejected: Improper use of SMTP command pipelining"), "protocol"),
        (ev.AuthResponse(b"x"), Reply(535, b"Error: authentication failed: ", b"5.7.8"), "protocol"),
        (ev.BodyEnd(9), Reply(552, b"Error: message file too big", b"5.3.4"), "bounce"),
        (ev.BodyEnd(9), FULL, "resource"),
        (ev.BodyEnd(9), Reply(451, b"Error: internal error\nAsk us.", b"4.3.0"), "software"),
        (None, Reply(421, b"mail.example Error: timeout exceeded", b"4.4.2"), ""),
        (None, Reply(421, b"mail.example Error: too many connections from x", b"4.7.0"), "policy"),
    ],
)  # fmt: skip
def test_classes(event: ev.Event | None, reply: Reply, word: str) -> None:
    assert error_class(event, reply) == word


def test_no_secrets() -> None:
    """Not in AUTH, not in its responses, and not where a client goes on although it was refused."""
    history = History()
    for event in (
        ev.Auth(b"PLAIN", b"c2VjcmV0"),
        ev.AuthResponse(b"c2VjcmV0"),
        refused(b"auth plain c2VjcmV0", b"AUTH"),
        refused(b"AUTH PLAIN c2VjcmV0", b""),
        refused(b"c2VjcmV0"),
        refused(b"c2VjcmV0", b""),
    ):
        history.exchange(event, UNKNOWN)
    history.exchange(ev.Noop(), OK)
    history.exchange(refused(b"BOGUS"), UNKNOWN)
    text = "\n".join(history.lines)
    assert "c2VjcmV0" not in text
    assert text.count("AUTH") == 3
    assert "In:  BOGUS" in text


def test_wrapped() -> None:
    assert list(wrap("In:  " + "word " * 20)) == [
        " In:  " + ("word " * 14).rstrip(),
        "     " + ("word " * 6).rstrip(),
    ]
    assert list(wrap("x" * 200)) == [" " + "x" * 200]


class Service:
    """What notices ask of a service."""

    def __init__(self, **values: str) -> None:
        self.messages: list[Message] = []
        self.full = False
        self.said: list[str] = []
        self.log = SimpleNamespace(warning=self.said.append)
        self.cleanup_log = SimpleNamespace(info=lambda text: None)
        self.store = self.own_mail = self
        self.ids = SimpleNamespace(next=lambda: "ID")
        self.notices = Notices.build(
            Parameters.from_mapping({"myhostname": "mail.example", "myorigin": "example", **values}),
            cast(Any, self),
        )

    def now(self) -> float:
        return 0.0

    async def clean(self, message: Message, source: str) -> bool:
        return source == "notify"

    async def enqueue(self, message: Message) -> None:
        if self.full:
            raise QueueFull("no room")

    def queued(self, message: Message) -> None:
        self.messages.append(message)


def test_usual_classes() -> None:
    """Only an error of such a class begins a history."""
    service = Service()
    notices = service.notices
    assert notices is not None and not notices.always
    assert notices.begin(refused(b"X"), UNKNOWN) is None
    history = notices.begin(ev.BodyEnd(9), FULL)
    assert history is not None
    notices.heard(history, CLIENT, ev.BodyEnd(9), FULL)
    notices.tell(history, CLIENT, "lost connection")
    (message,) = service.messages
    assert message.recipients[0].address == b"postmaster@example"
    assert message.sender == b"double-bounce@mail.example"
    assert message.content is not None
    assert b"errors from unknown[192.0.2.1]\r\n" in message.content
    assert b"\r\n Out: 452 4.3.1 Error: insufficient system storage\r\n" in message.content
    assert b"\r\nSession aborted, reason: lost connection\r\n" in message.content
    notices.tell(history, CLIENT)
    assert len(service.messages) == 1


def test_no_room() -> None:
    service = Service()
    service.full = True
    history = History()
    history.exchange(ev.BodyEnd(9), FULL)
    assert service.notices is not None
    service.notices.tell(history, CLIENT)
    assert service.said == ["postmaster notify: no room"] and not service.messages


def test_long_history() -> None:
    """It is told when it is full, and begins again; a message that is taken forgives."""
    service = Service(notify_classes="protocol", smtpd_history_flush_threshold="3")
    notices = service.notices
    assert notices is not None and notices.always
    history = History()
    for _ in range(5):
        notices.heard(history, CLIENT, refused(b"X"), UNKNOWN)
    assert len(service.messages) == 2 and len(history.lines) == 2
    notices.heard(history, CLIENT, ev.BodyEnd(9), OK)
    notices.tell(history, CLIENT)
    assert len(service.messages) == 2


def test_nobody() -> None:
    assert Service(notify_classes="2bounce, delay").notices is None
