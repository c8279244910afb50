"""The replies of a server that we are a client of: read line by line, with bounds.

A reply is lines of three digits and text; ``-`` behind the digits says that more lines follow (RFC
5321 section 4.2).  Of a long reply about ``limit`` bytes are kept; a reply of too many lines, or with a
line that does not end, is malformed: then nothing that follows can be trusted to answer what it
seems to answer.  A line that is no reply is taken for a part of the one that follows.  What is strange about
replies is kept as :class:`Oddity`.

Postfix counterpart: ``smtp_chat_resp`` in ``smtp_chat.c``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mtad.wire.linebuffer import LineBuffer

LINE_LIMIT = 2048  # line_length_limit
CHALLENGE_LIMIT = 12288 + 6  # a 334 line (RFC 4954 section 4)
MAX_LINES = 1000
_PATIENCE = 1 << 20  # bytes of one line that are passed over, and of what nobody has waited for

_REPLY = re.compile(rb"([0-9]{3})([- ]|$)")
_OTHERS = re.compile(rb"[^\x00-\x7f]")
_DSN = re.compile(rb" *([245]\.[0-9]{1,3}\.[0-9]{1,3})(?=\s|$)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class ServerReply:
    """A server's reply.

    ``code`` is that of the last line.  ``dsn`` is the enhanced code (RFC 2034) that fits the code;
    without one ``b"2.0.0"``, ``b"4.0.0"`` or ``b"5.0.0"``, and ``b"5.5.0"`` for codes that have none.
    ``lines`` are as sent, codes included.
    """

    code: int
    dsn: bytes
    lines: tuple[bytes, ...]

    @property
    def positive(self) -> bool:
        """A 2xx reply."""
        return self.code // 100 == 2

    @property
    def strange(self) -> bool:
        """Refuses something by a code that speaks of syntax, or of nothing that a refusal could be."""
        return self.code < 400 or self.code >= 600 or self.code == 555 or 500 <= self.code < 510

    @property
    def texts(self) -> list[bytes]:
        """The lines without their codes."""
        return [line[4:] for line in self.lines]

    def said(self, host: str, command: str) -> str:
        """``host H said: 550 5.1.1 ... (in reply to RCPT TO command)``."""
        return f"host {host} said: {self} (in reply to {command})"

    def __str__(self) -> str:
        """All of it on one line, printable."""
        return shown(b" ".join(self.lines))


class Listener(Protocol):
    """Who wants to know each line of a session but those of messages."""

    def sent(self, line: bytes) -> None:
        """We have said something."""

    def heard(self, line: bytes, replacement: bytes | None = None) -> None:
        """The server has said something, which the reply filter may have replaced."""


@dataclass(frozen=True, slots=True)
class Oddity:
    """Something strange that a server said: a word for what it is, and ``text`` of it, printable."""

    kind: str
    text: str


class MalformedReply(Exception):
    """What the server sent is no SMTP reply; the text says what it was."""


def shown(data: bytes) -> str:
    """What a server said, as text for a line of the log."""
    return _CONTROL.sub("?", data.decode("utf-8", "surrogateescape"))


def _dsn(code: int, text: bytes) -> bytes:
    digit = b"%d" % (code // 100)
    if digit not in b"245":
        return b"5.5.0"
    m = _DSN.match(text)
    return m[1] if m and m[1].startswith(digit) else digit + b".0.0"


class ReplyReader:
    """Collects replies from received bytes."""

    __slots__ = (
        "_ascii",
        "_count",
        "_filter",
        "_kept",
        "_lines",
        "_told",
        "buffer",
        "listener",
        "oddities",
        "pipelining",
    )

    def __init__(
        self, reply_filter: Callable[[bytes], bytes] | None = None, ascii_only: bool = False
    ) -> None:
        """``reply_filter``: what each line is replaced by; ``ascii_only``: other bytes count as ``?``."""
        self._filter = reply_filter
        self._ascii = ascii_only
        self.buffer = LineBuffer(_PATIENCE)
        self.listener: Listener | None = None
        self.oddities: list[Oddity] = []  # whoever tells of them takes them away
        self.pipelining = False  # a reply more or less would be taken for that to another command
        self._lines: list[bytes] = []
        self._kept = self._count = 0
        self._told = False  # that this reply is a long one

    def add(self, data: bytes) -> None:
        """Received bytes.  Who says all too much while nobody listens is not listened to any more."""
        self.buffer.add(data)
        if len(self.buffer) > _PATIENCE:
            self.buffer.deaf = True

    def clear(self) -> None:
        """Forget all that was received."""
        self.buffer.clear()
        self._lines.clear()
        self._kept = self._count = 0
        self._told = False

    def next(self, limit: int = LINE_LIMIT) -> ServerReply | None:
        """The next whole reply; None: it has not arrived.  Raises :class:`MalformedReply`."""
        while (line := self.buffer.line(limit)) is not None:
            self._count += 1
            if b"\0" in line:
                line = line.partition(b"\0")[0]
            if self._ascii and not line.isascii():
                line = _OTHERS.sub(b"?", line)
            if self.buffer.cut:
                self._odd("long", line)
            if self._count > MAX_LINES or self.buffer.deaf:
                raise MalformedReply(shown(b"too long a reply: " + line[:100]))
            room = self._kept < limit
            if not (room or self._told):
                self._told = True
                self._odd("many", b"\n".join(self._lines))
            said = line
            if self._filter is not None:
                line = said = shown(line).encode()
                line = self._filter(line)
            if self.listener is not None and room:
                self.listener.heard(said, None if line is said else line)
            if room and (line or self._lines):
                self._kept += len(line) + bool(self._lines)
                self._lines.append(line)
            m = _REPLY.match(line)
            if m is None:
                self._odd("danger" if self.pipelining else "garbage", line)
            elif m[2] != b"-":
                code = int(m[1])
                reply = ServerReply(code, _dsn(code, line[4:]), tuple(self._lines))
                self._lines = []
                self._kept = self._count = 0
                self._told = False
                return reply
        return None

    def _odd(self, kind: str, line: bytes) -> None:
        self.oddities.append(Oddity(kind, shown(line)))
