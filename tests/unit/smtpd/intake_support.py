"""Messages given to intake without a session."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from mtad.config.parameters import Parameters
from mtad.maillog import ListSink, MailLog
from mtad.rewrite.address import Rewriter
from mtad.rewrite.classes import AddressClasses
from mtad.smtpd.envelope import Envelope
from mtad.smtpd.headers import Birth
from mtad.smtpd.intake import Intake
from mtad.smtpd.rules import CleanupRules, detects_utf8
from mtad.smtpd.state import MessageState, Origin

BASE = {
    "compatibility_level": "3.6",
    "myhostname": "mail.example.com",
    "mydomain": "example.com",
    "myorigin": "example.com",
    "mydestination": "",
    "append_dot_mydomain": "no",
}


class Taken:
    """A message and what became of it: ``content`` (None: refused), envelope, log."""

    def __init__(
        self,
        pieces: Sequence[bytes],
        *,
        sender: bytes = b"alice@example.com",
        recipients: Sequence[bytes] = (b"bob@example.net",),
        context: str = "local",
        received: bytes = b"Received: here\r\n",
        prepend: bytes = b"",
        size_limit: int = 200_000,
        full_name: bytes = b"",
        spool: Callable[[], Any] = tempfile.TemporaryFile,
        notify: frozenset[bytes] = frozenset(),
        **settings: Any,
    ) -> None:
        self.sink = ListSink()
        log = MailLog(self.sink, "postfix/cleanup")
        p = Parameters.from_mapping({**BASE, **settings})
        rules = CleanupRules(p, Rewriter(p), AddressClasses(p, own=()), log)
        overrides = frozenset(p.words("receive_override_options"))
        self.state = MessageState("4ABC", log, Origin("c[1.2.3.4]", "ESMTP", "h"), overrides=overrides)
        self.state.detect_utf8 = detects_utf8(p, "smtpd")
        self.envelope = Envelope(rules, self.state)
        birth = Birth(0.0, 0.0, context, full_name)
        self.intake = Intake(rules, self.state, birth, size_limit=size_limit, spool=spool, mbox=True)
        self.content: bytes | None = None
        asyncio.run(self._take(pieces, sender, recipients, notify, prepend, received))

    async def _take(
        self,
        pieces: Sequence[bytes],
        sender: bytes,
        recipients: Sequence[bytes],
        notify: frozenset[bytes],
        prepend: bytes,
        received: bytes,
    ) -> None:
        await self.envelope.set_sender(sender)
        for each in recipients:
            await self.envelope.add(each, notify)
        await self.intake.begin(prepend, received)
        for piece in pieces:
            work = self.intake.feed(piece)
            if work is not None:
                await work
        self.content = await self.intake.finish()
        await self.envelope.finish()

    @property
    def log(self) -> list[str]:
        return [text for _, _, text in self.sink.lines]

    @property
    def recipients(self) -> list[bytes]:
        return [one.address for one in self.envelope.recipients]

    @property
    def refusal(self) -> str:
        return str(self.intake.refusal or "")

    @property
    def spooled(self) -> bytes:
        spool: BinaryIO | None = self.intake.spool
        assert spool is not None
        spool.seek(0)
        return spool.read()


def body_of(content: bytes | None) -> bytes:
    assert content is not None
    return content.partition(b"\r\n\r\n")[2]


def headers_of(content: bytes | None) -> list[bytes]:
    """The headers but our own and those that were missing."""
    assert content is not None
    head = content.partition(b"\r\n\r\n")[0].replace(b"\r\n\t", b"\n\t").replace(b"\r\n ", b"\n ")
    usual = (b"received:", b"message-id:", b"date:")
    return [line for line in head.split(b"\r\n") if not line.lower().startswith(usual)]
