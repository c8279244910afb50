"""TLS of the server beside Postfix: protocols, ciphers, certificates, client certificates, what is logged.

The same clients meet the same services of both.  Compared is what a client gets (protocol, cipher, the name
in the certificate, the replies), and what both log of the connection.
"""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from live.daemon import Mtad, wait_until
from oracle.postfix import Postfix
from unit.net.net_pki import Issued

ROOT = Issued("Test Root", authority=True)

FILES = ("smtpd_tls_chain_files", "{pki}/ec.pem {pki}/rsa.pem")
ASK = {"smtpd_tls_ask_ccert": "yes", "smtpd_tls_CAfile": "{pki}/root.pem"}
REQUIRE = {
    "smtpd_tls_security_level": "encrypt",
    "smtpd_tls_req_ccert": "yes",
    "smtpd_tls_CAfile": "{pki}/root.pem",
}
SERVICES: dict[str, Mapping[str, str]] = {
    "plain": {},
    "legacy": {
        "smtpd_tls_chain_files": "",
        "smtpd_tls_cert_file": "{pki}/rsa.pem",
        "smtpd_tls_eccert_file": "{pki}/ec.pem",
    },
    "rsa-only": {"smtpd_tls_chain_files": "{pki}/rsa.pem"},
    "separate": {
        "smtpd_tls_chain_files": "",
        "smtpd_tls_cert_file": "{pki}/chain.pem",
        "smtpd_tls_key_file": "{pki}/chain.key",
    },
    "tls12": {"smtpd_tls_protocols": ">=TLSv1.2, <=TLSv1.2"},
    "tls13": {"smtpd_tls_protocols": ">=TLSv1.3"},
    "old-list": {"smtpd_tls_protocols": "!SSLv2, !SSLv3, !TLSv1, !TLSv1.1, !TLSv1.3"},
    "include": {"smtpd_tls_protocols": "TLSv1.2"},
    "mandatory": {"smtpd_tls_security_level": "encrypt", "smtpd_tls_mandatory_protocols": ">=TLSv1.3"},
    "high": {"smtpd_tls_ciphers": "high", "smtpd_tls_exclude_ciphers": "AES256, CHACHA20"},
    "strict": {
        "smtpd_tls_security_level": "encrypt",
        "smtpd_tls_mandatory_ciphers": "high",
        "smtpd_tls_mandatory_exclude_ciphers": "AES128",
        "smtpd_tls_exclude_ciphers": "CHACHA20",
    },
    "preempt": {"tls_preempt_cipherlist": "yes"},
    "ask": ASK,
    "ask-encrypt": {**ASK, "smtpd_tls_security_level": "encrypt"},
    "require": REQUIRE,
    "untrusted-log": {**ASK, "smtpd_tls_loglevel": "summary, untrusted, peercert"},
    "quiet": {"smtpd_tls_loglevel": "0"},
    "names": {"tls_server_sni_maps": "inline:{{ sni.example.com={pki}/sni.pem }}"},
    "wrapped": {"smtpd_tls_wrappermode": "yes"},
    "none": {"smtpd_tls_security_level": "none"},
    "no-certificate": {"smtpd_tls_chain_files": ""},
    "anonymous": {"smtpd_tls_chain_files": "", "smtpd_tls_cert_file": "none"},
    "dh": {"smtpd_tls_chain_files": "{pki}/rsa.pem", "smtpd_tls_protocols": "<=TLSv1.2"},
}  # fmt: skip


@dataclass(frozen=True)
class Client:
    """How a client comes."""

    protocol: str = ""
    ciphers: str = ""
    certificate: str = ""
    name: str = ""
    speaks: bytes = b""
    on: tuple[str, ...] = field(default=())


CLIENTS = {
    "any": Client(),
    "1.2": Client("TLSv1_2"),
    "1.2 rsa": Client(
        "TLSv1_2",
        "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256",
        on=("plain", "legacy", "rsa-only", "high", "strict", "names"),
    ),
    "1.2 choice": Client(
        "TLSv1_2",
        "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305",
        on=("plain", "high", "strict", "preempt"),
    ),
    "dhe": Client("TLSv1_2", "DHE-RSA-AES128-GCM-SHA256", on=("dh", "plain", "rsa-only")),
    "good": Client(certificate="client", on=("plain", "ask", "ask-encrypt", "require", "untrusted-log")),
    "bad": Client(certificate="stranger", on=("ask", "ask-encrypt", "require", "untrusted-log")),
    "old": Client(certificate="expired", on=("ask", "require", "untrusted-log")),
    "by name": Client(name="sni.example.com", on=("plain", "names")),
    "other name": Client(name="other.example.com", on=("names",)),
    "garbage": Client(speaks=b"hello?\r\n", on=("plain", "wrapped", "require")),
    "anonymous": Client("TLSv1_2", "aNULL:@SECLEVEL=0", on=("anonymous", "plain")),
}


@pytest.fixture(scope="module")
def pki() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="tls-"))
    directory.chmod(0o755)
    ROOT.write(directory / "root.pem", key=False)
    for name, kind in (("ec", "ec"), ("rsa", "rsa"), ("sni", "ec"), ("client", "ec")):
        Issued(f"{name}.example.com", ROOT, names=(f"{name}.example.com",), kind=kind).write(
            directory / f"{name}.pem"
        )
    middle = Issued("Middle", ROOT, authority=True)
    chained = Issued("chain.example.com", middle, names=("chain.example.com",))
    chained.write(directory / "chain.pem", key=False, chain=(middle,))
    chained.write(directory / "chain.key", certificate=False)
    Issued("stranger.example.com").write(directory / "stranger.pem")
    Issued("expired.example.com", ROOT, days=-1).write(directory / "expired.pem")
    yield directory
    shutil.rmtree(directory)


def _context(client: Client, pki: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if client.protocol:
        context.maximum_version = getattr(ssl.TLSVersion, client.protocol)
    if client.ciphers:
        context.set_ciphers(client.ciphers)
    if client.certificate:
        context.load_cert_chain(str(pki / f"{client.certificate}.pem"))
    return context


def _name(der: bytes | None) -> str:
    found = re.findall(rb"\x55\x04\x03.\x13?\x0c?.([a-z]+\.example\.com)", der or b"", re.DOTALL)
    return found[-1].decode() if found else ""


def meet(port: int, service: str, client: Client, pki: Path) -> list[str]:
    """What a client gets."""
    found: list[str] = []
    with socket.create_connection(("127.0.0.1", port), 60) as plain:
        stream = plain.makefile("rb")

        def hear() -> bytes:
            reply = line = stream.readline()
            while line[3:4] == b"-":
                line = stream.readline()
                reply += line
            return reply

        if service != "wrapped":
            hear()
            for said in (b"EHLO c.example\r\n", b"STARTTLS\r\n"):
                plain.sendall(said)
                found.append(repr(hear()))
            if not found[-1].startswith("b'220"):
                plain.sendall(b"QUIT\r\n")
                return [*found, repr(hear())]
        if client.speaks:
            plain.sendall(client.speaks)
            with suppress(OSError):
                plain.recv(1000)
            return found
        try:
            tls = _context(client, pki).wrap_socket(plain, server_hostname=client.name or None)
        except (ssl.SSLError, OSError):
            return [*found, "no handshake"]
        found += [str(tls.version()), str((tls.cipher() or ("",))[0]), _name(tls.getpeercert(True))]
        stream = tls.makefile("rb")
        with suppress(OSError):
            if service == "wrapped":
                hear()
            for line in ("EHLO c.example", "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.net>", "QUIT"):
                tls.sendall(line.encode() + b"\r\n")
                reply = hear()
                found.append(repr(reply))
                if not reply:
                    break
    return found


_MASKS = (
    (r"key-exchange \S+( \([^)]*\))?", "key-exchange K"),
    (r"(TLS library problem: )(?:error:\w+:)?(SSL routines:[^:]*:[^:]*).*", r"\1\2"),
    (r"(SSL_accept error from \S+): -?\d+", r"\1: N"),
    (r"^[0-9A-F]{8,}: ", "ID: "),
    (r"NOQUEUE: ", ""),
    (r"fingerprint=[0-9A-F:]+", "fingerprint=F"),
)


def _wait(daemon: Any, service: str, count: int) -> None:
    """Until so many sessions with a service are over."""
    end = re.compile(rf"postfix/{service}/smtpd\[\d+\]: disconnect from")
    wait_until(lambda: len(end.findall(daemon.log())) == count, "the end of a session")


def tell(daemon: Any, pki: Path) -> dict[str, list[str]]:
    """What clients got and the log says, by service and client; of each connection until its end."""
    with ThreadPoolExecutor(6) as pool:
        parts = pool.map(lambda service: _tell(daemon, pki, service), SERVICES)
        return {name: texts for part in parts for name, texts in part.items()}


def _tell(daemon: Any, pki: Path, service: str) -> dict[str, list[str]]:
    found = {}
    mine = re.compile(rf"postfix/{service}/smtpd\[\d+\]: (.*)")
    count = 1  # somebody has seen whether the port is open
    for name, client in CLIENTS.items():
        if client.on and service not in client.on:
            continue
        _wait(daemon, service, count)
        count += 1
        before = len(mine.findall(daemon.log()))
        got = meet(daemon.ports[service], service, client, pki)
        _wait(daemon, service, count)
        texts = [text for text in mine.findall(daemon.log())[before:] if not text.startswith("connect from")]
        for pattern, substitute in _MASKS:
            texts = [re.sub(pattern, substitute, text) for text in texts]
        found[f"{service}, {name}"] = [*got, *texts]
    return found


def later(texts: list[str]) -> list[str]:
    """What later releases of OpenSSL (3.2) and Postfix (3.9) say otherwise."""
    texts = [text.replace("sslv3 alert", "ssl/tls alert") for text in texts]
    old, new = ", fingerprint=F, pkey_fingerprint=F", ", cert fingerprint=F, pkey fingerprint=F"
    return [text.replace(old, new) for text in texts]


def test_the_same_clients_meet_the_same_servers(pki: Path) -> None:
    main = {
        "mynetworks": "127.0.0.0/8",
        "relayhost": "[127.0.0.1]:9",
        "defer_transports": "smtp",
        "requiretls_enable": "no",
        "smtpd_tls_security_level": "may",
        "smtpd_tls_loglevel": "1",
        FILES[0]: FILES[1].format(pki=pki),
        "smtpd_tls_fingerprint_digest": "sha256",
    }
    services = [
        (
            name,
            {"syslog_name": f"postfix/{name}"}
            | {key: value.format(pki=pki) for key, value in options.items()},
        )
        for name, options in SERVICES.items()
    ]
    with Postfix(main, services) as postfix:
        theirs = tell(postfix, pki)
    with Mtad(main, services) as mtad:
        ours = tell(mtad, pki)
    wrong = []
    for name, texts in theirs.items():
        if later(texts) != later(ours[name]):
            wrong.append("\n".join([f"== {name}", "postfix:", *later(texts), "mtad:", *later(ours[name])]))
    assert not wrong, "\n".join(wrong)
