"""What each thing that a client says comes to.

A :class:`Session` turns the engine's events into replies.  Logins are in :mod:`mtad.smtpd.login`, envelopes
in :mod:`mtad.smtpd.mail`, content in :mod:`mtad.smtpd.content`.  ``handle(event)`` gives a :class:`Reply`
at once, or a coroutine that gives one (None: ``begin_chunk``); ``chunk`` takes the pieces of a body.
Sockets, time-outs and TLS handshakes are the protocol's.

Postfix counterpart: the ``*_cmd`` functions of ``smtpd(8)``.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from mtad.errors import TableError
from mtad.maillog import printable
from mtad.policy.report import line
from mtad.smtpd import wishes
from mtad.smtpd.identity import become
from mtad.smtpd.login import LoginCommands
from mtad.smtpd.mail import MailCommands
from mtad.wire import events as ev
from mtad.wire.ehlo import discarding, ehlo_reply, helo_reply
from mtad.wire.reply import Reply
from mtad.wire.server import HELP, SYNCHRONIZATION, harmless

if TYPE_CHECKING:
    from mtad.net.tls_channel import TLSChannel
    from mtad.net.tls_info import TLSInfo
    from mtad.smtpd.milter.service import MilterService
    from mtad.smtpd.milter.session import SessionMilters
    from mtad.wire.events import Address

Answer = Reply | Coroutine[Any, Any, Reply | None]

OK = Reply(250, b"Ok", b"2.0.0")
BYE = Reply(221, b"Bye", b"2.0.0")
TLS_READY = Reply(220, b"Ready to start TLS", b"2.0.0")
TLS_UNAVAILABLE = Reply(454, b"TLS not available due to local problem", b"4.7.0")

_IGNORED = b"ignored"  # no verb, and not counted by name
#: Commands that count against smtpd_junk_command_limit.
_JUNK = frozenset((b"HELO", b"EHLO", b"RSET", b"NOOP", b"VRFY", b"ETRN", _IGNORED))


class Session(LoginCommands, MailCommands):
    """One client's session, from its connection to its end."""

    __slots__ = ()

    # -- from the protocol

    async def begin(self) -> Reply:
        """The greeting, or the refusal of this client."""
        if self.gone:  # while tables were asked
            return BYE
        if self.counts is not None and (refusal := self.counts.connect()) is not None:
            return refusal
        verdict = await self.service.evaluator.connect(self.request)
        if verdict is not None:
            self.error_count += 1
            return verdict.reply
        if self.service.milters is not None:
            refusal = await self._meet(self.service.milters)
            if refusal is not None:
                self.error_count += refusal.code >= 500
                return refusal
        return Reply(220, self.service.settings.banner.encode())

    async def _meet(self, service: MilterService) -> Reply | None:
        """Tell the filters of this client about it."""
        self.quit_milters()
        milters = await service.attend(self)
        if milters is None or self.gone:
            return None
        self.milters = milters
        refusal = await milters.connect()
        if self.milters is not milters:  # the client has left
            milters.quit()
        return refusal

    def handle(self, event: ev.Event) -> Answer:
        """The reply to ``event``, in one of the forms that the module names."""
        self.request.unauth_pipelining = self.engine.improper_pipelining
        kind = type(event)
        verb = _VERBS.get(kind)
        if verb is not None:
            self.verb = verb
            self.counters.given(verb)
        elif isinstance(event, ev.Helo):
            self.verb = b"EHLO" if event.extended else b"HELO"
            self.counters.given(self.verb)
        if self.transcript is not None:
            self.transcript.said(event)
        if self.counts is not None and (refusal := self.counts.command(event)) is not None:
            return refusal
        return _HANDLERS[kind](self, event)

    def answered(self, reply: Reply) -> None:
        """Count ``reply``, which is about to be given to the command in hand."""
        code = reply.code
        if self.transcript is not None:
            self.transcript.replied(reply)
        if code in (334, 354) or reply is TLS_READY:
            return  # the command goes on
        verb, error = self.verb, self._error
        self._error = None
        if error is None:
            error = code >= 400
        if not error and verb:
            self.counters.done(verb)
        elif error and code >= 400:
            self.error_count += 1
        if verb in _JUNK:
            self.junk_count += 1
            if self.junk_count > self.service.settings.junk_command_limit + 1:
                self.error_count += 1

    @property
    def last_recipient(self) -> Address | None:
        """The last recipient that was accepted in this transaction."""
        transaction = self.transaction
        return transaction.recipients[-1].recipient if transaction and transaction.recipients else None

    def tls_started(self, info: TLSInfo, channel: TLSChannel) -> None:
        """The handshake is done; nothing said before it counts (RFC 3207 section 4.2)."""
        self._end_transaction()
        self.auth = None
        self.tls = info
        if self.verb == b"STARTTLS":
            self.counters.done(self.verb)
        self.channel = channel
        request = self.request
        request.reset_session()
        request.tls = True
        request.cert_trusted = info.trusted
        request.cert_name, request.cert_issuer_name = info.peer_cn, info.issuer_cn
        request.tls_protocol, request.tls_cipher = info.protocol, info.cipher
        request.tls_bits = info.secret_bits
        request.cert_fingerprint = info.fingerprint
        request.pubkey_fingerprint = info.key_fingerprint
        request.cert_subject, request.cert_issuer = info.peer_subject, info.peer_issuer

    # -- commands

    def _refused(self, event: ev.Refused) -> Answer:
        reply = self._note_refused(event)
        if self.milters is not None and event.verb == b"unknown" and not event.hang_up:
            return self._unknown(self.milters, event.line, reply)
        return reply

    async def _unknown(self, milters: SessionMilters, line: bytes, reply: Reply) -> Reply:
        return await milters.unknown(line) or reply

    def _ignored(self, event: ev.Ignored) -> Reply:
        self.verb = _IGNORED
        return OK

    def _note_refused(self, event: ev.Refused) -> Reply:
        self.verb = event.verb.upper()
        if self.auth is not None and self.verb == b"AUTH":
            self.auth = None  # the refusal of a response: the command was counted
        elif event.verb:
            self.counters.given(self.verb)
        if event.warning:
            self.log.warning(self.named(event.warning))
        if event.reject:
            request = self.request
            before = request.sender
            request.sender = event.sender or before
            text = event.reason or printable(str(event.reply))
            self.log.info(line(request, "reject", text, self.engine.where.decode()))
            request.sender = before
        self._error = event.error
        refusal = self.counts.refused(self.verb, event.reply) if self.counts is not None else None
        return refusal or event.reply

    async def _helo(self, event: ev.Helo) -> Reply:
        request = self.request
        self._end_transaction()
        before, request.helo = request.helo, event.name
        verdict = await self.service.evaluator.helo(request, event.extended)
        if verdict is not None:
            request.helo = before
            return verdict.reply
        told = await self.milters.helo(event.name, self.verb.decode()) if self.milters is not None else None
        if told is not None and told.code == 421:
            request.helo = before
            return told
        settings = self.engine.settings
        request.helo = harmless(event.name, settings.smtputf8)
        if event.extended:  # HELO does not take it back
            request.protocol = "ESMTP"
        if not event.extended:
            return helo_reply(settings)
        if told is not None:
            return told
        if settings.discard and (note := discarding(settings.discard)):
            self.log.info(note)
        trusted = self.channel is not None and self.channel.trusted
        try:
            mechanisms = await self.service.mechanisms(request, trusted)
        except TableError as problem:
            self.log.warning(str(problem))
            self.log.warning(f"don't know if EHLO feature AUTH should be announced to {self.client}")
            raise
        return ehlo_reply(settings, request.tls, mechanisms, wishes.latest(settings, self.service.now()))

    def _starttls(self, event: ev.StartTLS) -> Reply:
        refusal = self._refused_by_milters()
        if refusal is not None:
            return refusal
        if not self.service.tls.available:
            return TLS_UNAVAILABLE
        return (self.counts.begin_tls(False) if self.counts is not None else None) or TLS_READY

    async def _vrfy(self, event: ev.Vrfy) -> Reply:
        request = self.request
        refusal = self._refused_by_milters()
        if refusal is not None:
            return refusal
        request.recipient = event.recipient
        try:
            verdict = await self.service.evaluator.vrfy(request)
        finally:
            request.recipient = None
        if verdict is not None:
            return verdict.reply
        return Reply(252, event.argument, b"2.0.0")

    async def _etrn(self, event: ev.Etrn) -> Reply:
        refusal = self._refused_by_milters()
        if refusal is not None:
            return refusal
        self.request.etrn_domain = event.domain
        verdict = await self.service.evaluator.etrn(self.request)
        if verdict is not None:
            return verdict.reply
        if await self.service.etrn.serves(event.domain):
            return await self.service.etrn.queue(event.domain)
        what = f"ETRN {printable(event.domain)[:100]}..."
        self.log.warning(f"reject: {what} from {self.client}")
        return Reply(459, b"<%b>: service unavailable" % event.domain)

    async def _xclient(self, event: ev.Xclient) -> Reply:
        """Be another client from now on, and greet it."""
        self._end_transaction()
        self.auth = None
        engine, service = self.engine, self.service
        request = self.request = become(self.request, event.values)
        self.client = request.client
        if self.counts is not None:
            self.counts.disconnect()
        self.counts = await service.client_limits.of(request, self.client)
        if service.watching is not None:
            self.transcript = await service.watching.attend(request)
        settings = await service.clients.settings(
            request.client_address, request.client_name, engine.settings
        )
        if not engine.restart(
            settings, self.client, helo=request.helo, esmtp=request.protocol == "ESMTP",
            authenticated=bool(request.sasl_username),
        ):  # fmt: skip
            return SYNCHRONIZATION
        self.verb, self._error = b"", False  # a beginning, and no success or failure
        request.command = "XCLIENT"
        try:
            return await self.begin()
        finally:
            request.command = ""

    def _xforward(self, event: ev.Xforward) -> Reply:
        self.forwarded.add(event.values)
        return OK

    def _noop(self, event: ev.Noop) -> Reply:
        return OK

    def _help(self, event: ev.Help) -> Reply:
        return HELP

    def _rset(self, event: ev.Rset) -> Reply:
        self._end_transaction()
        return OK

    def _quit(self, event: ev.Quit) -> Reply:
        return BYE


_VERBS: dict[type, bytes] = {
    ev.StartTLS: b"STARTTLS",
    ev.Auth: b"AUTH",
    ev.Mail: b"MAIL",
    ev.Rcpt: b"RCPT",
    ev.Data: b"DATA",
    ev.Bdat: b"BDAT",
    ev.Vrfy: b"VRFY",
    ev.Etrn: b"ETRN",
    ev.Xclient: b"XCLIENT",
    ev.Xforward: b"XFORWARD",
    ev.Noop: b"NOOP",
    ev.Help: b"HELP",
    ev.Rset: b"RSET",
    ev.Quit: b"QUIT",
}

_HANDLERS: dict[type, Callable[[Session, Any], Answer]] = {
    ev.Helo: Session._helo,
    ev.StartTLS: Session._starttls,
    ev.Auth: Session._auth,
    ev.AuthResponse: Session._auth_response,
    ev.AuthAborted: Session._auth_aborted,
    ev.Mail: Session._mail,
    ev.Rcpt: Session._rcpt,
    ev.Data: Session._data,
    ev.Bdat: Session._bdat,
    ev.BdatEnd: Session._bdat_end,
    ev.BodyEnd: Session._body_end,
    ev.Vrfy: Session._vrfy,
    ev.Etrn: Session._etrn,
    ev.Xclient: Session._xclient,
    ev.Xforward: Session._xforward,
    ev.Noop: Session._noop,
    ev.Help: Session._help,
    ev.Refused: Session._refused,
    ev.Ignored: Session._ignored,
    ev.Rset: Session._rset,
    ev.Quit: Session._quit,
}
