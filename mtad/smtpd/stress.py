"""Overload: what changes where ``$stress`` is ``yes``.

In Postfix that is so while all server processes of a service are busy.  A session costs no process here;
what runs out first is file descriptors.  So a service is under stress in a process from the moment when it
has ``mtad_stress_sessions`` sessions there (0: half of the descriptors that the process may open) until it
has a quarter less.  Then time-outs are short and deadlines hold, by the defaults of ``smtpd_timeout``,
``smtpd_hard_error_limit``, ``smtpd_junk_command_limit`` and ``smtpd_per_request_deadline``, or by what
main.cf says with ``${stress?...}`` for these and the others in :class:`~mtad.smtpd.settings.SmtpdSettings`.
A ``stress`` that is set in main.cf or master.cf stays as it is.

Postfix counterpart: ``master_avail.c``, STRESS_README.
"""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mtad.smtpd.service import SmtpdService
    from mtad.smtpd.settings import SmtpdSettings


class Stress:
    """Watches the number of sessions of one service."""

    def __init__(self, service: SmtpdService, stressed: SmtpdSettings) -> None:
        self._service = service
        self._usual, self._stressed = service.settings, stressed
        limit = service.plan.p.number("mtad_stress_sessions")
        self.limit = limit or resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        self.active = False

    def connected(self) -> None:
        """There is one session more."""
        count = len(self._service.sessions)
        if count < self.limit or self.active or self._stressed is self._usual:
            return
        self.active = True
        self._service.settings = self._stressed
        name = self._service.settings.service
        self._service.log.warning(
            f'service "{name}" has {count} sessions in one process: new and idle clients get less time'
        )

    def disconnected(self) -> None:
        """There is one less."""
        if self.active and len(self._service.sessions) < self.limit * 3 // 4:
            self.active = False
            self._service.settings = self._usual
            self._service.log.info(f'service "{self._usual.service}" is no longer under stress')
