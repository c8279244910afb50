"""How often, and how often at once, a client may come: ``smtpd_client_*_limit``.

:class:`ClientLimits` are those of one smtpd service; ``of(request)`` gives the :class:`ClientCounts` of one
session, or None for a client that is not counted (``smtpd_client_event_limit_exceptions``,
``smtpd_authorized_xclient_hosts``, or no limit at all).  Each of its questions counts an event and gives the
reply where there were too many, already logged, else None.  Counts are shared by all processes
(:mod:`mtad.policy.anvil`) and belong to the pair of service and client, of its address as far as
``smtpd_client_ipv4_prefix_length`` and the like.

Nothing is raised.  Postfix counterpart: the anvil parts of ``smtpd.c``,
``inet_prefix_top(3)``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mtad.errors import MtadError
from mtad.policy.anvil import AUTH, MESSAGE, NEW_TLS, RECIPIENT, Anvil, Session
from mtad.tables import AddressList
from mtad.wire import events as ev
from mtad.wire.reply import Reply

if TYPE_CHECKING:
    from mtad.config.parameters import Parameters
    from mtad.maillog import MailLog
    from mtad.policy.request import Request


def client_range(address: str, ipv4: int, ipv6: int) -> str:
    """The network that counts as one client with ``address``."""
    try:
        known = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    length = ipv4 if known.version == 4 else ipv6
    if length >= known.max_prefixlen:
        return str(known)
    return str(ipaddress.ip_network((int(known), length), strict=False))


@dataclass(frozen=True, slots=True)
class Limits:
    """0: none."""

    sessions: int
    connections: int
    messages: int
    recipients: int
    new_tls: int
    auth: int


class ClientLimits:
    """See the module."""

    def __init__(self, p: Parameters, service: str, anvil: Anvil, log: MailLog) -> None:
        self.anvil = anvil
        self.log = log
        self.service = service
        self.unit = p.seconds("anvil_rate_time_unit")
        self.myhostname = p["myhostname"]
        self.limits = Limits(
            sessions=p.number("smtpd_client_connection_count_limit"),
            connections=p.number("smtpd_client_connection_rate_limit"),
            messages=p.number("smtpd_client_message_rate_limit"),
            recipients=p.number("smtpd_client_recipient_rate_limit"),
            new_tls=p.number("smtpd_client_new_tls_session_rate_limit"),
            auth=p.number("smtpd_client_auth_rate_limit"),
        )
        self._prefixes = (
            p.number("smtpd_client_ipv4_prefix_length"),
            p.number("smtpd_client_ipv6_prefix_length"),
        )
        self._spared: list[AddressList] = []
        self._any = self.limits != Limits(0, 0, 0, 0, 0, 0)
        if self._any:
            self._spare(p, "smtpd_client_event_limit_exceptions", p["smtpd_client_event_limit_exceptions"])
            self._spare(p, "smtpd_authorized_xclient_hosts", p["smtpd_authorized_xclient_hosts"])

    def _spare(self, p: Parameters, name: str, patterns: str) -> None:
        if patterns:
            parents = name in p.words("parent_domain_matches_subdomains")
            self._spared.append(
                AddressList(name, patterns, p.directory, parent_matches=parents, warn=self.log.warning)
            )

    async def of(self, request: Request, client: str) -> ClientCounts | None:
        """What is counted of a session; ``client``: as log lines name it."""
        if not self._any:
            return None
        for hosts in self._spared:
            try:
                if await hosts.matches(request.client_address, request.client_name):
                    return None
            except MtadError as error:  # nobody is spared whom we can't find
                self.log.warning(str(error))
        return ClientCounts(self, request.client_address, client)

    def ident(self, address: str) -> str:
        """The pair that ``address`` counts for."""
        return f"{self.service}:{client_range(address, *self._prefixes)}"

    def close(self) -> None:
        """Let go of the lists' tables."""
        for hosts in self._spared:
            hosts.close()


class ClientCounts:
    """One session's counts.  See the module."""

    __slots__ = ("_address", "_client", "_ident", "_owner", "_session")

    def __init__(self, owner: ClientLimits, address: str, client: str) -> None:
        self._owner = owner
        self._address = address
        self._client = client
        self._ident = owner.ident(address)
        self._session: Session | None = None

    def connect(self) -> Reply | None:
        """The session begins."""
        owner = self._owner
        session = self._session = owner.anvil.connect(self._ident, owner.unit)
        if session is None:
            return None
        limits = owner.limits
        if session.sessions > limits.sessions > 0:
            self._exceeded("Connection concurrency", session.sessions)
        elif session.rate > limits.connections > 0:
            self._exceeded("Connection rate", session.rate)
        else:
            return None
        text = f"{owner.myhostname} Error: too many connections from {self._address}"
        return Reply(421, text.encode(), b"4.7.0")

    def disconnect(self) -> None:
        """The session is over."""
        session, self._session = self._session, None
        if session is not None:
            self._owner.anvil.disconnect(session)

    def command(self, event: ev.Event) -> Reply | None:
        """The client has given a command; those that count nothing are None."""
        count = _COUNTED.get(type(event))
        return count(self) if count is not None else None

    def refused(self, verb: bytes, reply: Reply) -> Reply | None:
        """A command that the engine answers with ``reply``: counted where Postfix looks at limits first."""
        count = _COUNTED_VERBS.get(verb)
        if count is None or reply.code == 530:
            return None
        early = reply.code in (502, 503) or reply.text.startswith(b"Syntax: ")
        return None if early and verb != b"AUTH" else count(self)

    def message(self) -> Reply | None:
        """MAIL."""
        limit = self._owner.limits.messages
        return self._event(MESSAGE, limit, "Message delivery request", "too much mail")

    def recipient(self) -> Reply | None:
        """RCPT or VRFY."""
        limit = self._owner.limits.recipients
        return self._event(RECIPIENT, limit, "Recipient address", "too many recipients")

    def auth(self) -> Reply | None:
        """AUTH."""
        return self._event(AUTH, self._owner.limits.auth, "AUTH command", "too many AUTH commands")

    def _event(self, event: int, limit: int, what: str, said: str) -> Reply | None:
        if not limit:
            return None
        rate = self._owner.anvil.event(self._ident, event, self._owner.unit)
        if rate <= limit:
            return None
        self._exceeded(f"{what} rate", rate)
        return Reply(450, f"Error: {said} from {self._address}".encode(), b"4.7.1")

    # -- TLS

    def begin_tls(self, wrapper: bool) -> Reply | None:
        """TLS is about to begin: not for those who had too many handshakes before."""
        owner = self._owner
        limit = owner.limits.new_tls
        if not limit or owner.anvil.rate(self._ident, NEW_TLS, owner.unit) <= limit:
            return None
        what = "TLS service" if wrapper else "STARTTLS"
        owner.log.warning(f"Refusing {what} request from {self._client} for service {owner.service}")
        return Reply(454, f"Error: too many new TLS sessions from {self._client}".encode(), b"4.7.0")

    def new_tls(self) -> Reply | None:
        """A handshake that was no resumption, whether or not it has succeeded."""
        owner = self._owner
        limit = owner.limits.new_tls
        if not limit:
            return None
        rate = owner.anvil.event(self._ident, NEW_TLS, owner.unit)
        if rate <= limit:
            return None
        self._exceeded("New TLS session rate", rate)
        text = f"{owner.myhostname} Error: too many new TLS sessions from {self._client}"
        return Reply(421, text.encode(), b"4.7.0")

    def _exceeded(self, what: str, value: int) -> None:
        owner = self._owner
        owner.log.warning(f"{what} limit exceeded: {value} from {self._client} for service {owner.service}")


_COUNTED: dict[type, Callable[[ClientCounts], Reply | None]] = {
    ev.Auth: ClientCounts.auth,
    ev.Mail: ClientCounts.message,
    ev.Rcpt: ClientCounts.recipient,
    ev.Vrfy: ClientCounts.recipient,
}

_COUNTED_VERBS = {
    b"AUTH": ClientCounts.auth,
    b"MAIL": ClientCounts.message,
    b"RCPT": ClientCounts.recipient,
    b"VRFY": ClientCounts.recipient,
}
