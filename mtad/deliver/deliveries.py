"""The ways out of the queue: routes, transports, their limits, and all that is made with them.

:class:`Deliveries` is what the queue manager knows of them: which deliveries a message comes to, who makes
one, and how many of them at a time.  ConfigError for a bad value; else nothing is raised but mistakes.

Postfix counterpart: ``qmgr_transport.c``, ``qmgr_message_assign``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mtad.config.master_cf import Service
from mtad.config.parameters import Parameters
from mtad.deliver.assign import OWN, Assigner, jobs
from mtad.deliver.internal import Internal
from mtad.deliver.job import Active, Clean, Job, Result
from mtad.deliver.limits import Limits
from mtad.deliver.probe import Prober
from mtad.deliver.route import Router
from mtad.deliver.transports import Around, Deliverer, make_transports
from mtad.deliver.verify import Verifier
from mtad.maillog import MailLog
from mtad.net.dns import Resolver
from mtad.queue.message import Outcome, Recipient
from mtad.queue.store import QueueStore
from mtad.rewrite.classes import AddressClasses


class Deliveries:
    """See the module."""

    def __init__(
        self,
        p: Parameters,
        store: QueueStore,
        reactor: Any,
        log: MailLog,
        resolver: Resolver,
        new_id: Callable[[], str],
        services: Sequence[Service],
        rng: random.Random | None,
        clock: Callable[[], float],
        clean: Clean,
    ) -> None:
        self._p = p
        name = p["syslog_name"]
        own = log.named(f"{name}/qmgr")
        classes = AddressClasses(p, warn=own.warning)
        router = Router(p, classes, own.warning)
        around = Around(
            p, store, reactor, log, resolver, rng or random.Random(), clock, new_id, router.resolve, clean
        )
        self._transports: dict[str, Deliverer] = make_transports(around, services)
        self._limits = {name: Limits.of(p, name, own.warning) for name in self._transports}
        self._transports[OWN] = Internal(p, "sent", own, clock)
        self._suspension = Internal(p, "deferred", log.named(f"{name}/error"), clock)
        probes = Router(p, classes, own.warning, verify=True)
        self._assigner = Assigner(
            p, router, probes, self._transports, lambda transport: self._limits[transport].recipients, own
        )
        prober = Prober(self._assigner, self._transports, new_id, clock, own, clean)
        self.verifier = Verifier(p, log.named(f"{name}/verify"), prober.probe, clock)

    def __contains__(self, transport: str) -> bool:
        return transport in self._transports

    def limits_of(self, transport: str) -> Limits:
        """How many deliveries by a transport may run at a time, and the like."""
        return self._limits[transport]

    def immediate(self, transport: str) -> bool:
        """Whether deliveries by a transport take no time."""
        return self._transports[transport].immediate

    async def of(self, active: Active, recipients: Iterable[Recipient]) -> list[tuple[str, list[Job]]]:
        """The deliveries to these recipients of a message, by the name of the queue that they wait in."""
        made: list[tuple[str, list[Job]]] = []
        for part in await self._assigner.sort(active.message, recipients, active.flushed):
            size = len(part.recipients)
            if not self.immediate(part.route.transport):
                size = self._limits[part.route.transport].recipients
            made.append((part.queue, jobs(active.message, part, size, active.begun)))
        return made

    async def make(self, job: Job) -> Result:
        """Make a delivery."""
        return await self._transports[job.route.transport].deliver(job)

    def suspend(self, job: Job, dsn: str, reason: str) -> list[Outcome]:
        """The outcomes of a delivery that is not made."""
        return self._suspension.settle(job, "deferred", dsn, reason)

    def close_idle(self) -> None:
        """End what nobody uses."""
        for transport in self._transports.values():
            transport.close_idle()

    def abort(self) -> None:
        """End all, whatever is under way."""
        for transport in self._transports.values():
            transport.abort()
