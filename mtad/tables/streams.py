"""Connections to table servers: lines and blocks of bytes, each exchange with a deadline.

A :class:`Stream` raises :class:`StreamError` when the server can't be reached, goes away, says too much, or
takes too long.

Postfix counterpart: ``auto_clnt(3)``, ``netstring(3)``, ``vstring_get_bound()``.
"""

from __future__ import annotations

import socket
import time

from mtad.config.endpoint import Endpoint
from mtad.errors import TableError

_CHUNK = 16384


class StreamError(TableError):
    """A conversation that failed.  ``again``: the connection broke, a new one may do."""

    def __init__(self, text: str, *, again: bool = False) -> None:
        super().__init__(text)
        self.again = again


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
