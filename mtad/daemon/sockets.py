"""The sockets, which outlive the processes that serve them.

:class:`Listeners` are those of the smtpd services.  A reload keeps each socket whose address is still wanted,
opens the new ones and closes the rest, so that no connection is refused in between.  :class:`Channels` are
those of the queue manager: what comes while there is none waits in them for the next one.

Postfix counterpart: ``master_listen.c``.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

from mtad.daemon.paths import Owner, Paths
from mtad.errors import ConfigError
from mtad.net.listen import Endpoint, endpoints, open_socket
from mtad.smtpd.service import ServicePlan


@dataclass(slots=True)
class Listeners:
    """Sockets by endpoint, and which service (its place in the plan) has which."""

    open: dict[Endpoint, socket.socket] = field(default_factory=dict)
    by_service: dict[int, list[socket.socket]] = field(default_factory=dict)

    def change(self, services: Sequence[ServicePlan]) -> Listeners:
        """The sockets for ``services``: ours where the address is the same, new ones elsewhere.

        Raises ConfigError, and has then opened nothing.
        """
        found = Listeners()
        fresh: list[socket.socket] = []
        try:
            for place, plan in enumerate(services):
                for endpoint in endpoints(plan.service, plan.p):
                    listener = self.open.get(endpoint) or found.open.get(endpoint)
                    if listener is None:
                        listener = self._open(endpoint, plan)
                        fresh.append(listener)
                    found.open[endpoint] = listener
                    found.by_service.setdefault(place, []).append(listener)
        except BaseException:
            for listener in fresh:
                listener.close()
            raise
        return found

    def _open(self, endpoint: Endpoint, plan: ServicePlan) -> socket.socket:
        try:
            return open_socket(endpoint, plan.service, plan.p)
        except ConfigError as problem:
            ours = [str(each) for each in self.open if each.port == endpoint.port]
            if not ours:
                raise
            raise ConfigError(
                f"cannot listen on {endpoint} beside {', '.join(ours)}",
                path=problem.path,
                line=problem.line,
                remedy="stop and start to change inet_interfaces",
            ) from problem

    def close_all_but(self, others: Listeners) -> None:
        """Close our sockets that ``others`` does not have."""
        for endpoint, listener in self.open.items():
            if endpoint not in others.open:
                listener.close()

    def close(self) -> None:
        """Close all of them."""
        for listener in self.open.values():
            listener.close()


class Channels:
    """``wakeup``: datagrams that say that there is new mail; ``control``: the operator's commands."""

    def __init__(self, paths: Paths, owner: Owner) -> None:
        """Make both; whoever had them before is gone.  Raises ConfigError.

        Anybody may connect to ``control``: who serves it looks who they are."""
        self.wakeup = _unix(paths.wakeup, socket.SOCK_DGRAM, owner, 0o600)
        self.control = _unix(paths.control, socket.SOCK_STREAM, owner, 0o666)
        self.control.listen(64)
        self.verify = _unix(paths.verify, socket.SOCK_STREAM, owner, 0o600)
        self.verify.listen(64)
        self.mailman = _unix(paths.mailman, socket.SOCK_STREAM, owner, 0o600)
        self.mailman.listen(64)

    def keep(self, roles: Sequence[str]) -> None:
        """Let go of what a process with these roles does not need."""
        if "qmgr" not in roles:
            self.wakeup.close()
            self.control.close()
            self.verify.close()
        if "mailman" not in roles:
            self.mailman.close()


def _unix(path: str, kind: socket.SocketKind, owner: Owner, mode: int) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK)
    try:
        with owner.acting():
            if os.path.lexists(path):
                os.unlink(path)
            made.bind(path)
            os.chmod(path, mode)
    except OSError as problem:
        made.close()
        reason = problem.strerror or str(problem)
        raise ConfigError(
            f"{path}: {reason}", parameter="mtad_queue_directory", remedy="see its permissions and its length"
        ) from problem
    return made
