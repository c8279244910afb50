"""What came of a delivery, as the operator's filter and ``soft_bounce`` have it, and as the log tells it.

:meth:`Outcomes.settle` is called once for the outcomes of a delivery, or of some of its recipients.  With
``soft_bounce`` a failure for good is ``SOFTBOUNCE`` in the log and for now in the queue.  Nothing is raised.

Postfix counterpart: ``bounce_append()``, ``defer_append()``, ``sent()``.
"""

from __future__ import annotations

from collections.abc import Sequence

from mtad.config.parameters import Parameters
from mtad.deliver.job import Job
from mtad.deliver.report import log_outcomes
from mtad.deliver.status_filter import StatusFilter
from mtad.maillog import MailLog
from mtad.queue.message import Outcome

#: What the log says of a failure that ``soft_bounce`` makes one for now.
_SOFT = "SOFTBOUNCE"


class Outcomes:
    """Those of one transport; ``filter_name`` is the parameter of its filter."""

    def __init__(self, p: Parameters, log: MailLog, filter_name: str = "smtp_delivery_status_filter") -> None:
        self._log = log
        self._filter = StatusFilter(p, log, filter_name)
        self._soft_bounce = p.flag("soft_bounce")
        self._digits = p.number("delay_logging_resolution_limit")

    async def settle(
        self,
        job: Job,
        outcomes: Sequence[Outcome],
        uses: int = 1,
        tls: str = "",
        logged: Sequence[Outcome] = (),
    ) -> None:
        """Change and log these outcomes; ``logged``: others that are logged in their place.

        ``uses`` and ``tls`` are for the log: how many messages the connection has carried, and what became
        of TLS.
        """
        if self._filter:
            await self._filter.apply(outcomes)
        soft = [outcome for outcome in outcomes if outcome.status == "bounced"] if self._soft_bounce else ()
        for outcome in soft:
            outcome.status, outcome.dsn = _SOFT, f"4{outcome.dsn[1:]}"
        shown, message = logged or outcomes, job.message
        log_outcomes(self._log, message.queue_id, shown, job.stamps, self._digits, uses, tls, message.probing)
        for outcome in soft:
            outcome.status = "deferred"
