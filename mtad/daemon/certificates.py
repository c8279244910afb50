"""When certificates have changed, or the keys of session tickets are old: reason for fresh processes.

:class:`CertificateWatch` looks at the files that hold keys, certificates and authorities every
``mtad_tls_reload_interval``.  The master, which alone may be able to read them, then makes the contexts anew
from the configuration that is in use, and not from main.cf, which somebody may be editing.

Postfix counterpart: none; its processes, which do not live long, read the files as they start.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from mtad.config.master_cf import Service
from mtad.config.parameters import Parameters
from mtad.deliver.lmtp_parameters import client_parameters
from mtad.net.certificates import files_of
from mtad.net.tls_sessions import SessionContexts
from mtad.smtpd.service import ServicePlan
from mtad.tables.table import HOT_NS

State = tuple[tuple[str, int, int, int, int], ...]


def certificate_files(p: Parameters, smtpd: Sequence[ServicePlan], services: Sequence[Service]) -> list[str]:
    """The files that the servers ``smtpd`` and the clients among ``services`` (and main.cf's) depend on."""
    found = [path for plan in smtpd if plan.tls.available for path in files_of(plan.p, "smtpd")]
    found += files_of(p, "smtp")
    for service in services:
        program = os.path.basename(service.command)
        if service.type == "unix" and program in ("smtp", "lmtp"):
            found += files_of(client_parameters(p, service, program == "lmtp"), "smtp")
    return list(dict.fromkeys(found))


def state_of(files: Sequence[str]) -> State:
    """What tells one state of files from another; a file that is not there has none."""
    states = []
    for path in files:
        try:
            status = os.stat(path)
        except OSError:
            continue
        states.append((path, status.st_ctime_ns, status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(states)


class CertificateWatch:
    """Of one configuration; ``interval`` 0: nothing is looked at."""

    def __init__(
        self,
        files: Sequence[str],
        begun: int,
        interval: float,
        sessions: SessionContexts,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``begun``: when we began to read the files, by the clock of the epoch (ns)."""
        self._files = files
        state = state_of(files)
        before = begun - HOT_NS  # the clock of file systems is a coarse one
        self._seen = state if all(changed < before for _, changed, *_ in state) else ()
        self._interval = interval
        self._sessions = sessions
        self._clock = clock
        self._next = clock() + interval if interval and files else float("inf")

    def patience(self) -> float:
        """Seconds until there is something to look at."""
        return max(0.0, min(self._next - self._clock(), self._sessions.due()))

    def stale(self) -> bool:
        """Whether there is reason for fresh processes; true once for each reason."""
        now = self._clock()
        if self._sessions.expire():
            return True
        if now < self._next:
            return False
        self._next = now + self._interval
        state = state_of(self._files)
        changed, self._seen = state != self._seen, state
        return changed
