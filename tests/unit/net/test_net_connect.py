"""Connections by name, over real sockets."""

from __future__ import annotations

import errno
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHostnameResolver
from twisted.internet.protocol import Protocol
from unit.net.net_reactor import Turned
from zope.interface import implementer

from mtad.config.endpoint import Endpoint
from mtad.errors import ConfigError
from mtad.net.connect import connect, port_number


@implementer(IHostnameResolver)
class Names:
    """Addresses by name."""

    known: ClassVar[dict[str, list[str]]] = {
        "one.example": ["127.0.0.1"],
        "two.example": ["127.0.0.1", "127.0.0.2"],
    }

    def resolveHostName(self, receiver: Any, name: str, portNumber: int = 0, *rest: object) -> Any:
        receiver.resolutionBegan(None)
        for address in self.known.get(name, ()):
            receiver.addressResolved(IPv4Address("TCP", address, portNumber))
        receiver.resolutionComplete()


class Client(Protocol):
    made = 0

    def connectionMade(self) -> None:
        self.made += 1


@pytest.fixture
def reactor() -> Iterator[Turned]:
    made = Turned()
    made.installNameResolver(Names())
    yield made
    made.close()


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:  # short enough for a socket's path
        yield Path(name)


def attempt(reactor: Turned, endpoint: Endpoint, seconds: float = 5) -> Deferred[Client]:
    return Deferred.fromCoroutine(connect(reactor, endpoint, Client(), seconds))


def failure(reactor: Turned, endpoint: Endpoint, seconds: float = 5) -> OSError:
    with pytest.raises(OSError) as caught:
        reactor.finish(attempt(reactor, endpoint, seconds))
    return caught.value


@pytest.mark.parametrize("host", ["127.0.0.1", "one.example"])
def test_a_host(reactor: Turned, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = Endpoint.parse(f"inet:{host}:{server.getsockname()[1]}")
        client = reactor.finish(attempt(reactor, endpoint))
        accepted, _ = server.accept()
        assert client.made == 1 and client.transport is not None
        client.transport.write(b"x")
        reactor.iterate(0.01)
        assert accepted.recv(1) == b"x"
        accepted.close()
    gone = failure(reactor, endpoint)
    assert (gone.errno, gone.strerror) == (errno.ECONNREFUSED, "Connection refused")


@pytest.mark.parametrize("place", ["127.0.0.1:no-such-service", "127.0.0.1:0", "no.example:25", "a..b:25"])
def test_unknown_hosts_and_services(reactor: Turned, place: str) -> None:
    found = failure(reactor, Endpoint.parse_inet(place))
    assert (found.errno, found.strerror) == (errno.EADDRNOTAVAIL, "host or service not found")


def test_all_addresses_of_a_host_are_tried(reactor: Turned) -> None:
    with socket.create_server(("127.0.0.2", 0)) as server:
        endpoint = Endpoint("two.example", str(server.getsockname()[1]))
        client: Any = reactor.finish(attempt(reactor, endpoint))
        assert client.transport.getPeer().host == "127.0.0.2"


def test_a_path(reactor: Turned, directory: Path) -> None:
    endpoint = Endpoint(str(directory / "socket"))
    assert failure(reactor, endpoint).errno == errno.ENOENT
    assert failure(reactor, Endpoint("a" * 200)).errno == errno.ENAMETOOLONG
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(endpoint.name)
        assert failure(reactor, endpoint).errno == errno.ECONNREFUSED
        server.listen()
        assert reactor.finish(attempt(reactor, endpoint)).made == 1


def test_a_full_queue_is_waited_for(reactor: Turned, directory: Path) -> None:
    endpoint = Endpoint(str(directory / "socket"))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(endpoint.name)
        server.listen(0)
        first = attempt(reactor, endpoint)
        assert first.called
        assert failure(reactor, endpoint, 0.1).errno == errno.EAGAIN
        second = attempt(reactor, endpoint)
        assert not second.called
        server.accept()[0].close()
        assert reactor.finish(second).made == 1


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("inet:h:25", Endpoint("h", "25")),
        ("inet::smtp", Endpoint("localhost", "smtp")),
        ("inet:[::1]:25", Endpoint("::1", "25")),
        ("unix:/run/x:y", Endpoint("/run/x:y")),
    ],
)
def test_endpoints(text: str, endpoint: Endpoint) -> None:
    assert Endpoint.parse(text) == endpoint


@pytest.mark.parametrize("text", ["", "unix:", "inet:h:", "h:25", "local:/run/x"])
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(ConfigError):
        Endpoint.parse(text)


def test_ports() -> None:
    assert (port_number("25"), port_number("smtp")) == (25, 25)
    for wrong in ("65536", "-1", "x\0", ""):
        with pytest.raises(OSError):
            port_number(wrong)
