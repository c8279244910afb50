"""From a next hop as written in the configuration to the addresses to try, in order.

:func:`parse_destination` reads ``host``, ``host:port``, ``[host]``, ``[host]:port``, ``[address]``,
``[ipv6:address]:port``; brackets mean: no MX or SRV lookup.  :meth:`HostFinder.find` asks the DNS
(RFC 5321 section 5.1, RFC 7505, RFC 2782) and gives :class:`Hosts`, the best first.  Both raise
:class:`HopError`, which says what Postfix says.

Postfix counterpart: ``smtp_parse_destination``, ``host_port(3)``, ``smtp_addr(3)``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from mtad.config.parameters import Parameters
from mtad.deliver.names import DISABLED, Names, Srv, dns_support
from mtad.errors import MtadError, TableError
from mtad.maillog import MailLog
from mtad.net.dns import DnsError, DnsStatus, to_ascii, valid_hostname
from mtad.net.interfaces import protocols, unbracket
from mtad.net.lookup import is_address
from mtad.tables import StringList

_SMTP_PORT = 25


class HopError(MtadError):
    """A next hop that leads nowhere (now, or at all).  ``mine``: it leads to this host."""

    def __init__(self, dsn: str, text: str, *, temporary: bool, mine: bool = False) -> None:
        self.dsn = dsn
        self.text = text
        self.temporary = temporary
        self.mine = mine
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class Destination:
    """A next hop: ``text`` as written, ``literal`` when brackets forbid the MX lookup, ``service`` the port
    as written."""

    text: str
    host: str
    port: int
    literal: bool
    service: str = ""

    @property
    def srv(self) -> str:
        """The name of its SRV records."""
        return f"_{self.service}._tcp.{self.host}"


@dataclass(frozen=True, slots=True)
class Host:
    """One address to connect to; ``destination`` is what led to it, ``by`` a record of that type, if any (MX,
    SRV)."""

    name: str
    address: str
    port: int
    preference: int
    destination: Destination
    by: str = ""

    @property
    def asked(self) -> str:
        """The name that the record is of."""
        return self.destination.srv if self.by == "SRV" else self.destination.host

    @property
    def path(self) -> bool:
        """Whether it is a UNIX-domain socket."""
        return not self.port

    @property
    def pair(self) -> str:
        """``name[address]``, as it stands in texts."""
        return f"{self.name}[{self.address}]"

    @property
    def relay(self) -> str:
        """``name[address]:port``, as it stands in log lines."""
        return f"{self.name}[{self.address}]:{self.port}" if self.port else self.pair


@dataclass(frozen=True, slots=True)
class Hosts:
    """The addresses of a destination in the order to try them, never none.

    ``final``: we are one of its hosts ourselves, and try no other destination after these.
    """

    hosts: Sequence[Host]
    final: bool = False

    @property
    def best(self) -> int:
        """The preference of the best ones."""
        return self.hosts[0].preference


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
    if not problem and not (valid_hostname(to_ascii(host)) or is_address(host)):
        problem = "valid hostname or network address required"
    if not problem:
        number = port_of(port or default_port)
        if number is not None:
            return Destination(written, host, number, literal or is_address(host), port or default_port)
        problem = f"unknown service: {port or default_port}/tcp"
    raise HopError("4.3.5", f"{problem} in server description: {written}", temporary=True)


def numeric(words: Iterable[str]) -> frozenset[str]:
    """The addresses among ``words``, each in its one form."""
    bare = [unbracket(word) for word in words]
    return frozenset(str(ip_address(word)) for word in bare if is_address(word))


class HostFinder:
    """Finds the hosts of a destination by the rules of ``main.cf``.  ``lmtp``: without MX records."""

    def __init__(
        self,
        p: Parameters,
        names: Names,
        own_addresses: Callable[[], frozenset[str]] = frozenset,
        rng: random.Random | None = None,
        *,
        lmtp: bool = False,
        log: MailLog | None = None,
    ) -> None:
        self._names = names
        self._own = own_addresses
        self._rng = rng or random.Random()
        self._lmtp = lmtp
        self._log = log
        self._protocols = protocols(p)
        self._prefer = p.choice("smtp_address_preference")
        self._canonical = p.flag("smtp_cname_overrides_servername")
        self._shuffle = p.flag("smtp_randomize_addresses")
        self._limit = p.number("smtp_mx_address_limit")
        self._balance = p.flag("smtp_balance_inet_protocols")
        self._ignore_mx_error = p.flag("ignore_mx_lookup_error")
        self._defer_no_address = p.flag("smtp_defer_if_no_mx_address_found")
        self._no_dns = dns_support(p) == DISABLED
        name = "use_srv_lookup"
        self._services = StringList(name, p[name], p.directory) if p[name] else None
        self._ignore_srv_error = p.flag("ignore_srv_lookup_error")
        self._srv_fallback = p.flag("allow_srv_lookup_fallback")

    async def find(self, destination: Destination) -> Hosts:
        """The addresses of ``destination``."""
        if is_address(destination.host):
            address = ip_address(destination.host)
            if f"ipv{address.version}" in self._protocols:
                host = Host(destination.host, str(address), destination.port, 0, destination)
                return Hosts(self._not_me(destination, [host]))
        plain = destination.literal or self._no_dns
        if not plain and self._services and await self._is_service(self._services, destination.service):
            return await self._by_service(destination)
        if plain or self._lmtp:
            return await self._by_host(destination)
        return await self._by_domain(destination)

    async def _is_service(self, services: StringList, name: str) -> bool:
        """``use_srv_lookup``."""
        try:
            return await services.matches(name.encode())
        except TableError as error:
            self._warn(str(error))
            return False

    async def _by_host(self, destination: Destination) -> Hosts:
        found = await self._addresses(destination, [(0, destination.port, destination.host)])
        return Hosts(self._balanced(self._ordered(self._not_me(destination, found))))

    async def _by_domain(self, destination: Destination) -> Hosts:
        try:
            records = await self._names.mx(destination.host)
        except DnsError as error:
            lookup_failed = error.status not in (DnsStatus.NULL_MX, DnsStatus.POLICY)
            if not (lookup_failed and self._ignore_mx_error):
                raise _hop_error(error) from error
            records = []
        if not records:
            return await self._by_host(destination)
        targets = [(preference, destination.port, name) for preference, name in records]
        try:
            found = await self._addresses(destination, targets, "MX")
        except HopError as error:
            self._warn(f"no MX host for {destination.host} has a valid address record")
            if error.temporary or not self._defer_no_address:
                raise
            raise HopError("4" + error.dsn[1:], error.text, temporary=True) from error
        best = min(preference for preference, _ in records)
        better = self._without_loop(destination, found, destination.host, best)
        return Hosts(self._balanced(self._ordered(better)), len(better) < len(found))

    async def _by_service(self, destination: Destination) -> Hosts:
        """By SRV records, or as without them where that is allowed."""
        query = destination.srv
        fallback = self._srv_fallback
        try:
            try:
                records = await self._names.srv(query)
            except DnsError as error:
                known = (DnsStatus.NULL_MX, DnsStatus.POLICY, DnsStatus.NOT_FOUND)
                fallback |= self._ignore_srv_error and error.status not in known
                raise _hop_error(error) from error
            targets = [(priority, port, name) for priority, _, port, name in self._weighed(records)]
            try:
                found = await self._addresses(destination, targets, "SRV")
            except HopError:
                self._warn(f"no SRV host for {query} has a valid address record")
                raise
            better = self._without_loop(destination, found, query, targets[0][0])
        except HopError as error:
            if not fallback:
                raise
            if self._log is not None:
                self._log.info(f"skipping SRV lookup for {query}: {error.text}")
            return await (self._by_host(destination) if self._lmtp else self._by_domain(destination))
        return Hosts(self._balanced(better), len(better) < len(found))

    async def _addresses(
        self, destination: Destination, targets: Sequence[tuple[int, int, str]], by: str = ""
    ) -> list[Host]:
        """The addresses of these (preference, port, name), which come ``by`` such records; never none."""
        found: list[Host] = []
        failure: DnsError | None = None
        temporary = False
        for preference, port, name in targets:
            try:
                addresses = await self._names.addresses(name, self._protocols)
            except DnsError as error:
                failure = error
                temporary |= error.dsn.startswith("4")
                continue
            shown = await self._names.canonical(name) if self._canonical else name
            found += [Host(shown, address, port, preference, destination, by) for address in addresses]
        if found:
            return found
        if failure is None:
            text = f"unable to look up host {targets[0][2]}: no address"
            raise HopError("4.4.4", text, temporary=True)
        raise HopError("4" + failure.dsn[1:] if temporary else failure.dsn, failure.text, temporary=temporary)

    def _warn(self, text: str) -> None:
        if self._log is not None:
            self._log.warning(text)

    def _weighed(self, records: Sequence[Srv]) -> list[Srv]:
        """In the order of RFC 2782: by priority, then at random by weight."""
        left = list(records)
        self._rng.shuffle(left)
        left.sort(key=lambda record: record[0])
        ordered: list[Srv] = []
        while left:
            equal = [record for record in left if record[0] == left[0][0]]
            threshold = self._rng.randint(0, sum(record[1] for record in equal))
            for record in equal:
                threshold -= record[1]
                if threshold <= 0:
                    break
            ordered.append(record)
            left.remove(record)
        return ordered

    def _ordered(self, hosts: list[Host]) -> list[Host]:
        if self._shuffle:
            self._rng.shuffle(hosts)
        wanted = {"ipv4": False, "ipv6": True}.get(self._prefer)
        if wanted is None:
            return sorted(hosts, key=lambda host: host.preference)
        return sorted(hosts, key=lambda host: (host.preference, (":" in host.address) != wanted))

    def _balanced(self, hosts: list[Host]) -> list[Host]:
        """No more than ``smtp_mx_address_limit``, and some of each protocol among them."""
        limit = self._limit
        if not limit or not self._balance:
            return hosts
        six = sum(":" in host.address for host in hosts)
        four = len(hosts) - six
        if not six or not four or len(hosts) <= limit:
            return hosts
        if six <= limit // 2:
            room = {True: six, False: limit - six}
        elif four <= limit // 2:
            room = {True: limit - four, False: four}
        else:
            mine = (limit + (":" not in hosts[0].address)) // 2
            room = {True: limit - mine, False: mine}
        kept: list[Host] = []
        for host in hosts:
            kind = ":" in host.address
            if room[kind] > 0:
                room[kind] -= 1
                kept.append(host)
        return kept

    def _not_me(self, destination: Destination, hosts: list[Host]) -> list[Host]:
        """The same, unless one of them is this host: mail would come back."""
        if not self._lmtp and destination.port == _SMTP_PORT:
            own = self._own()
            if any(host.address in own for host in hosts):
                raise _loop(destination.host)
        return hosts

    def _without_loop(self, destination: Destination, hosts: list[Host], name: str, best: int) -> list[Host]:
        """Only hosts better than this one; it would come back (RFC 5321 section 5.1)."""
        if self._lmtp or destination.port != _SMTP_PORT:
            return hosts
        own = self._own()
        mine = min((host.preference for host in hosts if host.address in own), default=None)
        if mine is None:
            return hosts
        better = [host for host in hosts if host.preference < mine]
        if better:
            return better
        if best != min(host.preference for host in hosts):
            raise HopError("4.4.4", f"unable to find primary relay for {name}", temporary=True, mine=True)
        raise _loop(name)


def _hop_error(error: DnsError) -> HopError:
    return HopError(error.dsn, error.text, temporary=error.dsn.startswith("4"))


def _loop(name: str) -> HopError:
    return HopError("5.4.6", f"mail for {name} loops back to myself", temporary=False, mine=True)
