"""Message bodies: out of DATA and BDAT, and into DATA.

What comes out of a decoder is strictly lined with CRLF and holds no other CR or LF: a bare LF
becomes CRLF, a stray CR a blank (what Postfix does with ``cleanup_replace_stray_cr_lf = yes``).  So
nothing that is sent on can end a message early at a server that reads lines more loosely.  With
``keep_cr`` stray CRs stay what they are; still CRLF alone ends a line, here and for all who read on.

*Only* CR LF ``.`` CR LF ends DATA (RFC 5321 section 4.1.1.4), also as the very first line.  Lines
are dot-unstuffed; a line ``.`` next to a bare LF is dropped, as Postfix drops it with
``smtpd_forbid_bare_newline = normalize``.

Nothing here works line by line, and however the input is cut, the output is the same.  A decoder
keeps at most four bytes back, or a run of CRs.  Postfix counterpart: ``receive_data_message`` and
``bdat_cmd`` in ``smtpd.c``, ``smtp_stream.c``, ``cleanup_message.c``.
"""

from __future__ import annotations

import re
from io import IncrementalNewlineDecoder

#: Input is taken in pieces of this size, that of the queue's; no piece of output is larger than twice that.
PIECE = 64 * 1024

_DOT = b"\r\n."
_END = b"\r\n.\r\n"
_DOT_LINE = re.compile(rb"(?<=\n)\.\r?\n")
_LOOSE_DOT_LINE = re.compile(rb"(?<=\n)\.\r*\n")
_RETURNS = re.compile(rb"\r+\n")
#: More CRs than this before an LF are blanks.
_MOST_RETURNS = 1000


def _clean(body: bytes) -> bool:
    """Is each CR followed by LF and each LF preceded by CR?

    The decoder of text files tells which kinds of line ends it saw: one pass, four times as fast as
    counting them.
    """
    ends = IncrementalNewlineDecoder(None, translate=False)
    ends.decode(body.decode("latin-1"), final=True)
    return ends.newlines in ("\r\n", None)


def _dotted(body: bytes) -> bool:
    """Does a line behind the first one begin with a dot?  Encoded content has none; rfind is the fast way."""
    return b"." in body and body.rfind(_DOT) >= 0


def _crlf(body: bytes, loose: bool, keep_cr: bool) -> bytes:
    """A body with CRLF at the end of each line, and blanks for all other CRs, unless they are to stay."""
    lines = _RETURNS.sub(b"\n", body) if loose else body.replace(b"\r\n", b"\n")
    if not keep_cr:
        lines = lines.replace(b"\r", b" ")
    return lines.replace(b"\n", b"\r\n")


def _before_returns(block: bytes, end: int, loose: bool) -> int:
    """The index of the CR before ``end``, where there is one; if ``loose``, of the first of several."""
    most = min(end, _MOST_RETURNS if loose else 1)
    return end - most + len(block[end - most : end].rstrip(b"\r"))


class DataDecoder:
    """The body of DATA, behind the 354.

    ``size`` counts the bytes that came out; ``bare_newline``: a lone LF was seen; ``ended``: the end
    of data was seen.  ``loose``: any number of CRs before an LF counts as one.  ``keep_cr``: see the module.
    """

    __slots__ = (
        "_dropped", "_given", "_held", "_keep_cr", "_loose", "_open_line", "bare_newline", "ended", "size",
    )  # fmt: skip

    def __init__(self, loose: bool = False, keep_cr: bool = False) -> None:
        self._loose = loose
        self._keep_cr = keep_cr
        self._held = b"\r\n"  # as if a line had just ended
        self._given = True  # the line end that ``_held`` begins with is not to come out (again)
        self._dropped = False
        self._open_line = 0  # bytes that came out since the last line end
        self.size = 0
        self.bare_newline = False
        self.ended = False

    def feed(self, data: bytes, at: int) -> tuple[bytes, int]:
        """Decode a piece of ``data`` from ``at``; gives content and the index of the first byte not used.

        Once ``ended``, the rest of ``data`` is no part of the body.
        """
        piece = data[at : at + PIECE]
        held = self._held
        block = held + piece
        dot = block.find(_DOT) if _dotted(block) else -1
        end = block.find(_END, dot) if dot >= 0 else -1
        if end >= 0:
            self.ended = True
            at += end + len(_END) - len(held)
            body = block[: end + 2]
        else:
            at += len(piece)
            body = self._hold(block)
        if not _clean(body):
            body = self._repair(body)
        elif dot != end:
            body = body.replace(_DOT, b"\r\n")
        if self._given and body:
            body = body[2:]
            self._given = False
        if self._dropped:
            self._given, self._dropped = True, False
        self.size += len(body)
        newline = body.rfind(b"\n")
        self._open_line = self._open_line + len(body) if newline < 0 else len(body) - newline - 1
        return body, at

    @property
    def whole_lines(self) -> int:
        """How many bytes were in lines that have ended (their ends count two)."""
        if self._given or b"\n" not in self._held:
            return self.size - self._open_line
        return self.size + 2

    def _hold(self, block: bytes) -> bytes:
        """Keep back what could begin an end of data or a line of one dot; gives the rest."""
        end = _before_returns(block, len(block), self._loose)
        if block.endswith(b"\n"):
            newline = end - 1
        elif block.endswith(b"\n.", 0, end):
            newline = end - 2
        else:
            self._held = block[end:]
            return block[:end]
        cut = _before_returns(block, newline, self._loose)
        if block.endswith(b"\n.", 0, cut):
            # Drop this line, but remember how it ended.
            self.bare_newline = self._dropped = True
            self._held = block[cut:]
            return block[: cut - 1]
        self._held = block[cut:]
        return block[:cut]

    def _repair(self, body: bytes) -> bytes:
        """Unstuff a body that holds a lone CR or LF, and make its lines what they are to be."""
        if body.count(b"\n") != body.count(b"\r\n"):
            self.bare_newline = True
        dot_line = _LOOSE_DOT_LINE if self._loose else _DOT_LINE
        return _crlf(dot_line.sub(b"", body), self._loose, self._keep_cr).replace(_DOT, b"\r\n")


class ChunkDecoder:
    """The chunks of BDAT, over all chunks of a message (RFC 3030).

    ``size``, ``bare_newline``, ``loose`` and ``keep_cr`` as with :class:`DataDecoder`.
    """

    __slots__ = ("_held", "_keep_cr", "_loose", "_open_line", "bare_newline", "size")

    def __init__(self, loose: bool = False, keep_cr: bool = False) -> None:
        self._loose = loose
        self._keep_cr = keep_cr
        self._held = b""
        self._open_line = False
        self.size = 0
        self.bare_newline = False

    def feed(self, piece: bytes) -> bytes:
        """Decode a piece of a chunk (at most ``PIECE`` bytes)."""
        block = self._held + piece if self._held else piece
        if block.endswith(b"\r"):
            cut = _before_returns(block, len(block), self._loose)
            self._held = block[cut:]
            return self._repair(block[:cut])
        self._held = b""
        return self._repair(block)

    def finish(self) -> bytes:
        """After the last chunk: what was kept back, and the line end that was left out."""
        rest = self._repair(self._held)
        self._held = b""
        if self._open_line:
            self._open_line = False
            self.size += 2
            rest += b"\r\n"
        return rest

    def _repair(self, body: bytes) -> bytes:
        if not _clean(body):
            if body.count(b"\n") != body.count(b"\r\n"):
                self.bare_newline = True
            body = _crlf(body, self._loose, self._keep_cr)
        if body:
            self._open_line = not body.endswith(b"\n")
            self.size += len(body)
        return body


class BinaryDecoder(ChunkDecoder):
    """The chunks of a message that was declared BINARYMIME: all bytes as they are (RFC 3030 section 3)."""

    __slots__ = ()

    def feed(self, piece: bytes) -> bytes:
        self.size += len(piece)
        return piece

    def finish(self) -> bytes:
        return b""


class Stuffer:
    """Dot-stuffing on the way out (RFC 5321 section 4.5.2), and folding of long lines.

    A line of more than ``line_limit`` bytes is broken with CRLF and a blank, as Postfix does; then
    ``folded`` turns true.  A bare CR or LF in the content is made harmless by the same rules as on
    the way in; with ``keep_cr`` a stray CR goes out as it is.
    """

    __slots__ = ("_column", "_decoder", "_limit", "_long_line", "folded")

    def __init__(self, line_limit: int = 0, keep_cr: bool = False) -> None:
        """``line_limit`` 0: lines are never broken."""
        self._decoder = ChunkDecoder(keep_cr=keep_cr)
        self._limit = line_limit
        self._column = 0  # bytes on the line that the last piece left open
        long = rb"(?<=\n)[^\n]{%d,}(?=\r\n|\Z)" % (line_limit + 1)
        self._long_line = re.compile(long) if line_limit else None
        self.folded = False

    def feed(self, chunk: bytes) -> bytes:
        """The next piece of content (at most ``PIECE`` bytes), stuffed."""
        return self._stuff(self._decoder.feed(chunk))

    def finish(self) -> bytes:
        """The end: a missing line end, and the terminator, once."""
        return self._stuff(self._decoder.finish()) + b".\r\n"

    def _stuff(self, body: bytes) -> bytes:
        if not body:
            return b""
        start = b"." if not self._column and body.startswith(b".") else b""
        if self._too_long(body):
            body = self._fold(body)
        newline = body.rfind(b"\n")
        self._column = len(body) - newline - 1 if newline >= 0 else self._column + len(body)
        if _dotted(body):
            body = body.replace(_DOT, b"\r\n..")
        return start + body if start else body

    def _too_long(self, body: bytes) -> bool:
        """Is there a line of more than the limit?  Looks at one line end in ``limit`` bytes."""
        if not self._limit:
            return False
        at, room, size = 0, self._limit + 2 - self._column, len(body)
        while at + room < size:
            newline = body.rfind(b"\n", at, at + room)
            if newline < 0:
                return True
            at, room = newline + 1, self._limit + 2
        newline = body.rfind(b"\n", at)
        return size - newline - 1 > self._limit if newline >= 0 else size - at > room - 2

    def _fold(self, body: bytes) -> bytes:
        self.folded = True
        assert self._long_line is not None
        end = body.find(b"\r\n")
        first = body if end < 0 else body[:end]
        rest = body[len(first) :]
        return self._broken(first, self._limit - self._column) + self._long_line.sub(
            lambda line: self._broken(line.group(), self._limit), rest
        )

    def _broken(self, line: bytes, room: int) -> bytes:
        """A line, of which ``room`` bytes fit on what is there already."""
        width = self._limit - 1
        pieces = [line[at : at + width] for at in range(room, len(line), width)]
        return b"\r\n ".join([line[:room], *pieces])
