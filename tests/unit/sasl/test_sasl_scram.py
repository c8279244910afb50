from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mtad.sasl import scram
from mtad.sasl.client import ClientContext, choose
from mtad.sasl.encoding import encode
from mtad.sasl.mechanism import (
    Challenge,
    Channel,
    NeedSecret,
    Proven,
    Reason,
    SaslFailure,
    ServerContext,
    Work,
)
from mtad.sasl.saslprep import prepare
from mtad.sasl.server import MECHANISMS, begin

CONTEXT = ServerContext(b"mail.test", lambda: b"1.2", salt_key=b"salt key")
BOUND = {b"tls-exporter": b"e" * 32, b"tls-server-end-point": b"p" * 32}


def server(
    name: bytes, secrets: dict[str, bytes], context: ServerContext = CONTEXT
) -> Callable[[bytes], Any]:
    """``say(message)`` gives the next challenge, or the result."""
    mechanism = next(each for each in MECHANISMS if each.name == name)
    steps = begin(mechanism, context, None)
    assert next(steps) == Challenge(b"")

    def say(message: bytes) -> Any:
        try:
            request: Any = steps.send(message)
            while not isinstance(request, Challenge):
                if isinstance(request, Work):
                    request = steps.send(request.do())
                else:
                    assert isinstance(request, NeedSecret)
                    request = steps.send(secrets)
        except StopIteration as end:
            return end.value
        return request.data

    return say


def login(
    name: bytes, secrets: dict[str, bytes], password: bytes = b"pencil", channel: Channel | None = None,
    binding: Callable[[bytes], bytes | None] | None = None,
) -> Any:  # fmt: skip
    context = CONTEXT if channel is None else ServerContext(
        b"mail.test", lambda: b"1.2", salt_key=b"salt key", channel=channel
    )  # fmt: skip
    client = choose((name,), (), b"us,=er", password, context=ClientContext(b"h", False, binding))
    assert client.name == name
    say = server(name, secrets, context)
    initial = client.initial()
    assert initial is not None
    result = say(client.step(say(initial)))
    if isinstance(result, Proven):
        assert result.final is not None
        assert not client.satisfied
        assert client.step(result.final) == b""
        assert client.satisfied
    return result


@pytest.mark.parametrize(
    ("name", "user_nonce", "begun", "proof", "verifier"),
    [
        (  # RFC 5802 section 5
            b"SCRAM-SHA-1", b"fyko+d2lbbFgONRv9qkxdawL",
            b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
            b"v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=", b"rmF9pqV8S7suAoZWja4dJRkFsKQ=",
        ),
        (  # RFC 7677 section 3
            b"SCRAM-SHA-256", b"rOprNGfwEbeRWgbNEkqO",
            b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            b"dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=", b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        ),
    ],
)  # fmt: skip
def test_the_rfcs_examples(
    name: bytes, user_nonce: bytes, begun: bytes, proof: bytes, verifier: bytes
) -> None:
    responses = scram.client(name, b"user", b"pencil", b"", user_nonce, b"n", b"")
    assert next(responses) == b"n,,n=user,r=" + user_nonce
    nonce = begun[2:].partition(b",")[0]
    assert responses.send(begun) == b"c=biws,r=%b,p=%b" % (nonce, proof)
    with pytest.raises(StopIteration) as end:
        responses.send(b"v=" + verifier)
    assert end.value.value == b""


@pytest.mark.parametrize("name", scram.HASHES)
def test_clear_passwords_and_stored_keys(name: bytes) -> None:
    keys = scram.derive(scram.HASHES[name], b"pencil", b"0123456789abcdef", 5000)
    value = scram.auth_password(name, keys)
    assert scram.parse_auth_password(name, value) == keys
    for secrets in ({"userPassword": b"pencil"}, {"authPassword": value}):
        result = login(name, secrets)
        assert (result.authcid, result.authzid) == (b"us,=er", b"us,=er")
        with pytest.raises(SaslFailure, match="authentication failure"):
            login(name, secrets, b"pencils")


def test_values_of_auth_password() -> None:
    keys = scram.derive("sha1", b"x", b"salt", 10)
    good = scram.auth_password(b"SCRAM-SHA-1", keys)
    for value in (
        b"", b"SCRAM-SHA-1", good[:-4], good.replace(b"10:", b"0:"), good.replace(b"$10", b"$9999999"),
        good.replace(b"SHA-1", b"SHA-256"), good + b"=", b"x" + good, good.replace(b"10:", b"-1:"),
    ):  # fmt: skip
        assert scram.parse_auth_password(b"SCRAM-SHA-1", value) is None
    spaced = good.replace(b"$", b" $ ")
    assert scram.parse_auth_password(b"SCRAM-SHA-1", b"SCRAM-SHA-256$1:x$y:z\n" + spaced) == keys
    with pytest.raises(SaslFailure) as caught:
        login(b"SCRAM-SHA-256", {"authPassword": good})
    assert caught.value.note == "No valid SCRAM-SHA-256 secret found"


def test_nobody_is_asked_on_like_everybody_else() -> None:
    first = b"n,,n=nobody,r=abcdefghijkl"
    begun = [server(b"SCRAM-SHA-256", {})(first) for _ in range(2)]
    assert begun[0] == begun[1]
    with pytest.raises(SaslFailure) as caught:
        login(b"SCRAM-SHA-256", {}, b"salt key")
    assert caught.value.reason is Reason.BADAUTH
    known = server(b"SCRAM-SHA-256", {"userPassword": b"x"})(first)
    assert known == begun[0]


def test_the_nonce_is_the_one_of_this_session() -> None:
    say = server(b"SCRAM-SHA-256", {"userPassword": b"pencil"})
    client = choose((b"SCRAM-SHA-256",), (), b"user", b"pencil")
    begun = say(client.initial() or b"")
    final = client.step(begun)
    nonce = begun.partition(b",")[0]
    with pytest.raises(SaslFailure) as caught:
        say(final.replace(nonce, nonce[:-1]))
    assert caught.value.note.startswith("Nonce mismatch")


def test_channel_binding() -> None:
    name, plus = b"SCRAM-SHA-256", b"SCRAM-SHA-256-PLUS"
    secrets = {"userPassword": b"pencil"}
    channel = Channel(BOUND.get, True)
    assert isinstance(login(plus, secrets, channel=channel, binding=BOUND.get), Proven)
    only = {b"tls-server-end-point": b"p" * 32}
    assert isinstance(login(plus, secrets, channel=channel, binding=only.get), Proven)
    with pytest.raises(SaslFailure) as caught:  # somebody in between
        login(plus, secrets, channel=channel, binding=dict.fromkeys(BOUND, b"x" * 32).get)
    assert "Channel bindings mismatch" in caught.value.note
    with pytest.raises(SaslFailure) as caught:  # somebody took -PLUS out of the list
        login(name, secrets, channel=channel, binding=BOUND.get)
    assert caught.value.note == "client incorrectly assumed server had no channel binding"
    assert isinstance(login(name, secrets, channel=Channel(), binding=BOUND.get), Proven)
    assert isinstance(login(name, secrets, channel=channel), Proven)
    # both are offered: the client knows that we can
    context = ClientContext(binding=BOUND.get, bindable=True)
    assert choose((name, plus), (), b"u", b"p", context=context).name == plus
    assert choose((name, plus), (), b"u", b"p").name == name
    # also where its own filter keeps it from using it: that is no downgrade
    filtered = choose((name,), (), b"u", b"p", context=context).initial()
    assert filtered is not None and filtered.startswith(b"n,,")


@pytest.mark.parametrize(
    ("name", "first"),
    [
        (b"SCRAM-SHA-1", b"p=tls-exporter,,n=u,r=abcdef"),
        (b"SCRAM-SHA-1-PLUS", b"n,,n=u,r=abcdef"),
        (b"SCRAM-SHA-1-PLUS", b"y,,n=u,r=abcdef"),
        (b"SCRAM-SHA-1-PLUS", b"p=tls-unique,,n=u,r=abcdef"),
        (b"SCRAM-SHA-1-PLUS", b"p=x,,n=u,r=abcdef"),
    ],
)
def test_a_flag_that_does_not_go_with_the_mechanism(name: bytes, first: bytes) -> None:
    context = ServerContext(b"h", lambda: b"1", channel=Channel(BOUND.get, True))
    with pytest.raises(SaslFailure) as caught:
        server(name, {"userPassword": b"x"}, context)(first)
    assert caught.value.reason is Reason.BADPROT


def test_the_client_makes_sure_of_the_server() -> None:
    for final in (b"v=" + encode(bytes(32)), b"v=!", b"e=invalid-proof", b""):
        client = choose([b"SCRAM-SHA-256"], (), b"u", b"p")
        initial = client.initial()
        assert initial is not None
        begun = server(b"SCRAM-SHA-256", {"userPassword": b"p"})(initial)
        client.step(begun)
        with pytest.raises(SaslFailure):
            client.step(final)
        assert not client.satisfied


@pytest.mark.parametrize(
    "begun",
    [
        b"", b"x", b"r=short", b"m=x,r=NONCEx,s=eA==,i=1", b"r=NONCE,s=eA==,i=4096", b"r=NONCEx",
        b"r=NONCEx,s=eA==", b"r=NONCEx,s=,i=4096", b"r=NONCEx,s=!,i=4096", b"r=NONCEx,s=eA==,i=0",
        b"r=NONCEx,s=eA==,i=-1", b"r=NONCEx,s=eA==,i=000000000199999999",
        b"r=NONCEx,s=eA==,i=99999999999", b"r=NONCEx,i=1,s=eA==", b"x" * 5000,
    ],
)  # fmt: skip
def test_the_client_refuses(begun: bytes) -> None:
    client = choose([b"SCRAM-SHA-1"], (), b"u", b"p")
    nonce = (client.initial() or b"").partition(b"r=")[2]
    with pytest.raises(SaslFailure):
        client.step(begun.replace(b"NONCE", nonce))


def test_saslprep() -> None:
    for text, prepared in (  # RFC 4013 section 3
        ("I\u00adX", "IX"), ("user", "user"), ("USER", "USER"), ("\u00aa", "a"), ("\u2168", "IX"),
        ("\u0007", "\u0007"), ("\u0627\u0031", "\u0627\u0031"), ("a\u00a0b", "a b"),
    ):  # fmt: skip
        assert prepare(text.encode()) == prepared.encode()
    assert prepare(b"\xff") == b"\xff"
    roman = "\u2168".encode()
    for stored, typed in ((roman, b"IX"), (roman, roman), (b"IX", roman)):
        assert isinstance(login(b"SCRAM-SHA-1", {"userPassword": stored}, typed), Proven)


def test_what_is_random_is_new_each_time() -> None:
    numbers = iter(range(10))
    context = ServerContext(b"h", lambda: b"%d" % next(numbers), salt_key=b"k")
    first = b"n,,n=user,r=abcdef"
    one, two = (server(b"SCRAM-SHA-1", {"userPassword": b"x"}, context)(first) for _ in range(2))
    assert one != two
    assert one.partition(b",s=")[2] == two.partition(b",s=")[2]
