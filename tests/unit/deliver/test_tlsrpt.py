"""TLSRPT: who wants reports, and what they say."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from unit.net.net_pki import log, parameters, texts

from mtad.deliver.nexthop import Destination, Host
from mtad.deliver.tlsrpt import FAILURES, Report, Reporter, failure_of
from mtad.net import openssl
from mtad.net.dns import DnsError, DnsStatus
from mtad.net.tls_info import TLSInfo
from mtad.net.tls_policy import External, Policy, Tlsa

HOST = Host("mx.d.example", "192.0.2.1", 25, 10, Destination("d.example", "d.example", 25, False))
GOOD = TLSInfo("TLSv1.3", "X", 256, 256, peer_present=True, trusted=True, verified=True)


class Answers:
    def __init__(self, *found: bytes) -> None:
        self.found: Any = list(found)

    async def txt(self, name: str) -> list[bytes]:
        assert name == "_smtp._tls.d.example"
        if isinstance(self.found[0], DnsError):
            raise self.found[0]
        return list(self.found)


def reporter(answers: Any, directory: Path, **values: str) -> tuple[Reporter, list[Any]]:
    values = {"smtp_tlsrpt_enable": "yes", "mtad_tlsrpt_file": str(directory / "log")} | values
    maillog, lines = log()
    found = Reporter.build(parameters(**values), "may", answers, maillog)
    assert found is not None
    found._clock = lambda: 1.0
    return found, lines


def report(directory: Path, **values: str) -> tuple[Report, list[Any]]:
    made, lines = reporter(Answers(b"v=TLSRPTv1; rua=mailto:x@d.example"), directory, **values)
    found = asyncio.run(made.report("d.example"))
    assert found is not None
    return found, lines


def records(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "log").read_text().splitlines()]


@pytest.mark.parametrize(
    ("answers", "wanted", "word"),
    [
        ((b"v=TLSRPTv1;rua=mailto:a",), True, ""),
        ((b"v=TLSRPTv1 ; rua=x", b"other"), True, ""),
        ((b"v=TLSRPTv1",), False, "ignoring malformed policy"),
        ((b"v=TLSRPTv12;x",), False, "ignoring malformed policy"),
        ((b"v=TLSRPTv1;a", b"v=TLSRPTv1;b"), False, "Too many"),
        ((b"v=spf1",), False, ""),
        ((DnsError(DnsStatus.NOT_FOUND, "none"),), False, ""),
        ((DnsError(DnsStatus.RETRY, "later"),), False, "lookup failed"),
    ],
)
def test_who_wants_reports(tmp_path: Path, answers: Any, wanted: bool, word: str) -> None:
    made, lines = reporter(Answers(*answers), tmp_path)
    assert (asyncio.run(made.report("d.example")) is not None) is wanted
    assert asyncio.run(made.report("192.0.2.1")) is None
    assert [word in text for text in texts(lines)] == [True] * bool(word)


def test_what_it_takes() -> None:
    maillog, lines = log()
    for level, values in (
        ("may", {"smtp_tlsrpt_enable": "no"}),
        ("none", {"smtp_tlsrpt_enable": "yes"}),
        ("may", {"smtp_tlsrpt_enable": "yes"}),
        ("may", {"smtp_tlsrpt_enable": "yes", "disable_dns_lookups": "yes"}),
    ):
        assert Reporter.build(parameters(**values), level, Answers(), maillog) is None  # type: ignore[arg-type]
    assert len(lines) == 2


def test_only_the_first_word_counts(tmp_path: Path) -> None:
    found, lines = report(tmp_path)
    found.failure("validation-failure")  # no connection yet
    found.begin(HOST, Policy("may"), None)
    found.failure("starttls-not-supported")
    found.success()
    found.failure("validation-failure")
    (record,) = records(tmp_path)
    assert record["time"] == 1
    assert record["policies"] == [
        {
            "policy-type": 9,
            "policy-domain": "d.example",
            "failure-details": [{"c": 201, "n": "mx.d.example", "r": "192.0.2.1"}],
            "t": 1,
            "f": 1,
        }
    ]
    where = "domain=d.example, receiving_mx=mx.d.example[192.0.2.1]"
    assert texts(lines) == [f"TLSRPT: status=failure, {where}, failure_type=starttls_not_supported"]
    found.begin(HOST, Policy("may"), None)  # the next connection
    found.finished(GOOD, True, "")
    assert records(tmp_path)[1]["policies"] == [
        {"policy-type": 9, "policy-domain": "d.example", "t": 0, "f": 0}
    ]


def test_what_another_found_wrong_goes_before_what_we_find(tmp_path: Path) -> None:
    found, _ = report(tmp_path)
    policy = Policy("secure", external=External("sts", failure="sts-policy-invalid"))
    for problem, code in (("sts-policy-invalid", 302), ("", 203)):
        found.begin(HOST, policy, None)
        found.finished(replace(GOOD, verified=False), True, problem)
        (details,) = records(tmp_path)[-1]["policies"][0]["failure-details"]
        assert details["c"] == code


def test_policies(tmp_path: Path) -> None:
    found, _ = report(tmp_path)
    dane = Policy("dane", anchors=(Tlsa(3, 1, 1, b"\xab\xcd"),), base_domain="mx.d.example")
    sts = Policy("secure", external=External("sts", "", ("mode: enforce",), ("*.d.example",)))
    for policy in (dane, sts):
        found.begin(HOST, policy, None)
        found.success()
    first, second = (record["policies"][0] for record in records(tmp_path))
    assert first["policy-string"] == ["3 1 1 ABCD"]
    assert (first["policy-type"], first["policy-domain"]) == (1, "mx.d.example")
    assert (second["policy-type"], second["mx-host"]) == (2, ["*.d.example"])


def test_resumed_sessions_need_no_word(tmp_path: Path) -> None:
    again = replace(GOOD, reused=True)
    for skip, count in (("no", 1), ("yes", 1)):
        found, _ = report(tmp_path, smtp_tlsrpt_skip_reused_handshakes=skip)
        found.begin(HOST, Policy("may"), None)
        found.finished(again, False, "")
        assert len(records(tmp_path)) == count


def test_what_cannot_be_sent_is_a_warning(tmp_path: Path) -> None:
    found, lines = report(tmp_path, smtp_tlsrpt_socket_name=str(tmp_path / "none"))
    found.begin(HOST, Policy("may"), None)
    found.success()
    text = "Could not report TLS handshake result to tlsrpt library: No such file or directory (errno 2)"
    assert texts(lines)[1] == f"warning: {text}"


def test_the_datagram(tmp_path: Path) -> None:
    """As libtlsrpt writes it, but for the order within an object."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as collector:
        collector.bind(str(tmp_path / "rpt"))
        found, _ = report(tmp_path, mtad_tlsrpt_file="", smtp_tlsrpt_socket_name=str(tmp_path / "rpt"))
        found.begin(HOST, Policy("may"), None)
        found.success()
        assert collector.recv(9999) == (
            b'{"dpv":"1","d":"d.example","pr":"v=TLSRPTv1; rua=mailto:x@d.example",'
            b'"policies":[{"policy-type":9,"policy-domain":"d.example","t":0,"f":0}]}'
        )


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (openssl.VERIFY_HOSTNAME_MISMATCH, "certificate-host-mismatch", ""),
        (openssl.VERIFY_EXPIRED, "certificate-expired", ""),
        (openssl.VERIFY_SELF_SIGNED, "validation-failure", "self-signed_certificate"),
        (openssl.VERIFY_DANE_NO_MATCH, "certificate-not-trusted", ""),
        (openssl.VERIFY_OK, "certificate-not-trusted", ""),
    ],
)
def test_failures_of_certificates(error: int, kind: str, reason: str) -> None:
    info = TLSInfo("TLSv1.3", "X", 256, 256, peer_present=True, verify_error=error)
    assert failure_of(info) == (kind, reason)
    assert kind in FAILURES
    assert failure_of(TLSInfo("TLSv1.3", "X", 256, 256)) == ("certificate-not-trusted", "")
