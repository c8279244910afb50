"""Mail that comes faster than the queue manager takes it is taken slowly (in_flow_delay)."""

from __future__ import annotations

import smtplib
import socket
import time

from live.daemon import Mtad, wait_until

DELAY = 2


def seconds_for_a_mail(client: smtplib.SMTP) -> float:
    client.mail("alice@example.com")
    client.rcpt("bob@example.net")
    begun = time.monotonic()
    code, _ = client.data(b"Subject: x\r\n\r\nhello\r\n")
    assert code == 250
    return time.monotonic() - begun


def test_pressure() -> None:
    silent = socket.create_server(("127.0.0.1", 0))  # takes connections, and says nothing
    main_cf = {
        "mynetworks": "127.0.0.0/8",
        "relayhost": f"[127.0.0.1]:{silent.getsockname()[1]}",
        "qmgr_message_active_limit": "2",
        "in_flow_delay": f"{DELAY}s",
    }
    with silent, Mtad(main_cf) as mtad, smtplib.SMTP("127.0.0.1", mtad.ports["submission"]) as client:
        client.ehlo("client.example")
        assert all(seconds_for_a_mail(client) < DELAY for _ in range(4))  # two in hand, two wait
        wait_until(lambda: seconds_for_a_mail(client) >= DELAY, "a mail that takes its time")
        # nothing waits any more: all were tried, in vain
        silent.shutdown(socket.SHUT_RDWR)
        silent.close()
        wait_until(lambda: seconds_for_a_mail(client) < DELAY, "a mail that takes no time")
        assert "Traceback" not in mtad.log()
