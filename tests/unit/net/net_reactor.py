"""A reactor of our own, turned by hand, and a name server in it."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol
from twisted.python.failure import Failure

from mtad.net.dns_message import encode_name

T = TypeVar("T")


class Turned(EPollReactor):
    """Never runs; :meth:`until` turns it until something is true."""

    def until(self, happened: Callable[[], object], seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < deadline, "it did not happen"
            self.iterate(0.01)

    def finish(self, work: Coroutine[Any, Any, T] | Deferred[T]) -> T:
        """The result of a coroutine or Deferred."""
        results: list[Any] = []
        deferred = work if isinstance(work, Deferred) else ensureDeferred(work)
        deferred.addBoth(results.append)
        self.until(lambda: results)
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]  # type: ignore[no-any-return]

    def close(self) -> None:
        self.removeAll()
        self.iterate(0)


A, NS, CNAME, SOA, PTR, MX, TXT, AAAA = 1, 2, 5, 6, 12, 15, 16, 28
_NUMBER = {"A": A, "CNAME": CNAME, "PTR": PTR, "MX": MX, "TXT": TXT, "AAAA": AAAA, "TLSA": 52}


def data_of(type_: str, value: Any) -> bytes:
    match type_:
        case "A":
            return socket.inet_pton(socket.AF_INET, value)
        case "AAAA":
            return socket.inet_pton(socket.AF_INET6, value)
        case "MX":
            return struct.pack("!H", value[0]) + encode_name(value[1])
        case "TXT":
            return b"".join(bytes((len(part),)) + part for part in value)
        case "TLSA":
            return bytes(value)
    return encode_name(value)


class NameServer:
    """Answers from ``zone``: name to type to values; ``replies`` forces response codes by name."""

    def __init__(self, reactor: Turned) -> None:
        self.zone: dict[str, dict[str, list[Any]]] = {}
        self.codes: dict[str, int] = {}
        self.silent: set[str] = set()
        self.truncate = False
        self.authentic = False  # answers claim to have been validated
        self.garble: Callable[[bytes], bytes] | None = None
        self.asked: list[tuple[str, int, str]] = []
        self.ports: list[int] = []
        self._udp: Any
        self._tcp: Any
        while True:  # until a port is free for both
            self._udp = reactor.listenUDP(0, _Udp(self), "127.0.0.1")
            self.port: int = self._udp.getHost().port
            try:
                self._tcp = reactor.listenTCP(self.port, _TcpFactory(self), interface="127.0.0.1")
                break
            except CannotListenError:
                self._udp.stopListening()

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    def stop(self) -> None:
        self._udp.stopListening()
        self._tcp.stopListening()

    def reply(self, query: bytes, way: str) -> bytes | None:
        labels, offset = [], 12
        while query[offset]:
            labels.append(query[offset + 1 : offset + 1 + query[offset]].decode())
            offset += query[offset] + 1
        (type_,) = struct.unpack_from("!H", query, offset + 1)
        name = ".".join(labels).lower()
        self.asked.append((name, type_, way))
        if name in self.silent:
            return None
        question = query[12 : offset + 5]
        code = self.codes.get(name, 0 if name in self.zone else 3)
        flags = 0x8180 | code | (0x0200 if self.truncate and way == "udp" else 0)
        flags |= 0x20 if self.authentic else 0
        found = (
            []
            if code
            else [
                (_NUMBER[kind], data_of(kind, value))
                for kind, values in self.zone[name].items()
                if _NUMBER[kind] in (type_, CNAME)
                for value in values
            ]
        )
        soa = b"\0\0" + struct.pack("!5I", 1, 2, 3, 4, 60)
        records = [b"\xc0\x0c" + struct.pack("!2HIH", kind, 1, 60, len(data)) + data for kind, data in found]
        authority = b"" if found else b"\xc0\x0c" + struct.pack("!2HIH", SOA, 1, 60, len(soa)) + soa
        head = query[:2] + struct.pack("!5H", flags, 1, len(found), 0 if found else 1, 0)
        reply = head + question + b"".join(records) + authority
        return self.garble(reply) if self.garble else reply


class _Udp(DatagramProtocol):
    noisy = False

    def __init__(self, server: NameServer) -> None:
        self._server = server

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self._server.ports.append(addr[1])
        reply = self._server.reply(datagram, "udp")
        if reply is not None:
            transport: Any = self.transport
            transport.write(reply, addr)


class _Tcp(Protocol):
    buffer = b""

    def dataReceived(self, data: bytes) -> None:
        self.buffer += data
        size = int.from_bytes(self.buffer[:2], "big")
        if len(self.buffer) < size + 2:
            return
        reply = self.factory.server.reply(self.buffer[2:], "tcp")  # type: ignore[union-attr]
        transport: Any = self.transport
        if reply is not None:
            transport.write(len(reply).to_bytes(2, "big") + reply)


class _TcpFactory(Factory):
    noisy = False
    protocol = _Tcp  # type: ignore[assignment]

    def __init__(self, server: NameServer) -> None:
        self.server = server
