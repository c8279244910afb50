"""This host's own addresses and networks.

:func:`local_addresses` asks the kernel (``getifaddrs(3)``) for the addresses of interfaces that
are up; :func:`own_addresses` narrows them to ``inet_interfaces`` and ``inet_protocols``;
:func:`mynetworks` computes the default of that parameter, and :func:`facts` packs it up for the
configuration.  Names in ``inet_interfaces`` are looked up with the system's resolver, so call
these before the reactor runs.  Raises :class:`~mtad.errors.ConfigError`.

Postfix counterpart: ``inet_proto.c``, ``inet_addr_local.c``, ``own_inet_addr.c``, ``mynetworks.c``.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from mtad.config.parameters import Facts, Parameters
from mtad.errors import ConfigError

IPV4 = "ipv4"
IPV6 = "ipv6"
FAMILY = {IPV4: socket.AF_INET, IPV6: socket.AF_INET6}

_IFF_UP = 1

_LIBC = ctypes.CDLL(None, use_errno=True)

#: Seconds that :class:`OwnAddresses` believes what it has found.
_BELIEVED = 60.0

#: an address and its network's prefix length
Interface = tuple[IPv4Address | IPv6Address, int]


class _IfAddrs(ctypes.Structure):
    """``struct ifaddrs``."""


_IfAddrs._fields_ = [
    ("next", ctypes.POINTER(_IfAddrs)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.c_void_p),
    ("netmask", ctypes.c_void_p),
    ("peer", ctypes.c_void_p),
    ("data", ctypes.c_void_p),
]


def _raw_address(pointer: int, family: int) -> bytes:
    """The address in a ``struct sockaddr_in`` or ``sockaddr_in6``."""
    if family == socket.AF_INET:
        return ctypes.string_at(pointer + 4, 4)
    return ctypes.string_at(pointer + 8, 16)


def _interfaces(family: int) -> Iterator[Interface]:
    head = ctypes.POINTER(_IfAddrs)()
    if _LIBC.getifaddrs(ctypes.byref(head)) != 0:
        raise ConfigError(f"cannot list network interfaces: {os.strerror(ctypes.get_errno())}")
    try:
        entry = head
        while entry:
            item = entry.contents
            entry = item.next
            if not item.flags & _IFF_UP or not item.address or not item.netmask:
                continue
            (found,) = struct.unpack("=H", ctypes.string_at(item.address, 2))
            if found != family:
                continue
            address = ip_address(_raw_address(item.address, family))
            if not address.is_unspecified:
                mask = int.from_bytes(_raw_address(item.netmask, family), "big")
                yield address, mask.bit_count()
    finally:
        _LIBC.freeifaddrs(head)


def local_addresses(protocols: tuple[str, ...] = (IPV4, IPV6)) -> list[Interface]:
    """Addresses of all interfaces that are up, with prefix lengths, in the kernel's order."""
    return [interface for protocol in protocols for interface in _interfaces(FAMILY[protocol])]


@cache
def _has_ipv6() -> bool:
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


def protocols(p: Parameters) -> tuple[str, ...]:
    """``inet_protocols`` as far as the kernel has them, IPv4 first."""
    words = {word.lower() for word in p.words("inet_protocols")}
    if words - {"all", IPV4, IPV6}:
        raise ConfigError(
            f'bad value "{p["inet_protocols"]}"', parameter="inet_protocols", remedy="use all, ipv4 or ipv6"
        )
    wanted = (IPV4, IPV6) if "all" in words else tuple(word for word in (IPV4, IPV6) if word in words)
    return tuple(word for word in wanted if word == IPV4 or _has_ipv6())


def unbracket(host: str) -> str:
    """``[::1]`` without its brackets."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def resolve(host: str, wanted: tuple[str, ...]) -> list[str]:
    """The numeric addresses of a name or address by the system's resolver; it may block.

    Raises OSError where there are none.
    """
    found: list[str] = []
    for protocol in wanted:
        try:
            answers = socket.getaddrinfo(host, None, FAMILY[protocol], socket.SOCK_STREAM)
        except socket.gaierror as error:
            if protocol == wanted[-1] and not found:
                raise OSError(error.strerror) from error
            continue
        found += [str(answer[4][0]) for answer in answers]
    return list(dict.fromkeys(found))


def interfaces(p: Parameters) -> list[Interface]:
    """What ``inet_interfaces`` stands for: addresses with prefix lengths."""
    wanted = protocols(p)
    local = local_addresses(wanted)
    text = p["inet_interfaces"].strip()
    if text == "all":
        return local
    if text == "loopback-only":
        return [interface for interface in local if interface[0].is_loopback]
    prefix = dict(local)
    found: dict[IPv4Address | IPv6Address, int] = {}
    for word in p.words("inet_interfaces"):
        try:
            addresses = [ip_address(address) for address in resolve(unbracket(word), wanted)]
        except OSError:
            raise ConfigError(
                f"host not found: {word}", parameter="inet_interfaces", remedy="name addresses of this host"
            ) from None
        for address in addresses:
            if address not in prefix:
                raise ConfigError(
                    f"no local interface found for {address}",
                    parameter="inet_interfaces",
                    remedy="name addresses of this host, or all",
                )
            found[address] = prefix[address]
    return list(found.items())


def own_addresses(p: Parameters) -> tuple[str, ...]:
    """The addresses of ``inet_interfaces``, as text."""
    return tuple(dict.fromkeys(str(address) for address, _ in interfaces(p)))


class OwnAddresses:
    """:func:`own_addresses` for those that ask often, and while the reactor runs.

    What ``all`` stands for is looked up again after a minute, as a new smtp(8) would; then ConfigError comes
    only where nothing was ever found.  A list may have names, whose lookup takes time: it is read once, here.
    """

    def __init__(self, p: Parameters, clock: Callable[[], float] = time.monotonic) -> None:
        self._p = p
        self._clock = clock
        self._found: tuple[str, ...] | None = None
        self._until = 0.0
        if p["inet_interfaces"].strip() not in ("all", "loopback-only"):
            self._found, self._until = own_addresses(p), float("inf")

    def __call__(self) -> tuple[str, ...]:
        now = self._clock()
        if self._found is None or now >= self._until:
            try:
                self._found = own_addresses(self._p)
            except ConfigError:
                if self._found is None:
                    raise
            self._until = now + _BELIEVED
        return self._found


def _class_prefix(address: IPv4Address) -> int:
    first = int(address) >> 24
    return 8 if first < 128 else 16 if first < 192 else 24 if first < 224 else 4


def mynetworks(style: str, local: list[Interface]) -> str:
    """The default of ``mynetworks`` for a ``mynetworks_style``."""
    if style not in ("class", "subnet", "host"):
        raise ConfigError(
            f'bad value "{style}"', parameter="mynetworks_style", remedy="use host, subnet or class"
        )
    patterns = []
    for address, subnet in local:
        prefix: int = address.max_prefixlen if style == "host" else subnet
        if style == "class" and isinstance(address, IPv4Address):
            prefix = _class_prefix(address)
        network = ip_network((address, prefix), strict=False)
        host = str(network.network_address)
        patterns.append(f"[{host}]/{prefix}" if address.version == 6 else f"{host}/{prefix}")
    return " ".join(dict.fromkeys(patterns))


def facts(p: Parameters | None = None) -> Facts:
    """What defaults depend on: this host's name and networks.

    The networks are those of the interfaces that ``p`` names: load the configuration, call this with it,
    and load it again with the result.  Without ``p``: of all interfaces.
    """
    local = local_addresses() if p is None else interfaces(p)
    return Facts(hostname=os.uname().nodename, mynetworks=lambda style: mynetworks(style, local))
