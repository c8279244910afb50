"""Servers by the hundred for the TLS client: each a domain, a certificate, a policy, DNS data.

:func:`client_scenes` are about levels, policies and certificates, :func:`policy_scenes` about what may stand
in a policy table, :func:`certificate_scenes` about names and chains, :func:`destination_scenes` about next
hops of all kinds, :func:`dane_scenes` and :func:`alias_scenes` about TLSA records.  Each adds the
certificates that it needs to the :class:`Pki`.
"""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from oracle.tls_pki import Pki, tlsa
from oracle.tls_scenes import Scene
from unit.net.net_pki import Issued, pem

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
    scene("pkix-plain", (1, 1, 1, None), certificate=False)
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


def policy_scenes(pki: Pki) -> list[Scene]:
    """What may stand in a policy table, and what may not; how servers answer to STARTTLS."""
    cert = hashlib.sha256(pki.der("self", False)).hexdigest()
    short = hashlib.sha1(pki.der("self", False)).hexdigest()
    expired = hashlib.sha256(pki.der("expired", False)).hexdigest()
    place = pki.directory
    other, bare = place / "other.pem", place / "otherkey.pem"
    pki.middle.write(place / "middle.pem", key=False)
    (place / "empty.pem").write_text("hello\n")
    (place / "cut.pem").write_bytes(pem(pki.middle.certificate)[:-40])
    anchored = ("ta-chain", "ta-bare-key", "ta-two", "ta-mid", "ta-wrong-name", "ta-short")
    names = tuple(f"mx.{name}.example" for name in anchored)
    leaf = Issued("anchored", pki.middle, names=names)
    pki.add("chain", leaf, pki.middle, pki.other)
    pki.add("short-chain", leaf, pki.middle)
    policies = {
        "up-attr": "Encrypt CIPHERS=HIGH Protocols=TLSv1.2",
        "commas": "encrypt,ciphers=high,protocols=TLSv1.2",
        "spaced": "encrypt ciphers = high",
        "eq-eq": "encrypt ciphers==high",
        "eq": "encrypt =high",
        "p-ge": "encrypt protocols=>=TLSv1.3",
        "p-hex": "encrypt protocols=<=0x0303",
        "p-colon": "encrypt protocols=TLSv1.2:TLSv1.3",
        "p-bad": "encrypt protocols=TLSv1.9",
        "p-bad-may": "may protocols=TLSv1.9",
        "p-empty": "encrypt protocols=",
        "p-not": "encrypt protocols=!SSLv2:!SSLv3:!TLSv1.3",
        "p-range": "encrypt protocols=>=TLSv1.2:<=TLSv1.2",
        "p-bad-ge": "encrypt protocols=>=TLSv1.9",
        "p-none": "encrypt protocols=>=:<=none",
        "p-sslv2": "encrypt protocols=SSLv2",
        "c-null": "encrypt ciphers=null",
        "c-low": "encrypt ciphers=low",
        "c-case": "encrypt ciphers=HiGh",
        "c-bad-may": "may ciphers=great",
        "e-bang": "encrypt exclude=!RC4",
        "e-empty": "encrypt exclude=",
        "e-unknown": "encrypt exclude=NOTHING:XYZ",
        "sn-up": "encrypt servername=Hostname",
        "sn-empty": "encrypt servername=",
        "sn-twice": "encrypt servername=a.b servername=c.d",
        "sn-number": "encrypt servername=192.0.2.1",
        "sn-underscore": "encrypt servername=a_b.c",
        "ta-chain": f"verify tafile={other}",
        "ta-bare-key": f"verify tafile={bare}",
        "ta-two": f"verify tafile={place}/self.pem tafile={other}",
        "ta-mid": f"verify tafile={place}/middle.pem",
        "ta-wrong-name": f"secure tafile={other} match=foo.example",
        "ta-short": f"verify tafile={other}",
        "ta-empty": f"verify tafile={place}/empty.pem",
        "ta-cut": f"verify tafile={place}/cut.pem",
        "ta-key-file": f"verify tafile={place}/self.key",
        "ta-level": f"fingerprint tafile={other} match={cert}",
        "fp-short": f"fingerprint match={short}",
        "fp-mix": f"fingerprint match={short}|{cert}",
        "fp-again": f"fingerprint match={'00' * 32} match={cert}",
        "fp-comma": f"fingerprint match={'00' * 32},{cert}",
        "fp-long": f"fingerprint match={'00' * 70}",
        "fp-longer": f"fingerprint match={'00' * 100}",
        "fp-odd": f"fingerprint match=0{cert}",
        "fp-end": f"fingerprint match={cert}:",
        "fp-colons": "fingerprint match=00::11",
        "fp-nothing": "fingerprint match=|",
        "fp-one-bad": f"fingerprint match=xyz|{cert}",
        "fp-expired": f"fingerprint match={expired}",
        "may-match": "may match=x",
        "dane-match": "dane match=x",
        "dane-ta": f"dane tafile={other}",
        "reuse-twice": "encrypt connection_reuse=yes connection_reuse=no",
        "only-comma": ",",
        "two-levels": "may encrypt",
    }
    certificates = {
        **dict.fromkeys(anchored, "chain"), "ta-short": "short-chain", "ta-key-file": "self",
        "fp-expired": "expired",
        **{name: "self" for name in policies if name.startswith("fp-") and name != "fp-expired"},
    }  # fmt: skip
    scenes = [Scene(name, certificates.get(name, "good"), text) for name, text in policies.items()]
    answers = {"drop": b"DROP", "421": b"421 4.3.0 bye", "501": b"501 5.5.1 no", "354": b"354 ok"}
    answers |= {"multi": b"220-a\n220 b", "250": b"250 ok"}
    for level in ("may", "encrypt"):
        for name, answer in answers.items():
            scenes.append(Scene(f"s-{name}-{level}", "good", level, rules={"starttls": answer}))
        alert = {"handshake": b"\x15\x03\x03\x00\x02\x02\x28"}
        scenes.append(Scene(f"alert-{level}", "good", level, rules=alert))
        scenes.append(Scene(f"after-{level}", "good", level, rules={"ehlo-tls": b"500 no"}))
        scenes.append(Scene(f"before-{level}", "good", level, rules={"ehlo": b"500 no"}))
    return scenes


def certificate_scenes(pki: Pki) -> list[Scene]:
    """Names and chains at the level ``verify``, and what ``match`` may say."""
    root = pki.root
    first = Issued("First", root, authority=True)
    second = Issued("Second", first, authority=True)
    late = Issued("Late", root, authority=True, days=-1)
    nobody = Issued("Nobody", root)
    elsewhere = x509.NameConstraints([x509.DNSName("other.example")], None)
    bound = Issued("Bound", root, authority=True, extensions=(elsewhere,))
    nameless = Issued("", authority=True, subject=((NameOID.ORGANIZATION_NAME, "Nameless"),))
    clients = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    known = set(pki.issued)

    def mx(name: str) -> tuple[str, ...]:
        return (f"mx.{name}.example",)

    pki.add("weak", Issued("weak", root, names=("mx.weak.example",), kind="rsa1024"))
    pki.add("cn-only", Issued("mx.cn-only.example", root))
    pki.add("cn-wild", Issued("*.cn-wild.example", root))
    pki.add("cn-two", Issued("mx.cn-two.example", root, subject=((NameOID.COMMON_NAME, "foo.example"),)))
    pki.add("no-cn", Issued("", root, names=mx("no-cn"), subject=((NameOID.ORGANIZATION_NAME, "Org"),)))
    pki.add("empty", Issued("", root))
    pki.add("address", Issued("address", root, addresses=("192.0.2.77",)))
    pki.add("client", Issued("client", root, names=mx("client"), extensions=(clients,)))
    pki.add("future", Issued("future", root, names=mx("future"), days=400))
    pki.add("authority", Issued("authority", root, names=mx("authority"), authority=True))
    pki.add("chained", Issued("chained", second, names=mx("chained")), second, first)
    pki.add("missing", Issued("missing", second, names=mx("missing")), second)
    pki.add("late", Issued("late", late, names=mx("late")), late)
    pki.add("both-late", Issued("both-late", late, names=mx("both-late"), days=-1), late)
    pki.add("nobody", Issued("nobody", nobody, names=mx("nobody")), nobody)
    pki.add("bound", Issued("bound", bound, names=mx("bound")), bound)
    pki.add("nameless", Issued("nameless", nameless, names=mx("nameless")), nameless)
    pki.add("one-label", Issued("one-label", root, names=("*.example",)))
    pki.add("partial", Issued("partial", root, names=("m*.partial.example",)))
    pki.add("dotted", Issued("dotted", root, names=("mx.dotted.example.",)))
    pki.add("upper", Issued("upper", root, names=("MX.UPPER.EXAMPLE",)))
    pki.add("below", Issued("below", root, names=("a.b.below.example",)))
    plain = [name for name in pki.issued if name not in known | {"weak", "below"}]
    matches = {
        "m-below": ("below", ".below.example"),
        "m-below-2": ("below", ".b.below.example:x"),
        "m-end-dot": ("below", "a.b.below.example."),
        "m-only-colon": ("good", ":"),
        "m-dot": ("good", "."),
        "m-dot-too": ("good", ".:mx.good.example"),
        "m-colons": ("good", "::mx.good.example::"),
        "m-case": ("good", "HostName:DOT-NEXTHOP"),
        "m-again": ("good", "foo match=mx.good.example"),
        "m-one-label": ("one-label", "foo.example"),
        "m-upper": ("good", "MX.GOOD.EXAMPLE"),
        "m-dot-word": ("good", ".hostname"),
        "m-address": ("address", "192.0.2.77"),
        "m-address-not": ("address", "192.0.2.78"),
        "m-address-and": ("address", "192.0.2.77:foo.example"),
        "m-addresses": ("address", "192.0.2.77:192.0.2.78"),
    }
    return [
        *(Scene(name, name, "verify") for name in plain),
        *(Scene(name, used, f"secure match={text}") for name, (used, text) in matches.items()),
        *(
            Scene(f"weak-{level}", "weak", level, ciphers="DEFAULT:@SECLEVEL=0")
            for level in ("may", "verify")
        ),
        *(
            Scene(f"anonymous-{level}", "good", f"{level} protocols=TLSv1.2", ciphers="aNULL:@SECLEVEL=0")
            for level in ("may", "encrypt", "verify")
        ),
    ]


def destination_scenes(pki: Pki) -> list[Scene]:
    """Next hops of all kinds, and LMTP; some have certificates for their own addresses."""
    addresses = tuple(f"{net}.{n}" for net in ("192.0.2", "198.51.100") for n in range(1, 202))
    pki.add("addresses", Issued("addresses", pki.root, addresses=addresses))
    pki.add("host", Issued("host", pki.root, names=("*.sec.example", "*.lm-sec.example")))
    good = pki.issued["good"]
    stranger = Issued("stranger")
    alone = "mx.{name}.example A {address}\n"
    secure = "mx.{name}.example SECURE\n" + alone
    own = tlsa(3, 1, 1, good)
    lmtp = "lmtp:inet:mx.{name}.example:25"
    path = "/none/{name}.example"
    return [
        Scene("a-enc", policy="encrypt servername=hostname", transport="smtp:[{address}]"),
        Scene("a-secure", "addresses", "secure", transport="smtp:[{address}]"),
        Scene("a-verify", "addresses", "verify", transport="smtp:[{address}]"),
        Scene("a-nexthop", "addresses", "secure match=nexthop", transport="smtp:{address}"),
        Scene("a-dane", policy="dane", transport="smtp:[{address}]"),
        Scene("a-dane-only", policy="dane-only", transport="smtp:[{address}]"),
        Scene("a-port", policy="encrypt protocols=TLSv1.2", transport="smtp:[{address}]:25"),
        Scene("h-hop", policy="encrypt servername=nexthop", transport="smtp:[mx.{name}.example]"),
        Scene("h-port", policy="none", transport="smtp:[mx.{name}.example]:25"),
        Scene("h-other", policy="none", transport="smtp:[mx.{name}.example]:25", key="[mx.{name}.example]"),
        Scene("h-parent", policy="none", transport="smtp:[mx.{name}.example]", key=".{name}.example"),
        Scene(
            "d-parent", policy="none", zone=alone, transport="smtp:mx.{name}.example", key=".{name}.example"
        ),
        Scene(
            "d-port", policy="none", zone=alone, transport="smtp:mx.{name}.example:25", key=".{name}.example"
        ),
        Scene(
            "d-case", policy="none", zone=alone, transport="smtp:MX.{name}.Example", key="mx.{name}.EXAMPLE"
        ),
        Scene("dane-hop", policy="dane-only", zone=secure + own, transport="smtp:[mx.{name}.example]"),
        Scene("dane-not", policy="dane-only", zone=secure, transport="smtp:[mx.{name}.example]"),
        Scene("dane-insecure", policy="dane-only", zone=alone + own, transport="smtp:[mx.{name}.example]"),
        *(
            Scene(f"u-{level}", policy=level, key=path, transport=f"lmtp:unix:{path}")
            for level in ("dane", "dane-only", "encrypt", "none")
        ),
        Scene("lm-enc", policy="encrypt", transport="lmtp:inet:[{address}]:25"),
        Scene("lm-none", policy="none", transport=lmtp),
        Scene("lm-sec", "host", "secure match=.{name}.example", zone=alone, transport=lmtp),
        Scene("lm-bad", policy="strong", zone=alone, transport=lmtp),
        Scene("lm-attr", policy="may servername=-x-", zone=alone, transport=lmtp),
        Scene("lm-fp", "good", f"fingerprint match={'00' * 32}", zone=alone, transport=lmtp),
        Scene("lm-dane", policy="dane-only", zone=secure + own, transport=lmtp),
        Scene("lm-dane-not", policy="dane", zone=secure + tlsa(3, 1, 1, stranger), transport=lmtp),
    ]


def alias_scenes(pki: Pki) -> list[Scene]:
    """TLSA records that are odd, and names with aliases."""
    top, middle = pki.other, pki.middle
    stranger = Issued("stranger")
    scenes: list[Scene] = []
    alias = (
        "{name}.example SECURE\n{name}.example MX 10 mx.{name}.example\n"
        "mx.{name}.example CNAME host.{name}.example\nhost.{name}.example A {address}\n"
    )
    outside = alias.replace("host.{name}.example", "host.{name}.other")
    domain = (
        "{name}.example SECURE\n{name}.example CNAME real.{name}.example\n"
        "real.{name}.example MX 10 mx.{name}.example\nmx.{name}.example A {address}\n"
    )

    def scene(
        name: str, *records: tuple[int, int, int, Issued | None], zone: str = FULL, policy: str = "dane",
        names: tuple[str, ...] = (), extra: str = "", chain: tuple[Issued, ...] = (middle, top),
        at: str = "mx.", leaf: Issued | None = None,
    ) -> None:  # fmt: skip
        leaf = leaf or Issued("leaf", middle, names=names or (f"mx.{name}.example",))
        pki.add(name, leaf, *chain)
        own = "".join(tlsa(u, s, m, issued or leaf) for u, s, m, issued in records).replace("mx.", at)
        scenes.append(Scene(name, name, policy, zone + own + extra))

    where = "_25._tcp.mx.{name}.example"
    zeros = "00" * 32
    scene("one-byte", extra=f"{where} TLSA 3 1 1 00\n")
    scene("usage-0", (0, 0, 1, top))
    scene("usage-4", extra=f"{where} TLSA 4 1 1 {zeros}\n")
    scene("type-3", extra=f"{where} TLSA 3 1 3 {zeros}\n")
    scene("one-good", (3, 1, 1, None), extra=f"{where} TLSA 3 9 1 {zeros}\n")
    scene("bad-cert", extra=f"{where} TLSA 3 0 0 {zeros}\n")
    scene("bad-key", extra=f"{where} TLSA 3 1 0 {zeros * 4}\n")
    scene("bad-ta", extra=f"{where} TLSA 2 0 0 {zeros * 4}\n")
    scene("bad-only", extra=f"{where} TLSA 3 9 1 {zeros}\n", policy="dane-only")
    scene("half-bad", extra=f"{where} TLSA 3 9 1 {zeros}\n", zone=INSECURE_MX)
    scene("half-ta", (2, 0, 1, middle), zone=INSECURE_MX)
    scene("al-host", (3, 1, 1, None), zone=alias, at="host.")
    scene("al-ta-host", (2, 0, 1, middle), zone=alias, at="host.", names=("host.al-ta-host.example",))
    scene("al-ta-mx", (2, 0, 1, middle), zone=alias, at="host.")
    scene("al-out", (3, 1, 1, None), zone=outside)
    scene("al-out-none", zone=outside)
    scene("al-out-only", zone=outside, policy="dane-only")
    scene("al-out-wrong", (3, 1, 1, stranger), zone=outside)
    scene("al-fails", zone=alias, extra="_25._tcp.host.{name}.example SERVFAIL\n")
    scene("al-tlsa", extra=f"{where} CNAME t.{{name}}.example\nt.{{name}}.example TLSA 3 1 1 {zeros}\n")
    scene("al-tlsa-1", extra=f"{where} CNAME t.{{name}}.example\nt.{{name}}.example TLSA 1 1 1 {zeros}\n")
    scene("al-tlsa-out", extra=f"{where} CNAME t.{{name}}.other\nt.{{name}}.other TLSA 3 1 1 {zeros}\n")
    scene("dom-real", (2, 0, 1, middle), zone=domain, names=("real.dom-real.example",))
    scene("dom-name", (2, 0, 1, middle), zone=domain, names=("dom-name.example",))
    scene("dom-out", (3, 1, 1, None), zone=domain.replace("real.{name}.example", "real.{name}.other"))
    scene("nx", extra=f"{where} NXDOMAIN\n")
    scene("refuses", extra=f"{where} REFUSED\n")
    scene("junk", (3, 1, 1, None), extra=f"{where} GARBAGE TLSA\n")
    scene("by-tcp", (3, 1, 1, None), extra=f"{where} TRUNCATED\n")
    scene("ta-alone", (2, 0, 1, middle), chain=())
    scene("ta-full-alone", (2, 0, 0, middle), chain=())
    scene("ta-key-alone", (2, 1, 0, middle), chain=())
    scene("ta-key-512", (2, 1, 2, middle))
    scene("ta-no-root", (2, 1, 0, top), chain=(middle,))
    scene("ee-self", (3, 1, 1, None), leaf=Issued("selfie"), chain=())
    scene("ee-nameless", (3, 0, 1, None), leaf=Issued(""), chain=())
    scene("two-usages", (2, 0, 1, middle), (3, 1, 2, stranger))
    return scenes
