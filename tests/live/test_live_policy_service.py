"""A real policy service: postgrey, asked by a daemon."""

from __future__ import annotations

import os
import shutil
import smtplib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from live.daemon import Mtad, free_port, wait_until
from oracle.postfix import wait_for_port

pytestmark = pytest.mark.skipif(
    shutil.which("postgrey") is None or os.geteuid() != 0, reason="needs Debian's postgrey package and root"
)


@pytest.fixture
def postgrey() -> Iterator[int]:
    """The port of a postgrey that makes strangers wait for a second."""
    port, directory = free_port(), Path(tempfile.mkdtemp(prefix="live-"))
    shutil.chown(directory, "postgrey")
    options = [f"--inet=127.0.0.1:{port}", f"--dbdir={directory}", "--delay=1", "--user=postgrey"]
    server = subprocess.Popen(["postgrey", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        yield port
    finally:
        server.terminate()
        server.wait(60)
        shutil.rmtree(directory)


def test_strangers_wait(postgrey: int) -> None:
    main = {
        "mynetworks": "",
        "mydestination": "example.com",
        "smtpd_peername_lookup": "no",
        "smtpd_error_sleep_time": "0s",
        "smtpd_hard_error_limit": "10000",
        "smtpd_relay_restrictions": "reject_unauth_destination",
        "smtpd_recipient_restrictions": f"check_policy_service inet:127.0.0.1:{postgrey}",
    }
    with Mtad(main) as mtad, smtplib.SMTP("127.0.0.1", mtad.ports["submission"], timeout=60) as client:

        def rcpt() -> tuple[int, bytes]:
            client.docmd("RSET")
            client.docmd("MAIL FROM:<a@example.org>")
            return client.docmd("RCPT TO:<bob@example.com>")

        client.ehlo("c.example")
        code, text = rcpt()
        assert (code, text.partition(b", see ")[0]) == (
            450,
            b"4.2.0 <bob@example.com>: Recipient address rejected: Greylisted",
        )
        wait_until(lambda: rcpt()[0] == 250, "the end of the delay")
        assert client.docmd("RCPT TO:<carol@example.com>")[0] == 450
