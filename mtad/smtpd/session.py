"""What each thing that a client says comes to.

A :class:`Session` turns the engine's events into replies: it asks the authenticator and the evaluator,
fills the transaction and hands it to the queue.  ``handle(event)`` gives a :class:`Reply` at once, a
coroutine that gives one (None: ``begin_chunk``); ``chunk`` takes the pieces of a body.  Sockets,
time-outs and TLS handshakes are the protocol's.

Postfix counterpart: the ``*_cmd`` functions of ``smtpd(8)``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from mtad.auth.authenticator import AuthSession, Challenge, Denied, Exchange
from mtad.errors import QueueError
from mtad.maillog import printable
from mtad.policy.evaluator import Verdict
from mtad.policy.report import line, reject_line
from mtad.policy.request import Request
from mtad.queue.message import HOLD, Message, Recipient
from mtad.smtpd.counters import Counters
from mtad.smtpd.intake import TOO_BIG as FILE_TOO_BIG
from mtad.smtpd.intake import Intake
from mtad.smtpd.received import Trace, received
from mtad.smtpd.transaction import Transaction
from mtad.wire import events as ev
from mtad.wire.ehlo import ehlo_reply, helo_reply
from mtad.wire.reply import Reply
from mtad.wire.server import HELP, harmless

if TYPE_CHECKING:
    from mtad.net.tls_channel import TLSChannel
    from mtad.net.tls_info import TLSInfo
    from mtad.smtpd.service import SmtpdService
    from mtad.wire.server import ServerSession

Answer = Reply | Coroutine[Any, Any, Reply | None]

OK = Reply(250, b"Ok", b"2.0.0")
MAIL_OK = Reply(250, b"Ok", b"2.1.0")
RCPT_OK = Reply(250, b"Ok", b"2.1.5")
DATA_GO = Reply(354, b"End data with <CR><LF>.<CR><LF>")
BYE = Reply(221, b"Bye", b"2.0.0")
TLS_READY = Reply(220, b"Ready to start TLS", b"2.0.0")
TLS_UNAVAILABLE = Reply(454, b"TLS not available due to local problem", b"4.7.0")
AUTHENTICATED = Reply(235, b"Authentication successful", b"2.7.0")
ABORTED = Reply(501, b"Authentication aborted", b"5.7.0")
TOO_BIG = Reply(552, b"Message size exceeds fixed limit", b"5.3.4")
NO_ROOM = Reply(452, b"Insufficient system storage", b"4.3.1")
NOT_QUEUED = Reply(451, b"Error: queue file write error", b"4.3.0")

#: Commands that count against smtpd_junk_command_limit.
_JUNK = frozenset((b"HELO", b"EHLO", b"RSET", b"NOOP", b"VRFY", b"ETRN"))


class Session:
    """One client's session, from its connection to its end."""

    __slots__ = (
        "_error",
        "auth",
        "channel",
        "client",
        "counters",
        "engine",
        "error_count",
        "junk_count",
        "log",
        "request",
        "service",
        "tls",
        "transaction",
        "verb",
    )  # fmt: skip

    def __init__(self, service: SmtpdService, engine: ServerSession, request: Request, client: str) -> None:
        """``client``: ``name[address]``, with the port where that is to be logged."""
        self.client = client
        self.service = service
        self.engine = engine
        self.request = request
        self.log = service.log
        self.counters = Counters()
        self.error_count = 0
        self.junk_count = 0
        self.tls: TLSInfo | None = None
        self.channel: TLSChannel | None = None
        self.auth: Exchange | None = None
        self.transaction: Transaction | None = None
        self.verb = b""  # the command in hand
        self._error: bool | None = None  # what the engine says its refusal is

    # -- from the protocol

    async def begin(self) -> Reply:
        """The greeting, or the refusal of this client."""
        verdict = await self.service.evaluator.connect(self.request)
        if verdict is not None:
            self.error_count += 1
            return verdict.reply
        return Reply(220, self.service.settings.banner.encode())

    def handle(self, event: ev.Event) -> Answer:
        """The reply to ``event``, in one of the forms that the module names."""
        self.request.unauth_pipelining = self.engine.improper_pipelining
        kind = type(event)
        verb = _VERBS.get(kind)
        if verb is not None:
            self.verb = verb
            self.counters.given(verb)
        elif kind is ev.Helo:
            self.verb = b"EHLO" if event.extended else b"HELO"  # type: ignore[union-attr]
            self.counters.given(self.verb)
        return _HANDLERS[kind](self, event)

    def answered(self, reply: Reply) -> None:
        """Count ``reply``, which is about to be given to the command in hand."""
        code = reply.code
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

    def forget(self) -> None:
        """The connection is gone: drop what is not in the queue."""
        self._end_transaction()

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
        request.cert_name = info.peer_cn
        request.cert_fingerprint = info.fingerprint
        request.pubkey_fingerprint = info.key_fingerprint

    # -- commands

    def _refused(self, event: ev.Refused) -> Reply:
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
        return event.reply

    def named(self, text: str) -> str:
        """The engine's words for the log, with the queue id that it does not know."""
        if self.request.queue_id and text.startswith("NOQUEUE: "):
            return self.request.queue_id + text[7:]
        return text

    async def _helo(self, event: ev.Helo) -> Reply:
        request = self.request
        self._end_transaction()
        before, request.helo = request.helo, event.name
        verdict = await self.service.evaluator.helo(request, event.extended)
        if verdict is not None:
            request.helo = before
            return verdict.reply
        request.helo = harmless(event.name)
        request.protocol = "ESMTP" if event.extended else "SMTP"
        settings = self.service.engine_settings
        if not event.extended:
            return helo_reply(settings)
        if self.service.settings.discarding:
            self.log.info(self.service.settings.discarding)
        mechanisms = await self.service.mechanisms(request, self.channel is not None and self.channel.trusted)
        return ehlo_reply(settings, request.tls, mechanisms)

    def _starttls(self, event: ev.StartTLS) -> Reply:
        return TLS_READY if self.service.tls.available else TLS_UNAVAILABLE

    async def _auth(self, event: ev.Auth) -> Reply:
        request = self.request
        session = AuthSession(
            request.client_name, request.client_address, request.client_port, request.server_address,
            request.server_port, request.tls, self.channel,
        )  # fmt: skip
        authenticator = self.service.authenticator
        assert authenticator is not None  # the engine refuses AUTH where there is none
        self.auth = authenticator.begin(event.mechanism, session)
        return await self._auth_step(event.initial)

    async def _auth_response(self, event: ev.AuthResponse) -> Reply:
        return await self._auth_step(event.data)

    async def _auth_step(self, data: bytes | None) -> Reply:
        exchange = self.auth
        assert exchange is not None
        outcome = await exchange.step(data)
        if isinstance(outcome, Challenge):
            return Reply(334, outcome.data)
        self.auth = None
        if isinstance(outcome, Denied):
            self.log.warning(f"{self.client}: {outcome.log}")
            return outcome.reply
        request = self.request
        request.sasl_method = outcome.avatar.mechanism
        request.sasl_username = outcome.avatar.username
        return AUTHENTICATED

    def _auth_aborted(self, event: ev.AuthAborted) -> Reply:
        exchange, self.auth = self.auth, None
        mechanism = printable(exchange.mechanism) if exchange is not None else ""
        self.log.warning(f"{self.client}: SASL {mechanism} authentication aborted")
        return ABORTED

    async def _mail(self, event: ev.Mail) -> Reply:
        request, service = self.request, self.service
        self._end_transaction()
        if not await service.evaluator.acceptable(event.sender, event.smtputf8):
            return Reply(501, b"Bad sender address syntax", b"5.1.7")
        request.sender = event.sender
        request.smtputf8 = event.smtputf8
        request.size = event.size
        if event.auth is not None:
            request.sasl_sender = printable(event.auth)
        verdict = await service.evaluator.mail(request)
        if verdict is not None:
            request.reset_mail()
            return verdict.reply
        refusal = self._no_room(event.size)
        if refusal is not None:
            if refusal is NO_ROOM:
                request.sender = None
            self.log.info(reject_line(request, "MAIL", refusal))
            request.reset_mail()
            return refusal
        self.transaction = Transaction(event, service.now())
        if not service.settings.delay_open:
            self._open()
        return MAIL_OK

    def _no_room(self, size: int) -> Reply | None:
        """Why a message of ``size`` bytes (0: not said) has no room, or None."""
        settings = self.service.settings
        limit = settings.intake.message_size_limit
        if limit and size > limit:
            return TOO_BIG
        space = os.statvfs(self.service.spool_directory)
        free = space.f_bavail * space.f_frsize
        if free < settings.queue_minfree or free < 1.5 * limit:
            return NO_ROOM
        return None

    async def _rcpt(self, event: ev.Rcpt) -> Reply:
        request, service = self.request, self.service
        transaction = self.transaction
        assert transaction is not None
        request.recipient = event.recipient
        try:
            if not await service.evaluator.acceptable(event.recipient, transaction.mail.smtputf8):
                return Reply(501, b"Bad recipient address syntax", b"5.1.3")
            verdict = await service.evaluator.rcpt(request)
            if verdict is not None:
                return verdict.reply
        finally:
            request.recipient = None
        if not transaction.queue_id:
            self._open()
        transaction.recipients.append(event)
        request.recipient_count = len(transaction.recipients)
        return RCPT_OK

    def _open(self) -> None:
        """The transaction gets its queue id."""
        transaction, request = self.transaction, self.request
        assert transaction is not None
        transaction.created = self.service.now()
        transaction.queue_id = request.queue_id = self.service.ids.next()
        text = f"{transaction.queue_id}: client={self.client}"
        if request.sasl_method:
            text += f", sasl_method={request.sasl_method}"
        if request.sasl_username:
            text += f", sasl_username={printable(request.sasl_username)}"
        if request.sasl_sender:
            text += f", sasl_sender={request.sasl_sender}"
        self.log.info(text)

    async def _data(self, event: ev.Data) -> Reply:
        refusal = await self._body_begins()
        return refusal or DATA_GO

    async def _bdat(self, event: ev.Bdat) -> Reply | None:
        """None: the chunk may come."""
        return await self._body_begins() if event.first else None

    async def _body_begins(self) -> Reply | None:
        request, service, transaction = self.request, self.service, self.transaction
        assert transaction is not None
        self._name_only_recipient()
        verdict = await service.evaluator.data(request)
        if verdict is not None:
            return verdict.reply
        complete = service.settings.always_add_missing_headers
        if not complete:
            local = await service.evaluator.local_headers(request)
            if isinstance(local, Verdict):
                return local.reply
            complete = local
        only = transaction.recipients[0].recipient.wire if len(transaction.recipients) == 1 else b""
        prepend = b"".join(line + b"\r\n" for line in request.actions.prepend)
        transaction.intake = Intake(
            service.settings.intake,
            service.cleanup_log,
            queue_id=transaction.queue_id,
            created=transaction.created,
            arrival=transaction.arrival,
            sender=transaction.mail.sender.wire,
            received=prepend + received(self._trace(), transaction.queue_id, only, transaction.arrival),
            complete=complete,
            spool=service.open_spool,
        )
        return None

    def _name_only_recipient(self) -> None:
        """At DATA and after, a request names the recipient only where there is one."""
        transaction = self.transaction
        if transaction is not None and len(transaction.recipients) == 1:
            self.request.recipient = transaction.recipients[0].recipient
        else:
            self.request.recipient = None

    def _trace(self) -> Trace:
        settings, request = self.service.settings, self.request
        address = request.client_address
        name = request.client_name.encode()
        lines: list[str] = []
        if settings.tls_received_header and self.tls is not None:
            lines = self.service.tls.received_lines(self.tls)
        return Trace(
            helo=request.helo or name,
            client_name=name,
            client_address=(f"IPv6:{address}" if ":" in address else address).encode(),
            by=settings.myhostname.encode(),
            mail_name=settings.mail_name.encode(),
            protocol=request.protocol.encode(),
            smtputf8=request.smtputf8,
            tls=request.tls,
            tls_lines=[line.encode() for line in lines],
            authenticated=bool(request.sasl_username),
            authenticated_sender=request.sasl_username.encode()
            if settings.sasl_authenticated_header
            else b"",
            hide_client=settings.hide_client_session,
        )

    def chunk(self, data: bytes) -> None:
        """A piece of the message, which is not answered."""
        transaction = self.transaction
        if transaction is not None and transaction.intake is not None:
            transaction.intake.feed(data)

    def _bdat_end(self, event: ev.BdatEnd) -> Reply:
        transaction = self.transaction
        refusal = self._bare_newline(event.bare_newline)
        if refusal is None and transaction is not None and transaction.intake is not None:
            self._note_too_big(transaction.intake)
            refusal = transaction.intake.refusal
        if refusal is not None:
            self._end_transaction()
            return refusal
        return Reply(250, b"Ok: %d bytes" % event.size, b"2.0.0")

    def _bare_newline(self, seen: bool) -> Reply | None:
        """The refusal of content with lone line feeds, where that is asked for."""
        settings = self.engine.settings
        if not seen or settings.bare_newline != "reject":
            return None
        self.log.info(line(self.request, "reject", "bare <LF> received", "END-OF-MESSAGE"))
        return Reply(
            settings.bare_newline_code, b"%b Error: bare <LF> received" % settings.hostname, b"5.5.2"
        )

    def _note_too_big(self, intake: Intake) -> bool:
        if intake.refusal is not FILE_TOO_BIG:
            return False
        self.log.warning(f"{self.request.queue_id}: queue file size limit exceeded")
        return True

    async def _body_end(self, event: ev.BodyEnd) -> Reply:
        transaction = self.transaction
        assert transaction is not None and transaction.intake is not None
        try:
            return await self._queue(event, transaction, transaction.intake)
        finally:
            if self.transaction is transaction:
                self._end_transaction()

    async def _queue(self, event: ev.BodyEnd, transaction: Transaction, intake: Intake) -> Reply:
        """Give the message to the queue; the reply is final."""
        request, service = self.request, self.service
        refusal = self._bare_newline(event.bare_newline)
        if refusal is not None:
            return refusal
        if self._note_too_big(intake):
            return FILE_TOO_BIG
        request.size = event.size
        self._name_only_recipient()
        verdict = await service.evaluator.end_of_data(request)
        if verdict is not None:
            return verdict.reply
        content = intake.finish()
        if intake.refusal is not None:
            return intake.refusal
        message = transaction.message(service.rewriter, service.settings.duplicate_filter_limit)
        message.content, message.spool, message.size = content, intake.spool, intake.size
        intake.spool = None  # the queue reads it even when the client goes away meanwhile
        if intake.eight_bit and not message.body:
            message.body = b"8BITMIME"
        message.attributes = self._attributes()
        self._act(message)
        try:
            if not request.actions.discard:
                await service.store.enqueue(message)
                service.queued(message)
            transaction.settled = True
        except QueueError as problem:
            self.log.warning(f"{transaction.queue_id}: {problem}")
            return Reply(problem.code, problem.text.encode(), problem.dsn.encode())
        finally:
            if message.spool is not None:
                message.spool.close()
        self.error_count = 0
        self.junk_count = 0
        if event.chunked:
            text = b"Ok: %d bytes queued as %b" % (event.size, transaction.queue_id.encode())
        else:
            text = b"Ok: queued as %b" % transaction.queue_id.encode()
        return Reply(250, text, b"2.0.0")

    def _act(self, message: Message) -> None:
        """Do to the message what access(5) results asked for."""
        actions = self.request.actions
        if actions.redirect:
            message.recipients = [Recipient(actions.redirect, actions.redirect)]
        for address in actions.bcc:
            message.recipients.append(Recipient(address, address, frozenset((b"NEVER",))))
        if actions.hold:
            message.state = HOLD

    def _attributes(self) -> dict[str, str]:
        request = self.request
        attributes = {
            "client_name": request.client_name,
            "client_address": request.client_address,
            "client_port": request.client_port,
            "protocol_name": request.protocol,
            "helo_name": printable(request.helo),
        }
        if request.sasl_username:
            attributes["sasl_method"] = request.sasl_method
            attributes["sasl_username"] = printable(request.sasl_username)
        if request.sasl_sender:
            attributes["sasl_sender"] = request.sasl_sender
        return attributes

    async def _vrfy(self, event: ev.Vrfy) -> Reply:
        request = self.request
        request.recipient = event.recipient
        try:
            verdict = await self.service.evaluator.vrfy(request)
        finally:
            request.recipient = None
        if verdict is not None:
            return verdict.reply
        return Reply(252, event.argument, b"2.0.0")

    async def _etrn(self, event: ev.Etrn) -> Reply:
        self.request.etrn_domain = event.domain
        verdict = await self.service.evaluator.etrn(self.request)
        if verdict is not None:
            return verdict.reply
        what = f"ETRN {printable(event.domain)[:100]}..."
        self.log.warning(f"reject: {what} from {self.client}")
        return Reply(459, b"<%b>: service unavailable" % event.domain)

    def _noop(self, event: ev.Noop) -> Reply:
        return OK

    def _help(self, event: ev.Help) -> Reply:
        return HELP

    def _rset(self, event: ev.Rset) -> Reply:
        self._end_transaction()
        return OK

    def _quit(self, event: ev.Quit) -> Reply:
        return BYE

    # -- small things

    def _end_transaction(self) -> None:
        if self.transaction is not None:
            self.transaction.discard(self.service.cleanup_log)
            self.transaction = None
        self.request.reset_mail()


_VERBS: dict[type, bytes] = {
    ev.StartTLS: b"STARTTLS",
    ev.Auth: b"AUTH",
    ev.Mail: b"MAIL",
    ev.Rcpt: b"RCPT",
    ev.Data: b"DATA",
    ev.Bdat: b"BDAT",
    ev.Vrfy: b"VRFY",
    ev.Etrn: b"ETRN",
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
    ev.Noop: Session._noop,
    ev.Help: Session._help,
    ev.Refused: Session._refused,
    ev.Rset: Session._rset,
    ev.Quit: Session._quit,
}
