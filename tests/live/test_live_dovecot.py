"""``smtpd_sasl_type = dovecot`` against a real Dovecot with its own directories and users."""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import oracle.postfix
import pytest
from live.daemon import Mtad
from oracle.postfix import free_port
from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor

from mtad.auth.authenticator import Authenticator, AuthSession, Challenge, Denied, Granted
from mtad.cli import auth_test
from mtad.config.parameters import Parameters
from mtad.maillog import ListSink, MailLog

SESSION = AuthSession("client.test", "192.0.2.1", "4000", "192.0.2.2", "587", True)

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("dovecot") is None, reason="needs root and dovecot (dovecot-core)"
)


def configuration(root: Path, port: int) -> str:
    return f"""
base_dir = {root}/run
state_dir = {root}/state
log_path = {root}/log
auth_mechanisms = plain login cram-md5 digest-md5 scram-sha-1 scram-sha-256
auth_failure_delay = 0
auth_debug = yes
protocols =
ssl = no
passdb {{
  driver = checkpassword
  args = {root}/check
  username_filter = carol
}}
passdb {{
  driver = passwd-file
  args = scheme=PLAIN {root}/users
}}
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service auth {{
  unix_listener submission {{
    mode = 0666
  }}
  inet_listener {{
    address = 127.0.0.1
    port = {port}
  }}
}}
"""


class Logins:
    """An authenticator on a reactor of its own."""

    def __init__(self, path: str) -> None:
        self.sink = ListSink()
        self.reactor = EPollReactor()
        p = Parameters.from_mapping(
            {"myhostname": "mail.test", "smtpd_sasl_type": "dovecot", "smtpd_sasl_path": path}
        )
        self.authenticator = Authenticator.build(p, self.reactor, MailLog(self.sink, "postfix/smtpd"))

    def result(self, coroutine: Any) -> Any:
        results: list[Any] = []
        Deferred.fromCoroutine(coroutine).addBoth(results.append)
        deadline = time.monotonic() + 60
        while not results:
            assert time.monotonic() < deadline
            self.reactor.iterate(0.05)
        return results[0]

    def plain(self, user: bytes, password: bytes) -> Any:
        exchange = self.authenticator.begin(b"PLAIN", SESSION)
        return self.result(exchange.step(b64encode(b"\0" + user + b"\0" + password)))


class Dovecot:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = free_port()
        self.conf = root / "dovecot.conf"
        self.conf.write_text(configuration(root, self.port))
        (root / "users").write_text("alice:{PLAIN}secret\n")
        (root / "users").chmod(0o644)
        (root / "check").write_text("#!/bin/sh\nexit 111\n")
        (root / "check").chmod(0o755)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> str:
        return str(self.root / "run" / "submission")

    def start(self) -> None:
        self.process = subprocess.Popen(["dovecot", "-F", "-c", str(self.conf)], stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(self.socket) == 0:
                    return
            assert self.process.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def stop(self) -> None:
        if self.process is not None:
            pid = self.process.pid
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            self.process.terminate()
            self.process.wait(60)
            for child in children:  # they serve their clients on, else
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(child), signal.SIGTERM)
            self.process = None

    def log(self) -> str:
        path = self.root / "log"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def dovecot() -> Iterator[Dovecot]:
    with tempfile.TemporaryDirectory(prefix="dovecot-") as root:
        Path(root).chmod(0o755)
        own = Dovecot(Path(root))
        own.start()
        try:
            yield own
        finally:
            own.stop()


@pytest.mark.parametrize("kind", ["unix", "inet"])
def test_good_and_bad_passwords(dovecot: Dovecot, kind: str) -> None:
    logins = Logins(f"unix:{dovecot.socket}" if kind == "unix" else f"inet:127.0.0.1:{dovecot.port}")
    logins.result(logins.authenticator.prepare())
    assert set(logins.authenticator.mechanisms(True)) == {
        b"PLAIN", b"LOGIN", b"CRAM-MD5", b"DIGEST-MD5", b"SCRAM-SHA-1", b"SCRAM-SHA-256",
    }  # fmt: skip
    good = logins.plain(b"alice", b"secret")
    assert isinstance(good, Granted)
    assert good.avatar.username == "alice"
    for user, password in ((b"alice", b"wrong"), (b"nobody", b"secret"), (b"alice", b"")):
        bad = logins.plain(user, password)
        assert isinstance(bad, Denied)
        assert str(bad.reply).startswith("535 5.7.8 Error: authentication failed: ")
        assert bad.username == user.decode()
    assert not logins.sink.lines


def test_continued_steps(dovecot: Dovecot) -> None:
    logins = Logins(dovecot.socket)
    exchange = logins.authenticator.begin(b"CRAM-MD5", SESSION)
    challenge = logins.result(exchange.step(None))
    assert isinstance(challenge, Challenge)
    digest = hmac.digest(b"secret", b64decode(challenge.data), "md5").hex().encode()
    assert isinstance(logins.result(exchange.step(b64encode(b"alice " + digest))), Granted)
    exchange = logins.authenticator.begin(b"LOGIN", SESSION)
    assert b64decode(logins.result(exchange.step(None)).data) == b"Username:"
    assert b64decode(logins.result(exchange.step(b64encode(b"alice"))).data) == b"Password:"
    assert isinstance(logins.result(exchange.step(b64encode(b"secret"))), Granted)


def test_stopped_and_started_again(dovecot: Dovecot) -> None:
    logins = Logins(dovecot.socket)
    assert isinstance(logins.plain(b"alice", b"secret"), Granted)
    dovecot.stop()
    deadline = time.monotonic() + 60
    while isinstance(away := logins.plain(b"alice", b"secret"), Granted):  # until its child is gone, too
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert away.reply.code == 454
    dovecot.start()
    assert isinstance(logins.plain(b"alice", b"secret"), Granted)


def test_a_back_end_that_fails_is_temporary(dovecot: Dovecot) -> None:
    logins = Logins(dovecot.socket)
    outcome = logins.plain(b"carol", b"secret")
    assert isinstance(outcome, Denied)
    assert outcome.reply.code == 454


DIALOGUES = [
    b"AUTH PLAIN " + b64encode(b"\0alice\0secret"),
    b"AUTH PLAIN " + b64encode(b"\0alice\0wrong"),
    b"AUTH PLAIN " + b64encode(b"\0nobody\0x"),
    b"AUTH PLAIN !!!!",
    b"AUTH NOSUCH",
    b"AUTH PLAIN " + b64encode(b"no nul"),
]


def dialogue(port: int) -> list[str]:
    """What a server says to EHLO (its AUTH line) and to the attempts, each in a session of its own."""
    answers = []
    for line in DIALOGUES:
        with (
            socket.create_connection(("127.0.0.1", port), 60) as connection,
            connection.makefile("rwb") as wire,
        ):
            wire.readline()
            for command in (b"EHLO client.test", line):
                wire.write(command + b"\r\n")
                wire.flush()
                while True:
                    reply = wire.readline().decode().rstrip()
                    if "AUTH" in reply[:8]:
                        answers.append(" ".join(sorted(reply[4:].split())))
                    if reply[3:4] != "-":
                        break
            # the mechanism's name is in the reply since 3.8 or later
            answers.append(reply.removesuffix(": 'NOSUCH'"))
    return answers


@pytest.mark.skipif(not oracle.postfix.AVAILABLE, reason=oracle.postfix.WHY_NOT)
def test_the_daemon_says_what_postfix_says(dovecot: Dovecot) -> None:
    values = {
        "smtpd_sasl_auth_enable": "yes",
        "smtpd_sasl_type": "dovecot",
        "smtpd_sasl_path": f"inet:127.0.0.1:{dovecot.port}",
    }
    with oracle.postfix.Postfix(values) as postfix:
        wanted = dialogue(postfix.ports["submission"])
    with Mtad(values) as mtad:
        said = dialogue(mtad.ports["submission"])
        assert said == wanted, mtad.log()
        assert "235 2.7.0 Authentication successful" in said


def test_auth_test(
    dovecot: Dovecot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(path: str, password: bytes) -> tuple[int, dict[str, Any]]:
        (tmp_path / "main.cf").write_text(
            "smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\nmyhostname = mail.test\n"
            f"smtpd_sasl_path = {path}\nsmtpd_sasl_security_options = noplaintext\nmail_owner = nobody\n"
        )
        monkeypatch.setattr("mtad.cli.auth_test.ask_password", lambda: password)
        status = auth_test.main(["-c", str(tmp_path), "--json", "alice"])
        return status, json.loads(capsys.readouterr().out)

    status, told = run(dovecot.socket, b"secret")
    assert status == 0, told
    assert {each["mechanism"] for each in told["attempts"]} == {
        "CRAM-MD5", "DIGEST-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256",
    }  # fmt: skip
    why = {each["name"]: each["why"] for each in told["mechanisms"]}
    assert "smtpd_sasl_security_options demands noplaintext" in why["PLAIN"]
    assert run(dovecot.socket, b"wrong")[0] == 1
    Path(dovecot.socket).chmod(0o600)
    assert "can't be used by mail_owner nobody" in run(dovecot.socket, b"secret")[1]["advice"][0]
    status, told = run("unix:/nonexistent/auth", b"secret")
    assert status == 1
    assert "is not there" in told["advice"][0]
