"""The threads in which tables wait, and sharing; threads are real, time is not."""

import queue
import threading

import pytest
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import Clock

from mtad.errors import TableError
from mtad.tables.blocking import BlockingTable, IdlePool, Lane, shared
from mtad.tables.table import Options
from mtad.tables.threads import Threads


class Reactor(Clock):
    """A clock to which threads can hand over calls; ``turn`` makes one of them."""

    def __init__(self):
        super().__init__()
        self._calls = queue.Queue()

    def callFromThread(self, function, *arguments):
        self._calls.put((function, arguments))

    def turn(self):
        function, arguments = self._calls.get(timeout=10)
        function(*arguments)


class Gate:
    """Work that begins, and ends when it is told to."""

    def __init__(self):
        self.begun = threading.Event()
        self.end = threading.Event()

    def __call__(self):
        self.begun.set()
        assert self.end.wait(10)
        return "done"


@pytest.fixture
def reactor():
    return Reactor()


def test_results_and_failures_come_home(reactor):
    threads = Threads(reactor)
    lane = Lane("x", 4)
    names = threads.run(lane, lambda: threading.current_thread().name)
    reactor.turn()
    assert names.result == "table"
    failed = threads.run(lane, lambda: 1 // 0)
    reactor.turn()
    caught = []
    failed.addErrback(lambda failure: caught.append(failure.type))
    assert caught == [ZeroDivisionError]
    assert lane.running == 0


def test_a_lane_that_hangs_holds_up_only_itself(reactor):
    threads = Threads(reactor)
    slow, fast = Lane("slow", 2), Lane("fast", 2)
    gates = [Gate() for _ in range(5)]
    hanging = [threads.run(slow, gate) for gate in gates]
    assert all(gate.begun.wait(10) for gate in gates[:2])
    for number in range(10):
        done = threads.run(fast, lambda number=number: number)
        reactor.turn()
        assert done.result == number
    assert not any(gate.begun.is_set() for gate in gates[2:])
    for gate in gates:
        gate.end.set()
    for _ in gates:
        reactor.turn()
    assert [each.result for each in hanging] == ["done"] * 5


def test_lanes_take_turns_for_the_last_threads(reactor):
    threads = Threads(reactor, limit=1)
    first = Gate()
    order = []
    threads.run(Lane("gate", 1), first)
    assert first.begun.wait(10)
    lanes = [Lane("a", 4), Lane("b", 4)]
    for lane in lanes:
        for _ in range(3):
            threads.run(lane, lambda lane=lane: order.append(lane.name))
    first.end.set()
    for _ in range(7):
        reactor.turn()
    assert order == ["a", "b", "a", "b", "a", "b"]


def test_too_much_work_is_refused(reactor):
    threads = Threads(reactor, backlog=2)
    lane, gate = Lane("x", 1), Gate()
    accepted = [threads.run(lane, gate) for _ in range(3)]
    with pytest.raises(TableError, match="x: too many lookups are waiting"):
        threads.run(lane, gate)
    gate.end.set()
    for each in accepted:
        reactor.turn()
        assert each.result == "done"


def test_work_that_waited_for_too_long_is_not_begun(reactor):
    threads = Threads(reactor, patience=60)
    lane, gate = Lane("x", 1), Gate()
    begun = []
    threads.run(lane, gate)
    late = threads.run(lane, lambda: begun.append(1))
    assert gate.begun.wait(10)
    reactor.advance(61)
    gate.end.set()
    reactor.turn()
    reactor.advance(0)
    caught = []
    late.addErrback(lambda failure: caught.append(failure.getErrorMessage()))
    assert caught == ["x: a lookup has waited for too long"]
    assert not begun
    again = threads.run(lane, lambda: "fine")
    reactor.turn()
    assert again.result == "fine"


class Table(BlockingTable):
    """Tells where it was asked."""

    released = 0

    def get(self, key):
        self.warn("asked")
        return threading.current_thread().name.encode()

    def release(self):
        self.released += 1


def test_lookups_go_to_a_thread_where_there_is_a_reactor(reactor, monkeypatch):
    warnings = []
    table = Table("x:y", Options(warn=warnings.append))

    def begin(key):
        return ensureDeferred(table.lookup(key))

    assert begin(b"key").result == b"MainThread"
    assert warnings == ["asked"]
    monkeypatch.setattr(BlockingTable, "runner", Threads(reactor))
    asked = begin(b"key")
    assert not asked.called
    reactor.turn()
    assert warnings == ["asked"] * 2
    reactor.turn()
    assert asked.result == b"table"
    assert begin(b"no\0key").result is None


def test_who_opens_a_table_twice_shares_it():
    def make():
        return Table("x:y", Options())

    first, second = shared("key", make), shared("key", make)
    assert first is second
    assert shared("other", make) is not first
    first.close()
    assert first.released == 0
    second.close()
    assert first.released == 1
    third = shared("key", make)
    assert third is not first
    third.close()


def test_idle_connections(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("mtad.tables.blocking.time.monotonic", lambda: now[0])
    closed = []
    pool = IdlePool(closed.append, max_idle=10)
    assert pool.take() is None
    pool.give("old")
    now[0] += 6
    pool.give("new")
    assert pool.take() == "new"
    pool.give("new")
    now[0] += 6
    assert pool.take() == "new"
    assert closed == ["old"]
    pool.give("new")
    pool.clear()
    assert closed == ["old", "new"]
    pool.shut()
    pool.give("late")
    assert closed == ["old", "new", "late"]
