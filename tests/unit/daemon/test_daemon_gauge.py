"""When the queue manager is said to be behind."""

from __future__ import annotations

from twisted.internet.task import Clock

from mtad.daemon.gauge import Gauge
from mtad.errors import QueueError
from mtad.queue.pressure import Pressure


class World:
    """A manager with room for 10 messages, all of it taken; it has taken messages up to ``taken``."""

    def __init__(self) -> None:
        self.clock, self.pressure = Clock(), Pressure()
        self.newest, self.taken, self.asked = 100, 0, 0
        self.broken = False
        self.gauge = Gauge(self.behind, self.last, self.pressure, self.clock)
        self.pressure.say(True)  # as one that was killed has left it
        self.gauge.start()

    def behind(self, first: int, last: int) -> bool:
        self.asked += 1
        return last - max(first, self.taken) > 10

    def last(self) -> int:
        if self.broken:
            raise QueueError("locked")
        return self.newest

    def comes(self, count: int) -> bool:
        self.newest += count
        self.gauge.look()
        return bool(self.pressure)


def test_what_was_there_before_does_not_count() -> None:
    world = World()
    assert not world.pressure
    assert not world.comes(10)


def test_behind_and_not_any_more() -> None:
    world = World()
    assert world.comes(11)
    world.clock.advance(0.5)
    assert world.pressure
    world.taken = 105
    world.clock.advance(0.5)
    assert not world.pressure
    assert not world.clock.getDelayedCalls()


def test_it_looks_seldom() -> None:
    world = World()
    for _ in range(50):
        world.comes(0)
    assert world.asked == 1
    world.clock.advance(0.5)
    world.comes(0)
    assert world.asked == 2


def test_a_queue_that_cannot_be_read_is_no_reason_to_wait() -> None:
    world = World()
    world.broken = True
    assert not world.comes(50)


def test_the_end() -> None:
    world = World()
    assert world.comes(20)
    world.gauge.stop()
    assert not world.pressure
    assert not world.clock.getDelayedCalls()
