"""Certificates for servers of all kinds, and the TLSA records that are about them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from unit.net.net_pki import Issued, pem, pem_key


class Pki:
    """Certificates of all kinds.  The first root is in the clients' ``smtp_tls_CAfile``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = Issued("Test Root", authority=True)
        self.other = Issued("Other Root", authority=True)
        self.middle = Issued("Middle", self.other, authority=True)
        self.files: dict[str, tuple[str, str]] = {}
        self.issued: dict[str, Issued] = {}
        self.root.write(directory / "root.pem", key=False)
        self.other.write(directory / "other.pem", key=False)
        (directory / "otherkey.pem").write_bytes(
            self.other.key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

    def add(self, name: str, issued: Issued, *chain: Issued) -> None:
        self.issued[name] = issued
        certificate, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        certificate.write_bytes(b"".join(pem(each.certificate) for each in (issued, *chain)))
        key.write_bytes(pem_key(issued.key))
        self.files[name] = str(certificate), str(key)

    def der(self, name: str, key: bool) -> bytes:
        return der(self.issued[name], key)


def der(issued: Issued, key: bool) -> bytes:
    if key:
        return issued.certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    return issued.certificate.public_bytes(serialization.Encoding.DER)


def tlsa(usage: int, selector: int, matching: int, issued: Issued) -> str:
    data = der(issued, selector == 1)
    if matching:
        data = hashlib.new({1: "sha256", 2: "sha512"}[matching], data).digest()
    return f"_25._tcp.mx.{{name}}.example TLSA {usage} {selector} {matching} {data.hex()}\n"


def make_pki(directory: Path) -> Pki:
    pki = Pki(directory)
    pki.add("self", Issued("mx.self.example", names=("mx.self.example",)))
    pki.add("rsa", Issued("rsa", pki.root, names=("mx.rsa.example",), kind="rsa"), pki.root)
    wild = ("*.nexthop.example", "*.matched.example", "*.wild.example")
    pki.add("wild", Issued("wild", pki.root, names=wild))
    pki.add(
        "expired", Issued("expired", pki.root, names=("*.expired.example", "*.ee-expired.example"), days=-1)
    )
    for name in ("good", "named", "cn"):
        pki.add(
            name, Issued(name, pki.root, names=() if name == "cn" else ("nexthop.example", "mx.good.example"))
        )
    return pki
