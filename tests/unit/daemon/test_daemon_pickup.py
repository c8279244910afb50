"""One user's files hold up nobody else's."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.task import Clock

from mtad.config.parameters import Parameters
from mtad.daemon.pickup import PickupRole
from mtad.errors import MtadError, QueueError, TableError
from mtad.maillog import ListSink, MailLog
from mtad.queue.message import Message
from mtad.smtpd.pickup import NotNow, Unfit


class Taker:
    """Takes files, and fails at some."""

    def __init__(self, failures: dict[str, Exception]) -> None:
        self.failures = failures
        self.seen: list[str] = []

    async def take(self, path: str) -> bool:
        name = Path(path).name
        self.seen.append(name)
        if name in self.failures:
            raise self.failures[name]
        Path(path).unlink()
        return True


class World:
    def __init__(self, root: Path, failures: dict[str, Exception]) -> None:
        self.root, self.clock, self.sink = root, Clock(), ListSink()
        (root / "maildrop").mkdir()
        for name in [*failures, *(f"good{n}" for n in range(5))]:
            path = root / "maildrop" / name
            path.write_bytes(b"")
            path.chmod(0o744)
        p = Parameters.from_mapping({"queue_directory": str(root)})
        around: Any = SimpleNamespace(
            plan=SimpleNamespace(p=p),
            log=MailLog(self.sink, "postfix"),
            reactor=self.clock,
            paths=SimpleNamespace(wakeup=str(root / "nobody")),
        )
        store: Any = SimpleNamespace(requeued=lambda limit, skip: [])
        self.role = PickupRole(around, store, frozenset)
        self.role._wakeup = SimpleNamespace(sendto=lambda *_: None)  # type: ignore[assignment]
        self.taker = Taker(failures)
        self.role._pickup = self.taker  # type: ignore[assignment]

    def look(self) -> list[str]:
        self.taker.seen.clear()
        asyncio.run(self.role._take_all())
        return sorted(self.taker.seen)

    @property
    def left(self) -> list[str]:
        return sorted(path.name for path in (self.root / "maildrop").iterdir())


@pytest.mark.parametrize(
    "failure", [NotNow("451"), TableError("no server"), RecursionError("a mistake of ours"), MtadError("x")]
)
def test_a_file_that_fails_waits_alone(tmp_path: Path, failure: Exception) -> None:
    world = World(tmp_path, {"bad1": failure, "bad2": failure})
    assert len(world.look()) == 7
    assert world.left == ["bad1", "bad2"]
    assert world.look() == []  # it is not worked at for each file of others
    world.clock.advance(61)
    assert world.look() == ["bad1", "bad2"]
    assert sum("bad1" in line or "mistake" in line for _, _, line in world.sink.lines) >= 2


def test_where_the_queue_fails_nothing_is_taken(tmp_path: Path) -> None:
    world = World(tmp_path, {"bad": QueueError("full")})
    with pytest.raises(QueueError):
        world.look()


def test_a_file_of_no_use_is_set_aside(tmp_path: Path) -> None:
    world = World(tmp_path, {"bad": Unfit("nothing")})
    assert len(world.look()) == 6
    assert world.left == []
    assert [path.name for path in (tmp_path / "corrupt").iterdir()] == ["bad"]


def test_files_that_vanish(tmp_path: Path) -> None:
    world = World(tmp_path, {"gone": FileNotFoundError()})
    assert len(world.look()) == 6
    (tmp_path / "maildrop" / "link").symlink_to("nowhere")
    assert "link" not in world.look()


@pytest.mark.parametrize("failure", [NotNow("451"), ValueError("a mistake of ours")])
def test_a_message_that_fails_waits_alone(tmp_path: Path, failure: Exception) -> None:
    """One that is to go through intake once more."""
    world = World(tmp_path, {})
    waiting = {number: Message(f"M{number}", b"", [], 1.0, seq=number) for number in (1, 2, 3)}
    seen: list[int] = []

    async def resubmit(message: Message) -> None:
        seen.append(message.seq)
        if message.seq == 2:
            raise failure
        del waiting[message.seq]

    def requeued(limit: int, skip: frozenset[int]) -> list[Message]:
        return [message for seq, message in waiting.items() if seq not in skip][:limit]

    world.taker.resubmit = resubmit  # type: ignore[attr-defined]
    world.role._store = SimpleNamespace(requeued=requeued)  # type: ignore[assignment]
    world.look()
    world.look()
    assert seen == [1, 2, 3]
    world.clock.advance(61)
    world.look()
    assert seen == [1, 2, 3, 2]
