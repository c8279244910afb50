"""What needs no delivery: ``error:``, ``retry:`` and ``discard:``, whose next hop is the reason.

:class:`Internal` gives all recipients the same outcome at once, and logs it.  Nothing is raised.

Postfix counterpart: ``error(8)``, ``discard(8)``.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from mtad.config.parameters import Parameters
from mtad.deliver.job import Job, Result
from mtad.deliver.report import log_outcomes
from mtad.maillog import MailLog
from mtad.queue.message import Outcome

_STATUS = re.compile(r"\s*([245]\.\d{1,3}\.\d{1,3})(?:\s+|\Z)", re.ASCII)
_DIGIT = {"sent": "2", "deferred": "4", "bounced": "5"}


class Internal:
    """One such transport; ``status`` is what becomes of its mail."""

    immediate = True

    def __init__(self, p: Parameters, status: str, log: MailLog, clock: Callable[[], float]) -> None:
        self._status = status
        self._soft = status == "bounced" and p.flag("soft_bounce")
        self._log = log
        self._clock = clock
        self._digits = p.number("delay_logging_resolution_limit")

    async def deliver(self, job: Job) -> Result:
        """Give the outcome that the next hop says."""
        digit = _DIGIT[self._status]
        dsn, reason = split_dsn(job.route.nexthop, f"{digit}.0.0")
        outcomes = self.settle(job, self._status, digit + dsn[1:], reason)
        for outcome in outcomes:
            outcome.action = "delivered" if outcome.status == "sent" else ""
        return Result(outcomes, traced=outcomes if self._status == "sent" else [])

    def settle(self, job: Job, status: str, dsn: str, reason: str, relay: str = "none") -> list[Outcome]:
        """The same outcome for all recipients of a job."""
        job.stamps.begun = job.stamps.connected = job.stamps.done = self._clock()
        word = status
        if self._soft and status == "bounced":
            word, dsn = "SOFTBOUNCE", f"4{dsn[1:]}"
        outcomes = [Outcome(recipient, word, dsn, reason, relay) for recipient in job.recipients]
        probe = job.message.probing
        log_outcomes(self._log, job.message.queue_id, outcomes, job.stamps, self._digits, probe=probe)
        if word != status:
            for outcome in outcomes:
                outcome.status = "deferred"
        return outcomes

    def close_idle(self) -> None:
        """Nothing is ever idle."""

    def abort(self) -> None:
        """Nothing is ever under way."""


def split_dsn(text: str, default: str) -> tuple[str, str]:
    """``5.1.1 text`` as (``5.1.1``, ``text``); the default where there is no status."""
    found = _STATUS.match(text)
    return (found[1], text[found.end() :]) if found else (default, text.lstrip())
