"""The PROXY protocol: what a load balancer tells, ahead of all else, about who is connecting.

:class:`ProxyHeader` reads a header of version 1 or 2 from bytes that were looked at and not yet taken:
``take`` says how many belong to the header, so that what follows it, which may be TLS, stays where it is.  A
header may come in pieces (Postfix wants it in one).  Raises :class:`ProxyError`, whose text is Postfix's.

haproxy's ``proxy-protocol.txt``.  Postfix counterpart: ``haproxy_srvr.c``.  Type-length-value parts of
version 2 are skipped; ``UNKNOWN`` of version 1 is refused, since it would evade what goes by addresses.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass

#: No header is longer: version 1 takes 107 bytes, version 2 some addresses and a few tokens.
LONGEST = 536

_V1 = b"PROXY "
_V2 = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_HEAD = 16
_V1_LONGEST = 107
_BLANKS = b" \r"


class ProxyError(Exception):
    """What was sent is no header that can be used."""


@dataclass(frozen=True, slots=True)
class Proxied:
    """The ends of the connection that the proxy speaks for."""

    client_address: str
    client_port: str
    server_address: str
    server_port: str


class ProxyHeader:
    """A header as it comes in.  Once ``complete``, ``ends`` tells of the connection; None: it is the proxy's
    own."""

    def __init__(self, ipv4: bool = True, ipv6: bool = True) -> None:
        """``ipv4``, ``ipv6``: which addresses are used here (``inet_protocols``)."""
        self._ipv4, self._ipv6 = ipv4, ipv6
        self.data = b""
        self.complete = False
        self.ends: Proxied | None = None

    def take(self, seen: bytes) -> int:
        """How many bytes of ``seen`` belong to the header; they are taken."""
        before = len(self.data)
        whole = self.data + seen
        size = self._size(whole)
        self.data = whole[:size]
        return len(self.data) - before

    def _size(self, data: bytes) -> int:
        """How many bytes of ``data`` are the header's; sets ``complete``."""
        if data.startswith(_V1) or _V1.startswith(data):
            end = data.find(b"\n", 0, _V1_LONGEST)
            if end < 0:
                if len(data) >= _V1_LONGEST:
                    raise ProxyError("missing protocol header terminator")
                return len(data)
            self.ends = self._version1(data[: end + 1])
            self.complete = True
            return end + 1
        if not (data.startswith(_V2) or _V2.startswith(data)):
            short = len(data) < _V2_HEAD
            raise ProxyError("short protocol header" if short else "unrecognized protocol header")
        if len(data) < _V2_HEAD:
            return len(data)
        return self._version2(data)

    def _version1(self, line: bytes) -> Proxied:
        words = iter(line.rstrip(b"\n").translate(bytes.maketrans(_BLANKS, b"  ")).split(b" "))
        tokens = (word.decode("ascii", "replace") for word in words if word)
        next(tokens)
        family = _family(next(tokens, "").upper(), self._ipv4, self._ipv6)
        if not family:
            raise ProxyError("bad or missing protocol type")
        client = _address(next(tokens, ""), family)
        if not client:
            raise ProxyError("bad or missing client address")
        server = _address(next(tokens, ""), family)
        if not server:
            raise ProxyError("bad or missing server address")
        client_port, server_port = next(tokens, ""), next(tokens, "")
        if not _port(client_port):
            raise ProxyError("bad or missing client port")
        if not _port(server_port):
            raise ProxyError("bad or missing server port")
        return Proxied(client, client_port, server, server_port)

    def _version2(self, data: bytes) -> int:
        version, family, length = struct.unpack_from("!BBH", data, len(_V2))
        if version & 0xF0 != 0x20:
            raise ProxyError("unrecognized protocol version")
        size = _V2_HEAD + int(length)
        if size > LONGEST:
            raise ProxyError("short version 2 protocol header")
        if len(data) < size:
            return len(data)
        command = version & 0x0F
        if command == 1:
            self.ends = self._addresses(family, data[_V2_HEAD:size])
        elif command != 0:
            raise ProxyError("bad command in proxy header")
        self.complete = True
        return size

    def _addresses(self, family: int, data: bytes) -> Proxied:
        kinds = {0x11: (4, socket.AF_INET, self._ipv4), 0x21: (16, socket.AF_INET6, self._ipv6)}
        if family not in kinds:
            raise ProxyError("unsupported network protocol")
        size, kind, used = kinds[family]
        if not used:
            raise ProxyError(f"Postfix IPv{4 if size == 4 else 6} support is disabled")
        if len(data) < 2 * size + 4:
            raise ProxyError("short address field")
        client, server = (socket.inet_ntop(kind, data[at : at + size]) for at in (0, size))
        ports = struct.unpack_from("!HH", data, 2 * size)
        return Proxied(_plain(client), str(ports[0]), _plain(server), str(ports[1]))


def _family(word: str, ipv4: bool, ipv6: bool) -> int:
    if word == "TCP4" and ipv4:
        return 4
    return 6 if word == "TCP6" and ipv6 else 0


def _address(text: str, family: int) -> str:
    try:
        address = ipaddress.IPv4Address(text) if family == 4 else ipaddress.IPv6Address(text)
    except ValueError:
        return ""
    return _plain(str(address)) if "%" not in text else ""


def _plain(address: str) -> str:
    """An IPv4 address that was mapped into IPv6 as such."""
    mapped = getattr(ipaddress.ip_address(address), "ipv4_mapped", None)
    return address if mapped is None else str(mapped)


def _port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535
