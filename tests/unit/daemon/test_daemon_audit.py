"""What ``mtad check`` says of whole configurations: every kind of finding, and none where all is well."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from mtad.cli.lifecycle import run
from mtad.config.lint import ERROR, NOTE, WARNING, Finding
from mtad.config.parameters import table
from mtad.daemon.plan import inspect, make_plan
from mtad.errors import ConfigError
from mtad.net.certificates import make_self_signed
from mtad.tables.bdb_write import write_hash

MAIN = """\
compatibility_level = 3.6
myhostname = mail.example.com
mydestination =
mynetworks = 127.0.0.0/8 [::1]/128
smtpd_relay_restrictions = permit_mynetworks permit_sasl_authenticated reject
"""
UNKNOWN = 'unknown smtpd restriction: "%s": clients will get 451 4.3.5 Server configuration error'
SUBMISSION = "submission inet n - n - - smtpd\n"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    (tmp_path / "sasl").mkdir()
    (tmp_path / "sasl/smtpd.conf").write_text("pwcheck_method: saslauthd\nmech_list: PLAIN LOGIN\n")
    make_self_signed("mail.example.com", f"{tmp_path}/cert.pem", f"{tmp_path}/key.pem")
    return tmp_path


def check(host: Path, extra: str = "", master: str = SUBMISSION) -> list[Finding]:
    main = MAIN + f"cyrus_sasl_config_path = {host}/sasl\n" + extra
    (host / "main.cf").write_text(main)
    (host / "master.cf").write_text(master)
    return inspect(str(host))


def texts(found: list[Finding], severity: str) -> list[str]:
    return [str(finding) for finding in found if finding.severity == severity]


def secure(host: Path) -> str:
    return (
        f"smtpd_tls_cert_file = {host}/cert.pem\nsmtpd_tls_key_file = {host}/key.pem\n"
        "smtpd_sasl_auth_enable = yes\nsmtpd_tls_security_level = encrypt\n"
    )


def test_nothing_but_what_sasl_decided(host: Path) -> None:
    found = check(host, secure(host))
    assert texts(found, ERROR) == texts(found, WARNING) == []
    (note,) = texts(found, NOTE)
    assert note.startswith(f"SASL: {host}/sasl/smtpd.conf; passwords are checked by saslauthd (")
    assert note.endswith("mechanisms: PLAIN LOGIN")
    assert make_plan(str(host)).findings == found


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ("smtpd_sasl_auth_enable = yes\n", "service submission has no TLS: passwords (AUTH PLAIN LOGIN)"),
        ("", "service submission is for submission, and has no TLS"),
        ("smtpd_sasl_auth_enable = yes\nsmtpd_tls_auth_only = yes\n", "service submission never offers AUTH"),
        (
            "TLS smtpd_tls_security_level = may\n",
            "service submission offers AUTH PLAIN LOGIN before STARTTLS",
        ),
        ("TLS smtpd_tls_wrappermode = yes\n", "service submission listens on port 587, where clients speak"),
    ],
)
def test_tls(host: Path, extra: str, says: str) -> None:
    found = check(host, extra.replace("TLS ", secure(host)))
    assert [text for text in texts(found, WARNING) if "overriding" not in text] == [
        text for text in texts(found, WARNING) if f"{host}/master.cf, line 1: {says}" in text
    ]
    assert texts(found, ERROR) == []


def test_restrictions_are_told_with_their_place_whatever_else_is_wrong(host: Path) -> None:
    lists = "smtpd_client_restrictions =\n  check_client_access nosuch:x, permit_mynetwork\ngone =\n"
    lists += "smtpd_restriction_classes = gone\n"
    service = "submission inet n - n - - smtpd\n  -o smtpd_helo_restrictions=rejected\n"
    found = check(host, secure(host) + lists, service)
    assert [(one.path, one.line, one.parameter, one.text.split(" (")[0]) for one in found[:4]] == [
        (f"{host}/main.cf", 14, "smtpd_restriction_classes", "restriction class `gone' needs a definition"),
        (f"{host}/main.cf", 11, "smtpd_client_restrictions", "unsupported dictionary type: nosuch"),
        (f"{host}/main.cf", 11, "smtpd_client_restrictions", UNKNOWN % "permit_mynetwork"),
        (f"{host}/master.cf", 1, "smtpd_helo_restrictions", UNKNOWN % "rejected"),
    ]
    found = check(host, "smtpd_timeout = 5 parsecs\nsmtpd_client_restrictions = permit_mynetwork\n")
    assert [(one.line, one.parameter) for one in found[:2]] == [
        (7, "smtpd_timeout"),
        (8, "smtpd_client_restrictions"),
    ]


def test_port_465(host: Path) -> None:
    found = check(host, secure(host), "submissions inet n - n - - smtpd\n")
    assert "service submissions listens on port 465, where clients begin TLS at once" in str(found[0])
    wrapped = "submissions inet n - n - - smtpd -o smtpd_tls_wrappermode=yes\n"
    assert texts(check(host, secure(host), wrapped), WARNING) == []


def test_nobody_can_listen_to_the_loopback_interface(host: Path) -> None:
    found = check(host, "smtpd_sasl_auth_enable = yes\n", "127.0.0.1:587 inet n - n - - smtpd\n")
    assert texts(found, WARNING) == []


@pytest.mark.parametrize(
    ("extra", "is_open"),
    [
        ("smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination\n", False),
        ("mynetworks = 0.0.0.0/0\n", True),
        ("mynetworks = [::]/0\n", True),
        ("relay_domains = static:all\nsmtpd_relay_restrictions = reject_unauth_destination\n", True),
        ("smtpd_relay_restrictions = check_sender_access static:OK, reject\n", True),
        ("smtpd_relay_restrictions =\nsmtpd_recipient_restrictions = permit_mynetworks, reject\n", False),
    ],
)
def test_open_relay(host: Path, extra: str, is_open: bool) -> None:
    found = check(host, secure(host) + extra)
    said = [text for text in texts(found, WARNING) if "is an open relay" in text]
    assert bool(said) is is_open
    assert texts(found, ERROR) == []


def test_a_bad_network_is_an_error_with_its_place(host: Path) -> None:
    (text,) = texts(check(host, "mynetworks = 127.0.0.0/8 10.1.0.0/8\n"), ERROR)
    assert text.startswith(f"{host}/main.cf, line 7: parameter mynetworks: non-null host address bits in")
    assert '"10.0.0.0/8"' in text
    with pytest.raises(ConfigError, match="line 7"):
        make_plan(str(host))
    (text,) = texts(check(host, "mynetworks = ::1/128\n"), ERROR)
    assert "write an IPv6 address as [::1/128]" in text


def test_tables(host: Path) -> None:
    for name in ("senders", "aliases", "twice"):
        (host / name).write_text("a@b.example c\n")
        write_hash(f"{host}/{name}.db", [(b"a@b.example\0", b"c\0")])
        os.utime(f"{host}/{name}", (1e9, 1e9))
    (host / "twice.cdb").write_bytes((host / "twice.db").read_bytes())
    os.utime(host / "twice.cdb", (1.1e9, 1.1e9))
    os.utime(host / "senders", (2e9, 2e9))
    found = check(
        host,
        secure(host)
        + f"smtpd_sender_login_maps = proxy:hash:{host}/senders\n"
        + f"virtual_alias_maps = hash:{host}/aliases, hash:{host}/nothing\n"
        + f"virtual_mailbox_maps = hash:{host}/twice\n",
        SUBMISSION + "virtual unix - n n - - virtual\n",
    )
    said = texts(found, WARNING)
    place = f"{host}/main.cf, line"
    assert any(
        text.startswith(
            f"{place} 11: parameter smtpd_sender_login_maps: the index {host}/senders.db is older"
        )
        and text.endswith(f"(run: mtad postmap hash:{host}/senders)")
        for text in said
    )
    assert any(
        text.startswith(f"{place} 12: parameter virtual_alias_maps: open database {host}/nothing.db: No such")
        for text in said
    )
    assert any(
        f"more than one index: {host}/twice.db is the newest and serves, {host}/twice.cdb does not" in text
        for text in said
    )
    assert len(said) == 3, said
    assert texts(found, ERROR) == []


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("/etc/postfix/virtual", 'expecting "type:name" form instead of "/etc/postfix/virtual"'),
        ("hahs:/etc/postfix/virtual", "unsupported dictionary type: hahs"),
        ("inline:{x}", "missing '=' after attribute name"),
    ],
)
def test_what_is_no_table(host: Path, value: str, says: str) -> None:
    (text,) = texts(check(host, secure(host) + f"virtual_alias_maps = {value}\n"), ERROR)
    assert text.startswith(f"{host}/main.cf, line 11: parameter virtual_alias_maps: ")
    assert says in text


def test_a_bad_rule(host: Path) -> None:
    (host / "rules").write_text("/(/ x\n/a/ b\n")
    found = check(host, secure(host) + f"virtual_alias_maps = regexp:{host}/rules\n")
    (text,) = texts(found, WARNING)
    assert text.startswith(f"regexp map {host}/rules, line 1: ")


def test_modes(host: Path) -> None:
    (host / "passwords").write_text("[smart.example] user:secret\n")
    (host / "passwords").chmod(0o644)
    (host / "key.pem").chmod(0o644)
    (host / "sasl/smtpd.conf").write_text("pwcheck_method: saslauthd\nmech_list: PLAIN\nsql_passwd: x\n")
    found = check(host, secure(host) + f"smtp_sasl_password_maps = texthash:{host}/passwords\n")
    (host / "main.cf").chmod(0o666)
    said = [re.sub(r".*: (?=/)", "", text) for text in texts(inspect(str(host)), WARNING)]
    assert said == [
        f"{host}/main.cf (chmod go-w {host}/main.cf)",
        f"{host}/passwords can be read by everyone on this host, and it holds passwords "
        f"(chmod o= {host}/passwords)",
        f"{host}/key.pem can be read by everyone on this host, and it holds a private key "
        f"(chmod o= {host}/key.pem)",
        f"{host}/sasl/smtpd.conf can be read by everyone on this host, and it holds a password "
        f"(chmod o= {host}/sasl/smtpd.conf)",
    ]
    assert "secret" not in "".join(map(str, found))


def test_certificates(host: Path) -> None:
    make_self_signed("old.example.com", f"{host}/old.pem", f"{host}/old.pem", days=0)
    found = check(host, secure(host) + f"smtp_tls_cert_file = {host}/old.pem\n")
    (text,) = texts(found, WARNING)
    assert "smtp_tls_cert_file: certificate CN=old.example.com" in text
    assert "expired on" in text
    for side, line in (("smtpd", 7), ("smtp", 11)):
        other = secure(host).replace("key.pem", "old.pem") if side == "smtpd" else secure(host)
        if side == "smtp":
            other += f"smtp_tls_cert_file = {host}/cert.pem\nsmtp_tls_key_file = {host}/old.pem\n"
        (text,) = texts(check(host, other), ERROR)
        assert text.startswith(f"{host}/main.cf, line {line}: parameter {side}_tls_cert_file: ")
        assert "does not match the certificate" in text


def test_smtpd_conf(host: Path) -> None:
    (host / "sasl/smtpd.conf").write_text(
        "pwcheck_method: saslauthd\nmech_list: PLAIN\nsrvtab: x\nmech_lst: LOGIN\nplugin_list: x\n"
    )
    found = check(host, secure(host))
    path = f"{host}/sasl/smtpd.conf"
    assert texts(found, WARNING) == [
        f'{path}: option mech_lst is unknown: nothing reads it (did you mean "mech_list"?)'
    ]
    assert texts(found, NOTE)[1:] == [
        f"{path}: option srvtab is not used here (it is for KERBEROS_V4)",
        f"{path}: option plugin_list is not used here (it is for debugging)",
    ]


def test_all_errors_are_told_and_first(host: Path) -> None:
    found = check(
        host,
        "smtpd_timeout = 5x\nsmtp_helo_timeout = 5x\nalways_bcc = ${x\nmynetworks = 1.2.3.4/33\nfoo = bar\n",
    )
    assert {finding.parameter for finding in found if finding.severity == ERROR} == {
        "smtpd_timeout",
        "smtp_helo_timeout",
        "mynetworks",
        "always_bcc",
    }
    severities = [finding.severity for finding in found]
    assert severities == sorted(severities, key=[ERROR, WARNING, NOTE].index)


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ("smtpd_tls_security_level = mayy", 'unknown value: "mayy" (did you mean "may"?)'),
        ("message_size_limit = 1k", "bad numerical configuration: message_size_limit = 1k (specify digits"),
    ],
)
def test_a_value_that_is_not_of_its_type_is_one_error(host: Path, extra: str, says: str) -> None:
    (text,) = texts(check(host, extra + "\n"), ERROR)
    assert says in text


def test_exit_status_and_json(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(host, secure(host) + "foo = bar\n")
    assert run("check", str(host), ["--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"severity", "path", "line", "parameter", "text"} == set(told[0])
    assert told[0]["parameter"] == "foo"
    assert run("check", str(host), []) == 0
    assert "mtad: warning: " in capsys.readouterr().err
    check(host, "soft_bounce = x\n")
    assert run("check", str(host), []) == 1
    assert "mtad: error: " in capsys.readouterr().err


@pytest.mark.parametrize("value", ["x y", "${x", "-1", "{", "inline:{a}", "!"])
def test_whatever_is_written_is_told_and_nothing_breaks(host: Path, value: str) -> None:
    names = [name for name, row in table().items() if row.status == "honoured" and "directory" not in name]
    extra = "".join(f"{name} = {value}\n" for name in names)
    found = check(host, extra, SUBMISSION + "  -o smtpd_sasl_auth_enable=yes\n")
    assert texts(found, ERROR)
    for name in ("smtpd_sasl_auth_enable", "smtpd_tls_cert_file", "mynetworks", "smtpd_relay_restrictions"):
        assert check(host, f"{name} = {value}\n")


def test_no_main_cf(tmp_path: Path) -> None:
    (finding,) = inspect(str(tmp_path))
    assert finding.severity == ERROR


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("smtp:[127.0.0.1]:10025", ""),
        ("lmtp:unix:/run/filter", ""),
        ("scan:[127.0.0.1]:10025", ""),
        ("spamd:x", 'service "spamd" runs pipe, which mtad does not'),
        ("nobody:x", 'no service "nobody" in master.cf'),
    ],
)
def test_filters_that_would_keep_all_mail(host: Path, value: str, says: str) -> None:
    master = SUBMISSION + "scan unix - - n - - smtp\nspamd unix - n n - - pipe user=a argv=/x\n"
    said = texts(check(host, f"content_filter = {value}\n", master), ERROR)
    assert [says in text for text in said] == ([True] if says else [])


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (
            "default_transport = uucp\n",
            'service "uucp" runs pipe, which mtad does not',
        ),
        (
            "relay_domains = x.example\nrelay_transport = maildrop\n",
            'no service "maildrop"',
        ),
        ("mydestination = x.example\nlocal_transport = lmtp:unix:private/x\n", ""),
        ("mydestination = x.example\n", ""),
        ("mydestination = x.example\nhome_mailbox = mbox\n", "no maildir"),
        ("mydestination = x.example\nmailbox_command = /usr/bin/procmail\n", "mtad runs no commands"),
        ("virtual_mailbox_domains = x.example\nvirtual_transport = dovecot\n", "dovecot"),
        (
            "transport_maps = inline:{a.example=smtp:x, b.example=uucp:x, c.example=:x, d.example=uucp}\n",
            'service "uucp" runs pipe, which mtad does not: mail for b.example waits in the queue',
        ),
        ("transport_maps = inline:{a.example=smtp:x, b.example=retry:}\n", ""),
        (
            "sender_dependent_default_transport_maps = inline:{a@b.example=none:x, c@d.example=DUNNO}\n",
            'no service "none": mail for a@b.example waits',
        ),
    ],
)
def test_transports_that_would_keep_mail(host: Path, extra: str, says: str) -> None:
    master = SUBMISSION + "uucp unix - n n - - pipe user=uucp\nlocal unix - n n - - local\n"
    found = check(host, secure(host) + extra, master)
    said = [finding for finding in found if "waits" in finding.text or "runs no commands" in finding.text]
    if not says:
        assert not said
        return
    severities = {finding.severity for finding in said if says in finding.text}
    assert severities == {ERROR if "runs pipe" in says else WARNING}
    assert make_plan(str(host)).findings == found  # and it starts all the same
