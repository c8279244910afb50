"""May they?  The restriction lists, each at its time.

An :class:`Evaluator` is built once from the parameters of a service (:class:`~mtad.errors.ConfigError` when
they would make an open relay or name what can't be done) and asked at each command of each session.
Answers are None (go on) or a :class:`Verdict`, already logged.  With ``smtpd_delay_reject`` the lists for
client, HELO and sender run at RCPT and ETRN, and ``connect``, ``helo`` and ``mail`` give None.

A coroutine of the evaluator waits only where a table or service does: driving it once with
``send(None)`` usually ends it.

Postfix counterpart: ``smtpd_check_client()`` ... ``smtpd_check_eod()``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mtad.policy import check as words
from mtad.policy.check import DUNNO, OK, REJECT, Check
from mtad.policy.request import CONNECT, DATA, EHLO, END_OF_MESSAGE, ETRN, HELO, MAIL, RCPT, VRFY, Request
from mtad.policy.setup import Setup, Sleep, Verify, WayTo
from mtad.policy.unlisted import UNLISTED_RECIPIENT, UNLISTED_SENDER
from mtad.rewrite.address import Rewriter
from mtad.rewrite.classes import AddressClasses

if TYPE_CHECKING:
    from mtad.config.parameters import Parameters
    from mtad.maillog import MailLog
    from mtad.net.dns import Resolver
    from mtad.policy.policy_service import Dial
    from mtad.wire.events import Address
    from mtad.wire.reply import Reply


@dataclass(frozen=True, slots=True)
class Verdict:
    """No, and this is the reply to give."""

    reply: Reply


class Evaluator:
    """The restriction lists of one service.

    ``sleep`` waits for some seconds (for the restriction ``sleep N``); ``actions`` are the access(5) actions
    on messages that the caller carries out when it finds them in ``Request.actions``: any of ``BCC``,
    ``DISCARD``, ``FILTER``, ``HOLD``, ``PREPEND``, ``REDIRECT``.  Tables that give another one are answered
    ``451 4.3.5``.  ``dial`` makes the way to a policy service, ``resolver`` asks the DNS, ``route``
    says where mail would go (``transport_maps``).

    ``errors`` are reasons not to start, and the first is raised, unless this is only a ``trial``, of which
    nothing may be asked then; ``warnings`` are other things that ``mtad check`` should show.
    """

    def __init__(
        self,
        p: Parameters,
        log: MailLog,
        rewriter: Rewriter,
        classes: AddressClasses,
        *,
        sleep: Sleep | None = None,
        actions: Collection[str] = (),
        dial: Dial | None = None,
        resolver: Resolver | None = None,
        route: WayTo | None = None,
        verify: Verify | None = None,
        trial: bool = False,
    ) -> None:
        setup = Setup(p, log, rewriter, classes, sleep, frozenset(actions), dial, resolver, route, verify)
        if setup.errors and not trial:
            raise setup.errors[0]
        self._setup = setup
        self.errors, self.warnings = setup.errors, setup.warnings

    @property
    def asks_routes(self) -> bool:
        """Whether ``route`` may be asked."""
        return self._setup.asks_routes

    def close(self) -> None:
        """Let go of the tables; nothing may be asked afterwards."""
        self._setup.close()

    # -- one question for each command

    async def connect(self, request: Request) -> Verdict | None:
        """A client is there.  A verdict is its greeting's fate, and that of its later commands."""
        request.state = CONNECT
        if self._setup.delay_reject or not self._setup.client:
            return None
        check = Check(self._setup, request)
        return _verdict(check, await self._client(check))

    async def helo(self, request: Request, extended: bool = True) -> Verdict | None:
        """HELO or EHLO with ``request.helo`` (set for the question; the caller keeps or drops it)."""
        request.state = EHLO if extended else HELO
        if self._setup.delay_reject or not self._setup.helo:
            return None
        check = Check(self._setup, request)
        return _verdict(check, await self._helo(check))

    async def mail(self, request: Request) -> Verdict | None:
        """MAIL FROM ``request.sender``."""
        request.state = MAIL
        if self._setup.delay_reject:
            return None
        check = Check(self._setup, request)
        return _verdict(check, await self._sender(check))

    async def rcpt(self, request: Request) -> Verdict | None:
        """RCPT TO ``request.recipient``."""
        request.state = RCPT
        return await self._recipient(request)

    async def vrfy(self, request: Request) -> Verdict | None:
        """VRFY ``request.recipient``: what RCPT would say."""
        request.state = VRFY
        return await self._recipient(request)

    async def data(self, request: Request) -> Verdict | None:
        """DATA, or the first BDAT."""
        request.state = DATA
        return await self._content(request, DATA, words.DATA)

    async def end_of_data(self, request: Request) -> Verdict | None:
        """All content is there and not yet queued."""
        request.state = END_OF_MESSAGE
        return await self._content(request, END_OF_MESSAGE, words.END_OF_DATA)

    async def etrn(self, request: Request) -> Verdict | None:
        """ETRN ``request.etrn_domain``."""
        request.state = ETRN
        setup = self._setup
        check = Check(setup, request)
        if setup.delay_reject and (
            await self._client(check) == REJECT or (request.helo and await self._helo(check) == REJECT)
        ):
            return _verdict(check, REJECT)
        check.reset()
        check.defer_if_permit = request._defer_client or request._defer_helo
        status = await check.stage(setup.etrn, request.etrn_domain, words.ETRN, "check_etrn_access")
        return _verdict(check, check.settle(status))

    # -- other questions of the same kind

    async def acceptable(self, address: Address, smtputf8: bool) -> bool:
        """Whether an envelope address can be handled at all (else ``501 5.1.7`` or ``501 5.1.3``).

        A table that fails here is no reason to refuse: RCPT will meet it again.
        """
        return await self._setup.resolver.acceptable(address, smtputf8)

    async def local_headers(self, request: Request) -> bool | Verdict:
        """Whether this client's headers are completed as our own (``local_header_rewrite_clients``)."""
        check = Check(self._setup, request)
        status = await self._setup.headers.ask(check)
        return _verdict(check, status) or status == OK

    # -- the stages

    async def _client(self, check: Check) -> int:
        check.reset()
        check.defer_if_permit = None
        request = check.request
        status = DUNNO
        if self._setup.client:
            name = request.client.encode()
            status = await check.stage(self._setup.client, name, words.CLIENT, "check_client_access")
        request._defer_client = check.defer_if_permit
        return status

    async def _helo(self, check: Check) -> int:
        check.reset()
        request = check.request
        check.defer_if_permit = request._defer_client
        status = await check.stage(self._setup.helo, request.helo, words.HELO, "check_helo_access")
        request._defer_helo = check.defer_if_permit
        return status

    async def _sender(self, check: Check) -> int:
        request, setup = check.request, self._setup
        sender = request.sender
        if sender is None:
            return DUNNO
        check.reset()
        check.defer_if_permit = request._defer_client or request._defer_helo
        check.sender_listed = False
        status = await check.stage(setup.sender, sender.text, words.SENDER, "check_sender_access")
        request._defer_sender = check.defer_if_permit
        if (
            setup.reject_unlisted_sender
            and status != REJECT
            and not check.sender_listed
            and not request.actions.discard
        ):
            status = await check.stage(UNLISTED_SENDER, sender.text, words.SENDER, "")
        return status

    async def _recipient(self, request: Request) -> Verdict | None:
        setup = self._setup
        recipient = request.recipient
        if recipient is None or recipient.text.lower() == b"postmaster":  # RFC 5321 section 4.5.1
            return None
        check = Check(setup, request)
        if setup.delay_reject and (
            await self._client(check) == REJECT
            or (request.helo and await self._helo(check) == REJECT)
            or await self._sender(check) == REJECT
        ):
            return _verdict(check, REJECT)
        check.reset()
        check.defer_if_permit = request._defer_sender
        status = DUNNO
        for nth, rules in enumerate(setup.recipient):
            status = await check.stage(rules, recipient.text, words.RECIPIENT, "check_recipient_access")
            if nth == 1 and status == DUNNO and setup.relay_unset:
                setup.note_relay_unset(request)
            if status == REJECT:
                if nth == 0 and setup.relay_last_by_default:
                    setup.note_relay_last(request)
                break
        status = check.settle(status)
        if (
            setup.reject_unlisted_recipient
            and status != REJECT
            and not check.recipient_listed
            and not request.actions.discard
        ):
            status = await check.stage(UNLISTED_RECIPIENT, recipient.text, words.RECIPIENT, "")
        return _verdict(check, status)

    async def _content(self, request: Request, name: str, kind: str) -> Verdict | None:
        setup = self._setup
        rules = setup.data if kind is words.DATA else setup.end_of_data
        if not rules:
            return None
        check = Check(setup, request)
        recipient = request.recipient
        if request.recipient_count > 1:
            request.recipient = None
        try:
            status = check.settle(await check.stage(rules, name.encode(), kind, ""))
        finally:
            request.recipient = recipient
        return _verdict(check, status)


def _verdict(check: Check, status: int) -> Verdict | None:
    if status != REJECT or check.reply is None:
        return None
    return Verdict(check.reply)
