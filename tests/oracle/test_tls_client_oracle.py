"""TLS of the SMTP client beside Postfix: levels, policies, certificates, DANE; the same servers, the same
words.

Each scene is a domain with a server of its own; both daemons send one message to all of them.  Compared is
what their SMTP clients log about each: connections, certificates, outcomes, warnings; and the server names
they ask for.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from live.daemon import Mtad
from oracle import names as place
from oracle.names import Names
from oracle.postfix import AVAILABLE, WHY_NOT, Postfix
from oracle.tls_scenes import Scene, Scenes
from unit.net.net_pki import Issued, pem, pem_key

pytestmark = [
    pytest.mark.skipif(not AVAILABLE, reason=WHY_NOT),
    pytest.mark.skipif(not place.AVAILABLE, reason=place.WHY_NOT),
]


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


FULL = "{name}.example SECURE\n{name}.example MX 10 mx.{name}.example\nmx.{name}.example A {address}\n"
INSECURE_MX = (
    "{name}.example MX 10 mx.{name}.example\nmx.{name}.example A {address}\nmx.{name}.example SECURE\n"
)


def client_scenes(pki: Pki) -> list[Scene]:
    """Levels, policies and certificates without DANE."""

    def fingerprint(name: str, key: bool = False) -> str:
        return hashlib.sha256(pki.der(name, key)).digest().hex(":")

    other = pki.directory / "other.pem"
    return [
        Scene("good", policy="verify"),
        Scene("opportunistic"),
        Scene("self", "self"),
        Scene("rsa", "rsa", "verify"),
        Scene("plain", ""),
        Scene("never", policy="none"),
        Scene("never-more", policy="none ciphers=high match=foo"),
        Scene("required", "", "encrypt"),
        Scene("refused", "good", "encrypt", rules={"starttls": b"454 4.7.0 not today"}),
        Scene("refused-hard", "good", "encrypt", rules={"starttls": b"554 5.7.0 never"}),
        Scene("refused-may", "good", rules={"starttls": b"454 4.7.0 not today"}),
        Scene("garbage", "good", "encrypt", rules={"handshake": b"what?\r\n"}),
        Scene("garbage-may", "good", "may", rules={"handshake": b"what?\r\n"}),
        Scene("wrong-name", "good", "verify"),
        Scene("wrong-secure", "self", "secure"),
        Scene("untrusted", "self", "verify"),
        Scene("expired", "expired", "verify"),
        Scene("nexthop", "named", "secure"),
        Scene("matched", "wild", "secure match=.matched.example"),
        Scene("wild", "wild", "verify match=mx.wild.example"),
        Scene("deep", "wild", "verify match=a.b.wild.example"),
        Scene("two-names", "named", "secure match=foo.example:nexthop.example"),
        Scene("host-match", "good", "secure match=hostname"),
        Scene("fp-cert", "self", f"fingerprint match={fingerprint('self')}"),
        Scene("fp-key", "self", f"fingerprint match={fingerprint('self', True).upper()}"),
        Scene("fp-two", "self", f"fingerprint match={'00:' * 31}00|{fingerprint('self')}"),
        Scene("fp-wrong", "self", f"fingerprint match={'00:' * 31}00"),
        Scene("fp-main", "good", "fingerprint"),
        Scene("fp-bad", "good", "fingerprint match=xyzzy"),
        Scene("anchored", "self", f"secure match=mx.self.example tafile={pki.directory}/self.pem"),
        Scene("anchor-wrong", "good", f"verify match=mx.good.example tafile={other}"),
        Scene("anchor-none", "good", "verify tafile=/nonexistent.pem"),
        Scene("anchor-level", "good", f"encrypt tafile={other}"),
        Scene("tls12", "good", "encrypt protocols=TLSv1.2"),
        Scene("tls12-not", "good", "encrypt protocols=!TLSv1.3"),
        Scene("no-version", "good", "encrypt protocols=<=TLSv1"),
        Scene("grade", "good", "encrypt protocols=TLSv1.2 ciphers=high exclude=CHACHA20:AES256"),
        Scene("no-cipher", "good", "encrypt protocols=TLSv1.2 exclude=ECDHE:DHE:RSA:ECDSA"),
        Scene("sni", "good", "encrypt servername=looking.glass"),
        Scene("sni-host", "good", "encrypt servername=hostname"),
        Scene("sni-hop", "good", "encrypt servername=nexthop"),
        Scene("sni-bad", "good", "encrypt servername=-x-"),
        Scene("bad-level", "good", "strong"),
        Scene("half", "good", "halfdane"),
        Scene("bad-attribute", "good", "encrypt colour=blue"),
        Scene("no-value", "good", "encrypt ciphers"),
        Scene("no-ciphers", "good", "encrypt ciphers="),
        Scene("twice", "good", "encrypt ciphers=high ciphers=medium"),
        Scene("bad-match", "good", "encrypt match=foo"),
        Scene("no-match", "good", "verify match="),
        Scene("bad-grade", "good", "encrypt ciphers=great"),
        Scene("bad-reuse", "good", "encrypt connection_reuse=perhaps"),
        Scene(
            "parent", "", "none", domain="sub.family.example",
            zone="sub.family.example MX 10 mx.{name}.example\nmx.{name}.example A {address}"
        ),
        Scene("injected", "good", "encrypt", rules={"starttls": b"220 go\n250-mx\n250 XFORWARD NAME"}),
    ]  # fmt: skip


def dane_scenes(pki: Pki) -> list[Scene]:
    """TLSA records and what they make of a server's certificate."""

    def issue(
        name: str, issuer: Issued | None = pki.middle, *, names: tuple[str, ...] = (), days: int = 30
    ) -> Issued:
        issued = Issued("leaf", issuer, names=names or (f"mx.{name}.example",), days=days)
        chain = (pki.middle, pki.other) if issuer is pki.middle else ()
        pki.add(name, issued, *chain)
        return issued

    scenes = []

    def scene(
        name: str, *records: tuple[int, int, int, Issued | None], zone: str = FULL, policy: str = "dane",
        names: tuple[str, ...] = (), days: int = 30, extra: str = "", certificate: bool = True,
    ) -> None:  # fmt: skip
        leaf = issue(name, names=names, days=days)
        text = zone + "".join(tlsa(u, s, m, issued or leaf) for u, s, m, issued in records) + extra
        scenes.append(Scene(name, name if certificate else "", policy, text))

    stranger = Issued("stranger")
    top, middle = pki.other, pki.middle
    scene("ee-key", (3, 1, 1, None))
    scene("ee-only", (3, 1, 1, None), policy="dane-only")
    scene("ee-cert", (3, 0, 1, None))
    scene("ee-512", (3, 1, 2, None))
    scene("ee-full", (3, 1, 0, None))
    scene("ee-full-cert", (3, 0, 0, None))
    scene("ee-wrong", (3, 1, 1, stranger))
    scene("ee-only-wrong", (3, 1, 1, stranger), policy="dane-only")
    scene("ee-name", (3, 1, 1, None), names=("elsewhere.example",))
    scene("ee-expired", (3, 1, 1, None), days=-1)
    scene("ee-one-of", (3, 1, 1, stranger), (3, 1, 1, None))
    scene("ta-middle", (2, 0, 1, middle))
    scene("ta-root", (2, 0, 1, top))
    scene("ta-key", (2, 1, 1, top))
    scene("ta-full", (2, 0, 0, top))
    scene("ta-bare", (2, 1, 0, top))
    scene("ta-wrong", (2, 0, 1, stranger))
    scene("ta-leaf", (2, 0, 1, None))
    scene("ta-name", (2, 0, 1, middle), names=("elsewhere.example",))
    scene("ta-nexthop", (2, 0, 1, middle), names=("ta-nexthop.example",))
    scene("ta-expired", (2, 0, 1, middle), days=-1)
    scene("mixed", (2, 0, 1, stranger), (3, 1, 1, None))
    scene("agile", (3, 1, 1, stranger), (3, 1, 2, None))
    scene("agile-not", (3, 1, 1, None), (3, 1, 2, stranger))
    scene("pkix", (1, 1, 1, None))
    scene("pkix-only", (1, 1, 1, None), policy="dane-only")
    scene("none-found")
    scene("none-only", policy="dane-only")
    scene("insecure", (3, 1, 1, None), zone=INSECURE_MX.replace("mx.{name}.example SECURE\n", ""))
    scene("insecure-only", (3, 1, 1, None), zone=INSECURE_MX, policy="dane-only")
    scene("half-dane", (3, 1, 1, None), zone=INSECURE_MX)
    scene("half-wrong", (3, 1, 1, stranger), zone=INSECURE_MX)
    scene("broken", extra="_25._tcp.mx.{name}.example SERVFAIL\n")
    scene("broken-only", policy="dane-only", extra="_25._tcp.mx.{name}.example SERVFAIL\n")
    scene("stripped", (3, 1, 1, None), certificate=False)
    scene("short", extra="_25._tcp.mx.{name}.example TLSA 3 1 1 0011\n")
    scene("short-only", extra="_25._tcp.mx.{name}.example TLSA 3 1 1 0011\n", policy="dane-only")
    scene("selector", extra="_25._tcp.mx.{name}.example TLSA 3 7 1 " + "00" * 32 + "\n")
    scene("private", extra="_25._tcp.mx.{name}.example TLSA 3 1 255 " + "00" * 32 + "\n")
    alias = (
        "{name}.example SECURE\n{name}.example MX 10 mx.{name}.example\n"
        "mx.{name}.example CNAME host.{name}.example\n"
        "host.{name}.example A {address}\n"
    )
    scene("alias", zone=alias, extra=tlsa(3, 1, 1, stranger))
    scene("alias-host", zone=alias, extra=tlsa(3, 1, 1, stranger).replace("mx.", "host."))
    direct = "{name}.example SECURE\n{name}.example A {address}\n"
    scene("direct", zone=direct, names=("direct.example",), extra=tlsa(2, 0, 1, middle).replace("mx.", ""))
    return scenes


#: smtp_tls_per_site: what is said of the next hop and of the host.
SITES = [
    ("", ""),
    ("NONE", ""),
    ("MAY", ""),
    ("MUST_NOPEERMATCH", ""),
    ("MUST", ""),
    ("", "MUST"),
    ("NONE", "MUST"),
    ("MAY", "NONE"),
    ("must", "may"),
    ("SOMETIMES", ""),
]


@pytest.fixture(scope="module")
def pki() -> Iterator[Pki]:
    directory = Path(tempfile.mkdtemp(prefix="tls-"))
    directory.chmod(0o755)
    yield make_pki(directory)
    shutil.rmtree(directory)


MAIN = {
    "mynetworks": "127.0.0.0/8",
    "smtp_tls_security_level": "may",
    "smtp_tls_loglevel": "1, untrusted",
    "smtp_tls_policy_maps": "texthash:{dir}/policies, texthash:{dir}/more",
    "smtp_tls_fingerprint_digest": "sha256",
    "smtp_dns_support_level": "dnssec",
    "smtp_tls_dane_insecure_mx_policy": "dane",
    "smtp_tls_connection_reuse": "no",
    "smtp_connection_cache_on_demand": "no",
    "default_destination_concurrency_limit": "5",
}
MORE = "sub.family.example encrypt ciphers=high\n"

#: What later releases of Postfix, and of OpenSSL, say in other words.
LATER = (
    ("sslv3 alert handshake failure", "tls alert handshake failure"),  # OpenSSL 3.2
)


def compare(scenes: list[Scene], pki: Pki, **main: str) -> list[str]:
    """Let both deliver; a text for each scene of which they say otherwise."""
    stage = Scenes(scenes, pki.files)
    values = {**MAIN, "smtp_tls_CAfile": str(pki.directory / "root.pem"), **main}
    files = {"policies": stage.policies(), "more": MORE}
    with Names(stage.zone()), stage:
        with Postfix(values, files=files) as postfix:
            theirs, their_names = stage.play(postfix), stage.names()
        with Mtad(values, files=files) as mtad:
            ours, our_names = stage.play(mtad), stage.names()
    wrong = []
    for scene in scenes:
        wanted = later(theirs[scene.name])
        if wanted != ours[scene.name]:
            wrong.append("\n".join([f"== {scene.name}", "postfix:", *wanted, "mtad:", *ours[scene.name]]))
        if their_names.get(scene.name) != our_names.get(scene.name):
            wrong.append(f"== {scene.name}: SNI {their_names.get(scene.name)} {our_names.get(scene.name)}")
    return wrong


def later(texts: list[str]) -> list[str]:
    for old, new in LATER:
        texts = [text.replace(old, new) for text in texts]
    if any(
        text.endswith("num=62:hostname mismatch") for text in texts
    ):  # 3.10: the issuer is trusted, though
        texts = [text.replace("Untrusted TLS connection", "Trusted TLS connection") for text in texts]
    return sorted(set(texts))


def test_the_same_servers_are_met_in_the_same_way(pki: Pki) -> None:
    wrong = compare([*client_scenes(pki), *dane_scenes(pki)], pki)
    assert not wrong, "\n".join(wrong)


def test_sites(pki: Pki) -> None:
    scenes = [Scene(f"site-{number}", "good") for number, _ in enumerate(SITES)]
    entries = [
        entry
        for number, (hop, mx) in enumerate(SITES)
        for entry in (f"site-{number}.example = {hop}", f"mx.site-{number}.example = {mx}")
        if not entry.endswith(" ")
    ]
    table = f"inline:{{ {', '.join(f'{{ {entry} }}' for entry in entries)} }}"
    wrong = compare(
        scenes, pki, smtp_tls_policy_maps="", smtp_tls_per_site=table, smtp_tls_security_level="encrypt"
    )
    assert not wrong, "\n".join(wrong)
