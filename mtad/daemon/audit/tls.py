"""Settings of TLS that come to less than they look like: DANE without DNSSEC, verification without
authorities.

Postfix counterpart: none; its SMTP client warns at each delivery, of some of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from mtad.config.lint import WARNING, Finding
from mtad.config.parameters import Parameters
from mtad.net.resolv_conf import ResolvConf
from mtad.net.tls_policy import DANE_LEVELS, PKIX_LEVELS, client_level

RESOLV_CONF = "/etc/resolv.conf"


def findings(p: Parameters, resolv_conf: str = RESOLV_CONF) -> Iterator[Finding]:
    """What an operator would not expect of main.cf's settings."""
    level = client_level(p)
    dnssec = p.choice("smtp_dns_support_level") == "dnssec"
    if level in DANE_LEVELS and not dnssec:
        instead = 'TLS without DANE ("may")' if level == "dane" else "no delivery at all"
        text = f"it comes to {instead}, unless smtp_dns_support_level = dnssec"
        yield _warning(p, "smtp_tls_security_level", text)
    if dnssec and not _trusting(resolv_conf):
        text = f"no answer counts as secure: {resolv_conf} lacks the line 'options trust-ad'"
        yield _warning(p, "smtp_dns_support_level", text)
    authorities = ("smtp_tls_CAfile", "smtp_tls_CApath", "smtp_tls_trust_anchor_file")
    if level in PKIX_LEVELS and not any(p[name] for name in authorities):
        text = "no server is trusted: set smtp_tls_CApath (/etc/ssl/certs) or smtp_tls_CAfile"
        yield _warning(p, "smtp_tls_security_level", text)
    if p.flag("mtad_mta_sts") and level == "none":
        yield _warning(p, "mtad_mta_sts", "it counts for nothing at smtp_tls_security_level = none; use may")
    collected = p["smtp_tlsrpt_socket_name"] or p["mtad_tlsrpt_file"]
    if p.flag("smtp_tlsrpt_enable") and not collected:
        text = "nothing is reported: set smtp_tlsrpt_socket_name or mtad_tlsrpt_file"
        yield _warning(p, "smtp_tlsrpt_enable", text)


def _trusting(path: str) -> bool:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return ResolvConf.parse(file.read(1 << 16)).trust_ad
    except OSError:
        return False


def _warning(p: Parameters, parameter: str, text: str) -> Finding:
    path, line = p.where(parameter)
    return Finding(WARNING, path, line, parameter, text)
