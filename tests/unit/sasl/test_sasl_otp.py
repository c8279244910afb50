from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.sasl import otp
from mtad.sasl.mechanism import Challenge, NeedSecret, Proven, Reason, SaslFailure, ServerContext, StoreSecret

CONTEXT = ServerContext(b"mail.test", lambda: b"1.2", now=lambda: 1000.0)


@pytest.mark.parametrize(
    ("algorithm", "phrase", "seed", "count", "digits", "spoken"),
    [  # RFC 2289 appendix C
        ("md5", b"This is a test.", "TeSt", 0, "9E876134D90499DD", "INCH SEA ANNE LONG AHEM TOUR"),
        ("md5", b"This is a test.", "TeSt", 99, "50FE1962C4965880", "BAIL TUFT BITS GANG CHEF THY"),
        ("md5", b"AbCdEfGhIjK", "alpha1", 1, "7CD34C1040ADD14B", "FACT HOOF AT FIST SITE KENT"),
        ("sha1", b"This is a test.", "TeSt", 0, "BB9E6AE1979D8FF4", "MILT VARY MAST OK SEES WENT"),
        ("sha1", b"This is a test.", "TeSt", 1, "63D936639734385B", "CART OTTO HIVE ODE VAT NUT"),
        ("sha1", b"AbCdEfGhIjK", "alpha1", 0, "AD85F658EBE383C9", "LEST OR HEEL SCOT ROB SUIT"),
    ],
)
def test_the_rfcs_examples(
    algorithm: str, phrase: bytes, seed: str, count: int, digits: str, spoken: str
) -> None:
    password = otp.generate(algorithm, count, seed, phrase)
    assert password.hex().upper() == digits
    assert otp.to_words(password) == spoken
    assert otp.from_words(spoken.lower(), algorithm) == password


@given(st.binary(min_size=8, max_size=8))
def test_words_are_the_password(password: bytes) -> None:
    assert otp.from_words(otp.to_words(password), "md5") == password


@pytest.mark.parametrize(
    "words", ["", "A B C D E", "INCH SEA ANNE LONG AHEM TOUT", "INCH SEA ANNE LONG AHEM XYZW"]
)
def test_wrong_words(words: str) -> None:
    with pytest.raises(ValueError, match=r"words|checksum|dictionary"):
        otp.from_words(words, "md5")


def secret(sequence: int = 50, seed: str = "ab1234", phrase: bytes = b"a secret phrase") -> otp.Secret:
    return otp.Secret("md5", sequence, seed, otp.generate("md5", sequence, seed, phrase))


def login(stored: bytes, response: str, replaced: bool = True) -> tuple[str, Any, bytes | None]:
    """The challenge, what it came to, and what was stored."""
    steps = otp.MECHANISM.run(CONTEXT, b"\0alice")
    asked, new = "", None
    try:
        request = next(steps)
        assert request == NeedSecret(b"alice", ("cmusaslsecretOTP",))
        request = steps.send({"cmusaslsecretOTP": stored} if stored else {})
        assert isinstance(request, Challenge)
        asked = request.data.decode()
        request = steps.send(response.encode())
        assert isinstance(request, StoreSecret)
        assert (request.user, request.name, request.old) == (b"alice", "cmusaslsecretOTP", stored)
        new = request.new
        steps.send(replaced)
    except StopIteration as end:
        return asked, end.value, new
    except SaslFailure as failure:
        return asked, failure.reason, new
    raise AssertionError("it goes on")


def test_the_sequence_moves_on() -> None:
    stored = secret().encode()
    assert otp.parse_secret(stored) == secret()
    next_ = secret(49).password
    for response in (
        f"hex:{next_.hex()}", f"HEX: {next_.hex(' ').upper()}", f"word:{otp.to_words(next_)}",
        otp.to_words(next_).lower(), next_.hex(),
    ):  # fmt: skip
        asked, result, new = login(stored, response)
        assert asked == "otp-md5 49 ab1234 ext"
        assert result == Proven(b"alice", b"alice")
        assert new == secret(49).encode()


def test_success_is_told_to_one_only() -> None:
    assert login(secret().encode(), f"hex:{secret(49).password.hex()}", replaced=False)[1] is Reason.BADAUTH


def test_a_new_sequence() -> None:
    now, fresh = secret(49).password, secret(499, "xy9", b"another phrase")
    for kind, password, first in (
        ("init-hex", now.hex(), fresh.password.hex()),
        ("init-word", otp.to_words(now), otp.to_words(fresh.password)),
    ):
        _, result, new = login(secret().encode(), f"{kind}:{password}:md5 499 xy9:{first}")
        assert isinstance(result, Proven)
        assert new == fresh.encode()
        for bad in (
            "md5 0 xy9",
            "md5 499 ab1234",
            "md5 10000 xy9",
            "md4 499 xy9",
            "md5 499",
            "md5 499 x" + "y" * 16,
        ):
            assert login(secret().encode(), f"{kind}:{password}:{bad}:{first}")[1] is Reason.BADAUTH
        assert login(secret().encode(), f"{kind}:{password}:md5 499 xy9")[1] is Reason.BADAUTH


@pytest.mark.parametrize(
    "response", ["", "hex:", "hex:00", "word:A B", "x:y", "hex:" + "0" * 16, "init-hex:", "\u00e9", "A" * 101]
)
def test_wrong_responses(response: str) -> None:
    _, result, new = login(secret().encode(), response)
    assert result in (Reason.BADAUTH, Reason.BADPROT)
    assert new is None


def test_stored_states() -> None:
    assert login(b"", "")[1] is Reason.BADAUTH
    assert login(b"junk", "")[1] is Reason.FAIL
    assert login(b"md4\t0050\tab1234\t0000000000000000\t0", "")[1] is Reason.FAIL
    assert login(secret(1).encode(), "")[1] is Reason.EXPIRED
    locked = secret().encode().replace(b"\t" + b"0" * 20, b"\t" + b"0" * 16 + b"1001")
    assert login(locked, "")[1] is Reason.TRYAGAIN


def test_the_dictionary() -> None:
    words = otp.words()
    assert len(words) == len(set(words)) == 2048
    assert (words[0], words[570], words[571], words[2047]) == ("A", "YOU", "ABED", "YOKE")
