"""Lint: each kind of finding, with its place, and a stock configuration without any."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtad.config.lint import Finding, lint
from mtad.config.master_cf import read_master_cf
from mtad.config.parameters import Parameters

MASTER = """\
submission inet n - y - - smtpd
  -o smtpd_tls_security_level=encrypt -o syslog_name=postfix/submission
smtp unix - - y - - smtp
qmgr unix n - n 300 1 qmgr
"""

#: What Debian 12 writes for a submission host.
STOCK = """\
smtpd_banner = $myhostname ESMTP $mail_name (Debian/GNU)
biff = no
append_dot_mydomain = no
readme_directory = no
compatibility_level = 3.6
smtpd_tls_cert_file=/etc/ssl/certs/ssl-cert-snakeoil.pem
smtpd_tls_key_file=/etc/ssl/private/ssl-cert-snakeoil.key
smtpd_tls_security_level=may
smtp_tls_CApath=/etc/ssl/certs
smtp_tls_security_level=may
smtp_tls_session_cache_database = btree:${data_directory}/smtp_scache
smtpd_relay_restrictions = permit_mynetworks permit_sasl_authenticated defer_unauth_destination
myhostname = mail.example.com
alias_maps = hash:/etc/aliases
alias_database = hash:/etc/aliases
myorigin = $mydomain
mydestination = $myhostname, localhost
relayhost = [smarthost.example.com]:587
mynetworks = 127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128
mailbox_size_limit = 0
recipient_delimiter = +
inet_interfaces = all
inet_protocols = all
smtp_sasl_auth_enable = yes
smtp_sasl_password_maps = hash:/etc/postfix/sasl_passwd
smtp_sasl_security_options = noanonymous
smtpd_sasl_auth_enable = yes
smtpd_sender_login_maps = hash:/etc/postfix/senders
"""


def findings(directory: Path, main: str, master: str = MASTER) -> list[Finding]:
    (directory / "main.cf").write_text(main)
    (directory / "master.cf").write_text(master)
    warnings: list[str] = []
    services = read_master_cf(f"{directory}/master.cf", warnings)
    return lint(Parameters.load(str(directory)), services, warnings)


def test_a_stock_configuration_is_clean(tmp_path: Path) -> None:
    assert findings(tmp_path, STOCK) == []


@pytest.mark.parametrize(
    ("line", "severity", "parameter", "text"),
    [
        ("smtpd_timeout = 5x", "error", "smtpd_timeout", "bad time value or unit: 5x (specify"),
        ("soft_bounce = maybe", "error", "soft_bounce", "bad boolean configuration"),
        ("always_bcc = ${x", "error", "always_bcc", "truncated macro reference"),
        ("mail_owner = $(x", "error", "mail_owner", "truncated macro reference"),
        ("smtpd_restriction_classes = {a", "error", "smtpd_restriction_classes", "unbalanced braces"),
        ("smtpd_sasl_auth_enabel = yes", "warning", "smtpd_sasl_auth_enabel", '"smtpd_sasl_auth_enable"?'),
        ("xyzzy = yes", "warning", "xyzzy", "unused parameter: nothing reads it"),
        ("smtpd_banner = $mail_nam x", "warning", "", '$mail_nam is not defined, and stands for nothing ('),
        ("virtual_maps = hash:/x", "warning", "virtual_maps", 'instead, specify "virtual_alias_maps"'),
        ("process_id = 1", "warning", "", "read-only parameter assignment"),
        ("mydestination = a # b", "warning", "mydestination", "does not begin a comment"),
        ("lmtp_tls_enable_rpk = yes", "warning", "lmtp_tls_enable_rpk", "does not implement it: pyOpenSSL"),
        ("soft_bounce = no\nsoft_bounce = yes", "warning", "", "overriding earlier entry: soft_bounce=no"),
    ],
)  # fmt: skip
def test_findings_of_main_cf(tmp_path: Path, line: str, severity: str, parameter: str, text: str) -> None:
    found = findings(tmp_path, f"compatibility_level = 3.6\n{line}\n")
    matching = [finding for finding in found if text in finding.text or text in str(finding)]
    assert matching, found
    assert (matching[0].severity, matching[0].parameter) == (severity, parameter)
    assert f"{tmp_path}/main.cf" in str(matching[0])
    assert len(found) == 1, found


def test_a_default_written_out_is_no_finding(tmp_path: Path) -> None:
    text = """\
compatibility_level = 3.6
always_bcc =
canonical_classes = envelope_sender,envelope_recipient header_sender header_recipient
body_checks = $nested_header_checks
"""
    assert findings(tmp_path, text) == []


def test_level_is_missing(tmp_path: Path) -> None:
    (found,) = findings(tmp_path, "")
    assert (found.severity, found.parameter) == ("warning", "compatibility_level")


def test_master_cf(tmp_path: Path) -> None:
    master = MASTER + (
        "submissions inet n - y - - smtpd -o smtpd_tls_wrapermode=yes -o soft_bounce=x"
        " -o lmtp_tls_enable_rpk=yes\n"
        "smtp inet n - y - 1 postscreen\nlmtp unix - - y - - lmtp\n"
        "maildrop unix - n n - - pipe user=a argv=b\n"
        "policy unix - n n - - spawn\n2007 inet n n n - - spawn\nqmgr unix n - n 300 1 qmgr\n"
    )
    found = findings(tmp_path, "compatibility_level = 3.6\n", master)
    path = f"{tmp_path}/master.cf"
    assert [str(finding) for finding in found if finding.severity != "note"] == [
        f"{path}, line 5: parameter soft_bounce: bad boolean configuration: soft_bounce = x "
        '(specify "yes" or "no")',
        f'{path}, line 11: duplicate master.cf entry for service "qmgr" (unix) -- using the last entry',
        f"{path}, line 5: parameter lmtp_tls_enable_rpk: mtad does not implement it: pyOpenSSL knows no raw "
        "public keys (RFC 7250); certificates are used",
        f"{path}, line 5: parameter smtpd_tls_wrapermode: unused parameter: nothing reads it "
        '(did you mean "smtpd_tls_wrappermode"?)',
    ]
    assert [str(finding) for finding in found if finding.severity == "note"] == [
        f"{path}: services that mtad does not run: pipe (maildrop/unix), "
        "postscreen (smtp/inet), spawn (2007/inet)"
    ]


def test_nothing_to_listen_on(tmp_path: Path) -> None:
    (found,) = findings(tmp_path, "compatibility_level = 3.6\n", "qmgr unix n - n 300 1 qmgr\n")
    assert found.severity == "error"
    assert "nothing to listen on" in str(found)


def test_names_of_the_operator_are_used_where_they_are_mentioned(tmp_path: Path) -> None:
    main = """\
compatibility_level = 3.6
mua_client_restrictions = permit_sasl_authenticated, reject
smtpd_restriction_classes = strict
strict = reject
virtual_alias_maps = ldap:accounts
accounts_server_host = ldap.example.com
slow_destination_concurrency_limit = 1
"""
    master = MASTER + (
        "slow unix - - n - - smtp\n"
        "other inet n - n - - smtpd -o smtpd_client_restrictions=$mua_client_restrictions"
        " -o local_name=x -o smtpd_banner=$local_name\n"
    )
    assert findings(tmp_path, main, master) == []
