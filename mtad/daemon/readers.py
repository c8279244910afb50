"""Small things for a reactor to read: wake-up datagrams, a pipe that ends with its writer."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer


@implementer(IReadDescriptor)
class DatagramReader:
    """Calls ``heard`` once for however many datagrams have come to the UNIX socket at ``path``."""

    def __init__(self, reactor: Any, path: str, heard: Callable[[], object]) -> None:
        self._reactor = reactor
        self._path = path
        self._heard = heard
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        self._socket.bind(path)
        os.chmod(path, 0o600)
        reactor.addReader(self)

    def fileno(self) -> int:
        return self._socket.fileno()

    def doRead(self) -> None:
        try:
            for _ in range(256):
                self._socket.recv(16)
        except OSError:
            pass
        self._heard()

    def close(self) -> None:
        self._reactor.removeReader(self)
        self._socket.close()

    def connectionLost(self, reason: Failure) -> None:
        pass

    def logPrefix(self) -> str:
        return "wakeup"


@implementer(IReadDescriptor)
class PipeWatch:
    """Calls ``gone`` when the other end of the pipe ``fd`` is closed: its holder has died."""

    def __init__(self, reactor: Any, fd: int, gone: Callable[[], object]) -> None:
        self._reactor = reactor
        self._fd = fd
        self._gone = gone
        os.set_blocking(fd, False)
        reactor.addReader(self)

    def fileno(self) -> int:
        return self._fd

    def doRead(self) -> None:
        try:
            if os.read(self._fd, 64):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._reactor.removeReader(self)
        self._gone()

    def connectionLost(self, reason: Failure) -> None:
        pass

    def logPrefix(self) -> str:
        return "master"
