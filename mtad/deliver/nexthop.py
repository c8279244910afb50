"""From a next hop as written in the configuration to the addresses to try, in order.

:func:`parse_destination` reads ``host``, ``host:port``, ``[host]``, ``[host]:port``, ``[address]``,
``[ipv6:address]:port``; brackets mean: no MX lookup.  :meth:`HostFinder.find` asks the DNS
(RFC 5321 section 5.1, RFC 7505) and gives :class:`Host` values, the best first.  Both raise
:class:`HopError`, which says what Postfix says.

Postfix counterpart: ``smtp_parse_destination``, ``host_port(3)``, ``smtp_addr(3)``.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from mtad.config.parameters import Parameters
from mtad.errors import MtadError
from mtad.net.dns import DnsError, Resolver
from mtad.net.interfaces import protocols

_HOSTNAME = re.compile(r"(?!-)[^\s:\[\]/@<>,]{1,255}")
_SMTP_PORT = 25


class HopError(MtadError):
    """A next hop that leads nowhere (now, or at all)."""

    def __init__(self, dsn: str, text: str, *, temporary: bool) -> None:
        self.dsn = dsn
        self.text = text
        self.temporary = temporary
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class Destination:
    """A next hop: ``text`` as written, ``literal`` when brackets forbid the MX lookup."""

    text: str
    host: str
    port: int
    literal: bool


@dataclass(frozen=True, slots=True)
class Host:
    """One address to connect to; ``destination`` is what led to it."""

    name: str
    address: str
    port: int
    preference: int
    destination: Destination

    @property
    def pair(self) -> str:
        """``name[address]``, as it stands in texts."""
        return f"{self.name}[{self.address}]"

    @property
    def relay(self) -> str:
        """``name[address]:port``, as it stands in log lines."""
        return f"{self.name}[{self.address}]:{self.port}"


def parse_destination(text: str, default_port: str, port_of: Callable[[str], int | None]) -> Destination:
    """Read one element of a next hop; ``port_of`` gives the number of a port or service.

    Raises HopError (temporary: it is the operator's to mend) when it is malformed.
    """
    written = text.strip()
    literal = written.startswith("[")
    if literal:
        host, bracket, rest = written[1:].partition("]")
        problem = "" if bracket and (not rest or rest.startswith(":")) else 'missing "]"'
        port = rest[1:]
        problem = problem or ("missing port" if rest == ":" else "")
        host = host[5:] if host[:5].lower() == "ipv6:" else host
    else:
        host, colon, port = written.partition(":")
        problem = "missing port" if colon and not port else ""
    if not problem and not (_HOSTNAME.fullmatch(host) or (literal and is_address(host))):
        problem = "valid hostname or network address required"
    if not problem:
        number = port_of(port or default_port)
        if number is not None:
            return Destination(written, host, number, literal or is_address(host))
        problem = f"unknown service: {port or default_port}/tcp"
    raise HopError("4.3.5", f"{problem} in server description: {written}", temporary=True)


def is_address(text: str) -> bool:
    """Whether ``text`` is an IPv4 or IPv6 address."""
    if not text[-1:].isalnum() and text[-1:] != ":":
        return False
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


class HostFinder:
    """Finds the hosts of a destination by the rules of ``main.cf``."""

    def __init__(
        self,
        p: Parameters,
        resolver: Resolver,
        own_addresses: Callable[[], frozenset[str]] = frozenset,
        rng: random.Random | None = None,
    ) -> None:
        self._resolver = resolver
        self._own = own_addresses
        self._rng = rng or random.Random()
        self._protocols = protocols(p)
        self._prefer = p["smtp_address_preference"]
        self._shuffle = p.flag("smtp_randomize_addresses")
        self._ignore_mx_error = p.flag("ignore_mx_lookup_error")
        self._defer_no_address = p.flag("smtp_defer_if_no_mx_address_found")
        self._no_dns = p.flag("disable_dns_lookups") or p["smtp_dns_support_level"] == "disabled"

    async def find(self, destination: Destination) -> list[Host]:
        """The addresses of ``destination`` in the order to try them, never none."""
        if is_address(destination.host):
            return [Host(destination.host, destination.host, destination.port, 0, destination)]
        if destination.literal or self._no_dns:
            return self._ordered(await self._by_names(destination, [(0, destination.host)]))
        try:
            records = await self._resolver.mx(destination.host)
        except DnsError as error:
            if not (error.temporary and self._ignore_mx_error):
                raise HopError(error.dsn, error.text, temporary=error.temporary) from error
            records = []
        if not records:
            return self._ordered(await self._by_names(destination, [(0, destination.host)]))
        hosts = self._ordered(await self._by_names(destination, records))
        return self._without_loop(destination, hosts) if destination.port == _SMTP_PORT else hosts

    async def _by_names(self, destination: Destination, records: Sequence[tuple[int, str]]) -> list[Host]:
        found: list[Host] = []
        failure: DnsError | None = None
        for preference, name in records:
            try:
                addresses = await self._resolver.addresses(name, self._protocols)
            except DnsError as error:
                if failure is None or error.temporary:
                    failure = error
                continue
            found += [Host(name, address, destination.port, preference, destination) for address in addresses]
        if found:
            return found
        if failure is None:
            text = f"unable to look up host {records[0][1]}: no address"
            raise HopError("4.4.4", text, temporary=True)
        temporary = failure.temporary or (len(records) > 1 and self._defer_no_address)
        dsn = failure.dsn if temporary == failure.temporary else "4" + failure.dsn[1:]
        raise HopError(dsn, failure.text, temporary=temporary)

    def _ordered(self, hosts: list[Host]) -> list[Host]:
        if self._shuffle:
            self._rng.shuffle(hosts)
        wanted = {"ipv4": False, "ipv6": True}.get(self._prefer)
        if wanted is None:
            return sorted(hosts, key=lambda host: host.preference)
        return sorted(hosts, key=lambda host: (host.preference, (":" in host.address) != wanted))

    def _without_loop(self, destination: Destination, hosts: list[Host]) -> list[Host]:
        """Only hosts better than this one; it would come back (RFC 5321 section 5.1)."""
        own = self._own()
        mine = min((host.preference for host in hosts if host.address in own), default=None)
        if mine is None:
            return hosts
        better = [host for host in hosts if host.preference < mine]
        if better:
            return better
        raise HopError("5.4.6", f"mail for {destination.host} loops back to myself", temporary=False)
