import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.sasl.mechanism import (
    Challenge,
    CheckPassword,
    NeedSecret,
    Property,
    Proven,
    Reason,
    Request,
    Result,
    SaslFailure,
    ServerContext,
    ServerMechanism,
    parse_options,
)
from mtad.sasl.server import MECHANISMS, begin, permitted, refusal, select

CONTEXT = ServerContext(b"mail.test", lambda: b"1.2")


def by_name(name: bytes) -> ServerMechanism:
    return next(each for each in MECHANISMS if each.name == name)


def run(
    name: bytes, *responses: bytes | None, secrets: dict[str, bytes] | None = None
) -> tuple[list[Request], Result | Reason]:
    """The requests that came out, and what it came to."""
    requests: list[Request] = []
    try:
        steps = begin(by_name(name), CONTEXT, responses[0])
        requests.append(next(steps))
        for response in responses[1:]:
            assert response is not None
            requests.append(steps.send(response))
        if secrets is not None:
            requests.append(steps.send(secrets))
    except StopIteration as end:
        return requests, end.value
    except SaslFailure as failure:
        return requests, failure.reason
    raise AssertionError(f"not at its end: {requests}")


def test_plain_with_and_without_initial_response() -> None:
    expected = CheckPassword(b"alice", b"alice", b"secret", "Password verification failed")
    assert run(b"PLAIN", b"\0alice\0secret") == ([], expected)
    assert run(b"PLAIN", b"alice\0alice\0secret") == ([], expected)
    assert run(b"PLAIN", None, b"\0alice\0secret") == ([Challenge(b"")], expected)


def test_plain_proxy() -> None:
    _, result = run(b"PLAIN", b"bob\0alice\0secret")
    assert isinstance(result, CheckPassword)
    assert (result.authzid, result.authcid) == (b"bob", b"alice")


@pytest.mark.parametrize("message", [b"", b"abc", b"\0abc", b"a\0b\0c\0d", b"\0a\0b\0"])
def test_plain_malformed(message: bytes) -> None:
    assert run(b"PLAIN", message)[1] is Reason.BADPROT


@given(st.binary(max_size=60))
def test_plain_takes_or_refuses_anything(message: bytes) -> None:
    result = run(b"PLAIN", message)[1]
    if message.count(b"\0") == 2:
        assert isinstance(result, CheckPassword)
        assert message.split(b"\0")[1:] == [result.authcid, result.password]
    else:
        assert result is Reason.BADPROT


def test_login() -> None:
    expected = CheckPassword(b"alice", b"alice", b"secret")
    asked: list[Request] = [Challenge(b"Username:"), Challenge(b"Password:")]
    assert run(b"LOGIN", None, b"alice", b"secret") == (asked, expected)
    assert run(b"LOGIN", b"alice", b"secret") == (asked[1:], expected)
    assert run(b"LOGIN", b"", b"alice", b"secret") == (asked, expected)
    assert run(b"LOGIN", None, b"", b"secret") == (asked, CheckPassword(b"", b"", b"secret"))


def test_login_bounds() -> None:
    assert run(b"LOGIN", None, b"a" * 1025)[1] is Reason.BADPROT
    assert run(b"LOGIN", None, b"a" * 1024, b"b" * 1025)[1] is Reason.BADPROT
    assert isinstance(run(b"LOGIN", None, b"a" * 1024, b"b" * 1024)[1], CheckPassword)


def test_cram_md5() -> None:
    digest = hmac.new(b"secret", b"<1.2@mail.test>", hashlib.md5).hexdigest().encode()
    requests, result = run(b"CRAM-MD5", None, b"al ice " + digest, secrets={"userPassword": b"secret"})
    assert result == Proven(b"al ice", b"al ice")
    assert requests == [Challenge(b"<1.2@mail.test>"), NeedSecret(b"al ice", ("userPassword",))]
    assert run(b"CRAM-MD5", None, b"alice " + digest, secrets={"userPassword": b"other"})[1] is Reason.BADAUTH
    assert run(b"CRAM-MD5", None, b"alice " + digest, secrets={})[1] is Reason.BADAUTH
    assert run(b"CRAM-MD5", None, b"alice " + digest, secrets={"userPassword": b""})[1] is Reason.FAIL
    assert run(b"CRAM-MD5", b"alice")[1] is Reason.BADPROT


@pytest.mark.parametrize("response", [b"", b"x", b" x", b" "])
def test_cram_md5_malformed(response: bytes) -> None:
    assert run(b"CRAM-MD5", None, response)[1] is Reason.BADPROT


@given(st.binary(max_size=60))
def test_cram_md5_proves_nothing_by_chance(response: bytes) -> None:
    try:
        result = run(b"CRAM-MD5", None, response, secrets={"userPassword": b"secret"})[1]
    except ValueError:
        pytest.fail("an error of ours")
    assert result in (Reason.BADPROT, Reason.BADAUTH)


def test_select_narrows_and_orders() -> None:
    names = [each.name for each in select(None) if not each.for_binding and not each.for_certificate]
    assert b" ".join(names).decode() == (
        "SCRAM-SHA-512 SCRAM-SHA-384 SCRAM-SHA-256 SCRAM-SHA-224 SCRAM-SHA-1 DIGEST-MD5 CRAM-MD5 PLAIN LOGIN "
        "ANONYMOUS"
    )
    assert [each.name for each in select(["otp", "scram-sha-1"])] == [
        b"OTP",
        b"SCRAM-SHA-1-PLUS",
        b"SCRAM-SHA-1",
    ]
    assert [each.name for each in select(["login", "FOO", "ä", "Plain", "PLAIN"])] == [b"LOGIN", b"PLAIN"]
    assert select([]) == ()


def test_security_options() -> None:
    plain, cram = by_name(b"PLAIN"), by_name(b"CRAM-MD5")
    assert refusal(plain, Property.NOANONYMOUS) is None
    assert refusal(plain, Property.NOPLAINTEXT | Property.MUTUAL_AUTH) is Reason.ENCRYPT
    assert refusal(plain, Property.MUTUAL_AUTH) is Reason.NOMECH
    assert refusal(cram, Property.NOPLAINTEXT | Property.NOANONYMOUS) is None
    assert permitted((plain, cram), Property.NOPLAINTEXT) == (cram,)


def test_parse_options() -> None:
    assert parse_options([]) is Property.NONE
    assert parse_options(["noplaintext", "mutual_auth"]) == Property.NOPLAINTEXT | Property.MUTUAL_AUTH
    for unknown in ("NOPLAINTEXT", "none", "nope"):
        with pytest.raises(ValueError, match=unknown):
            parse_options([unknown])


def test_passwords_stay_out_of_sight() -> None:
    assert "secret" not in repr(run(b"PLAIN", b"\0alice\0secret")[1])
