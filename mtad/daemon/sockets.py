"""The listening sockets, which outlive the processes that serve them.

A reload keeps each socket whose address is still wanted, opens the new ones and, once no process serves
them, closes the rest; so that no connection is refused in between.

Postfix counterpart: ``master_listen.c``.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

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
                        listener = open_socket(endpoint, plan.service, plan.p)
                        fresh.append(listener)
                    found.open[endpoint] = listener
                    found.by_service.setdefault(place, []).append(listener)
        except BaseException:
            for listener in fresh:
                listener.close()
            raise
        return found

    def close_all_but(self, others: Listeners) -> None:
        """Close our sockets that ``others`` does not have."""
        for endpoint, listener in self.open.items():
            if endpoint not in others.open:
                listener.close()
