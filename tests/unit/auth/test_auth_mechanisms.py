"""Every mechanism through an exchange: any input comes to one final reply, certificates, several steps."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from auth_support import SESSION, TLS_SESSION, Build, at_once, converse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtad.auth.authenticator import Challenge, Denied, Granted
from mtad.auth.verifiers import scram_keys
from mtad.maillog import ListSink
from mtad.net.tls_channel import Certificate, TLSChannel
from mtad.sasl import client, otp
from mtad.sasl.encoding import decode
from mtad.sasl.server import MECHANISMS
from mtad.tables.sasldb import SaslDb

B64 = base64.b64encode
ALL = {"mech_list": " ".join(each.name.decode() for each in MECHANISMS)}
VALUES = {
    "smtpd_sasl_security_options": "",
    "mtad_sasl_channel_binding": "yes",
    "mtad_external_login_names": "email, cn, subject",
    "smtpd_sasl_mechanism_filter": "static:rest",
}


class Channel(TLSChannel):
    """A channel without a connection."""

    def __init__(self, certificate: Certificate | None, data: bytes = b"data") -> None:
        self._certificate = certificate
        self._data = data

    @property
    def trusted(self) -> bool:
        return self._certificate is not None

    def binding(self, kind: bytes) -> bytes | None:
        return self._data if kind == b"tls-exporter" else None

    def certificate(self) -> Certificate | None:
        return self._certificate


CERTIFICATE = Certificate("AA:BB", "CC:DD", "CN=Robot,O=Example", ("robot@example.com",), "Robot")


def certified(certificate: Certificate | None = CERTIFICATE) -> Any:
    return replace(TLS_SESSION, channel=Channel(certificate))


_PIECES = st.sampled_from(
    [
        b"",
        b"\0",
        b"alice",
        b"n,,",
        b"y,,",
        b"p=tls-exporter,,",
        b"a=bob,",
        b"n=alice,",
        b"r=abcdef",
        b",",
        b"=",
        b"c=biws,",
        b"p=",
        b"=2C",
        b"m=1,",
        b'username="alice",',
        b'realm="mail.test",',
        b'nonce="x",',
        b"nc=1,",
        b'cnonce="y",',
        b'digest-uri="smtp/mail.test",',
        b"response=0",
        b"qop=auth-int,",
        b"charset=x",
        b"\xff\xfe",
        b"hex:0123456789abcdef",
        b"word:A B C D E F",
        b"init-hex:0:md5 1 x:0",
        b" ",
        b"\r\n",
        b"\x00" * 40,
        b"A" * 9000,
        b"secret",
        b"user=alice\1auth=Bearer x\1\1",
        b'"',
        b"\\",
    ]
)
_RESPONSES = st.one_of(
    st.lists(_PIECES, max_size=8).map(b"".join).map(B64),
    st.binary(max_size=80).map(B64),
    st.binary(max_size=80),
    st.sampled_from([b"", b"=", b"====", b"*", b"AA", b"A" * 12288]),
)


@given(
    st.sampled_from(MECHANISMS),
    st.none() | _RESPONSES,
    st.lists(_RESPONSES, min_size=6, max_size=6),
    st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400, deadline=None)
def test_anything_comes_to_one_reply(
    build: Build, sink: ListSink, mechanism: Any, initial: bytes | None, responses: list[bytes], tls: bool
) -> None:
    authenticator = _made(build)
    exchange = authenticator.begin(mechanism.name, certified() if tls else SESSION)
    outcome = at_once(exchange.step(initial))
    for response in responses:
        if not isinstance(outcome, Challenge):
            break
        decode(outcome.data)
        outcome = at_once(exchange.step(response))
    assert isinstance(outcome, Denied | Granted)
    if isinstance(outcome, Granted):
        assert mechanism.name in (b"ANONYMOUS", b"EXTERNAL", b"PLAIN", b"LOGIN")
    assert not any("Traceback" in text for _, _, text in sink.lines)
    sink.lines.clear()


_authenticators: dict[int, Any] = {}


def _made(build: Build) -> Any:
    if id(build) not in _authenticators:
        _authenticators.clear()
        _authenticators[id(build)] = build(ALL, **VALUES)
    return _authenticators[id(build)]


def test_what_is_announced_goes_by_the_connection(build: Build) -> None:
    authenticator = build(ALL, **VALUES)
    plain, tls, known = (authenticator.mechanisms(*each) for each in ((False,), (True,), (True, True)))
    assert not [name for name in plain if name.endswith(b"-PLUS")]
    assert set(tls) - set(plain) == {each.name for each in MECHANISMS if each.for_binding}
    assert set(known) - set(tls) == {b"EXTERNAL"}
    assert authenticator.mechanisms(False, True) == plain
    usual = build()
    assert usual.mechanisms(True) == usual.mechanisms(True, True) == usual.mechanisms(False)
    hidden = build(ALL, **VALUES | {"smtpd_sasl_mechanism_filter": "!external, static:rest"})
    assert b"EXTERNAL" not in hidden.mechanisms(True, True)


def external(build: Build, authzid: bytes | None, session: Any = None, **values: str) -> str:
    exchange = build({"mech_list": "external plain"}, **values).begin(b"EXTERNAL", session or certified())
    outcome = at_once(exchange.step(None if authzid is None else B64(authzid) or b"="))
    if isinstance(outcome, Challenge):
        outcome = at_once(exchange.step(b""))
    return outcome.avatar.username if isinstance(outcome, Granted) else str(outcome.reply)


@pytest.mark.parametrize(
    ("values", "login"),
    [
        ({"mtad_external_login_names": "email"}, "robot@example.com"),
        ({"mtad_external_login_names": "cn, email"}, "Robot"),
        ({"mtad_external_login_names": "subject"}, "CN=Robot,O=Example"),
        ({"mtad_external_login_maps": "inline:{{AA:BB=one}}"}, "one"),
        ({"mtad_external_login_maps": "inline:{{CC:DD=two}}"}, "two"),
        ({"mtad_external_login_maps": "inline:{{email:robot@example.com=three}}"}, "three"),
        (
            {"mtad_external_login_maps": "inline:{{cn:robot=four}}", "mtad_external_login_names": "email"},
            "four",
        ),
    ],
)
def test_the_login_of_a_certificate(build: Build, values: dict[str, str], login: str) -> None:
    assert external(build, b"", **values) == login
    assert external(build, None, **values) == login
    assert external(build, login.encode(), **values) == login
    assert external(build, b"somebody", **values).startswith("535 5.7.8")


def test_no_login_by_a_certificate_that_does_not_count(build: Build) -> None:
    refused = "535 5.7.8 Error: authentication failed: "
    names = {"mtad_external_login_names": "email"}
    assert external(build, None) == f"{refused}no mechanism available"  # nothing says whose login it is
    assert external(build, None, TLS_SESSION, **names) == f"{refused}no mechanism available"
    assert external(build, None, SESSION, **names) == f"{refused}no mechanism available"
    assert external(build, None, certified(None), **names) == f"{refused}no mechanism available"
    nameless = certified(replace(CERTIFICATE, emails=()))
    assert external(build, b"", nameless, **names) == f"{refused}authentication failure"
    spoofed = certified(Certificate("11", "22", "", (), "AA:BB"))  # a name that looks like a fingerprint
    maps = {"mtad_external_login_maps": "inline:{{AA:BB=one}}"}
    assert external(build, b"", spoofed, **maps) == f"{refused}authentication failure"


@pytest.mark.parametrize("name", [each.name for each in client.MECHANISMS if each.name != b"EXTERNAL"])
def test_our_client_and_our_server(build: Build, name: bytes) -> None:
    authenticator = build(ALL, **VALUES)
    session = certified()
    binding: Callable[[bytes], bytes | None] | None = (
        session.channel.binding if name.endswith(b"-PLUS") else None
    )
    context = client.ClientContext(b"mail.test", False, binding)
    mine = client.choose([name], (), b"alice", b"secret", context=context)
    outcome = converse(authenticator, mine, session)
    assert isinstance(outcome, Granted) and mine.satisfied
    assert (outcome.avatar.username, outcome.avatar.mechanism) == ("alice", name.decode())
    wrong = client.choose([name], (), b"alice", b"wrong", context=context)
    assert isinstance(converse(authenticator, wrong, session), Denied)


@pytest.mark.parametrize(("answer", "granted"), [(b"", True), (b"anything", True), (b"!", False)])
def test_the_last_word_is_heard_before_success(build: Build, answer: bytes, granted: bool) -> None:
    """To which the client may answer what it likes, in base64."""
    authenticator = build(ALL, **VALUES)
    mine = client.choose([b"SCRAM-SHA-256"], (), b"alice", b"secret", authzid=True)
    exchange = authenticator.begin(b"SCRAM-SHA-256", SESSION)
    begun = at_once(exchange.step(B64(mine.initial() or b"")))
    final = at_once(exchange.step(B64(mine.step(decode(begun.data)))))
    assert isinstance(final, Challenge) and decode(final.data).startswith(b"v=")
    assert isinstance(at_once(exchange.step(answer)), Granted if granted else Denied)


def test_one_password_one_login(build: Build, users: str) -> None:
    first = otp.Secret("md5", 20, "ab1", otp.generate("md5", 20, "ab1", b"phrase phrase"))
    SaslDb(users).set("carol", "mail.test", first.encode(), otp.PROPERTY)
    authenticator = build(ALL, **VALUES)
    response = B64(b"hex:" + otp.generate("md5", 19, "ab1", b"phrase phrase").hex().encode())
    both = [authenticator.begin(b"OTP", SESSION) for _ in range(2)]
    for exchange in both:
        assert isinstance(at_once(exchange.step(B64(b"\0carol"))), Challenge)
    assert [type(at_once(exchange.step(response))) for exchange in both] == [Granted, Denied]
    stored = SaslDb(users).get("carol", "mail.test", otp.PROPERTY)
    assert stored is not None and otp.parse_secret(stored).sequence == 19


def test_without_a_name_in_mech_list_there_is_no_otp(build: Build) -> None:
    assert b"OTP" not in build(None, smtpd_sasl_security_options="").mechanisms(False)
    assert b"ANONYMOUS" in build(None, smtpd_sasl_security_options="").mechanisms(False)
    assert b"ANONYMOUS" not in build().mechanisms(False)


def test_iterations_are_configured(build: Build) -> None:
    for conf, count in (
        ({}, 4096),
        ({"scram_iteration_counter": "9000"}, 9000),
        ({"scram_iteration_counter": "x"}, 4096),
    ):
        exchange = build(conf).begin(b"SCRAM-SHA-1", SESSION)
        assert decode(at_once(exchange.step(B64(b"n,,n=alice,r=abcdef"))).data).endswith(b",i=%d" % count)


def test_salts_do_not_tell_who_exists(build: Build) -> None:
    def salt(user: bytes) -> bytes:
        exchange = build().begin(b"SCRAM-SHA-256", SESSION)
        return decode(at_once(exchange.step(B64(b"n,,n=%b,r=abcdef" % user))).data).split(b",")[1]

    assert salt(b"nobody") == salt(b"nobody") != salt(b"alice") == salt(b"alice")
    stored = decode(scram_keys(b"x", 1).partition(b":")[2].partition(b"$")[0])
    assert len(decode(salt(b"nobody")[2:])) == len(stored)


@pytest.mark.parametrize("mechanism", [b"PLAIN", b"CRAM-MD5", b"DIGEST-MD5", b"SCRAM-SHA-256"])
@pytest.mark.parametrize("typed", ["zürich", "zu\u0308rich", "ｚürich", "zürich\u00ad", " zürich\u00a0"])
def test_a_name_may_be_typed_in_another_form(
    build: Build, tmp_path: Path, mechanism: bytes, typed: str
) -> None:
    SaslDb(str(tmp_path / "own")).set("zürich", "mail.test", b"secret")
    conf = {"sasldb_path": str(tmp_path / "own")}
    authenticator = build(conf, smtpd_sasl_security_options="")
    context = client.ClientContext(b"mail.test")
    mine = client.choose([mechanism], (), typed.encode(), b"secret", context=context)
    outcome = converse(authenticator, mine)
    assert isinstance(outcome, Granted)
    assert outcome.avatar.username == "zürich"


def test_a_password_may_be_typed_in_another_form(build: Build, users: str) -> None:
    SaslDb(users).set("eve", "mail.test", "gr\u00fcn".encode())
    for typed, right in (("gr\u00fcn", True), ("gru\u0308n", True), ("grun", False), ("", False)):
        response = B64(b"\0eve\0" + typed.encode())
        outcome = at_once(build().begin(b"PLAIN", SESSION).step(response))
        assert isinstance(outcome, Granted) is right
