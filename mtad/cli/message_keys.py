"""Lookup keys from a message: what ``postmap -q -`` asks for with ``-h``, ``-b`` and ``-m``.

:func:`message_keys` yields the header lines (folded ones whole, with their newlines) and the body lines that
header_checks(5) and body_checks(5) would see.  With ``mime``, the headers of attachments and of attached
messages count as headers.  It raises nothing.

RFC 5322 section 2.2, RFC 2046 section 5.  Postfix counterpart: ``mime_state(3)``, ``is_header(3)``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_HEADER = re.compile(rb"([\x21-\x39\x3b-\x7e]+)[ \t]*(?=:)")
_TYPE = re.compile(rb"[ \t\r\n]*([^\s()<>@,;:\\\"/\[\]?=]+)(?:\s*/\s*([^\s()<>@,;:\\\"/\[\]?=]+))?")
_BOUNDARY = re.compile(
    rb";\s*boundary\s*=\s*(?:\"((?:\\.|[^\"\\])*)\"|([^\s;()<>@,:\\\"/\[\]?=]+))", re.IGNORECASE | re.DOTALL
)

_PRIMARY, _PART, _NESTED, _BODY = range(4)
_NESTING_LIMIT = 100
_BOUNDARY_LIMIT = 2048


@dataclass(frozen=True, slots=True)
class _Multipart:
    """A boundary, and whether parts without a type are messages (multipart/digest)."""

    boundary: bytes
    digest: bool


class _Parser:
    """Where we are in the message."""

    def __init__(self, header: bool, body: bool, mime: bool) -> None:
        self._header, self._body, self._mime = header, body, mime
        self._state = _PRIMARY
        self._stack: list[_Multipart] = []
        self._held = b""
        self._message = False

    @property
    def after_primary(self) -> bool:
        """The message's own headers are over."""
        return self._state != _PRIMARY

    def line(self, line: bytes) -> Iterator[bytes]:
        """The keys that are complete when ``line`` is there."""
        if self._state != _BODY:
            if self._held and line[:1] in (b" ", b"\t"):
                self._held += b"\n" + line
                return
            yield from self.flush()
            match = _HEADER.match(line)
            if match:
                self._held = match[1] + line[match.end() :]
                return
            if line:
                if self._state == _PRIMARY and self._body:
                    yield b""
                self._state = _BODY
            else:
                self._state = _NESTED if self._message else _BODY
            self._message = False
        if line.startswith(b"--"):
            self._find_boundary(line[2:])
        if self._body:
            yield line

    def flush(self) -> Iterator[bytes]:
        """The header that was waiting for more lines."""
        held, self._held = self._held, b""
        if held:
            if self._mime and held[:13].lower() == b"content-type:":
                self._content_type(held[13:])
            if self._header:
                yield held

    def _content_type(self, value: bytes) -> None:
        match = _TYPE.match(value)
        kind = match[1].lower() if match else b""
        subtype = (match[2] or b"").lower() if match else b""
        self._message = kind == b"message" and subtype in (b"rfc822", b"global")
        if kind == b"multipart" and match:
            for quoted, plain in _BOUNDARY.findall(value, match.end()):
                if len(self._stack) <= _NESTING_LIMIT:
                    boundary = re.sub(rb"\\(.)", rb"\1", quoted, flags=re.DOTALL) or plain
                    self._stack.append(_Multipart(boundary[:_BOUNDARY_LIMIT], subtype == b"digest"))

    def _find_boundary(self, text: bytes) -> None:
        for level in range(len(self._stack) - 1, -1, -1):
            part = self._stack[level]
            if part.boundary and text.startswith(part.boundary):
                ends = text[len(part.boundary) :].startswith(b"--")
                del self._stack[level if ends else level + 1 :]
                self._state = _BODY if ends else _PART
                self._message = part.digest and not ends
                return


def message_keys(lines: Iterable[bytes], *, header: bool, body: bool, mime: bool) -> Iterator[bytes]:
    """The keys of the message that ``lines`` (without their ends) are."""
    parser = _Parser(header, body, mime)
    for line in lines:
        yield from parser.line(line)
        if not (body or mime) and parser.after_primary:
            return
    yield from parser.flush()
