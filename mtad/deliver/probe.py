"""Deliveries that end before there is content, to learn whether an address can be delivered to.

:class:`Prober` finds the route of an address as that of a message (with the ``address_verify_*`` sisters of
the routing parameters) and has the transport try it.  Nothing is queued; nothing is raised but mistakes.

Postfix counterpart: the ``DEL_REQ_FLAG_MTA_VRFY`` of ``deliver_request(3)``, ``verify.c``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mtad.deliver.assign import Assigner
from mtad.deliver.job import Clean, Job
from mtad.deliver.report import Stamps
from mtad.deliver.route import Route, split_transport
from mtad.deliver.transports import Deliverer
from mtad.errors import MtadError
from mtad.maillog import MailLog
from mtad.queue.message import Message, Outcome, Recipient
from mtad.wire.logtext import logged

#: How often a transport may hand a recipient on to another.
_HOPS = 5
_CONTENT = b"Subject: probe\r\n\r\n"


class Prober:
    """See the module."""

    def __init__(
        self,
        assigner: Assigner,
        transports: Mapping[str, Deliverer],
        new_id: Callable[[], str],
        clock: Callable[[], float],
        log: MailLog,
        clean: Clean,
    ) -> None:
        self._assigner = assigner
        self._transports = transports
        self._new_id = new_id
        self._clock = clock
        self._log = log
        self._clean = clean

    async def probe(self, sender: bytes, address: bytes) -> Outcome:
        """Try ``address`` for mail from ``sender``."""
        now = self._clock()
        recipient = Recipient(address, address)
        message = Message(
            self._new_id(),
            sender,
            [recipient],
            now,
            size=len(_CONTENT),
            content=_CONTENT,
            attributes={"probe": "yes"},
        )
        shown = logged(sender, self._log)
        self._log.info(f"{message.queue_id}: from=<{shown}>, size={message.size}, nrcpt=1 (queue active)")
        outcome = await self._outcome(message, recipient)
        self._log.info(f"{message.queue_id}: removed")
        return outcome

    async def _outcome(self, message: Message, recipient: Recipient) -> Outcome:
        """What came of it: the address is cleaned as that of a message."""
        try:
            await self._clean(message, "verify")
        except MtadError as error:
            self._log.warning(str(error))
            return Outcome(recipient, "deferred", "4.3.0", "the address can't be mapped now")
        if len(message.recipients) > 1:
            return Outcome(recipient, "sent", "2.0.0", "aliased to multiple recipients")
        return await self._deliver(message, message.recipients[0], message.arrival)

    async def _deliver(self, message: Message, recipient: Recipient, now: float) -> Outcome:
        (part,) = await self._assigner.sort(message, [recipient], False)
        route = part.route
        for _ in range(_HOPS):
            job = Job(message, [recipient], route, Stamps(now, now))
            result = await self._transports[route.transport].deliver(job)
            if result.outcomes:
                return result.outcomes[0]
            onward = split_transport(next(iter(result.passed), ""))
            route = Route(onward.transport, onward.nexthop or route.nexthop)
            if route.transport not in self._transports:
                break
        return Outcome(recipient, "deferred", "4.3.0", f'mail transport "{route.transport}" is not available')
