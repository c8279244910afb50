"""The saslauthd client against a stand-in on a UNIX socket, on a reactor turned by hand."""

from __future__ import annotations

import socket
import struct
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from auth_support import SESSION, Build, turn
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.python.failure import Failure

from mtad.auth import saslauthd
from mtad.auth.authenticator import Denied, Granted
from mtad.auth.checkers import Verdict
from mtad.auth.saslauthd import AnswerReader, Saslauthd, SaslauthdError, encode_request
from mtad.maillog import ListSink, MailLog

OK, NO = b"\0\2OK", b"\0\2NO"


class Daemon(ServerFactory):
    """Answers as ``reply`` says: bytes, or None for silence; ``hang_up`` closes after that."""

    noisy = False

    def __init__(self) -> None:
        self.requests: list[list[bytes]] = []
        self.reply: Callable[[list[bytes]], bytes | None] = lambda fields: OK
        self.hang_up = False
        self.open = 0
        self.sessions: list[ITransport] = []

    def buildProtocol(self, addr: object) -> Protocol:
        return _Session(self)


class _Session(Protocol):
    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.data = b""

    def connectionMade(self) -> None:
        self.daemon.open += 1
        assert self.transport is not None
        self.daemon.sessions.append(self.transport)

    def connectionLost(self, reason: object = None) -> None:
        self.daemon.open -= 1

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        fields, rest = [], self.data
        while len(rest) >= 2 and len(rest) >= 2 + struct.unpack("!H", rest[:2])[0]:
            size = struct.unpack("!H", rest[:2])[0]
            fields.append(rest[2 : 2 + size])
            rest = rest[2 + size :]
        if len(fields) < 4:
            return
        assert not rest
        self.daemon.requests.append(fields)
        answer = self.daemon.reply(fields)
        assert self.transport is not None
        if answer is not None:
            self.transport.write(answer)
        if self.daemon.hang_up:
            self.transport.loseConnection()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "mux")


@pytest.fixture
def daemon(reactor: EPollReactor, path: str) -> Daemon:
    factory = Daemon()
    reactor.listenUNIX(path, factory)
    return factory


@pytest.fixture
def client(reactor: EPollReactor, path: str, sink: ListSink) -> Saslauthd:
    return Saslauthd(reactor, MailLog(sink, "postfix/smtpd"), [path + "-none", path], b"smtp", b"")


def ask(client: Saslauthd, user: bytes = b"alice", password: bytes = b"secret") -> Deferred[Verdict]:
    return Deferred.fromCoroutine(client.verify(user, password))


def warnings(sink: ListSink) -> list[str]:
    return [text for severity, _, text in sink.lines if severity == "warning"]


def test_ok_and_no(
    client: Saslauthd, daemon: Daemon, reactor: EPollReactor, sink: ListSink, path: str
) -> None:
    daemon.reply = lambda fields: OK if fields[1] == b"secret" else b"\0\x0aNO rejects"
    assert turn(reactor, ask(client)) == [Verdict.OK]
    assert turn(reactor, ask(client, password=b"bad")) == [Verdict.BAD_PASSWORD]
    assert daemon.requests == [[b"alice", b"secret", b"smtp", b""], [b"alice", b"bad", b"smtp", b""]]
    assert [text for _, _, text in sink.lines] == [f"passwords are checked by saslauthd at {path}"]


def test_the_realm_is_behind_the_last_at(client: Saslauthd, daemon: Daemon, reactor: EPollReactor) -> None:
    turn(reactor, ask(client, b"a@b@c"))
    assert daemon.requests == [[b"a@b", b"secret", b"smtp", b"c"]]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "size read failed"),
        (b"\0", "size read failed"),
        (b"\0\1O", "bad response from saslauthd"),
        (b"\0\0", "bad response from saslauthd"),
        (b"\0\5OK", "read failed"),
    ],
)
def test_bad_answers_are_no_verdict(
    client: Saslauthd, daemon: Daemon, reactor: EPollReactor, sink: ListSink, answer: bytes, words: str
) -> None:
    daemon.reply = lambda fields: answer
    daemon.hang_up = True
    assert turn(reactor, ask(client)) == [Verdict.DOWN]
    assert warnings(sink) == [f"warning: SASL authentication failure: {words}"]


def test_no_daemon(reactor: EPollReactor, sink: ListSink, tmp_path: Path) -> None:
    log = MailLog(sink, "postfix/smtpd")
    missing = Saslauthd(reactor, log, [str(tmp_path / "a"), str(tmp_path / ("b" * 200))], b"smtp", b"")
    assert turn(reactor, ask(missing)) == [Verdict.DOWN]
    dead = tmp_path / "dead"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(dead))
    assert turn(reactor, ask(Saslauthd(reactor, log, [str(dead)], b"smtp", b""))) == [Verdict.DOWN]
    failure = "warning: SASL authentication failure: cannot connect to saslauthd server: "
    assert warnings(sink) == [
        f"{failure}No such file or directory",
        f"{failure}Connection refused",
    ]


def test_too_long(client: Saslauthd, reactor: EPollReactor, sink: ListSink) -> None:
    assert turn(reactor, ask(client, password=b"x" * 9000)) == [Verdict.DOWN]
    assert warnings(sink) == ["warning: SASL authentication failure: saslauthd request too large"]


def test_at_most_so_many_at_once_and_none_lost(
    client: Saslauthd, daemon: Daemon, reactor: EPollReactor
) -> None:
    daemon.reply = lambda fields: None
    asked = [ask(client, b"user%d" % number) for number in range(60)]
    for _ in range(100):
        reactor.iterate(0)
    assert len(daemon.requests) == daemon.open == saslauthd.CONCURRENCY
    daemon.reply = lambda fields: OK
    for each in daemon.sessions:
        each.write(OK)
    assert turn(reactor, *asked) == [Verdict.OK] * 60
    assert len({fields[0] for fields in daemon.requests}) == 60


def test_silence_ends_after_the_timeout(
    client: Saslauthd, daemon: Daemon, reactor: EPollReactor, sink: ListSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saslauthd, "TIMEOUT", 0.05)
    daemon.reply = lambda fields: None
    waiting = [ask(client) for _ in range(saslauthd.CONCURRENCY * 2)]
    assert set(turn(reactor, *waiting)) == {Verdict.DOWN}
    assert "did not answer" in warnings(sink)[0]
    daemon.reply = lambda fields: OK
    monkeypatch.setattr(saslauthd, "TIMEOUT", 10.0)
    assert turn(reactor, ask(client)) == [Verdict.OK]
    while daemon.open:
        reactor.iterate(0.05)


def test_a_full_listen_queue_is_tried_again_without_spinning(
    reactor: EPollReactor, sink: ListSink, path: str
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        blockers = []
        while True:
            blocker = socket.socket(socket.AF_UNIX)
            blocker.setblocking(False)
            blockers.append(blocker)
            if blocker.connect_ex(path):
                break
        answer = ask(Saslauthd(reactor, MailLog(sink, "x"), [path], b"smtp", b""))
        for _ in range(4):
            reactor.iterate(0.03)
        assert not answer.called
        for blocker in blockers:
            blocker.close()
        served: list[socket.socket] = []
        listener.setblocking(False)
        while not served or len(served) < len(blockers):
            reactor.iterate(0.05)
            try:
                served.append(listener.accept()[0])
            except BlockingIOError:
                if answer.called:
                    break
        served[-1].sendall(OK)
        assert turn(reactor, answer) == [Verdict.OK]
        for each in served:
            each.close()


def test_cancelled(client: Saslauthd, daemon: Daemon, reactor: EPollReactor) -> None:
    daemon.reply = lambda fields: None
    answer = ask(client)
    while not daemon.requests:
        reactor.iterate(0.05)
    answer.cancel()
    (result,) = turn(reactor, answer)
    assert isinstance(result, Failure)
    assert result.check(CancelledError)
    while daemon.open:
        reactor.iterate(0.05)


def test_a_queue_too_long_is_refused_at_once(
    client: Saslauthd, daemon: Daemon, reactor: EPollReactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saslauthd, "QUEUE_LIMIT", 2)
    asked = [ask(client) for _ in range(saslauthd.CONCURRENCY + 3)]
    assert asked[-1].called
    results = turn(reactor, *asked)
    assert results.count(Verdict.DOWN) == 1
    assert results.count(Verdict.OK) == saslauthd.CONCURRENCY + 2


@given(st.binary(max_size=40), st.data())
def test_answers_may_come_in_any_pieces(payload: bytes, data: st.DataObject) -> None:
    whole = len(payload).to_bytes(2, "big") + payload
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    reader = AnswerReader()
    verdict: bool | None = None
    expected = len(payload) < 2 or payload.startswith(b"OK")
    try:
        for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
            assert verdict is None or start == len(whole)
            verdict = reader.receive(whole[start:end])
    except SaslauthdError:
        assert len(payload) < 2
    else:
        assert verdict is expected


def test_request_form() -> None:
    assert encode_request(b"a", b"", b"smtp", b"r") == b"\0\1a\0\0\0\4smtp\0\1r"
    with pytest.raises(SaslauthdError):
        encode_request(b"x" * 4096, b"y" * 4096)


@pytest.fixture
def mux(reactor: EPollReactor, path: str) -> Iterator[Daemon]:
    daemon = Daemon()
    daemon.reply = lambda fields: OK if fields[1] == b"other" else NO
    reactor.listenUNIX(path, daemon)
    yield daemon


def exchange(build: Build, conf: dict[str, str], password: bytes) -> Deferred[object]:
    begun = build(conf).begin(b"PLAIN", SESSION)
    return Deferred.fromCoroutine(begun.step(b64encode(b"\0alice\0" + password)))


@pytest.mark.parametrize(
    ("method", "password", "granted", "asked"),
    [
        ("saslauthd", b"other", True, 1),
        ("saslauthd", b"secret", False, 1),
        ("auxprop saslauthd", b"secret", True, 0),
        ("auxprop saslauthd", b"other", True, 1),
        ("saslauthd auxprop", b"secret", True, 1),
        ("saslauthd auxprop", b"none", False, 1),
    ],
)
def test_methods_in_order(
    build: Build, reactor: EPollReactor, mux: Daemon, path: str, method: str, password: bytes,
    granted: bool, asked: int,
) -> None:  # fmt: skip
    conf = {"pwcheck_method": method, "saslauthd_path": path}
    (outcome,) = turn(reactor, exchange(build, conf, password))
    assert isinstance(outcome, Granted if granted else Denied)
    assert len(mux.requests) == asked


@pytest.mark.parametrize(
    ("method", "code"), [("saslauthd", 454), ("auxprop saslauthd", 454), ("saslauthd auxprop", 535)]
)
def test_the_last_method_decides(
    build: Build, reactor: EPollReactor, sink: ListSink, method: str, code: int
) -> None:
    conf = {"pwcheck_method": method, "saslauthd_path": "/nonexistent/mux"}
    (outcome,) = turn(reactor, exchange(build, conf, b"bad"))
    assert isinstance(outcome, Denied)
    assert outcome.reply.code == code
    if code == 454:
        assert str(outcome.reply) == "454 4.7.0 Temporary authentication failure: generic failure"
    assert warnings(sink) == [
        "warning: SASL authentication failure: cannot connect to saslauthd server: No such file or directory",
        "warning: SASL authentication failure: Password verification failed",
    ]


def test_the_socket_may_lie_in_the_old_chroot(build: Build, reactor: EPollReactor, tmp_path: Path) -> None:
    inside = tmp_path / "spool" / "run"
    inside.mkdir(parents=True)
    daemon = Daemon()
    reactor.listenUNIX(str(inside / "mux"), daemon)
    conf = {"pwcheck_method": "saslauthd", "saslauthd_path": "/run/mux"}
    (outcome,) = turn(reactor, exchange(build, conf, b"any"))
    assert isinstance(outcome, Granted)


def test_an_unanswered_request_is_sent_once_more(
    client: Saslauthd, daemon: Daemon, reactor: EPollReactor, sink: ListSink
) -> None:
    daemon.hang_up = True
    daemon.reply = lambda fields: OK if len(daemon.requests) > 1 else None
    assert turn(reactor, ask(client)) == [Verdict.OK]
    assert len(daemon.requests) == 2
    daemon.reply = lambda fields: None
    assert turn(reactor, ask(client)) == [Verdict.DOWN]
    assert len(daemon.requests) == 4
    assert warnings(sink) == ["warning: SASL authentication failure: size read failed"]


def test_the_clients_address_is_a_fifth_string(
    daemon: Daemon, reactor: EPollReactor, sink: ListSink, path: str
) -> None:
    told = Saslauthd(reactor, MailLog(sink, "x"), [path], b"smtp", b"", True)
    asked = Deferred.fromCoroutine(told.verify(b"alice", b"secret", "192.0.2.1;4000"))
    assert turn(reactor, asked) == [Verdict.OK]
    assert daemon.requests == [[b"alice", b"secret", b"smtp", b"", b"192.0.2.1;4000"]]
