"""DIGEST-MD5, SCRAM and OTP against Cyrus' library: each side with each other, and on the same mistakes."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libsasl
import pytest
from twisted.internet.epollreactor import EPollReactor

from mtad.auth.authenticator import Authenticator, AuthSession, Challenge, Denied, Granted
from mtad.config.parameters import Parameters
from mtad.errors import ConfigError
from mtad.maillog import ListSink, MailLog
from mtad.sasl import client, encoding, otp
from mtad.sasl.mechanism import SaslFailure

pytestmark = [
    pytest.mark.skipif(not libsasl.AVAILABLE, reason=libsasl.WHY_NOT),
    pytest.mark.skipif(shutil.which("saslpasswd2") is None, reason="needs saslpasswd2"),
]

SESSION = AuthSession("client.test", "192.0.2.1", "4000", "192.0.2.2", "587", False)
SCRAM = tuple(f"SCRAM-SHA-{size}" for size in (1, 224, 256, 384, 512))
NOUSER = -20
FAIL, ERR = 2, 1  # log levels
STRONG = (*SCRAM, "DIGEST-MD5", "CRAM-MD5")


@pytest.fixture(scope="module")
def installed() -> set[str]:
    """The mechanisms that the library has plug-ins for."""
    peer = libsasl.Server({}, security="")
    try:
        return set(peer.mechanisms())
    finally:
        peer.close()


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("sasldb") / "sasldb2")
    for user, realm, password in (
        ("alice", "mail.test", "secret"), ("bob", "example.com", "pass word"),
        ("zürich", "mail.test", "schön"),
    ):  # fmt: skip
        command = ["saslpasswd2", "-p", "-c", "-f", path, "-u", realm, user]
        subprocess.run(command, input=password.encode(), check=True, timeout=60)
    return path


def options(users: str) -> dict[str, str]:
    return {
        "sasldb_path": users,
        "auxprop_plugin": "sasldb",
        "mech_list": " ".join((*STRONG, "OTP", "PLAIN")),
    }


def authenticator(
    tmp_path: Path, users: str, realm: str = "", **values: str
) -> tuple[Authenticator, ListSink]:
    lines = "".join(f"{key}: {value}\n" for key, value in options(users).items())
    (tmp_path / "smtpd.conf").write_text(lines)
    sink = ListSink()
    p = Parameters.from_mapping(
        {
            "myhostname": "mail.test",
            "cyrus_sasl_config_path": str(tmp_path),
            "smtpd_sasl_local_domain": realm,
            "smtpd_sasl_security_options": "",
            **values,
        }
    )
    return Authenticator.build(p, EPollReactor(), MailLog(sink, "x")), sink


def run(coroutine: Any) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


def converse(
    server: Authenticator, mechanism: str, initial: bytes | None, step: Callable[[bytes], bytes]
) -> Any:
    """Our server and some client; the outcome."""
    exchange = server.begin(mechanism.encode(), SESSION)
    outcome = run(exchange.step(None if initial is None else b64encode(initial)))
    while isinstance(outcome, Challenge):
        outcome = run(exchange.step(b64encode(step(encoding.decode(outcome.data)))))
    return outcome


LOGINS = [
    (b"alice", b"secret", "", "alice"),
    (b"alice", b"bad", "", None),
    (b"nobody", b"secret", "", None),
    (b"bob@example.com", b"pass word", "", "bob@example.com"),
    (b"bob", b"pass word", "example.com", "bob@example.com"),
    ("zürich".encode(), "schön".encode(), "", "zürich"),
]


@pytest.mark.parametrize("mechanism", STRONG)
@pytest.mark.parametrize(("user", "password", "realm", "expected"), LOGINS)
def test_their_client(
    installed: set[str], users: str, tmp_path: Path, mechanism: str, user: bytes, password: bytes, realm: str,
    expected: str | None,
) -> None:  # fmt: skip
    if mechanism not in installed:
        pytest.skip(f"no plug-in for {mechanism}")
    server, _ = authenticator(tmp_path, users, realm)
    peer = libsasl.Client(user, password)
    statuses: list[int] = []

    def step(challenge: bytes) -> bytes:
        status, response = peer.step(challenge)
        statuses.append(status)
        return response

    try:
        _, initial, _ = peer.start(mechanism)
        outcome = converse(server, mechanism, initial, step)
    finally:
        peer.close()
    if expected is None:
        assert isinstance(outcome, Denied) and outcome.reply.code == 535
    else:
        assert isinstance(outcome, Granted), outcome
        assert (outcome.avatar.username, outcome.avatar.mechanism) == (expected, mechanism)
        assert statuses[-1] == libsasl.OK  # it believes us


@pytest.mark.parametrize("mechanism", STRONG)
@pytest.mark.parametrize(("user", "password", "realm", "expected"), LOGINS)
@pytest.mark.parametrize("authzid", [False, True])
def test_our_client(
    installed: set[str], users: str, mechanism: str, user: bytes, password: bytes, realm: str,
    expected: str | None, authzid: bool,
) -> None:  # fmt: skip
    if mechanism not in installed:
        pytest.skip(f"no plug-in for {mechanism}")
    peer = libsasl.Server(options(users), realm, security="")
    context = client.ClientContext(b"mail.test")
    mine = client.choose([mechanism.encode()], (), user, password, authzid=authzid, context=context)
    try:
        status, out = peer.start(mechanism.encode(), mine.initial())
        while status == libsasl.CONTINUE:
            status, out = peer.step(mine.step(out))
        name = peer.username()
    finally:
        peer.close()
    if expected is None:
        assert status < 0
        assert mine.satisfied == (mechanism == "CRAM-MD5")
    else:
        assert (libsasl.text(status), name) == ("successful result", expected)
        assert mine.satisfied


#: what a client says, with the server's nonce where NONCE stands
MISTAKES: list[tuple[bytes, list[bytes | None]]] = [
    *(
        (b"SCRAM-SHA-256", data)
        for data in (
            [None], [None, b""], [b"x"], [b"n,,n=alice,r="], [b"x,,n=alice,r=abc"], [b"p,,n=alice,r=abc"],
            [b"p=tls-unique"], [b"nn,,n=alice,r=abc"], [b"n,x,n=alice,r=abc"], [b"n,a=bob,,,,,,"],
            [b"n,,m=1,n=alice,r=abc"], [b"n,,x=alice,r=abc"], [b"n,,n=alice,x=abc"], [b"n,,n=alice"],
            [b"n,,n=al=ice,r=abc"], [b"n,a==2,n=alice,r=abc"], [b"n,,n=,r=abcdef"], [b"n,,n=alice\0,r=abc"],
            [b"n,,n=alice,r=abc"], [b"n,,n=alice,r=abc", b""], [b"n,,n=alice,r=abc", b"x"],
            [b"n,,n=alice,r=abc", b"x=biws"], [b"n,,n=alice,r=abc", b"c=biws"],
            [b"n,,n=alice,r=abc", b"c=!!,r=abc,p=x"], [b"n,,n=alice,r=abc", b"c=biws,x=abc,p=x"],
            [b"n,,n=alice,r=abc", b"c=biws,r=NONCE"], [b"n,,n=alice,r=abc", b"c=biws,r=abc,p=x"],
            [b"n,,n=alice,r=abc", b"c=biws,r=NONCE,x=y"], [b"n,,n=alice,r=abc", b"c=biws,r=NONCE,p=AAAA"],
            [b"n,,n=alice,r=abc", b"c=biws,r=NONCE,p=" + b64encode(bytes(32))],
            [b"y,,n=alice,r=abc", b"c=eSws,r=NONCE,p=" + b64encode(bytes(32))],
            [b"n,a=bob,n=alice,r=abc", b"c=bixhPWJvYiw=,r=NONCE,p=" + b64encode(bytes(32))],
        )
    ),
    *(
        (b"DIGEST-MD5", [None, data])
        for data in (
            None, b"", b"x", b"username", b"username=", b'username="alice', b"username=alice,,", b"=x",
            b'username="alice"', b'username="alice",nonce="NONCE"', b'username="alice",nonce="NONCE",nc=1',
            b'username="alice",nonce="NONCE",nc=00000001,cnonce="x"', b"nc=xyz", b"nc=0,username=x,nonce=y",
            b"charset=latin-1", b'charset=latin-1,"', b"maxbuf=x", b"maxbuf=16", b"maxbuf=",
            b"maxbuf=17,maxbuf=17", b"maxbuf=17,digest-uri=x", b"realm=a,realm=b,=",
            b"realm=a,realm=b", b"qop=auth,qop=auth", b"digest-uri=imap/x",
            b"digest-uri=smtp", b'digest-uri="imap/x"', b'digest-uri="smtp"',
            b'digest-uri="smtp/x",digest-uri="smtp/x"',
            b"digest-uri=smtp/x,digest-uri=smtp/x",
            b'username="alice",nonce="NONCE",nc=00000001,cnonce="x",digest-uri="smtp/x"',
            b'username="alice",nonce="other",nc=00000001,cnonce="x",digest-uri="smtp/x",response=0',
            b'username="alice",nonce="NONCE",nc=00000001,cnonce="x",digest-uri="smtp/x",response=0',
            b'username="zuerich",nonce="NONCE",nc=00000001,cnonce="x",digest-uri="smtp/x",response=0',
            b'username="z\xc3\xbcrich",nonce="NONCE",nc=00000001,cnonce="x",digest-uri="smtp/x",response=0',
            b'username="alice",realm="mail.test",nonce="NONCE",nc=00000001,cnonce="x",digest-uri="smtp/x",'
            b'response=0,qop="auth-int"',
            b'username="nobody",nonce="NONCE",nc=00000001,cnonce="x",digest-uri="smtp/x",response=0',
            b'username="bob",realm="example.com",nonce="NONCE",nc=00000001,cnonce="x",digest-uri="smtp/x",'
            b"response=0",
            b'username="alice",nonce="NONCE",nc=00000001,cnonce="x",digest-uri="smtp/x",response=0,authzid="bob"',
        )
    ),
    (b"DIGEST-MD5", [b"username=alice"]), (b"CRAM-MD5", [None, b"a" * 1025]),
    (b"OTP", [None]), (b"OTP", [b"alice"]), (b"OTP", [b"\0a\0b"]), (b"OTP", [b"\0nobody"]),
    (b"ANONYMOUS", [b"me"]), (b"EXTERNAL", [b""]),
]  # fmt: skip


def _nonce(challenge: bytes) -> bytes:
    found = re.search(rb'nonce="([^"]+)"|r=([^,]+)', challenge)
    return b"" if found is None else found[1] or found[2]


def _shape(challenge: bytes) -> bytes:
    """A challenge without what is random in it."""
    challenge = re.sub(rb'nonce="[^"]+"', b'nonce=""', challenge)
    challenge = re.sub(rb"^<[^@]*@", b"<@", challenge)
    return re.sub(rb"r=[^,]*,s=[^,]*,", b"r=,s=,", challenge)


def ask_them(users: str, mechanism: bytes, data: list[bytes | None]) -> list[Any]:
    """The challenges, the result, whom it names and what is logged."""
    peer = libsasl.Server(options(users))
    try:
        challenges = []
        status, out = peer.start(mechanism, data[0])
        for said in data[1:]:
            if status != libsasl.CONTINUE:
                break
            challenges.append(_shape(out))
            status, out = peer.step((said or b"").replace(b"NONCE", _nonce(out)))
        if status == libsasl.CONTINUE:
            challenges.append(_shape(out))
        text = libsasl.text(-13 if status == NOUSER else status)
        logged = [line.replace("\n", "?") for level, line in libsasl.lines if level in (FAIL, ERR)]
        return [challenges, text, peer.username(), logged]
    finally:
        peer.close()


def ask_us(tmp_path: Path, users: str, mechanism: bytes, data: list[bytes | None]) -> list[Any]:
    server, sink = authenticator(tmp_path, users, smtpd_sasl_security_options="noanonymous")
    sink.lines.clear()
    exchange = server.begin(mechanism, SESSION)
    challenges: list[bytes] = []
    out, name = b"", None
    for said in data:
        answer = None if said is None else b64encode(said.replace(b"NONCE", _nonce(out)))
        outcome = run(exchange.step(answer))
        if not isinstance(outcome, Challenge):
            break
        out = encoding.decode(outcome.data)
        challenges.append(_shape(out))
    if isinstance(outcome, Challenge):
        text = "another step is needed in authentication"
    else:
        assert isinstance(outcome, Denied)
        text = str(outcome.reply).partition("failed: ")[2] or str(outcome.reply).partition("failure: ")[2]
        name = None if outcome.username == "(unavailable)" else outcome.username
    logged = [text.partition(": ")[2].partition(": ")[2] for _, _, text in sink.lines]
    return [challenges, text, name, logged]


#: what only one of the two says
_DETAILS = ("unable to canonify user", "Channel bindings", "Couldn't find mech")


@pytest.mark.parametrize(("mechanism", "data"), MISTAKES)
def test_mistakes(
    installed: set[str], users: str, tmp_path: Path, mechanism: bytes, data: list[bytes | None]
) -> None:
    if mechanism.decode() not in installed and mechanism != b"EXTERNAL":
        pytest.skip(f"no plug-in for {mechanism.decode()}")
    mine, peer = ask_us(tmp_path, users, mechanism, data), ask_them(users, mechanism, data)
    if mine[1].startswith("another step") or mechanism == b"OTP":
        mine[2] = peer[2]  # it may know the name already
    for each in (mine, peer):
        each[3] = [line for line in each[3] if not line.startswith(_DETAILS)]
    assert mine == peer


@pytest.mark.parametrize("algorithm", ["md5", "sha1"])
def test_one_sequence_of_passwords_for_both(
    installed: set[str], users: str, tmp_path: Path, algorithm: str
) -> None:
    if "OTP" not in installed:
        pytest.skip("no plug-in for OTP")
    from mtad.tables.sasldb import SaslDb

    database = str(tmp_path / "sasldb2")
    shutil.copy(users, database)
    first = otp.Secret(algorithm, 50, "ab1234", otp.generate(algorithm, 50, "ab1234", b"a secret phrase"))
    SaslDb(database).set("alice", "mail.test", first.encode(), otp.PROPERTY)
    server, _ = authenticator(tmp_path, database)
    for sequence in range(49, 43, -1):
        password = otp.generate(algorithm, sequence, "ab1234", b"a secret phrase")
        response = f"hex:{password.hex()}" if sequence % 3 else f"word:{otp.to_words(password)}"
        asked = f"otp-{algorithm} {sequence} ab1234 ext".encode()
        if sequence % 2:
            peer = libsasl.Server(options(database))
            try:
                assert peer.start(b"OTP", b"\0alice") == (libsasl.CONTINUE, asked)
                assert peer.step(response.encode())[0] == libsasl.OK
            finally:
                peer.close()
        else:
            exchange = server.begin(b"OTP", SESSION)
            outcome = run(exchange.step(b64encode(b"\0alice")))
            assert encoding.decode(outcome.data) == asked
            assert isinstance(run(exchange.step(b64encode(response.encode()))), Granted)
    exchange = server.begin(b"OTP", SESSION)
    run(exchange.step(b64encode(b"\0alice")))
    assert isinstance(run(exchange.step(b64encode(response.encode()))), Denied)  # once is enough


def every_set_of_options() -> Iterator[str]:
    words = sorted(libsasl.SECURITY)
    for count in range(len(words) + 1):
        for chosen in itertools.combinations(words, count):
            yield " ".join(chosen)


def test_the_same_list_for_every_set_of_security_options(
    installed: set[str], users: str, tmp_path: Path
) -> None:
    ours = [*STRONG, "PLAIN", "LOGIN", "ANONYMOUS", *(["OTP"] if "OTP" in installed else [])]
    common = [name for name in ours if name in installed]
    conf = options(users) | {"mech_list": " ".join(common)}
    (tmp_path / "smtpd.conf").write_text("".join(f"{key}: {value}\n" for key, value in conf.items()))
    for security in every_set_of_options():
        peer = libsasl.Server(conf, security=security)
        theirs = peer.mechanisms()
        peer.close()
        values = {
            "myhostname": "mail.test",
            "cyrus_sasl_config_path": str(tmp_path),
            "smtpd_sasl_security_options": security,
        }
        try:
            server = Authenticator.build(
                Parameters.from_mapping(values), EPollReactor(), MailLog(ListSink(), "x")
            )
        except ConfigError:
            mine = []
        else:
            mine = [name.decode() for name in server.mechanisms(False)]
        assert mine == theirs, security


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_same_choice(installed: set[str], count: int) -> None:
    names = [name for name in (*STRONG, "PLAIN", "LOGIN") if name in installed]
    for offered in itertools.combinations(names, count):
        for security in ("noanonymous", "noplaintext", "mutual_auth", "noactive"):
            peer = libsasl.Client(b"alice", b"secret", security)
            status, _, name = peer.start(" ".join(offered))
            peer.close()
            try:
                mine = client.choose(
                    [each.encode() for each in offered], security.split(), b"alice", b"secret"
                )
                assert (libsasl.CONTINUE, name) in (
                    (status, mine.name.decode()),
                    (status + 1, mine.name.decode()),
                )
            except SaslFailure:
                assert status < 0


@pytest.mark.parametrize(
    "challenge",
    [
        b"", b"x", b"algorithm=md5-sess", b'nonce="x"', b'nonce="x",algorithm=md5', b"charset=latin-1",
        b'nonce="x",algorithm=md5-sess', b'nonce="x",algorithm=md5-sess,realm=""',
        b'nonce="x",algorithm=md5-sess,realm="a"', b'nonce="x",algorithm=md5-sess,realm="a",realm="b"',
        b'nonce="x",algorithm=md5-sess,qop="auth-int"', b'nonce="x",algorithm=md5-sess,qop="foo"',
        b'nonce="x",algorithm=md5-sess,qop="auth-conf, auth"', b"maxbuf=16", b"maxbuf=17,maxbuf=17",
        b"algorithm=md5-sess,algorithm=md5-sess",
    ],
)  # fmt: skip
def test_what_a_client_makes_of_a_digest_md5_challenge(installed: set[str], challenge: bytes) -> None:
    if "DIGEST-MD5" not in installed:
        pytest.skip("no plug-in for DIGEST-MD5")
    peer = libsasl.Client(b"alice", b"secret")
    mine = client.choose([b"DIGEST-MD5"], (), b"alice", b"secret", context=client.ClientContext(b"mail.test"))
    try:
        mine.initial()
        peer.start("DIGEST-MD5")
        status, response = peer.step(challenge)
    finally:
        peer.close()
    theirs = re.findall(rb'realm="[^"]*"', response) if status == libsasl.CONTINUE else libsasl.text(status)
    ours: Any
    try:
        ours = re.findall(rb'realm="[^"]*"', mine.step(challenge))
    except SaslFailure as failure:
        ours = failure.reason.text
    assert ours == theirs
