"""Is a server's chain of certificates trusted by these anchors alone?  DANE, and local trust anchors.

:func:`usable` says of a TLSA record whether anything can come of it, :func:`judge` of the chain that a server
has shown what has come of all of them: a :class:`Verdict`.  ``DANE-EE(3)`` is about the server's own
certificate and needs nothing else, no date and no name; ``DANE-TA(2)`` is about one that has issued it, and
the path between must be valid.  Of digests of one kind only the strongest that there is counts (RFC 7671
section 9). Nothing is raised.

RFC 6698, RFC 7671, RFC 7672 section 3.1.  Postfix counterpart: ``tls_dane.c``, and OpenSSL's
``dane_verify()``, which pyOpenSSL does not offer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa

from mtad.config.parameters import Parameters
from mtad.maillog import MailLog
from mtad.net import openssl
from mtad.net.certificates import pem_objects
from mtad.net.tls_policy import Tlsa

TRUST_ANCHOR, END_ENTITY = 2, 3
CERTIFICATE, KEY = 0, 1

#: Certificates of a chain that are looked at
_CHAIN_LIMIT = 20
#: Results that say no more than that there is no path to an anchor.
_NO_PATH = (
    openssl.VERIFY_NO_ISSUER,
    openssl.VERIFY_NO_LEAF_ISSUER,
    openssl.VERIFY_SELF_SIGNED,
    openssl.VERIFY_SELF_SIGNED_IN_CHAIN,
)
_STANDARD = {"sha256": 1, "sha512": 2}


@dataclass(frozen=True, slots=True)
class Verdict:
    """``error``: OpenSSL's code, about what stands at ``depth``, 0: trusted.  ``matched`` stands at ``depth``
    of the chain; ``by_key``: it is a key that is not in the chain."""

    error: int
    matched: Tlsa | None = None
    depth: int = -1
    by_key: bool = False


def digests_of(p: Parameters, log: MailLog) -> dict[int, str]:
    """The matching types of ``tls_dane_digests`` with their digests, the strongest first."""
    name = "tls_dane_digests"
    found: dict[int, str] = {}
    for word in p.words(name):
        digest, equals, code = word.lower().partition("=")
        number = _STANDARD.get(digest)
        if equals and code:
            if not code.isdecimal() or not 0 < int(code) < 255:
                log.warning(f"Invalid matching type number in {name}: {word}")
                continue
            standard = {1: "sha256", 2: "sha512"}.get(int(code), digest)
            if digest and digest != standard:
                log.warning(f"{name}: matching type {code} can only be {standard}")
                continue
            number = int(code)
        if number is None or not digest:
            if digest:
                log.warning(f"{name}: digest algorithm {digest} needs an explicit number")
            continue
        if number in found:
            log.warning(f"{name}: matching type {number} specified more than once")
        elif digest not in hashlib.algorithms_available:
            log.warning(f'{name}: digest algorithm "{digest}"({number}) unknown')
        else:
            found[number] = digest
    return found


def usable(record: Tlsa, digests: dict[int, str]) -> bool:
    """Whether a certificate could match it."""
    if record.usage not in (TRUST_ANCHOR, END_ENTITY) or record.selector not in (CERTIFICATE, KEY):
        return False
    if record.matching:
        digest = digests.get(record.matching)
        return digest is not None and len(record.data) == hashlib.new(digest).digest_size
    return (_certificate(record.data) if record.selector == CERTIFICATE else _key(record.data)) is not None


def _certificate(data: bytes) -> x509.Certificate | None:
    try:
        return x509.load_der_x509_certificate(data)
    except ValueError:
        return None


def _key(data: bytes) -> object | None:
    try:
        return serialization.load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        return None


def _encoded(certificate: x509.Certificate, selector: int) -> bytes:
    if selector == CERTIFICATE:
        return certificate.public_bytes(serialization.Encoding.DER)
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _strongest(records: Sequence[Tlsa], usage: int, digests: dict[int, str]) -> list[Tlsa]:
    """The records of a usage without digests weaker than others for the same selector."""
    order = list(digests)
    mine = [record for record in records if record.usage == usage]
    kept = []
    for record in mine:
        rivals = [each.matching for each in mine if each.selector == record.selector and each.matching]
        if not record.matching or record.matching == min(rivals, key=order.index):
            kept.append(record)
    return kept


def _matching(certificate: x509.Certificate, records: Sequence[Tlsa], digests: dict[int, str]) -> Tlsa | None:
    for record in records:
        try:
            data = _encoded(certificate, record.selector)
        except (ValueError, UnsupportedAlgorithm):  # of the key
            continue
        if record.matching:
            data = hashlib.new(digests[record.matching], data, usedforsecurity=False).digest()
        if data == record.data:
            return record
    return None


def judge(
    chain: Sequence[x509.Certificate], records: Sequence[Tlsa], digests: dict[int, str], depth_limit: int
) -> Verdict:
    """Of ``chain``, the server's certificate first, by ``records``, all of them usable."""
    chain = chain[:_CHAIN_LIMIT]
    if not chain:
        return Verdict(openssl.VERIFY_UNSPECIFIED)
    found = _matching(chain[0], _strongest(records, END_ENTITY, digests), digests)
    if found is not None:
        return Verdict(openssl.VERIFY_OK, found, 0)
    anchors = _strongest(records, TRUST_ANCHOR, digests)
    if not anchors:
        return Verdict(openssl.VERIFY_DANE_NO_MATCH)
    worst = Verdict(openssl.VERIFY_DANE_NO_MATCH, None, len(chain) - 1)
    for verdict, trusted in _anchored(chain, anchors, digests):
        if verdict.depth > depth_limit:
            worst = Verdict(openssl.VERIFY_CHAIN_TOO_LONG, None, verdict.depth)
            continue
        error, depth = openssl.verify_path(chain[0], chain[1:], trusted)
        if error == openssl.VERIFY_OK:
            return verdict
        if error not in _NO_PATH:
            worst = Verdict(error, None, depth)
    return worst


def _anchored(
    chain: Sequence[x509.Certificate], anchors: Sequence[Tlsa], digests: dict[int, str]
) -> list[tuple[Verdict, x509.Certificate]]:
    """The certificates that anchors make trusted."""
    found: list[tuple[Verdict, x509.Certificate]] = []
    for depth, certificate in enumerate(chain):
        record = _matching(certificate, anchors, digests) if depth else None
        if record is not None:
            found.append((Verdict(openssl.VERIFY_OK, record, depth), certificate))
    for record in anchors:
        if record.matching:
            continue
        if record.selector == CERTIFICATE:
            anchor = _certificate(record.data)
            if anchor is not None:
                found.append((Verdict(openssl.VERIFY_OK, record, len(chain)), anchor))
            continue
        key = _key(record.data)
        for depth, certificate in enumerate(chain):
            if _signed_by(certificate, key):
                found.append((Verdict(openssl.VERIFY_OK, record, depth, True), certificate))
    return found


def _signed_by(certificate: x509.Certificate, key: object) -> bool:
    """Whether the owner of ``key`` has issued ``certificate``."""
    signature, signed = certificate.signature, certificate.tbs_certificate_bytes
    try:
        how = certificate.signature_algorithm_parameters
        if isinstance(key, rsa.RSAPublicKey) and isinstance(how, padding.PKCS1v15 | padding.PSS):
            digest = certificate.signature_hash_algorithm
            if digest is None:
                return False
            key.verify(signature, signed, how, digest)
        elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(how, ec.ECDSA):
            key.verify(signature, signed, how)
        elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey) and how is None:
            key.verify(signature, signed)
        else:
            return False
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


def anchors_of(pem: bytes) -> tuple[Tlsa, ...] | None:
    """The trust anchors in PEM data: certificates and public keys, which may be the server's own, too.  Other
    things are none; None: there is nothing at all."""
    found = []
    some = False
    for label, data in pem_objects(pem):
        some = True
        if label in (b"CERTIFICATE", b"X509 CERTIFICATE"):
            selector = CERTIFICATE
        elif label == b"PUBLIC KEY":
            selector = KEY
        else:
            continue
        found += [Tlsa(usage, selector, 0, data) for usage in (TRUST_ANCHOR, END_ENTITY)]
    return tuple(found) if some else None
