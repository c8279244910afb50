"""What users of the host may do to the control socket."""

from __future__ import annotations

import json
import pwd
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from mtad.config.parameters import Parameters
from mtad.daemon import control
from mtad.daemon.control import ControlServer
from mtad.queue.message import DEFERRED, Message, Recipient
from mtad.tables.blocking import BlockingTable


class Transport:
    """A connection of user ``uid``."""

    disconnecting = False

    def __init__(self, clock: Clock, uid: int) -> None:
        self.reactor, self.uid, self.aborted = clock, uid, False
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def getHandle(self) -> Any:
        return SimpleNamespace(getsockopt=lambda *_: struct.pack("3i", 1, self.uid, 1))

    def abortConnection(self) -> None:
        self.aborted = True


class World:
    def __init__(self, messages: int = 0, **settings: str) -> None:
        self.clock = Clock()
        self.flushed: list[Any] = []
        manager: Any = SimpleNamespace(snapshot=lambda: ["A"] * 100, flush=self.flush)
        store: Any = SimpleNamespace(
            listing=lambda: (
                Message(f"M{n}", b"", [Recipient(b"a@b.example")], 1.0, state=DEFERRED)
                for n in range(messages)
            )
        )
        self.server = ControlServer(Parameters.from_mapping(settings), manager, store, lambda: None)

    def flush(self, ids: Any) -> Deferred[int]:
        self.flushed.append(ids)
        return succeed(len(ids))

    def connect(self, uid: int = 12345) -> tuple[Any, Transport]:
        conversation: Any = self.server.buildProtocol(None)
        transport = Transport(self.clock, uid)
        conversation.makeConnection(transport)
        return conversation, transport


SHOWQ = json.dumps({"command": "showq"}).encode() + b"\n"


def test_a_user_gets_one_answer() -> None:
    """Else who does not read fills our memory."""
    conversation, transport = World().connect()
    conversation.dataReceived(SHOWQ * 5)
    assert transport.aborted
    assert len(transport.written.splitlines()) == 1
    conversation, transport = World().connect(uid=0)
    conversation.dataReceived(SHOWQ * 5)
    assert len(transport.written.splitlines()) == 5


def test_silent_users_keep_nobody_out() -> None:
    world = World()
    crowd = [world.connect() for _ in range(control._MOST_GUESTS)]
    assert not any(transport.aborted for _, transport in crowd)
    assert world.connect()[1].aborted
    assert not world.connect(uid=0)[1].aborted  # root comes in all the same
    world.clock.advance(61)
    assert all(transport.aborted for _, transport in crowd)
    for conversation, _ in crowd:
        conversation.connectionLost()
    assert world.clock.getDelayedCalls() == []


def test_nonsense_is_answered() -> None:
    for line in (b"[" * 4000, b"{", b"\xff", b"1"):
        conversation, transport = World().connect()
        conversation.dataReceived(line + b"\n")
        assert b"not a JSON object" in transport.written


class Threads:
    """Work of threads, done when it is time."""

    def __init__(self) -> None:
        self.work: list[tuple[Any, Deferred[Any]]] = []

    def run(self, lane: object, work: Any) -> Deferred[Any]:
        self.work.append((work, Deferred()))
        return self.work[-1][1]


def test_a_slow_user_database_holds_up_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    threads = Threads()
    monkeypatch.setattr(BlockingTable, "runner", threads)
    names = tmp_path / "names"
    names.write_text(f"somebody\n{pwd.getpwuid(1).pw_name}\n")
    world = World(authorized_mailq_users=str(names))
    answers = []
    for uid in (1, 2, 1):
        conversation, transport = world.connect(uid)
        conversation.dataReceived(SHOWQ)
        assert transport.written == b""
        work, done = threads.work.pop()
        done.callback(work())
        answers.append(json.loads(transport.written))
        names.unlink(missing_ok=True)  # it was read once
    assert [answer["ok"] for answer in answers] == [True, False, True]
    assert answers[1]["error"] == f"User {pwd.getpwuid(2).pw_name}(2) is not allowed to do this"


def test_looking_for_a_site_lets_others_have_their_turn() -> None:
    world = World(messages=1200)
    conversation, transport = world.connect()
    conversation.dataReceived(json.dumps({"command": "flush-site", "site": "B.example"}).encode() + b"\n")
    assert not world.flushed
    for _ in range(3):
        world.clock.advance(0)
    assert [len(ids) for ids in world.flushed] == [1200]
    assert json.loads(transport.written) == {"ok": True, "count": 1200}
