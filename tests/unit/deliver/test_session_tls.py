"""Sessions with TLS, over real sockets in a process of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mtad.net.tls import make_self_signed

PROGRAM = Path(__file__).with_name("tls_session.py")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls")
    make_self_signed("mx.test", str(path / "cert.pem"), str(path / "key.pem"))
    return path


def session(directory: Path, behaviour: str, *settings: str) -> list[str]:
    """The log of two deliveries one after the other."""
    command = [sys.executable, str(PROGRAM), str(directory), behaviour, *settings]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def outcome(lines: list[str], name: str) -> str:
    (line,) = [line for line in lines if f"{name}: to=" in line]
    return line


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        (("smtp_tls_security_level=may",), "Untrusted"),
        (("smtp_tls_security_level=verify", "smtp_tls_CAfile=CERT"), "Verified"),
        (("smtp_tls_security_level=secure", "smtp_tls_CAfile=CERT"), "Verified"),
    ],
)
def test_starttls(directory: Path, settings: tuple[str, ...], status: str) -> None:
    lines = session(directory, "good", *[s.replace("CERT", f"{directory}/cert.pem") for s in settings])
    established = [line for line in lines if "TLS connection established" in line]
    assert len(established) == 1  # the second message goes over the same session
    text = f"info postfix/smtp: {status} TLS connection established to mx.test[127.0.0.1]:PORT: TLSv1.3 with"
    assert established[0].startswith(text)
    level = settings[0].partition("=")[2]
    assert f"tls={level}, dsn=2.0.0, status=sent (250 2.0.0 Ok: secure)" in outcome(lines, "Q1")
    assert "conn_use=2" in outcome(lines, "Q2")


def test_wrappermode_and_a_large_message(directory: Path) -> None:
    lines = session(
        directory, "wrapped", "smtp_tls_security_level=encrypt", "smtp_tls_wrappermode=yes", "big=yes"
    )
    assert "status=sent (250 2.0.0 Ok: secure)" in outcome(lines, "Q1")
    assert "status=sent (250 2.0.0 Ok: secure)" in outcome(lines, "Q2")


def test_wrappermode_needs_a_level(directory: Path) -> None:
    lines = session(directory, "wrapped", "smtp_tls_security_level=may", "smtp_tls_wrappermode=yes")
    text = "dsn=4.3.0, status=deferred (server unavailable or unable to receive mail)"
    assert text in outcome(lines, "Q1")
    wanted = 'smtp_tls_wrappermode requires "smtp_tls_security_level = encrypt" (or stronger)'
    assert f"warning postfix/smtp: warning: {wanted}" in lines


def test_a_certificate_that_nobody_vouches_for(directory: Path) -> None:
    lines = session(directory, "good", "smtp_tls_security_level=verify", "initial_destination_concurrency=1")
    assert "relay=mx.test[127.0.0.1]:PORT, " in outcome(lines, "Q1")
    assert "dsn=4.7.5, status=deferred (Server certificate not " in outcome(lines, "Q1")
    assert "delivery temporarily suspended: Server certificate not " in outcome(lines, "Q2")


def test_a_failed_handshake_waits_for_the_first_retry_before_it_does_without(directory: Path) -> None:
    failed = "dsn=4.7.5, status=deferred (Cannot start TLS: handshake failure)"
    lines = session(directory, "garbage", "smtp_tls_security_level=may")
    assert failed in outcome(lines, "Q1")
    assert "info postfix/smtp: SSL_connect error to mx.test[127.0.0.1]:PORT: -1" in lines
    assert "warning postfix/smtp: warning: TLS library problem: SSL routines::wrong version number" in lines
    lines = session(directory, "garbage", "smtp_tls_security_level=may", "old=yes")
    assert "info postfix/smtp: Q1: Cannot start TLS: handshake failure" in lines
    assert "status=sent (250 2.0.0 Ok: plain)" in outcome(lines, "Q1")
    lines = session(directory, "garbage", "smtp_tls_security_level=encrypt", "old=yes")
    assert failed in outcome(lines, "Q1")


@pytest.mark.parametrize("stage", ["EHLO", "body"])
def test_a_session_that_breaks_down_within_tls_is_begun_again_without(directory: Path, stage: str) -> None:
    lines = session(directory, stage, "smtp_tls_security_level=may", "old=yes")
    where = {
        "EHLO": "performing the EHLO handshake",
        "body": "sending end of data -- message may be sent more than once",
    }
    lost = f"lost connection with mx.test[127.0.0.1] while {where[stage]}"
    assert f"info postfix/smtp: Q1: {lost}" in lines
    assert "tls=may:none, dsn=2.0.0, status=sent (250 2.0.0 Ok: plain)" in outcome(lines, "Q1")


@pytest.mark.parametrize(
    "settings", [(), ("old=yes", "smtp_sasl_auth_enable=yes", "smtp_sasl_password_maps=static:joe:secret")]
)
def test_what_has_to_wait_for_tls(directory: Path, settings: tuple[str, ...]) -> None:
    lines = session(directory, "MAIL", "smtp_tls_security_level=may", *settings)
    lost = "lost connection with mx.test[127.0.0.1] while sending MAIL FROM"
    assert f"dsn=4.4.2, status=deferred ({lost})" in outcome(lines, "Q1")


def test_a_probe_does_without_tls_at_once(directory: Path) -> None:
    lines = session(directory, "garbage", "smtp_tls_security_level=may", "probe=yes")
    assert "status=deliverable (250 ok)" in outcome(lines, "Q1")


def test_who_wishes_tls_does_not_do_without(directory: Path) -> None:
    wish = ("requiretls=yes", "smtp_requiretls_policy=opportunistic+starttls", "old=yes")
    lines = session(directory, "garbage", "smtp_tls_security_level=may", *wish)
    text = "dsn=4.7.5, status=deferred (Cannot start TLS: handshake failure)"
    assert text in outcome(lines, "Q1")


def test_a_server_that_leaves_while_a_table_is_asked_about_its_mechanisms(directory: Path) -> None:
    login = ("smtp_sasl_auth_enable=yes", "smtp_sasl_password_maps=static:joe:secret")
    lines = session(
        directory, "offer", "smtp_tls_security_level=encrypt", *login, "smtp_sasl_mechanism_filter=TABLE"
    )
    lost = "dsn=4.4.2, status=deferred (lost connection with mx.test[127.0.0.1] while "
    assert lost in outcome(lines, "Q1")


def test_tls_over_a_unix_domain_socket(directory: Path) -> None:
    lmtp = (f"default_transport=lmtp:unix:{directory}/lmtp", "lmtp_tls_loglevel=1")
    lines = session(directory, "good", "lmtp_tls_security_level=encrypt", *lmtp)
    text = f"info postfix/lmtp: Untrusted TLS connection established to mail.example.com[{directory}/lmtp]"
    assert any(line.startswith(text) for line in lines)
    assert "status=sent (250 2.0.0 Ok: secure)" in outcome(lines, "Q1")
