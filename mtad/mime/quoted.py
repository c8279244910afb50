"""Quoted-printable, as content with 8 bits becomes content with 7.

:class:`QuotedPrintable` is fed pieces of content that end where a line does, or (``partial``) in the middle
of a long one; it gives lines of 76 characters at most.

RFC 2045 section 6.7.  Postfix counterpart: ``mime_state_downgrade()``.
"""

from __future__ import annotations

import re

_SPECIAL = re.compile(rb"[^\t\x20-\x3c\x3e-\x7e]")
_CODES = {bytes([code]): b"=%02X" % code for code in range(256)}
_WIDTH = 73  # a line that has so many characters is broken before the next one


class QuotedPrintable:
    """See the module."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open = b""  # the encoded end of a line that goes on

    def feed(self, data: bytes, partial: bool = False) -> bytes:
        """Encode lines ended by CRLF; with ``partial`` the last one goes on in the next piece."""
        lines = data.split(b"\r\n")
        rest = lines.pop()
        out = [self._line(line) + b"\r\n" for line in lines]
        if partial:
            text, self._open = self._broken(self._open + _encoded(rest))
            out.append(text)
        elif rest:
            out.append(self._line(rest) + b"\r\n")
        return b"".join(out)

    def _line(self, line: bytes) -> bytes:
        if len(line) <= _WIDTH and not self._open and not _SPECIAL.search(line):
            text, last = b"", line
        else:
            text, last = self._broken(self._open + _encoded(line))
            self._open = b""
        if last[-1:] in (b" ", b"\t"):
            last = last[:-1] + _CODES[last[-1:]]
        return text + last

    @staticmethod
    def _broken(text: bytes) -> tuple[bytes, bytes]:
        """``text`` with soft line breaks: the lines that are complete, and the last one."""
        lines: list[bytes] = []
        at = 0
        while len(text) - at > _WIDTH:
            end = at + _WIDTH
            if text[end - 1 : end] == b"=":  # codes are not cut
                end += 2
            elif text[end - 2 : end - 1] == b"=":
                end += 1
            if end >= len(text):
                break
            lines.append(text[at:end] + b"=\r\n")
            at = end
        return b"".join(lines), text[at:]


def _encoded(line: bytes) -> bytes:
    return _SPECIAL.sub(lambda m: _CODES[m.group()], line)
