"""The queue manager: takes messages from the store, has them delivered, writes down what came of it.

:class:`QueueManager` holds at most ``qmgr_message_active_limit`` messages, which
:class:`~mtad.deliver.supply.Supply` finds.  For each it finds the recipients' routes, gives the deliveries to
the :class:`~mtad.deliver.dispatch.Dispatcher`, and when all have been tried ends the attempt with one
``store.finish``, notifications included.  What was delivered is recorded before the rest of a message is
done, so that a crash repeats nothing but what was in flight.  An error of the store is logged and the write
tried again; nothing is raised to the caller.

A message of very many recipients is in hand a portion at a time.

Postfix counterpart: ``qmgr(8)``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from mtad.config.master_cf import Service
from mtad.config.parameters import Parameters
from mtad.deliver.bounce import Bouncer, late_no_more
from mtad.deliver.budget import Budget
from mtad.deliver.calls import Calls
from mtad.deliver.clog import Clog
from mtad.deliver.deliveries import Deliveries
from mtad.deliver.dispatch import Dispatcher
from mtad.deliver.job import Active, Clean, Job, Result, as_it_is
from mtad.deliver.report import Stamps
from mtad.deliver.route import Route, split_transport
from mtad.deliver.settle import Ending, Settler
from mtad.deliver.supply import BATCH, Supply
from mtad.errors import MtadError
from mtad.maillog import MailLog, printable
from mtad.net.dns import Resolver
from mtad.net.drive import drive
from mtad.queue.ids import QueueIds
from mtad.queue.message import DEFERRED, DONE, Message, Outcome, Recipient
from mtad.queue.store import QueueStore
from mtad.wire.logtext import logged


class QueueManager:
    """See the module.  ``resolver`` asks the DNS; ``services`` are those of master.cf.

    ``clock`` tells the time since the epoch, by default the reactor's.  ``let_go`` is called with the ``seq``
    of each message that is in hand no more once :meth:`stop` was called.
    """

    def __init__(
        self,
        p: Parameters,
        store: QueueStore,
        reactor: Any,
        log: MailLog,
        resolver: Resolver,
        *,
        new_id: Callable[[], str] | None = None,
        services: Sequence[Service] = (),
        rng: random.Random | None = None,
        clock: Callable[[], float] | None = None,
        let_go: Callable[[int], None] | None = None,
        clean: Clean = as_it_is,
    ) -> None:
        self._store = store
        self._reactor = reactor
        self._clock: Callable[[], float] = clock or reactor.seconds
        name = p["syslog_name"]
        self._log = log.named(f"{name}/qmgr")
        new_id = new_id or QueueIds(p.flag("enable_long_queue_ids"), clock=self._clock).next
        calls = Calls(reactor)
        bouncer = Bouncer(p, store, log, new_id, self._clock)
        self._settler = Settler(p, store, bouncer, self._log, self._clock, calls.sleep, clean)
        self._ways = ways = Deliveries(
            p, store, reactor, log, resolver, new_id, services, rng, self._clock, clean
        )
        clog = Clog(p, self._log, lambda: len(self._active))
        self._dispatcher = Dispatcher(
            self, ways.limits_of, reactor.seconds, reactor.callLater, self._log.info, clog
        )
        self.verifier = ways.verifier
        self._budget = Budget(p, self._log.warning)
        self._confirm = p.flag("confirm_delay_cleared")
        self._active: dict[int, Active] = {}
        self._supply = Supply(p, store, reactor, self._log, self._clock, self)
        self._limit: IDelayedCall | None = None  # of the time to stop in
        self._calls = calls
        self._stopping: Deferred[None] | None = None
        self._let_go = let_go
        self.left_to_others: frozenset[int] = frozenset()  # what managers before us still have in hand

    # -- what the daemon calls

    def start(self) -> None:
        """Begin with what the store has."""
        self._supply.fill()

    def wake(self) -> None:
        """There is new mail."""
        self._supply.wake()

    def scan(self) -> None:
        """Somebody has changed the queue: look for what is due."""
        self._supply.scan()

    def flush(self, queue_ids: Sequence[str] | None = None) -> Deferred[int]:
        """Try all deferred messages now, or those named; how many there are."""
        if queue_ids is None:
            self._dispatcher.revive()
        done: Deferred[int] = Deferred()

        def flushed(count: int) -> None:
            self._supply.look_for_due()
            done.callback(count)

        async def ask() -> int:
            return await self._store.flush(queue_ids)

        drive(ask(), flushed, done.errback)
        return done

    def snapshot(self) -> list[str]:
        """The queue ids of the active messages."""
        return [active.message.queue_id for active in self._active.values()]

    def leave_to_others(self, seqs: frozenset[int]) -> None:
        """Touch none of these messages, and look anew at those that were named before and are not now.

        To be called before :meth:`start`, and then with ever fewer."""
        free = self.left_to_others - seqs
        self.left_to_others = seqs
        if free:
            self._supply.scan(min(free))

    def in_hand(self) -> list[int]:
        """The ``seq`` of the messages that we have in hand."""
        return list(self._active)

    def stop(self, limit: float | None = 5.0) -> Deferred[None]:
        """Take no more, finish what is under way, for at most ``limit`` seconds if that is given.

        May be called again with a shorter limit."""
        if self._stopping is None:
            self._stopping = Deferred()
            self._supply.stop()
            for job in self._dispatcher.stop():
                self._drop(self._active[job.message.seq])
            self._ways.close_idle()
        if self._quiet():
            self._stopped()
        elif limit is not None:
            self._no_limit()
            self._limit = self._reactor.callLater(limit, self._give_up)
        return self._stopping

    def _drop(self, active: Active) -> None:
        """A delivery of a message is not made, since we stop: what was made is recorded, the rest stays."""
        active.jobs -= 1
        active.read = active.message.recipient_count  # no more of them
        if active.jobs > 0 or active.writing or active.reading:
            return
        if active.outcomes:
            drive(self._settler.end(active), self._ended, self._log_mistake)
        else:
            self._forget(active)

    def _forget(self, active: Active) -> None:
        """A message is in hand no more."""
        seq = active.message.seq
        del self._active[seq]
        self._budget.drop(active)
        if self._stopping is not None and self._let_go is not None:
            self._let_go(seq)

    # -- from the store (see :class:`~mtad.deliver.supply.Taker`)

    def room(self) -> int:
        """How many more messages we may take in hand."""
        return self._budget.room(len(self._active))

    def roomy(self) -> bool:
        """Whether it is worth the while to take more: not for each single message that has ended."""
        return self.room() >= min(BATCH, max(1, self._budget.messages // 100))

    def taken(self) -> frozenset[int]:
        """What is in hand here, or of managers before us."""
        return self.left_to_others.union(self._active)

    def tick(self) -> None:
        """It is time to forget what was long ago."""
        self._dispatcher.sweep()

    def searched(self) -> None:
        """The last search is over."""
        self._check_stopped()

    def behind(self, first: int, last: int) -> bool:
        """Whether there is no room, and more than we may have in hand wait of those between these ``seq``."""
        return self.room() <= 0 and last - max(first, self._supply.after) > self._budget.messages

    async def take(self, messages: Iterable[Message]) -> Message | None:
        """Take messages in hand while there is room; the last of them."""
        last: Message | None = None
        for message in messages:
            if self._stopping is not None or self.room() <= 0:
                return last
            last = message
            if message.seq in self._active or message.seq in self.left_to_others:
                continue
            now = self._clock()
            attributes = message.attributes
            if "release" in attributes and (release := float(attributes["release"])) > now:
                await self._store.finish(message, [], release)
                continue
            flushed = message.state == DEFERRED and not message.next_attempt
            active = Active(message, now, flushed, since=self._reactor.seconds())
            if "mt_priority" in attributes:
                active.priority = int(attributes["mt_priority"])
            self._active[message.seq] = active
            self._budget.take(active)
            self._log.info(
                f"{message.queue_id}: from=<{logged(message.sender, self._log)}>, size={message.size}, "
                f"nrcpt={message.recipient_count or len(message.recipients)} (queue active)"
            )
            active.read = message.recipients_read or message.recipient_count
            active.reading = True
            if len(message.recipients) > self._budget.portion():
                active.read = 0
                self._read_on(active)
            else:
                try:
                    await self._distribute(active, message.recipients)
                except Exception:
                    self._not_distributed(active, Failure())
        return last

    # -- to the transports

    async def _distribute(self, active: Active, recipients: list[Recipient]) -> None:
        """Find the routes, and queue the deliveries."""
        self._budget.open(active, len(recipients))
        made = await self._ways.of(active, recipients)
        active.reading = False
        if self._stopping is not None:
            active.jobs += 1
            self._drop(active)
            return
        active.jobs += sum(len(jobs) for _, jobs in made) + 1  # keeps it in hand until all are queued
        for queue, jobs in made:
            self._begin(active, jobs, queue)
        self._over(active, [])

    def _begin(self, active: Active, made: list[Job], queue: str) -> None:
        """Make deliveries of one message when their turn comes, or at once where they take no time."""
        transport = made[0].route.transport
        if not self._ways.immediate(transport):
            self._dispatcher.add((transport, queue), active, made)
            return
        for job in made:
            drive(self.deliver(job), partial(self.finished, job), partial(self.broken, job))

    def _read_on(self, active: Active) -> None:
        drive(self._refill(active), lambda _: None, partial(self._not_distributed, active))

    async def _refill(self, active: Active) -> None:
        """Read more recipients of a message."""
        message = active.message
        found: list[Recipient] = []
        while not found and active.unread > 0:
            portion = self._budget.portion()
            found = await self._store.recipients(message, active.read, portion)
            active.read += portion
        await self._distribute(active, found)

    async def deliver(self, job: Job) -> Result:
        """Make a delivery (:class:`~mtad.deliver.dispatch.Handler`)."""
        return await self._ways.make(job)

    def finished(self, job: Job, result: Result) -> None:
        """A delivery is over."""
        active = self._active[job.message.seq]
        active.traced += result.traced
        message = active.message
        if "T" in message.attributes.get("deliver_by", ""):
            active.cleared += [outcome for outcome in result.outcomes if outcome.status == "sent"]
        elif self._confirm and message.warned and message.sender:
            active.cleared += late_no_more(result)
        active.forwards += result.forwards
        for transport, recipients in result.passed.items():
            self._pass_on(job, active, transport, recipients)
        self._over(active, result.outcomes, result.told)

    def _pass_on(self, job: Job, active: Active, transport: str, recipients: list[Recipient]) -> None:
        """Recipients that another transport is to deliver."""
        route = split_transport(transport)
        route = Route(route.transport, route.nexthop or job.route.nexthop)
        onward = Job(job.message, recipients, route, Stamps(job.message.arrival, active.begun))
        active.jobs += 1
        if route.transport not in self._ways:
            self.suspended(onward, "4.3.0", f'mail transport "{route.transport}" is not available in mtad')
        elif self._stopping is not None:
            self._drop(active)
        else:
            self._begin(active, [onward], route.nexthop.lower())

    def suspended(self, job: Job, dsn: str, reason: str) -> None:
        """A delivery was not tried."""
        reason = f"delivery temporarily suspended: {reason}"
        outcomes = self._ways.suspend(job, dsn, reason)
        self._over(self._active[job.message.seq], outcomes)

    def broken(self, job: Job, failure: Failure) -> None:
        """A delivery broke down: who has not got the message is tried again later."""
        self._log.error(printable(f"{job.message.queue_id}: {failure.getTraceback()}"))
        done = [one for one in job.recipients if one.state == DONE]
        job.recipients = [one for one in job.recipients if one.state != DONE]
        outcomes = self._ways.suspend(job, "4.3.0", "unknown mail transport error")
        outcomes += [Outcome(one, "sent", "2.0.0", "delivered, and then something broke") for one in done]
        self._over(self._active[job.message.seq], outcomes)

    # -- and back to the store

    def _over(self, active: Active, outcomes: list[Outcome], told: Sequence[Outcome] = ()) -> None:
        """One delivery of a message is over."""
        active.outcomes += outcomes
        if "trace_flags" in active.message.attributes:
            active.told += told or outcomes
        active.jobs -= 1
        self._budget.open(active, -len(outcomes))
        if active.unread > 0 and not active.reading and active.open <= self._budget.low():
            active.reading = True
            self._calls.later(partial(self._read_on, active))
        self._settle(active)

    def _settle(self, active: Active) -> None:
        """Write down what there is to be written."""
        if active.writing or (active.reading and active.jobs <= 0 and not active.outcomes):
            return
        if active.jobs <= 0 and not active.reading:
            drive(self._settler.end(active), self._ended, self._log_mistake)
        elif any(outcome.status == "sent" for outcome in active.outcomes):
            drive(self._settler.record(active), self._recorded, self._log_mistake)

    def _recorded(self, active: Active) -> None:
        if active.jobs <= 0 and not active.reading:
            drive(self._settler.end(active), self._ended, self._log_mistake)
        elif self._stopping is not None:
            self._check_stopped()

    def _not_distributed(self, active: Active, failure: Failure) -> None:
        """Recipients could not be read, or no deliveries made of them: they wait for the next attempt."""
        if failure.check(MtadError):
            self._log.warning(f"{active.message.queue_id}: can't read the queue: {failure.value}")
        else:
            self._log.error(printable(f"{active.message.queue_id}: {failure.getTraceback()}"))
        active.read = active.message.recipient_count
        active.reading = False
        active.broken = True
        self._settle(active)

    def _ended(self, ending: Ending) -> None:
        active = ending.active
        self._forget(active)
        if ending.gone:
            self._log.info(f"{active.message.queue_id}: removed")
        if self._stopping is not None:
            self._check_stopped()
            return
        self._supply.ended(None if ending.gone else ending.when, ending.queued)

    def _log_mistake(self, failure: Failure) -> None:
        self._log.error(printable(failure.getTraceback()))

    # -- the end

    def _quiet(self) -> bool:
        """Nothing is being delivered or written."""
        return (
            not self._dispatcher.running
            and not self._supply.searching
            and not any(active.writing for active in self._active.values())
        )

    def _check_stopped(self) -> None:
        if self._quiet():
            self._stopped()

    def _give_up(self) -> None:
        self._ways.abort()
        self._stopped()

    def _stopped(self) -> None:
        self._ways.close_idle()  # what was under way has left sessions
        self._calls.cancel()
        self.verifier.close()
        self._no_limit()
        done = self._stopping
        if done is not None and not done.called:
            done.callback(None)

    def _no_limit(self) -> None:
        if self._limit is not None and self._limit.active():
            self._limit.cancel()
