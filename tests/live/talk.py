"""A client that says what it is told to, and hears whole replies."""

from __future__ import annotations

import socket


class Talk:
    """A connection to ``port`` of 127.0.0.1, whose greeting was heard."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._heard = self.socket.makefile("rb")
        self.hear()

    def hear(self) -> bytes:
        """The next reply, with all its lines."""
        reply = line = self._heard.readline()
        while line[3:4] == b"-":
            line = self._heard.readline()
            reply += line
        return reply

    def say(self, line: str | bytes) -> bytes:
        """The reply to a line, or to bytes as they are."""
        self.socket.sendall(line.encode() + b"\r\n" if isinstance(line, str) else line)
        return self.hear()

    def close(self) -> None:
        self._heard.close()
        self.socket.close()
