"""Which recipients of a message go where: the parts that its deliveries are made of.

:class:`Assigner` sorts recipients by route and by destination queue.  A content filter overrides every route;
mail that nobody may see, that has no transport, or whose transport ``defer_transports`` names, goes to the
internal ones.  A table that fails makes the recipients wait; nothing is raised.

Postfix counterpart: ``qmgr_message_resolve``, ``qmgr_message_assign``.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import replace
from typing import NamedTuple

from mtad.config.parameters import Parameters
from mtad.deliver.bounce import verp_sender
from mtad.deliver.job import Job
from mtad.deliver.report import Stamps
from mtad.deliver.route import ERROR, RETRY, Route, Router, content_filter
from mtad.errors import TableError
from mtad.maillog import MailLog
from mtad.queue.message import Message, Recipient
from mtad.tables.maps import split_extension

#: The transport of mail that the queue manager itself makes an end of.
OWN = ""
_NULL_RECIPIENT = Route(ERROR, "5.1.3 null recipient address")
_EXPIRED = Route(RETRY, "4.7.0 message is administratively expired")
_DEFERRED = Route(RETRY, "4.3.2 deferred transport")
_NO_RESOLVER = Route(RETRY, "4.3.0 address resolver failure")
_DISCARDED = Route(OWN, "2.0.0 undeliverable postmaster notification discarded")


class Part(NamedTuple):
    """Recipients that share a route and wait in one queue, which is known by its name."""

    route: Route
    queue: str
    recipients: list[Recipient]


class Assigner:
    """See the module.  ``transports`` are the names of those there are; ``recipient_limit`` gives how many
    recipients a delivery by one of them takes."""

    def __init__(
        self,
        p: Parameters,
        router: Router,
        probes: Router,
        transports: Container[str],
        recipient_limit: Callable[[str], int],
        log: MailLog,
    ) -> None:
        self._router = router
        self._probes = probes
        self._transports = transports
        self._recipient_limit = recipient_limit
        self._log = log
        self._filter_nexthop = p["default_filter_nexthop"]
        self._myhostname = p["myhostname"]
        self._double_bounce = p["double_bounce_sender"].encode().lower()
        self._delimiter = p["recipient_delimiter"]
        self._deferred = frozenset(p.words("defer_transports"))

    async def sort(self, message: Message, recipients: Iterable[Recipient], flushed: bool) -> list[Part]:
        """The parts, in a fixed order.  ``flushed``: ``defer_transports`` has no say."""
        attributes = message.attributes
        usual = not (message.expired or "filter" in attributes or "probe" in attributes)
        parts: dict[tuple[str, str], Part] = {}
        for recipient in recipients:
            route = self._router.known(recipient.address) if usual else None
            if route is None:
                route = await self._route(message, recipient)
            route = self._final(route, recipient, flushed)
            queue = self._queue(route, recipient)
            key = (route.transport, queue)  # next hops that differ in case share a queue: the first counts
            part = parts.get(key)
            if part is None:
                part = parts[key] = Part(route, queue, [])
            part.recipients.append(recipient)
        for part in parts.values():
            if len(part.recipients) > 1:
                part.recipients.sort(key=_recipient_order)
        return [parts[key] for key in sorted(parts)]

    async def _route(self, message: Message, recipient: Recipient) -> Route:
        """Where no short cut leads."""
        address, attributes = recipient.address, message.attributes
        if message.expired:
            return _EXPIRED
        if not address:
            return _NULL_RECIPIENT
        if "filter" in attributes:
            return content_filter(attributes["filter"], self._filter_nexthop, address, self._myhostname)
        router = self._probes if "probe" in attributes else self._router
        try:
            return await router.resolve(message.sender, address)
        except TableError as error:
            self._log.warning(f"{message.queue_id}: {error}")
            return _NO_RESOLVER

    def _final(self, route: Route, recipient: Recipient, flushed: bool) -> Route:
        """The route after what the queue manager itself has to say."""
        if route.address:
            recipient.address = route.address
        if route.local and _local_part(recipient.address).lower() == self._double_bounce:
            return _DISCARDED
        if route.transport in self._deferred and not flushed:
            return _DEFERRED
        if route.transport not in self._transports:
            return Route(RETRY, f'4.3.0 mail transport "{route.transport}" is not available in mtad')
        return route

    def _queue(self, route: Route, recipient: Recipient) -> str:
        """The name of the destination's queue: the next hop, or where a delivery takes one recipient only,
        that recipient at the next hop."""
        if route.transport in (OWN, ERROR, RETRY) or self._recipient_limit(route.transport) != 1:
            return route.nexthop.lower()
        local, _ = split_extension(_local_part(recipient.address), self._delimiter)
        return f"{local.decode('utf-8', 'replace')}@{route.nexthop}".lower()


def jobs(message: Message, part: Part, size: int, begun: float) -> list[Job]:
    """The deliveries of a part, of ``size`` recipients each; with VERP of one, each with its own sender."""

    def job(whose: Message, recipients: list[Recipient]) -> Job:
        return Job(whose, recipients, part.route, Stamps(message.arrival, begun))

    everybody = part.recipients
    delimiters = message.attributes.get("verp_delimiters", "")
    if delimiters and message.sender:
        return [
            job(replace(message, sender=verp_sender(message.sender, delimiters, one)), [one])
            for one in everybody
        ]
    return [job(message, everybody[at : at + size]) for at in range(0, len(everybody), size)]


def _local_part(address: bytes) -> bytes:
    local, at, domain = address.rpartition(b"@")
    return local if at else domain


def _recipient_order(recipient: Recipient) -> tuple[bool, bytes, bytes]:
    """By domain, those without one last."""
    _, at, domain = recipient.address.rpartition(b"@")
    return not at, domain.lower() if at else b"", recipient.address
