"""A milter that does as a test tells it, byte by byte.

``FakeMilter(answers)`` listens on a free port; ``answers`` gives, by the letter of an event (``b"C"`` for
connect), the packets to answer with: bytes, a list, or a function of the :class:`Conversation` and the
event's data.  What is not named is answered with "continue".  ``milter.talks`` are its conversations:
``talk.events`` what it was told, ``talk.macros`` the macros by event.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping

from live.listening import Listening

from mtad.smtpd.milter import wire

Answer = bytes | list[bytes] | Callable[["Conversation", bytes], "bytes | list[bytes] | None"]

CONTINUE = wire.packet(wire.CONTINUE)


def negotiate(version: int = 6, actions: int = wire.ACTIONS, unwanted: int = 0, extra: bytes = b"") -> bytes:
    """The filter's half of the negotiation."""
    head = b"".join(value.to_bytes(4, "big") for value in (version, actions, unwanted))
    return wire.packet(wire.NEGOTIATE, head + extra)


class Conversation:
    """One connection of the MTA."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.offered: tuple[int, int, int] = (0, 0, 0)
        self.events: list[tuple[bytes, bytes]] = []
        self.macros: dict[bytes, dict[bytes, bytes]] = {}
        self.ended = threading.Event()

    @property
    def letters(self) -> bytes:
        """The events' letters, in order."""
        return b"".join(code for code, _ in self.events)

    def data(self, letter: bytes) -> list[bytes]:
        """What came with each event of that letter."""
        return [data for code, data in self.events if code == letter]

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that were shown."""
        return [tuple(data.split(b"\0")[:2]) for data in self.data(b"L")]  # type: ignore[misc]

    def body(self) -> bytes:
        return b"".join(self.data(b"B"))


class FakeMilter(Listening[Conversation]):
    """See the module."""

    def __init__(
        self, answers: Mapping[bytes, Answer] | None = None, negotiation: bytes | None = None
    ) -> None:
        super().__init__()
        self.answers = dict(answers or {})
        self.negotiation = negotiate() if negotiation is None else negotiation

    @property
    def name(self) -> str:
        return f"inet:127.0.0.1:{self.port}"

    def _begin(self, connection: socket.socket) -> Conversation:
        return Conversation(connection)

    def _talk(self, talk: Conversation) -> None:
        reader = wire.PacketReader()
        try:
            while data := talk.connection.recv(65536):
                for code, content in reader.receive(data):
                    self._event(talk, code, content)
        except (OSError, wire.BadPacket):
            pass
        finally:
            talk.ended.set()
            talk.connection.close()

    def _event(self, talk: Conversation, code: bytes, data: bytes) -> None:
        if code == wire.NEGOTIATE:
            talk.offered = tuple(int.from_bytes(data[at : at + 4], "big") for at in (0, 4, 8))  # type: ignore[assignment]
            talk.connection.sendall(self.negotiation)
            return
        if code == wire.MACRO:
            parts = data[1:].split(b"\0")[:-1]
            talk.macros[data[:1]] = dict(zip(parts[::2], parts[1::2], strict=True))
            return
        talk.events.append((code, data))
        if code in (wire.ABORT, wire.QUIT):
            return
        answer = self.answers.get(code, CONTINUE)
        if callable(answer):
            answer = answer(talk, data) or b""
        talk.connection.sendall(b"".join(answer) if isinstance(answer, list) else answer)
