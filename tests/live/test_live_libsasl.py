"""Our SASL against Cyrus' library: the same challenges, results, names and notes for the same input."""

from __future__ import annotations

import shutil
import subprocess
from base64 import b64encode
from pathlib import Path
from typing import Any

import libsasl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.epollreactor import EPollReactor

from mtad.auth.authenticator import Authenticator, AuthSession, Challenge, Denied, Granted
from mtad.config.parameters import Parameters
from mtad.maillog import ListSink, MailLog
from mtad.sasl import client, encoding
from mtad.sasl.mechanism import SaslFailure

pytestmark = pytest.mark.skipif(not libsasl.AVAILABLE, reason=libsasl.WHY_NOT)

SESSION = AuthSession("client.test", "192.0.2.1", "4000", "192.0.2.2", "587", False)
DATABASE_PLUGIN = shutil.which("saslpasswd2")

#: libsasl's status for a partial last group, and for malformed input
CONTINUE, BADPROT = 1, -5
NOUSER = -20
FAIL, ERR = 2, 1  # log levels


@given(st.text("AZaz09+/= \n-", max_size=12).map(str.encode))
@example(b"=")
@example(b"YQ==YQ==")
@example(b"YQ==Y")
@example(b"YQ=")
def test_base64(data: bytes) -> None:
    status, octets = libsasl.decode64(data)
    try:
        ours = encoding.decode(data)
    except encoding.Malformed as malformed:
        assert status == (CONTINUE if malformed.partial else BADPROT)
    else:
        assert (status, octets) == (libsasl.OK, ours)


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A sasldb2 made by Cyrus' own command."""
    if DATABASE_PLUGIN is None:
        pytest.skip("needs saslpasswd2")
    path = str(tmp_path_factory.mktemp("sasldb") / "sasldb2")
    for user, realm, password in (
        ("alice", "mail.test", "secret"), ("bob", "example.com", "pass word"), ("carol", "x@y", "pw"),
        ("zürich", "mail.test", "schön"),
    ):  # fmt: skip
        command = ["saslpasswd2", "-p", "-c", "-f", path, "-u", realm, user]
        subprocess.run(command, input=password.encode(), check=True, timeout=60)
    return path


def theirs(
    options: dict[str, str], realm: str, security: str, mechanism: bytes, data: list[bytes | None]
) -> list[Any]:
    """The challenges, then result text, name and log lines."""
    peer = libsasl.Server(options, realm, security=security)
    try:
        challenges: list[bytes] = []
        status, out = peer.start(mechanism, data[0])
        for response in data[1:]:
            if status != libsasl.CONTINUE:
                break
            challenges.append(out)
            status, out = peer.step(response or b"")
        if status == libsasl.CONTINUE:
            challenges.append(out)
        text = libsasl.text(-13 if status == NOUSER else status)
        logged = [line.replace("\n", "?") for level, line in libsasl.lines if level in (FAIL, ERR)]
        return [challenges, text, peer.username(), logged]
    finally:
        peer.close()


def ours(
    tmp_path: Path, options: dict[str, str], realm: str, security: str, mechanism: bytes,
    data: list[bytes | None],
) -> list[Any]:  # fmt: skip
    (tmp_path / "smtpd.conf").write_text("".join(f"{key}: {value}\n" for key, value in options.items()))
    sink = ListSink()
    values = {
        "myhostname": "mail.test",
        "cyrus_sasl_config_path": str(tmp_path),
        "smtpd_sasl_local_domain": realm,
        "smtpd_sasl_security_options": security,
    }
    p = Parameters.from_mapping(values)
    exchange = Authenticator.build(p, EPollReactor(), MailLog(sink, "x")).begin(mechanism, SESSION)
    sink.lines.clear()
    challenges: list[bytes] = []
    for response in data:
        encoded = None if response is None else b64encode(response)
        outcome = _run(exchange.step(encoded))
        if not isinstance(outcome, Challenge):
            break
        challenges.append(encoding.decode(outcome.data))
    if isinstance(outcome, Challenge):
        result = ["another step is needed in authentication", None]
    elif isinstance(outcome, Granted):
        result = ["successful result", outcome.avatar.username]
    else:
        assert isinstance(outcome, Denied)
        text = str(outcome.reply).partition("failed: ")[2] or str(outcome.reply).partition("failure: ")[2]
        result = [text, None if outcome.username == "(unavailable)" else outcome.username]
    logged = [text.partition(": ")[2].partition(": ")[2] for _, _, text in sink.lines]
    return [challenges, *result, logged]


def _run(coroutine: Any) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


PLAIN_MESSAGES = [
    b"\0alice\0secret", b"\0alice\0bad", b"alice\0alice\0secret", b"bob\0alice\0secret", b"bob\0alice\0bad",
    b"\0nobody\0x", b"", b"abc", b"\0abc", b"a\0b\0c\0d", b"\0\0x", b"\0alice\0", b"\0 alice \0secret",
    b"\0alice@mail.test\0secret", b"\0bob@example.com\0pass word", b"\0bob\0pass word",
    b"alice@mail.test\0alice\0secret", b"bob@example.com\0bob\0pass word", b"\0carol@x@y\0pw",
    b"\0Alice\0secret", "\0zürich\0schön".encode(),
    b"\0" + b"u" * 1024 + b"\0x", b"\0" + b"u" * 1025 + b"\0x",
    b"\0alice\0" + b"x" * 5000, b"\0alice@\0secret", b"\0@mail.test\0secret",
]  # fmt: skip


@pytest.mark.parametrize("realm", ["", "example.com", "mail.test"])
@pytest.mark.parametrize("message", PLAIN_MESSAGES)
def test_plain(users: str, tmp_path: Path, message: bytes, realm: str) -> None:
    options = {"sasldb_path": users, "auxprop_plugin": "sasldb"}
    for data in ([message], [None, message]):
        arguments: tuple[Any, ...] = (options, realm, "noanonymous", b"PLAIN", data)
        assert ours(tmp_path, *arguments) == theirs(*arguments)


@pytest.mark.parametrize("realm", ["", "example.com"])
@pytest.mark.parametrize(
    "data",
    [
        [None, b"alice", b"secret"], [None, b"alice", b"bad"], [b"alice", b"secret"], [None, b"", b"x"],
        [None, b"alice", b""], [None, b"a" * 1025], [None, b"alice", b"x" * 1025], [b"", b"alice", b"secret"],
        [None, b"bob@example.com", b"pass word"], [None, b" bob ", b"pass word"],
        [None, b"bob", b" pass word"], [None],
    ],
)  # fmt: skip
def test_login(users: str, tmp_path: Path, data: list[bytes | None], realm: str) -> None:
    arguments: tuple[Any, ...] = (
        {"sasldb_path": users, "auxprop_plugin": "sasldb"}, realm, "noanonymous", b"LOGIN", data
    )  # fmt: skip
    assert ours(tmp_path, *arguments) == theirs(*arguments)


@pytest.mark.parametrize(
    "data", [[None, b"alice 0"], [None, b"nobody 0"], [None, b"x"], [b"x"], [None, b" x"], [None, b""]]
)
def test_cram_md5_failures(users: str, tmp_path: Path, data: list[bytes | None]) -> None:
    arguments: tuple[Any, ...] = (
        {"sasldb_path": users, "auxprop_plugin": "sasldb"}, "", "noanonymous", b"CRAM-MD5", data
    )  # fmt: skip
    mine, peer = ours(tmp_path, *arguments), theirs(*arguments)
    assert len(mine[0]) == len(peer[0])
    assert mine[1:] == peer[1:]


@pytest.mark.parametrize(
    ("options", "security", "mechanism"),
    [
        ({}, "noanonymous", b"plain"),
        ({}, "noanonymous", b"FOO"),
        ({"mech_list": "login"}, "noanonymous", b"PLAIN"),
        ({}, "noplaintext", b"PLAIN"),
        ({"sasldb_path": "/nonexistent/sasldb2"}, "noanonymous", b"PLAIN"),
        ({"pwcheck_method": "saslauthd", "saslauthd_path": "/nonexistent"}, "noanonymous", b"PLAIN"),
        ({"pwcheck_method": "saslauthd auxprop", "saslauthd_path": "/nonexistent"}, "noanonymous", b"PLAIN"),
        ({"pwcheck_method": "AUXPROP"}, "noanonymous", b"PLAIN"),
    ],
)
def test_configurations(
    users: str, tmp_path: Path, options: dict[str, str], security: str, mechanism: bytes
) -> None:
    options = {"sasldb_path": users, "auxprop_plugin": "sasldb", **options}
    arguments: tuple[Any, ...] = (options, "", security, mechanism, [b"\0alice\0secret"])
    assert ours(tmp_path, *arguments) == theirs(*arguments)


def test_mechanisms_in_the_same_order() -> None:
    peer = libsasl.Server({}).mechanisms()
    p = Parameters.from_mapping({"myhostname": "mail.test", "cyrus_sasl_config_path": "/nonexistent"})
    mine = [
        name.decode()
        for name in Authenticator.build(p, EPollReactor(), MailLog(ListSink(), "x")).mechanisms(False)
    ]
    assert mine == [name for name in peer if name in mine]


@pytest.mark.parametrize(
    "offered",
    [
        "PLAIN LOGIN",
        "LOGIN PLAIN",
        "LOGIN PLAIN CRAM-MD5",
        "login plain",
        "FOO",
        "",
        "LOGIN",
        "PLAIN PLAIN FOO",
    ],
)
@pytest.mark.parametrize("security", ["noanonymous", "noplaintext noanonymous", "mutual_auth"])
@pytest.mark.parametrize("authzid", [False, True])
def test_client(offered: str, security: str, authzid: bool) -> None:
    libsasl.library()
    peer = libsasl.Client(b"alice", b"secret", security, authzid)
    try:
        status, initial, name = peer.start(offered)
        expected: list[Any] = [libsasl.text(status)] if status < 0 else [name, initial]
        if status >= 0 and name != "PLAIN":
            expected += [peer.step(b"<1.2@x>")[1]]
            if name == "LOGIN":
                expected += [peer.step(b"Password:")[1]]
    finally:
        peer.close()
    try:
        mine = client.choose(offered.encode().split(), security.split(), b"alice", b"secret", authzid=authzid)
        got: list[Any] = [mine.name.decode(), mine.initial()]
        for _ in range(len(expected) - 2):
            got.append(mine.step(b"<1.2@x>"))
    except SaslFailure as failure:
        got = [failure.reason.text]
    assert got == expected
