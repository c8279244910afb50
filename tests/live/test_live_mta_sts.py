"""MTA-STS and TLSRPT against name, web and mail servers of the test, in a network of its own."""

from __future__ import annotations

import http.server
import json
import shutil
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from live.daemon import Mtad, wait_until
from oracle.names import Names
from oracle.tls_scenes import Scene, Scenes
from unit.net.net_pki import Issued, pem, pem_key

WEB = "192.0.2.250"
PLAIN = "{name}.example MX 10 mx.{name}.example\nmx.{name}.example A {address}\n"
RECORDS = (
    PLAIN
    + '_mta-sts.{name}.example TXT "v=STSv1; id=20260101;"\n'
    + f"mta-sts.{{name}}.example A {WEB}\n"
    + '_smtp._tls.{name}.example TXT "v=TLSRPTv1; rua=mailto:tls@{name}.example"\n'
)


def policy(mode: str, *hosts: str) -> str:
    return "".join(["version: STSv1\r\n", f"mode: {mode}\r\n", *(f"mx: {host}\r\n" for host in hosts)]) + (
        "max_age: 86400\r\n"
    )


#: What the web server says, by domain; a number is a status.
POLICIES: dict[str, str | int] = {
    "good.example": policy("enforce", "mx.good.example"),
    "wild.example": policy("enforce", "other.example", "*.wild.example"),
    "forged.example": policy("enforce", "mx.forged.example"),
    "stripped.example": policy("enforce", "mx.stripped.example"),
    "other-mx.example": policy("enforce", "mail.other-mx.example", "*.mx.other-mx.example"),
    "testing.example": policy("testing", "mx.testing.example"),
    "tested.example": policy("testing", "mx.tested.example"),
    "no-mode.example": policy("none"),
    "missing.example": 404,
    "moved.example": 302,
    "broken.example": "version: STSv1\nmode: enforce\nmax_age: 86400\n",
    "dane.example": policy("enforce", "mx.dane.example"),
    "dane-good.example": policy("enforce", "elsewhere.example"),
    "page.example": policy("enforce", "elsewhere.example"),
}
#: Whose policy is said to be something else than text.
PAGES = {"page.example": "text/html; charset=utf-8"}
SCENES = [
    *(
        Scene(domain.removesuffix(".example"), domain.removesuffix(".example"), zone=RECORDS)
        for domain in POLICIES
        if domain not in ("stripped.example", "dane.example", "dane-good.example")
    ),
    Scene("stripped", "", zone=RECORDS),
    Scene(
        "dane",
        "dane",
        zone=RECORDS + "dane.example SECURE\n_25._tcp.mx.dane.example TLSA 3 1 1 " + "00" * 32 + "\n",
    ),
    Scene("dane-good", "dane-good", zone=RECORDS + "dane-good.example SECURE\n"),
    Scene(
        "dane-unusable",
        "dane-unusable",
        zone=RECORDS + "dane-unusable.example SECURE\n_25._tcp.mx.dane-unusable.example TLSA 3 1 1 0011\n",
    ),
    Scene("unknown", "forged", zone=PLAIN),
    Scene("forged-web", "forged-web", zone=RECORDS.replace(WEB, "192.0.2.251")),
]


class Web:
    """The web server of all policies; ``asked`` are the hosts that it was asked for."""

    def __init__(self, address: str, certificate: tuple[str, str]) -> None:
        self.asked: list[str] = []
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host = self.headers["Host"]
                web.asked.append(host)
                answer = POLICIES.get(host.removeprefix("mta-sts."), 404)
                if self.path != "/.well-known/mta-sts.txt":
                    answer = 404
                body = answer.encode() if isinstance(answer, str) else b""
                self.send_response(answer if isinstance(answer, int) else 200)
                if answer == 302:
                    self.send_header("Location", f"https://mta-sts.good.example{self.path}")
                self.send_header(
                    "Content-Type", PAGES.get(host.removeprefix("mta-sts."), "Text/Plain; charset=x")
                )
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Nobody wants to read it."""

        self._server = http.server.ThreadingHTTPServer((address, 443), Handler)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="sts-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def make_pki(directory: Path) -> dict[str, tuple[str, str]]:
    root = Issued("Test Root", authority=True)
    root.write(directory / "root.pem", key=False)
    files = {}
    for scene in SCENES:
        name = f"mx.{scene.name}.example"
        forged = scene.name in ("forged", "testing")
        files[scene.name] = Issued(name, None if forged else root, names=(name,))
    hosts = tuple(f"mta-sts.{domain}" for domain in POLICIES)
    files["web"] = Issued("web", root, names=hosts)
    files["web-forged"] = Issued("web", None, names=("mta-sts.forged-web.example",))
    found = {}
    for name, issued in files.items():
        certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
        certificate.write_bytes(pem(issued.certificate))
        key.write_bytes(pem_key(issued.key))
        found[name] = (str(certificate), str(key))
    return found


class Collector:
    """Takes TLSRPT datagrams; ``records``: the last one of each domain."""

    def __init__(self, path: Path) -> None:
        self.records: dict[str, dict[str, Any]] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        path.chmod(0o777)
        threading.Thread(target=self._collect, daemon=True).start()

    def _collect(self) -> None:
        while data := self._socket.recv(65536):
            record = json.loads(data)
            self.records[record["d"]] = record

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def outcome(texts: list[str]) -> str:
    """``sent`` or ``deferred``, and why."""
    line = next(text for text in texts if ": to=<" in text)
    status = line.partition("status=")[2]
    return "sent" if status.startswith("sent") else status


def matching_record(path: str) -> str:
    """The TLSA record of a certificate."""
    certificate = x509.load_pem_x509_certificate(Path(path).read_bytes())
    digest = certificate.fingerprint(hashes.SHA256()).hex()
    return f"\n_25._tcp.mx.dane-good.example TLSA 3 0 1 {digest}\n"


NOT_VERIFIED = "deferred (Server certificate not verified)"


def test_policies_are_kept_and_reports_are_made(directory: Path) -> None:
    pki = make_pki(directory)
    main = {
        "smtp_tls_security_level": "dane",
        "smtp_dns_support_level": "dnssec",
        "smtp_tls_CAfile": str(directory / "root.pem"),
        "smtp_tls_loglevel": "1",
        "smtp_connection_cache_on_demand": "no",
        "mtad_mta_sts": "yes",
        "mtad_mta_sts_CAfile": str(directory / "root.pem"),
        "smtp_tlsrpt_enable": "yes",
        "smtp_tlsrpt_socket_name": str(directory / "tlsrpt"),
        "mtad_tlsrpt_file": str(directory / "reports"),
    }
    (directory / "reports").touch()
    (directory / "reports").chmod(0o666)
    stage = Scenes(SCENES, pki)
    with (
        Collector(directory / "tlsrpt") as collector,
        Names(stage.zone() + matching_record(pki["dane-good"][0])) as names,
        stage,
        Mtad(main) as mtad,
    ):
        web = Web(WEB, pki["web"])
        forged = Web("192.0.2.251", pki["web-forged"])
        said = stage.play(mtad)
        check_outcomes(said)
        wait_until(lambda: len(collector.records) == len(SCENES) - 2, "all reports")
        check_reports(collector.records)
        lines = [json.loads(line) for line in (directory / "reports").read_text().splitlines()]
        assert all(isinstance(line.pop("time"), int) for line in lines)
        assert {line["d"]: line for line in lines} == collector.records
        assert sorted(set(web.asked)) == sorted(
            f"mta-sts.{domain}" for domain in POLICIES if not domain.startswith("dane")
        )
        # no record, no web server, no memory: what was said before counts
        web.close()
        forged.close()
        names.load("\n".join(line for line in stage.zone().splitlines() if "_mta-sts" not in line))
        mtad.command("stop")
        mtad.maillog.unlink()
        mtad.start()
        again = stage.play(mtad)
        assert outcome(again["forged"]) == NOT_VERIFIED
        assert outcome(again["good"]) == "sent"
        assert any("Verified TLS connection" in text for text in again["good"])
        assert outcome(again["testing"]) == "sent"
    for scene in ("forged", "stripped", "other-mx", "dane"):
        assert not any(
            b"MAIL" in line for session in stage.upstreams[scene].sessions for line in session.lines
        )


def check_outcomes(said: dict[str, list[str]]) -> None:
    stripped = f"mx.stripped.example[{address('stripped')}]"
    assert {name: outcome(texts) for name, texts in said.items()} == {
        "good": "sent",
        "wild": "sent",
        "forged": NOT_VERIFIED,
        "stripped": f"deferred (TLS is required, but was not offered by host {stripped})",
        "other-mx": "deferred (server unavailable or unable to receive mail)",
        "testing": "sent",
        "tested": "sent",
        "no-mode": "sent",
        "missing": "sent",
        "moved": "sent",
        "broken": "sent",
        "dane": NOT_VERIFIED,
        "dane-good": "sent",
        "dane-unusable": "sent",
        "page": "sent",
        "unknown": "sent",
        "forged-web": "sent",
    }
    for name in ("good", "wild", "dane-good"):
        assert any("Verified TLS connection established to" in text for text in said[name]), said[name]
    for name in ("tested", "no-mode"):
        assert any(text.startswith("Trusted TLS connection") for text in said[name]), said[name]
    for name in ("missing", "page"):  # there may be a policy that nobody can meet
        assert any(text.startswith("Untrusted TLS connection") for text in said[name]), said[name]
    text = "MX name 'mx.other-mx.example' does not match STS MX pattern for 'other-mx.example'"
    assert any(text in line for line in said["other-mx"])


def address(name: str) -> str:
    return f"192.0.2.{[scene.name for scene in SCENES].index(name) + 1}"


def check_reports(records: dict[str, dict[str, Any]]) -> None:
    def code(name: str) -> int:
        (found,) = records[f"{name}.example"]["policies"]
        details = found.get("failure-details", [{"c": 0}])
        assert (found["t"], found["f"]) == ((1, 1) if details[0]["c"] else (0, 0))
        return int(details[0]["c"])

    assert {name: code(name) for name in ("good", "tested", "forged", "testing", "stripped", "dane")} == {
        "good": 0,
        "tested": 0,
        "forged": 205,
        "testing": 205,
        "stripped": 201,
        "dane": 203,
    }
    assert (code("missing"), code("broken"), code("forged-web"), code("no-mode")) == (301, 302, 303, 0)
    assert (code("page"), code("dane-good"), code("dane-unusable")) == (302, 0, 304)
    (unusable,) = records["dane-unusable.example"]["policies"]
    assert unusable["policy-string"] == ["3 1 1 0011"]
    assert unusable["failure-details"][0]["f"] == "all-TLSA-records-unusable"
    details = records["forged.example"]["policies"][0]["failure-details"][0]
    assert records["forged.example"] == {
        "dpv": "1",
        "d": "forged.example",
        "pr": "v=TLSRPTv1; rua=mailto:tls@forged.example",
        "policies": [
            {
                "policy-type": 2,
                "policy-domain": "forged.example",
                "policy-string": [
                    "version: STSv1",
                    "mode: enforce",
                    "mx: mx.forged.example",
                    "max_age: 86400",
                ],
                "mx-host": ["mx.forged.example"],
                "failure-details": [
                    {
                        "c": 205,
                        "s": details["s"],
                        "n": "mx.forged.example",
                        "h": details["h"],
                        "r": address("forged"),
                        "f": "self-signed_certificate",
                    }
                ],
                "t": 1,
                "f": 1,
            }
        ],
    }
    assert details["h"].startswith("250-upstream.example\r\n250-PIPELINING\r\n")
    assert records["dane.example"]["policies"][0]["policy-type"] == 1
    assert not {"unknown.example", "other-mx.example"} & set(records)  # unasked for; no connection
