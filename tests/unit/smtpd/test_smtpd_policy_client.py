"""Connections to policy services, over real sockets."""

from __future__ import annotations

import errno
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from unit.net.net_reactor import Turned

from mtad.policy.policy_service import ExchangeFailed, PolicyOptions
from mtad.smtpd.policy_client import ANSWER_LIMIT, PolicyConnections

DUNNO = b"action=DUNNO\n\n"


class Served(Protocol):
    transport: Any

    def __init__(self, server: Server) -> None:
        self.server = server
        self.data = b""

    def connectionMade(self) -> None:
        self.server.connections.append(self)

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        while b"\n\n" in self.data:
            request, _, self.data = self.data.partition(b"\n\n")
            self.server.requests.append(request)
            if self.server.says is not None:
                self.transport.write(self.server.says)
            if self.server.hangs_up:
                self.transport.loseConnection()

    def connectionLost(self, reason: object = None) -> None:
        self.server.connections.remove(self)


class Server(Factory):
    noisy = False

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.connections: list[Served] = []
        self.made = 0
        self.says: bytes | None = DUNNO
        self.hangs_up = False

    def buildProtocol(self, addr: object) -> Served:
        self.made += 1
        return Served(self)


@pytest.fixture
def reactor() -> Iterator[Turned]:
    made = Turned()
    yield made
    for call in made.getDelayedCalls():
        call.cancel()
    made.close()


@pytest.fixture
def server() -> Server:
    return Server()


def connections(reactor: Turned, server: Server, **options: Any) -> PolicyConnections:
    port: Any = reactor.listenTCP(0, server, interface="127.0.0.1")
    endpoint = f"127.0.0.1:{port.getHost().port}"
    return PolicyConnections(reactor, PolicyOptions(f"inet:{endpoint}", "inet", endpoint, **options), "/")


def ask(pool: PolicyConnections, request: bytes = b"x=1\n\n", good: bool = True) -> Deferred[bytes]:
    return Deferred.fromCoroutine(pool.exchange(request, lambda answer: good))


def failure(reactor: Turned, work: Deferred[bytes]) -> ExchangeFailed:
    with pytest.raises(ExchangeFailed) as caught:
        reactor.finish(work)
    return caught.value


def test_a_connection_is_used_again(reactor: Turned, server: Server) -> None:
    pool = connections(reactor, server)
    for _ in range(3):
        assert reactor.finish(ask(pool)) == DUNNO
    assert (len(server.requests), server.made) == (3, 1)
    pool.close()
    reactor.until(lambda: not server.connections)


def test_each_request_has_a_connection_to_itself(reactor: Turned, server: Server) -> None:
    pool = connections(reactor, server)
    work = [ask(pool) for _ in range(5)]
    assert [reactor.finish(each) for each in work] == [DUNNO] * 5
    assert server.made == 5
    assert reactor.finish(ask(pool)) == DUNNO
    assert server.made == 5


def test_only_so_many(reactor: Turned, server: Server) -> None:
    pool = connections(reactor, server)
    pool._turns.limit = pool._turns.tokens = 2
    work = [ask(pool) for _ in range(9)]
    assert [reactor.finish(each) for each in work] == [DUNNO] * 9
    assert server.made == 2


@pytest.mark.parametrize(
    "options",
    [{"request_limit": 1}, {"max_idle": 0.05}, {"max_ttl": 0.05}],
    ids=lambda options: next(iter(options)),
)
def test_ends_of_connections(reactor: Turned, server: Server, options: dict[str, Any]) -> None:
    pool = connections(reactor, server, **options)
    for made in (1, 2):
        assert reactor.finish(ask(pool)) == DUNNO
        assert server.made == made
        reactor.until(lambda: not server.connections)


def test_an_answer_in_pieces(reactor: Turned, server: Server) -> None:
    server.says = None
    pool = connections(reactor, server)
    work = ask(pool)
    reactor.until(lambda: server.requests)
    for number in range(len(DUNNO)):
        assert not work.called
        server.connections[0].transport.write(DUNNO[number : number + 1])
        reactor.iterate(0.01)
        reactor.iterate(0.01)
    assert reactor.finish(work) == DUNNO


def test_the_server_hangs_up(reactor: Turned, server: Server) -> None:
    pool = connections(reactor, server)
    server.says, server.hangs_up = b"", True
    found = failure(reactor, ask(pool))
    assert (found.code, found.connecting, found.partial) == (0, False, False)
    server.says = b"action=DUNNO\n"
    assert failure(reactor, ask(pool)).partial
    server.says, server.hangs_up = DUNNO, True
    assert reactor.finish(ask(pool)) == DUNNO
    reactor.until(lambda: not server.connections)
    server.hangs_up = False
    assert reactor.finish(ask(pool)) == DUNNO  # by a new connection, at once


def test_what_nobody_asked_for_ends_a_connection(reactor: Turned, server: Server) -> None:
    pool = connections(reactor, server)
    server.says = DUNNO + b"action=OK\n\n"
    assert reactor.finish(ask(pool)) == DUNNO
    reactor.until(lambda: not server.connections)
    server.says = DUNNO
    assert reactor.finish(ask(pool)) == DUNNO
    server.connections[0].transport.write(b"action=OK\n\n")
    reactor.until(lambda: not server.connections)
    assert reactor.finish(ask(pool)) == DUNNO
    assert server.made == 3


def test_an_answer_that_is_not_accepted_ends_its_connection(reactor: Turned, server: Server) -> None:
    pool = connections(reactor, server)
    assert reactor.finish(ask(pool, good=False)) == DUNNO
    reactor.until(lambda: not server.connections)


def test_a_failure_ends_the_idle_connections(reactor: Turned, server: Server) -> None:
    pool = connections(reactor, server, timeout=0.05)
    for each in [ask(pool) for _ in range(3)]:
        reactor.finish(each)
    server.says = None
    assert failure(reactor, ask(pool)).code == errno.ETIMEDOUT
    reactor.until(lambda: not server.connections)


def test_an_endless_answer(reactor: Turned, server: Server) -> None:
    pool = connections(reactor, server)
    server.says = b"x" * (ANSWER_LIMIT + 1)
    assert failure(reactor, ask(pool)).code == errno.EMSGSIZE


def test_nobody_there(reactor: Turned) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
    pool = PolicyConnections(reactor, PolicyOptions("x", "inet", endpoint), "/")
    found = failure(reactor, ask(pool))
    assert (found.code, found.connecting) == (errno.ECONNREFUSED, True)
    pool = PolicyConnections(reactor, PolicyOptions("x", "inet", "127.0.0.1:no-such-service"), "/")
    assert failure(reactor, ask(pool)).connecting


def test_unix(reactor: Turned, server: Server) -> None:
    with tempfile.TemporaryDirectory() as directory:
        listening: Any = reactor.listenUNIX(str(Path(directory) / "policy"), server)
        pool = PolicyConnections(reactor, PolicyOptions("unix:policy", "unix", "policy"), directory)
        for _ in range(2):
            assert reactor.finish(ask(pool)) == DUNNO
        assert server.made == 1
        pool.close()
        listening.stopListening()
        absent = PolicyConnections(reactor, PolicyOptions("x", "unix", "absent"), directory)
        assert failure(reactor, ask(absent)).code == errno.ENOENT
        long = PolicyConnections(reactor, PolicyOptions("x", "unix", "a" * 200), directory)
        assert failure(reactor, ask(long)).code == errno.ENAMETOOLONG
