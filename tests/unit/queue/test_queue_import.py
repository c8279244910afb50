"""Files of Postfix's queue, good and damaged, become messages."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from mtad.queue.blocking import BlockingStore
from mtad.queue.message import Message
from mtad.queue.postfix import records as rec
from mtad.queue.postfix.files import QueueDirectory
from mtad.queue.postfix.records import pack
from mtad.queue.transfer import Count, Import

HEAD = pack(rec.TIME, b"1000 0") + pack(rec.SENDER, b"a@b.example")
TAIL = (
    pack(rec.RECIPIENT, b"c@d.example") + pack(rec.MESSAGE, b"") + pack(rec.LINE, b"x")
    + pack(rec.EXTRACTED, b"") + pack(rec.END, b"")
)  # fmt: skip


class World:
    """A queue of Postfix's, and ours."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "mtad").mkdir()
        self.where = QueueDirectory(str(root), frozenset(), 0)
        self._ids = (f"NEW{number}" for number in count(1))

    def put(self, path: str, data: bytes) -> None:
        whole = self.root / path
        whole.parent.mkdir(exist_ok=True)
        whole.write_bytes(data)
        whole.chmod(0o700)

    def run(self, first: Callable[[BlockingStore], None] = lambda queue: None) -> tuple[Count, list[Message]]:
        with BlockingStore(str(self.root / "mtad")) as queue:
            first(queue)
            done = Import(queue, self.where, str(self.root / "mtad"), lambda: next(self._ids)).run()
            return done, list(queue.store.listing())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [pack(rec.POINTER, b"9" * 30), pack(rec.POINTER, b"9" * 18), b"z\0", b"R\xff\xff\xff\xff\xff", b"R\x05"],
    ids=["number", "end", "type", "length", "short"],
)
def test_a_damaged_file_holds_up_no_other(world: World, damage: bytes) -> None:
    world.put("deferred/A1", HEAD + TAIL)
    world.put("deferred/B2", HEAD + damage + (TAIL if damage[:1] != b"R" else b""))
    world.put("deferred/C3", HEAD + TAIL)
    done, messages = world.run()
    assert sorted(message.queue_id for message in messages) == ["A1", "C3"]
    assert len(done.left) == 1 and "deferred/B2" in done.left[0]
    assert (world.root / "deferred" / "B2").exists()


def test_two_files_of_one_name(world: World) -> None:
    """As where somebody has copied a file back."""
    world.put("hold/A1", HEAD + TAIL)
    world.put("deferred/A1", HEAD + TAIL)
    done, messages = world.run()
    assert done.moved == 2
    assert [(message.queue_id, message.state) for message in messages] == [
        ("A1", "hold"),
        ("NEW1", "deferred"),
    ]


def test_no_mail_from_the_future(world: World) -> None:
    """Dates that no calendar has would make the queue unprintable."""
    world.put("deferred/A1", pack(rec.TIME, b"9" * 18) + HEAD + TAIL)
    _, (message,) = world.run()
    assert time.time() - 100 < message.arrival <= time.time()


def test_what_is_forgotten_is_gone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that fails may bring back files that were not removed for good; then they are known still."""
    world.put("deferred/A1", HEAD + TAIL)
    world.put("deferred/B2", HEAD + TAIL)
    steps: list[str] = []

    def watched(name: str, do: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object) -> object:
            if name != "gone" or str(arguments[0]).endswith(("/A1", "/B2")):
                steps.append(name)
            return do(*arguments)

        return step

    def watch(queue: BlockingStore) -> None:
        monkeypatch.setattr("os.unlink", watched("gone", os.unlink))
        monkeypatch.setattr("os.sync", watched("sync", os.sync))
        forget = watched("forget", queue.store.forget_taken)
        monkeypatch.setattr(queue.store, "forget_taken", forget)

    world.run(watch)
    assert steps[-2:] == ["sync", "forget"]
    assert "gone" in steps[:-2]


def test_a_killed_import_goes_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    for name in ("A1", "B2", "C3"):
        world.put(f"deferred/{name}", HEAD + TAIL)
    unlink = os.unlink
    gone: list[str] = []

    def one_only(path: str) -> None:
        if "/deferred/" in path:
            if gone:
                raise Killed
            gone.append(path)
        unlink(path)

    with monkeypatch.context() as patch:
        patch.setattr("os.unlink", one_only)
        with pytest.raises(Killed):
            world.run()
    done, messages = world.run()
    assert sorted(message.queue_id for message in messages) == ["A1", "B2", "C3"]
    assert not list((world.root / "deferred").iterdir())
    assert (done.left, done.renamed) == ([], [])
