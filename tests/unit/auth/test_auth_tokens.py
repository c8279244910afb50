"""Bearer tokens at the server: claims, keys, introspection, the whole exchange."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from auth_support import SESSION, TLS_SESSION, Build, at_once, turn
from hypothesis import given
from hypothesis import strategies as st
from oauth_provider import AUDIENCE, CLIENT, ISSUER, SECRET, Provider
from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor

from mtad.auth import jwks
from mtad.auth.authenticator import Challenge, Denied, Granted
from mtad.auth.introspection import Introspection
from mtad.auth.oauth import read_tokens
from mtad.auth.tokens import BadToken, Claims, TokenVerifier
from mtad.config.parameters import Parameters
from mtad.errors import ConfigError
from mtad.maillog import ListSink, MailLog
from mtad.sasl.mechanism import Reason, TokenVerdict

ALICE = TokenVerdict(b"alice@example.com")
NOW = 1_700_000_000.0

Verifier = Callable[..., TokenVerifier]
Verify = Callable[[TokenVerifier, str], TokenVerdict]


@pytest.fixture
def reactor() -> Iterator[EPollReactor]:
    """A reactor turned by hand, with the threads in which names are looked up."""
    own = EPollReactor()
    own.getThreadPool().start()
    yield own
    own.getThreadPool().stop()
    own.disconnectAll()


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as found:
        yield found


@pytest.fixture
def verifier(reactor: EPollReactor, sink: ListSink) -> Verifier:
    """``verifier(mtad_oauth_...)``."""

    def make(**values: str) -> TokenVerifier:
        p = Parameters.from_mapping({f"mtad_oauth_{name}": text for name, text in values.items()})
        found = read_tokens(p, reactor, MailLog(sink, "postfix/smtpd"))
        assert found is not None
        return found

    return make


@pytest.fixture
def verify(reactor: EPollReactor) -> Verify:
    def run(verifier: TokenVerifier, token: str) -> TokenVerdict:
        verdict: TokenVerdict = turn(reactor, Deferred.fromCoroutine(verifier.verify(token.encode())))[0]
        assert isinstance(verdict, TokenVerdict), verdict
        return verdict

    return run


def why(sink: ListSink) -> str:
    """The last reason in the log."""
    return sink.lines[-1][2].removeprefix("warning: SASL authentication failure: bearer token refused: ")


# -- claims


def claims(**changes: Any) -> Claims:
    usual: dict[str, Any] = {
        "issuer": ISSUER, "audiences": frozenset({AUDIENCE}), "scopes": frozenset(), "username": "email",
        "skew": 60.0, "whole": True,
    }  # fmt: skip
    return Claims(**{**usual, **changes})


def said(**changes: Any) -> dict[str, Any]:
    usual = {"iss": ISSUER, "aud": AUDIENCE, "exp": NOW + 10, "email": "alice@example.com"}
    return {name: value for name, value in {**usual, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": NOW - 61}, "expired 61 seconds ago"),
        ({"exp": None}, "it has no end"),
        ({"exp": "tomorrow"}, "malformed exp"),
        ({"exp": True}, "malformed exp"),
        ({"exp": 1e400}, "malformed exp"),
        ({"nbf": NOW + 61}, "valid in 61 seconds"),
        ({"iss": "https://evil.example"}, "issued by https://evil.example, not by"),
        ({"iss": None}, "issued by nobody it names"),
        ({"iss": [ISSUER]}, "issued by"),
        ({"aud": "web"}, "made for web, not for smtp.example.com"),
        ({"aud": None}, "made for nobody it names"),
        ({"aud": {AUDIENCE: 1}}, "made for"),
        ({"email": None}, "no user name: it has no email (but aud iss)"),
        ({"email": " "}, "no user name"),
        ({"email": ["a"]}, "no user name"),
        ({"email": "al\nice"}, "its email can not be a user name"),
        ({"email": "a" * 1025}, "its email can not be a user name"),
        ({"email_verified": False}, "its provider has not verified the address alice@example.com"),
    ],
)
def test_claims_refuse(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadToken, match="^" + "".join("\\" + c if c in "()" else c for c in reason)):
        claims().user(said(**changes), NOW)


def test_claims_accept() -> None:
    for changes in ({}, {"aud": ["web", AUDIENCE]}, {"exp": NOW - 59}, {"nbf": NOW + 59}, {"iat": NOW}):
        assert claims().user(said(**changes), NOW) == b"alice@example.com"
    assert claims(username="sub").user(said(sub="x1"), NOW) == b"x1"


def test_scopes() -> None:
    wanted = claims(scopes=frozenset({"smtp", "mail"}))
    for granted in ({"scope": "smtp mail x"}, {"scp": "mail smtp"}, {"scp": ["smtp", "mail"]}):
        assert wanted.user(said(**granted), NOW)
    with pytest.raises(BadToken, match="no scope smtp") as bad:
        wanted.user(said(scope="mail"), NOW)
    assert bad.value.status == "insufficient_scope"


@given(
    st.dictionaries(
        st.sampled_from(["iss", "aud", "exp", "nbf", "email", "scope", "email_verified"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
        | st.lists(st.text(max_size=4) | st.integers(), max_size=2),
    )
)  # fmt: skip
def test_any_claims_are_judged(members: dict[str, Any]) -> None:
    for whole in (True, False):
        try:
            claims(whole=whole, scopes=frozenset({"s"})).user({**said(), **members}, NOW)
        except BadToken as bad:
            assert str(bad)


# -- local keys


def local(provider: Provider, path: Path, **more: str) -> dict[str, str]:
    path.write_text(json.dumps(provider.jwks()))
    return {"jwks": f"file:{path}", "issuer": ISSUER, "audience": f"web2 {AUDIENCE}", **more}


@pytest.mark.parametrize("algorithm", ["ES256", "RS256", "PS256", "EdDSA"])
def test_good_token(
    provider: Provider, verifier: Verifier, verify: Verify, tmp_path: Path, algorithm: str
) -> None:
    provider.add_key("k1", algorithm)
    found = verifier(**local(provider, tmp_path / "keys"))
    assert verify(found, provider.sign()) == ALICE
    unnamed = jwt.encode(provider.claims(), provider.keys["k1"][1], algorithm)
    assert verify(found, unnamed) == ALICE


def test_bad_tokens(
    provider: Provider, verifier: Verifier, verify: Verify, tmp_path: Path, sink: ListSink
) -> None:
    provider.add_key("k1")
    provider.add_key("k2", "RS256")
    values = local(provider, tmp_path / "keys", scope="smtp")
    found = verifier(**values)
    provider.add_key("new")
    good = provider.sign("k1", scope="smtp")
    head, body, signature = good.split(".")
    public = json.dumps(provider.jwks()["keys"][0])
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    deep = base64.urlsafe_b64encode(b"[" * 5000).rstrip(b"=").decode()
    cases = {
        f"{deep}.{body}.": "not a signed JSON Web Token",
        "": "not a signed JSON Web Token",
        "opaque": "not a signed JSON Web Token",
        f"{none}.{body}.": "algorithm none is not allowed",
        jwt.encode(provider.claims(), public * 3, "HS256"): "algorithm HS256 is not allowed",
        f"{head}.{body}.{'A' * len(signature)}": "its signature is wrong",
        f"{head}.{provider.sign('k1').split('.')[1]}.{signature}": "its signature is wrong",
        provider.sign("new"): "no ES256 key new in the key set",
        provider.sign("k1", headers={"kid": "k2"}): "no ES256 key k2 in the key set",
        provider.sign("k1", headers={"crit": ["exp"], "exp": 1}): "",
        provider.sign("k1", scope="smtp", aud="web"): "made for web, not for smtp.example.com web2",
        provider.sign("k1"): "no scope smtp",
    }
    for token, reason in cases.items():
        verdict = verify(found, token)
        assert verdict.failure is Reason.BADAUTH
        assert verdict.scope == "smtp"
        assert verdict.configuration == f"{ISSUER}/.well-known/openid-configuration"
        assert why(sink).startswith(reason)
        assert verdict.status == ("insufficient_scope" if "scope" in reason else "invalid_token")
    assert verify(found, good) == ALICE
    for _, _, text in sink.lines:
        assert body not in text
        assert signature not in text


def test_a_file_is_read_anew(
    provider: Provider, verifier: Verifier, verify: Verify, tmp_path: Path, sink: ListSink
) -> None:
    provider.add_key("k1")
    path = tmp_path / "keys"
    found = verifier(**local(provider, path))
    provider.add_key("k2")
    assert verify(found, provider.sign("k2")).failure is Reason.BADAUTH
    path.write_text(json.dumps(provider.jwks()))
    assert verify(found, provider.sign("k2")) == ALICE
    path.write_text("broken")
    assert verify(found, provider.sign("k2")) == ALICE
    assert "the keys read before serve on" in sink.lines[-1][2]
    os.unlink(path)
    assert verify(found, provider.sign("k2")) == ALICE


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"jwks": "file:/nonexistent"}, "No such file"),
        ({"jwks": "http://id.example.com/jwks"}, "not an https: URL, and not of this host"),
        ({"jwks": "keys"}, "not an https: URL"),
        ({"jwks": "https://x/", "issuer": ""}, "any provider's tokens would do"),
        ({"jwks": "https://x/", "audience": ""}, "any other service's tokens would do"),
        ({"jwks": "https://x/", "introspection_url": "https://x/"}, "set one of the two"),
        ({"introspection_url": "https://user@x/"}, "user name"),
        (
            {"introspection_url": "https://x/", "client_id": "x", "client_secret_file": "/none"},
            "No such file",
        ),
        ({"introspection_url": "https://x/", "client_secret_file": "/etc/passwd"}, "not set"),
        ({"introspection_url": "https://x/", "CAfile": "/none"}, "No such file"),
        ({"introspection_url": "https://x/", "CAfile": "/etc/passwd"}, "no certificate in it"),
        ({"introspection_url": "https://x/", "clock_skew": "2d"}, "at most"),
    ],
)
def test_configuration_errors(verifier: Verifier, values: dict[str, str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        verifier(**{"issuer": ISSUER, "audience": AUDIENCE, **values})


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"keys": {}}', '{"keys": [1, {}, {"kty": "oct", "k": "AAAA"}]}']
)
def test_key_sets_without_keys(text: str) -> None:
    with pytest.raises(ValueError, match=r"(?i)key"):
        jwks.parse_keys(text.encode())


@given(st.binary(max_size=60) | st.recursive(
    st.none() | st.text(max_size=5) | st.integers(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["keys", "kty", "n", "e", "crv", "x", "y", "kid"]),
                      inner | st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed25519", "AQAB"]), max_size=5),
).map(lambda value: json.dumps({"keys": value}).encode()))  # fmt: skip
def test_any_key_set_is_judged(data: bytes) -> None:
    try:
        jwks.parse_keys(data)
    except ValueError:
        pass


# -- keys from a server


def test_new_keys_are_asked_for(
    provider: Provider,
    verifier: Verifier,
    verify: Verify,
    sink: ListSink,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    provider.add_key("k1")
    found: Any = verifier(jwks=f"{provider.url}/jwks", issuer=ISSUER, audience=AUDIENCE, username_claim="sub")
    clock = [time.time()]
    found._keys._clock = lambda: clock[0]
    assert verify(found, provider.sign(sub="al")).user == b"al"
    assert verify(found, provider.sign(sub="al")).user == b"al"
    assert provider.count("/jwks") == 1
    provider.add_key("k2")
    assert verify(found, provider.sign("k2", sub="al")).failure is Reason.BADAUTH  # asked a moment ago
    clock[0] += jwks.RETRY
    assert verify(found, provider.sign("k2", sub="al")).user == b"al"
    for _ in range(3):
        assert verify(found, provider.sign("k2", headers={"kid": "?"})).failure is Reason.BADAUTH
    assert provider.count("/jwks") == 2
    # old keys serve on while the provider is down, for a day
    provider.down = True
    clock[0] += 4000
    assert verify(found, provider.sign("k2", sub="al")).user == b"al"
    assert "answered 503" in sink.lines[-1][2]
    clock[0] += jwks.STALE
    assert verify(found, provider.sign("k2", sub="al")).failure is Reason.UNAVAIL
    provider.down = False
    clock[0] += jwks.RETRY
    assert verify(found, provider.sign("k2", sub="al")).user == b"al"


def test_no_keys_no_verdict(provider: Provider, verifier: Verifier, verify: Verify, sink: ListSink) -> None:
    provider.add_key("k1")
    token = provider.sign()
    for raw, reason in ((b"<html>", "not a JSON Web Key Set"), (b"x" * 600_000, "the answer is longer")):
        provider.raw = raw
        found = verifier(jwks=f"{provider.url}/jwks", issuer=ISSUER, audience=AUDIENCE)
        assert verify(found, token).failure is Reason.UNAVAIL
        assert reason in sink.lines[-1][2]
    provider.stop()
    found = verifier(jwks=f"{provider.url}/jwks", issuer=ISSUER, audience=AUDIENCE)
    assert verify(found, token).failure is Reason.UNAVAIL
    assert "refused" in sink.lines[-1][2]


# -- introspection


def asked(provider: Provider, tmp_path: Path, **more: str) -> dict[str, str]:
    (tmp_path / "secret").write_text(SECRET + "\n")
    return {
        "introspection_url": f"{provider.url}/introspect",
        "client_id": CLIENT,
        "client_secret_file": str(tmp_path / "secret"),
        **more,
    }


@pytest.mark.parametrize("method", ["basic", "post"])
def test_introspection(
    provider: Provider, verifier: Verifier, verify: Verify, tmp_path: Path, sink: ListSink, method: str
) -> None:
    found = verifier(**asked(provider, tmp_path, client_auth=method, username_claim="username"))
    provider.active["good"] = {"active": True, "username": "alice@example.com"}
    provider.active["anyone"] = {"active": True}
    assert [verify(found, "good") for _ in range(3)] == [ALICE] * 3
    assert provider.count("/introspect") == 1
    assert provider.requests[0][1]["token"] == "good"
    assert ("by" in provider.requests[0][1]) is (method == "basic")
    for token, reason in (("bad", "its provider says that it is not active"), ("anyone", "no user name")):
        for _ in range(2):
            assert verify(found, token).failure is Reason.BADAUTH
            assert why(sink).startswith(reason)
    assert provider.count("/introspect") == 3
    assert verify(found, "").failure is Reason.BADAUTH
    assert provider.count("/introspect") == 3


def test_introspection_is_remembered_for_a_while(
    provider: Provider, verifier: Verifier, verify: Verify, tmp_path: Path
) -> None:
    found = verifier(**asked(provider, tmp_path, audience="me"))
    assert isinstance(found, Introspection)
    clock = [time.time()]
    found._clock = lambda: clock[0]
    user = {"active": True, "email": "alice@example.com", "aud": "me"}
    provider.active |= {"long": user, "short": {**user, "exp": int(clock[0]) - 40}}
    for moment, count in ((0, 2), (25, 3), (60, 5)):
        clock[0] += moment
        verify(found, "long"), verify(found, "short")
        assert provider.count("/introspect") == count
    provider.active["long"] = {**user, "aud": "you"}
    clock[0] += 61
    assert verify(found, "long").failure is Reason.BADAUTH


def test_one_question_for_all_who_wait(
    provider: Provider, verifier: Verifier, reactor: EPollReactor, tmp_path: Path
) -> None:
    found = verifier(**asked(provider, tmp_path))
    provider.active["good"] = {"active": True, "email": "alice@example.com"}
    waiting = [Deferred.fromCoroutine(found.verify(b"good")) for _ in range(5)]
    waiting[0].addErrback(lambda _: None)
    waiting[0].cancel()
    assert turn(reactor, *waiting[1:]) == [ALICE] * 4
    assert provider.count("/introspect") == 1


def test_a_broken_provider_is_no_verdict(
    provider: Provider, verifier: Verifier, verify: Verify, tmp_path: Path, sink: ListSink
) -> None:
    found = verifier(**asked(provider, tmp_path, client_id="other"))
    assert verify(found, "t").failure is Reason.UNAVAIL
    assert "answered 401 (is mtad_oauth_client_secret_file right?)" in sink.lines[-1][2]
    provider.raw = b"[]"
    assert verify(verifier(**asked(provider, tmp_path)), "t").failure is Reason.UNAVAIL
    assert "no JSON object" in sink.lines[-1][2]
    provider.raw = None
    assert verify(verifier(**asked(provider, tmp_path)), "t").failure is Reason.BADAUTH
    assert not any(SECRET in text for _, _, text in sink.lines)


# -- the exchange


def test_exchange(
    build: Build, provider: Provider, reactor: EPollReactor, tmp_path: Path, sink: ListSink
) -> None:
    provider.add_key("k1")
    values = {f"mtad_oauth_{name}": text for name, text in local(provider, tmp_path / "keys").items()}
    authenticator = build(None, smtpd_tls_security_level="may", **values)
    assert {b"XOAUTH2", b"OAUTHBEARER"} <= set(authenticator.mechanisms(True))
    assert not {b"XOAUTH2", b"OAUTHBEARER"} & set(authenticator.mechanisms(False))

    def step(exchange: Any, data: bytes | None) -> Any:
        encoded = data if data is None else base64.b64encode(data)
        return turn(reactor, Deferred.fromCoroutine(exchange.step(encoded)))[0]

    def message(user: str, token: str) -> bytes:
        return f"n,a={user},\1auth=Bearer {token}\1\1".encode()

    def exchange() -> Any:
        return authenticator.begin(b"OAUTHBEARER", TLS_SESSION)

    granted = step(exchange(), message("Alice@example.com", provider.sign()))
    assert isinstance(granted, Granted)
    assert (granted.avatar.username, granted.avatar.mechanism) == ("alice@example.com", "OAUTHBEARER")

    refused = exchange()
    told = step(refused, message("alice@example.com", provider.sign(aud="web")))
    assert isinstance(told, Challenge)
    assert json.loads(base64.b64decode(told.data))["status"] == "invalid_token"
    denied = step(refused, b"\1")
    assert isinstance(denied, Denied)
    assert denied.reply.code == 535
    assert denied.username == "alice@example.com"

    other = step(exchange(), message("bob@example.com", provider.sign()))
    assert isinstance(other, Denied)
    assert (other.reply.code, other.username) == (535, "bob@example.com")

    clear = step(authenticator.begin(b"XOAUTH2", SESSION), None)
    assert isinstance(clear, Denied)
    assert "encryption needed" in str(clear.reply)


def test_not_announced_without_a_verifier(build: Build) -> None:
    assert not {b"XOAUTH2", b"OAUTHBEARER"} & set(build().mechanisms(True))


_PIECES = st.sampled_from(
    [b"n,", b"a=u,", b"user=u", b"\1", b"auth=Bearer ", b"t", b"e30.e30.e30", b"\0", b""]
)
_WIRE = st.binary(max_size=60) | st.lists(_PIECES, max_size=8).map(b"".join).map(base64.b64encode)


def test_any_exchange_ends_in_one_refusal(build: Build, provider: Provider, tmp_path: Path) -> None:
    provider.add_key("k1")
    values = {f"mtad_oauth_{name}": text for name, text in local(provider, tmp_path / "keys").items()}
    authenticator = build(None, smtpd_tls_security_level="may", **values)

    @given(st.sampled_from([b"XOAUTH2", b"oauthbearer"]), st.none() | _WIRE, st.lists(_WIRE, max_size=3))
    def fuzz(mechanism: bytes, initial: bytes | None, answers: list[bytes]) -> None:
        exchange = authenticator.begin(mechanism, TLS_SESSION)
        outcome = at_once(exchange.step(initial))
        for _ in range(2):
            if isinstance(outcome, Challenge):
                outcome = at_once(exchange.step(answers.pop() if answers else b""))
        assert isinstance(outcome, Denied)

    fuzz()
