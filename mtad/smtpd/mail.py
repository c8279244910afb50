"""MAIL and RCPT: a transaction begins and gets its recipients.

:class:`MailCommands` is the part of a session that asks whether an envelope is acceptable.

RFC 5321 section 3.3.  Postfix counterpart: ``mail_cmd()``, ``rcpt_cmd()`` and ``mail_open_stream()`` in
``smtpd.c``.
"""

from __future__ import annotations

import os
from dataclasses import replace

from mtad.errors import TableError
from mtad.maillog import printable
from mtad.policy.report import login_text, reject_line
from mtad.smtpd import wishes
from mtad.smtpd.content import Content
from mtad.smtpd.proxy_filter import NO_ANSWER, Filtering, ProxyFilter
from mtad.smtpd.transaction import Transaction
from mtad.wire import events as ev
from mtad.wire.address import from_text
from mtad.wire.checks import BAD_RECIPIENT, BAD_SENDER, illegal
from mtad.wire.reply import Reply

MAIL_OK = Reply(250, b"Ok", b"2.1.0")
RCPT_OK = Reply(250, b"Ok", b"2.1.5")
NO_ROOM = Reply(452, b"Insufficient system storage", b"4.3.1")


class MailCommands(Content):
    """A session's answers to MAIL and RCPT."""

    __slots__ = ()

    async def _mail(self, event: ev.Mail) -> Reply:
        request, service = self.request, self.service
        if self.transaction is not None:  # one whose BDAT was refused
            self._end_transaction()
        if not await service.evaluator.acceptable(event.sender, event.smtputf8):
            self.log.warning(illegal(b"MAIL", b"<%b>" % event.sender.text, self.client))
            return BAD_SENDER
        if (known := service.probe_sender.lasting(event.sender.text, service.now())) is not None:
            event = replace(event, sender=from_text(known))
        request.sender = event.sender
        request.smtputf8 = event.smtputf8
        request.size = event.size
        if event.auth is not None:
            request.sasl_sender = printable(event.auth)
        verdict = await service.evaluator.mail(request)
        refusal = verdict.reply if verdict is not None else None
        if refusal is None and service.login_limits is not None:
            refusal = await service.login_limits.message(request)
        if refusal is None and self.milters is not None:
            refusal = await self.milters.mail(event)
        if refusal is not None:
            self._end_transaction()
            return refusal
        refusal = self._no_room()
        if refusal is not None:
            self._end_transaction()
            return refusal
        if event.wishes is not None:
            refusal = wishes.refusal(event.wishes, self.engine.settings, service.now())
            if refusal is not None:
                self._end_transaction()
                return refusal
        self.transaction = Transaction(event, service.now())
        if not service.settings.delay_open and (refusal := await self._opened(self.transaction)) is not None:
            self._end_transaction()
            return refusal
        return (event.wishes and wishes.mail_reply(event.wishes, request)) or MAIL_OK

    def _no_room(self) -> Reply | None:
        """The refusal of a message for which the queue has no room."""
        settings, request = self.service.settings, self.request
        limit = settings.message_size_limit
        if settings.proxy_filter is not None and not settings.proxy_filter.speed_adjust:
            return None
        space = os.statvfs(self.service.spool_directory)
        free = space.f_bavail * space.f_frsize
        if free >= settings.queue_minfree and free >= 1.5 * limit:
            return None
        request.sender = None
        self.log.info(reject_line(request, "MAIL", NO_ROOM))
        self.log.warning(f"not enough free space in mail queue: {free} bytes < 1.5*message size limit")
        return NO_ROOM

    async def _rcpt(self, event: ev.Rcpt) -> Reply:
        request, service = self.request, self.service
        transaction = self.transaction
        assert transaction is not None
        request.recipient = event.recipient
        try:
            if not await service.evaluator.acceptable(event.recipient, transaction.mail.smtputf8):
                self.log.warning(illegal(b"RCPT", b"<%b>" % event.argument, self.client))
                return BAD_RECIPIENT
            known = service.probe_sender.lasting(event.recipient.text, service.now())
            if known is not None:  # a server that we have probed asks whether we are there
                event = replace(event, recipient=from_text(known))
                request.recipient = event.recipient
                refusal = None
            else:
                verdict = await service.evaluator.rcpt(request)
                refusal = verdict.reply if verdict is not None else None
                if refusal is None and service.login_limits is not None:
                    refusal = await service.login_limits.recipient(request)
            if self.milters is not None:
                refusal = await self.milters.rcpt(event, refusal) or refusal
            if refusal is not None:
                return refusal
        except TableError as problem:
            self.log.warning(str(problem))
            return Reply(problem.code, problem.text.encode(), problem.dsn.encode())
        finally:
            request.recipient = None
        if self.gone:
            return RCPT_OK  # which nobody hears
        if not transaction.queue_id:
            refusal = await self._opened(transaction)
            if refusal is None and transaction.filtering is not None:
                refusal = await transaction.filtering.recipient(event.line)
            if refusal is not None:
                return refusal
        transaction.recipients.append(event)
        request.recipient_count = len(transaction.recipients)
        return RCPT_OK

    async def _opened(self, transaction: Transaction) -> Reply | None:
        """The transaction gets its queue id, or the attention of a filter, which may refuse it."""
        if transaction.filtering is not None:
            return None
        transaction.created = self.service.now()
        proxy = self.service.settings.proxy_filter
        if proxy is None:
            transaction.queue_id = self.request.queue_id = self.service.ids.next()
        else:
            filtering = await self._filtering(proxy, transaction)
            refusal = filtering if isinstance(filtering, Reply) else await filtering.open()
            if isinstance(filtering, Reply) or refusal is not None or self.gone:
                if isinstance(filtering, Filtering):
                    filtering.discard()
                return refusal or NO_ANSWER
            transaction.filtering = filtering
        self._log_opened(transaction)
        return None

    async def _filtering(self, proxy: ProxyFilter, transaction: Transaction) -> Filtering | Reply:
        """The passage of this transaction's message through the filter, or why there is none."""
        service, mail = self.service, transaction.mail
        local = await self._is_local()
        if isinstance(local, Reply):
            return local
        return Filtering(
            proxy, service.reactor, self.log, mail.line,
            attributes=self.forwarded.attributes(self.request), local=local,
            requiretls=mail.wishes is not None and mail.wishes.requiretls, spool=service.open_spool,
        )  # fmt: skip

    def _log_opened(self, transaction: Transaction) -> None:
        request = self.request
        text = f"{transaction.queue_id or 'NOQUEUE'}: client={self.client}{login_text(request, ', ')}"
        if self.forwarded:
            text += self.forwarded.log_text(request)
        self.log.info(text)
