"""Writing down what came of a message's deliveries.

:class:`Settler` records delivered recipients while others are under way, and ends an attempt: what failed for
too long is given up, the sender is told, the rest gets its next attempt, all in one ``store.finish``.  A
store that fails is logged and asked again; nothing is raised.

Postfix counterpart: ``qmgr_active_done``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from twisted.python.failure import Failure

from mtad.config.parameters import Parameters
from mtad.deliver.bounce import Bouncer, Notice
from mtad.deliver.job import Active, Clean
from mtad.errors import MtadError
from mtad.maillog import MailLog, printable
from mtad.queue.message import Message, Outcome
from mtad.queue.schedule import expired, lifetime, next_attempt, queue_run, warning_due
from mtad.queue.store import QueueStore
from mtad.queue.untold import ATTRIBUTE as UNTOLD
from mtad.queue.untold import unpacked
from mtad.wire.logtext import logged

#: Seconds after which a store that failed is asked again.
RETRY = 10

#: RFC 3464's Action in the report of deliveries, and in that of what would become of them.
_DONE = {"sent": "relayed", "deferred": "delayed", "bounced": "failed"}
_FORESEEN = {"sent": "deliverable", "deferred": "undeliverable", "bounced": "undeliverable"}


def deliver_by(message: Message) -> tuple[float, str]:
    """Until when a message is to be delivered and what happens then, ``R`` or ``N`` (RFC 2852)."""
    value = message.attributes.get("deliver_by", "")
    deadline, _, mode = value.partition(";")
    return (float(deadline), mode[:1]) if value else (0.0, "")


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended: whether the message is gone, or ``when`` it is tried again."""

    active: Active
    gone: bool
    when: float
    queued: bool  # notifications, or forwarded mail, came into the queue


class Settler:
    """See the module.  ``sleep`` waits for some seconds."""

    def __init__(
        self,
        p: Parameters,
        store: QueueStore,
        bouncer: Bouncer,
        log: MailLog,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        clean: Clean,
    ) -> None:
        self._store = store
        self._bouncer = bouncer
        self._log = log
        self._clock = clock
        self._sleep = sleep
        self._clean = clean
        self._backoff = (p.seconds("minimal_backoff_time"), p.seconds("maximal_backoff_time"))
        self._runs = (clock(), p.seconds("queue_run_delay"))
        self._lifetime = p.seconds("maximal_queue_lifetime")
        self._bounce_lifetime = p.seconds("bounce_queue_lifetime")
        self._warn_after = p.seconds("delay_warning_time")
        self._queued = False  # something that the manager was not told of yet

    async def record(self, active: Active) -> Active:
        """Write down what was delivered while the rest is under way."""
        active.writing = True
        while sent := [outcome for outcome in active.outcomes if outcome.status == "sent"]:
            active.outcomes = [outcome for outcome in active.outcomes if outcome.status != "sent"]
            forwards, active.forwards = active.forwards, []
            try:
                await self._store.finish(active.message, sent, self._clock(), forwards)
            except MtadError as error:
                self._log.warning(f"{active.message.queue_id}: can't write to the queue: {error}")
                active.outcomes += sent
                active.forwards += forwards
                break
            self._queued |= bool(forwards)
        active.writing = False
        return active

    async def end(self, active: Active) -> Ending:
        """End an attempt: record the outcomes, queue the notifications."""
        message = active.message
        active.writing = True
        now = self._clock()
        report = _report(active)
        untold = unpacked(message)
        deferred = [outcome for outcome in active.outcomes if outcome.status == "deferred"]
        deadline, mode = deliver_by(message)
        if deferred and self._expired(message, now):
            self._give_up(message, deferred)
            deferred = []
        elif deferred and mode == "R" and now >= deadline:
            self._give_up(message, deferred, "5.4.7 delivery time expired")
            deferred = []
        when = now
        if deferred or active.broken:
            when = self._next(message, now)
        if deferred and now < deadline < when:
            when = deadline
        warn = bool(deferred) and warning_due(now, message.arrival, self._warn_after, message.warned)
        warn |= bool(deferred) and mode == "N" and now >= deadline and not message.warned
        message.warned |= warn
        while True:
            told = await self._told(active, untold, deferred if warn else [], report)
            if told is None:
                self._keep(active)
                when = max(when, self._next(message, now))
                message.warned &= not warn
                warn, told = False, ([], [])
            notices, fresh = told
            fresh = [*active.forwards, *fresh]
            if notices:
                message.changed |= message.attributes.pop(UNTOLD, None) is not None
            try:
                gone = await self._store.finish(message, active.outcomes, when, fresh)
                break
            except MtadError as error:
                self._log.warning(f"{message.queue_id}: can't write to the queue: {error}; will try again")
            await self._sleep(RETRY)
        self._bouncer.announce(notices)
        queued, self._queued = self._queued or bool(fresh), False
        return Ending(active, gone, when, queued)

    async def _told(
        self, active: Active, untold: list[Outcome], late: list[Outcome], report: list[Outcome]
    ) -> tuple[list[Notice], list[Message]] | None:
        """The notifications, and those of them that the queue is to have; None: there is one that can't be
        made, or may not be sent."""
        try:
            notices = self._notices(active, untold, late, report)
        except MtadError as error:
            self._log.warning(f"{active.message.queue_id}: can't make a notification: {error}")
            return None
        except Exception:  # a mistake of ours: what was delivered is to be written down all the same
            self._log.error(printable(f"{active.message.queue_id}: {Failure().getTraceback()}"))
            return None
        try:
            return notices, [one.message for one in notices if await self._clean(one.message, "bounce")]
        except MtadError:  # it was logged
            return None

    def _next(self, message: Message, now: float) -> float:
        return queue_run(next_attempt(now, message.arrival, *self._backoff), now, *self._runs)

    def _keep(self, active: Active) -> None:
        """Nobody can be told of what has failed: it stays in the queue."""
        self._log.info(f"{active.message.queue_id}: status=deferred (bounce failed)")
        for outcome in active.outcomes:
            if outcome.status == "bounced":
                outcome.status = "deferred"

    def _give_up(self, message: Message, deferred: list[Outcome], why: str = "") -> None:
        """Return a message; ``why``: a status and a text that come before the reason for the delay."""
        sender = logged(message.sender, self._log)
        word = "force-expired" if message.expired else "expired"
        self._log.info(f"{message.queue_id}: from=<{sender}>, status={word}, returned to sender")
        dsn, _, text = why.partition(" ")
        for outcome in deferred:
            outcome.status = "bounced"
            if why:
                outcome.dsn, outcome.reason = dsn, f"{text}: {outcome.reason}"

    def _expired(self, message: Message, now: float) -> bool:
        limit = lifetime(message.sender, self._lifetime, self._bounce_lifetime)
        return message.expired or expired(now, message.arrival, limit)

    def _notices(
        self, active: Active, untold: list[Outcome], late: list[Outcome], report: list[Outcome]
    ) -> list[Notice]:
        """``untold``: what came of recipients before this attempt, and is told with it."""
        message = active.message
        bounced = [outcome for outcome in (*untold, *active.outcomes) if outcome.status == "bounced"]
        notices = self._bouncer.failed(message, bounced) if bounced else []
        earlier = [outcome for outcome in untold if outcome.status != "bounced"]
        if report:
            report = [*(outcome for outcome in earlier if outcome.action != "expanded"), *report]
        if active.traced or active.cleared or earlier or report:
            notices += self._bouncer.relayed(message, active.traced, [*active.cleared, *earlier], report)
        if late:
            notices += self._bouncer.delayed(message, late)
        return notices


def _report(active: Active) -> list[Outcome]:
    """What a sender who asked for it is told of the first attempt; where it was no more than a probe, all is
    over with that."""
    message = active.message
    if not message.probing:
        first = not any(recipient.reason for recipient in message.recipients)
        return [replace(one, action=one.action or _DONE[one.status]) for one in active.told if first]
    report = [replace(one, action=_FORESEEN[one.status]) for one in active.told]
    for outcome in active.outcomes:
        outcome.status = "sent"
    return report
