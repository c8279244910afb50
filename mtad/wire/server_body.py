"""The bodies of messages within a session: DATA and BDAT.

:class:`Body` is the part of :class:`~mtad.wire.server.ServerSession` that reads content, and holds what both
parts of a session know: input and output, the transaction, and which method reads what comes next.

RFC 5321 section 4.1.1.4, RFC 3030.  Postfix counterpart: ``data_cmd`` and ``bdat_cmd`` in ``smtpd.c``.
"""

from __future__ import annotations

from collections.abc import Callable

from mtad.wire import events as ev
from mtad.wire.body import PIECE, BinaryDecoder, ChunkDecoder, DataDecoder
from mtad.wire.linebuffer import LineBuffer
from mtad.wire.reply import Reply
from mtad.wire.settings import ServerSettings
from mtad.wire.transaction import Chunking, Transaction


def _nothing() -> None:
    """Read no more."""


class Body:
    """What a session knows, and how it reads content."""

    def __init__(self, settings: ServerSettings, client: str) -> None:
        self.settings = settings
        self.client = client
        self.closed = False  # nothing more will be heard: hang up when all is sent
        self.saw_bare_newline = False  # smtpd_forbid_bare_newline = note, for "notes=bare_lf"
        self.where = b"CONNECT"  # what the client last said, for "lost connection after ..."
        self.notes: list[str] = []  # lines for the log; the shell takes and clears them
        self._transaction = Transaction(settings)
        self._input = LineBuffer()
        self._out: list[bytes] = []
        self._waiting = True  # for the shell: first of all for the greeting
        self._handshaking = False
        self._read: Callable[[], ev.Event | None] = self._command
        self._answer: Callable[[Reply], None] | None = None
        self._body = DataDecoder()
        self._chunks: ChunkDecoder | None = None
        self._chunk_left = self._chunk_size = 0
        self._chunk_last = False
        self._after_chunk = b""  # the reply to a refused BDAT, due behind its chunk

    @property
    def _loose(self) -> bool:
        """Does any number of CRs before an LF count as one?"""
        return self.settings.bare_newline == "no"

    def _line(self, limit: int) -> bytes | None:
        """The next line, where it has arrived."""
        line = self._input.line(limit)
        if line is not None and line.endswith(b"\r") and self._loose and not self._input.cut:
            return line.rstrip(b"\r")
        return line

    def _command(self) -> ev.Event | None:
        """Read a command line."""
        raise RuntimeError("a session reads its commands itself")

    def begin_chunk(self) -> None:
        """Accept the chunk that the last ``Bdat`` event announced; its bytes come next."""
        if not self._waiting or self._answer != self._bdat_refused:
            raise RuntimeError("no BDAT awaits an answer")
        self._waiting, self._answer = False, None
        self.where = b"BDAT content"
        self._transaction.chunking = Chunking.OPEN
        if self._chunks is None:
            kind = BinaryDecoder if self._transaction.binary else ChunkDecoder
            self._chunks = kind(self._loose, self.settings.keep_cr)
        self._read = self._chunk

    @property
    def body_size(self) -> int:
        """How many bytes of the current message were received; of DATA only whole lines count."""
        return self._chunks.size if self._chunks is not None else self._body.whole_lines

    def _transaction_over(self, reply: Reply) -> None:
        self._reset()

    def _reset(self) -> None:
        self._transaction.reset()
        self._chunks = None

    # The body: DATA.

    def _data(self, line: bytes, rest: bytes) -> ev.Event:
        event = self._transaction.data(line, rest)
        if not isinstance(event, ev.Refused):
            self._answer = self._data_answered
        return event

    def _data_answered(self, reply: Reply) -> None:
        if reply.code == 354:
            self.where = b"DATA content"
            self._body = DataDecoder(self._loose, self.settings.keep_cr)
            self._read = self._body_data

    def _body_data(self) -> ev.Event | None:
        received, body = self._input, self._body
        while len(received):
            content, received.at = body.feed(received.data, received.at)
            if body.ended:
                self._read = self._body_end
            if content:
                return ev.BodyChunk(content)
            if body.ended:
                return self._body_end()
        return None

    def _body_end(self) -> ev.Event:
        self._waiting, self._read, self._answer = True, self._command, self._transaction_over
        self.where = b"END-OF-MESSAGE"
        body = self._body
        self._note_bare_newline(body.bare_newline)
        return ev.BodyEnd(body.size, bare_newline=body.bare_newline)

    def _note_bare_newline(self, seen: bool) -> None:
        if seen and self.settings.bare_newline == "note":
            self.saw_bare_newline = True

    # The body: BDAT.

    def _bdat(self, line: bytes, rest: bytes) -> ev.Event:
        event, size, last = self._transaction.bdat(line, rest, self.client)
        if size >= 0:
            self._chunk_size = self._chunk_left = size
            self._chunk_last = last
            self._answer = self._bdat_refused
        return event

    def _bdat_refused(self, reply: Reply) -> None:
        """The chunk's bytes come in any case; the reply is due behind them (RFC 3030 section 2)."""
        if not self._transaction.may_skip(self._chunk_size):
            text = f"too much BDAT content -- disabling further input from {self.client}"
            self.notes.append(f"warning: NOQUEUE: {text}")
            self._close()
            return
        self._transaction.received += self._chunk_size
        self._after_chunk = self._out.pop()
        self._read = self._swallow

    def _swallow(self) -> ev.Event | None:
        received = self._input
        skipped = min(self._chunk_left, len(received))
        received.at += skipped
        self._chunk_left -= skipped
        if self._chunk_left:
            return None
        self._out.append(self._after_chunk)
        if self._chunk_last:
            self._reset()
        else:
            self._transaction.chunking = Chunking.FAILED
        self._read = self._command
        return self._command()

    def _chunk(self) -> ev.Event | None:
        received, chunks = self._input, self._chunks
        assert chunks is not None
        while self._chunk_left and len(received):
            at = received.at
            piece = received.data[at : at + min(self._chunk_left, PIECE)]
            received.at += len(piece)
            self._chunk_left -= len(piece)
            if content := chunks.feed(piece):
                return ev.BodyChunk(content)
        if self._chunk_left:
            return None
        if self._chunk_last and (content := chunks.finish()):
            return ev.BodyChunk(content)
        self._waiting, self._read = True, self._command
        self._transaction.received = chunks.size
        self._note_bare_newline(chunks.bare_newline)
        if self._chunk_last:
            self.where = b"END-OF-MESSAGE"
            self._answer = self._transaction_over
            return ev.BodyEnd(chunks.size, True, chunks.bare_newline)
        self._answer = self._chunk_answered
        return ev.BdatEnd(self._chunk_size, chunks.bare_newline)

    def _chunk_answered(self, reply: Reply) -> None:
        if not reply.positive:
            self._reset()
            self._transaction.chunking = Chunking.FAILED

    # The end.

    def _hang_up(self, reply: Reply) -> None:
        self._close()

    def _close(self) -> None:
        self.closed = self._waiting = True
        self._input.clear()
        self._read = _nothing  # no reference to ourselves: what is over goes at once
