"""SMTP replies: a code, an enhanced status code, and text.

A :class:`Reply` is an immutable value; :meth:`Reply.encode` gives the bytes for the
wire.  Text of several lines (separated by ``\\n``) becomes a multi-line reply that
repeats code and enhanced code on each line (RFC 5321 section 4.2, RFC 2034).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_UNPRINTABLE = re.compile(rb"[\x00-\x1f\x7f]")


@lru_cache(maxsize=128)
def _encode_lines(code: int, prefix: bytes, text: bytes) -> bytes:
    lines = [_UNPRINTABLE.sub(b" ", line) for line in text.split(b"\n")]
    head = b"".join(b"%d-%b%b\r\n" % (code, prefix, line) for line in lines[:-1])
    return head + b"%d %b%b\r\n" % (code, prefix, lines[-1])


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply.  ``dsn`` (e.g. ``b"2.1.0"``) may be empty; ``text`` may hold ``\\n``."""

    code: int
    text: bytes
    dsn: bytes = b""

    def encode(self) -> bytes:
        """The bytes of this reply, CRLF included."""
        prefix = self.dsn + b" " if self.dsn else b""
        if b"\n" not in self.text:
            return b"%d %b%b\r\n" % (self.code, prefix, _UNPRINTABLE.sub(b" ", self.text))
        return _encode_lines(self.code, prefix, self.text)

    @property
    def positive(self) -> bool:
        """A 2xx or 3xx reply."""
        return self.code < 400

    @property
    def hangs_up(self) -> bool:
        """Postfix ends the session after a 421 and a 521 (RFC 5321 section 3.8, RFC 7504)."""
        return self.code in (421, 521)

    def __str__(self) -> str:
        dsn = f"{self.dsn.decode()} " if self.dsn else ""
        return f"{self.code} {dsn}{self.text.decode('utf-8', 'replace')}"
