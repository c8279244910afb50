"""Policy services that are commands: spawn services of master.cf, run for each connection."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import smtplib
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from live.daemon import Mtad, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

COMMAND = """\
#!/bin/sh
# answers each request with what it is, and what it knows
recipient=
while read -r line; do
    case $line in
    recipient=*) recipient=${line#recipient=} ;;
    "") case $recipient in
        die@*) kill -9 $$ ;;
        fail@*) exit 3 ;;
        hang@*) sleep 100 ;;
        esac
        echo "action=REJECT $(id -un) $(id -gn) $1 ${COLOUR-none} ${SECRET-none} $PWD"
        echo ;;
    esac
done
"""

MASTER = """\
policy unix - n n - 2 spawn user=nobody argv={command} { two words }
broken unix - n n - - spawn user=root argv=/bin/true
"""


@pytest.fixture
def mtad() -> Iterator[Mtad]:
    directory = Path(tempfile.mkdtemp(prefix="live-"))
    directory.chmod(0o755)
    command = directory / "command"
    command.write_text(COMMAND)
    command.chmod(0o755)
    main = {
        "mtad_smtpd_workers": "1",
        "smtpd_peername_lookup": "no",
        "smtpd_recipient_restrictions": "check_policy_service { unix:private/policy, try_limit=1 }",
        "export_environment": "COLOUR=red PATH",
        "policy_time_limit": "1s",
        "smtpd_policy_service_max_idle": "1s",
    }
    os.environ["SECRET"] = "secret"
    try:
        with Mtad(main, master_extra=MASTER.replace("{command}", str(command))) as daemon:
            yield daemon
    finally:
        del os.environ["SECRET"]
        shutil.rmtree(directory)


def rcpt(mtad: Mtad, name: str = "bob") -> str:
    with smtplib.SMTP("127.0.0.1", mtad.ports["submission"], timeout=60) as client:
        client.ehlo("c.example")
        client.docmd("MAIL FROM:<a@example.com>")
        code, text = client.docmd(f"RCPT TO:<{name}@example.net>")
        return f"{code} {text.decode()}".replace(f"<{name}@example.net>: Recipient address rejected: ", "")


def test_a_command_answers(mtad: Mtad) -> None:
    group = grp.getgrgid(pwd.getpwnam("nobody").pw_gid).gr_name
    answer = f"554 5.7.1 nobody {group} two words red none {mtad.queue}"
    trouble = "451 4.3.5 Server configuration problem"
    assert rcpt(mtad) == answer
    assert "service broken: request to deliver as root" in mtad.log()
    assert "service broken will not run: request to deliver as root" in mtad.command("check").stderr
    assert rcpt(mtad, "fail") == trouble
    assert rcpt(mtad, "die") == trouble
    wait_until(lambda: "exit status 3" in mtad.log() and "killed by signal 9" in mtad.log(), "the warnings")
    assert rcpt(mtad) == answer
    assert mtad.command("reload").returncode == 0
    assert rcpt(mtad) == answer
    assert rcpt(mtad, "hang") == trouble  # ended by the time limit


def test_who_waits_for_a_turn_waits_through_a_reload() -> None:
    """``echo`` runs once at a time: a second client is not refused because the process that heard it ends."""
    service = "echo unix - n n - 1 spawn user=nobody argv=/bin/cat\n"
    daemon = Mtad({}, master_extra=service)
    with daemon, socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        for client in (first, second):
            client.settimeout(60)
            client.connect(str(daemon.queue / "private/echo"))
            client.sendall(b"hello")
        assert first.recv(100) == b"hello"
        assert daemon.command("reload").returncode == 0
        assert second.recv(100) == b"hello"
