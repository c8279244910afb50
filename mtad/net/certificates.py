"""Certificates and keys in PEM files: read, matched, given to OpenSSL; and made for a first try.

:func:`read_pairs` reads the pairs that main.cf names, :func:`use_pair` puts one into a context.  Whatever
makes Postfix answer STARTTLS with ``454 4.7.0 TLS not available due to local problem``
is a :class:`~mtad.errors.ConfigError` here, naming parameter and file; an expired
certificate is a warning in the log.  Private keys are never part of a message.

RFC 7468 (PEM).  Postfix counterpart: ``tls_certkey.c``.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import re
import tempfile
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL

from mtad.config.parameters import Parameters
from mtad.errors import ConfigError
from mtad.maillog import MailLog
from mtad.net.tls_names import subject_of

#: Largest file that is read; a chain of ten certificates has some 20 kB.
FILE_LIMIT = 16 * 1024 * 1024

_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n.*?-----END \1-----", re.DOTALL)
_CERTIFICATE = (b"CERTIFICATE", b"X509 CERTIFICATE")
_KEY = (b"PRIVATE KEY", b"RSA PRIVATE KEY", b"EC PRIVATE KEY", b"DSA PRIVATE KEY", b"ENCRYPTED PRIVATE KEY")


#: What a certificate can be made for.
PrivateKey = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
    | dsa.DSAPrivateKey
)


@dataclass(frozen=True, slots=True)
class Block:
    """A certificate or a key as it stands in a file."""

    label: bytes
    pem: bytes = field(repr=False)
    path: str


@dataclass(slots=True)
class Pair:
    """A private key, its certificate and the certificates that certify that one."""

    key: PrivateKey = field(repr=False)
    key_path: str
    chain: list[x509.Certificate]
    chain_pem: list[bytes]
    chain_path: str


def read_pem(path: str, parameter: str) -> list[Block]:
    """The certificates and keys in a file, in its order; other kinds of block are skipped."""
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_LIMIT)
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}",
            parameter=parameter,
            remedy="the file must exist and be readable by the user who starts mtad",
        ) from error
    return pem_blocks(data, path)


def pem_blocks(data: bytes, path: str) -> list[Block]:
    """The certificates and keys in PEM data; ``path`` is for messages."""
    blocks = [Block(match[1], match[0] + b"\n", path) for match in _PEM.finditer(data)]
    return [block for block in blocks if block.label in _CERTIFICATE or block.label in _KEY]


def pem_objects(data: bytes) -> list[tuple[bytes, bytes]]:
    """All objects in PEM data, each with its label; what can not be decoded is left out."""
    found = []
    for match in _PEM.finditer(data):
        try:
            body = b"".join(match[0].splitlines()[1:-1])
            found.append((match[1], b64decode(body, validate=True)))
        except ValueError:
            continue
    return found


def _load_key(block: Block, parameter: str) -> PrivateKey:
    try:
        key = serialization.load_pem_private_key(block.pem, None)
        if isinstance(key, PrivateKey):
            return key
        reason, remedy = f"the private key in {block.path} is of a kind that TLS has no use for", ""
    except TypeError:
        reason, remedy = f"the private key in {block.path} is encrypted", "store it without a passphrase"
    except (ValueError, UnsupportedAlgorithm):
        reason, remedy = f"the private key in {block.path} cannot be decoded", ""
    raise ConfigError(reason, parameter=parameter, remedy=remedy)


def _load_certificate(block: Block, parameter: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(block.pem)
    except ValueError as error:
        raise ConfigError(
            f"a certificate in {block.path} cannot be decoded: {error}", parameter=parameter
        ) from error


def _spki(key: PrivateKey | x509.Certificate) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def match_pairs(blocks: Sequence[Block], parameter: str) -> list[Pair]:
    """Pair each key with the certificate made for it, wherever the two stand.

    Certificates that fit no key belong to the chain of the last one before them that does.
    """
    where = ", ".join(dict.fromkeys(block.path for block in blocks))
    keys: dict[bytes, tuple[PrivateKey, str]] = {}
    certificates: list[tuple[x509.Certificate, Block]] = []
    for block in blocks:
        if block.label in _CERTIFICATE:
            certificates.append((_load_certificate(block, parameter), block))
        else:
            key = _load_key(block, parameter)
            keys.setdefault(_spki(key), (key, block.path))
    if not certificates:
        raise ConfigError(f"no certificate in {where or 'the file'}", parameter=parameter)
    if not keys:
        raise ConfigError(f"no private key in {where}", parameter=parameter)
    pairs: list[Pair] = []
    for certificate, block in certificates:
        found = keys.pop(_spki(certificate), None)
        if found is not None:
            pairs.append(Pair(found[0], found[1], [], [], block.path))
        elif not pairs:
            break
        pairs[-1].chain.append(certificate)
        pairs[-1].chain_pem.append(block.pem)
    if keys or not pairs:
        unmatched = ", ".join(path for _, path in keys.values())
        raise ConfigError(
            f"the private key in {unmatched} does not match the certificate in {certificates[0][1].path}",
            parameter=parameter,
            remedy="name the key that the certificate was made for",
        )
    return pairs


def use_pair(context: SSL.Context, pair: Pair, parameter: str) -> None:
    """Give a context a key with its certificates; one for each kind of key."""
    # The chain goes in by a file: it is OpenSSL's only way to give each certificate a chain of its own.
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:
        file.write(b"".join(pair.chain_pem))
        file.flush()
        try:
            context.use_certificate_chain_file(file.name)
            context.use_privatekey(pair.key)
            context.check_privatekey()
        except (SSL.Error, TypeError) as error:
            raise ConfigError(
                f"OpenSSL does not take the certificate in {pair.chain_path} with its key: {error}",
                parameter=parameter,
            ) from error


def _check_dates(pair: Pair, parameter: str, log: MailLog, now: datetime.datetime) -> None:
    for certificate in pair.chain:
        name = subject_of(certificate).rfc4514_string()
        if certificate.not_valid_after_utc < now:
            date = certificate.not_valid_after_utc.date()
            log.warning(f"{parameter}: certificate {name} in {pair.chain_path} expired on {date}")
        elif certificate.not_valid_before_utc > now:
            date = certificate.not_valid_before_utc.date()
            log.warning(f"{parameter}: certificate {name} in {pair.chain_path} is valid from {date} only")


def read_pairs(p: Parameters, side: str, log: MailLog) -> list[tuple[str, Pair]]:
    """Read what ``{side}_tls_chain_files``, or else the older parameters, name; ``side``: smtpd or smtp.

    Gives each pair with its parameter, none where the parameters are empty (or say ``none``).
    """
    now = datetime.datetime.now(datetime.UTC)
    pairs: list[tuple[str, Pair]] = []
    for parameter, paths in pair_files(p, side, log):
        blocks = [block for path in paths for block in read_pem(path, parameter)]
        if not blocks:
            raise ConfigError(f"no PEM data in {', '.join(paths)}", parameter=parameter)
        found = match_pairs(blocks, parameter)
        for pair in found:
            _check_dates(pair, parameter, log, now)
            pairs.append((parameter, pair))
    return pairs


def load_pairs(context: SSL.Context, p: Parameters, side: str, log: MailLog) -> list[Pair]:
    """Give a context what :func:`read_pairs` reads."""
    pairs = read_pairs(p, side, log)
    for parameter, pair in pairs:
        use_pair(context, pair, parameter)
    return [pair for _, pair in pairs]


def files_of(p: Parameters, side: str) -> list[str]:
    """All files by which ``side`` proves who it is or judges its peers: what to watch for a change."""
    found = [path for _, paths in pair_files(p, side) for path in paths]
    found += [p[f"{side}_tls_{name}"] for name in ("CAfile", "CApath")]
    found += (
        list(p.words("smtp_tls_trust_anchor_file")) if side == "smtp" else [p["smtpd_tls_dh1024_param_file"]]
    )
    return [path for path in dict.fromkeys(found) if path and path != "auto"]


def pair_files(p: Parameters, side: str, log: MailLog | None = None) -> list[tuple[str, list[str]]]:
    """Which files hold the certificates and keys: (parameter, paths) for each set of them."""
    legacy = []
    for kind in ("", "ec"):
        parameter = f"{side}_tls_{kind}cert_file"
        certificate = p[parameter]
        if certificate and not (kind == "" and certificate.lower() == "none"):
            key = p[f"{side}_tls_{kind}key_file"] or certificate
            legacy.append((parameter, list(dict.fromkeys((certificate, key)))))
    chain_files = list(p.words(f"{side}_tls_chain_files"))
    if not chain_files:
        return legacy
    if legacy and log is not None:
        log.warning(
            f"Both {side}_tls_chain_files and one or more of the legacy {side}_tls_cert_file, "
            f"{side}_tls_eccert_file or {side}_tls_dcert_file are non-empty; "
            "the legacy parameters will be ignored"
        )
    return [(f"{side}_tls_chain_files", chain_files)]


def _write_private(path: str, data: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def make_self_signed(host: str, cert_path: str, key_path: str, days: int = 3650) -> None:
    """Write a P-256 key (mode 0600) and a certificate for ``host``, localhost and the loopback addresses.

    The two paths may be one.  For trying things out; nobody but who knows it will trust it.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
    names: list[x509.GeneralName] = [x509.DNSName(word) for word in dict.fromkeys((host, "localhost"))]
    names += [x509.IPAddress(ipaddress.ip_address(word)) for word in ("127.0.0.1", "::1")]
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    cert_pem = certificate.public_bytes(serialization.Encoding.PEM)
    if cert_path == key_path:
        _write_private(key_path, key_pem + cert_pem)
        return
    _write_private(key_path, key_pem)
    with open(cert_path, "wb") as file:
        file.write(cert_pem)
