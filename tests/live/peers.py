"""Servers and clients that behave as a test tells them, byte by byte.

``Peer`` is an SMTP server: each connection runs in a thread, and what the server says at a stage
(``connect``, ``helo``, ``starttls``, ``auth``, ``mail``, ``rcpt``, ``data``, ``dot``, ``quit``) can be
replaced by a function of the :class:`Talk`, which may wait, close, inject or never return.
``Client`` is a socket with replies.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Mapping

from live.listening import Listening

Stage = Callable[["Talk"], bytes | None]

EHLO = b"250-peer.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SIZE\r\n250 DSN\r\n"


class Talk:
    """One connection of a :class:`Peer`."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.buffer = b""
        self.received = b""  # everything, as it came
        self.lines: list[bytes] = []  # the commands
        self.bodies: list[bytes] = []  # message contents with the dots, without the end
        self.tls = False

    def say(self, data: bytes) -> None:
        self.connection.sendall(data)

    def more(self) -> bool:
        data = self.connection.recv(65536)
        self.received += data
        self.buffer += data
        return bool(data)

    def line(self) -> bytes | None:
        """The next line without its end, or None when the client has gone."""
        while b"\n" not in self.buffer:
            if not self.more():
                return None
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.rstrip(b"\r")

    def body(self) -> bytes | None:
        """The message, read as RFC 5321 has it."""
        while True:
            if self.buffer.startswith(b".\r\n"):
                self.buffer = self.buffer[3:]
                return b""
            end = self.buffer.find(b"\r\n.\r\n")
            if end >= 0:
                body, self.buffer = self.buffer[: end + 2], self.buffer[end + 5 :]
                return body
            if not self.more():
                return None

    def start_tls(self, context: ssl.SSLContext) -> None:
        self.connection = context.wrap_socket(self.connection, server_side=True)
        self.buffer = b""
        self.tls = True

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()


class Peer(Listening[Talk]):
    """See the module."""

    def __init__(self, stages: Mapping[str, Stage] | None = None, tls: ssl.SSLContext | None = None) -> None:
        super().__init__()
        self.stages = dict(stages or {})
        self._tls = tls

    def bodies(self) -> list[bytes]:
        return [body for talk in self.talks for body in talk.bodies]

    def _begin(self, connection: socket.socket) -> Talk:
        return Talk(connection)

    def _talk(self, talk: Talk) -> None:
        with contextlib.suppress(OSError):
            self._serve(talk)
        talk.close()

    def _answer(self, talk: Talk, stage: str, usual: bytes) -> bytes:
        answer = self.stages[stage](talk) if stage in self.stages else usual
        if answer:
            talk.say(answer)
        return answer or b""

    def _serve(self, talk: Talk) -> None:
        self._answer(talk, "connect", b"220 peer.example ESMTP\r\n")
        while (line := talk.line()) is not None:
            talk.lines.append(line)
            verb = line.split(b" ")[0].upper()
            if verb in (b"EHLO", b"HELO"):
                offer = b"250-STARTTLS\r\n" if self._tls is not None and not talk.tls else b""
                self._answer(talk, "helo", EHLO.replace(b"250-8", offer + b"250-8"))
            elif verb == b"STARTTLS" and self._tls is not None:
                if self._answer(talk, "starttls", b"220 go\r\n").startswith(b"220"):
                    talk.start_tls(self._tls)
            elif verb == b"AUTH":
                self._answer(talk, "auth", b"235 welcome\r\n")
            elif verb == b"MAIL":
                self._answer(talk, "mail", b"250 sender ok\r\n")
            elif verb == b"RCPT":
                self._answer(talk, "rcpt", b"250 recipient ok\r\n")
            elif verb == b"DATA":
                if self._answer(talk, "data", b"354 go on\r\n").startswith(b"354"):
                    body = talk.body()
                    if body is None:
                        return
                    talk.bodies.append(body)
                    self._answer(talk, "dot", b"250 kept\r\n")
            elif verb == b"QUIT":
                self._answer(talk, "quit", b"221 bye\r\n")
                return
            else:
                talk.say(b"250 ok\r\n")


class Client:
    """A connection to mtad; a context manager."""

    def __init__(self, port: int, *, greeted: bool = True, timeout: float = 60.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self._buffer = b""
        self.greeting = self.reply() if greeted else b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def say(self, line: bytes) -> bytes:
        """Send a line, give the reply."""
        self.send(line + b"\r\n")
        return self.reply()

    def read_line(self) -> bytes:
        """A line with its end, b"" at the end of the connection."""
        while b"\n" not in self._buffer:
            data = self.socket.recv(65536)
            if not data:
                break
            self._buffer += data
        line, end, self._buffer = self._buffer.partition(b"\n")
        return line + end

    def reply(self) -> bytes:
        """A whole reply with its line ends; b"" at the end of the connection."""
        reply = line = self.read_line()
        while line[3:4] == b"-":
            line = self.read_line()
            reply += line
        return reply

    def rest(self) -> bytes:
        """All that comes until the connection ends."""
        out, self._buffer = self._buffer, b""
        with contextlib.suppress(ConnectionResetError):
            while data := self.socket.recv(65536):
                out += data
        return out

    def start_tls(self) -> None:
        """The handshake, after STARTTLS."""
        self.socket = trusting().wrap_socket(self.socket)

    def begin(self, recipients: int = 1) -> None:
        """A transaction up to the reply to DATA."""
        assert self.say(b"MAIL FROM:<a@example.com>").startswith(b"250")
        for number in range(recipients):
            assert self.say(b"RCPT TO:<b%d@example.net>" % number).startswith(b"250")
        assert self.say(b"DATA").startswith(b"354")

    def submit(self, subject: str, text: bytes = b"text\r\n") -> bytes:
        """A whole transaction; the last reply."""
        self.begin()
        self.send(f"From: a@example.com\r\nSubject: {subject}\r\n\r\n".encode() + text + b".\r\n")
        return self.reply()


def trusting() -> ssl.SSLContext:
    """A client's context that takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def submit(port: int, subject: str, text: bytes = b"text\r\n") -> bytes:
    """One mail in a session of its own."""
    with Client(port) as client:
        client.say(b"EHLO client.example")
        return client.submit(subject, text)
