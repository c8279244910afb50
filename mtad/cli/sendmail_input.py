"""What sendmail reads from standard input, as records for the maildrop.

Lines may end in LF or CRLF (``sendmail_fix_line_endings``); a lone dot ends the message unless ``-i`` was
given; leading ``From `` lines are dropped; with ``-t`` the recipients are taken from the header section,
those of ``Resent-`` headers alone where there are any.  Raises Fatal for a header that is longer than
``header_size_limit``, which may have recipients that can't be found.

Postfix counterpart: ``enqueue()`` and ``output_header()`` in ``sendmail.c``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from mtad.cli.voice import Fatal
from mtad.config.parameters import Parameters
from mtad.queue.postfix import records as rec
from mtad.queue.postfix.records import pack
from mtad.wire import tokens

_HEADER = re.compile(rb"([!-9;-~]+)[ \t]*:")
_RECIPIENTS = frozenset((b"to", b"cc", b"bcc"))
_RESENT = frozenset((b"resent-to", b"resent-cc", b"resent-bcc"))
#: Records are handed on when they are about this many bytes.
_BATCH = 65536


class Input:
    """See the module.  ``recipients`` are complete once :meth:`records` has come to its end."""

    def __init__(self, p: Parameters, *, dot_ends: bool, extract: bool) -> None:
        self._line_limit = p.number("line_length_limit")
        self._header_limit = p.number("header_size_limit")
        strip = p["sendmail_fix_line_endings"]
        self._strip: bool | None = {"always": True, "never": False}.get(strip)
        self._dot_ends = dot_ends
        self._header: bytearray | None = bytearray() if extract else None
        self._found: list[bytes] = []
        self._resent: list[bytes] | None = None

    @property
    def recipients(self) -> list[bytes]:
        return self._found if self._resent is None else self._resent

    def records(self, source: BinaryIO) -> Iterator[bytes]:
        """The content's records, many at a time."""
        parts: list[bytes] = []
        size = 0
        ended = True  # the last record was the end of a line
        skip_from = True
        while line := source.readline(self._line_limit):
            kind = rec.LINE if line.endswith(b"\n") else rec.UNENDED
            if kind == rec.LINE:
                line = self._stripped(line[:-1])
                if skip_from and line.lstrip(b">").startswith(b"From "):
                    continue
            skip_from = False
            if self._dot_ends and ended and line == b".":
                break
            if self._header is not None and self._look(line, ended):
                parts.append(pack(rec.LINE, b""))
            ended = kind == rec.LINE
            parts.append(pack(kind, line))
            size += len(line) + 3
            if size > _BATCH:
                yield b"".join(parts)
                parts.clear()
                size = 0
        self._end_header()
        yield b"".join(parts)

    def _stripped(self, line: bytes) -> bytes:
        if self._strip is None:  # the first line tells
            self._strip = line.endswith(b"\r")
        return line.rstrip(b"\r") if self._strip else line

    def _look(self, line: bytes, begins: bool) -> bool:
        """A piece of the header section, or what ends it; True: an empty line is missing before this one."""
        header = self._header
        if header is None:
            return False
        follows = line[:1] in (b" ", b"\t") and bool(header)
        if not begins or follows:
            if len(header) >= self._header_limit:
                raise Fatal("unable to extract recipients: message header length exceeds safety limit")
            header += b"\n" + line if begins else line
            return False
        self._end_header()
        self._header = bytearray(line) if _HEADER.match(line) else None
        return self._header is None and bool(line)

    def _end_header(self) -> None:
        """A header is complete: take its addresses."""
        header = self._header
        if not header:
            return
        match = _HEADER.match(header)
        name = match.group(1).lower() if match else b""
        if match is None or name not in _RECIPIENTS | _RESENT:
            return
        if name in _RESENT and self._resent is None:
            self._resent = []
        target = self._found if name in _RECIPIENTS or self._resent is None else self._resent
        parsed = tokens.parse(bytes(header[match.end() :]))
        target += [tokens.internal(address) for address in tokens.addresses(parsed)]
