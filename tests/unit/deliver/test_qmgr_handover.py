"""A queue manager that passes the queue to the next one while it still delivers."""

from __future__ import annotations

import random

from delivery_world import World

from mtad.deliver.qmgr import QueueManager
from mtad.maillog import MailLog


def successor(world: World) -> QueueManager:
    """Another manager of the same queue."""
    return QueueManager(
        world.p,
        world.store,
        world.reactor,
        MailLog(world.sink, "next"),
        world.resolver,  # type: ignore[arg-type]
        new_id=lambda: "NEXT",
        rng=random.Random(1),
    )


def test_what_is_under_way_stays_and_the_rest_is_let_go() -> None:
    world = World(initial_destination_concurrency="1")
    server = world.server(message=b"")
    released: list[int] = []
    world.qmgr._let_go = released.append
    slow = world.submit("Q1", b"a@dest.test")
    waiting = world.submit("Q2", b"b@dest.test")
    world.run()
    done: list[None] = []
    world.qmgr.stop(None).addCallback(done.append)
    assert world.qmgr.in_hand() == [slow.seq]
    assert released == [waiting.seq]
    world.advance(100)  # no limit
    assert not done
    server.answers.clear()
    world.wires[0].say(b"250 ok\r\n")
    world.settle()
    assert done == [None]
    assert released == [waiting.seq, slow.seq]
    assert list(world.store.messages) == [waiting.seq]
    assert not world.reactor.getDelayedCalls()


def test_the_next_manager_leaves_them_alone_until_they_are_free() -> None:
    world = World(initial_destination_concurrency="1")
    server = world.server(message=b"")
    slow = world.submit("Q1", b"a@dest.test")
    world.submit("Q2", b"b@dest.test")
    world.run()
    old = world.qmgr
    old.stop(None)
    server.answers.clear()
    new = world.qmgr = successor(world)
    new.leave_to_others(frozenset(old.in_hand()))
    new.start()
    world.settle()
    assert new.snapshot() == []
    assert slow.seq in world.store.messages
    sent = len(server.messages)
    # the old one's server hangs up: it defers the message, and lets it go
    world.wires[0].drop()
    world.settle()
    new.leave_to_others(frozenset())
    world.settle()
    assert world.store.messages[slow.seq].next_attempt > world.reactor.seconds()
    assert len(server.messages) == sent
    world.store.messages[slow.seq].next_attempt = 0.0
    world.advance(400)
    assert not world.store.messages


def test_what_a_dead_manager_had_is_taken_up_though_newer_mail_went_by() -> None:
    world = World()
    server = world.server()
    mine = [world.submit(f"Q{n}", b"a@dest.test") for n in range(4)]
    world.qmgr.leave_to_others(frozenset({mine[0].seq, mine[2].seq}))
    world.qmgr.start()
    world.settle()
    assert sorted(world.store.messages) == [mine[0].seq, mine[2].seq]
    world.qmgr.leave_to_others(frozenset({mine[2].seq}))
    world.settle()
    assert sorted(world.store.messages) == [mine[2].seq]
    world.qmgr.leave_to_others(frozenset())
    world.settle()
    assert not world.store.messages
    assert len(server.messages) == 4


def test_a_partly_delivered_message_is_recorded_when_the_rest_is_dropped() -> None:
    world = World(initial_destination_concurrency="1", smtp_destination_recipient_limit="2")
    server = world.server(message=b"")
    message = world.submit("Q1", *[b"r%d@dest.test" % n for n in range(4)])
    world.run()
    assert len(server.messages) == 1
    world.qmgr.stop(None)
    world.wires[0].say(b"250 ok\r\n")
    world.settle()
    assert world.qmgr.in_hand() == []
    pending = [r.address for r in world.store.messages[message.seq].recipients if r.state == "pending"]
    assert pending == [b"r2@dest.test", b"r3@dest.test"]
    assert world.store.messages[message.seq].next_attempt <= world.reactor.seconds()


def test_a_second_stop_sets_a_limit() -> None:
    world = World()
    world.server(mail=b"")
    world.submit("Q1", b"you@dest.test")
    world.run()
    done: list[None] = []
    world.qmgr.stop(None).addCallback(done.append)
    world.advance(60)
    assert not done
    world.qmgr.stop(3)
    world.advance(3)
    assert done == [None]
