"""The demonstration that the README begins with: what it prints works as it stands."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
from live.daemon import MTAD, wait_until
from oracle.postfix import free_port


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("swaks")), reason="needs curl and swaks")
def test_the_lines_that_it_prints() -> None:
    base = Path(tempfile.mkdtemp(prefix="demo-"))
    ports = {name: free_port() for name in ("submission", "submissions", "sink")}
    words = [*MTAD, "demo", "--directory", str(base)]
    for name, port in ports.items():
        words += [f"--{name}", str(port)]
    printed = base / "printed"
    try:
        with printed.open("wb") as out, subprocess.Popen(words, stdout=out, stderr=out) as demo:
            try:
                wait_until(lambda: "Ctrl-C ends everything" in printed.read_text(), "what to paste")
                lines = re.findall(r"^  ((?:printf|swaks) .*)", printed.read_text(), re.MULTILINE)
                assert len(lines) == 2
                for line in lines:
                    subprocess.run(["sh", "-c", line], check=True, timeout=60, stdout=subprocess.DEVNULL)
                wait_until(lambda: len(os.listdir(base / "Maildir" / "new")) == 2, "both mails")
                wait_until(lambda: printed.read_text().count("status=sent") == 2, "the log of both")
                again = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
                assert again.returncode == 2
                assert f"port {ports['submission']} is taken" in again.stderr
            finally:
                for _ in range(3):  # by somebody who is impatient
                    demo.send_signal(signal.SIGINT)
                assert demo.wait(60) == 0
            for port in ports.values():
                socket.create_server(("127.0.0.1", port)).close()
    finally:
        shutil.rmtree(base, ignore_errors=True)
