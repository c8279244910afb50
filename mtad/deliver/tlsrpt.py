"""TLSRPT: what came of TLS with a domain that wants reports about it, told to who collects them.

:class:`Reporter` looks for the domain's record ``_smtp._tls.domain`` and gives a :class:`Report` for one
delivery, which is told the policy, the connection and at last :meth:`Report.success` or
:meth:`Report.failure`; only the first of these counts for a connection.  It goes as a datagram of JSON to
``smtp_tlsrpt_socket_name``, in the form of libtlsrpt's protocol version 1, which tlsrpt-collectd understands;
or as a line of the same JSON with the time to ``mtad_tlsrpt_file``.  Nothing is raised: what can't be sent is
told to the log.

RFC 8460.  Postfix counterpart: ``smtp_tlsrpt.c``, ``tlsrpt_wrapper.c``, and libtlsrpt.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Callable
from typing import Any

from mtad.config.parameters import Parameters
from mtad.deliver.names import DISABLED, dns_support
from mtad.deliver.nexthop import Host
from mtad.maillog import MailLog, printable
from mtad.net import openssl
from mtad.net.dns import DnsError, DnsStatus, Resolver, to_ascii
from mtad.net.lookup import is_address
from mtad.net.tls_info import TLSInfo
from mtad.net.tls_policy import Policy

_RECORD = re.compile(rb"v=TLSRPTv1([ \t]*;)?")

#: libtlsrpt's numbers: of policy types ...
_TLSA, _STS, _NONE = 1, 2, 9
#: ... and of failures, by RFC 8460's names (section 4.3)
FAILURES = {
    "starttls-not-supported": 201,
    "certificate-host-mismatch": 202,
    "certificate-not-trusted": 203,
    "certificate-expired": 204,
    "validation-failure": 205,
    "sts-policy-fetch-error": 301,
    "sts-policy-invalid": 302,
    "sts-webpki-invalid": 303,
    "tlsa-invalid": 304,
    "dnssec-invalid": 305,
    "dane-required": 306,
}

#: OpenSSL's results that are told as they are
_CHAIN_ERRORS = (
    openssl.VERIFY_SELF_SIGNED,
    openssl.VERIFY_SELF_SIGNED_IN_CHAIN,
    openssl.VERIFY_NO_ISSUER,
    openssl.VERIFY_NOT_YET_VALID,
    openssl.VERIFY_WRONG_PURPOSE,
    openssl.VERIFY_CHAIN_TOO_LONG,
)


class Reporter:
    """The reports of one transport."""

    def __init__(
        self, p: Parameters, resolver: Resolver, log: MailLog, clock: Callable[[], float] = time.time
    ) -> None:
        self._resolver = resolver
        self._log = log
        self._clock = clock
        self._socket_name = p["smtp_tlsrpt_socket_name"]
        self._directory = p["queue_directory"]
        self._file = p["mtad_tlsrpt_file"]
        self.skip_reused = p.flag("smtp_tlsrpt_skip_reused_handshakes")

    @classmethod
    def build(cls, p: Parameters, level: str, resolver: Resolver, log: MailLog) -> Reporter | None:
        """What ``smtp_tlsrpt_enable`` asks for; ``level``: main.cf's TLS level."""
        if not p.flag("smtp_tlsrpt_enable") or level == "none":
            return None
        if dns_support(p) == DISABLED:
            log.warning("Cannot enable TLSRPT support: DNS is disabled")
            return None
        if not (p["smtp_tlsrpt_socket_name"] or p["mtad_tlsrpt_file"]):
            text = "parameter smtp_tlsrpt_socket_name has empty value -- TLSRPT support will be disabled"
            log.warning(f"TLSRPT support: {text}")
            return None
        return cls(p, resolver, log)

    async def report(self, domain: str) -> Report | None:
        """A report for a delivery to ``domain``; None where nobody wants one."""
        if is_address(domain):
            return None
        name = to_ascii(domain)
        try:
            texts = await self._resolver.txt(f"_smtp._tls.{name}")
        except DnsError as error:
            if error.status is not DnsStatus.NOT_FOUND:
                self._log.warning(f"TLSRPT support: policy lookup failed for {name}: {error.text}")
            return None
        ours: list[str] = []
        for text in texts:
            match = _RECORD.match(text)
            if match is not None and match[1]:
                ours.append(text.decode("utf-8", "replace"))
            elif match is not None:
                shown = printable(text.decode("utf-8", "replace"))
                self._log.warning(f'TLSRPT support: ignoring malformed policy for {name}:, "{shown}"')
        if len(ours) > 1:
            self._log.warning(f"TLSRPT support: Too many TLSRPT policies for {name}")
        return Report(self, name, ours[0]) if len(ours) == 1 else None

    def send(self, record: dict[str, Any], head: str) -> None:
        """Hand a record over; ``head`` is the log's line."""
        self._log.info(head)
        try:
            if self._file:
                self._append(record)
            if self._socket_name:
                self._datagram(record)
        except OSError as error:
            reason = f"{error.strerror} (errno {error.errno})"
            self._log.warning(f"Could not report TLS handshake result to tlsrpt library: {reason}")

    def _append(self, record: dict[str, Any]) -> None:
        line = json.dumps({"time": int(self._clock()), **record}) + "\n"
        descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def _datagram(self, record: dict[str, Any]) -> None:
        path = os.path.join(self._directory, self._socket_name)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            sender.sendto(json.dumps(record, separators=(",", ":")).encode(), path)


class Report:
    """Of the connections of one delivery to a domain that has a record."""

    def __init__(self, reporter: Reporter, domain: str, record: str) -> None:
        self._reporter = reporter
        self._domain = domain
        self._record = record
        self._host: Host | None = None
        self._policy: dict[str, Any] = {}
        self._connection: dict[str, str] = {}
        self.reported = True  # there is no connection yet

    def begin(self, host: Host, policy: Policy, ours: Any) -> None:
        """There is a connection to ``host``; ``ours``: its address on our side."""
        self._host = host
        self._policy = _policy(policy, self._domain)
        self._connection = {"n": host.name, "r": host.address}
        if isinstance(getattr(ours, "host", None), str):
            self._connection["s"] = ours.host
        self.reported = False

    def greeted(self, reply: str) -> None:
        """The server's answer to EHLO, before TLS; its lines end in CRLF."""
        self._connection["h"] = reply

    def failure(self, kind: str, reason: str = "") -> None:
        """TLS failed; ``kind`` is RFC 8460's name for it."""
        if self.reported or self._host is None:
            return
        self.reported = True
        connection = self._connection
        details: dict[str, Any] = {"c": FAILURES[kind]}
        details |= {key: connection[key] for key in ("s", "n", "h", "r") if key in connection}
        if reason:
            details["f"] = reason
        text = f", failure_reason={reason}" if reason else ""
        self._send(
            1, f"status=failure, {self._where}, failure_type={kind.replace('-', '_')}{text}", [details]
        )

    def success(self) -> None:
        """TLS was as the policy wants it."""
        if self.reported or self._host is None:
            return
        self.reported = True
        self._send(0, f"status=success, {self._where}", [])

    def finished(self, info: TLSInfo, enforced: bool, problem: str) -> None:
        """A handshake is done.  ``enforced``: the certificate had to match; ``problem``: why it is not
        used."""
        if info.reused and self._reporter.skip_reused:
            self.reported = True
            return
        if problem:
            self.failure(problem)
        elif enforced and not info.verified:
            self.failure(*failure_of(info))
        else:
            self.success()

    @property
    def _where(self) -> str:
        assert self._host is not None
        return f"domain={self._domain}, receiving_mx={self._host.name}[{self._host.address}]"

    def _send(self, final: int, text: str, details: list[dict[str, Any]]) -> None:
        policy = dict(self._policy)
        if details:
            policy["failure-details"] = details
        policy |= {"t": len(details), "f": final}
        record = {"dpv": "1", "d": self._domain, "pr": self._record, "policies": [policy]}
        self._reporter.send(record, f"TLSRPT: {text}")


def _policy(policy: Policy, domain: str) -> dict[str, Any]:
    external = policy.external
    if policy.dane:
        strings = [str(record) for record in policy.anchors]
        return {"policy-type": _TLSA, "policy-domain": policy.base_domain, "policy-string": strings}
    if external is None or external.kind != "sts":
        return {"policy-type": _NONE, "policy-domain": domain}
    found: dict[str, Any] = {"policy-type": _STS, "policy-domain": external.domain or domain}
    if external.strings:
        found["policy-string"] = list(external.strings)
    if external.patterns:
        found["mx-host"] = list(external.patterns)
    return found


def failure_of(info: TLSInfo) -> tuple[str, str]:
    """Why a certificate does not do: RFC 8460's name for it, and details."""
    if not info.peer_present:
        return "certificate-not-trusted", ""
    match info.verify_error:
        case openssl.VERIFY_HOSTNAME_MISMATCH:
            return "certificate-host-mismatch", ""
        case openssl.VERIFY_EXPIRED:
            return "certificate-expired", ""
        case error if error in _CHAIN_ERRORS:
            return "validation-failure", openssl.verify_text(error).replace(" ", "_")
    return "certificate-not-trusted", ""
