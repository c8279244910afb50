"""What ``main.cf`` says of a transport's deliveries: how many, how large, how often, in which order.

Each parameter is there for all transports (``default_...``) and for each (``NAME_...``).  Raises ConfigError
for a bad value; only of a bad feedback there is no more than a warning, and it is 1.

Postfix counterpart: ``qmgr_transport_create``, ``qmgr_feedback_init``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from mtad.config.parameters import Parameters

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_FEEDBACK = re.compile(rf"\s*({_NUMBER})\s*(?:/\s*(\S{{1,30}})|(?!\s*/).*)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Feedback:
    """How much one success, or failure, counts."""

    base: float
    per_window: bool

    def at(self, window: int) -> float:
        """What it counts at this width of the window."""
        return self.base / window if self.per_window else self.base

    @classmethod
    def of(cls, text: str, name: str, warn: Callable[[str], None]) -> Self:
        """A value like ``1``, ``1/8`` or ``0.5/concurrency``."""
        base, per_window = -1.0, False
        if found := _FEEDBACK.match(text):
            value, per = float(found[1]), found[2]
            if not per or per.lower() == "concurrency":
                base, per_window = value, bool(per)
            elif re.fullmatch(_NUMBER, per) and float(per) > 0:
                base = value / float(per)
        if not 0 <= base <= 1:
            warn(f"{name}: ignoring malformed or unreasonable feedback: {text}")
            return cls(1.0, False)
        return cls(base, per_window)


@dataclass(frozen=True, slots=True)
class Limits:
    """See the module."""

    concurrency: int  # 0: no limit
    initial: int
    recipients: int  # per delivery
    cohorts: int
    positive: Feedback
    negative: Feedback
    dead_time: int
    rate_delay: int  # seconds after a delivery to one destination, 0: none
    transport_delay: int  # seconds before any delivery, one at a time
    slot_cost: int  # deliveries of a message that earn the right to one of another before the next
    slot_loan: int
    slot_discount: int  # per cent
    minimum_slots: int
    told: tuple[str, ...]  # lines of the log, where feedback is to be debugged

    @classmethod
    def of(cls, p: Parameters, transport: str, warn: Callable[[str], None]) -> Self:
        """The limits of the transport of this name; ConfigError for a bad value."""
        delay = p.seconds(f"{transport}_destination_rate_delay")
        concurrency = 1 if delay else p.number(f"{transport}_destination_concurrency_limit")
        initial = p.number(f"{transport}_initial_destination_concurrency")
        feedback, told = [], []
        for number, which in enumerate(("positive", "negative")):
            tail = f"destination_concurrency_{which}_feedback"
            text, usual = p[f"{transport}_{tail}"], p[f"default_{tail}"]
            name = f"default_{tail}" if text == usual else f"{transport}_{tail}"
            feedback.append(Feedback.of(text, name, warn))
            if p.flag("destination_concurrency_feedback_debug"):
                first = p.number("initial_destination_concurrency")
                value = feedback[number].at(first)
                kind = int(feedback[number].per_window)
                told.append(f"{transport}: {name} feedback type {kind} value at {first}: {value:g}")
        return cls(
            concurrency=concurrency,
            initial=min(initial, concurrency) if concurrency else initial,
            recipients=p.number(f"{transport}_destination_recipient_limit") or 1_000_000,
            cohorts=p.number(f"{transport}_destination_concurrency_failed_cohort_limit"),
            positive=feedback[0],
            negative=feedback[1],
            dead_time=p.seconds("minimal_backoff_time"),
            rate_delay=delay,
            transport_delay=p.seconds(f"{transport}_transport_rate_delay"),
            slot_cost=p.number(f"{transport}_delivery_slot_cost"),
            slot_loan=p.number(f"{transport}_delivery_slot_loan"),
            slot_discount=p.number(f"{transport}_delivery_slot_discount"),
            minimum_slots=p.number(f"{transport}_minimum_delivery_slots"),
            told=tuple(told),
        )
