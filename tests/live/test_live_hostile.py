"""Hostile clients, for a second or so each: memory stays bounded, and others are served.

The attacks are those of ``benchmarks/hostile.py``, which measures them at length.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from live.daemon import Mtad

from mtad.net.certificates import make_self_signed

ATTACKER = Path(__file__).parents[2] / "benchmarks" / "hostile.py"
MAIN = {
    "default_transport": "discard:all",
    "smtpd_client_connection_count_limit": "0",
    "smtpd_tls_security_level": "may",
    "smtpd_tls_chain_files": "{dir}/key.pem, {dir}/cert.pem",
    "mtad_smtpd_workers": "1",
}
SAID = (
    b"", b"EHLO good.example\r\n", b"MAIL FROM:<a@example.com>\r\n", b"RCPT TO:<b@example.net>\r\n",
    b"DATA\r\n", b"Subject: x\r\n\r\nx\r\n.\r\n", b"QUIT\r\n",
)  # fmt: skip
#: Beyond this, memory grows with what a hostile client sends: all of one client's buffers are far below.
ALLOWANCE = 48 * 2**20


@pytest.fixture(scope="module")
def mtad() -> Iterator[Mtad]:
    instance = Mtad(MAIN)
    make_self_signed("localhost", str(instance.directory / "cert.pem"), str(instance.directory / "key.pem"))
    with instance:
        send(instance.ports["submission"])
        yield instance


def send(port: int) -> float:
    """One message; the seconds it took."""
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        heard = connection.makefile("rb")
        for said, code in zip(SAID, (b"220", b"250", b"250", b"250", b"354", b"250", b"221"), strict=True):
            connection.sendall(said)
            while (reply := heard.readline())[3:4] == b"-":
                pass
            assert reply.startswith(code), reply
    return time.monotonic() - begin


def memory(mtad: Mtad) -> int:
    total = 0
    for pid in mtad.children():
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


@pytest.mark.parametrize(
    ("attack", "connections"),
    [
        ("loris", 300), ("noop", 10), ("rset", 10), ("line", 10), ("parameters", 10), ("body", 10),
        ("deaf", 100), ("bytewise", 5), ("handshakes", 5), ("connections", 10),
    ],
)  # fmt: skip
def test_others_are_served(mtad: Mtad, attack: str, connections: int) -> None:
    port = mtad.ports["submission"]
    before = memory(mtad)
    usual = max(send(port) for _ in range(3))
    words = ["--attack", attack, "--port", str(port), "--connections", str(connections), "--seconds", "1.5"]
    with subprocess.Popen(
        [sys.executable, str(ATTACKER), *words], stdout=subprocess.PIPE, text=True
    ) as attacker:
        assert attacker.stdout is not None
        assert attacker.stdout.readline() == "going\n"
        times, most = [], 0
        end = time.monotonic() + 1.2
        while time.monotonic() < end:
            times.append(send(port))
            most = max(most, memory(mtad))
        made = int(attacker.communicate()[0])
    assert made >= connections
    assert most < before + ALLOWANCE
    assert statistics.median(times) < 1.0 + 4 * usual
    assert "Traceback" not in mtad.log()
