"""Why there is no session, in Postfix's words, and what it would have been for.

Postfix counterpart: ``smtp_trouble.c``.
"""

from __future__ import annotations

from dataclasses import dataclass

from mtad.deliver.connection import Connection
from mtad.deliver.notices import PROTOCOL, History
from mtad.deliver.requiretls import DISABLE
from mtad.deliver.tlsrpt import Report
from mtad.errors import MtadError
from mtad.wire.server_reply import ServerReply

#: Why there is no delivery where no host was even tried.
UNAVAILABLE = "server unavailable or unable to receive mail"


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a session is for: a message, the next hop it has, and whether the host is among its best.

    ``late``: the message waits for so long that the work-arounds for firewalls apply that take time."""

    queue_id: str
    nexthop: str
    best: bool = True
    requiretls: str = DISABLE  # how strictly the sender's wish for REQUIRETLS is taken
    report: Report | None = None  # for the domain, about TLS
    level: str = ""  # the TLS level that was tried before, in vain
    late: bool = False
    history: History | None = None  # that is to hear what is said
    utf8: bool = False  # the server has to offer SMTPUTF8


class SessionFailure(MtadError):
    """No session.  ``relay`` and what follows it are as in :class:`~mtad.queue.message.Outcome`.

    ``tls``: it was the TLS handshake, or within TLS, so that a session without TLS may do.  ``host_only``:
    another host may do better, though this failure is for good.  ``passed_over``: the host was not tried at
    all.
    """

    def __init__(
        self,
        dsn: str,
        text: str,
        *,
        temporary: bool,
        relay: str = "none",
        diagnostic: str = "",
        remote_mta: str = "",
        tls: bool = False,
        host_only: bool = False,
        passed_over: bool = False,
    ) -> None:
        self.dsn = dsn
        self.text = text
        self.temporary = temporary
        self.relay = relay
        self.diagnostic = diagnostic
        self.remote_mta = remote_mta
        self.tls = tls
        self.host_only = host_only
        self.passed_over = passed_over
        self.tls_status = ""  # as of Connection
        self.errors: frozenset[str] = frozenset()
        super().__init__(text)

    @property
    def connected(self) -> bool:
        """Whether there was a connection at all."""
        return self.relay != "none"


def failure_by(connection: Connection, reply: ServerReply, text: str, soft: bool) -> SessionFailure:
    """A failure by what the server said; ``soft`` makes a permanent one temporary."""
    dsn = reply.dsn.decode()
    temporary = (soft and reply.code // 100 == 5) or not dsn.startswith("5")
    return SessionFailure(
        f"4{dsn[1:]}" if temporary else dsn,
        text,
        temporary=temporary,
        relay=connection.host.relay,
        diagnostic=f"smtp; {reply}",
        remote_mta=connection.host.name,
    )


def malformed(connection: Connection, text: str) -> SessionFailure:
    """The server's reply is none: the postmaster may be told (``protocol``), the mail is tried again."""
    connection.errors |= PROTOCOL
    reason = f"bad response from {connection.host.pair}: {text}"
    return SessionFailure("4.5.0", reason, temporary=True, relay=connection.host.relay)
