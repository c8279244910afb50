"""Stored hashes of passwords; the values are of other programs."""

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.auth import hashes
from mtad.auth.hashes import HashError, parse, verify
from mtad.auth.verifiers import scram_keys


def b64(data: bytes) -> bytes:
    return base64.b64encode(data)


HASHES = [
    (b"{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "SHA"),
    (b"{SHA256}" + b64(hashlib.sha256(b"secret").digest()), "SHA256"),
    (b"{SSHA}" + b64(hashlib.sha1(b"secretsalt").digest() + b"salt"), "SSHA"),
    (b"{ssha512}" + b64(hashlib.sha512(b"secretsalty").digest() + b"salty"), "SSHA512"),
    (b"{SSHA256.hex}" + (hashlib.sha256(b"secretx").digest() + b"x").hex().encode(), "SSHA256"),
    (b"{PLAIN-MD5}" + hashlib.md5(b"secret").hexdigest().encode(), "PLAIN-MD5"),
    (b"{SMD5}" + b64(hashlib.md5(b"secretsalt").digest() + b"salt"), "SMD5"),
    (b"$1$abcdefgh$Vbb7AqkiqZxkkZyyjzZzT/", "CRYPT"),
    (b"{CRYPT}$6$saltsalt$", "CRYPT"),
    (b"{BLF-CRYPT}$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a", "CRYPT"),
    (b"$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a", "CRYPT"),
    (b"$y$j9T$F5Jx5fExrKuPp53xLKQ..1$GmcwIgvdUC9qLWcKCi6gklUa1dM3ziD43YxYNURLKy0", "CRYPT"),
    (b"{PBKDF2-SHA256}1000$c2FsdA$" + b64(hashlib.pbkdf2_hmac("sha256", b"secret", b"salt", 1000)),
     "PBKDF2-SHA256"),
    (b"{PBKDF2}$1$salt$10$" + hashlib.pbkdf2_hmac("sha1", b"secret", b"salt", 10).hex().encode(), "PBKDF2"),
    (b"{SCRAM}" + scram_keys(b"secret", 100), "SCRAM-SHA-256"),
    (b"{PLAIN}secret", "PLAIN"),
]  # fmt: skip


@pytest.mark.parametrize(("stored", "scheme"), HASHES, ids=[str(number) for number in range(len(HASHES))])
def test_right_and_wrong_passwords(stored: bytes, scheme: str) -> None:
    if stored.startswith((b"$1$", b"{CRYPT}$6$")):  # made here, by the host's crypt(3)
        prefix = b"{CRYPT}" if stored.startswith(b"{") else b""
        stored = prefix + hashes.crypt(b"secret", stored.removeprefix(prefix))
    hashed = parse(stored)
    assert hashed is not None
    assert hashed.scheme == scheme
    assert verify(hashed, b"secret")
    for wrong in (b"", b"Secret", b"secret ", b"secret\0", stored, b"x" * 2000):
        assert not verify(hashed, wrong)
    assert b"secret" not in repr(hashed).encode()


@pytest.mark.parametrize(
    "plain",
    [
        b"secret", b"{", b"{abc}", b"{abc}def", b"{SHA}", b"{SHA}short", b"{SSHA}not base64!", b"$6$", b"$",
        b"$5", b"{CRYPT}", b"{CRYPT}x", b"{PBKDF2}x", b"{SCRAM-SHA-256}x", b"{ARGON2}x", b"$argon2id$",
        b"\xff" * 40, b"{SHA}\xff", b"$money$", "пароль".encode(),
        b"{PBKDF2}$1$salt$10$abc",
    ],
)  # fmt: skip
def test_what_is_no_hash_is_a_password(plain: bytes) -> None:
    assert parse(plain) is None


@given(st.binary(max_size=60) | st.sampled_from([stored for stored, _ in HASHES]).map(lambda each: each[:-1]))
def test_whatever_is_stored_is_compared_or_not_a_hash(stored: bytes) -> None:
    hashed = parse(stored)
    if hashed is not None and not hashed.slow:
        assert not verify(hashed, b"not the password")


def test_argon2() -> None:
    argon2 = pytest.importorskip("argon2")
    stored = argon2.PasswordHasher(time_cost=1, memory_cost=64).hash("secret").encode()
    for form in (stored, b"{ARGON2ID}" + stored):
        hashed = parse(form)
        assert hashed is not None and hashed.slow
        assert verify(hashed, b"secret")
        assert not verify(hashed, b"wrong")
    broken = parse(b"$argon2id$v=19$m=1$nonsense")
    assert broken is not None
    with pytest.raises(HashError):
        verify(broken, b"secret")


def test_scram_keys_are_those_of_rfc_7677() -> None:
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    keys = scram_keys(b"pencil", 4096, salt)
    name, _, rest = keys.partition(b"$")
    assert name == b"SCRAM-SHA-256"
    stored = base64.b64decode(rest.partition(b"$")[2].partition(b":")[0])
    message = (
        b"n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        b"s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    )
    proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    signature = hmac.digest(stored, message, "sha256")
    client = bytes(one ^ other for one, other in zip(proof, signature, strict=True))
    assert hashlib.sha256(client).digest() == stored


def test_dovecots_scram_is_good_for_scram() -> None:
    keys = scram_keys(b"secret", 100)
    _, rest = keys.split(b"$", 1)
    rounds, salt = rest.split(b"$")[0].split(b":")
    stored, server = rest.split(b"$")[1].split(b":")
    hashed = parse(b"{SCRAM-SHA-256}" + b",".join([rounds, salt, stored, server]))
    assert hashed is not None
    assert hashed.scram == keys
    assert verify(hashed, b"secret")


def test_too_many_rounds_are_not_done() -> None:
    hashed = parse(b"{PBKDF2}99999999$c2FsdA$c2FsdA")
    assert hashed is not None
    with pytest.raises(HashError, match="too many"):
        verify(hashed, b"secret")


def test_a_hash_that_libcrypt_does_not_know() -> None:
    hashed = parse(b"$2b$99$abcdefghijklmnopqrstuuOQiyCxlgf")
    assert hashed is not None
    with pytest.raises(HashError):
        verify(hashed, b"secret")
