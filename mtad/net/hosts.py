"""Who is the client?  Its verified name, or ``unknown``.

:func:`peername` looks the address up in /etc/hosts, then in the DNS, and then the name found the other way
round: only a name that leads back to the address counts.  What is in /etc/hosts or in the resolver's cache
comes without waiting.  Nothing is raised: a lookup that fails gives ``unknown`` and a status.

RFC 8601 section 2.7.3 (iprev) describes the same check.  Postfix counterpart: ``smtpd_peer.c``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from ipaddress import ip_address

from mtad.net.dns import DnsError, Resolver, valid_hostname
from mtad.net.hosts_file import canonical

UNKNOWN = "unknown"


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


def _failed(address: str, status: PeerStatus) -> PeerName:
    return PeerName(address, status=status, reverse_status=status)


def client_address(address: str) -> str:
    """A peer's address without an interface's name, and an IPv4 address that was mapped into IPv6 as such."""
    address = address.partition("%")[0]
    if not address.lower().startswith("::ffff:"):
        return address
    mapped = getattr(ip_address(address), "ipv4_mapped", None)
    return address if mapped is None else str(mapped)


async def peername(resolver: Resolver, address: str, *, lookup: bool = True) -> PeerName:
    """The names of a client.  Without ``lookup`` (``smtpd_peername_lookup``) it has none."""
    address = client_address(address)
    if not lookup:
        return _failed(address, PeerStatus.UNKNOWN)
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
