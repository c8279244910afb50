from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.sasl import bearer, server
from mtad.sasl.mechanism import (
    Challenge,
    CheckToken,
    Property,
    Proven,
    Reason,
    SaslFailure,
    ServerContext,
    ServerMechanism,
    TokenVerdict,
)

CONTEXT = ServerContext(b"mail.test", lambda: b"1")
OAUTHBEARER, XOAUTH2 = bearer.MECHANISMS
#: RFC 7628 section 4.1
TOKEN = b"vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="
MESSAGE = b"n,a=user@example.com,\1host=server.example.com\1port=143\1auth=Bearer " + TOKEN + b"\1\1"
GOOD = TokenVerdict(b"user@example.com")
BAD = TokenVerdict(failure=Reason.BADAUTH, scope="smtp", configuration="https://example.com/x")


def test_rfc_7628_success() -> None:
    steps = server.begin(OAUTHBEARER, CONTEXT, MESSAGE)
    assert next(steps) == CheckToken(b"user@example.com", TOKEN)
    with pytest.raises(StopIteration) as end:
        steps.send(GOOD)
    assert end.value.value == Proven(b"user@example.com", b"user@example.com")
    assert TOKEN.decode() not in repr(CheckToken(b"u", TOKEN))


@pytest.mark.parametrize("answer", [b"\1", b"", b"anything"])
def test_rfc_7628_failure(answer: bytes) -> None:
    steps = server.begin(OAUTHBEARER, CONTEXT, MESSAGE)
    next(steps)
    told = steps.send(BAD)
    assert isinstance(told, Challenge)
    assert json.loads(told.data) == {
        "status": "invalid_token", "scope": "smtp", "openid-configuration": "https://example.com/x",
    }  # fmt: skip
    with pytest.raises(SaslFailure) as failure:
        steps.send(answer)
    assert failure.value.reason is Reason.BADAUTH


def test_xoauth2_without_initial_response() -> None:
    steps = server.begin(XOAUTH2, CONTEXT, None)
    assert next(steps) == Challenge(b"")
    asked = steps.send(b"user=bob@example.com\1auth=Bearer ya29.vF9\1\1")
    assert asked == CheckToken(b"bob@example.com", b"ya29.vF9")
    told = steps.send(BAD)
    assert isinstance(told, Challenge)
    assert json.loads(told.data) == {"status": "401", "schemes": "bearer", "scope": "smtp"}
    with pytest.raises(SaslFailure):
        steps.send(b"")


def test_no_answer_from_the_provider_is_no_verdict() -> None:
    steps = server.begin(OAUTHBEARER, CONTEXT, MESSAGE)
    next(steps)
    with pytest.raises(SaslFailure) as failure:
        steps.send(TokenVerdict(failure=Reason.UNAVAIL))
    assert failure.value.reason.temporary


@pytest.mark.parametrize(
    ("claimed", "named", "proven"),
    [
        (b"", b"bob@example.com", (b"bob@example.com", b"bob@example.com")),
        (b"a=Bob@Example.com", b"bob@example.com", (b"bob@example.com", b"bob@example.com")),
        (b"a=eve", b"bob", (b"bob", b"eve")),
        (b"a=x=2Cy=3Dz", b"x,y=z", (b"x,y=z", b"x,y=z")),
    ],
)
def test_who_it_is(claimed: bytes, named: bytes, proven: tuple[bytes, bytes]) -> None:
    steps = server.begin(OAUTHBEARER, CONTEXT, b"y,%b,\1auth=bearer t\1\1" % claimed)
    next(steps)
    with pytest.raises(StopIteration) as end:
        steps.send(TokenVerdict(named))
    assert (end.value.value.authcid, end.value.value.authzid) == proven


def test_an_empty_authorization_asks_for_the_error() -> None:
    assert bearer.parse_oauthbearer(b"n,a=u,\1auth=\1\1") == (b"u", b"")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\1",
        b"n,,",
        b"n,,\1",
        b"n,,\1\1",
        b"n,a=u,\1auth=Bearer t\1",
        b"p=tls-unique,,\1auth=Bearer t\1\1",
        b"n,u,\1auth=Bearer t\1\1",
        b"n,a=,\1auth=Bearer t\1\1",
        b"n,a=u=2c,\1auth=Bearer t\1\1",
        b"n,a=\xff,\1auth=Bearer t\1\1",
        b"n,a=u,x\1auth=Bearer t\1\1",
        b"n,,\1auth=Basic dTpw\1\1",
        b"n,,\1auth=Bearer \xc3\xbc\1\1",
        b"n,,\1auth=Bearer a b\1\1",
        b"n,,\1auth=Bearer t\1auth=Bearer u\1\1",
        b"n,,\1host=x\1\1",
        b"n,,\1auth=Bearer t\1\1\1",
        b"n,,\1a uth=x\1auth=Bearer t\1\1",
        b"n,,\1auth=Bearer " + b"t" * 8193 + b"\1\1",
    ],
)
def test_malformed_oauthbearer(message: bytes) -> None:
    with pytest.raises(SaslFailure):
        bearer.parse_oauthbearer(message)


@pytest.mark.parametrize(
    "message",
    [b"", b"user=\1auth=Bearer t\1\1", b"auth=Bearer t\1\1", b"user=u\1auth=Bearer t", b"user=u\1\1"],
)
def test_malformed_xoauth2(message: bytes) -> None:
    with pytest.raises(SaslFailure):
        bearer.parse_xoauth2(message)


_PIECES = st.sampled_from(
    [
        b"n,",
        b"y,",
        b"p=x,",
        b"a=u",
        b",",
        b"\1",
        b"auth=",
        b"Bearer ",
        b"t",
        b"user=",
        b"=2C",
        b"\0",
        b"\xff",
        b"",
    ]
)


@given(
    st.sampled_from(bearer.MECHANISMS),
    st.none() | st.binary(max_size=60) | st.lists(_PIECES, max_size=14).map(b"".join),
    st.lists(st.binary(max_size=40) | st.lists(_PIECES, max_size=14).map(b"".join), max_size=4),
    st.sampled_from([GOOD, BAD, TokenVerdict(failure=Reason.UNAVAIL)]),
)
def test_every_exchange_ends(
    mechanism: ServerMechanism, initial: bytes | None, answers: list[bytes], verdict: TokenVerdict
) -> None:
    steps = server.begin(mechanism, CONTEXT, initial)
    challenges = 0
    try:
        request = next(steps)
        while True:
            if isinstance(request, CheckToken):
                request = steps.send(verdict)
                continue
            challenges += 1
            assert challenges <= 2
            request = steps.send(answers.pop() if answers else b"")
    except StopIteration as end:
        assert verdict is GOOD
        assert isinstance(end.value, Proven)
    except SaslFailure:
        pass


def test_mechanisms_are_for_tls_only() -> None:
    assert server.permitted(bearer.MECHANISMS, Property.NOANONYMOUS, False) == ()
    assert server.permitted(bearer.MECHANISMS, Property.NOPLAINTEXT, True) == bearer.MECHANISMS
    assert b"XOAUTH2" not in [each.name for each in server.select(["xoauth2", "plain"])]
    assert b"XOAUTH2" in [each.name for each in server.select(["xoauth2"], bearer.MECHANISMS)]


@pytest.mark.parametrize("mechanism", bearer.MECHANISMS, ids=lambda each: each.name.decode())
def test_client_and_server_understand_each_other(mechanism: ServerMechanism) -> None:
    client = bearer.choose(
        [mechanism.name.lower(), b"PLAIN"], ("noplaintext",), b"a=b,c@example.com", b"tok.en"
    )
    steps = server.begin(mechanism, CONTEXT, client.initial())
    assert next(steps) == CheckToken(b"a=b,c@example.com", b"tok.en")
    told = steps.send(BAD)
    assert isinstance(told, Challenge)
    assert client.told == ""
    dummy = client.step(told.data)
    assert dummy == (b"\1" if mechanism is OAUTHBEARER else b"")
    assert client.told == ("invalid_token" if mechanism is OAUTHBEARER else "401")
    with pytest.raises(SaslFailure):
        client.step(b"more?")


def test_a_long_token_waits_for_an_empty_challenge() -> None:
    client = bearer.choose([b"XOAUTH2"], (), b"u", b"t" * 2000)
    assert client.initial() is None
    assert client.step(b"") == b"user=u\1auth=Bearer " + b"t" * 2000 + b"\1\1"


@pytest.mark.parametrize(
    ("offered", "options", "user", "token"),
    [
        ([b"PLAIN", b"SCRAM-SHA-256"], (), b"u", b"t"),
        ([b"XOAUTH2"], ("mutual_auth",), b"u", b"t"),
        ([b"XOAUTH2"], (), b"", b"t"),
        ([b"XOAUTH2"], (), b"u\1auth=x", b"t"),
        ([b"XOAUTH2"], (), b"u", b""),
        ([b"XOAUTH2"], (), b"u", b"t\1\1"),
    ],
)
def test_client_refuses(offered: list[bytes], options: tuple[str, ...], user: bytes, token: bytes) -> None:
    with pytest.raises(SaslFailure):
        bearer.choose(offered, options, user, token)


def test_oauthbearer_is_preferred() -> None:
    assert bearer.choose([b"PLAIN", b"XOAUTH2", b"OAUTHBEARER"], (), b"u", b"t").name == b"OAUTHBEARER"


@given(st.binary(max_size=80))
def test_any_error_of_a_server_is_answered(error: bytes) -> None:
    client = bearer.choose([b"OAUTHBEARER"], (), b"u", b"t")
    client.initial()
    assert client.step(error) == b"\1"
    assert len(client.told) <= 100
