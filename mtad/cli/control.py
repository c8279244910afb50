"""Asks the running queue manager, through the control socket in ``mtad_queue_directory``.

A request and its answer are each one line of JSON; an answer says ``"ok": true``, or ``false`` and ``error``.
Postfix counterpart: ``mail_connect(3)``, ``flush_clnt(3)``.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

from mtad.errors import MtadError

_CHUNK = 65536
_LIMIT = 256 * 1024 * 1024


class ControlError(MtadError):
    """No sensible answer came."""


class SystemDown(ControlError):
    """Nobody is there to answer."""


def ask(path: str, request: dict[str, Any], timeout: float) -> dict[str, Any]:
    """The answer to ``request``; gives up after ``timeout`` seconds of silence.

    Raises SystemDown where nobody listens, ControlError for anything else."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            _connect(connection, path)
            connection.sendall(json.dumps(request).encode() + b"\n")
            line = _read_line(connection)
    except OSError as error:
        raise ControlError(f"{path}: {error.strerror or error}") from error
    return _answer(path, line)


def stream(path: str, request: dict[str, Any], timeout: float) -> Iterator[bytes]:
    """What follows the answer to ``request``, in pieces.  Raises as :func:`ask` does, and ControlError where
    the answer is not ``ok``."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            _connect(connection, path)
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as reader:
                answer = _answer(path, reader.readline(_CHUNK))
                if not answer.get("ok"):
                    raise ControlError(str(answer.get("error")))
                while piece := reader.read1(_CHUNK):
                    yield piece
    except OSError as error:
        raise ControlError(f"{path}: {error.strerror or error}") from error


def _answer(path: str, line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except ValueError as error:
        raise ControlError(f"{path}: malformed answer") from error
    if not isinstance(answer, dict):
        raise ControlError(f"{path}: malformed answer")
    return answer


def _connect(connection: socket.socket, path: str) -> None:
    try:
        connection.connect(path)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise SystemDown(f"{path}: {error.strerror}") from error


def _read_line(connection: socket.socket) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := connection.recv(_CHUNK):
        parts.append(part)
        size += len(part)
        if part.endswith(b"\n"):
            break
        if size > _LIMIT:
            raise ControlError("the answer is too long")
    return b"".join(parts)
