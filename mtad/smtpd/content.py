"""The content of a message: DATA, BDAT, and what is done once it is all there.

:class:`Content` is the part of a session that fills :class:`~mtad.smtpd.intake.Intake` and hands the message
to the queue; it also holds what both parts of a session know.  A reply of 250 is given only after the
queue has it.

RFC 5321 section 4.1.1.4, RFC 3030.  Postfix counterpart: ``data_cmd()``, ``bdat_cmd()``,
``common_post_message_handling()``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtad.errors import QueueError
from mtad.maillog import printable
from mtad.policy.evaluator import Verdict
from mtad.policy.report import line
from mtad.policy.request import Request
from mtad.queue.message import HOLD, Message, Recipient
from mtad.smtpd.counters import Counters
from mtad.smtpd.identity import Forwarded
from mtad.smtpd.intake import TOO_BIG as FILE_TOO_BIG
from mtad.smtpd.intake import Intake
from mtad.smtpd.received import Trace, received
from mtad.smtpd.transaction import Transaction
from mtad.smtpd.wishes import attributes as attributes_of
from mtad.wire import events as ev
from mtad.wire.reply import Reply

if TYPE_CHECKING:
    from mtad.auth.authenticator import Exchange
    from mtad.net.tls_channel import TLSChannel
    from mtad.net.tls_info import TLSInfo
    from mtad.policy.client_limits import ClientCounts
    from mtad.smtpd.milter.session import SessionMilters
    from mtad.smtpd.service import SmtpdService
    from mtad.wire.server import ServerSession

DATA_GO = Reply(354, b"End data with <CR><LF>.<CR><LF>")


class Content:
    """What a session knows, and its answers to DATA and BDAT."""

    __slots__ = (
        "_error",
        "auth",
        "channel",
        "client",
        "counters",
        "counts",
        "engine",
        "error_count",
        "forwarded",
        "junk_count",
        "log",
        "milters",
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
        self.counts: ClientCounts | None = None  # of its host, where they are limited
        self.error_count = 0
        self.junk_count = 0
        self.forwarded = Forwarded()
        self.tls: TLSInfo | None = None
        self.channel: TLSChannel | None = None
        self.auth: Exchange | None = None
        self.transaction: Transaction | None = None
        self.milters: SessionMilters | None = None
        self.verb = b""  # the command in hand
        self._error: bool | None = None  # what the engine says its refusal is

    async def _data(self, event: ev.Data) -> Reply:
        return await self._body_begins() or DATA_GO

    async def _bdat(self, event: ev.Bdat) -> Reply | None:
        """None: the chunk may come."""
        if not event.first:
            return None
        self.request.command = "BDAT"
        try:
            return await self._body_begins()
        finally:
            self.request.command = ""

    async def _body_begins(self) -> Reply | None:
        request, service, transaction = self.request, self.service, self.transaction
        assert transaction is not None
        self._name_only_recipient()
        verdict = await service.evaluator.data(request)
        if verdict is not None:
            return verdict.reply
        refusal = await self.milters.data() if self.milters is not None else None
        if refusal is not None:
            return refusal
        complete = service.settings.always_add_missing_headers
        if not complete:
            local = await service.evaluator.local_headers(request)
            if isinstance(local, Verdict):
                return local.reply
            complete = local if self.forwarded.local is None else self.forwarded.local
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
            silent=request.actions.discard,
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
        message.next_attempt = float(message.attributes.get("release", 0))
        if self.milters is not None and not request.actions.discard:
            refusal = await self.milters.message(message)
            if refusal is not None:
                if message.spool is not None:
                    message.spool.close()
                return refusal
        self._act(message)
        try:
            if request.actions.discard:
                service.cleanup_log.info(f"{transaction.queue_id}: removed (discarded)")
            else:
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
        notify: frozenset[bytes] = frozenset()
        for address in actions.bcc:
            message.recipients.append(Recipient(address, address, notify))
            notify = frozenset((b"NEVER",))  # as in Postfix, not for the first
        if actions.redirect:  # one recipient is served in place of all
            first = min(message.recipients, key=lambda one: one.address.rpartition(b"@")[::-1])
            message.recipients = [Recipient(actions.redirect, first.original, first.notify, first.orcpt)]
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
        if self.forwarded:
            attributes |= self.forwarded.attributes(request)
        transaction = self.transaction
        if transaction is not None and (wishes := transaction.mail.wishes) is not None:
            attributes |= attributes_of(wishes, request, transaction.arrival)
        return attributes

    # -- small things

    def named(self, text: str) -> str:
        """The engine's words for the log, with the queue id that it does not know."""
        if self.request.queue_id and text.startswith("NOQUEUE: "):
            return self.request.queue_id + text[7:]
        return text

    def _end_transaction(self) -> None:
        if self.transaction is not None:
            self.transaction.discard(self.service.cleanup_log)
            self.transaction = None
        if self.milters is not None:
            self.milters.abort()
        self.forwarded.clear()
        self.request.reset_mail()
