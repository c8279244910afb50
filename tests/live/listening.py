"""A server on a free port whose connections run in threads, each as a talk of its own."""

from __future__ import annotations

import contextlib
import socket
import threading
from abc import ABC, abstractmethod
from typing import Generic, Protocol, Self, TypeVar


class HasConnection(Protocol):
    """What a talk has at the least."""

    connection: socket.socket


T = TypeVar("T", bound=HasConnection)


class Listening(ABC, Generic[T]):
    """Use it as a context manager.  ``talks`` are its connections, in the order in which they came."""

    def __init__(self) -> None:
        self.talks: list[T] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for talk in self.talks:
            self._end(talk)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            talk = self._begin(connection)
            self.talks.append(talk)
            threading.Thread(target=self._talk, args=(talk,), daemon=True).start()

    @staticmethod
    def _end(talk: HasConnection) -> None:
        for end in (lambda: talk.connection.shutdown(socket.SHUT_RDWR), talk.connection.close):
            with contextlib.suppress(OSError):
                end()

    @abstractmethod
    def _begin(self, connection: socket.socket) -> T:
        """A new connection."""

    @abstractmethod
    def _talk(self, talk: T) -> None:
        """A connection's life, in its thread."""
