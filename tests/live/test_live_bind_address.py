"""The address that mail is sent from, in a network namespace where there is more than one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from live.daemon import Mtad, wait_until

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"), reason="makes a namespace"
)

SERVER, OURS = "2001:db8::1", "2001:db8::77"


def connected_from() -> str:
    """Within the namespace: the address that a server of the next hop sees."""
    with socket.create_server((SERVER, 0), family=socket.AF_INET6) as server:
        server.settimeout(60)
        relayhost = f"[{SERVER}]:{server.getsockname()[1]}"
        with Mtad({"relayhost": relayhost, "smtp_bind_address6": OURS, "inet_protocols": "all"}) as mtad:
            text = "Subject: x\n\nhi\n"
            assert mtad.command("sendmail", "b@example.net", text_input=text).returncode == 0
            client, peer = server.accept()
            client.close()
            wait_until(lambda: "lost connection with" in mtad.log(), "the end of the attempt")
        return str(peer[0])


def test_smtp_bind_address6() -> None:
    prepare = f"ip link set lo up; for a in {SERVER} {OURS}; do ip -6 addr add $a/128 dev lo; done"
    program = "from live.test_live_bind_address import connected_from; print(connected_from())"
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", f'{prepare}; exec "$0" -c "$1"', sys.executable, program],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert done.stdout == f"{OURS}\n", done.stderr
