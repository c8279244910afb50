import pytest

from mtad.sasl.client import choose
from mtad.sasl.mechanism import Reason, SaslFailure

ANY = ("noanonymous",)


@pytest.mark.parametrize(
    ("offered", "name"),
    [
        ([b"PLAIN", b"LOGIN"], b"PLAIN"),
        ([b"LOGIN", b"PLAIN"], b"PLAIN"),
        ([b"login", b"plain"], b"PLAIN"),
        ([b"LOGIN", b"PLAIN", b"CRAM-MD5"], b"CRAM-MD5"),
        ([b"GSSAPI", b"LOGIN"], b"LOGIN"),
    ],
)
def test_the_strongest_is_chosen(offered: list[bytes], name: bytes) -> None:
    assert choose(offered, ANY, b"alice", b"secret").name == name


@pytest.mark.parametrize(
    ("offered", "options"),
    [([], ANY), ([b"GSSAPI"], ANY), ([b"PLAIN", b"LOGIN"], ("noplaintext",)), ([b"CRAM-MD5"], ("noactive",))],
)
def test_none_fits(offered: list[bytes], options: tuple[str, ...]) -> None:
    with pytest.raises(SaslFailure, match="no mechanism available"):
        choose(offered, options, b"alice", b"secret")


def test_plain() -> None:
    client = choose([b"PLAIN"], ANY, b" alice ", b" secret")
    assert client.initial() == b"\0alice\0 secret"
    with pytest.raises(SaslFailure, match="generic failure"):
        client.step(b"")
    assert choose([b"PLAIN"], ANY, b"alice", b"s", authzid=True).initial() == b"alice\0alice\0s"


def test_a_long_response_waits_for_an_empty_challenge() -> None:
    # "AUTH PLAIN " and CRLF leave 499 octets, so 496 of base64, which are 372 of response.
    for length, fits in ((372, True), (373, False)):
        client = choose([b"PLAIN"], ANY, b"a" * 100, b"b" * (length - 102))
        response = b"\0" + b"a" * 100 + b"\0" + b"b" * (length - 102)
        assert client.initial() == (response if fits else None)
        if not fits:
            assert client.step(b"") == response
            with pytest.raises(SaslFailure):
                client.step(b"")
    client = choose([b"PLAIN"], ANY, b"a", b"b" * 400)
    assert client.initial() is None
    with pytest.raises(SaslFailure) as caught:
        client.step(b"Username:")
    assert caught.value.note == "non-empty initial PLAIN challenge"


def test_login_ignores_what_the_challenges_say() -> None:
    client = choose([b"LOGIN"], ANY, b"alice", b"secret")
    assert client.initial() is None
    assert client.step(b"Username:") == b"alice"
    assert client.step(b"?") == b"secret"
    with pytest.raises(SaslFailure):
        client.step(b"more?")


def test_cram_md5() -> None:
    client = choose([b"CRAM-MD5"], ("noplaintext",), b"tim", b"tanstaaftanstaaf")
    assert client.initial() is None
    # RFC 2195 section 2
    challenge = b"<1896.697170952@postoffice.reston.mci.net>"
    assert client.step(challenge) == b"tim b913a602c7eda7a495b4e6e7334d3890"
    long = choose([b"CRAM-MD5"], ANY, b"tim", b"x")
    long.initial()
    with pytest.raises(SaslFailure) as caught:
        long.step(b"x" * 1025)
    assert caught.value.reason is Reason.BADPROT


@pytest.mark.parametrize(("user", "password"), [(b"", b"x"), (b" \t", b"x"), (b"a\0b", b"x"), (b"a", b"x\0")])
def test_impossible_names(user: bytes, password: bytes) -> None:
    with pytest.raises(SaslFailure):
        choose([b"PLAIN"], ANY, user, password)


def test_unknown_option() -> None:
    with pytest.raises(ValueError, match="nosuch"):
        choose([b"PLAIN"], ("nosuch",), b"a", b"b")
