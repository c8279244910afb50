"""The header section of a message on its way in, read as it arrives.

:class:`HeaderScanner` is fed message bytes and gives back what is to be kept: unwanted headers
dropped, what a complete message lacks appended, and an empty line put in where text begins without
one.  It holds at most one header in memory and cuts it at ``header_size_limit``.  However the input
is cut, the output is the same.

RFC 5322 sections 2.2, 3.6.  Postfix counterpart: ``mime_state(3)`` and ``cleanup_message.c``.
"""

from __future__ import annotations

import re
from collections.abc import Callable

#: One header with its continuation lines.  Content has no lone CR or LF here.
_HEADER = re.compile(rb"([!-9;-~]+)[ \t]*:([^\r]*(?:\r\n[ \t][^\r]*)*)\r\n")
_CONTINUED = (b" ", b"\t")
_MBOX = re.compile(rb">*From ")

#: The header of a part, from the end of the line before it.
_EIGHT_BIT = re.compile(rb"\ncontent-transfer-encoding[ \t]*:[ \t]*(?:8bit|binary)\b", re.IGNORECASE)

#: Headers that mean a message was sent again (RFC 5322 section 3.6.6).
_RESENT = frozenset(
    (b"resent-bcc", b"resent-cc", b"resent-date", b"resent-from", b"resent-message-id",
     b"resent-reply-to", b"resent-sender", b"resent-to")
)  # fmt: skip


class HeaderScanner:
    """Reads headers until they end; ``ended`` tells when all that follows is body.

    ``drop``: lower-case names to leave out.  ``missing`` is called once at the end of the headers, with
    this scanner, and returns the header lines to append.
    """

    __slots__ = (
        "_attempt_at", "_drop", "_first", "_limit", "_missing", "_parts", "_pending", "eight_bit", "ended",
        "message_ids", "received", "resent", "seen",
    )  # fmt: skip

    def __init__(self, drop: frozenset[bytes], limit: int, missing: Callable[[HeaderScanner], bytes]) -> None:
        self._drop = drop
        self._limit = limit
        self._missing = missing
        self._pending = b""
        self._attempt_at = 0
        self._first = True
        self.ended = False
        #: lower-case names of the headers seen, dropped ones included
        self.seen: set[bytes] = set()
        self.received = 0  # number of Received headers
        self.resent = False
        #: values of Message-Id headers, each with b"resent-" or b"" before it
        self.message_ids: list[tuple[bytes, bytes]] = []
        self.eight_bit = False  # a Content-Transfer-Encoding says 8bit or binary, here or in a part
        self._parts: bytes | None = None  # the end of what was seen of a message of several parts

    def feed(self, data: bytes) -> bytes:
        """Take message bytes, give back those to keep (perhaps none yet)."""
        if self.ended:
            if self._parts is not None:
                self._look_into_parts(data)
            return data
        self._pending += data
        if len(self._pending) < self._attempt_at:
            return b""
        return self._scan(final=False)

    def finish(self) -> bytes:
        """The message is complete: what is still to be kept."""
        if self.ended:
            return b""
        if self._pending and not self._pending.endswith(b"\r\n"):
            self._pending += b"\r\n"
        return self._scan(final=True)

    def _scan(self, final: bool) -> bytes:
        buffer = self._pending
        out: list[bytes] = []
        at = 0
        if self._first:
            if not final and len(buffer) < self._limit and b"\n" not in buffer:
                return b""
            self._first = False
            if _MBOX.match(buffer):
                buffer = b"X-Mailbox-Line: " + buffer
        size = len(buffer)
        while True:
            found = _HEADER.match(buffer, at)
            end = found.end() if found else -1
            if found is not None and (end < size or final) and buffer[end : end + 1] not in _CONTINUED:
                at = end
                self._header(found[1].lower(), found, out)
                continue
            if buffer.startswith(b"\r\n", at) or (final and at == size):
                self._end(out, buffer[at:])
            elif self._incomplete(buffer, at, final):
                self._wait(buffer[at:])
            else:
                # text that is no header ends the headers; an empty line is put before it
                self._end(out, b"\r\n" + buffer[at:])
            return b"".join(out)

    @staticmethod
    def _incomplete(buffer: bytes, at: int, final: bool) -> bool:
        """True when more input could still make a header of what is at ``at``."""
        if final:
            return False
        line_end = buffer.find(b"\r\n", at)
        if line_end < 0:
            return True
        # a whole line is here: a header whose continuation is not complete, or no header at all
        return _HEADER.match(buffer, at) is not None

    def _wait(self, rest: bytes) -> None:
        """Keep an incomplete header; look again when there is twice as much, so that work stays linear."""
        if len(rest) > self._limit + 4:  # the middle is lost anyway; cut no CRLF in two
            rest = rest[: self._limit].rstrip(b"\r\n") + rest[-4:].lstrip(b"\n")
        self._pending = rest
        self._attempt_at = min(2 * len(rest), self._limit)

    def _header(self, name: bytes, found: re.Match[bytes], out: list[bytes]) -> None:
        self.seen.add(name)
        if name == b"received":
            self.received += 1
        elif name == b"message-id":
            self.message_ids.append((b"", found[2].lstrip()))
        elif name == b"content-transfer-encoding":
            if found[2].strip().lower() in (b"8bit", b"binary"):
                self.eight_bit = True
        elif name == b"content-type":
            if found[2].lstrip()[:10].lower() in (b"multipart/", b"message/rf"):
                self._parts = b"\n"
        elif name in _RESENT:
            self.resent = True
            if name == b"resent-message-id":
                self.message_ids.append((b"resent-", found[2].lstrip()))
        if name in self._drop:
            return
        text = found[0]
        if found.end(1) + 1 != found.start(2):  # blanks before the colon go
            text = found[1] + b":" + text[found.start(2) - found.start() :]
        if b"\0" in text:  # nothing behind a NUL is seen
            text = text.partition(b"\0")[0] + b"\r\n"
        if len(text) > self._limit:
            text = text[: self._limit].rstrip(b"\r\n") + b"\r\n"
        out.append(text)

    def _end(self, out: list[bytes], rest: bytes) -> None:
        self.ended = True
        self._pending = b""
        out.append(self._missing(self))
        out.append(rest)
        if self._parts is not None:
            self._look_into_parts(rest)

    def _look_into_parts(self, data: bytes) -> None:
        """Find out whether a part is declared as 8 bits, without going through the lines."""
        assert self._parts is not None
        data = self._parts + data
        at = data.find(b"ransfer-")
        while at >= 0:
            if _EIGHT_BIT.match(data, max(0, at - 10)):
                self.eight_bit = True
                self._parts = None
                return
            at = data.find(b"ransfer-", at + 1)
        self._parts = data[-100:]
