"""What users may not do by files that they write into the maildrop themselves."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtad.config.parameters import Parameters
from mtad.errors import MtadError
from mtad.maillog import ListSink, MailLog
from mtad.queue.ids import QueueIds
from mtad.queue.message import Message
from mtad.queue.postfix import records as rec
from mtad.queue.postfix.records import attribute, pack
from mtad.queue.postfix.submitted import MOST_RECIPIENTS
from mtad.smtpd.pickup import Keep, NotNow, Pickup, Refusal, Unfit

HEAD = (
    pack(rec.TIME, b"1000 0") + pack(rec.SENDER, b"alice@example.com") + pack(rec.RECIPIENT, b"b@c.example")
)
CONTENT = pack(rec.MESSAGE, b"") + pack(rec.LINE, b"Subject: x") + pack(rec.LINE, b"") + pack(rec.LINE, b"x")
TAIL = pack(rec.EXTRACTED, b"") + pack(rec.END, b"")


class Store:
    """What a pickup asks of the queue."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def was_taken(self, name: str) -> bool:
        return False

    async def enqueue(self, message: Message, name: str) -> None:
        self.messages.append(message)

    async def forget_taken(self, names: tuple[str, ...]) -> None:
        pass


class World:
    """A maildrop and who looks into it."""

    def __init__(self, root: Path, may_not: Callable[[int, bytes], str] = lambda uid, sender: "") -> None:
        self.root = root
        self.store = Store()
        self.sink = ListSink()
        self.refused: list[Refusal] = []
        p = Parameters.from_mapping(
            {
                "myhostname": "mail.example.com",
                "myorigin": "example.com",
                "mydestination": "",
                "alias_maps": "",
                "queue_directory": str(root),
                "message_size_limit": "100000",
                "header_checks": "inline:{never=OK}",
            }
        )
        store: Any = self.store

        async def pause() -> None:
            pass

        async def refuse(refusal: Refusal, keep: Keep) -> None:
            self.refused.append(refusal)

        ids = QueueIds(True)
        self.pickup = Pickup(
            p, (), store, MailLog(self.sink, "postfix"), ids, str(root),
            may_not_submit=may_not, reactor=None, pause=pause, refused=refuse,
        )  # fmt: skip

    def take(self, data: bytes) -> Message | None:
        path = self.root / "FILE"
        path.write_bytes(data)
        path.chmod(0o744)
        self.store.messages.clear()
        asyncio.run(self.pickup.take(str(path)))
        return self.store.messages[0] if self.store.messages else None


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_file_becomes_a_message(world: World) -> None:
    message = world.take(
        HEAD + attribute("trace_flags", 512) + attribute("encoding", "8bit") + CONTENT + TAIL
    )
    assert message is not None
    assert [one.address for one in message.recipients] == [b"b@c.example"]
    assert message.attributes.pop("message_id")
    assert message.attributes == {"trace_flags": "512"}
    assert message.body == b"8BITMIME"


@pytest.mark.parametrize("behind", [False, True])
def test_what_the_mail_system_says_itself_is_not_believed(world: World, behind: bool) -> None:
    """A route, a client, a login, what was done before: all these are attributes of a queued message."""
    forged = b"".join(
        [
            pack(rec.FILTER, b"smtp:[192.0.2.1]"),
            pack(rec.INSPECTOR, b"smtp:[192.0.2.1]"),
            pack(rec.REDIRECT, b"thief@example.net"),
            *[
                attribute(name, "yes")
                for name in (
                    "filter", "probe", "direct", "release", "deliver_by", "untold", "sasl_username",
                    "client_address", "log_client_address", "log_ident", "mt_priority", "requiretls",
                    "message_id", "create_time", "rewrite_context", "encoding", "trace_flags",
                )
            ],
            attribute("trace_flags", 1),
        ]
    )  # fmt: skip
    if behind:
        message = world.take(HEAD + CONTENT + pack(rec.EXTRACTED, b"") + forged + pack(rec.END, b""))
    else:
        message = world.take(HEAD + forged + CONTENT + TAIL)
    assert message is not None
    assert message.attributes.pop("message_id").endswith("@mail.example.com>")
    assert message.attributes == {}
    assert [one.address for one in message.recipients] == [b"b@c.example"]


@pytest.mark.parametrize(
    ("options", "attributes", "smtputf8"), [(16, {}, False), (63, {"requiretls": "yes"}, True)]
)
def test_what_headers_say_is_not_said_beside_them(
    world: World, options: int, attributes: dict[str, str], smtputf8: bool
) -> None:
    """``TLS-Required: no`` is a header; what a client said with its sender is kept by ``postsuper -r``."""
    message = world.take(pack(rec.SIZE, b"0 0 1 0 0 %d" % options) + HEAD + CONTENT + TAIL)
    assert message is not None
    del message.attributes["message_id"]
    assert (message.attributes, message.smtputf8) == (attributes, smtputf8)


def test_no_mail_from_the_future(world: World) -> None:
    """Its life would have no end, and its date none that can be written."""
    for when in (b"9999999999999999999 0", b"%d 0" % (time.time() + 10**6)):
        message = world.take(pack(rec.TIME, when) + HEAD[len(pack(rec.TIME, b"1000 0")) :] + CONTENT + TAIL)
        assert message is not None
        assert message.arrival <= time.time()


@pytest.mark.parametrize("delimiters", [b"", b"+", b"+==", b"a=", b"\r\n"])
def test_delimiters_of_verp(world: World, delimiters: bytes) -> None:
    with pytest.raises(Unfit):
        world.take(HEAD + pack(rec.VERP, delimiters) + CONTENT + TAIL)


def test_pointers_multiply_nothing(world: World) -> None:
    """A loop over 50 KB of content that would be read thousands of times."""
    lines = pack(rec.LINE, b"x" * 1000) * 50
    back = pack(rec.POINTER, b"%15d" % (len(HEAD) + len(pack(rec.MESSAGE, b""))))
    with pytest.raises(Unfit, match="round"):
        world.take(HEAD + pack(rec.MESSAGE, b"") + lines + back + TAIL)


@pytest.mark.parametrize("pointer", [b"9" * 30, b"9" * 18, b"-5", b"1_0"])
def test_pointers_lead_somewhere(world: World, pointer: bytes) -> None:
    with pytest.raises(Unfit, match="nowhere"):
        world.take(HEAD + pack(rec.POINTER, pointer) + CONTENT + TAIL)


def test_recipients_have_an_end(world: World) -> None:
    with pytest.raises(Unfit, match="recipients"):
        world.take(HEAD + pack(rec.RECIPIENT, b"a") * MOST_RECIPIENTS + CONTENT + TAIL)


def test_files_of_any_size(world: World) -> None:
    """A file with holes costs its owner nothing."""
    path = world.root / "FILE"
    path.write_bytes(HEAD + CONTENT)
    os.truncate(path, 1 << 40)
    path.chmod(0o744)
    with pytest.raises(Unfit, match="too big"):
        asyncio.run(world.pickup.take(str(path)))


def test_who_may_submit_from_which_sender(tmp_path: Path) -> None:
    asked: list[tuple[int, bytes]] = []

    def may_not(uid: int, sender: bytes) -> str:
        asked.append((uid, sender))
        return "no"

    with pytest.raises(Unfit, match="no"):
        World(tmp_path, may_not).take(HEAD + CONTENT + TAIL)
    assert asked == [(os.getuid(), b"alice@example.com")]


def test_original_recipients_hold_no_commands(world: World) -> None:
    for orcpt in (b"rfc822 \r\nRSET;b@c.example", b"r x;b", b";b"):
        one = pack(rec.ORCPT, orcpt) + pack(rec.RECIPIENT, b"b@c.example")
        message = world.take(pack(rec.TIME, b"1 0") + pack(rec.SENDER, b"a@b.example") + one + CONTENT + TAIL)
        assert message is not None
        assert message.recipients[0].orcpt == b"rfc822;b@c.example"


def test_random_files(world: World) -> None:
    """Anything is a message, or is refused as what it is."""
    random.seed(7)
    kinds = [bytes((kind,)) for kind in range(256)] + [
        b"A",
        b"R",
        b"S",
        b"C",
        b"T",
        b"V",
        b"o",
        b"n",
        b"i",
    ] * 20
    values = [b"", b"\0", b"a=b", b"\xff\xfe", b"9" * 5000, b"-1", b"a@b\r\nc", b"@" * 3000, b"(" * 3000,
              b'"', b"<>", b"a" * 70000, b"dsn_orig_rcpt=x;\xff", b"1 " * 10]  # fmt: skip
    names = (b"envelope_id", b"ret_flags", b"notify_flags", b"dsn_orig_rcpt", b"create_time", b"encoding")
    for _ in range(300):
        noise = b""
        for _ in range(random.randrange(1, 6)):
            value = random.choice(values)
            kind = random.choice(kinds)
            noise += pack(kind, random.choice(names) + b"=" + value if kind == b"A" else value)
        place = random.randrange(3)
        data = (noise if place == 0 else b"") + HEAD + (noise if place == 1 else b"") + CONTENT
        data += pack(rec.EXTRACTED, b"") + (noise if place == 2 else b"") + pack(rec.END, b"")
        try:
            world.take(data)
        except (Unfit, NotNow):
            pass
        except MtadError as error:
            raise AssertionError(f"{error!r} for {data!r}") from error
