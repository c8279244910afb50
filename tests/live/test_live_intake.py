"""Tables that take their time while mail comes in and goes out: nobody else waits, nothing is mixed up."""

from __future__ import annotations

import os
import smtplib
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest
from live.daemon import Mtad, Sink

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mtad's master runs as root")
pytestmark = ROOT

DELAY = 0.2

ANSWERS = {
    "Subject:%20slow": "200 REPLACE%20Subject:%20found",
    "slow@example.com": "200 fast@example.org",
    "alias@example.net": "200 one@example.net,two@example.net",
    "drop": "200 IGNORE",
    "broken": "400 out%20of%20order",
}


class _Answers(socketserver.StreamRequestHandler):
    """tcp_table(5), slowly."""

    def handle(self) -> None:
        for line in self.rfile:
            key = line.decode().strip().partition(" ")[2]
            time.sleep(DELAY)
            self.wfile.write(ANSWERS.get(key, "500 no").encode() + b"\n")


@pytest.fixture(scope="module")
def table() -> Iterator[str]:
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Answers)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"tcp:127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def _send(port: int, recipient: str, body: str, sender: str = "slow@example.com") -> float:
    begun = time.monotonic()
    with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
        client.sendmail(sender, [recipient], f"From: {sender}\r\nSubject: slow\r\n\r\n{body}")
    return time.monotonic() - begun


def test_slow_tables(table: str) -> None:
    with Sink() as sink:
        main = {
            "relayhost": f"[127.0.0.1]:{sink.port}",
            "mynetworks": "127.0.0.0/8",
            "canonical_maps": table,
            "canonical_classes": "envelope_sender",
            "virtual_alias_maps": table,
            "virtual_alias_domains": "",
            "mtad_smtpd_workers": "1",
            "header_checks": table,
            "body_checks": table,
        }
        options = "no_address_mappings, no_header_body_checks, no_unknown_recipient_checks"
        plain = ("plain", {"receive_override_options": options})
        with Mtad(main, services=[("submission", {}), plain]) as mtad:
            slow = mtad.ports["submission"]
            took: list[float] = []
            quick: list[float] = []
            threads = [
                threading.Thread(
                    target=lambda: took.append(_send(slow, "alias@example.net", "keep\r\ndrop\r\n"))
                )
                for _ in range(3)
            ]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):  # who asks no table does not wait
                quick.append(_send(mtad.ports["plain"], "bob@example.net", "x\r\n", "x@example.com"))
                threads[0].join(DELAY)
            for thread in threads:
                thread.join()
            with pytest.raises(smtplib.SMTPDataError) as refused:
                _send(slow, "bob@example.net", "keep\r\nbroken\r\n")
            assert refused.value.smtp_code == 451
            assert sorted(quick)[len(quick) // 2] < min(took) / 2
            # each of the others had to wait for at least the sender, the recipients, the headers and the body
            assert len(took) == 3 and min(took) > 5 * DELAY
            sink.wait_for(4)
            mails = [mail for mail in sink.mails() if mail["Subject"] == "found"]
            assert len(mails) == 3
            assert all(str(mail.get_payload()).split() == ["keep"] for mail in mails)
