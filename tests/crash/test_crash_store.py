"""The queue's promise when processes are killed at any moment: what was acknowledged is there, whole.

Several writers and one that delivers share a queue; each says on a pipe what it was promised.  They are
killed one after the other at random moments, and the queue is compared with what they had said.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import select
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from mtad.queue.ids import QueueIds
from mtad.queue.message import Message, Outcome, Recipient
from mtad.queue.sqlite import SQLiteStore

ROUNDS = 12
WRITERS = 3
BATCH = 10  # messages that are delivered at a time
PIECE = 65536


class Loop:
    """A reactor of sorts, for one process."""

    def __init__(self) -> None:
        self.calls: SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]]] = SimpleQueue()

    def callFromThread(self, callable: Callable[..., object], *args: object) -> None:
        self.calls.put((callable, args))

    def turn(self) -> None:
        call, args = self.calls.get(timeout=60)
        call(*args)


def content_of(queue_id: str) -> bytes:
    """The content that belongs to an id, so that it need not be remembered: some is large."""
    seed = hashlib.sha256(queue_id.encode()).digest()
    size = seed[0] * 8 if seed[1] > 10 else 5 * PIECE * seed[0]
    return (seed * (size // len(seed) + 1))[:size]


def message_of(queue_id: str) -> Message:
    data = content_of(queue_id)
    people = [Recipient(b"%d@example.net" % n) for n in range(1 + data[:1].count(b"A") * 3)]
    message = Message(queue_id, b"s@example.com", people, time.time(), size=len(data))
    if len(data) > PIECE:
        message.spool = io.BytesIO(data)
    else:
        message.content = data
    return message


def write_messages(directory: str, pipe: int) -> None:
    """Keep a few messages under way; say which are safe."""
    loop = Loop()
    store = SQLiteStore(directory, loop)
    store.open()
    ids = QueueIds(long=True)
    under_way = 0

    def safe(_: None, queue_id: str) -> None:
        nonlocal under_way
        under_way -= 1
        os.write(pipe, b"+%b\n" % queue_id.encode())

    while True:
        while under_way < 8:
            under_way += 1
            queue_id = ids.next()
            store.enqueue(message_of(queue_id)).addCallbacks(safe, fatal, callbackArgs=(queue_id,))
        loop.turn()


def deliver_messages(directory: str, pipe: int) -> None:
    """Finish what comes in; say what may be gone, and then what is."""
    loop = Loop()
    store = SQLiteStore(directory, loop)
    store.open()
    after = 0
    batch: list[Message] = []

    def gone(removed: bool, queue_id: str) -> None:
        assert removed
        batch.pop()
        os.write(pipe, b"-%b\n" % queue_id.encode())

    while True:
        found: list[Message] = []
        store.incoming(after, BATCH).addCallbacks(found.extend, fatal)
        for message in found:
            after = message.seq
            if message.queue_id[-4] in "05BFJNSWbf":  # some stay
                continue
            batch.append(message)
            os.write(pipe, b"?%b\n" % message.queue_id.encode())
            outcomes = [Outcome(r, "sent", "2.0.0", "ok") for r in message.recipients]
            done = store.finish(message, outcomes, 0.0)
            done.addCallbacks(gone, fatal, callbackArgs=(message.queue_id,))
        while batch:
            loop.turn()


def fatal(failure: object) -> None:
    os.write(2, f"{failure}\n".encode())
    os._exit(3)


@contextmanager
def child(work: Callable[[str, int], None], directory: Path) -> Iterator[tuple[int, int]]:
    """A process doing ``work``; its id and the pipe from it."""
    mine, its = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 4
        try:
            os.close(mine)
            work(str(directory), its)
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
        finally:
            os._exit(status)
    os.close(its)
    try:
        yield pid, mine
    finally:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(mine)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), f"ended by itself: {os.waitstatus_to_exitcode(status)}"


def listen(pipes: list[int], seconds: float, said: dict[int, bytes]) -> None:
    """Take what is said for so long."""
    end = time.monotonic() + seconds
    open_pipes = list(pipes)
    poll = select.poll()  # not select(), which knows descriptors up to 1023 only
    for pipe in open_pipes:
        poll.register(pipe, select.POLLIN)
    while open_pipes and (left := end - time.monotonic()) > 0:
        for pipe, _ in poll.poll(left * 1000):
            data = os.read(pipe, 1 << 20)
            said[pipe] = said.get(pipe, b"") + data
            if not data:
                poll.unregister(pipe)
                open_pipes.remove(pipe)


@dataclass
class Told:
    """Ids that the processes told of: acknowledged, given to be removed, and known to be removed."""

    safe: set[str] = field(default_factory=set)
    tried: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)


def one_round(directory: Path, dice: random.Random, told: Told) -> None:
    said: dict[int, bytes] = {}
    work = [write_messages] * WRITERS + [deliver_messages]
    children = [child(each, directory) for each in work]
    running = [each.__enter__() for each in children]
    try:
        pipes = [pipe for _, pipe in running]
        while not all(pipe in said for pipe in pipes[:WRITERS]):
            listen(pipes, 0.01, said)
        for pid, pipe in dice.sample(running, len(running)):
            listen(pipes, dice.uniform(0.0, 0.06), said)
            kill(pid)
            listen([pipe], 60, said)  # to its end
            pipes.remove(pipe)
    finally:
        for each in children:
            each.__exit__(None, None, None)
    for data in said.values():
        for line in data.split(b"\n")[:-1]:
            {b"+": told.safe, b"?": told.tried, b"-": told.gone}[line[:1]].add(line[1:].decode())


def check(directory: Path, told: Told) -> None:
    loop = Loop()
    store = SQLiteStore(str(directory), loop)
    store.open()
    listed = {message.queue_id: message for message in store.listing()}
    missing = told.safe - told.gone - set(listed)
    assert not missing - told.tried, "acknowledged, and lost"
    assert len(missing) <= BATCH, "more are gone than were under way"
    assert not told.gone & set(listed), "delivered, and back again"
    told.gone |= missing
    for queue_id, message in listed.items():
        assert b"".join(store.read(message)) == content_of(queue_id)
        assert len(message.recipients) == message.recipient_count == len(message_of(queue_id).recipients)
    closed: list[None] = []
    store.close().addCallback(closed.append)
    while not closed:
        loop.turn()
    db = sqlite3.connect(directory / "queue.db")
    try:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT count(*) FROM partial").fetchone() == (0,)
        orphans = "SELECT count(*) FROM piece WHERE id >> 20 NOT IN (SELECT content FROM message)"
        assert db.execute(orphans).fetchone() == (0,)
        orphans = "SELECT count(*) FROM recipient WHERE id >> 20 NOT IN (SELECT seq FROM message)"
        assert db.execute(orphans).fetchone() == (0,)
    finally:
        db.close()


def test_killed_at_any_moment(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    told = Told()
    for _ in range(ROUNDS):
        one_round(tmp_path, dice, told)
        check(tmp_path, told)
    assert len(told.safe) > 10 * ROUNDS
    assert told.gone
    print(f"{len(told.safe)} acknowledged, {len(told.gone)} delivered")
