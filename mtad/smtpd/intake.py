"""Intake: what is done to a message's content between DATA and the queue.

Puts our own headers on top, has headers cleaned and bodies checked (:mod:`mtad.smtpd.headers`,
:mod:`mtad.mime`), guards the size, and keeps the content: in memory while it is small, in an unlinked spool
file beyond that.  Where no rule looks at bodies, no Python code looks at their lines.

Postfix counterpart: ``cleanup_message.c``, ``cleanup_out.c``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import Any, BinaryIO

from mtad.errors import MtadError
from mtad.mime.checks import BODY
from mtad.mime.events import FAULTS, Body, Fault, Header, HeadersEnd, Report, worst
from mtad.mime.state import MimeState
from mtad.queue.spool import queue_error
from mtad.rewrite.mapping import AGAIN
from mtad.smtpd.headers import Birth, HeaderCleaner
from mtad.smtpd.rules import STRAY_CR, CleanupRules
from mtad.smtpd.state import Error, MessageState
from mtad.wire.reply import Reply

#: Content up to this size stays in memory.
SMALL = 65536

_MBOX = re.compile(rb">*From ")


class Intake:
    """One message.  ``feed`` its chunks, then ``finish``; or ``discard`` it.

    ``refusal`` is set as soon as the message cannot be taken; the rest is read and dropped.  ``failure``:
    the spool has failed.
    """

    __slots__ = (
        "_begun", "_checking", "_cleaner", "_first", "_flat", "_gone", "_headers_over", "_mbox", "_mime",
        "_offset", "_open_line", "_open_spool", "_parts", "_plain", "_rules", "_size_limit", "failure",
        "kept", "size", "spool", "state", "taken", "too_big",
    )  # fmt: skip

    def __init__(
        self,
        rules: CleanupRules,
        state: MessageState,
        birth: Birth,
        *,
        size_limit: int,
        spool: Callable[[], BinaryIO],
        mbox: bool = False,
    ) -> None:
        """``size_limit``: for what the client sends, 0: none.  ``mbox``: mbox's envelope may be on top."""
        self._rules = rules
        self.state = state
        self._size_limit = size_limit
        self._open_spool = spool
        self._cleaner = HeaderCleaner(rules, state, birth)
        self._checking = state.filtering and rules.checks.body
        self._mime = MimeState(rules.filtered if state.filtering else rules.unfiltered)
        self._plain = not (state.filtering and (rules.rejected is not None or rules.strips))
        self._flat = False  # what comes is kept as it is
        self._headers_over = False
        self._begun = False
        self._mbox = mbox
        self._first = b""  # the beginning of the content, while it is not known what it is
        self._open_line = b""  # where characters are looked for: the line that the last chunk left open
        self._offset = 0  # of the body that is checked
        self._parts: list[bytes] = []
        self.failure: Reply | None = None
        self._gone = False
        self.taken = 0  # bytes from the client
        self.too_big = False
        self.kept = b""  # of what was refused: its beginning
        self.size = 0
        self.spool: BinaryIO | None = None

    @property
    def refusal(self) -> Reply | None:
        """What the client is to be told, if the message can't be taken."""
        return self.failure or self.state.refusal

    async def begin(self, top: bytes, received: bytes) -> None:
        """What we put on top: ``top``, then our own header ``received``."""
        rules, state = self._rules, self.state
        seen = state.filtering and (rules.checks.headers or not self._plain)
        if not top and not seen and rules.hopcount_limit > 1 and received.isascii():
            self._cleaner.hops = 1
            self._keep(received)
        else:
            data = top + received
            await self._events(data if self._plain else await self._allowed(data))

    def feed(self, data: bytes) -> Coroutine[Any, Any, None] | None:
        """Take a chunk of the message as the client sent it (unstuffed).  Where there is more to do than to
        keep it, what it gives is to be awaited before the next one comes."""
        self.taken += len(data)
        limit = self._size_limit
        if limit and self.taken > limit:
            if self.too_big:
                return None
            self.too_big = True
            data = data[: limit - self.taken + len(data)] if self.taken - len(data) < limit else b""
            return None if self._flat else self._take(data)
        if self._flat:
            self._keep(data)
            return None
        return self._take(data)

    async def finish(self) -> bytes | None:
        """The message is complete.  Gives the content, or None when it is in ``spool`` or refused."""
        await self._take(b"", final=True)
        state = self.state
        faults = self._mime.faults
        if faults and self._rules.end_of_headers != "reject":
            faults &= ~Fault.END_OF_HEADERS
        if faults and not state.reason and state.going_on:
            status, words = FAULTS[worst(faults)]
            state.errors |= Error.CONTENT
            state.reason = f"{status} {words}".encode()
        if self.refusal is not None:
            self.kept = self._beginning_kept()
            self.discard()
            return None
        if self.spool is not None:
            self._flush()
            return None
        return b"".join(self._parts)

    def _beginning_kept(self) -> bytes:
        parts = list(self._parts)
        if self.spool is not None:
            self.spool.seek(0)
            parts.insert(0, self.spool.read(SMALL))
        return b"".join(parts)

    def discard(self) -> None:
        """Forget the content; nothing more is kept."""
        self._gone = True
        self._parts = []
        if self.spool is not None:
            self.spool.close()
            self.spool = None

    # -- the way through

    async def _take(self, data: bytes, final: bool = False) -> None:
        if not self._begun:
            data = self._beginning(data, final)
        if not self._plain and data and self.state.filtering:
            if self._rules.checks.headers:
                data = await self._headers_allowed(data)
            if self.state.filtering:
                data = await self._allowed(data)
        if self._flat:
            self._keep(data)
        elif data or final:
            await self._events(data, final)

    def _beginning(self, data: bytes, final: bool) -> bytes:
        """The first line, which may be an envelope of mbox, or the body already."""
        data = self._first + data
        if b"\n" not in data and not final and len(data) < self._rules.limits.line_length:
            self._first = data
            return b""
        self._begun, self._first = True, b""
        if self._mbox and _MBOX.match(data):
            return b"X-Mailbox-Line: " + data
        return b"\r\n" + data if data[:1] in (b" ", b"\t") else data

    async def _headers_allowed(self, data: bytes) -> bytes:
        """Take the headers line by line, as each may be the last that is looked at.  Gives what is left."""
        at = 0
        while self.state.filtering and not self._headers_over:
            end = data.find(b"\n", at) + 1
            if end == 0:
                break
            await self._events(await self._allowed(data[at:end]))
            at = end
        return data[at:]

    async def _allowed(self, data: bytes) -> bytes:
        """Refuse characters, and leave some out."""
        rules = self._rules
        if rules.rejected is not None:
            found = rules.rejected.search(data)
            if found is not None:
                start = data.rfind(b"\n", 0, found.start()) + 1
                end = data.find(b"\r\n", found.start())
                line = data[start : end if end >= 0 else len(data)]
                await self._events(data[:start])
                if self.state.going_on:
                    self.state.reject_line(line if start else self._open_line + line, b"disallowed character")
                return data[end + 2 :] if end >= 0 else b""
            newline = data.rfind(b"\n") + 1
            tail = data[newline:] if newline else self._open_line + data
            self._open_line = tail[: rules.limits.line_length]
        if rules.strips_cr:
            data = STRAY_CR.sub(b"", data)
        return data.translate(None, rules.stripped)

    async def _events(self, data: bytes, final: bool = False) -> None:
        """Have content taken apart, and do what is to be done to each part."""
        mime, state = self._mime, self.state
        events = mime.feed(data)
        if final:
            events += mime.finish()
        at_once = self._cleaner.at_once
        checked = state.filtering and self._rules.checks.headers
        out: list[bytes] = []  # headers of which nothing more is to be asked
        for event in events:
            if isinstance(event, Header) and not checked:
                text = at_once(event)
                if text is not None:
                    out.append(text)
                    continue
            if out:
                self._keep(b"".join(out))
                out.clear()
            if not state.going_on:
                break
            if isinstance(event, Header):
                self._keep(await self._cleaner.header(event))
            elif isinstance(event, Body):
                await self._body(event)
            elif isinstance(event, HeadersEnd):
                self._headers_over = True
                self._keep(self._cleaner.missing(mime.faults))
            else:
                self._report(event)
        if out:
            self._keep(b"".join(out))
        self._flat = self._begun and self._plain and (not state.going_on or mime.flat)

    def _report(self, event: Report) -> None:
        if event.fault is not Fault.END_OF_HEADERS or self._rules.end_of_headers == "reject":
            self.state.mime_report(FAULTS[event.fault][1], event.text)

    async def _body(self, event: Body) -> None:
        if not self._checking:
            self._keep(event.data)
            return
        if event.restart:
            self._offset = 0
        if not self._wanted(-1):
            self._keep(event.data)
            return
        rules, state = self._rules, self.state
        try:
            data = await rules.checks.body_part(event.data, rules.limits.line_length, state, self._wanted)
        except MtadError as error:
            state.lookup_failed(error, f"{BODY}_checks map lookup problem -- {AGAIN}")
            return
        self._keep(data)

    def _wanted(self, length: int) -> bool:
        """Whether a line of a body is looked at; from one that isn't on none is, up to the next body."""
        state, limit = self.state, self._rules.body_checks_limit
        wanted = state.filtering and state.going_on and (not limit or self._offset < limit)
        self._offset += length + 1
        return wanted

    # -- keeping

    def _keep(self, data: bytes) -> None:
        if not data or self._gone or not self.state.going_on:
            return
        self._parts.append(data)
        self.size += len(data)
        if self.size > SMALL and (self.spool is None or len(self._parts) > 15):
            self._flush()

    def _flush(self) -> None:
        try:
            if self.spool is None:
                self.spool = self._open_spool()
            for part in self._parts:
                self.spool.write(part)
        except (OSError, MtadError) as problem:
            failure = queue_error(problem) if isinstance(problem, OSError) else problem
            self.state.odd(str(failure))
            self.failure = Reply(failure.code, failure.text.encode(), failure.dsn.encode())
            self.discard()
            return
        self._parts = []
