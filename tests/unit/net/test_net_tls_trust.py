"""Chains judged by TLSA records and local trust anchors; digests; anchors in files."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st
from net_pki import Issued, log, parameters, pem, pem_key, texts

from mtad.net import openssl
from mtad.net.tls_policy import Tlsa, fingerprints
from mtad.net.tls_trust import anchors_of, digests_of, judge, usable

DIGESTS = {2: "sha512", 1: "sha256"}
ROOT = Issued("Root", authority=True)
RSA_ROOT = Issued("RSA root", authority=True, kind="rsa")
MIDDLE = Issued("Middle", ROOT, authority=True)
LEAF = Issued("mx", MIDDLE)
EXPIRED = Issued("mx", MIDDLE, days=-1)
RSA_LEAF = Issued("mx", RSA_ROOT)
STRANGER = Issued("Stranger", authority=True)


def tlsa(usage: int, selector: int, matching: int, issued: Issued) -> Tlsa:
    data = issued.certificate.public_bytes(serialization.Encoding.DER)
    if selector:
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        data = issued.certificate.public_key().public_bytes(serialization.Encoding.DER, form)
    if matching:
        data = hashlib.new(DIGESTS[matching], data).digest()
    return Tlsa(usage, selector, matching, data)


def verdict(
    *records: Tlsa, chain: tuple[Issued, ...] = (LEAF, MIDDLE, ROOT), depth: int = 9
) -> tuple[int, int]:
    assert all(usable(record, DIGESTS) for record in records)
    found = judge([each.certificate for each in chain], records, DIGESTS, depth)
    assert (found.matched is None) == (found.error != openssl.VERIFY_OK)
    return found.error, found.depth


GOOD, NONE = openssl.VERIFY_OK, openssl.VERIFY_DANE_NO_MATCH


def test_end_entities() -> None:
    for selector in (0, 1):
        for matching in (0, 1, 2):
            assert verdict(tlsa(3, selector, matching, LEAF)) == (GOOD, 0)
            assert verdict(tlsa(3, selector, matching, MIDDLE))[0] == NONE
    assert verdict(tlsa(3, 1, 1, EXPIRED), chain=(EXPIRED,)) == (GOOD, 0)
    assert verdict(tlsa(3, 1, 1, STRANGER), tlsa(3, 1, 1, LEAF)) == (GOOD, 0)


def test_trust_anchors() -> None:
    assert verdict(tlsa(2, 0, 1, MIDDLE)) == (GOOD, 1)
    assert verdict(tlsa(2, 1, 2, ROOT)) == (GOOD, 2)
    assert verdict(tlsa(2, 0, 1, LEAF)) == (NONE, 2)
    assert verdict(tlsa(2, 0, 1, STRANGER), chain=(LEAF, MIDDLE, STRANGER)) == (NONE, 2)
    # in full, it need not be shown
    assert verdict(tlsa(2, 0, 0, ROOT), chain=(LEAF, MIDDLE))[0] == GOOD
    assert verdict(tlsa(2, 0, 0, MIDDLE), chain=(LEAF,))[0] == GOOD
    assert verdict(tlsa(2, 0, 0, STRANGER), chain=(LEAF, MIDDLE)) == (NONE, 1)
    # a key that has signed one of them
    assert verdict(tlsa(2, 1, 0, ROOT), chain=(LEAF, MIDDLE)) == (GOOD, 1)
    assert verdict(tlsa(2, 1, 0, RSA_ROOT), chain=(RSA_LEAF,)) == (GOOD, 0)
    assert verdict(tlsa(2, 1, 0, RSA_ROOT), chain=(LEAF, MIDDLE)) == (NONE, 1)
    assert verdict(tlsa(2, 1, 0, STRANGER)) == (NONE, 2)
    assert verdict(tlsa(2, 0, 1, MIDDLE), chain=(EXPIRED, MIDDLE)) == (openssl.VERIFY_EXPIRED, 0)
    assert verdict(tlsa(2, 0, 1, ROOT), depth=1)[0] == openssl.VERIFY_CHAIN_TOO_LONG
    assert judge([], [tlsa(3, 1, 1, LEAF)], DIGESTS, 9).error == openssl.VERIFY_UNSPECIFIED


def test_a_leaf_is_no_authority() -> None:
    """Who has a certificate of an authority can't issue others."""
    forged = Issued("mx.victim.example", LEAF)
    assert verdict(tlsa(2, 0, 1, ROOT), chain=(forged, LEAF, MIDDLE, ROOT))[0] != GOOD


def test_only_the_strongest_digest_counts() -> None:
    assert verdict(tlsa(3, 1, 1, STRANGER), tlsa(3, 1, 2, LEAF)) == (GOOD, 0)
    assert verdict(tlsa(3, 1, 1, LEAF), tlsa(3, 1, 2, STRANGER))[0] == NONE
    # of another selector, or in full, each counts for itself
    assert verdict(tlsa(3, 1, 1, LEAF), tlsa(3, 0, 2, STRANGER)) == (GOOD, 0)
    assert verdict(tlsa(3, 1, 0, LEAF), tlsa(3, 1, 2, STRANGER)) == (GOOD, 0)


@pytest.mark.parametrize(
    ("record", "good"),
    [
        (Tlsa(3, 1, 1, b"x" * 32), True),
        (Tlsa(3, 1, 1, b"x" * 31), False),
        (Tlsa(3, 1, 2, b"x" * 64), True),
        (Tlsa(3, 1, 3, b"x" * 64), False),
        (Tlsa(3, 2, 1, b"x" * 32), False),
        (Tlsa(1, 1, 1, b"x" * 32), False),
        (Tlsa(2, 0, 0, b"x" * 32), False),
        (Tlsa(2, 1, 0, b"x" * 32), False),
    ],
)
def test_usable(record: Tlsa, good: bool) -> None:
    assert usable(record, DIGESTS) is good


@given(st.integers(0, 3), st.integers(0, 2), st.integers(0, 3), st.binary(max_size=80))
def test_no_made_up_record_trusts_anybody(usage: int, selector: int, matching: int, data: bytes) -> None:
    record = Tlsa(usage, selector, matching, data)
    if usable(record, DIGESTS):
        assert verdict(record)[0] != GOOD


def test_digests() -> None:
    maillog, lines = log()

    def found(text: str) -> dict[int, str]:
        return digests_of(parameters(tls_dane_digests=text), maillog)

    assert list(found("sha512 sha256").items()) == [(2, "sha512"), (1, "sha256")]
    assert list(found("sha256")) == [1]
    assert found("sha256=1, sha3_256=7") == {1: "sha256", 7: "sha3_256"}
    assert not lines
    for text in ("sha512=1", "md5", "sha256 sha256", "sha256=0", "sha256=x", "nonsense=9", "sha256=255"):
        assert len(found(text)) <= 1
    assert len(texts(lines)) == 7


def test_anchors_in_a_file() -> None:
    public = ROOT.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    found = anchors_of(b"remark\n" + pem(ROOT.certificate) + b"\nmore\n" + public + b"-----BEGIN X-----\n")
    assert found == (tlsa(2, 0, 0, ROOT), tlsa(3, 0, 0, ROOT), tlsa(2, 1, 0, ROOT), tlsa(3, 1, 0, ROOT))
    assert anchors_of(b"nothing") is None
    assert anchors_of(pem_key(ROOT.key)) == ()


@given(st.text(max_size=40))
def test_fingerprints(text: str) -> None:
    good, bad = fingerprints((text,))
    assert len(good) + len(bad) == 1
    assert fingerprints(("0a:0B",)) == (["0A0B"], [])
    assert fingerprints(("", "0", "x", "0a:", ":0a", "0a::0b", "0a 0b", "0a" * 97))[0] == []
