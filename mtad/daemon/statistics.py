"""The lines ``statistics: max connection rate 3/60s for (submission:192.0.2.1) at Oct  5 10:00:00``.

:class:`Statistics` logs the peaks of the shared counts each ``anvil_status_update_time``, and once more when
it stops; then they begin anew.  How many clients are remembered is looked up each time unit, and when the
lines are written; it is told where there were new ones.

Postfix counterpart: ``anvil_status_dump()``.
"""

from __future__ import annotations

import time
from typing import Any

from mtad.config.parameters import Parameters
from mtad.maillog import MailLog, printable
from mtad.policy.anvil import Anvil

#: Seconds between looks, at least.
_LOOK = 5


class Statistics:
    """See the module."""

    def __init__(self, p: Parameters, anvil: Anvil, log: MailLog, reactor: Any) -> None:
        self._anvil = anvil
        self._log = log
        self._reactor = reactor
        self._unit = p.seconds("anvil_rate_time_unit")
        self._interval = p.seconds("anvil_status_update_time")
        self._calls: dict[str, Any] = {}
        self._made = 0
        self._size = 0
        self._size_when = 0.0

    def start(self) -> None:
        """Begin."""
        self._calls["write"] = self._reactor.callLater(self._interval, self._write_again)
        self._calls["look"] = self._reactor.callLater(max(self._unit, _LOOK), self._look_again)

    def stop(self) -> None:
        """Write what there is, and end."""
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.cancel()
        if calls:
            self.write()

    def _write_again(self) -> None:
        self._calls["write"] = self._reactor.callLater(self._interval, self._write_again)
        self.write()

    def _look_again(self) -> None:
        self._calls["look"] = self._reactor.callLater(max(self._unit, _LOOK), self._look_again)
        self._look()

    def _look(self) -> None:
        made = self._anvil.made
        if made == self._made:
            return
        self._made = made
        size = self._anvil.size(self._unit)
        if size > self._size:
            self._size, self._size_when = size, time.time()

    def write(self) -> None:
        """Log the peaks, and forget them."""
        for peak in self._anvil.peaks():
            value = f"{peak.value}/{self._unit}s" if peak.what.endswith("rate") else f"{peak.value}"
            self._line(f"max {peak.what} {value} for ({printable(peak.ident)})", peak.when)
        self._look()
        if self._size:
            self._line(f"max cache size {self._size}", self._size_when)
            self._size = 0

    def _line(self, text: str, when: float) -> None:
        self._log.info(f"statistics: {text} at {time.ctime(when)[4:19]}")
