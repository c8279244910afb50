"""``mtad postconf`` and the installed ``postconf`` on the same files: the same output, the same warnings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mtad.cli.postconf import main

POSTCONF = shutil.which("postconf") or "/usr/sbin/postconf"

pytestmark = pytest.mark.skipif(
    not Path(POSTCONF).exists(), reason="needs Debian's postfix package for its postconf"
)

#: Names whose default or existence differs between Postfix 3.7 (Debian 12) and 3.11.
_CHANGED = """
    address_verify_map alias_database alias_maps import_environment mail_release_date mail_version
    milter_default_action postscreen_cache_map process_id proxy_read_maps service_name
    smtp_tls_dane_insecure_mx_policy smtp_tls_security_level smtpd_forbid_bare_newline
    smtpd_forbid_unauth_pipelining tls_eecdh_auto_curves tls_export_cipherlist tls_high_cipherlist
    tls_legacy_public_key_fingerprints tls_low_cipherlist tls_medium_cipherlist tls_null_cipherlist
    tlsproxy_client_policy_maps tlsproxy_client_security_level
    allow_srv_lookup_fallback default_cache_db_type force_mime_input_conversion full_name_encoding_charset
    ignore_srv_lookup_error lmtp_log_tls_feature_status lmtp_requiretls_policy
    lmtp_sasl_password_result_delimiter lmtp_tls_enable_rpk lmtp_tls_enforce_sts_mx_patterns
    lmtp_tlsrpt_enable lmtp_tlsrpt_skip_reused_handshakes lmtp_tlsrpt_socket_name maillog_file_permissions
    non_bdb_custom_mapping non_bdb_migration_allow_root_prefixes non_bdb_migration_allow_user_prefixes
    non_bdb_migration_level non_bdb_migration_log_redirect non_bdb_migration_service_name
    non_empty_end_of_header_action relocated_prefix_enable requiretls_enable requiretls_esmtp_header
    requiretls_redact_dsn smtp_log_tls_feature_status smtp_requiretls_policy
    smtp_sasl_password_result_delimiter smtp_tls_enable_rpk smtp_tls_enforce_sts_mx_patterns
    smtp_tlsrpt_enable smtp_tlsrpt_skip_reused_handshakes smtp_tlsrpt_socket_name
    smtpd_client_ipv4_prefix_length smtpd_client_ipv6_prefix_length smtpd_hide_client_session
    smtpd_reject_filter_maps smtpd_tls_enable_rpk socketmap_max_reply_size tls_ffdhe_auto_groups
    tls_required_enable tlsproxy_tls_enable_rpk use_srv_lookup
"""
CHANGED = frozenset(_CHANGED.split())

MASTER = """\
smtp      inet  n       -       y       -       -       smtpd
submission inet n       -       y       -       -       smtpd
  -o syslog_name=postfix/submission -v
  -o smtpd_tls_security_level=encrypt
  -o { smtpd_recipient_restrictions = permit_sasl_authenticated, reject }
  -o smtpd_client_restrictions=$mua_client_restrictions
  -o smtpd_relay_restrictions=
smtp      unix  -       -       y       -       -       smtp
slow      unix  -       -       n       -       5       smtp -o smtp_helo_timeout=5
retry     unix  -       -       n       -       -       error
policy    unix  -       n       n       -       0       spawn
  user=nobody argv=/usr/bin/policyd --verbose {two words} --and --many --more --arguments --to --fold
uucp      unix  -       n       n       -       -       pipe
  flags=Fqhu user=uucp argv=uux -r -n -z -a$sender - $nexthop!rmail ($recipient)
"""

CASES = {
    "plain": "",
    "debian": """
smtpd_banner = $myhostname ESMTP $mail_name (Debian/GNU)
compatibility_level = 3.6
myhostname = mail.example.com
mydestination = $myhostname, mail, localhost.localdomain, , localhost
mynetworks = 127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128
smtp_tls_session_cache_database = btree:${data_directory}/smtp_scache
relayhost =
myorigin = /etc/mailname
recipient_delimiter = +
mua_client_restrictions = permit_sasl_authenticated, reject
""",
    "continued": """
smtpd_recipient_restrictions =
# a comment
    permit_mynetworks,

    permit_sasl_authenticated,   reject_unauth_destination
\tcheck_policy_service { inet:127.0.0.1:1, timeout=5s }
always_bcc = a@b # not a comment
body_checks = pcre:{{/x{1,2}y/ REJECT}}
""",
    "duplicates": "myhostname = a.b\nmyhostname = c.d\nmail_name=\nmail_name   =   x  y\n",
    "unused": "smtpd_sasl_auth_enabel = yes\nfoo = bar\nhelp_me = $foo\n",
    "used": "foo = yes\nbar = $foo\nalways_bcc = $bar\n",
    "classes": "smtpd_restriction_classes = strict, lax\nstrict = reject\nlax = $other\n",
    "class braces": "smtpd_restriction_classes = strict, }\nstrict = reject\n",
    "undefined": "always_bcc = $nobody ${nothing?x} ${{$left} == {$right} ? {$yes} : {$no}} $$dollar\n",
    "mua": "mua_client_restrictions = permit\nunknown_thing = 1\n",
    "legacy": "virtual_maps = hash:/x\nfallback_relay = [x]\n",
    "database": "virtual_alias_maps = ldap:accounts, proxy:mysql:other\naccounts_server_host = x\n"
    "other_hosts = y\nnobody_server_host = z\n",
    "read only": "process_id = 5\nalways_bcc = $process_name\n",
    "ternary": "compatibility_level = 3.6\n"
    "always_bcc = ${{$compatibility_level} >=level {3.10} ? {new} : {old}}\n"
    "mail_name = ${stress?{yes}:{no}}${stress:none}\nmail_owner = ${ smtpd_banner ? { x } : { y } }\n"
    "default_privs = $(mail_name)\n",
    "derived": "slow_destination_concurrency_limit = 1\nlocal_destination_concurrency_limit = 9\n"
    "policy_time_limit = 3600\nfast_destination_rate_delay = 1s\n",
    "domain": "mydomain = example.org\nmyorigin = $mydomain\n",
    "raw": "smtpd_reject_footer = \\c see $undefined_but_raw  here\ndefault_rbl_reply = $rbl_code x\n",
    "first line": "  indented\nmail_name = x\n",
    "bytes": "mail_name = gr\xfc\xdf dich\nfull = $mail_name\nalways_bcc = $full\n",
}

OPTIONS = (
    "-n", "-nf", "-nx", "-nh", "-nH", "-C user", "-C service", "-C user,service -x", "-M", "-Mf", "-Mx", "-F",
    "-Ff", "-Fh", "-FH", "-P", "-Px", "-Ph", "-PH", "-P submission/inet", "-P */*/smtpd_relay_restrictions",
    "-M submission", "-M smtp/unix nothing/inet", "-F slow/unix/command", "-P slow/unix/nothing",
    "-h mail_name myhostname", "mydestination mail_owner no_such_name", "-x smtpd_banner syslog_name",
    "-d mail_name smtpd_timeout always_bcc", "-dx smtpd_timeout", "-n -o mail_name=other",
    "-o x=y -x mail_name", "-hx mydestination myorigin mydomain", "-H mail_name", "-p mail_owner",
)  # fmt: skip


def write(directory: Path, text: bytes) -> Path:
    """A main.cf that is not new: postconf waits a second for one that was just written."""
    path = directory / "main.cf"
    path.write_bytes(text)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    return path


def theirs(arguments: list[str]) -> tuple[bytes, bytes, int]:
    done = subprocess.run([POSTCONF, *arguments], capture_output=True, check=False, timeout=60)
    return done.stdout, done.stderr, done.returncode


def unchanged(output: bytes) -> list[bytes]:
    """The lines of parameters that 3.7 and 3.11 know alike, and none of mtad's own."""
    kept = []
    for line in output.split(b"\n"):
        name = line.split(b" =")[0].decode("ascii", "replace")
        if name not in CHANGED and not name.startswith("mtad_"):
            kept.append(line)
    return kept


def warnings(stderr: bytes) -> list[bytes]:
    """The warnings, but for those that came after 3.7."""
    stderr = re.sub(rb", line [0-9]+: logical line", b": logical line", stderr)
    lines = [line.removeprefix(os.path.dirname(POSTCONF).encode() + b"/") for line in stderr.split(b"\n")]
    later = (b" will be removed", b" has been removed", b"DEPRECATION_README", b"#comment after other text")
    return sorted(line for line in lines if not any(text in line for text in later))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "master.cf").write_text(MASTER)
    return tmp_path


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("options", OPTIONS)
def test_same_output(
    directory: Path, capfdbinary: pytest.CaptureFixture[bytes], case: str, options: str
) -> None:
    write(directory, CASES[case].encode("latin-1"))
    arguments = ["-c", str(directory), *options.split()]
    out, err, status = theirs(arguments)
    if b"fatal" in err:
        pytest.fail(f"a case that postconf refuses: {err!r}")
    assert main(arguments) == status
    ours = capfdbinary.readouterr()
    assert unchanged(ours.out) == unchanged(out)
    assert warnings(ours.err) == warnings(err)


TEMPLATES = """\
# other words, and some that are not taken
failure_template = <<EOF
Charset: utf-8
From: Der Postbote <postman>
Subject: Nicht zugestellt
Postmaster-Subject: Kopie: nicht zugestellt

Gr\u00fc\u00dfe von $myhostname an ${mydomain}.
Nach $delay_warning_time_seconds Sekunden, vor $maximal_queue_lifetime_minutes Minuten. $$
EOF
delay_template = <<EOF

Later: ${delay_warning_time_hours}h
EOF
success_template = <<END
Postmaster-Subject: not for this
Subject: x

y
END
verify_template = <<EOF
Subject: a report

 It is ${delay_warning_time_hours?{late}} by ${maximal_queue_lifetime_weeks} weeks.

EOF
other_template = <<EOF
x
EOF
"""


@pytest.mark.parametrize("options", ["-b", "-t", "-b {file}", "-t {file}"])
def test_same_notices(directory: Path, capfdbinary: pytest.CaptureFixture[bytes], options: str) -> None:
    """Of their warnings the words; who says so, where in the file, when and how often differs."""
    lines = ("myhostname = mail.xn--bcher-kva.example", "mail_owner = postfix", "delay_warning_time = 4h")
    write(directory, "\n".join([*lines, "queue_directory = /var/spool/postfix", ""]).encode())
    (directory / "bounce.cf").write_text(TEMPLATES)
    arguments = ["-c", str(directory), *options.replace("{file}", str(directory / "bounce.cf")).split()]

    def words(stderr: bytes) -> set[bytes]:
        return {re.sub(rb"^.*?(?=warning: )|, line [0-9]+(?=:)", b"", line) for line in stderr.split(b"\n")}

    out, err, status = theirs(arguments)
    assert main(arguments) == status == 0
    ours = capfdbinary.readouterr()
    assert ours.out == out
    assert words(ours.err) == words(err)
    assert b"warning: " in err or "{file}" not in options


@pytest.mark.parametrize("options", ["", "-d", "-dh", "-x", "-dx", "-f", "-C builtin"])
def test_same_table(directory: Path, capfdbinary: pytest.CaptureFixture[bytes], options: str) -> None:
    write(directory, b"")
    arguments = ["-c", str(directory), *options.split()]
    if options == "-dh":  # without names, only the shape can be compared
        arguments += ["mail_owner", "smtpd_expansion_filter", "smtpd_timeout"]
    out, err, _ = theirs(arguments)
    assert main(arguments) == 0
    ours = capfdbinary.readouterr()
    if options == "-f":  # folded lines belong to the name above them
        out, ours_out = out.replace(b"\n    ", b" "), ours.out.replace(b"\n    ", b" ")
        assert unchanged(ours_out) == unchanged(out)
        return
    dependent = (b"milter_macro_v", b"local_recipient_maps", b"tlsproxy_tls", b"proxy_", b"postscreen")
    ours_lines, their_lines = unchanged(ours.out), unchanged(out)
    if "x" in options:  # expanded, the changes show elsewhere too
        ours_lines = [line for line in ours_lines if not line.startswith(dependent)]
        their_lines = [line for line in their_lines if not line.startswith(dependent)]
    assert ours_lines == their_lines
    assert warnings(ours.err) == warnings(err)


MAIN = """\
# head
mail_name = one
  # inside
  two

myhostname = a.b
mail_name = three
  # tail
always_bcc =
no = x
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["-e", "mail_name = other"],
        ["myhostname=x.y", "zzz=1"],
        ["-e", "always_bcc="],
        ["-X", "mail_name"],
        ["-X", "mail_name", "nothing"],
        ["-#", "mail_name", "always_bcc"],
    ],
)
def test_same_edit(directory: Path, capfdbinary: pytest.CaptureFixture[bytes], arguments: list[str]) -> None:
    path = write(directory, MAIN.encode())
    _, err, status = theirs(["-c", str(directory), *arguments])
    expected = path.read_bytes()
    write(directory, MAIN.encode())
    path.chmod(0o640)
    assert main(["-c", str(directory), *arguments]) == status
    assert path.read_bytes() == expected
    assert warnings(capfdbinary.readouterr().err) == warnings(err)
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(entry.name for entry in directory.iterdir()) == ["main.cf", "master.cf"]


@pytest.mark.parametrize(
    ("main_cf", "arguments"),
    [
        ("a\n", ["-n"]),
        ("= a\n", ["-n"]),
        ("", ["-e"]),
        ("", ["-n", "-d"]),
        ("", ["-M", "-P"]),
        ("", ["-P", "a/b/c/d"]),
        ("", ["-F", "smtp/inet/nothing"]),
        ("", ["-Z"]),
        ("always_bcc = ${x", ["-x", "always_bcc"]),
        ("always_bcc = $always_bcc", ["-x", "always_bcc"]),
    ],
)
def test_same_refusals(
    directory: Path, capfdbinary: pytest.CaptureFixture[bytes], main_cf: str, arguments: list[str]
) -> None:
    write(directory, main_cf.encode())
    _, err, status = theirs(["-c", str(directory), *arguments])
    assert main(["-c", str(directory), *arguments]) == status == 1
    assert b"fatal: " in err
    assert b"fatal: " in capfdbinary.readouterr().err
