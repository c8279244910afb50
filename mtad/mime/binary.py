"""Binary content made fit for lines: what was declared BINARYMIME becomes content of CRLF lines.

:class:`BinaryConverter` is fed a message as its BDAT chunks brought it, in pieces of any size, and gives the
same message with each part of ``Content-Transfer-Encoding: binary`` in base64; parts of other encodings have
their line ends put right, as content that comes as text has.  Multiparts and attached messages, which may not
be in base64, are followed, to a depth of :data:`DEPTH`.  However the input is cut, the sum of the output is
the same.  Kept back are a header section of at most :data:`HEADERS` bytes (a longer one is text) and
the length of a boundary.  Nothing is raised.

RFC 3030 section 3 (a server may convert what it cannot pass on), RFC 2045 section 6, RFC 2046 section 5.1.
Postfix counterpart: none; it has no BINARYMIME.
"""

from __future__ import annotations

import base64
import re

from mtad.mime.parameters import fields
from mtad.wire.body import PIECE, ChunkDecoder

DEPTH = 50
HEADERS = 102400

_LINE = 57  # bytes in a line of base64
_WRAP = re.compile(rb".{76}(?=.)")
_HELD = 256  # more than a delimiter takes
_ENCODING = re.compile(rb"(?im)^content-transfer-encoding[ \t]*:((?:[^\r\n]|\r?\n[ \t])*)")
_TYPE = re.compile(rb"(?im)^content-type[ \t]*:((?:[^\r\n]|\r?\n[ \t])*)")
_BLANK = re.compile(rb"(?:^|\n)\r?\n")


class BinaryConverter:
    """See the module: ``feed`` the pieces, then ``finish``."""

    __slots__ = (
        "_base64",
        "_boundaries",
        "_buffer",
        "_delimiter",
        "_fresh",
        "_in_headers",
        "_keep_cr",
        "_lines",
        "_rest",
        "_searched",
        "_text",
    )

    def __init__(self, keep_cr: bool = False) -> None:
        """``keep_cr``: a stray CR in text is not replaced."""
        self._keep_cr = keep_cr
        self._buffer = b""
        self._in_headers = True
        self._searched = 0  # how much of the buffer holds no end of headers
        self._fresh = False  # the CRLF that the buffer begins with has been given already
        self._boundaries: list[bytes] = []
        self._delimiter: re.Pattern[bytes] | None = None
        self._base64 = False  # the part in hand is binary
        self._rest = b""  # of it, less than a line
        self._lines = False  # a line of it was given
        self._text = ChunkDecoder(keep_cr=keep_cr)

    def feed(self, data: bytes) -> bytes:
        """More of the message."""
        self._buffer += data
        out: list[bytes] = []
        while self._step(out, False):
            pass
        return b"".join(out)

    def finish(self) -> bytes:
        """The end of it."""
        out: list[bytes] = []
        while self._step(out, True):
            pass
        if self._in_headers:  # without a blank line
            out.append(self._as_text(self._buffer))
            self._text.finish()
        else:
            self._give(out, self._buffer[2:] if self._fresh else self._buffer)
            out.append(self._close_part()[0])
        self._buffer = b""
        return b"".join(out)

    # -- one header section, or what is there of a body

    def _step(self, out: list[bytes], last: bool) -> bool:
        """True: there may be more to do."""
        return self._headers(out) if self._in_headers else self._body(out, last)

    def _headers(self, out: list[bytes]) -> bool:
        found = _BLANK.search(self._buffer, max(0, self._searched - 3))
        self._searched = 0 if found else len(self._buffer)
        if found is None:
            if len(self._buffer) <= HEADERS:
                return False
            self._begin_body(self._buffer)
            return True
        headers, rest = self._buffer[: found.end()], self._buffer[found.end() :]
        out.append(self._entity(headers))
        if self._in_headers:  # those of an attached message come next
            self._buffer = rest
        else:
            self._begin_body(b"\r\n" + rest, True)
        return True

    def _begin_body(self, buffer: bytes, fresh: bool = False) -> None:
        self._in_headers, self._buffer, self._fresh, self._searched = False, buffer, fresh, 0
        self._text, self._rest, self._lines = ChunkDecoder(keep_cr=self._keep_cr), b"", False

    def _entity(self, headers: bytes) -> bytes:
        """Headers as they go on; sets what the body behind them is."""
        said = _ENCODING.search(headers)
        binary = said is not None and said[1].strip().lower() == b"binary"
        kind, subtype, boundary = _content_type(headers)
        nested = len(self._boundaries) < DEPTH
        structured = nested and (
            (kind == b"multipart" and bool(boundary)) or (kind, subtype) == (b"message", b"rfc822")
        )
        self._base64 = binary and not structured
        self._in_headers = structured and kind == b"message"
        if structured and kind == b"multipart":
            self._boundaries.append(boundary)
            self._compile()
        if binary and said is not None:
            encoding = b" 8bit" if structured else b" base64"
            headers = headers[: said.start(1)] + encoding + headers[said.end(1) :]
        return self._as_text(headers)

    def _as_text(self, data: bytes) -> bytes:
        lines = ChunkDecoder(keep_cr=self._keep_cr)
        return (
            b"".join(lines.feed(data[at : at + PIECE]) for at in range(0, len(data), PIECE)) + lines.finish()
        )

    def _compile(self) -> None:
        names = b"|".join(re.escape(name) for name in sorted(self._boundaries, key=len, reverse=True))
        self._delimiter = re.compile(rb"\r\n--(%b)(--)?[ \t]*(?=\r\n|\Z)" % names) if names else None

    def _body(self, out: list[bytes], last: bool) -> bool:
        buffer, delimiter = self._buffer, self._delimiter
        found = delimiter.search(buffer) if delimiter is not None else None
        if found is not None and found.end() == len(buffer) and not last:
            found = None  # the line may go on
        if found is None:
            keep = 0 if delimiter is None else _HELD
            if not last and len(buffer) > keep + 2:
                start = 2 if self._fresh else 0
                self._give(out, buffer[start : len(buffer) - keep])
                self._buffer, self._fresh = buffer[len(buffer) - keep :], False
            return False
        if found.start() or not self._fresh:
            self._give(out, buffer[2 if self._fresh else 0 : found.start()])
            end, open_line = self._close_part()
            out.append(end if open_line else end + b"\r\n")
        out.append(found[0][2:])
        self._part(found)
        if self._in_headers:
            out.append(b"\r\n")
        return True

    def _part(self, found: re.Match[bytes]) -> None:
        """A delimiter: the next part begins, or all parts of a multipart were there."""
        boundary, closing = found[1], found[2]
        while self._boundaries[-1] != boundary:
            self._boundaries.pop()
        if closing:
            self._boundaries.pop()
        self._compile()
        self._base64 = False
        if closing:
            self._begin_body(found.string[found.end() :])
        else:
            self._in_headers = True
            self._buffer = found.string[found.end() + 2 :]

    # -- content

    def _give(self, out: list[bytes], data: bytes) -> None:
        if not self._base64:
            out += [self._text.feed(data[at : at + PIECE]) for at in range(0, len(data), PIECE)]
            return
        data = self._rest + data
        whole = len(data) - len(data) % _LINE
        self._rest = data[whole:]
        if whole:
            out.append(self._encoded(data[:whole]))

    def _encoded(self, data: bytes) -> bytes:
        start = b"\r\n" if self._lines else b""
        self._lines = True
        return start + _WRAP.sub(rb"\g<0>\r\n", base64.b64encode(data))

    def _close_part(self) -> tuple[bytes, bool]:
        """The end of the part in hand, and whether it gave it a line end that it had not."""
        if self._base64:
            end = self._encoded(self._rest) if self._rest else b""
            self._rest = b""
            return end + b"\r\n", True
        end = self._text.finish()
        return end, end.endswith(b"\r\n")


def _content_type(headers: bytes) -> tuple[bytes, bytes, bytes]:
    """Type and subtype in lower case, and the boundary of a multipart."""
    found = _TYPE.search(headers)
    if found is None:
        return b"text", b"plain", b""
    parts = list(fields(found[1]))
    words = [text.lower() for _, text in parts[0]] if parts else []
    kind = words[0] if words else b""
    subtype = words[2] if len(words) > 2 and words[1] == b"/" else b""
    for part in parts[1:]:
        if len(part) > 2 and part[0][1].lower() == b"boundary" and part[1][0] == "=":
            return kind, subtype, part[2][1][:70]
    return kind, subtype, b""
