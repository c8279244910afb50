"""What check says of TLS settings that come to less than they look like."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.net.net_pki import parameters

from mtad.daemon.audit.tls import findings


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"smtp_tls_security_level": "may"}, []),
        ({"smtp_tls_security_level": "dane"}, ["TLS without DANE"]),
        ({"smtp_tls_security_level": "dane-only"}, ["no delivery at all"]),
        ({"smtp_tls_security_level": "dane", "smtp_dns_support_level": "dnssec"}, []),
        ({"smtp_tls_security_level": "verify"}, ["no server is trusted"]),
        ({"smtp_tls_security_level": "secure", "smtp_tls_CApath": "/etc/ssl/certs"}, []),
        ({"smtp_tls_security_level": "none", "mtad_mta_sts": "yes"}, ["counts for nothing"]),
        ({"smtp_tls_security_level": "may", "mtad_mta_sts": "yes"}, []),
        ({"smtp_tlsrpt_enable": "yes"}, ["nothing is reported"]),
        ({"smtp_tlsrpt_enable": "yes", "mtad_tlsrpt_file": "/x"}, []),
    ],
)
def test_findings(tmp_path: Path, values: dict[str, str], words: list[str]) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("options trust-ad\n")
    found = [finding.text for finding in findings(parameters(**values), str(conf))]
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found, strict=True))


def test_a_resolver_that_is_not_trusted(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    p = parameters(smtp_tls_security_level="dane", smtp_dns_support_level="dnssec")
    for text in (None, "nameserver 192.0.2.1\n"):
        if text is not None:
            conf.write_text(text)
        (finding,) = findings(p, str(conf))
        assert "lacks the line 'options trust-ad'" in finding.text
