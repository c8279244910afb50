from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.sasl import digest_md5
from mtad.sasl.client import ClientContext, choose
from mtad.sasl.mechanism import Challenge, NeedSecret, Proven, Reason, SaslFailure, ServerContext

CONTEXT = ServerContext(b"mail.test", lambda: b"1.2", realm=b"mail.test")


def test_the_rfcs_example() -> None:  # RFC 2831 section 4
    (secret,) = digest_md5.secrets_of(b"chris", b"elwood.innosoft.com", b"secret")
    response, answer = digest_md5.digests(
        secret, b"OA6MG9tEQGm2hh", b"OA6MHXh6VqTrRk", b"00000001", b"imap/elwood.innosoft.com", None
    )
    assert response == b"d388dad90d4bbd760a152321f2143af7"
    assert answer == b"ea40f60335c427b5527b84dbabcdfffd"


def begin() -> tuple[Any, bytes]:
    steps = digest_md5.MECHANISM.run(CONTEXT, None)
    asked = next(steps)
    assert isinstance(asked, Challenge)
    return steps, asked.data


def finish(steps: Any, response: bytes, secrets: dict[str, bytes]) -> Any:
    try:
        request = steps.send(response)
        assert isinstance(request, NeedSecret)
        steps.send(secrets)
    except StopIteration as end:
        return end.value
    raise AssertionError("it goes on")


@pytest.mark.parametrize("user", [b"alice", b'al"i\\ce', "zürich".encode(), "жук".encode()])
@pytest.mark.parametrize("authzid", [False, True])
def test_both_sides(user: bytes, authzid: bool) -> None:
    steps, asked = begin()
    client = choose(
        [b"DIGEST-MD5"], (), user, b"secret", authzid=authzid, context=ClientContext(b"mail.test")
    )
    assert client.initial() is None
    result = finish(steps, client.step(asked), {"userPassword": b"secret"})
    assert isinstance(result, Proven)
    assert (result.authcid, result.authzid) == (user, user)
    assert not client.satisfied
    assert result.final is not None
    assert client.step(result.final) == b""
    assert client.satisfied


def test_a_server_that_does_not_know_the_password_is_not_believed() -> None:
    for final in (b"rspauth=" + b"0" * 32, b"", b"x" * 3000):
        _, asked = begin()
        client = choose([b"DIGEST-MD5"], (), b"alice", b"secret")
        client.initial()
        client.step(asked)
        with pytest.raises(SaslFailure, match="server failed mutual authentication step"):
            client.step(final)
        assert not client.satisfied


@pytest.mark.parametrize(
    "asked",
    [
        b"", b"nonce", b'nonce="x"', b'nonce="x",algorithm=md5', b'nonce="",algorithm=md5-sess',
        b'nonce="x",nonce="y",algorithm=md5-sess', b'nonce="x",algorithm=md5-sess,qop="auth-int"',
        b'nonce="x",algorithm=md5-sess,algorithm=md5-sess', b'nonce="x",algorithm=md5-sess,' + b"x=y," * 600,
    ],
)  # fmt: skip
def test_the_client_refuses(asked: bytes) -> None:
    client = choose([b"DIGEST-MD5"], (), b"alice", b"secret")
    client.initial()
    with pytest.raises(SaslFailure):
        client.step(asked)


def test_the_nonce_counts_once_and_is_ours() -> None:
    steps, asked = begin()
    client = choose([b"DIGEST-MD5"], (), b"alice", b"secret")
    client.initial()
    response = client.step(asked)
    found = dict(digest_md5.parse(response))
    (secret,) = digest_md5.secrets_of(b"alice", b"mail.test", b"secret")
    second, _ = digest_md5.digests(
        secret, found[b"nonce"], found[b"cnonce"], b"00000002", found[b"digest-uri"], None
    )
    again = response.replace(b"nc=00000001", b"nc=00000002").replace(found[b"response"], second)
    for wrong, note in (
        (again, "incorrect nonce-count"),
        (response.replace(b'nonce="', b'nonce="x', 1), "nonce changed: authentication aborted"),
        (response.replace(b"nc=00000001", b"nc=00000002"), "client response doesn't match"),
        (response.replace(b"smtp/", b"imap/"), "bad digest-uri: doesn't match service"),
    ):
        steps, _ = begin()
        with pytest.raises(SaslFailure) as caught:
            finish(steps, wrong, {"userPassword": b"secret"})
        assert caught.value.note.startswith(note)
        assert caught.value.reason is Reason.BADAUTH


@given(st.lists(st.tuples(st.from_regex(rb"\A[a-z-]{1,9}\Z"), st.binary(max_size=20)), max_size=6))
def test_what_is_quoted_is_read_back(pairs: list[tuple[bytes, bytes]]) -> None:
    message = b",".join(name + b"=" + digest_md5.quote(value) for name, value in pairs)
    assert list(digest_md5.parse(message)) == pairs


@given(
    st.lists(st.sampled_from([b'"', b"\\", b",", b"=", b" ", b"a", b"nc", b"\xff", b"\r\n"])).map(b"".join)
)
def test_anything_is_parsed_or_refused(message: bytes) -> None:
    try:
        list(digest_md5.parse(message))
    except ValueError:
        pass
