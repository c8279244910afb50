"""Real clients submit mail; the sink gets each accepted one exactly once, by the login of sasl_passwd."""

from __future__ import annotations

import base64
import os
import shutil
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from live.daemon import Mtad, Sink

from mtad.net.certificates import make_self_signed
from mtad.tables.sasldb import SaslDb

USER, REALM, PASSWORD = "alice", "example.com", "wonder land:1"
LOGIN = f"{USER}@{REALM}"
RELAY = "relay:looking-glass"


def need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


class House:
    """mtad with a submission and a submissions service, and its smarthost."""

    def __init__(self, mtad: Mtad, sink: Sink) -> None:
        self.mtad = mtad
        self.sink = sink
        self.port = mtad.ports["submission"]
        self.tls_port = mtad.ports["submissions"]
        self.certificate = str(mtad.directory / "cert.pem")

    def arrived(self, subject: str, count: int = 1) -> list[str]:
        """The logins by which mail of this subject came to the sink, when ``count`` of it have."""

        def found() -> list[str]:
            return [str(m["X-Sink-Login"]) for m in self.sink.mails() if m["Subject"] == subject]

        from live.daemon import wait_until

        wait_until(lambda: len(found()) >= count, f"mail {subject!r} at the sink:\n{self.mtad.log()}")
        self.mtad.wait_for_log("removed")
        return found()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with Sink("--auth", RELAY) as sink:
        mtad = Mtad(
            {
                "relayhost": f"[127.0.0.1]:{sink.port}",
                "smtp_sasl_auth_enable": "yes",
                "smtp_sasl_password_maps": "hash:{dir}/sasl_passwd",
                "smtp_sasl_security_options": "noanonymous",
                "smtpd_tls_chain_files": "{dir}/key.pem, {dir}/cert.pem",
                "smtpd_tls_security_level": "may",
                "smtpd_tls_auth_only": "yes",
                "smtpd_tls_loglevel": "1",
                "smtpd_tls_received_header": "yes",
                "smtpd_sasl_auth_enable": "yes",
                "smtpd_sasl_local_domain": REALM,
                "smtpd_relay_restrictions": "permit_sasl_authenticated, reject_unauth_destination",
                "smtpd_sender_restrictions": "reject_authenticated_sender_login_mismatch",
                "smtpd_sender_login_maps": f"inline:{{ {{ {LOGIN} = {LOGIN} }} }}",
            },
            services=[
                ("submission", {"syslog_name": "postfix/submission"}),
                ("submissions", {"syslog_name": "postfix/submissions", "smtpd_tls_wrappermode": "yes"}),
            ],
            files={
                "sasl/smtpd.conf": "pwcheck_method: auxprop\nauxprop_plugin: sasldb\n"
                "sasldb_path: {dir}/sasldb2\nmech_list: PLAIN LOGIN\n",
                "sasl_passwd": f"[127.0.0.1]:{sink.port} {RELAY}\n",
            },
        )
        make_self_signed("localhost", str(mtad.directory / "cert.pem"), str(mtad.directory / "key.pem"))
        database = str(mtad.directory / "sasldb2")
        SaslDb(database).set(USER, REALM, PASSWORD.encode())
        if os.geteuid() == 0:
            os.chmod(database, 0o644)
        (mtad.directory / "sasl_passwd").chmod(0o600)
        done = mtad.command("postmap", f"hash:{mtad.directory}/sasl_passwd")
        assert done.returncode == 0, done.stderr
        assert (mtad.directory / "sasl_passwd.db").stat().st_mode & 0o077 == 0
        with mtad:
            yield House(mtad, sink)


def message(subject: str) -> str:
    return f"From: {LOGIN}\r\nTo: bob@example.net\r\nSubject: {subject}\r\n\r\n.hello\r\n..\r\n.\r\n"


def context(house: House) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=house.certificate)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_smtplib(house: House, mechanism: str, wrapped: bool) -> None:
    subject = f"smtplib {mechanism} {wrapped}"
    if wrapped:
        client: smtplib.SMTP = smtplib.SMTP_SSL("localhost", house.tls_port, context=context(house))
    else:
        client = smtplib.SMTP("localhost", house.port)
        client.starttls(context=context(house))
    with client:
        client.ehlo()
        client.user, client.password = LOGIN, PASSWORD
        client.auth(mechanism, getattr(client, f"auth_{mechanism.lower()}"))
        client.sendmail(LOGIN, ["bob@example.net", "carol@example.net"], message(subject))
    assert house.arrived(subject) == ["relay"]
    mail = next(m for m in house.sink.mails() if m["Subject"] == subject)
    assert mail.get_all("X-Sink-Recipient") == ["bob@example.net", "carol@example.net"]
    assert mail.get_payload() == ".hello\r\n..\r\n.\r\n"
    assert f"sasl_method={mechanism}, sasl_username={LOGIN}" in house.mtad.log()


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_swaks(house: House, mechanism: str, wrapped: bool) -> None:
    need("swaks")
    subject = f"swaks {mechanism} {wrapped}"
    where = ["--server", f"127.0.0.1:{house.tls_port if wrapped else house.port}"]
    tls = ["--tls-on-connect"] if wrapped else ["--tls"]
    login = ["--auth", mechanism, "--auth-user", LOGIN, "--auth-password", PASSWORD]
    mail = ["--from", LOGIN, "--to", "bob@example.net", "--header", f"Subject: {subject}"]
    done = subprocess.run(["swaks", *where, *tls, *login, *mail], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert house.arrived(subject) == ["relay"]


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_curl(house: House, mechanism: str, wrapped: bool, tmp_path: Path) -> None:
    need("curl")
    subject = f"curl {mechanism} {wrapped}"
    (tmp_path / "mail").write_text(message(subject))
    url = f"smtps://127.0.0.1:{house.tls_port}" if wrapped else f"smtp://127.0.0.1:{house.port}"
    words = ["curl", "-sS", "--insecure", "--ssl-reqd", "--login-options", f"AUTH={mechanism}", "--user"]
    words += [f"{LOGIN}:{PASSWORD}", "--mail-from", LOGIN, "--mail-rcpt", "bob@example.net"]
    done = subprocess.run(
        [*words, "--upload-file", str(tmp_path / "mail"), url], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert house.arrived(subject) == ["relay"]


@pytest.mark.parametrize("mechanism", ["plain", "login"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_msmtp(house: House, mechanism: str, wrapped: bool, tmp_path: Path) -> None:
    need("msmtp")
    subject = f"msmtp {mechanism} {wrapped}"
    settings = tmp_path / "msmtprc"
    settings.write_text(
        f"account default\nhost localhost\nport {house.tls_port if wrapped else house.port}\n"
        f"tls on\ntls_starttls {'off' if wrapped else 'on'}\ntls_trust_file {house.certificate}\n"
        f'auth {mechanism}\nuser {LOGIN}\npassword "{PASSWORD}"\nfrom {LOGIN}\n'
    )
    settings.chmod(0o600)
    done = subprocess.run(
        ["msmtp", "-C", str(settings), "bob@example.net"],
        input=message(subject).replace("\r\n", "\n"), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert house.arrived(subject) == ["relay"]


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_gsasl(house: House, mechanism: str) -> None:
    need("gsasl")
    words = ["gsasl", "--smtp", "--connect", f"localhost:{house.port}", "--mechanism", mechanism]
    words += ["--authentication-id", LOGIN, "--password", PASSWORD, "--x509-ca-file", house.certificate]
    done = subprocess.run(words, input="QUIT\n", capture_output=True, text=True, timeout=60)
    assert "235 2.7.0 Authentication successful" in done.stdout, done.stdout + done.stderr


def say(house: House, *lines: bytes, tls: bool = True) -> list[bytes]:
    """The last line of each reply to ``lines``, after EHLO (in TLS unless told otherwise)."""
    replies: list[bytes] = []
    raw = socket.create_connection(("127.0.0.1", house.port), timeout=60)
    if tls:
        stream = raw.makefile("rwb", buffering=0)
        for line in (b"", b"EHLO client.example", b"STARTTLS"):
            if line:
                stream.write(line + b"\r\n")
            while stream.readline()[3:4] == b"-":
                pass
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        raw = trusting.wrap_socket(raw)
    with raw, raw.makefile("rwb", buffering=0) as stream:
        first = [] if tls else [b""]
        for line in [*first, b"EHLO client.example", *lines]:
            if line:
                stream.write(line + b"\r\n")
            reply = stream.readline()
            while reply[3:4] == b"-":
                reply = stream.readline()
            replies.append(reply.rstrip(b"\r\n"))
    return replies[-len(lines) :]


def plain(user: str, password: str) -> bytes:
    return b"AUTH PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode())


def test_a_wrong_password_is_refused(house: House) -> None:
    assert say(house, plain(LOGIN, "wrong")) == [
        b"535 5.7.8 Error: authentication failed: authentication failure"
    ]
    assert (
        "warning: localhost[127.0.0.1]: SASL PLAIN authentication failed: authentication failure, "
        f"sasl_username={LOGIN}" in house.mtad.log()
    )


def test_no_login_without_tls(house: House) -> None:
    assert say(house, plain(LOGIN, PASSWORD), tls=False) == [b"503 5.5.1 Error: authentication not enabled"]


def test_no_relay_without_login(house: House) -> None:
    assert say(house, b"MAIL FROM:<alice@example.com>", b"RCPT TO:<bob@example.net>") == [
        b"250 2.1.0 Ok",
        b"554 5.7.1 <bob@example.net>: Relay access denied",
    ]


def test_a_foreign_sender_is_refused(house: House) -> None:
    assert say(
        house, plain(LOGIN, PASSWORD), b"MAIL FROM:<eve@example.com>", b"RCPT TO:<bob@example.net>"
    ) == [
        b"235 2.7.0 Authentication successful",
        b"250 2.1.0 Ok",
        f"553 5.7.1 <eve@example.com>: Sender address rejected: not owned by user {LOGIN}".encode(),
    ]


def test_secrets_are_not_in_the_log(house: House) -> None:
    log = house.mtad.log()
    assert PASSWORD not in log
    assert "looking-glass" not in log
    assert base64.b64encode(PASSWORD.encode()).decode() not in log


def test_each_mail_came_exactly_once(house: House) -> None:
    subjects = [str(mail["Subject"]) for mail in house.sink.mails()]
    assert len(subjects) == len(set(subjects))
    assert house.mtad.command("postqueue", "-p").stdout == "Mail queue is empty\n"
