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
from mtad.mime.binary import BinaryConverter
from mtad.policy.evaluator import Verdict
from mtad.policy.report import filter_known, line
from mtad.policy.request import Request
from mtad.queue import untold
from mtad.queue.message import DEFERRED, INCOMING, Message
from mtad.smtpd.actions import act
from mtad.smtpd.counters import Counters
from mtad.smtpd.envelope import Envelope
from mtad.smtpd.headers import Birth
from mtad.smtpd.identity import Forwarded
from mtad.smtpd.intake import Intake
from mtad.smtpd.proxy_filter import Filtering
from mtad.smtpd.received import Trace, received
from mtad.smtpd.state import FILE_TOO_BIG, Error, MessageState, Origin
from mtad.smtpd.transaction import Transaction
from mtad.smtpd.wishes import attributes as attributes_of
from mtad.wire import events as ev
from mtad.wire.command import xtext_encode
from mtad.wire.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from mtad.auth.authenticator import Exchange
    from mtad.net.tls_channel import TLSChannel
    from mtad.net.tls_info import TLSInfo
    from mtad.policy.client_limits import ClientCounts
    from mtad.smtpd.milter.session import SessionMilters
    from mtad.smtpd.service import SmtpdService
    from mtad.smtpd.watching import Transcript
    from mtad.wire.server import ServerSession

DATA_GO = Reply(354, b"End data with <CR><LF>.<CR><LF>")


class Content:
    """What a session knows, and its answers to DATA and BDAT."""

    __slots__ = (
        "_error",
        "auth",
        "channel",
        "client",
        "converter",
        "counters",
        "counts",
        "engine",
        "error_count",
        "finishing",
        "forwarded",
        "gone",
        "junk_count",
        "log",
        "milters",
        "request",
        "service",
        "tls",
        "transaction",
        "transcript",
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
        self.transcript: Transcript | None = None  # where this client is looked at
        self.error_count = 0
        self.junk_count = 0
        self.forwarded = Forwarded()
        self.converter: BinaryConverter | None = None  # of content that was declared binary
        self.tls: TLSInfo | None = None
        self.channel: TLSChannel | None = None
        self.auth: Exchange | None = None
        self.transaction: Transaction | None = None
        self.milters: SessionMilters | None = None
        self.finishing = False  # a message that is complete is on its way into the queue
        self.gone = False  # the client, for whom a message that is complete is still queued
        self.verb = b""  # the command in hand
        self._error: bool | None = None  # what the engine says its refusal is

    async def _data(self, event: ev.Data) -> Reply:
        return await self._body_begins(mbox=True) or DATA_GO

    async def _bdat(self, event: ev.Bdat) -> Reply | None:
        """None: the chunk may come."""
        if not event.first:
            return None
        self.request.command = "BDAT"
        try:
            return await self._body_begins()
        finally:
            self.request.command = ""

    async def _body_begins(self, mbox: bool = False) -> Reply | None:
        request, service, transaction = self.request, self.service, self.transaction
        assert transaction is not None
        self._name_only_recipient()
        verdict = await service.evaluator.data(request)
        if verdict is not None:
            return verdict.reply
        refusal = await self.milters.data() if self.milters is not None else None
        if refusal is not None:
            return refusal
        if transaction.filtering is not None:
            return await self._filtering_begins(transaction, transaction.filtering, mbox)
        local = await self._is_local()
        if isinstance(local, Reply):
            return local
        rules = service.cleanup
        remote = "remote" if rules.rewrites_remote else ""
        birth = Birth(transaction.created, transaction.arrival, "local" if local else remote)
        state = await self._envelope(transaction)
        state.wishes["rewrite_context"] = "local" if local else "remote"
        limit = service.settings.message_size_limit
        spool = service.open_spool
        transaction.intake = intake = Intake(rules, state, birth, size_limit=limit, spool=spool, mbox=mbox)
        await intake.begin(*self._on_top(transaction))
        return None

    async def _is_local(self) -> bool | Reply:
        """Whether the mail comes from a client of our own, whose headers are completed."""
        if self.forwarded.local is not None:
            return self.forwarded.local
        local = await self.service.evaluator.local_headers(self.request)
        return local.reply if isinstance(local, Verdict) else local

    def _on_top(self, transaction: Transaction) -> tuple[bytes, bytes]:
        """The headers that access(5) asked for, and our own; binary content will be made text."""
        only = transaction.recipients[0].recipient.wire if len(transaction.recipients) == 1 else b""
        binary = transaction.mail.body == b"BINARYMIME"
        self.converter = BinaryConverter(self.engine.settings.keep_cr) if binary else None
        prepend = b"".join(line + b"\r\n" for line in self.request.actions.prepend)
        return prepend, received(self._trace(), transaction.queue_id, only, transaction.arrival)

    async def _filtering_begins(
        self, transaction: Transaction, filtering: Filtering, mbox: bool
    ) -> Reply | None:
        prepend, trace = self._on_top(transaction)
        # one that was told of another client is between two servers, and leaves no trace
        return await filtering.begin(prepend + (b"" if self.forwarded else trace), mbox)

    async def _envelope(self, transaction: Transaction) -> MessageState:
        """What is to be known of the message before its content comes: its envelope, cleaned."""
        request, service = self.request, self.service
        rules, actions = service.cleanup, request.actions
        origin = Origin(self.client, request.protocol, printable(request.helo))
        state = MessageState(
            transaction.queue_id, service.cleanup_log, origin, overrides=service.settings.overrides
        )
        state.detect_utf8 = service.settings.detect_utf8
        state.smtputf8 = transaction.mail.smtputf8
        state.eight_bit = transaction.mail.body == b"8BITMIME"
        wishes = transaction.mail.wishes
        if wishes is not None and wishes.requiretls:
            state.wishes["requiretls"] = "yes"
        transaction.envelope = envelope = Envelope(rules, state)
        await envelope.set_sender(transaction.mail.sender.text)
        for rcpt in transaction.recipients:
            orcpt = rcpt.orcpt or b"rfc822;" + xtext_encode(rcpt.argument)
            await envelope.add(rcpt.recipient.text, rcpt.notify, orcpt)
        state.held, state.discarded = actions.hold, actions.discard
        return state

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

    def chunk(self, data: bytes) -> Coroutine[Any, Any, None] | None:
        """A piece of the message, which is not answered.  What this gives is awaited before the next one."""
        transaction = self.transaction
        taker = None if transaction is None else transaction.intake or transaction.filtering
        if taker is None:
            return None
        if self.converter is not None:
            data = self.converter.feed(data)
        return taker.feed(data)

    def chunk_failed(self) -> None:
        """We have made a mistake with a piece of the message, which can't be taken."""
        if self.transaction is not None and self.transaction.intake is not None:
            self.transaction.intake.state.errors |= Error.BAD

    def _bdat_end(self, event: ev.BdatEnd) -> Reply:
        transaction = self.transaction
        refusal = self._bare_newline(event.bare_newline)
        if refusal is None and transaction is not None and transaction.intake is not None:
            # what is wrong with the content is told when it is complete
            refusal = FILE_TOO_BIG if self._note_too_big(transaction.intake) else transaction.intake.failure
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

    def _note_too_big(self, taker: Intake | Filtering) -> bool:
        if not taker.too_big:
            return False
        self.log.warning(f"{self.request.queue_id or 'NOQUEUE'}: queue file size limit exceeded")
        return True

    async def _body_end(self, event: ev.BodyEnd) -> Reply:
        transaction = self.transaction
        assert transaction is not None
        taker = transaction.intake or transaction.filtering
        assert taker is not None
        self.finishing = True
        try:
            if self.converter is not None:
                waiting = taker.feed(self.converter.finish())
                if waiting is not None:
                    await waiting
            if isinstance(taker, Filtering):
                return await self._pass_on(event, transaction, taker)
            return await self._queue(event, transaction, taker)
        finally:
            self.finishing = False
            self._end_transaction()
            if self.gone:
                self.forget()

    async def _pass_on(self, event: ev.BodyEnd, transaction: Transaction, filtering: Filtering) -> Reply:
        """Have the filter's word on a finished message; the reply is final."""
        request = self.request
        refusal = self._bare_newline(event.bare_newline)
        request.size = event.size
        self._name_only_recipient()
        if refusal is None and self._note_too_big(filtering):
            refusal = FILE_TOO_BIG
        if refusal is None:
            verdict = await self.service.evaluator.end_of_data(request)
            if verdict is not None:
                return verdict.reply
        reply = refusal or await filtering.end()
        request.recipient = transaction.recipients[0].recipient
        what = "accept" if reply.positive else "reject"
        where = self.engine.where.decode()
        self.log.info(f"proxy-{what}: {where}: {printable(filtering.said)};{filter_known(request)}")
        if reply.positive:
            self.error_count = self.junk_count = 0
        return reply

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
        content = await intake.finish()
        await self._add_copies(transaction)
        if intake.refusal is not None:
            return intake.refusal
        message = self._message(transaction, intake)
        message.content, message.spool, message.size = content, intake.spool, intake.size
        intake.spool = None  # the queue reads it even when the client goes away meanwhile
        refusal = await self._hand_over(transaction, intake.state, message)
        if refusal is not None:
            return refusal
        self.error_count = 0
        self.junk_count = 0
        if event.chunked:
            text = b"Ok: %d bytes queued as %b" % (event.size, transaction.queue_id.encode())
        else:
            text = b"Ok: queued as %b" % transaction.queue_id.encode()
        return Reply(250, text, b"2.0.0")

    async def _add_copies(self, transaction: Transaction) -> None:
        """Those who get the message beside its recipients."""
        envelope = transaction.envelope
        assert envelope is not None
        notify: frozenset[bytes] = frozenset()
        for address in self.request.actions.bcc:
            await envelope.add(address, notify)
            notify = frozenset((b"NEVER",))  # as in Postfix, not for the first
        await envelope.finish()

    def _message(self, transaction: Transaction, intake: Intake) -> Message:
        """The message as the queue is to have it, without its content."""
        mail, state, envelope = transaction.mail, intake.state, transaction.envelope
        assert envelope is not None
        attributes = self._attributes()
        attributes |= state.wishes
        if state.message_id:
            attributes["message_id"] = printable(state.message_id)
        if envelope.expanded:
            attributes[untold.ATTRIBUTE] = untold.packed(untold.expanded(envelope.expanded))
        return Message(
            queue_id=transaction.queue_id,
            sender=state.sender,
            recipients=envelope.recipients,
            arrival=transaction.arrival,
            body=b"8BITMIME" if state.eight_bit or mail.body == b"BINARYMIME" else mail.body,
            smtputf8=state.smtputf8,
            ret=mail.ret,
            envid=mail.envid,
            attributes=attributes,
            state=DEFERRED if "release" in attributes else INCOMING,
            next_attempt=float(attributes.get("release", 0)),
        )

    async def _hand_over(
        self, transaction: Transaction, state: MessageState, message: Message
    ) -> Reply | None:
        """Give a finished message to the queue; the refusal, or None.

        This is the seam between content that is complete and the queue: whoever is to see or change a whole
        message (envelope in ``message``, content in ``message.content`` or ``message.spool``) does it here.
        """
        request, service = self.request, self.service
        if self.milters is not None and state.going_on:
            assert transaction.envelope is not None
            refusal = await self.milters.message(message, transaction.envelope, state)
            if refusal is not None:
                if message.spool is not None:
                    message.spool.close()
                return refusal
        actions = request.actions
        act(
            message,
            state,
            service.cleanup.rewriter,
            filter=actions.filter or service.settings.content_filter,
            redirect=actions.redirect,
            hold=actions.hold,
        )
        try:
            if actions.discard or state.discarded:
                service.cleanup_log.info(f"{transaction.queue_id}: removed (discarded)")
            else:
                if service.pressure:  # before we take it: a client may lose patience
                    await service.sleep(service.settings.in_flow_delay)
                await service.store.enqueue(message)
                service.queued(message)
            transaction.settled = True
        except QueueError as problem:
            self.log.warning(f"{transaction.queue_id}: {problem}")
            return Reply(problem.code, problem.text.encode(), problem.dsn.encode())
        finally:
            if message.spool is not None:
                message.spool.close()
        return None

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

    def quit_milters(self) -> None:
        """Nothing more will be asked of them about this client."""
        if self.milters is not None:
            self.milters.quit()
            self.milters = None

    def forget(self) -> None:
        """The connection is gone: drop what is not in the queue, once what is complete is there."""
        self.gone = True
        if self.finishing:
            return
        self._end_transaction()
        self.quit_milters()
        if self.counts is not None:
            self.counts.disconnect()
