"""Our saslauthd checker against Cyrus' own daemon and ours, and others against ours."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import oracle.postfix
import pytest
from live.checking import MISSING, PROGRAMS, WHY_NOT, Logins, running, smtp_login
from live.daemon import wait_until

from mtad.auth import saslauthd
from mtad.auth.authenticator import Denied, Granted

pytestmark = pytest.mark.skipif(MISSING, reason=WHY_NOT)


@pytest.mark.parametrize("program", PROGRAMS, ids=["cyrus", "mtad"])
@pytest.mark.parametrize(
    ("mechanism", "user"), [("sasldb", b"alice@mail.test"), ("shadow", b"alice"), ("pam", b"alice")]
)
def test_good_and_bad_passwords(mechanism: str, user: bytes, program: str, tmp_path: Path) -> None:
    with running(mechanism, tmp_path, program) as mux:
        logins = Logins(tmp_path, mux)
        (good,) = logins.results(logins.plain(user, b"secret"))
        assert isinstance(good, Granted), (tmp_path / "log").read_text()
        assert good.avatar.username == user.decode()
        for name, password in ((user, b"wrong"), (b"nobody-here", b"secret"), (user, b"")):
            (bad,) = logins.results(logins.plain(name, password))
            assert isinstance(bad, Denied)
            assert str(bad.reply) == "535 5.7.8 Error: authentication failed: authentication failure"
        many = logins.results(*(logins.plain(user, b"secret") for _ in range(15)))
        assert all(isinstance(each, Granted) for each in many)


def test_a_stopped_daemon_is_a_temporary_failure(tmp_path: Path) -> None:
    with running("sasldb", tmp_path) as mux:
        pass
    logins = Logins(tmp_path, mux)
    (denied,) = logins.results(logins.plain(b"alice@mail.test", b"secret"))
    assert str(denied.reply) == "454 4.7.0 Temporary authentication failure: generic failure"
    assert "cannot connect to saslauthd server: " in logins.sink.lines[0][2]


def test_one_that_hangs_holds_up_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """saslauthd accepts and never answers: 454 after the time-out, and the reactor goes on meanwhile."""
    monkeypatch.setattr(saslauthd, "TIMEOUT", 2.0)
    mux = tmp_path / "mux"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(mux))
        listener.listen(50)
        logins = Logins(tmp_path, mux)
        waiting = [logins.plain(b"alice", b"secret") for _ in range(30)]
        for _ in range(5):
            logins.reactor.iterate(0.01)
        assert not any(each.called for each in waiting)
        replies = {str(each.reply) for each in logins.results(*waiting)}
        assert replies == {"454 4.7.0 Temporary authentication failure: generic failure"}


@pytest.mark.skipif(shutil.which("testsaslauthd") is None, reason="needs testsaslauthd (sasl2-bin)")
@pytest.mark.parametrize("options", ["", "-c", "-n 0", "-r -V"])
def test_cyrus_testsaslauthd_passes_against_ours(options: str, tmp_path: Path) -> None:
    with running("shadow" if "-r" not in options else "sasldb", tmp_path, PROGRAMS[1], options) as mux:
        password, realm = ("joined", "mail.test") if "-r" in options else ("secret", "")

        def test(password: str) -> subprocess.CompletedProcess[str]:
            command = [
                "testsaslauthd",
                "-f",
                str(mux),
                "-s",
                "smtp",
                "-u",
                "alice",
                "-r",
                realm,
                "-p",
                password,
            ]
            return subprocess.run([*command, "-R", "3"], capture_output=True, text=True, timeout=60)

        good = test(password)
        assert good.returncode == 0, (tmp_path / "log").read_text()
        assert good.stdout.splitlines()[-1] == '2: OK "Success."'
        bad = test("wrong")
        assert bad.returncode != 0
        assert 'NO "authentication failed"' in bad.stdout


def test_pam_knows_the_clients_address(tmp_path: Path) -> None:
    (tmp_path / "note").write_text(
        f"#!/bin/sh\necho $PAM_TYPE $PAM_USER $PAM_RHOST $PAM_TTY >>{tmp_path}/noted\n"
    )
    (tmp_path / "note").chmod(0o755)
    (tmp_path / "pam").write_text(
        f"auth optional pam_exec.so quiet {tmp_path}/note\n"
        "auth required pam_unix.so\naccount required pam_unix.so\n"
    )
    binds = f"mount --bind {tmp_path}/pam /etc/pam.d/other; "
    with running("pam", tmp_path, PROGRAMS[1], binds=binds) as mux:
        logins = Logins(tmp_path, mux, mtad_saslauthd_client_address="yes")
        (good,) = logins.results(logins.plain(b"alice", b"secret"))
        assert isinstance(good, Granted), (tmp_path / "log").read_text()
    assert (tmp_path / "noted").read_text().split() == ["auth", "alice", "192.0.2.1"]
    assert "[rhost=192.0.2.1]" in (tmp_path / "log").read_text()


@pytest.mark.skipif(not oracle.postfix.AVAILABLE, reason=oracle.postfix.WHY_NOT)
def test_postfix_with_cyrus_uses_ours() -> None:
    with tempfile.TemporaryDirectory(prefix="saslauthd-") as name:
        Path(name).chmod(0o755)
        with running("shadow", Path(name), PROGRAMS[1]) as mux:
            conf = f"pwcheck_method: saslauthd\nsaslauthd_path: {mux}\nmech_list: plain\n"
            values = {"smtpd_sasl_auth_enable": "yes", "cyrus_sasl_config_path": "{dir}/sasl"}
            with oracle.postfix.Postfix(values, files={"sasl/smtpd.conf": conf}) as server:
                replies = [
                    smtp_login(server.ports["submission"], b"\0alice\0" + password)
                    for password in (b"secret", b"wrong", b"secret")
                ]
            assert [reply[:3] for reply in replies] == ["235", "535", "235"], (Path(name) / "log").read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (systemd)")
def test_its_unit(tmp_path: Path) -> None:
    """systemd finds nothing to say of it, and its command line is one that the program takes."""
    text = (Path(__file__).parents[2] / "systemd" / "mtad-saslauthd.service").read_text()
    unit = tmp_path / "mtad-saslauthd.service"
    unit.write_text(text.replace("/opt/mtad/bin/mtad", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=30
    )
    said = [line for line in done.stderr.splitlines() if "mtad-saslauthd" in line]
    assert (done.returncode, said) == (0, []), done.stderr
    command = re.search(r"^ExecStart=/opt/mtad/bin/mtad (.*)$", text, re.MULTILINE)
    assert command is not None
    words = (
        command[1]
        .replace("$MECHANISM", "shadow")
        .replace("/run/saslauthd", str(tmp_path))
        .replace("$OPTIONS", "-c")
    )
    started = subprocess.run([sys.executable, "-m", "mtad.cli.main", *words.split()], timeout=60)
    assert started.returncode == 0
    pid_file = tmp_path / "saslauthd.pid"
    wait_until(pid_file.read_text, "its number, which the child writes once the parent is gone")
    pid = int(pid_file.read_text())
    try:
        outcome = Logins(tmp_path, tmp_path / "mux")
        (denied,) = outcome.results(outcome.plain(b"nobody-here", b"x"))
        assert str(denied.reply).startswith("535")
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not (tmp_path / "mux").exists(), "its end")
