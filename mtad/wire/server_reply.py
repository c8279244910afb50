"""The replies of a server that we are a client of: read line by line, with bounds.

A reply is lines of three digits and text; ``-`` behind the digits says that more lines follow (RFC
5321 section 4.2).  Of a long reply about ``limit`` bytes are kept; a reply of too many lines, or a
line that is no reply, is malformed: then nothing that follows can be trusted to answer what it
seems to answer.

Postfix counterpart: ``smtp_chat_resp`` in ``smtp_chat.c`` (which skips garbage).
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

_REPLY = re.compile(rb"([0-9]{3})([- ]|$)")
_DSN = re.compile(rb" *([245]\.[0-9]{1,3}\.[0-9]{1,3})(?= |$)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ufffd]")


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
        return _CONTROL.sub("?", b" ".join(self.lines).decode("utf-8", "replace"))


class Listener(Protocol):
    """Who wants to know each line of a session but those of messages."""

    def sent(self, line: bytes) -> None:
        """We have said something."""

    def heard(self, line: bytes, replacement: bytes | None = None) -> None:
        """The server has said something, which the reply filter may have replaced."""


class MalformedReply(Exception):
    """What the server sent is no SMTP reply; the text says what it was."""


def _dsn(code: int, text: bytes) -> bytes:
    digit = b"%d" % (code // 100)
    if digit not in b"245":
        return b"5.5.0"
    m = _DSN.match(text)
    return m[1] if m and m[1].startswith(digit) else digit + b".0.0"


class ReplyReader:
    """Collects replies from received bytes."""

    __slots__ = ("_count", "_filter", "_kept", "_lines", "buffer", "listener")

    def __init__(self, reply_filter: Callable[[bytes], bytes] | None = None) -> None:
        """``reply_filter``: what each line is replaced by."""
        self._filter = reply_filter
        self.buffer = LineBuffer()
        self.listener: Listener | None = None
        self._lines: list[bytes] = []
        self._kept = self._count = 0

    def clear(self) -> None:
        """Forget all that was received."""
        self.buffer.clear()
        self._lines.clear()
        self._kept = self._count = 0

    def next(self, limit: int = LINE_LIMIT) -> ServerReply | None:
        """The next whole reply; None: it has not arrived.  Raises :class:`MalformedReply`."""
        while (line := self.buffer.line(limit)) is not None:
            self._count += 1
            said = line
            if self._filter is not None:
                line = self._filter(line)
            if self.listener is not None and self._kept < limit:
                self.listener.heard(said, None if line is said else line)
            m = _REPLY.match(line)
            if m is None or self._count > MAX_LINES or self.buffer.deaf:
                what = line if m is None else b"too long a reply: " + line
                raise MalformedReply(_CONTROL.sub("?", what[:100].decode("utf-8", "replace")))
            last = m[2] != b"-"
            if self._kept < limit:
                self._lines.append(line)
                self._kept += len(line)
            if last:
                code = int(m[1])
                reply = ServerReply(code, _dsn(code, line[4:]), tuple(self._lines))
                self._lines = []
                self._kept = self._count = 0
                return reply
        return None
