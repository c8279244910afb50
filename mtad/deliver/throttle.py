"""How many deliveries may run to one destination at a time, and when to leave it alone.

A :class:`Throttle` starts at ``initial_destination_concurrency``, grows with success up to the limit, shrinks
with failure, and when a whole cohort (as many deliveries as the window is wide) has failed, the destination
is dead until its time is over or a delivery that was still under way reaches it.  Success is counted at the
end of a cycle of feedback, failure at its beginning; each cycle begins anew when the other has moved the
window.  With ``destination_concurrency_feedback_debug`` all that is logged.  Nothing is raised.

Postfix counterpart: ``qmgr_queue_throttle``, ``qmgr_queue_unthrottle``; SCHEDULER_README.
"""

from __future__ import annotations

from collections.abc import Callable

from mtad.deliver.limits import Limits

#: Takes a line of the log.
Say = Callable[[str], None]


class Throttle:
    """The window of one destination.  ``busy``, the deliveries under way, is kept by the owner, who counts
    the one that ends until :meth:`succeeded` or :meth:`failed` was called for it."""

    __slots__ = (
        "_failed_cohorts",
        "_failure",
        "_name",
        "_say",
        "_success",
        "busy",
        "dead_until",
        "limits",
        "window",
    )

    def __init__(self, limits: Limits, name: str = "", say: Say | None = None) -> None:
        self.limits = limits
        self.window = limits.initial
        self.busy = 0
        self.dead_until = 0.0  # 0: alive
        self._success = self._failure = self._failed_cohorts = 0.0
        self._name = name
        self._say = say

    def has_room(self) -> bool:
        """Whether one more delivery may begin."""
        return self.busy < self.window

    def succeeded(self) -> None:
        """The destination was reached."""
        if self.dead_until:
            self.revive()
            return
        limits = self.limits
        self._failed_cohorts = 0.0
        widest = limits.concurrency
        if (not widest or self.window < widest) and self.window < self.busy + limits.initial:
            feedback = limits.positive.at(self.window)
            self._log_feedback("unthrottle", feedback)
            self._success += feedback
            while self._success + feedback / 2 >= 1:
                self.window += 1
                self._success -= 1
                self._failure = 0.0
        self._log_window("unthrottle")

    def failed(self, now: float) -> bool:
        """The destination was not reached.  True when it is dead by that."""
        if self.dead_until:
            return False
        limits = self.limits
        self._failed_cohorts += 1 / self.window
        if 0 < limits.cohorts <= self._failed_cohorts:
            self.window = 0
            self.dead_until = now + limits.dead_time
        else:
            feedback = limits.negative.at(self.window)
            self._log_feedback("throttle", feedback)
            self._failure -= feedback
            while self._failure - feedback / 2 < 0:
                self.window -= 1
                self._success = 0.0
                self._failure += 1
            self.window = max(self.window, 1)
        self._log_window("throttle")
        return bool(self.dead_until)

    def revive(self) -> None:
        """The destination is dead no more."""
        self.dead_until = 0.0
        self.window = self.busy or self.limits.initial
        self._success = self._failure = self._failed_cohorts = 0.0
        self._log_window("unthrottle")

    def _log_feedback(self, what: str, feedback: float) -> None:
        if self._say is not None:
            self._say(f"qmgr_queue_{what}: feedback {feedback:g}")

    def _log_window(self, what: str) -> None:
        if self._say is not None:
            self._say(
                f"qmgr_queue_{what}: queue {self._name}: "
                f"limit {self.limits.concurrency} window {self.window} success {self._success:g} "
                f"failure {self._failure:g} fail_cohorts {self._failed_cohorts:g}"
            )
