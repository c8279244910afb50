"""Connections to table servers: lines and blocks of bytes, each exchange with a deadline.

:class:`Endpoint` is ``inet:host:port`` or ``unix:path``.  A :class:`Stream` raises :class:`StreamError`
when the server can't be reached, goes away, says too much, or takes too long.

Postfix counterpart: ``auto_clnt(3)``, ``netstring(3)``, ``vstring_get_bound()``.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass

from mtad.errors import ConfigError, TableError

_CHUNK = 16384


class StreamError(TableError):
    """A conversation that failed.  ``again``: the connection broke, a new one may do."""

    def __init__(self, text: str, *, again: bool = False) -> None:
        super().__init__(text)
        self.again = again


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server listens; ``port`` is None for a UNIX-domain socket."""

    name: str
    port: str | None

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        kind, colon, rest = text.partition(":")
        if kind == "unix" and rest:
            return cls(rest, None)
        if kind == "inet" and colon:
            return cls.parse_inet(rest)
        raise ConfigError(f'invalid transport name: "{text}"', remedy="use inet:host:port or unix:pathname")

    @classmethod
    def parse_inet(cls, text: str) -> Endpoint:
        """``host:port`` or ``[host]:port``; a missing host is this one."""
        host, _, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        if not port:
            raise ConfigError(f'no port in "{text}"', remedy="use host:port")
        return cls(host or "localhost", port)

    def __str__(self) -> str:
        return f"unix:{self.name}" if self.port is None else f"inet:{self.name}:{self.port}"


class Stream:
    """A connection; ``timeout`` is for each exchange."""

    def __init__(self, endpoint: Endpoint, timeout: float) -> None:
        self.born = time.monotonic()
        self._timeout = timeout
        self._deadline = self.born + timeout
        self._buffer = b""
        try:
            self._socket = _connect(endpoint, timeout)
        except OSError as error:  # gaierror, too
            raise StreamError(f"connect to {endpoint}: {error.strerror or error}") from error

    def send(self, data: bytes) -> None:
        """Begin an exchange."""
        self._deadline = time.monotonic() + self._timeout
        self._socket.settimeout(self._timeout)
        try:
            self._socket.sendall(data)
        except TimeoutError as error:
            raise StreamError("time limit exceeded") from error
        except OSError as error:
            raise StreamError(f"write: {error.strerror}", again=True) from error

    def line(self, limit: int) -> bytes:
        """The next line, without its end (LF or CRLF); at most ``limit`` bytes."""
        while (end := self._buffer.find(b"\n", 0, limit + 1)) < 0:
            if len(self._buffer) > limit:
                raise StreamError(f"text longer than {limit}")
            self._fill()
        line, self._buffer = self._buffer[:end], self._buffer[end + 1 :]
        return line.removesuffix(b"\r")

    def exactly(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        parts = [self._buffer]
        left = size - len(self._buffer)
        while left > 0:
            self._buffer = b""
            self._fill()
            parts.append(self._buffer)
            left -= len(self._buffer)
        data = b"".join(parts)
        self._buffer = data[size:]
        return data[:size]

    def close(self) -> None:
        self._socket.close()

    def _fill(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise StreamError("time limit exceeded")
        self._socket.settimeout(left)
        try:
            data = self._socket.recv(_CHUNK)
        except TimeoutError as error:
            raise StreamError("time limit exceeded") from error
        except OSError as error:
            raise StreamError(f"read: {error.strerror}", again=True) from error
        if not data:
            raise StreamError("unexpected EOF", again=True)
        self._buffer += data


def _connect(endpoint: Endpoint, timeout: float) -> socket.socket:
    if endpoint.port is None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            connection.connect(endpoint.name)
        except OSError:
            connection.close()
            raise
        return connection
    return socket.create_connection((endpoint.name, endpoint.port), timeout)
