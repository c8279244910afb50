"""Mail that this program makes itself, cleaned before the queue gets it.

:class:`InternalMail` maps the addresses of notifications, forwarded mail and probes as those of any other
mail.  Notifications of a class that ``internal_mail_filter_classes`` names are checked as well, headers, body
and by ``non_smtpd_milters``.  Raises :class:`Refused` for what may not be sent, or can't be cleaned now.

Postfix counterpart: ``post_mail(3)``, ``int_filt(3)``, ``CLEANUP_FLAG_MASK_INTERNAL``.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mtad.errors import MtadError
from mtad.maillog import MailLog, printable
from mtad.queue.spool import open_spool
from mtad.rewrite.address import Rewriter
from mtad.rewrite.classes import AddressClasses
from mtad.smtpd.actions import act
from mtad.smtpd.envelope import Envelope
from mtad.smtpd.headers import Birth
from mtad.smtpd.intake import Intake
from mtad.smtpd.milter.local import local_milters, milter_checks
from mtad.smtpd.milter.message import Screening
from mtad.smtpd.rules import CleanupRules, detects_utf8, service_parameters
from mtad.smtpd.state import MessageState, Origin

if TYPE_CHECKING:
    from mtad.config.master_cf import Service
    from mtad.config.parameters import Parameters
    from mtad.queue.message import Message

BOUNCE, NOTIFY = "bounce", "notify"

_UNCHECKED = frozenset(("no_header_body_checks",))


class Refused(MtadError):
    """A message of our own that is not to be queued."""


class InternalMail:
    """See the module.  ``own`` are the parameters of the service that makes the mail, ``cleanup`` those of
    the one that it leads to, ``rules`` what that does; ``log``: its log."""

    def __init__(
        self,
        own: Parameters,
        cleanup: Parameters,
        rules: CleanupRules,
        log: MailLog,
        reactor: Any,
        spool_directory: str,
    ) -> None:
        self._log = log
        self._rules = rules
        self._maps = bool(self._rules.virtual) or any(self._rules.rewrites.values())
        self._filtered = frozenset(own.words("internal_mail_filter_classes"))
        self._utf8 = {source: detects_utf8(own, source) for source in (BOUNCE, NOTIFY, "forward", "verify")}
        how = Screening(
            milter_checks(cleanup, self._log),
            self._log,
            lambda: open_spool(spool_directory),
            own.number("message_size_limit"),
            cleanup.number("header_size_limit"),
        )
        self._milters = local_milters(cleanup, reactor, how) if self._filtered else None

    @classmethod
    def of_bounces(
        cls, p: Parameters, services: Sequence[Service], log: MailLog, reactor: Any, spool_directory: str
    ) -> InternalMail:
        """By the parameters of bounce(8)."""
        own = service_parameters(p, services, "bounce")
        cleanup = service_parameters(p, services, own["cleanup_service_name"])
        rewriter = Rewriter(service_parameters(p, services, cleanup["rewrite_service_name"]))
        log = log.named(f"{cleanup['syslog_name']}/cleanup")
        rules = CleanupRules(cleanup, rewriter, AddressClasses(own), log)
        return cls(own, cleanup, rules, log, reactor, spool_directory)

    async def clean(self, message: Message, source: str) -> bool:
        """Clean a message, in its place; False: it is to be forgotten.  ``source``: ``bounce``, ``notify``,
        whose content is in memory, ``forward`` or ``verify``, where it stays what it is."""
        filtered = source in self._filtered
        if not (filtered or self._maps):
            return True
        state = self._state(message, source)
        envelope = Envelope(self._rules, state)
        await envelope.set_sender(message.sender)
        for one in message.recipients:
            orcpt = b"" if source in (BOUNCE, NOTIFY) else one.orcpt  # else it is of the address to be
            await envelope.add(one.address, one.notify, orcpt, one.original)
        if source in (BOUNCE, NOTIFY):
            await self._content(message, state)
        await envelope.finish()
        refusal = state.refusal
        if refusal is None:
            message.sender, message.recipients = state.sender, envelope.recipients
            if filtered and self._milters is not None and state.going_on:
                refusal = await self._milters.screen(message, envelope, state)
                if message.spool is not None:
                    with message.spool as spool:
                        spool.seek(0)
                        message.content, message.spool = spool.read(), None
        if refusal is not None:
            raise Refused(f"{message.queue_id}: {printable(refusal.text)}")
        act(message, state, self._rules.rewriter)
        if state.discarded:
            self._log.info(f"{message.queue_id}: removed (discarded)")
        return not state.discarded

    def _state(self, message: Message, source: str) -> MessageState:
        overrides = frozenset() if source in self._filtered else _UNCHECKED
        state = MessageState(message.queue_id, self._log, Origin("local"), overrides=overrides)
        state.copying = False
        state.announced = "message_id" in message.attributes
        state.detect_utf8 = self._utf8[source]
        state.smtputf8 = message.smtputf8
        state.eight_bit = message.body == b"8BITMIME"
        return state

    async def _content(self, message: Message, state: MessageState) -> None:
        """Take the content in, as if it came."""
        content = message.content or b""
        second = content.find(b"\r\nDate:") + 2  # behind our own header
        birth = Birth(message.arrival, message.arrival, "local")
        spool = io.BytesIO()
        intake = Intake(self._rules, state, birth, size_limit=0, spool=lambda: spool)
        await intake.begin(b"", content[:second])
        more = intake.feed(content[second:])
        if more is not None:
            await more
        cleaned = await intake.finish()
        if state.refusal is None:
            message.content = spool.getvalue() if cleaned is None else cleaned
            message.size = intake.size
            message.attributes["message_id"] = printable(state.message_id)
            message.smtputf8 = state.smtputf8
            if state.eight_bit:
                message.body = b"8BITMIME"
