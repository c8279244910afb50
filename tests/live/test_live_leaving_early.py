"""A client that leaves behind its last dot: the message is taken, with all that was asked for it."""

from __future__ import annotations

import socket
import threading

from live.daemon import Mtad, Sink, wait_until

LINES = (b"EHLO x", b"MAIL FROM:<a@example.com>", b"RCPT TO:<b@example.net>", b"DATA")
TEXT = b"Subject: x\r\n\r\nbody\r\n.\r\n"


class SlowPolicy:
    """A policy service for one question, which it answers when it is told to; use it as a context manager."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.asked, self.answer = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        connection, _ = self._server.accept()
        with connection:
            connection.recv(65536)
            self.asked.set()
            self.answer.wait(10)
            connection.sendall(b"action=DUNNO\n\n")

    def __enter__(self) -> SlowPolicy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.answer.set()
        self._thread.join()
        self._server.close()


def test_a_complete_message_is_taken() -> None:
    with Sink() as sink, SlowPolicy() as policy:
        main = {
            "relayhost": f"[127.0.0.1]:{sink.port}",
            "mynetworks": "127.0.0.0/8",
            "smtpd_recipient_restrictions": "check_recipient_access static:{REDIRECT carol@example.net}",
            "smtpd_end_of_data_restrictions": f"check_policy_service inet:127.0.0.1:{policy.port}",
        }
        with Mtad(main) as mtad:
            before = mtad.log().count("disconnect from ")
            with socket.create_connection(("127.0.0.1", mtad.ports["submission"]), 10) as client:
                for line in LINES:
                    client.recv(4096)
                    client.sendall(line + b"\r\n")
                assert client.recv(4096).startswith(b"354 ")
                client.sendall(TEXT)
                assert policy.asked.wait(10)
            wait_until(lambda: mtad.log().count("disconnect from ") > before, "the client's end")
            policy.answer.set()
            wait_until(lambda: "status=sent" in mtad.log(), "delivery")
            (kept,) = (sink.root / "Maildir" / "new").iterdir()
            assert "X-Sink-Recipient: carol@example.net\n" in kept.read_text()
            assert kept.read_text().endswith("\n\nbody\n")
            assert "canceled" not in mtad.log()
