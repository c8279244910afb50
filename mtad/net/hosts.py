"""Who is the client?  Its verified name, or ``unknown``.

:class:`PeerNames` looks the address up in /etc/hosts, then in the DNS, and then the name found the other
way round: only a name that leads back to the address counts.  What is found in /etc/hosts, or was found a
while ago, comes without waiting.  Nothing is raised: a lookup that fails gives ``unknown`` and a status.

RFC 8601 section 2.7.3 (iprev) describes the same check.  Postfix counterpart: ``smtpd_peer.c``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import ip_address

from mtad.net.dns import DnsError, Resolver, valid_hostname
from mtad.net.hosts_file import canonical

UNKNOWN = "unknown"

#: Bounds of the memory: addresses, and how long a finding, and a failure that may pass, is believed
CACHE_LIMIT = 2000
LIFETIME = 60
FAILURE_LIFETIME = 5


class PeerStatus(IntEnum):
    """What became of a lookup; the numbers are Postfix's."""

    OK = 2
    TEMPORARY = 4
    UNKNOWN = 5
    FORGED = 6


@dataclass(frozen=True, slots=True)
class PeerName:
    """A client's names.  ``warning`` is a line for the log, where the name did not lead back to it."""

    address: str
    name: str = UNKNOWN
    reverse_name: str = UNKNOWN
    status: PeerStatus = PeerStatus.UNKNOWN
    reverse_status: PeerStatus = PeerStatus.UNKNOWN
    warning: str = ""

    @property
    def namaddr(self) -> str:
        """``name[address]``, as replies and logs have it."""
        return f"{self.name}[{self.address}]"


def _failed(address: str, status: PeerStatus) -> PeerName:
    return PeerName(address, status=status, reverse_status=status)


def client_address(address: str) -> str:
    """A peer's address without an interface's name, and an IPv4 address that was mapped into IPv6 as such."""
    address = address.partition("%")[0]
    if not address.lower().startswith("::ffff:"):
        return address
    mapped = getattr(ip_address(address), "ipv4_mapped", None)
    return address if mapped is None else str(mapped)


async def peername(resolver: Resolver, address: str) -> PeerName:
    """The names of ``address``, looked up now."""
    host = canonical(address)
    name = resolver.hosts.name(host)
    if name is None:
        try:
            name = await resolver.ptr(host)
        except DnsError as error:
            return _failed(address, PeerStatus.TEMPORARY if error.temporary else PeerStatus.UNKNOWN)
    elif not valid_hostname(name):
        return _failed(address, PeerStatus.UNKNOWN)
    status, reason = PeerStatus.FORGED, ""
    try:
        found = await resolver.native_addresses(name, ("ipv6" if ":" in host else "ipv4",))
    except DnsError as error:
        reason = f": {error.text.rpartition(': ')[2]}"
        if error.temporary:
            status = PeerStatus.TEMPORARY
    else:
        if host in found:
            return PeerName(address, name, name, PeerStatus.OK, PeerStatus.OK)
    warning = f"hostname {name} does not resolve to address {address}{reason}"
    return PeerName(address, UNKNOWN, name, status, PeerStatus.OK, warning)


class PeerNames:
    """:func:`peername` with a memory."""

    def __init__(self, resolver: Resolver, clock: Callable[[], float]) -> None:
        self._resolver = resolver
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, PeerName]] = OrderedDict()

    async def lookup(self, address: str) -> PeerName:
        """The names of ``address``, as they are or were within the last minute."""
        found = self._known.get(address)
        now = self._clock()
        if found is not None and found[0] > now:
            return found[1]
        if self._resolver.hosts.name(address) is not None:
            return await peername(self._resolver, address)
        result = await peername(self._resolver, address)
        passing = PeerStatus.TEMPORARY in (result.status, result.reverse_status)
        self._known[address] = (now + (FAILURE_LIFETIME if passing else LIFETIME), result)
        self._known.move_to_end(address)
        if len(self._known) > CACHE_LIMIT:
            self._known.popitem(last=False)
        return result
