"""Clients that submit all the time and remember what was promised to them.

``Load(port, clients)`` is a context manager; each client says EHLO, sends a few mails and quits, again and
again.  ``accepted`` are the subjects whose mail was answered 250; ``refused`` counts connections that nobody
took, ``cut`` sessions that ended before QUIT was answered.
"""

from __future__ import annotations

import itertools
import smtplib
import socket
import threading


class Load:
    """See the module.  ``size``: bytes of text in each mail; ``mails``: how many a session sends; ``pause``:
    seconds between two."""

    def __init__(
        self, port: int, clients: int = 4, mails: int = 3, size: int = 600, pause: float = 0.004
    ) -> None:
        self.port = port
        self.accepted: set[str] = set()
        self.attempted = 0
        self.sessions = 0
        self.refused: list[str] = []
        self.cut: list[str] = []
        self._mails = mails
        self._pause = pause
        self._text = "".join(f"{n:078d}\r\n" for n in range(max(1, size // 80)))
        self._numbers = itertools.count(1)
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._client, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let every client finish its session."""
        self._end.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(60)
                assert not thread.is_alive(), "a client hangs"

    def _client(self) -> None:
        while not self._end.is_set():
            try:
                client = smtplib.SMTP("127.0.0.1", self.port, "client.example", timeout=60)
            except (ConnectionRefusedError, TimeoutError) as problem:
                self.refused.append(repr(problem))
                self._end.wait(0.01)
                continue
            except (OSError, smtplib.SMTPException) as problem:
                self.cut.append(f"greeting: {problem!r}")
                continue
            self.sessions += 1
            try:
                self._session(client)
            except (OSError, smtplib.SMTPException) as problem:
                self.cut.append(repr(problem))
            finally:
                client.close()

    def _session(self, client: smtplib.SMTP) -> None:
        client.ehlo()
        for _ in range(self._mails):
            subject = f"mail {next(self._numbers)}"
            self.attempted += 1
            text = f"From: a@example.com\r\nSubject: {subject}\r\n\r\n{self._text}"
            client.mail("a@example.com")
            client.rcpt("b@example.net")
            code, answer = client.data(text)
            if code != 250:
                raise smtplib.SMTPDataError(code, answer)
            self.accepted.add(subject)
            self._end.wait(self._pause)
        code, answer = client.docmd("QUIT")
        if code != 221:
            raise smtplib.SMTPResponseException(code, str(answer))


def silent(port: int) -> bool:
    """Whether nobody listens on the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
