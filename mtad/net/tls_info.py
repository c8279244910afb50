"""What a finished handshake agreed on, and how Postfix writes it down.

:func:`describe` reads an OpenSSL connection into a :class:`TLSInfo`;
:func:`log_summary` gives the text of the ``... TLS connection established ...`` line and
:func:`received_lines` the lines of the Received: header.  No I/O, nothing raised: a detail
that the library does not tell is left out.

RFC 8446.  Postfix counterpart: ``tls_get_signature_params()``, ``tls_log_summary()`` in
``tls_misc.c``, ``tls_peer_CN()`` in ``tls_verify.c``, ``tls_fprint.c``, ``comment_sanitize()``
in ``smtpd.c``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from mtad.net import openssl
from mtad.net.tls_names import issuer_of, subject_of
from mtad.wire.tokens import comment

#: Longest name from a certificate that is kept (Postfix: CCERT_BUFSIZ)
NAME_LIMIT = 256

#: What OpenSSL calls attributes that RFC 4514 has no name for.
_ATTRIBUTES = {
    "1.2.840.113549.1.9.1": "emailAddress", "2.5.4.4": "SN", "2.5.4.5": "serialNumber", "2.5.4.9": "street",
    "2.5.4.12": "title", "2.5.4.13": "description", "2.5.4.15": "businessCategory", "2.5.4.17": "postalCode",
    "2.5.4.41": "name", "2.5.4.42": "GN", "2.5.4.43": "initials", "2.5.4.46": "dnQualifier",
    "2.5.4.65": "pseudonym", "2.5.4.97": "organizationIdentifier",
}  # fmt: skip

_TABOO = b'<>()"+/'

_CURVE = {"secp256r1": "prime256v1", "secp192r1": "prime192v1"}
_ECDSA_DIGEST = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature of the handshake (TLS 1.3): ``RSA-PSS``, ``2048 bits``, ``SHA256``."""

    name: str = ""
    detail: str = ""
    digest: str = ""

    def text(self, side: str) -> str:
        """`` server-signature RSA-PSS (2048 bits) server-digest SHA256``, or nothing."""
        if not self.name:
            return ""
        detail = f" ({self.detail})" if self.detail else ""
        digest = f" {side}-digest {self.digest}" if self.digest else ""
        return f" {side}-signature {self.name}{detail}{digest}"


@dataclass(frozen=True, slots=True)
class TLSInfo:
    """A TLS session.  ``peer_*`` and ``trusted`` are about the peer's certificate, if it showed one."""

    protocol: str
    cipher: str
    secret_bits: int
    bits: int
    key_exchange: str = ""
    server_signature: Signature = Signature()
    client_signature: Signature = Signature()
    reused: bool = False
    sni: str = ""
    peer_present: bool = False
    trusted: bool = False
    verified: bool = False
    insecure: bool = False  # verified, but for a name that is not certain
    verify_error: int = 0
    verify_depth: int = 0  # where in the chain, as far as that is known
    peer_cn: str = ""
    issuer_cn: str = ""
    untrusted_issuer: str = ""
    fingerprint: str = ""
    key_fingerprint: str = ""
    peer_subject: str = ""  # both as access_name() gives them
    peer_issuer: str = ""

    @property
    def certificate_text(self) -> str:
        """What a log line tells of the peer's certificate."""
        return (
            f"subject_CN={self.peer_cn}, issuer={self.issuer_cn}, "
            f"cert fingerprint={self.fingerprint}, pkey fingerprint={self.key_fingerprint}"
        )

    @property
    def status(self) -> str:
        """``Anonymous``, ``Untrusted``, ``Trusted`` or ``Verified``."""
        if not self.peer_present:
            return "Anonymous"
        if self.verified and not self.insecure:
            return "Verified"
        return "Trusted" if self.trusted else "Untrusted"


def _common_name(name: x509.Name, *wanted: x509.ObjectIdentifier) -> str:
    for oid in wanted:
        for attribute in name.get_attributes_for_oid(oid):
            value = attribute.value
            text = value if isinstance(value, str) else value.decode("latin-1")
            if text and "\0" not in text and len(text) < NAME_LIMIT:
                return "".join(char if char.isprintable() else "?" for char in text)
            break
    return ""


def _attribute(part: x509.NameAttribute[str | bytes]) -> str:
    return _ATTRIBUTES.get(part.oid.dotted_string, part.rfc4514_attribute_name)


def one_line(name: x509.Name) -> str:
    """A whole name as OpenSSL prints it in one line: ``/C=NL/O=Example/CN=Example CA``."""
    parts = []
    for part in name:
        parts.append(f"/{_attribute(part)}={part.value!s}")
    return "".join(char if char.isprintable() else "?" for char in "".join(parts))[:NAME_LIMIT]


def access_name(name: x509.Name) -> str:
    """A whole name as Sendmail's access map has it: as in one line, what could be mistaken as ``+20``.

    Unlike there, a slash within a value is written so, too: no name may look like another one.
    """
    parts = []
    for part in name:
        value = part.value if isinstance(part.value, bytes) else part.value.encode()
        text = "".join(
            chr(byte) if 32 < byte < 127 and byte not in _TABOO else f"+{byte:02X}" for byte in value
        )
        parts.append(f"/{_attribute(part)}={text}")
    return "".join(parts)


def fingerprint(data: bytes, digest: str) -> str:
    """Digest of ``data`` as Postfix writes it: ``AB:CD:...``; empty for a digest nobody knows."""
    try:
        return hashlib.new(digest, data, usedforsecurity=False).digest().hex(":").upper()
    except ValueError:
        return ""


def key_fingerprint(certificate: x509.Certificate, digest: str) -> str:
    """Fingerprint of the public key (SubjectPublicKeyInfo)."""
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return fingerprint(certificate.public_key().public_bytes(encoding, form), digest)


def _signature(certificate: x509.Certificate | None, digest: str) -> Signature:
    """The TLS 1.3 signature that a certificate's key makes (RFC 8446 section 4.2.3)."""
    if certificate is None:
        return Signature()
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return Signature("RSA-PSS", f"{key.key_size} bits", digest)
    if isinstance(key, ec.EllipticCurvePublicKey):
        curve = key.curve.name
        return Signature("ECDSA", _CURVE.get(curve, curve), digest or _ECDSA_DIGEST.get(curve, ""))
    if isinstance(key, ed25519.Ed25519PublicKey):
        return Signature("ED25519")
    if isinstance(key, ed448.Ed448PublicKey):
        return Signature("ED448")
    if isinstance(key, dsa.DSAPublicKey):
        return Signature("DSA", "", digest)
    return Signature()


def own_signature(certificates: list[x509.Certificate]) -> Signature | None:
    """What every TLS 1.3 handshake with these own certificates has in common, if they are not several."""
    return _signature(certificates[0], "") if len(certificates) == 1 else None


def peer_chain(connection: SSL.Connection) -> list[x509.Certificate]:
    """The certificates that the peer has shown, its own first, up to one that can not be read."""
    chain: list[x509.Certificate] = []
    for each in connection.get_peer_cert_chain() or ():
        try:
            chain.append(each.to_cryptography())
        except ValueError:
            break
    return chain


def peer_certificate(connection: SSL.Connection) -> x509.Certificate | None:
    """The peer's certificate; None: it has shown none, or one that can not be read."""
    found = connection.get_peer_certificate()
    try:
        return None if found is None else found.to_cryptography()
    except ValueError:
        return None


def _signatures(
    connection: SSL.Connection, server: bool, peer: x509.Certificate | None, own: Signature | None
) -> tuple[Signature, Signature]:
    """Our signature and the peer's.  A client's own is known only by the digest it noted."""
    digest = getattr(connection, "local_digest", "")
    if own is not None and server:
        ours = replace(own, digest=digest) if digest else own
    elif server or digest:
        own_certificate = connection.get_certificate(as_cryptography=True)
        ours = _signature(own_certificate if isinstance(own_certificate, x509.Certificate) else None, digest)
    else:
        ours = Signature()
    return ours, _signature(peer, getattr(connection, "peer_digest", ""))


def describe(
    connection: SSL.Connection,
    server: bool,
    digest: str = "sha256",
    own: Signature | None = None,
) -> TLSInfo:
    """The session of a connection whose handshake is done; ``server``: we were the server.

    ``digest`` makes the fingerprints; ``own`` is :func:`own_signature` where it is known.  A certificate that
    can not be read is present, and not trusted.
    """
    protocol = connection.get_protocol_version_name()
    reused = openssl.session_reused(connection)
    secret_bits, bits = openssl.cipher_bits(connection)
    info = TLSInfo(
        protocol=protocol,
        cipher=connection.get_cipher_name() or "",
        secret_bits=secret_bits,
        bits=bits,
        key_exchange=openssl.group_name(connection) if protocol == "TLSv1.3" else "",
        reused=reused,
        sni=getattr(connection, "accepted_name", ""),
    )
    peer = peer_certificate(connection)
    try:
        if protocol == "TLSv1.3" and not reused:
            ours, theirs = _signatures(connection, server, peer, own)
            one, other = (ours, theirs) if server else (theirs, ours)
            info = replace(info, server_signature=one, client_signature=other)
        if peer is not None:
            return _with_peer(info, connection, peer, digest)
    except (ValueError, UnsupportedAlgorithm):
        peer = None  # one of its parts can not be read
    present = connection.get_peer_certificate() is not None
    return replace(info, peer_present=present, verify_error=openssl.VERIFY_UNSPECIFIED if present else 0)


def _with_peer(info: TLSInfo, connection: SSL.Connection, peer: x509.Certificate, digest: str) -> TLSInfo:
    """What there is to tell of the peer's certificate; ValueError, UnsupportedAlgorithm."""
    result = openssl.verify_result(connection)
    error = getattr(connection, "chain_error", None) if result != openssl.VERIFY_OK else None
    issuer = ""
    if error is not None:
        issuer = error.issuer
    elif result != openssl.VERIFY_OK:  # of a resumed session: who issued the last one that was shown
        issuer = one_line(issuer_of((peer_chain(connection) or [peer])[-1]))
    return replace(
        info,
        peer_present=True,
        trusted=result == openssl.VERIFY_OK,
        verify_error=result if error is None else error.code,
        verify_depth=0 if error is None else error.depth,
        peer_cn=_common_name(subject_of(peer), NameOID.COMMON_NAME),
        issuer_cn=_common_name(issuer_of(peer), NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME),
        untrusted_issuer=issuer,
        fingerprint=fingerprint(peer.public_bytes(serialization.Encoding.DER), digest),
        key_fingerprint=key_fingerprint(peer, digest),
        peer_subject=access_name(subject_of(peer)),
        peer_issuer=access_name(issuer_of(peer)),
    )


def log_summary(info: TLSInfo, server: bool, peer: str, verb: str = "established") -> str:
    """``Anonymous TLS connection established from name[addr]: TLSv1.3 with cipher ...``.

    ``peer`` is ``name[addr]`` of a client, ``host[addr]:port`` of a server; ``verb`` may be ``reused``.
    """
    key_exchange = f" key-exchange {info.key_exchange}" if info.key_exchange else ""
    return (
        f"{info.status} TLS connection {verb} {'from' if server else 'to'} {peer}: "
        f"{info.protocol} with cipher {info.cipher} ({info.secret_bits}/{info.bits} bits){key_exchange}"
        f"{info.server_signature.text('server')}{info.client_signature.text('client')}"
    )


def received_lines(info: TLSInfo, asked: bool) -> list[str]:
    """The lines that ``smtpd_tls_received_header`` adds to Received:, each begins with a tab.

    ``asked``: a client certificate was asked for (``smtpd_tls_ask_ccert``).
    """
    text = f"\t(using {info.protocol} with cipher {info.cipher} ({info.secret_bits}/{info.bits} bits)"
    lines = []
    signature = info.server_signature.text("server")
    if info.key_exchange:
        lines.append(text)
        text = f"\t key-exchange {info.key_exchange}{signature}"
    elif signature:
        lines.append(text)
        text = f"\t{signature}"
    if info.client_signature.name:
        lines.append(text)
        text = f"\t{info.client_signature.text('client')}"
    lines.append(f"{text})")
    if info.peer_present:
        trust = "verified OK" if info.trusted else "not verified"
        lines.append(f'\t(Client CN "{comment(info.peer_cn)}", Issuer "{comment(info.issuer_cn)}" ({trust}))')
    elif asked:
        lines.append("\t(Client did not present a certificate)")
    else:
        lines.append("\t(No client certificate requested)")
    return lines
