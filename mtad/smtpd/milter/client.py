"""One milter in one session, from connect to quit.

:class:`Milter` tells its filter what the client does and gives what the filter wants done about it: a
:class:`Response`, or None to go on.  A filter that can't be reached, answers too late or not as the
protocol wants gets ``default_action``, for as long as the session lasts, and a warning in the log.  Nothing
is raised.

Postfix counterpart: ``milter8.c``.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from mtad.maillog import MailLog, printable
from mtad.net.connect import connect
from mtad.smtpd.milter import wire
from mtad.smtpd.milter.changes import Changes
from mtad.smtpd.milter.edits import Draft
from mtad.smtpd.milter.link import Link, LinkError
from mtad.smtpd.milter.specs import Filter
from mtad.smtpd.milter.wire import BadPacket, Event
from mtad.wire.reply import Reply

REPLY, HOLD, QUIET = "reply", "hold", "quiet"
DISCARD, SHUTDOWN = "discard", "shutdown"

# Where a filter is in its conversation.
_ERROR, _CLOSED, _READY, _ENVELOPE, _MESSAGE = "error", "closed", "ready", "envelope", "message"
_ACCEPTS_ALL, _ACCEPTS_MESSAGE, _REJECTS_ALL = "accepts all", "accepts message", "rejects all"

_CODE = re.compile(rb"[45][0-9]{2}[ -](?![0-9])|(4)[0-9]{2}[ -]4|(5)[0-9]{2}[ -]5")
_HARD = re.compile(rb"^5([0-9]{2}[ -])(5?)", re.MULTILINE)
_STATUS = re.compile(rb"[245]\.[0-9]{1,3}\.[0-9]{1,3}(?: |\Z)")
_REASON_LIMIT = 100

#: Looks up the macros of a stage: strings for the packet.
Macros = Callable[[str], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Response:
    """What a filter wants done: an SMTP ``reply``, the message held (``text`` says why) or discarded, the
    session shut down.  ``QUIET``: a reply that was logged already.  ``text`` is what the log says."""

    action: str
    reply: Reply | None = None
    text: str = ""


def reply_response(raw: bytes, *, quiet: bool = False) -> Response:
    """The response that says ``raw``: ``550 5.7.1 text``, of one line or several."""
    code, texts, status = int(raw[:3]), [], b""
    for position, line in enumerate(raw.removesuffix(b"\r\n").replace(b"\r\n", b"\n").split(b"\n")):
        text = line[4:]
        if position == 0:
            found = _STATUS.match(text)
            status = found.group().strip() if found else b""
        if status and text.startswith(status):
            text = text[len(status) :].lstrip(b" ")
        texts.append(text)
    return Response(QUIET if quiet else REPLY, Reply(code, b"\n".join(texts), status), printable(raw))


_REJECTED = reply_response(b"550 5.7.1 Command rejected")
_UNAVAILABLE = reply_response(b"451 4.7.1 Service unavailable - try again later")
_TOO_BIG = reply_response(b"552 5.3.4 Error: message file too big", quiet=True)

#: What a filter that fails comes to, by its default_action.
_FAILED = {
    "accept": None,
    "reject": reply_response(b"550 5.5.0 Service unavailable"),
    "tempfail": _UNAVAILABLE,
    "shutdown": reply_response(b"421 4.7.1 Service unavailable - try again later"),
    "quarantine": Response(HOLD, text="default_action"),
}

#: The same for one that is not used as it must be.
_MISUSED = {
    **dict.fromkeys(
        ("reject", "tempfail"), reply_response(b"451 4.3.5 Server configuration problem - try again later")
    ),
    "accept": None,
    "shutdown": reply_response(b"421 4.3.5 Server configuration problem - try again later"),
    "quarantine": Response(HOLD, text="default_action"),
}


def _soften(found: re.Match[bytes]) -> bytes:
    """``5xx 5`` as ``4xx 4``."""
    return b"4" + found[1] + (b"4" if found[2] else b"")


#: Answers without data.
_SIMPLE = frozenset(
    (wire.CONTINUE, wire.ACCEPT, wire.DISCARD, wire.REJECT, wire.TEMPFAIL, wire.SHUTDOWN, wire.SKIP)
)


class _Broken(Exception):
    """The conversation can't go on; what the client is told was settled."""


class Milter:
    """See the module."""

    def __init__(self, spec: Filter, reactor: Any, log: MailLog, *, soft_bounce: bool) -> None:
        self.spec = spec
        self._reactor = reactor
        self._log = log
        self._soft_bounce = soft_bounce
        self._link: Link | None = None
        self._state = _CLOSED
        self._reply: Response | None = None  # to all that is asked from now on
        self._skip: Event | None = None
        self._unknown = 0  # events outside of our protocol version
        self._unwanted = 0  # what the filter does not want, or will not answer
        self._limit = float(spec.command_timeout)
        self._macros: dict[str, tuple[str, ...]] = {}

    # -- what the client does

    def macro_names(self, stage: str) -> tuple[str, ...] | None:
        """The macros that the filter has asked for at ``stage``, or None: those of main.cf."""
        return self._macros.get(stage) or None

    @property
    def wants_rejected(self) -> bool:
        """Whether the filter is told of recipients that were refused."""
        return bool(self._unwanted & wire.REJECTED_RECIPIENTS)

    async def connected(self, data: bytes, macros: Macros) -> Response | None:
        """A client has come; ``data`` says who.  Connects to the filter."""
        if self._state == _CLOSED:
            await self._connect()
        if self._state != _READY:
            return self._reply
        self._state = _ENVELOPE
        return await self._event(wire.CONNECT, data, macros)

    async def tell(self, event: Event, data: bytes, macros: Macros) -> Response | None:
        """HELO, MAIL, RCPT, DATA, or a command that is not known."""
        if self._state != _ENVELOPE and not (event is wire.HELO and self._state == _ACCEPTS_MESSAGE):
            return self._reply
        return await self._event(event, data, macros)

    def other(self) -> Response | None:
        """What is to be said to any other command."""
        return self._reply

    async def message(self, draft: Draft, macros: Macros, log: MailLog) -> Response | None:
        """The message is complete: show it to the filter, and let it change it.  ``log``: cleanup's."""
        if self._state != _ENVELOPE or self._link is None:
            return self._reply
        self._state = _MESSAGE
        self._limit = float(self.spec.content_timeout)
        own, self._log = self._log, log
        try:
            return await self._content(draft, macros)
        finally:
            self._log = own
            self._limit = float(self.spec.command_timeout)
            if self._state in (_MESSAGE, _ACCEPTS_MESSAGE):
                self._state = _ENVELOPE

    def abort(self) -> None:
        """The transaction is over."""
        if self._state in (_ENVELOPE, _MESSAGE, _ACCEPTS_MESSAGE) and self._link is not None:
            self._link.write(wire.packet(wire.ABORT))
            self._state = _ENVELOPE

    def quit(self) -> None:
        """The client has gone."""
        if self._link is not None:
            polite = self._state in (_ENVELOPE, _MESSAGE, _ACCEPTS_MESSAGE)
            self._link.close(wire.packet(wire.QUIT) if polite else b"")
            self._link = None
        self._state = _CLOSED
        self._reply = None

    # -- failure

    def _warn(self, text: str) -> None:
        self._log.warning(f"milter {self.spec.name}: {text}")

    def _fail(self, misused: bool = False) -> Response | None:
        """The filter can't be used: its default action from now on."""
        if self._link is not None:
            self._link.close()
            self._link = None
        self._state = _ERROR
        self._reply = (_MISUSED if misused else _FAILED)[self.spec.default_action]
        return self._reply

    def _misuse(self, text: str) -> _Broken:
        """The filter does what it may not: the error to raise; it is logged, and the default action set."""
        self._warn(text)
        self._fail(misused=True)
        return _Broken()

    # -- beginning

    async def _connect(self) -> None:
        spec = self.spec
        try:
            self._link = await connect(
                self._reactor, spec.endpoint, Link(self._reactor), spec.connect_timeout
            )
        except OSError as problem:
            self._log.warning(f"connect to Milter service {spec.name}: {problem.strerror}")
            self._fail()
            return
        link = self._link
        link.write(wire.negotiation(spec.version, wire.ACTIONS, spec.events))
        try:
            code, data = await link.read(spec.command_timeout)
            if code != wire.NEGOTIATE:
                self._warn(f'unexpected reply "{printable(code)}" in initial handshake')
                self._fail()
                return
            self._negotiated(data)
        except LinkError as problem:
            self._warn(f"can't read SMFIC_OPTNEG reply packet header: {problem}")
            self._warn("read error in initial handshake")
            self._fail()
        except BadPacket as problem:
            self._warn(str(problem))
            self._warn("read error in initial handshake")
            self._fail()

    def _negotiated(self, data: bytes) -> None:
        """Take what the filter wants.  Raises BadPacket."""
        spec = self.spec
        version, data = wire.number(data)
        actions, data = wire.number(data)
        self._unwanted, data = wire.number(data)
        if version > spec.version:
            self._warn(f"protocol version {version} conflict with MTA protocol version {spec.version}")
            self._fail()
            return
        if actions & ~wire.ACTIONS:
            self._warn(f"request mask {actions:#x} conflict with MTA request mask {wire.ACTIONS:#x}")
            self._fail()
            return
        self._unknown = wire.LEFT_OUT & ~spec.events
        if version < spec.version:
            known = next((bits for number, bits in wire.VERSIONS.items() if number <= version), None)
            if known is None:
                self._warn(f"unexpected protocol version {version}")
            else:
                self._unknown |= wire.LEFT_OUT & ~known
        while data:
            stage, data = wire.number(data)
            names, data = wire.string(data)
            if stage in wire.STAGES:
                listed = names.decode("ascii", "replace").replace(",", " ").split()
                self._macros[wire.STAGES[stage]] = tuple(listed)
            else:
                self._warn(f"ignoring unknown macro type {stage}")
        self._state = _READY
        self._reply = None
        self._skip = None

    # -- events

    async def _event(
        self, event: Event, data: bytes, macros: Macros, draft: Draft | None = None
    ) -> Response | None:
        """Tell the filter of ``event`` and hear what it says."""
        link = self._link
        if link is None or self._unknown & event.left_out:
            return self._reply
        if self._skip is not None:
            if event is self._skip:
                return self._reply
            self._skip = None
        link.write(wire.packet(wire.MACRO, event.code + await macros(event.stage)))
        if self._unwanted & event.left_out:
            return self._reply
        link.write(wire.packet(event.code, data))
        try:
            if self._unwanted & event.unanswered:
                await link.drained(self._limit)
                return self._reply
            return await self._answers(event, link, draft)
        except LinkError as problem:
            self._warn(f"can't read {event.name} reply packet header: {problem}")
            return self._fail()
        except BadPacket as problem:
            self._warn(str(problem))
            return self._fail()
        except _Broken:
            return self._reply

    async def _answers(self, event: Event, link: Link, draft: Draft | None) -> Response | None:
        spaced = bool(self._unwanted & wire.LEADING_SPACE)
        changes = Changes(self._misuse, draft, spaced) if draft else None
        while True:
            code, data = await link.read(self._limit)
            if code == wire.PROGRESS and not data:
                continue
            if changes is not None and await changes.take(code, data):
                continue
            if code == wire.QUARANTINE:
                reason = data.partition(b"\0")[0][:_REASON_LIMIT]
                self._reply = Response(HOLD, text=printable(reason))
                continue
            response = self._decision(event, code, data)
            if changes is not None and changes.too_big and (response is None or response.action != DISCARD):
                return _TOO_BIG
            return response

    def _decision(self, event: Event, code: bytes, data: bytes) -> Response | None:
        """The answer that ends an event."""
        if code == wire.REPLY_CODE:
            return self._final(event, self._custom(data))
        name = wire.ANSWER_NAMES.get(code, "(unknown filter reply)")
        if code not in _SIMPLE:
            raise self._protocol_error(f"unexpected filter response {name} after event {event.name}")
        if data:
            raise self._protocol_error(f"reply {name} was followed by {len(data)} data bytes")
        if code == wire.SKIP:
            self._skip = event
        elif code == wire.ACCEPT:
            if event.connection:
                self._hang_up()
            self._state = _ACCEPTS_ALL if event.connection else _ACCEPTS_MESSAGE
        elif code == wire.DISCARD:
            if event.connection:
                self._warn("DISCARD action is not allowed for connect or helo")
                return self._reply
            self._state = _ACCEPTS_MESSAGE
            return Response(DISCARD)
        elif code == wire.REJECT:
            return self._final(event, _REJECTED)
        elif code == wire.TEMPFAIL:
            return self._final(event, _UNAVAILABLE)
        elif code == wire.SHUTDOWN:
            self._hang_up()
            self._state = _REJECTS_ALL
            self._reply = Response(SHUTDOWN)
        return self._reply

    def _protocol_error(self, text: str) -> _Broken:
        self._warn(text)
        self._fail()
        return _Broken()

    def _final(self, event: Event, response: Response) -> Response:
        """A refusal: of the command, or from now on of everything."""
        if event.connection:
            self._hang_up()
            self._state = _REJECTS_ALL
            self._reply = response
        return response

    def _hang_up(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def _custom(self, data: bytes) -> Response:
        """A reply in the filter's own words."""
        raw = data.partition(b"\0")[0]
        if not _CODE.match(raw):
            raise self._misuse(f"malformed reply: {printable(raw)}")
        raw = re.sub(rb"%(.?)", rb"\1", raw, flags=re.DOTALL)  # filters double them
        if self._soft_bounce:
            raw = _HARD.sub(_soften, raw)
        return reply_response(raw)

    # -- content

    async def _content(self, draft: Draft, macros: Macros) -> Response | None:
        wanted = ~(self._unwanted | self._unknown)
        keep_space = self._unwanted & wire.LEADING_SPACE
        if wanted & wire.NO_HEADERS:
            for header in draft.headers:
                if header.hidden or not header.name:
                    continue
                value = header.value if keep_space else header.value.removeprefix(b" ")
                response = await self._event(wire.HEADER, wire.terminated(header.name, value), macros)
                if response is not None or self._state != _MESSAGE:
                    return response
        if wanted & wire.NO_EOH:
            response = await self._event(wire.EOH, b"", macros)
            if response is not None or self._state != _MESSAGE:
                return response
        if wanted & wire.NO_BODY:
            for piece in draft.body():
                response = await self._event(wire.BODY, piece, macros)
                if response is not None or self._state != _MESSAGE:
                    return response
                if self._skip is wire.BODY:
                    break
        return await self._event(wire.EOM, b"", macros, draft)
