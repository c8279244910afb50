"""Received bytes, taken line by line or as a stream, with bounds.

:meth:`LineBuffer.line` gives lines as Postfix reads them: ended by LF, one CR before it taken off.
Of a line longer than the limit the beginning is given and ``cut`` is set; the rest is skipped.  When
the rest is longer than ``patience`` (without one: than the limit) the buffer turns ``deaf`` and
takes no more.

Postfix counterpart: ``smtp_get`` in ``smtp_stream.c``.
"""

from __future__ import annotations


class LineBuffer:
    """A buffer of received bytes; ``data[at:]`` is what was not taken yet."""

    __slots__ = ("_long", "_patience", "_skip", "at", "bare", "cut", "data", "deaf")

    def __init__(self, patience: int = 0) -> None:
        self._patience = patience
        self.data = b""
        self.at = 0
        self.bare = False  # the last line ended in a lone LF
        self.cut = False  # the last line was too long
        self.deaf = False
        self._long: bytes | None = None  # the beginning of a line that is being skipped
        self._skip = 0

    def __len__(self) -> int:
        return len(self.data) - self.at

    def add(self, data: bytes) -> None:
        """More bytes."""
        if not self.deaf:
            self.data = data if self.at == len(self.data) else self.data[self.at :] + data
            self.at = 0

    def clear(self) -> None:
        """Forget what was received."""
        self.data, self.at, self._long = b"", 0, None

    def line(self, limit: int) -> bytes | None:
        """The next line without its end; None: it has not arrived."""
        if self._long is not None:
            return self._skipped(limit)
        data, at = self.data, self.at
        end = data.find(b"\n", at, at + limit + 1)
        if end > at and data[end - 1] == 13:
            self.at = end + 1
            self.bare = self.cut = False
            return data[at : end - 1]
        if at <= end < at + limit:
            self.at = end + 1
            self.bare, self.cut = True, False
            return data[at:end]
        size = len(data) - at
        # Where the last byte within the limit is a CR, the LF may still come.
        if size < limit or (size == limit and data[-1] == 13):
            return None
        self._long, self._skip, self.at = data[at : at + limit], self._patience or limit, at + limit
        return self._skipped(limit)

    def _skipped(self, limit: int) -> bytes | None:
        end = self.data.find(b"\n", self.at, self.at + self._skip)
        if end >= 0:
            self.at = end + 1
        else:
            skipped = min(len(self), self._skip)
            self.at += skipped
            self._skip -= skipped
            if self._skip:
                return None
            self.deaf = True
        line, self._long = self._long, None
        self.bare, self.cut = False, True
        if self.deaf:
            self.clear()
        return line
