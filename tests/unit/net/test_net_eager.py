"""Connections that send at once do what Twisted's own do: each test runs with both."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from net_pki import Issued, log, parameters
from net_reactor import Turned
from OpenSSL import SSL
from twisted.internet.interfaces import IHandshakeListener, ISSLTransport
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from mtad.net.eager import adopt
from mtad.net.tls import ServerTLS

BIG = 8 * 1024 * 1024


@implementer(IHandshakeListener)
class Recorder(Protocol):
    """Notes what happens to it."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.received = b""
        self.on_data: Callable[[bytes], None] = lambda data: None
        self.on_connect: Callable[[], None] = lambda: None

    def connectionMade(self) -> None:
        self.events.append("made")
        self.on_connect()

    def handshakeCompleted(self) -> None:
        self.events.append("handshake")

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.on_data(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.events.append(f"lost {reason.type.__name__}")


class Producer:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.on_resume: Callable[[], None] = lambda: None

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")
        self.on_resume()

    def stopProducing(self) -> None:
        self.calls.append("stop")


class Peer:
    """A client socket, with or without TLS, that the test turns by hand."""

    def __init__(self, reactor: Turned, address: Any, tls: bool) -> None:
        self.reactor = reactor
        self.socket = socket.create_connection(address)
        self.socket.setblocking(False)
        self.tls: SSL.Connection | None = None
        self.data = b""
        self.closed = False
        if tls:
            self.tls = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
            self.tls.set_connect_state()

    def start_tls(self) -> None:
        assert self.tls is not None
        done = False
        while not done:
            try:
                self.tls.do_handshake()
                done = True
            except SSL.WantReadError:
                pass
            self._flush()
            if not done:
                self.reactor.until(self._feed)

    def _flush(self) -> None:
        assert self.tls is not None
        try:
            self.socket.sendall(self.tls.bio_read(1 << 20))
        except SSL.WantReadError:
            pass

    def _feed(self) -> bool:
        assert self.tls is not None
        try:
            data = self.socket.recv(1 << 20)
        except BlockingIOError:
            return False
        if data:
            self.tls.bio_write(data)
        else:
            self.closed = True
        return True

    def send(self, data: bytes) -> None:
        if self.tls is None:
            self.socket.sendall(data)
            return
        self.tls.send(data)
        self._flush()

    def read(self) -> None:
        """Take what has come."""
        if self.tls is None:
            try:
                data = self.socket.recv(1 << 20)
            except BlockingIOError:
                return
            self.data += data
            self.closed = self.closed or not data
            return
        self._feed()
        try:
            while True:
                self.data += self.tls.recv(1 << 20)
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.closed = True

    def wait_for(self, size: int) -> bytes:
        def enough() -> bool:
            self.read()
            return len(self.data) >= size or self.closed

        self.reactor.until(enough)
        return self.data


class Scene:
    """A listening port with one protocol, and its client."""

    def __init__(self, reactor: Turned, eager: bool, tls: ServerTLS | None) -> None:
        self.reactor = reactor
        self.tls = tls
        self.server = Recorder()
        if tls is not None:
            self.server.on_connect = lambda: self.transport.startTLS(tls.creator("client"))
        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = lambda addr: self.server  # type: ignore[method-assign]
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen()
        self.listener.setblocking(False)
        self.port = adopt(reactor, self.listener, factory, eager=eager)
        self.client = Peer(reactor, self.listener.getsockname(), tls is not None)
        reactor.until(lambda: self.server.events)
        if tls is not None:
            self.client.start_tls()
            reactor.until(lambda: "handshake" in self.server.events)

    @property
    def transport(self) -> Any:
        return self.server.transport

    def close(self) -> None:
        self.client.socket.close()
        self.listener.close()
        if "lost" not in "".join(self.server.events):
            self.transport.abortConnection()
        self.port.stopListening()
        self.reactor.until(lambda: "lost" in "".join(self.server.events))
        self.reactor.iterate(0)


@pytest.fixture(scope="module")
def reactor() -> Iterator[Turned]:
    turned = Turned()
    yield turned
    turned.close()


@pytest.fixture(scope="module")
def server_tls(tmp_path_factory: pytest.TempPathFactory) -> ServerTLS:
    path: Path = tmp_path_factory.mktemp("tls") / "server.pem"
    Issued("mail.example.com").write(path)
    p = parameters(smtpd_tls_security_level="may", smtpd_tls_cert_file=str(path))
    return ServerTLS(p, log()[0])


@pytest.fixture(params=["eager", "twisted"])
def eager(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "eager")


@pytest.fixture(params=["plain", "tls"])
def scene(
    request: pytest.FixtureRequest,
    reactor: Turned,
    server_tls: ServerTLS,
    eager: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Scene]:
    monkeypatch.setattr("twisted.protocols.tls._get_default_clock", lambda: reactor)
    made = Scene(reactor, eager, server_tls if request.param == "tls" else None)
    yield made
    made.close()


def test_a_dialogue(scene: Scene) -> None:
    scene.server.on_data = lambda data: scene.transport.write(b"250 " + data)
    for text in (b"a\r\n", b"b\r\n"):
        scene.client.data = b""
        scene.client.send(text)
        assert scene.client.wait_for(len(text) + 4) == b"250 " + text
    assert scene.server.received == b"a\r\nb\r\n"
    assert ISSLTransport.providedBy(scene.transport) is (scene.tls is not None)


def test_a_reply_is_sent_at_once(reactor: Turned, server_tls: ServerTLS) -> None:
    for tls in (None, server_tls):
        scene = Scene(reactor, True, tls)
        scene.client.read()
        scene.transport.write(b"220 hello\r\n")
        scene.client.read()  # the reactor has not turned
        assert scene.client.data == b"220 hello\r\n"
        assert scene.transport.getTcpNoDelay()
        scene.close()


def test_order_when_the_socket_is_full(scene: Scene) -> None:
    data = bytes(range(256)) * (BIG // 256)
    scene.transport.write(data[: BIG // 2])
    scene.transport.writeSequence([data[BIG // 2 : -3], b""])
    scene.transport.write(data[-3:])
    assert scene.client.wait_for(BIG) == data


def test_lose_connection_flushes(scene: Scene) -> None:
    scene.transport.write(b"x" * BIG)
    scene.transport.write(b"221 Bye\r\n")
    scene.transport.loseConnection()
    scene.client.wait_for(BIG + 9)
    assert scene.client.data == b"x" * BIG + b"221 Bye\r\n"
    if scene.client.tls is not None:
        scene.client.tls.shutdown()
        scene.client._flush()
    scene.reactor.until(lambda: len(scene.server.events) > 1 and "lost" in scene.server.events[-1])
    assert scene.server.events[-1] == "lost ConnectionDone"
    scene.transport.write(b"too late")


def test_nothing_follows_an_abort(scene: Scene) -> None:
    scene.transport.abortConnection()
    scene.transport.write(b"too late")
    scene.reactor.until(lambda: "lost" in scene.server.events[-1])
    assert scene.server.events[-1] == "lost ConnectionAborted"
    try:
        scene.client.read()
    except ConnectionResetError:
        pass
    assert scene.client.data == b""


def test_push_producer_is_paused_and_resumed(scene: Scene) -> None:
    producer = Producer()
    scene.transport.registerProducer(producer, True)
    scene.transport.write(b"x" * 100)
    scene.client.wait_for(100)
    assert "pause" not in producer.calls
    scene.client.data = b""
    scene.transport.write(b"x" * BIG)
    assert producer.calls == ["pause"]
    scene.client.wait_for(BIG)
    scene.reactor.until(lambda: producer.calls[-1] == "resume")
    scene.transport.unregisterProducer()


def test_pull_producer_is_pulled(eager: bool, reactor: Turned) -> None:
    scene = Scene(reactor, eager, None)
    producer = Producer()

    def pull() -> None:
        scene.transport.write(b"y" * 1000)
        if producer.calls.count("resume") == 5:
            scene.transport.unregisterProducer()

    producer.on_resume = pull
    scene.transport.registerProducer(producer, False)
    assert scene.client.wait_for(5000) == b"y" * 5000
    scene.close()


def test_a_producer_survives_start_tls(reactor: Turned, server_tls: ServerTLS) -> None:
    scene = Scene(reactor, True, None)
    producer = Producer()
    scene.transport.registerProducer(producer, True)
    scene.client.tls = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
    scene.client.tls.set_connect_state()
    scene.transport.startTLS(server_tls.creator("client"))
    scene.client.start_tls()
    reactor.until(lambda: "handshake" in scene.server.events)
    scene.transport.write(b"x" * BIG)
    assert "pause" in producer.calls
    scene.client.wait_for(BIG)
    reactor.until(lambda: producer.calls[-1] == "resume")
    assert isinstance(scene.transport.getHandle(), SSL.Connection)
    scene.transport.unregisterProducer()
    scene.close()


def test_client_goes_away(scene: Scene) -> None:
    scene.client.socket.close()
    scene.reactor.until(lambda: "lost" in scene.server.events[-1])
    scene.transport.write(b"nobody hears")


def test_write_to_a_broken_connection(reactor: Turned) -> None:
    scene = Scene(reactor, True, None)
    scene.client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    scene.client.socket.close()
    scene.transport.write(b"one")  # fails in send(); the reactor tells of it, not write()
    scene.transport.write(b"two")
    assert scene.server.events == ["made"]
    reactor.until(lambda: "lost" in scene.server.events[-1])
    scene.close()


def test_half_close(eager: bool, reactor: Turned) -> None:
    scene = Scene(reactor, eager, None)
    scene.transport.write(b"last words")
    scene.transport.loseWriteConnection()
    assert scene.client.wait_for(10) == b"last words"
    reactor.until(lambda: scene.client.read() or scene.client.closed)
    scene.client.send(b"heard")
    reactor.until(lambda: scene.server.received)
    scene.close()


def test_two_ports_share_a_socket(reactor: Turned) -> None:
    """As two workers do: who comes too late to accept finds nothing, and goes on."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    listener.setblocking(False)
    made: list[Recorder] = []

    def build(_: Any) -> Recorder:
        made.append(Recorder())
        return made[-1]

    ports = []
    for _ in range(2):
        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = build  # type: ignore[method-assign]
        ports.append(adopt(reactor, listener, factory))
    clients = [socket.create_connection(listener.getsockname()) for _ in range(20)]
    reactor.until(lambda: len(made) == 20)
    reactor.finish(ports[0].stopListening())
    clients.append(socket.create_connection(listener.getsockname()))  # the other goes on
    reactor.until(lambda: len(made) == 21)
    reactor.finish(ports[1].stopListening())
    listener.close()
    for client in clients:
        client.close()
    reactor.until(lambda: all("lost" in one.events[-1] for one in made))
