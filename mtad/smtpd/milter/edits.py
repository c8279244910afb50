"""What milters may change of a message, and how.

A :class:`Draft` is a message that is complete and not yet in the queue: its header section, its body, and
the changes of its envelope that were asked for (:attr:`Draft.envelope`, carried out by the session, since
addresses are rewritten and expanded there).  Milters see and change the header section without our own
Received header, which is *hidden*, except that insertions count it.

Headers are given to milters with ``\\n`` between their lines, and come back like that.

Postfix counterpart: the editing functions of ``cleanup_milter.c``, ``cleanup_out_header()``.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from mtad.smtpd.milter.wire import PIECE

#: Content beyond this size lies in a file.
SMALL = 65536

#: What headers may be added where messages may be of any size.
_UNLIMITED = 10_000_000

_END = b"\r\n\r\n"
_FIELD = re.compile(rb"(?P<name>[!-9;-~]+)[ \t]*:(?P<value>.*)\Z", re.DOTALL)
_LINE_END = re.compile(rb"\r?\n")

#: Changes of the envelope, as (what, address, ESMTP arguments).
SENDER, ADD, DELETE = "sender", "add", "delete"


class TooBig(Exception):
    """A message grew beyond message_size_limit."""


@dataclass(slots=True)
class Header:
    """One header: ``text`` with ``\\n`` between its lines and none at its end."""

    text: bytes
    hidden: bool = False

    @property
    def name(self) -> bytes:
        """What stands before the colon; empty where there is none."""
        found = _FIELD.match(self.text)
        return found["name"] if found else b""

    @property
    def value(self) -> bytes:
        """What stands behind the colon, leading blank and all."""
        found = _FIELD.match(self.text)
        return found["value"] if found else self.text


class Draft:
    """See the module.  ``content`` is the message, or None where it is in ``spool``.

    What is added may be as large as a message may be (``size_limit``); beyond that :class:`TooBig` is raised.
    ``check`` has its say about each new header (``milter_header_checks``): what is to stand in its place.
    """

    def __init__(
        self,
        content: bytes | None,
        spool: BinaryIO | None,
        open_spool: Callable[[], BinaryIO],
        *,
        size_limit: int,
        header_limit: int,
        check: Callable[[bytes], Awaitable[list[bytes]]] | None = None,
    ) -> None:
        self._content = content
        self._spool = spool
        self._open_spool = open_spool
        self._size_limit = size_limit
        self._header_limit = header_limit
        self._check = check
        self._added = 0  # bytes of new headers
        self.changed = False
        self.envelope: list[tuple[str, bytes, bytes]] = []
        self.headers: list[Header] = []
        self._body_at = self._read_headers()
        self._new_body: list[bytes] | None = None  # what replaces the body, while it is small
        self._new_spool: BinaryIO | None = None
        self._new_size = 0
        self._held = b""  # a CR at the end of a piece, which may belong to a line end

    # -- what is there

    def _read_headers(self) -> int:
        """Take the header section apart; where the body begins."""
        if self._content is not None:
            head = self._content
            end = head.find(_END)
        else:
            assert self._spool is not None
            self._spool.seek(0)
            head, end = b"", -1
            while end < 0:
                more = self._spool.read(SMALL)
                if not more:
                    break
                searched = max(0, len(head) - 3)
                head += more
                end = head.find(_END, searched)
        at = len(head) if end < 0 else end + len(_END)
        section = head if end < 0 else head[:end]
        for text in re.split(rb"\r\n(?![ \t])", section):
            if text:
                self.headers.append(Header(text.replace(b"\r\n", b"\n")))
        for header in self.headers:  # ours is the topmost
            if header.name.lower() == b"received":
                header.hidden = True
                break
        return at

    def body(self) -> Iterator[bytes]:
        """The body as it is now, in pieces of at most 65,535 bytes."""
        if self._new_body is not None:
            if self._new_spool is None:
                yield from _pieces(b"".join(self._new_body))
            else:
                yield from _read(self._new_spool, 0)
        elif self._content is not None:
            yield from _pieces(self._content, self._body_at)
        else:
            assert self._spool is not None
            yield from _read(self._spool, self._body_at)

    def finish(self) -> tuple[bytes | None, BinaryIO | None, int]:
        """The message with its changes: content or spool, and its size."""
        head = b"".join(header.text.replace(b"\n", b"\r\n") + b"\r\n" for header in self.headers) + b"\r\n"
        size = len(head)
        parts = [head]
        out: BinaryIO | None = None
        for piece in self.body():
            size += len(piece)
            parts.append(piece)
            if size > SMALL:
                out = out or self._open_spool()
                out.writelines(parts)
                parts.clear()
        if out is None:
            return b"".join(parts), None, size
        out.writelines(parts)
        return None, out, size

    def close(self) -> None:
        """Drop a replaced body."""
        if self._new_spool is not None:
            self._new_spool.close()
            self._new_spool = None

    # -- headers

    async def add_header(self, text: bytes) -> None:
        """Put a header behind the last."""
        self._put_headers(len(self.headers), await self._made(text))

    async def insert_header(self, index: int, text: bytes) -> None:
        """Put a header before the one with ``index`` (1: the topmost, ours), or behind the last."""
        self._put_headers(max(index, 1) - 1, await self._made(text))

    async def change_header(self, index: int, name: bytes, text: bytes) -> None:
        """Put ``text`` in place of the header ``name`` with ``index`` (1: the first), or behind the last."""
        found = self._find(index, name)
        if found is None:
            await self.add_header(text)
        elif made := await self._made(text):
            del self.headers[found]
            self._put_headers(found, made)

    def _put_headers(self, position: int, made: list[Header]) -> None:
        if made:
            self.changed = True
            self.headers[position:position] = made

    async def _made(self, text: bytes) -> list[Header]:
        text = self._tidy(text)
        self._added += len(text)
        if self._added > (self._size_limit or _UNLIMITED):
            raise TooBig
        return [Header(one) for one in ([text] if self._check is None else await self._check(text))]

    def delete_header(self, index: int, name: bytes) -> None:
        """Remove the header ``name`` with ``index``, if there is one."""
        found = self._find(index, name)
        if found is not None:
            self.changed = True
            del self.headers[found]

    def _find(self, index: int, name: bytes) -> int | None:
        name = name.lower()
        for position, header in enumerate(self.headers):
            if not header.hidden and header.name.lower() == name:
                index -= 1
                if index == 0:
                    return position
        return None

    def _tidy(self, text: bytes) -> bytes:
        """A header as it may stand in a message: no line looks like another header, and it ends."""
        first, *rest = text.replace(b"\r\n", b"\n").replace(b"\0", b"").replace(b"\r", b" ").split(b"\n")
        out = first[: self._header_limit]
        for line in rest:
            line = line if line[:1] in (b" ", b"\t") else b"\t" + line
            if len(out) + 1 + len(line) > self._header_limit:
                break
            if line.strip():
                out += b"\n" + line
        return out

    # -- body

    def begin_body(self) -> None:
        """A new body comes."""
        self.close()
        self.changed = True
        self._new_body, self._new_size, self._held = [], 0, b""

    def add_body(self, data: bytes) -> None:
        """A piece of the new body.  Raises TooBig."""
        data = self._held + data
        self._held = b"\r" if data.endswith(b"\r") else b""
        if self._held:
            data = data[:-1]
        self._put(_LINE_END.sub(b"\r\n", data))

    def end_body(self) -> None:
        """The new body is complete.  Raises TooBig."""
        assert self._new_body is not None
        if self._held:
            self._put(self._held)
            self._held = b""
        if self._new_size and not self._last.endswith(b"\n"):
            self._put(b"\r\n")

    @property
    def _last(self) -> bytes:
        if self._new_body:
            return self._new_body[-1]
        assert self._new_spool is not None
        self._new_spool.seek(-1, 2)
        return self._new_spool.read(1)

    def _put(self, data: bytes) -> None:
        if not data:
            return
        assert self._new_body is not None
        self._new_size += len(data)
        if self._size_limit and self._new_size > self._size_limit:
            raise TooBig
        self._new_body.append(data)
        if self._new_size > SMALL:
            if self._new_spool is None:
                self._new_spool = self._open_spool()
            self._new_spool.seek(0, 2)
            self._new_spool.writelines(self._new_body)
            self._new_body.clear()


def _pieces(data: bytes, start: int = 0) -> Iterator[bytes]:
    for at in range(start, len(data), PIECE):
        yield data[at : at + PIECE]


def _read(file: BinaryIO, start: int) -> Iterator[bytes]:
    while True:
        file.seek(start)  # others may read the same file in between
        data = file.read(PIECE)
        if not data:
            return
        start += len(data)
        yield data
