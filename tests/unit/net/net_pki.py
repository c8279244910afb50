"""Certificates for the tests, and a TLS handshake in memory."""

from __future__ import annotations

import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from mtad.config.parameters import Parameters
from mtad.maillog import ListSink, MailLog


def pem_key(key: Any, passphrase: bytes | None = None) -> bytes:
    how = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


class Issued:
    """A certificate with its key; an authority issues others."""

    def __init__(
        self,
        name: str,
        issuer: Issued | None = None,
        *,
        names: tuple[str, ...] = (),
        authority: bool = False,
        kind: str = "ec",
        days: int = 30,
        addresses: tuple[str, ...] = (),
        subject: tuple[tuple[x509.ObjectIdentifier, str], ...] = (),
        extensions: tuple[x509.ExtensionType, ...] = (),
    ) -> None:
        """``subject``: what stands before ``name`` in it; ``extensions``: critical ones; ``kind``: ec, rsa,
        rsa1024; ``days`` from now it ends, and with more than 300 it has not begun."""
        sizes = {"rsa": 2048, "rsa1024": 1024}
        self.key: Any = (
            rsa.generate_private_key(65537, sizes[kind])
            if kind in sizes
            else ec.generate_private_key(ec.SECP256R1())
        )
        names_of = (*subject, *([(NameOID.COMMON_NAME, name)] if name else []))
        distinguished = x509.Name([x509.NameAttribute(kind_of, text) for kind_of, text in names_of])
        start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=60)
        if days > 300:  # not yet
            start += datetime.timedelta(days=90)
        builder = (
            x509.CertificateBuilder()
            .subject_name(distinguished)
            .issuer_name(issuer.certificate.subject if issuer else distinguished)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=60 + days))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        alternatives: list[x509.GeneralName] = [x509.DNSName(word) for word in names]
        alternatives += [x509.IPAddress(ip_address(word)) for word in addresses]
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=True)
        signer = issuer.key if issuer else self.key
        self.certificate = builder.sign(signer, hashes.SHA256())

    def write(
        self, path: Path, *, key: bool = True, certificate: bool = True, chain: tuple[Any, ...] = ()
    ) -> str:
        data = pem_key(self.key) if key else b""
        data += pem(self.certificate) if certificate else b""
        path.write_bytes(data + b"".join(pem(link.certificate) for link in chain))
        return str(path)


def parameters(**values: str) -> Parameters:
    return Parameters.from_mapping({"compatibility_level": "3.6", **values})


def log() -> tuple[MailLog, list[tuple[str, str, str]]]:
    sink = ListSink()
    return MailLog(sink, "postfix/smtpd"), sink.lines


def texts(lines: list[tuple[str, str, str]]) -> list[str]:
    return [text for _, _, text in lines]


def pump(source: SSL.Connection, target: SSL.Connection) -> None:
    try:
        target.bio_write(source.bio_read(1 << 16))
    except SSL.WantReadError:
        pass


def handshake(server: SSL.Connection, client: SSL.Connection) -> None:
    """Let the two shake hands, and the client take the tickets that the server sends."""
    server.set_accept_state()
    client.set_connect_state()
    for _ in range(4):
        for one, other in ((client, server), (server, client)):
            try:
                one.do_handshake()
            except SSL.WantReadError:
                pass
            pump(one, other)
    server.send(b"220 ready\r\n")
    pump(server, client)
    assert client.recv(100) == b"220 ready\r\n"
