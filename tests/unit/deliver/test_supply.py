"""When the queue manager looks into the store, and what it finds."""

from __future__ import annotations

from delivery_world import MemoryStore, finish
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mtad.config.parameters import Parameters
from mtad.deliver.supply import BATCH, Supply
from mtad.maillog import ListSink, MailLog
from mtad.queue.message import DEFERRED, Message, Recipient

RUN = 300


class Hands:
    """Takes messages, as slowly as it is told to."""

    def __init__(self) -> None:
        self.has: list[str] = []
        self.in_hand: set[int] = set()
        self.wait: Deferred[None] | None = None  # before it goes on
        self.passes: set[int] = set()  # of no interest
        self.clock = Clock()
        self.costs = 0.0  # seconds a batch

    def room(self) -> int:
        return 10_000

    def roomy(self) -> bool:
        return True

    def taken(self) -> frozenset[int]:
        return frozenset(self.in_hand)

    async def take(self, messages: list[Message]) -> Message | None:
        last = None
        for message in messages:
            last = message
            if message.seq not in self.passes and message.seq not in self.in_hand:
                self.has.append(message.queue_id)
                self.in_hand.add(message.seq)
        self.clock.rightNow += self.costs
        if self.wait is not None:
            await self.wait
        return last

    def tick(self) -> None:
        pass

    def searched(self) -> None:
        pass


class Scene:
    def __init__(self) -> None:
        self.hands = Hands()
        self.clock = self.hands.clock
        self.store = MemoryStore()
        p = Parameters.from_mapping({"queue_run_delay": f"{RUN}s"})
        log = MailLog(ListSink(), "qmgr")
        self.supply = Supply(p, self.store, self.clock, log, self.clock.seconds, self.hands)

    def add(self, name: str, when: float | None = None) -> Message:
        message = Message(name, b"s", [Recipient(b"r")], 0.0, content=b"x")
        finish(self.store.enqueue(message))
        if when is not None:
            message.state, message.next_attempt = DEFERRED, when
        return message


def test_a_message_that_becomes_free_during_a_search_is_found() -> None:
    scene = Scene()
    first, _ = scene.add("A"), scene.add("B")
    scene.hands.passes = {first.seq}  # others have it in hand
    going_on: Deferred[None] = Deferred()
    scene.hands.wait = going_on
    scene.supply.fill()
    assert scene.hands.has == ["B"]
    scene.hands.passes, scene.hands.wait = set(), None
    scene.supply.scan(first.seq)
    going_on.callback(None)
    assert scene.hands.has == ["B", "A"]


def test_a_long_search_lets_others_have_their_turns() -> None:
    scene = Scene()
    for number in range(3 * BATCH):
        scene.add(f"Q{number}")
    scene.hands.costs = 0.1
    scene.supply.fill()
    assert len(scene.hands.has) == BATCH
    turns: list[int] = []
    scene.clock.callLater(0, lambda: turns.append(len(scene.hands.has)))
    scene.supply.wake()  # does no harm
    scene.clock.advance(0)
    assert turns == [2 * BATCH]
    assert len(scene.hands.has) == 3 * BATCH


def test_what_is_due_already_holds_up_nothing_that_will_be() -> None:
    scene = Scene()
    scene.clock.advance(1000)
    slow = scene.add("slow", 900.0)
    scene.supply.fill()
    scene.add("soon", 1010.0)
    scene.supply.look_for_due()  # the slow one is in hand still, and due in the store
    scene.clock.advance(10)
    assert scene.hands.has == ["slow", "soon"]
    scene.add("later", 1030.0)
    scene.supply.look_for_due()
    scene.hands.in_hand.discard(slow.seq)
    scene.supply.ended(900.0, False)  # it is to be tried at once
    assert scene.hands.has == ["slow", "soon", "slow"]
    scene.clock.advance(20)
    assert scene.hands.has[3:] == ["later"]
