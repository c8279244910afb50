"""Warnings about a destination that takes up much of the active queue.

:class:`Clog` says so, with what may be changed, when more than a fifth of ``qmgr_message_active_limit``
deliveries wait for one destination, and not again for ``qmgr_clog_warn_time``; nothing at all when that is 0
or ``helpful_warnings`` is off.  Nothing is raised.

Postfix counterpart: ``qmgr_entry_create``, which also advises more processes; there is no limit of them here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mtad.config.parameters import Parameters
from mtad.deliver.limits import Limits
from mtad.maillog import MailLog


class State(NamedTuple):
    """How a destination does."""

    transport: str
    nexthop: str
    length: int  # deliveries under way and waiting
    busy: int
    window: int
    limits: Limits
    alone: bool  # the transport has no other


class Clog:
    """See the module.  ``messages`` tells how many are in hand."""

    def __init__(self, p: Parameters, log: MailLog, messages: Callable[[], int]) -> None:
        self._log = log
        self._messages = messages
        self._active_limit = p.number("qmgr_message_active_limit")
        self._pause = p.seconds("qmgr_clog_warn_time") if p.flag("helpful_warnings") else 0
        #: More deliveries than that for one destination are to be shown to :meth:`warn`, if it is given.
        self.threshold = self._active_limit // 5 if self._pause else None

    def warn(self, state: State) -> float:
        """Warn; seconds until the next time."""
        messages = self._messages()
        share = state.length / max(messages, 1)
        warning = self._log.warning
        warning(f"mail for {state.nexthop} is using up {state.length} of {messages} active queue entries")
        if share < 0.9:
            warning("this may slow down other mail deliveries")
        for line in self._advice(state, share):
            warning(line)
        warning("please avoid flushing the whole queue when you have")
        warning("lots of deferred mail, that is bad for performance")
        warning("to turn off these warnings specify: qmgr_clog_warn_time = 0")
        return self._pause

    def _advice(self, state: State, share: float) -> list[str]:
        name, limit = state.transport, state.limits.concurrency
        may = "you may need to"
        if 0 < limit <= state.busy + 1:
            return [f"{may} increase the main.cf {name}_destination_concurrency_limit from {limit}"]
        if state.window > self._active_limit * share:
            return [f"{may} increase the main.cf qmgr_message_active_limit from {self._active_limit}"]
        if not state.alone:
            return [f"you may need a separate master.cf transport for {state.nexthop}"]
        return [
            f"{may} reduce {name} connect and helo timeouts",
            "so that Postfix quickly skips unavailable hosts",
            f"{may} increase the main.cf minimal_backoff_time and maximal_backoff_time",
            "so that Postfix wastes less time on undeliverable mail",
        ]
