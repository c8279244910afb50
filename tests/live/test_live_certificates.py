"""Client certificates beside Postfix: a chain, an expired one, one of a stranger, in every restriction."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import oracle.postfix
import pytest
from cryptography import x509
from live.authority import Authority, fingerprint
from live.daemon import Mtad, wait_until
from oracle.postfix import Postfix

#: by service, the ``-o`` of both; each asks for a certificate
SERVICES = {
    "listed": {"smtpd_relay_restrictions": "permit_tls_clientcerts, reject"},
    "all": {"smtpd_relay_restrictions": "permit_tls_all_clientcerts, reject"},
    "access": {"smtpd_relay_restrictions": "check_ccert_access texthash:{dir}/ccert, reject"},
    "sha1": {
        "smtpd_relay_restrictions": "permit_tls_clientcerts, reject", "smtpd_tls_fingerprint_digest": "sha1",
    },
    "shallow": {
        "smtpd_relay_restrictions": "permit_tls_all_clientcerts, reject", "smtpd_tls_ccert_verifydepth": "0",
    },
    "capath": {
        "smtpd_relay_restrictions": "permit_tls_all_clientcerts, reject", "smtpd_tls_CAfile": "",
        "smtpd_tls_CApath": "{capath}",
    },
    "required": {
        "smtpd_relay_restrictions": "permit_tls_all_clientcerts, reject", "smtpd_tls_req_ccert": "yes",
        "smtpd_tls_security_level": "encrypt",
    },
    "unasked": {
        "smtpd_relay_restrictions": "permit_tls_all_clientcerts, reject", "smtpd_tls_ask_ccert": "no",
    },
}  # fmt: skip

#: Those that only mtad has.
SENDMAIL = {
    "issuer": "CERTISSUER:/O=Example+20+28Test+29/CN=Lower RELAY\n",
    "subject": "CERTISSUER:/O=Example+20+28Test+29/CN=Lower SUBJECT\nCERTSUBJECT:/CN=leaf RELAY\n",
    "refused": "CERTISSUER:/O=Example+20+28Test+29/CN=Lower SUBJECT\nCERTSUBJECT:/CN=leaf REJECT go away\n",
    "root": "CERTISSUER:/O=Example+20+28Test+29/CN=Root RELAY\n",
}


@dataclass
class Pki:
    root: Authority
    lower: Authority
    foreign: Authority
    server: tuple[str, str]
    clients: dict[str, tuple[str, str] | None] = field(default_factory=dict)


@pytest.fixture(scope="module")
def pki() -> Iterator[Pki]:
    directory = Path(tempfile.mkdtemp(prefix="pki-"))
    directory.chmod(0o755)
    root = Authority(directory / "root", "Root")
    lower = Authority(directory / "lower", "Lower", root)
    foreign = Authority(directory / "foreign", "Root")  # it calls itself so, too
    names = [x509.DNSName("client.example.com")]
    yield Pki(
        root,
        lower,
        foreign,
        root.issue("server", [x509.DNSName("localhost")]),
        {
            "chain": lower.issue("leaf", names),
            "second": lower.issue("second", names),
            "deep": Authority(directory / "lowest", "Lowest", lower).issue("deep", names),
            "direct": root.issue("direct", names),
            "expired": root.issue("expired", names, until=-1),
            "stranger": foreign.issue("leaf", names),
            "listed stranger": foreign.issue("listed", names),
            "none": None,
        },
    )
    shutil.rmtree(directory)


def main_cf(pki: Pki) -> dict[str, str]:
    return {
        "smtpd_tls_security_level": "may",
        "smtpd_tls_cert_file": pki.server[0],
        "smtpd_tls_key_file": pki.server[1],
        "smtpd_tls_CAfile": pki.root.path,
        "smtpd_tls_ask_ccert": "yes",
        "smtpd_tls_loglevel": "1",
        "smtpd_tls_session_cache_database": "",
        "smtpd_tls_fingerprint_digest": "sha256",
        "smtpd_recipient_restrictions": "",
        "smtpd_delay_reject": "yes",
        "relay_clientcerts": "texthash:{dir}/clientcerts",
        "mynetworks": "192.0.2.0/24",
    }


def files(pki: Pki) -> dict[str, str]:
    listed = [pki.clients[name] for name in ("second", "listed stranger")]
    prints = [fingerprint(pair[0], digest) for pair in listed if pair for digest in ("sha256", "sha1")]
    made = {"clientcerts": "".join(f"{each} x\n" for each in prints)}
    chain, direct = pki.clients["chain"], pki.clients["direct"]
    assert chain is not None and direct is not None
    made["ccert"] = f"{fingerprint(chain[0])} OK\n{fingerprint(direct[0])} REJECT not you\n"
    return made | {f"sendmail-{name}": text for name, text in SENDMAIL.items()}


@dataclass
class Houses:
    mtad: Mtad
    postfix: Postfix | None


@pytest.fixture(scope="module")
def houses(pki: Pki) -> Iterator[Houses]:
    capath = pki.root.hashed()
    common = [
        (name, {key: value.replace("{capath}", capath) for key, value in options.items()})
        for name, options in SERVICES.items()
    ]
    own = [
        (name, {"smtpd_relay_restrictions": f"check_ccert_access texthash:{{dir}}/sendmail-{name}, reject"})
        for name in SENDMAIL
    ]
    with contextlib.ExitStack() as stack:
        mtad = stack.enter_context(Mtad(main_cf(pki), services=common + own, files=files(pki)))
        postfix = None
        if oracle.postfix.AVAILABLE:
            postfix = stack.enter_context(Postfix(main_cf(pki), services=common, files=files(pki)))
        yield Houses(mtad, postfix)


def attempt(port: int, certificate: tuple[str, str] | None) -> list[str]:
    """The replies to MAIL and RCPT within TLS, or how it ended before."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(*certificate)
    replies = []
    with socket.create_connection(("127.0.0.1", port), 60) as raw:
        ask(raw, "")
        ask(raw, "EHLO client.example.com")
        ask(raw, "STARTTLS")
        try:
            with context.wrap_socket(raw) as connection:
                for line in (
                    "EHLO client.example.com",
                    "MAIL FROM:<a@example.com>",
                    "RCPT TO:<b@example.net>",
                ):
                    replies.append(ask(connection, line))
                ask(connection, "QUIT")
        except (ssl.SSLError, ConnectionError, IndexError):
            return ["no session"]
    return replies[1:]


def ask(connection: socket.socket, line: str) -> str:
    if line:
        connection.sendall(line.encode() + b"\r\n")
    data = b""
    while not data.endswith(b"\n") or data.splitlines()[-1][3:4] == b"-":
        more = connection.recv(65536)
        if not more:
            raise ConnectionError("closed")
        data += more
    return data.decode().splitlines()[-1]


def established(log: str) -> str:
    """What the log says of the last connection's TLS."""
    lines = [line for line in log.splitlines() if "TLS connection established from" in line]
    return lines[-1].partition("]: ")[2].split()[0] if lines else ""


#: who gets a 250 for RCPT; by service
GRANTED = {
    "listed": {"second", "listed stranger"},
    "all": {"chain", "second", "deep", "direct", "listed stranger"},
    "access": {"chain"},
    "sha1": {"second", "listed stranger"},
    "shallow": {"chain", "second", "direct", "listed stranger"},
    "capath": {"chain", "second", "deep", "direct", "listed stranger"},
    "required": {"chain", "second", "deep", "direct"},
    "unasked": set[str](),
}


@pytest.mark.parametrize("service", SERVICES)
def test_as_postfix(houses: Houses, pki: Pki, service: str) -> None:
    mtad, postfix = houses.mtad, houses.postfix
    granted = set()
    for name, certificate in pki.clients.items():
        mine = attempt(mtad.ports[service], certificate)
        if mine[-1].startswith("250"):
            granted.add(name)
        if postfix is not None:
            assert mine == attempt(postfix.ports[service], certificate), name
            wait_until(lambda: established(mtad.log()) == established(postfix.log()), f"the trust in {name}")
    assert granted == GRANTED[service]


@pytest.mark.parametrize(
    ("service", "granted"),
    [("issuer", {"chain", "second"}), ("subject", {"chain"}), ("refused", set()), ("root", {"direct"})],
)
def test_as_sendmails_access_map(houses: Houses, pki: Pki, service: str, granted: set[str]) -> None:
    replies = {name: attempt(houses.mtad.ports[service], each)[-1] for name, each in pki.clients.items()}
    assert {name for name, reply in replies.items() if reply.startswith("250")} == granted
    if service == "refused":
        assert replies["chain"] == "554 5.7.1 <leaf>: Client certificate rejected: go away"
