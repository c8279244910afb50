"""TLS of the SMTP client beside Postfix: levels, policies, certificates, DANE; the same servers, the same
words.

Each scene is a domain with a server of its own; both daemons send one message to all of them.  Compared is
what their SMTP clients log about each: connections, certificates, outcomes, warnings; and the server names
they ask for.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from live.daemon import Mtad
from oracle.names import Names
from oracle.postfix import Postfix
from oracle.tls_client_scenes import (
    alias_scenes,
    certificate_scenes,
    client_scenes,
    dane_scenes,
    destination_scenes,
    policy_scenes,
)
from oracle.tls_pki import Pki, make_pki
from oracle.tls_scenes import Scene, Scenes
from unit.net.net_pki import Issued

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


#: They ask for hundreds of names at once.
PATIENT = "options timeout:5 attempts:3 trust-ad\n"


def sites() -> str:
    """The table of :data:`SITES`."""
    lines = []
    for number, (hop, mx) in enumerate(SITES):
        lines += [f"site-{number}.example {hop}\n"] if hop else []
        lines += [f"mx.site-{number}.example {mx}\n"] if mx else []
    return "".join(lines)


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
    "lmtp_tls_security_level": "may",
    "lmtp_tls_loglevel": "1, untrusted",
    "lmtp_tls_policy_maps": "texthash:{dir}/policies",
    "lmtp_tls_fingerprint_digest": "sha256",
    "transport_maps": "texthash:{dir}/transports",
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
    # 3.9
    (
        r"issuer_CN=(.*), fingerprint=(\S+), pkey_fingerprint=",
        r"issuer=\1, cert fingerprint=\2, pkey fingerprint=",
    ),
)


def compare(scenes: Sequence[Scene], pki: Pki, master: str = "", **main: str) -> list[str]:
    """Let both deliver; a text for each scene of which they say otherwise."""
    stage = Scenes(scenes, pki.files)
    root = str(pki.directory / "root.pem")
    values = {**MAIN, "smtp_tls_CAfile": root, "lmtp_tls_CAfile": root, **main}
    files = {"policies": stage.policies(), "transports": stage.transports(), "more": MORE, "sites": sites()}
    with Names(stage.zone(), PATIENT), stage:
        with Postfix(values, files=files, master_extra=master) as postfix:
            theirs, their_names = stage.play(postfix), {**stage.names(), **stage.certificates()}
        with Mtad(values, files=files, master_extra=master) as mtad:
            ours, our_names = stage.play(mtad), {**stage.names(), **stage.certificates()}
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
        texts = [re.sub(old, new, text) for text in texts]
    if any(
        text.endswith("num=62:hostname mismatch") for text in texts
    ):  # 3.10: the issuer is trusted, though
        texts = [text.replace("Untrusted TLS connection", "Trusted TLS connection") for text in texts]
    return sorted(set(texts))


def test_the_same_servers_are_met_in_the_same_way(pki: Pki) -> None:
    tables = (client_scenes, policy_scenes, certificate_scenes, destination_scenes, dane_scenes, alias_scenes)
    scenes = [scene for table in tables for scene in table(pki)]
    wrong = compare(scenes, pki)
    assert not wrong, "\n".join(wrong)


def settings(pki: Pki) -> list[tuple[dict[str, str], dict[str, str]]]:
    """Parameters of main.cf, and scenes to show them: a policy for each kind of server."""
    place = pki.directory
    subprocess.run(["openssl", "rehash", str(place / "authorities")], check=True)
    good = hashlib.sha256(pki.der("good", False)).hexdigest()
    key = hashlib.sha1(pki.der("good", True)).hexdigest()
    both = {"good": "", "verified": "verify", "plain": ""}
    old = {"smtp_tls_security_level": ""}
    mandatory = {"may": "may", "enc": "encrypt"}
    digests = {"smtp_tls_security_level": "fingerprint", "smtp_tls_policy_maps": ""}
    suite = "ECDHE-ECDSA-AES128-GCM-SHA256"
    exclude = "AES256, CHACHA20:CAMELLIA"
    return [
        ({"smtp_tls_CAfile": "", "smtp_tls_CApath": str(place / "authorities")}, both),
        ({"smtp_tls_CAfile": ""}, both),
        ({"smtp_tls_scert_verifydepth": "0"}, {"deep": "verify", "deep-may": "may", "verified": "verify"}),
        ({"smtp_tls_scert_verifydepth": "1"}, {"deep": "verify"}),
        ({"smtp_tls_trust_anchor_file": str(place / "other.pem")}, both),
        ({"smtp_tls_trust_anchor_file": f"{place}/other.pem, {place}/root.pem", "smtp_tls_CAfile": ""}, both),
        ({"smtp_tls_trust_anchor_file": "/nonexistent"}, both),
        ({**old, "smtp_use_tls": "yes"}, both),
        ({**old, "smtp_use_tls": "no"}, both),
        ({**old, "smtp_enforce_tls": "yes"}, {**both, "mx": ""}),
        ({**old, "smtp_enforce_tls": "yes", "smtp_tls_enforce_peername": "no"}, both),
        ({"smtp_tls_security_level": "none", "smtp_tls_note_starttls_offer": "yes"}, both),
        ({"smtp_tls_security_level": "encrypt"}, both),
        ({"smtp_tls_security_level": "verify"}, {**both, "mx": ""}),
        ({"smtp_tls_security_level": "secure"}, {**both, "mx": ""}),
        ({"smtp_tls_security_level": "secure", "smtp_tls_secure_cert_match": "hostname"}, {"mx": ""}),
        ({"smtp_tls_verify_cert_match": "nexthop:dot-nexthop"}, {"mx": "verify", "verified": "verify"}),
        ({"smtp_tls_security_level": "dane-only"}, both),
        ({"smtp_tls_protocols": "TLSv1.2", "smtp_tls_mandatory_protocols": "TLSv1.3"}, mandatory),
        ({"smtp_tls_protocols": "<=TLSv1.2", "smtp_tls_exclude_ciphers": exclude}, mandatory),
        (
            {"smtp_tls_mandatory_protocols": "!TLSv1.3", "smtp_tls_mandatory_exclude_ciphers": exclude},
            mandatory,
        ),
        (
            {
                "smtp_tls_mandatory_protocols": "<=TLSv1.2",
                "smtp_tls_mandatory_ciphers": "high",
                "smtp_tls_protocols": "<=TLSv1.2",
                "tls_high_cipherlist": suite,
            },
            mandatory,
        ),
        (
            {"smtp_tls_protocols": "<=TLSv1.2", "smtp_tls_ciphers": "high", "tls_high_cipherlist": suite},
            mandatory,
        ),
        ({"smtp_tls_servername": "hostname"}, {**both, "own": "encrypt servername=nexthop"}),
        ({"smtp_tls_servername": "nexthop"}, both),
        ({"smtp_tls_servername": "-bad-"}, {**both, "own": "encrypt servername=nexthop"}),
        ({"smtp_tls_loglevel": "0"}, {"may": "", "self": "verify"}),
        ({"smtp_tls_loglevel": "peercert"}, {"may": "", "self": "verify"}),
        ({"smtp_tls_loglevel": "certmatch"}, {"may": "", "mx": "verify"}),
        ({"smtp_tls_loglevel": "1|cache"}, {"may": "", "self": "verify"}),
        ({"smtp_tls_loglevel": "summary dane untrusted"}, {"may": "", "self": "encrypt"}),
        ({"smtp_tls_wrappermode": "yes"}, {"plain": "", "enc": "encrypt", "mx": "verify"}),
        ({"smtp_discard_ehlo_keywords": "starttls"}, both),
        ({"smtp_never_send_ehlo": "yes"}, {**both, "enc": "encrypt"}),
        ({**digests, "smtp_tls_fingerprint_cert_match": f"{'00' * 32}, {good}"}, {"may": "", "self": ""}),
        (
            {**digests, "smtp_tls_fingerprint_digest": "sha1", "smtp_tls_fingerprint_cert_match": key},
            {"may": "", "self": ""},
        ),
        (
            {"smtp_tls_cert_file": f"{place}/client.pem", "smtp_tls_key_file": f"{place}/client.key"},
            {"ask": ""},
        ),
        ({"smtp_tls_eccert_file": f"{place}/client.both"}, {"ask": ""}),
        ({"smtp_tls_chain_files": f"{place}/client.both, {place}/rsa.both"}, {"ask": "", "rsa": "encrypt"}),
        ({}, {"ask": ""}),
    ]  # fmt: skip


def test_settings(pki: Pki) -> None:
    """Each in a transport of its own."""
    place = pki.directory
    (place / "authorities").mkdir(0o755)
    shutil.copy(place / "root.pem", place / "authorities")
    first = Issued("First", pki.root, authority=True)
    second = Issued("Second", first, authority=True)
    client = Issued("client", pki.root)
    pki.add("client", client)
    for name in ("client", "rsa"):
        (place / f"{name}.both").write_bytes(
            (place / f"{name}.key").read_bytes() + (place / f"{name}.pem").read_bytes()
        )
    scenes, master = [], ""
    for number, (values, policies) in enumerate(settings(pki)):
        options = "".join(f"\n  -o {{ {name} = {value} }}" for name, value in values.items())
        master += f"t{number} unix - - n - - smtp{options}\n"
        for kind, policy in policies.items():
            name = f"{kind}-{number}"
            pki.files.setdefault(kind, pki.files["good"])
            if kind.startswith("deep"):
                pki.add(name, Issued("deep", second, names=(f"mx.{name}.example",)), second, first)
            elif kind in ("verified", "mx"):
                named = f"mx.{name}.example" if kind == "mx" else f"{name}.example"
                pki.add(name, Issued(kind, pki.root, names=(named,)))
            else:
                pki.files[name] = pki.files[kind]
            asking = str(place / "root.pem") if kind in ("ask", "rsa") else ""
            used = "" if kind == "plain" else name
            scenes.append(Scene(name, used, policy, transport=f"t{number}:", authorities=asking))
    master += (
        "sites unix - - n - - smtp\n  -o smtp_tls_policy_maps=\n  -o smtp_tls_security_level=encrypt"
        "\n  -o smtp_tls_per_site=texthash:{dir}/sites\n"
    )
    scenes += [Scene(f"site-{number}", "good", transport="sites:") for number, _ in enumerate(SITES)]
    wrong = compare(scenes, pki, master)
    assert not wrong, "\n".join(wrong)


#: Scenes whose logs have something to tell at the higher levels.
TELLING = re.compile(
    "good|opportunistic|self|rsa|garbage|untrusted|expired|nexthop|two-names|fp-(cert|wrong)|anchored"
    "|tls12|no-cipher|sni|ee-(key|wrong|only-wrong|expired)|ta-middle|pkix|alias-host"
    "|short|half-dane"
)


def test_the_second_log_level(pki: Pki) -> None:
    """What is said of each server; OpenSSL's own steps name none."""
    scenes = [
        scene
        for table in (client_scenes, dane_scenes)
        for scene in table(pki)
        if TELLING.fullmatch(scene.name)
    ]
    list_of_ciphers = "aNULL:-aNULL:HIGH:@STRENGTH"
    wrong = compare(
        scenes,
        pki,
        smtp_tls_loglevel="2",
        smtp_tls_session_cache_database="btree:${data_directory}/sessions",
        tls_medium_cipherlist=list_of_ciphers,
        tls_high_cipherlist=list_of_ciphers,
    )
    assert not wrong, "\n".join(wrong)
