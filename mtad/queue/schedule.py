"""When a message is tried again, given up, and its sender warned.

Pure functions of times in seconds.  The time between attempts follows the message's age, not the number of
attempts: about doubling, between ``minimal_backoff_time`` and ``maximal_backoff_time``; then it is tried when
the deferred mail is looked through, every ``queue_run_delay``.

Postfix counterpart: ``qmgr_active.c``, ``qmgr_message.c``, ``qmgr_deferred_run_event``.
"""

from __future__ import annotations

import math

#: Seconds by which a message may be tried, and its sender warned, too early.
_EARLY = 1


def next_attempt(now: float, arrival: float, minimal_backoff: float, maximal_backoff: float) -> float:
    """The time of the next attempt after one that ended at ``now``."""
    return now + min(max(now - arrival, minimal_backoff), maximal_backoff)


def queue_run(when: float, now: float, begun: float, delay: float) -> float:
    """The time after ``now`` at which a message is tried that is due at ``when``, if the deferred mail is
    looked through every ``delay`` since ``begun``."""
    run = begun + math.ceil((when - _EARLY - begun) / delay) * delay
    return run if run > now else run + delay


def lifetime(sender: bytes, maximal_queue_lifetime: float, bounce_queue_lifetime: float) -> float:
    """How long mail from ``sender`` is tried; the null sender has its own limit, never the longer one."""
    if sender:
        return maximal_queue_lifetime
    return min(maximal_queue_lifetime, bounce_queue_lifetime)


def expired(now: float, arrival: float, limit: float) -> bool:
    """Whether a failed attempt at ``now`` was the last.  A ``limit`` of 0 allows one attempt."""
    return now - arrival >= limit


def warning_due(now: float, arrival: float, delay_warning_time: float, warned: bool) -> bool:
    """Whether the sender hears now that the message is late: once, and never when the time is 0."""
    return delay_warning_time > 0 and not warned and now - arrival >= delay_warning_time - _EARLY
