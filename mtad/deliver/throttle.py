"""How many deliveries may run to one destination at a time, and when to leave it alone.

A :class:`Throttle` starts at ``initial_destination_concurrency``, grows with success up to the limit, shrinks
with failure, and when a whole cohort (as many deliveries as the window is wide) has failed, the destination
is dead until its time is over.  Nothing is raised.

Postfix counterpart: ``qmgr_queue_throttle``, ``qmgr_feedback``; SCHEDULER_README.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mtad.config.parameters import Parameters


def _feedback(p: Parameters, name: str) -> tuple[float, str]:
    """A value like ``1``, ``0.5/concurrency`` or ``1/sqrt_concurrency``."""
    text = p[name]
    number, _, per = text.replace(" ", "").partition("/")
    try:
        value = float(number)
    except ValueError:
        raise p.error(name, f'bad value "{text}"', "use a number, or number/concurrency") from None
    if not 0 <= value <= 1 or per not in ("", "concurrency", "sqrt_concurrency"):
        raise p.error(name, f'bad value "{text}"', "use a number from 0 to 1, or number/concurrency")
    return value, per


@dataclass(frozen=True, slots=True)
class Limits:
    """What ``main.cf`` says of a transport's destinations."""

    concurrency: int  # 0: no limit
    initial: int
    recipients: int  # per delivery
    cohorts: float
    positive: tuple[float, str]
    negative: tuple[float, str]
    dead_time: int
    rate_delay: int  # seconds after a delivery to one destination, 0: none
    transport_delay: int  # seconds between any two deliveries

    @classmethod
    def of(cls, p: Parameters, transport: str) -> Limits:
        """The limits of the transport of this name; ConfigError for a bad value."""
        feedback = f"{transport}_destination_concurrency_"
        recipients = p.number(f"{transport}_destination_recipient_limit")
        delay = p.seconds(f"{transport}_destination_rate_delay")
        return cls(
            concurrency=1 if delay else p.number(f"{transport}_destination_concurrency_limit"),
            initial=p.number(f"{transport}_initial_destination_concurrency"),
            recipients=recipients or 1_000_000,
            cohorts=p.number(f"{feedback}failed_cohort_limit"),
            positive=_feedback(p, f"{feedback}positive_feedback"),
            negative=_feedback(p, f"{feedback}negative_feedback"),
            dead_time=p.seconds("minimal_backoff_time"),
            rate_delay=delay,
            transport_delay=p.seconds(f"{transport}_transport_rate_delay"),
        )


class Throttle:
    """The window of one destination."""

    __slots__ = ("_failed_cohorts", "_failure", "_success", "busy", "dead_until", "limits", "window")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.window = self._first_window()
        self.busy = 0
        self.dead_until = 0.0  # 0: alive
        self._success = 0.0
        self._failure = 0.0
        self._failed_cohorts = 0.0

    def _first_window(self) -> int:
        limit = self.limits.concurrency
        return min(self.limits.initial, limit) if limit else self.limits.initial

    def has_room(self) -> bool:
        """Whether one more delivery may begin."""
        return self.busy < self.window

    def succeeded(self) -> None:
        """The destination was reached."""
        limits = self.limits
        self._failed_cohorts = 0.0
        if (limits.concurrency and self.window >= limits.concurrency) or (
            self.window >= self.busy + limits.initial
        ):
            return
        self._success += _per(limits.positive, self.window)
        while self._success >= 1 and not (limits.concurrency and self.window >= limits.concurrency):
            self._success -= 1
            self.window += 1
            self._failure = 0.0

    def failed(self, now: float) -> bool:
        """The destination was not reached.  True when it is dead by that."""
        limits = self.limits
        if self.dead_until:
            return True
        if limits.cohorts:
            self._failed_cohorts += 1 / self.window
            if self._failed_cohorts >= limits.cohorts - 1e-9:
                self.dead_until = now + limits.dead_time
                return True
        self._failure += _per(limits.negative, self.window)
        while self._failure >= 1 and self.window > 1:
            self._failure -= 1
            self.window -= 1
            self._success = 0.0
        return False

    def revive(self) -> None:
        """Begin anew, as if it had never failed."""
        self.dead_until = 0.0
        self.window = self._first_window()
        self._success = self._failure = self._failed_cohorts = 0.0


def _per(feedback: tuple[float, str], window: int) -> float:
    value, per = feedback
    if not per:
        return value
    return value / (window if per == "concurrency" else math.sqrt(window))
