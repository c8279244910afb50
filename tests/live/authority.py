"""A certification authority for tests: certificates of servers and clients, and authorities below it."""

from __future__ import annotations

import datetime
import hashlib
import ssl
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


class Authority:
    """A certification authority below ``directory``; one that is itself certified has a ``parent``.

    ``path`` is its certificate, ``name`` its distinguished name.
    """

    def __init__(self, directory: Path, name: str = "", parent: Authority | None = None) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._parent = parent
        self.name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example (Test)"),
                x509.NameAttribute(NameOID.COMMON_NAME, name or f"Test CA {id(self)}"),
            ]
        )
        certificate = (parent or self)._certificate(self.name, self._key, -1, 1000, ca=True)
        self._pem = certificate.public_bytes(serialization.Encoding.PEM)
        self.path = str(directory / "ca.pem")
        Path(self.path).write_bytes(self._pem)

    def _certificate(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, since: int, until: int, *,
        ca: bool = False, names: Sequence[x509.GeneralName] = (),
    ) -> x509.Certificate:  # fmt: skip
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=since))
            .not_valid_after(now + datetime.timedelta(days=until))
            .add_extension(x509.BasicConstraints(ca, None), True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
            usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), False)
        return builder.sign(self._key, hashes.SHA256())

    def issue(
        self, name: str, names: Sequence[x509.GeneralName], until: int = 100, cn: str = ""
    ) -> tuple[str, str]:
        """Files of a certificate, with the authorities between it and the topmost one, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn or name)])
        certificate = self._certificate(subject, key, -200, until, names=names)
        files = self.directory / f"{name}.crt", self.directory / f"{name}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + self._chain())
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return str(files[0]), str(files[1])

    def _chain(self) -> bytes:
        return b"" if self._parent is None else self._pem + self._parent._chain()

    def hashed(self) -> str:
        """A directory with the certificate, for ``CApath``."""
        target = self.directory / "hashed"
        target.mkdir()
        (target / "ca.pem").write_bytes(self._pem)
        subprocess.run(["openssl", "rehash", str(target)], check=True, timeout=60)
        return str(target)


def fingerprint(path: str, digest: str = "sha256") -> str:
    """Of the first certificate in a file, as Postfix writes it."""
    first = Path(path).read_text().partition("-----END CERTIFICATE-----\n")
    data = ssl.PEM_cert_to_DER_cert(first[0] + first[1])
    return hashlib.new(digest, data).digest().hex(":").upper()
