"""Dovecot's protocol: the wire, and what clients hear of a server that fails in one way or another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from auth_support import SESSION, TLS_SESSION, Build, turn
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.protocol import Factory, Protocol

from mtad.auth import dovecot
from mtad.auth.authenticator import Challenge, Denied, Granted
from mtad.auth.dovecot_wire import Handshake, Lines, ProtocolError, auth_line, escape, parse_answer
from mtad.errors import ConfigError
from mtad.maillog import ListSink
from mtad.sasl.mechanism import Property

GREETING = (
    b"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\nMECH\tSCRAM-SHA-256\tmutual-auth\n"
    b"MECH\tANONYMOUS\tanonymous\nMECH\tSECRET\tprivate\nSPID\t7\nCUID\t1\nCOOKIE\tabc\nDONE\n"
)


def answers(fields: list[bytes]) -> bytes:
    """How the fake server answers a request by its response."""
    number, response = fields[1], fields[-1].removeprefix(b"resp=")
    if fields[-1].startswith(b"rip="):  # there is no initial response
        response = b""
    return {
        b"Z29vZA==": b"OK\t%b\tuser=alice\tfoo=bar\n",
        b"YmFk": b"FAIL\t%b\tuser=alice\n",
        b"d2h5": b"FAIL\t%b\tuser=al\x01tice\treason=Because\n",
        b"dGVtcA==": b"FAIL\t%b\tuser=alice\ttemp\n",
        b"Y29kZQ==": b"FAIL\t%b\tcode=temp_fail\treason=later\n",
        b"bmFtZQ==": b"OK\t%b\n",
        b"bW9yZQ==": b"CONT\t%b\tbW9y\n",
        b"none": b"CONT\t%b\n",
        b"lines": b"CONT\t%b\t\x01n250 a\n",
        b"": b"CONT\t%b\t\n",
    }.get(response, b"") % number


class Fake(Protocol):
    """A server; the factory says how it behaves."""

    def connectionMade(self) -> None:
        self.lines = Lines()
        self.factory.connections.append(self)  # type: ignore[attr-defined,union-attr]

    def dataReceived(self, data: bytes) -> None:
        factory: Any = self.factory
        transport: Any = self.transport
        for fields in self.lines.receive(data):
            factory.seen.append(fields)
            if fields[0] == b"CPID":
                transport.write(factory.greeting)
            elif fields[0] in (b"AUTH", b"CONT"):
                if fields[-1] in (b"resp=Z29uZQ==", b"Z29uZQ==") or factory.drop:
                    factory.drop = max(0, factory.drop - 1)
                    transport.loseConnection()
                else:
                    transport.write(factory.answers(fields))


class Server(Factory):
    protocol = Fake
    noisy = False

    def __init__(self) -> None:
        self.greeting = GREETING
        self.answers: Callable[[list[bytes]], bytes] = answers
        self.seen: list[list[bytes]] = []
        self.connections: list[Fake] = []
        self.drop = 0


class Logins:
    def __init__(self, build: Build, reactor: EPollReactor, tmp_path: Path) -> None:
        self.server = Server()
        self.reactor = reactor
        self.build = build
        (tmp_path / "spool").mkdir()
        self.path = tmp_path / "spool" / "auth"
        self.port: Any = None
        self.listen()
        self.authenticator = self.make()

    def make(self, **values: str) -> Any:
        return self.build(smtpd_sasl_type="dovecot", smtpd_sasl_path="auth", **values)

    def listen(self) -> None:
        self.port = self.reactor.listenUNIX(str(self.path), self.server)

    def stop(self) -> None:
        self.port.stopListening()
        for each in self.server.connections:
            each.transport.loseConnection()  # type: ignore[union-attr]
        for _ in range(3):
            self.reactor.iterate(0.01)

    def mechanisms(self, authenticator: Any, tls: bool = False) -> tuple[bytes, ...]:
        turn(self.reactor, Deferred.fromCoroutine(authenticator.prepare()))
        found: tuple[bytes, ...] = authenticator.mechanisms(tls)
        return found

    def run(self, *data: bytes | None, mechanism: bytes = b"PLAIN", session: Any = SESSION) -> Any:
        exchange = self.authenticator.begin(mechanism, session)
        for each in data:
            (outcome,) = turn(self.reactor, Deferred.fromCoroutine(exchange.step(each)))
        return outcome


@pytest.fixture
def logins(build: Build, reactor: EPollReactor, tmp_path: Path) -> Iterator[Logins]:
    own = Logins(build, reactor, tmp_path)
    yield own
    own.stop()


def test_the_list_is_the_servers_as_far_as_options_allow(logins: Logins) -> None:
    assert logins.mechanisms(logins.authenticator) == (b"PLAIN", b"LOGIN", b"SCRAM-SHA-256")
    strict = logins.make(smtpd_sasl_security_options="noanonymous, noplaintext")
    assert logins.mechanisms(strict) == (b"SCRAM-SHA-256",)
    assert logins.mechanisms(strict, True) == (b"SCRAM-SHA-256",)
    mutual = logins.make(smtpd_sasl_security_options="mutual_auth", smtpd_sasl_tls_security_options="")
    assert logins.mechanisms(mutual, True) == (b"PLAIN", b"LOGIN", b"SCRAM-SHA-256", b"ANONYMOUS")
    shown = logins.make(smtpd_sasl_mechanism_filter="!plain, static:all")
    assert logins.mechanisms(shown) == (b"LOGIN", b"SCRAM-SHA-256")


def test_granted(logins: Logins) -> None:
    outcome = logins.run(b"Z29vZA==", session=TLS_SESSION)
    assert isinstance(outcome, Granted)
    assert (outcome.avatar.username, outcome.avatar.mechanism) == ("alice", "PLAIN")
    assert logins.server.seen[0] == [b"VERSION", b"1", b"0"]
    assert logins.server.seen[2] == [
        b"AUTH", b"1", b"PLAIN", b"service=smtp", b"nologin", b"lip=192.0.2.2", b"rip=192.0.2.1", b"secured",
        b"resp=Z29vZA==",
    ]  # fmt: skip


def test_continued(logins: Logins) -> None:
    assert logins.run(None) == Challenge(b"")
    assert logins.run(b"bW9yZQ==") == Challenge(b"bW9y")
    assert isinstance(logins.run(b"bW9yZQ==", b"Z29vZA=="), Granted)
    assert isinstance(logins.run(b"=", b"Z29vZA==", mechanism=b"plain"), Granted)
    assert len(logins.server.connections) == 1


@pytest.mark.parametrize(
    ("data", "reply", "user"),
    [
        (b"YmFk", "535 5.7.8 Error: authentication failed: (reason unavailable)", "alice"),
        (b"d2h5", "535 5.7.8 Error: authentication failed: Because", "al?ice"),
        (b"dGVtcA==", "454 4.7.0 Temporary authentication failure: (reason unavailable)", "alice"),
        (b"Y29kZQ==", "454 4.7.0 Temporary authentication failure: later", "(unavailable)"),
        (b"bmFtZQ==", "535 5.7.8 Error: authentication failed: Authentication backend error",
         "(unavailable)"),
        (b"none", "535 5.7.8 Error: authentication failed: Authentication backend error", "(unavailable)"),
        (b"lines", "535 5.7.8 Error: authentication failed: Authentication backend error", "(unavailable)"),
        (b"a b", "535 5.7.8 Error: authentication failed: Invalid base64 data in initial response",
         "(unavailable)"),
    ],
)  # fmt: skip
def test_denied(logins: Logins, data: bytes, reply: str, user: str) -> None:
    outcome = logins.run(data)
    assert isinstance(outcome, Denied)
    assert str(outcome.reply) == reply
    assert outcome.username == user
    reason = reply.rpartition(": ")[2]
    assert outcome.log == f"SASL PLAIN authentication failed: {reason}, sasl_username={user}"


def test_what_is_not_offered_is_not_passed_on(logins: Logins) -> None:
    for name in (b"CRAM-MD5", b"ANONYMOUS", b"SECRET", b"A\tB"):
        outcome = logins.run(b"Z29vZA==", mechanism=name)
        shown = name.decode().replace("\t", "?")
        assert outcome.reply.code == 535
        assert f"Invalid authentication mechanism: '{shown}'" in str(outcome.reply)
    assert not [each for each in logins.server.seen if each[0] == b"AUTH"]
    outcome = logins.run(b"bW9yZQ==", b"a\tb")
    assert "Invalid base64 data in continued response" in str(outcome.reply)


def test_a_lost_connection(logins: Logins) -> None:
    logins.run(b"YmFk")
    logins.server.drop = 1
    assert isinstance(logins.run(b"Z29vZA=="), Granted)  # tried again, once
    logins.server.drop = 2
    outcome = logins.run(b"Z29vZA==")
    assert str(outcome.reply) == (
        "454 4.7.0 Temporary authentication failure: Connection lost to authentication server"
    )
    outcome = logins.run(b"bW9yZQ==", b"Z29uZQ==")  # in the middle of an exchange: there is no second try
    assert "454 4.7.0" in str(outcome.reply) and "Connection lost" in str(outcome.reply)
    assert isinstance(logins.run(b"Z29vZA=="), Granted)


def test_a_server_that_is_away_and_comes_back(logins: Logins, sink: ListSink) -> None:
    before = logins.mechanisms(logins.authenticator)
    logins.stop()
    outcome = logins.run(b"Z29vZA==")
    assert str(outcome.reply) == (
        "454 4.7.0 Temporary authentication failure: Can't connect to authentication server"
    )
    assert logins.mechanisms(logins.authenticator) == before
    logins.run(b"Z29vZA==")
    assert len([text for _, _, text in sink.lines if "SASL: connect to auth" in text]) == 1
    logins.listen()
    assert isinstance(logins.run(b"Z29vZA=="), Granted)


@pytest.mark.parametrize("greeting", [b"VERSION\t2\t0\nDONE\n", b"MECH\tPLAIN\nDONE\n", b"x" * 20000, b""])
def test_one_that_speaks_something_else(
    logins: Logins, greeting: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dovecot, "CONNECT_TIMEOUT", 0.2)
    logins.server.greeting = greeting
    outcome = logins.run(b"Z29vZA==")
    assert "454 4.7.0" in str(outcome.reply) and "Can't connect" in str(outcome.reply)
    assert logins.mechanisms(logins.authenticator) == ()


def test_one_that_does_not_answer(logins: Logins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dovecot, "ANSWER_TIMEOUT", 0.2)
    logins.server.answers = lambda fields: b"OK\t999\tuser=eve\nOTHER\tx\n"
    outcome = logins.run(b"Z29vZA==")
    assert "did not answer in time" in str(outcome.reply)
    assert outcome.reply.code == 454


def test_many_at_once_share_a_connection(logins: Logins) -> None:
    steps = [
        Deferred.fromCoroutine(logins.authenticator.begin(b"PLAIN", SESSION).step(data))
        for data in (b"Z29vZA==", b"YmFk") * 20
    ]
    outcomes = turn(logins.reactor, *steps)
    assert sorted(type(each).__name__ for each in outcomes) == ["Denied"] * 20 + ["Granted"] * 20
    assert len(logins.server.connections) == 1


@pytest.mark.parametrize("path", ["inet:127.0.0.1", "inet:x:y", "inet:x:99999", "unix:"])
def test_a_path_that_can_not_be_one(build: Build, path: str) -> None:
    with pytest.raises(ConfigError, match="smtpd_sasl_path"):
        build(smtpd_sasl_type="dovecot", smtpd_sasl_path=path)


@given(st.binary(max_size=80), st.lists(st.integers(0, 80), max_size=3))
def test_lines_are_the_same_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    whole = list(Lines().receive(data))
    pieces, lines = Lines(), []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
        lines += list(pieces.receive(data[start:end]))
    assert lines == whole


@given(st.binary(max_size=50))
def test_escaped_values_come_back(value: bytes) -> None:
    assert list(Lines().receive(b"x\t" + escape(value) + b"\n")) == [[b"x", value]]


@given(
    st.lists(
        st.sampled_from([b"OK", b"FAIL", b"CONT", b"1", b"MECH", b"DONE", b"temp"]) | st.binary(max_size=9)
    )
)
def test_any_line_is_taken_or_refused(fields: list[bytes]) -> None:
    for take in (Handshake().line, parse_answer):
        try:
            take(fields or [b""])
        except ProtocolError:
            pass


def test_properties() -> None:
    handshake = Handshake()
    handshake.line([b"MECH", b"x", b"plaintext", b"dictionary", b"active", b"forward-secrecy"])
    assert handshake.mechanisms == {b"X": Property.NOANONYMOUS | Property.FORWARD_SECRECY}
    line = auth_line(3, b"X", service="s\tp", local="", remote="", secured=False, response=None)
    assert line == b"AUTH\t3\tX\tservice=s\x01tp\tnologin\tlip=\trip=\n"
