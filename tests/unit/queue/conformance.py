"""What every queue driver must do, whatever it keeps its messages in.

A driver's test module has a fixture ``driver`` and a class that inherits :class:`Conformance`.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Awaitable
from typing import Any, Protocol

import pytest

from mtad.errors import QueueError
from mtad.queue.message import DEFERRED, HOLD, INCOMING, PENDING, Message, Outcome, Recipient
from mtad.queue.store import QueueStore

NOBODY: frozenset[int] = frozenset()
PIECE = 65536

_names = itertools.count()


class Driver(Protocol):
    """What the suite needs to know of a driver."""

    store: QueueStore

    def wait(self, awaitable: Awaitable[Any]) -> Any:
        """The value of ``awaitable``, or its exception."""

    def reopen(self) -> None:
        """A new ``store`` on the same queue, as after a restart."""


def make(recipients: int = 1, content: bytes = b"Subject: x\r\n\r\nhello\r\n", **more: Any) -> Message:
    queue_id = f"{next(_names):06X}"
    people = [Recipient(b"r%d@example.net" % n) for n in range(recipients)]
    return Message(queue_id, b"s@example.com", people, 1000.0, content=content, **more)


def spooled(data: bytes, **more: Any) -> Message:
    message = make(**more)
    message.content, message.spool, message.size = None, io.BytesIO(data), len(data)
    return message


def sent(*recipients: Recipient) -> list[Outcome]:
    return [Outcome(r, "sent", "2.0.0", "250 ok", "mx[192.0.2.1]:25") for r in recipients]


def deferred(*recipients: Recipient) -> list[Outcome]:
    return [Outcome(r, "deferred", "4.4.1", "connect to mx: Connection refused") for r in recipients]


class Conformance:
    """The suite."""

    def enqueue(self, driver: Driver, *messages: Message) -> list[Message]:
        """Messages as the store gives them back."""
        for awaitable in [driver.store.enqueue(message) for message in messages]:
            driver.wait(awaitable)
        by_id = {m.queue_id: m for m in driver.wait(driver.store.incoming(0, 10000))}
        return [by_id[message.queue_id] for message in messages]

    def defer(self, driver: Driver, message: Message, when: float) -> None:
        assert not driver.wait(driver.store.finish(message, deferred(*message.recipients), when))

    def due(self, driver: Driver, now: float, limit: int = 100, skip: frozenset[int] = NOBODY) -> list[str]:
        return [m.queue_id for m in driver.wait(driver.store.due(now, limit, skip))]

    def incoming(self, driver: Driver, after: int = 0, limit: int = 100) -> list[str]:
        return [m.queue_id for m in driver.wait(driver.store.incoming(after, limit))]

    # -- in and out

    def test_empty(self, driver: Driver) -> None:
        assert self.incoming(driver) == self.due(driver, 1e12) == list(driver.store.listing()) == []
        assert driver.wait(driver.store.next_due(0.0)) is None
        assert driver.wait(driver.store.flush()) == 0
        assert driver.store.counts() == {INCOMING: 0, DEFERRED: 0, HOLD: 0}

    def test_message_comes_back_as_it_went_in(self, driver: Driver) -> None:
        message = make(
            2, body=b"8BITMIME", smtputf8=True, ret=b"HDRS", envid=b"QQ+314159", warned=False,
            attributes={"client_name": "h\u00f6st", "sasl_username": 'al"ice'},
        )  # fmt: skip
        message.recipients[1] = Recipient(
            b"b\xc3\xb6b@example.net", b"bob@alias", frozenset((b"SUCCESS", b"FAILURE")), b"rfc822;bob@alias"
        )
        (back,) = self.enqueue(driver, message)
        assert back.recipient_count == 2
        assert back.seq > 0
        assert all(r.id for r in back.recipients)
        for name in ("queue_id", "sender", "arrival", "content", "state", "body", "smtputf8", "ret", "envid"):
            assert getattr(back, name) == getattr(message, name), name
        assert back.size == len(message.content or b"")
        assert back.attributes == message.attributes
        for got, put in zip(back.recipients, message.recipients, strict=True):
            assert (got.address, got.original, got.notify, got.orcpt) == (
                put.address, put.original, put.notify, put.orcpt,
            )  # fmt: skip
            assert got.state == PENDING

    def test_incoming_in_order_of_commits(self, driver: Driver) -> None:
        messages = [make() for _ in range(70)]
        back = self.enqueue(driver, *messages)
        names = [m.queue_id for m in messages]
        assert self.incoming(driver) == names
        assert sorted(m.seq for m in back) == [m.seq for m in back]
        assert self.incoming(driver, 0, 10) == names[:10]
        assert self.incoming(driver, back[9].seq, 10) == names[10:20]
        assert self.incoming(driver, back[69].seq) == []
        (later,) = self.enqueue(driver, make())
        assert self.incoming(driver, back[69].seq) == [later.queue_id]
        assert self.incoming(driver, back[0].seq) == [*names[1:], later.queue_id]

    def test_numbers_are_never_used_again(self, driver: Driver) -> None:
        last = 0
        for _ in range(3):
            (message,) = self.enqueue(driver, make())
            assert message.seq > last
            last = message.seq
            assert driver.wait(driver.store.finish(message, sent(*message.recipients), 0.0))
            driver.reopen()
            assert self.incoming(driver, last) == []

    def test_content_of_any_size(self, driver: Driver) -> None:
        for size in (0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5):
            data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
            for message in (make(content=data), spooled(data)):
                (back,) = self.enqueue(driver, message)
                assert back.size == size
                assert back.content == (data if size <= PIECE else None)
                pieces = list(driver.store.read(back))
                assert b"".join(pieces) == data
                assert all(len(piece) <= PIECE for piece in pieces)
                assert driver.wait(driver.store.finish(back, sent(*back.recipients), 0.0))
                back.content = None
                with pytest.raises(QueueError):
                    list(driver.store.read(back))

    def test_large_and_small_at_once(self, driver: Driver) -> None:
        large = [spooled(bytes([n]) * (40 * PIECE + n)) for n in range(3)]
        small = [make() for _ in range(5)]
        waiting = [driver.store.enqueue(m) for m in (*large, *small)]
        for awaitable in waiting:
            driver.wait(awaitable)
        back = {m.queue_id: m for m in driver.wait(driver.store.incoming(0, 100))}
        assert len(back) == 8
        for n, message in enumerate(large):
            assert b"".join(driver.store.read(back[message.queue_id])) == bytes([n]) * (40 * PIECE + n)

    def test_short_spool_is_refused(self, driver: Driver) -> None:
        for size in (10, 2 * PIECE, 40 * PIECE):
            message = spooled(b"x" * (size - 1))
            message.size = size
            with pytest.raises(QueueError):
                driver.wait(driver.store.enqueue(message))
        assert self.incoming(driver) == []

    def test_same_id_twice_is_refused(self, driver: Driver) -> None:
        first, second, other = make(), make(), make()
        second.queue_id = first.queue_id
        waiting = [driver.store.enqueue(m) for m in (first, second, other)]
        driver.wait(waiting[0])
        with pytest.raises(QueueError):
            driver.wait(waiting[1])
        driver.wait(waiting[2])
        assert self.incoming(driver) == [first.queue_id, other.queue_id]

    def test_no_content_is_refused(self, driver: Driver) -> None:
        message = make()
        message.content = None
        with pytest.raises(QueueError):
            driver.wait(driver.store.enqueue(message))

    # -- attempts

    def test_delivered_is_removed(self, driver: Driver) -> None:
        one, two = self.enqueue(driver, make(), make(3))
        assert driver.wait(driver.store.finish(one, sent(*one.recipients), 0.0)) is True
        assert driver.wait(driver.store.finish(two, sent(*two.recipients), 0.0)) is True
        assert self.incoming(driver) == self.due(driver, 1e12) == list(driver.store.listing()) == []

    def test_deferred(self, driver: Driver) -> None:
        (message,) = self.enqueue(driver, make())
        self.defer(driver, message, 5000.0)
        assert self.incoming(driver) == self.due(driver, 4999.0) == []
        assert driver.wait(driver.store.next_due(0.0)) == 5000.0
        driver.reopen()
        (back,) = driver.wait(driver.store.due(5000.0, 10, NOBODY))
        assert (back.state, back.next_attempt, back.content) == (DEFERRED, 5000.0, message.content)
        (recipient,) = back.recipients
        assert (recipient.dsn, recipient.reason) == ("4.4.1", "connect to mx: Connection refused")
        assert driver.wait(driver.store.finish(back, sent(recipient), 0.0)) is True

    def test_reasons_may_hold_what_is_no_character(self, driver: Driver) -> None:
        message = make(2)
        message.recipients[0].reason = message.recipients[0].relay = "x\udce9y"
        (one,) = self.enqueue(driver, message)
        assert [recipient.reason for recipient in one.recipients] == ["x?y", ""]
        outcome = Outcome(one.recipients[1], "deferred", "4.0.0", "\u00e9\udce9", "\udce9")
        assert not driver.wait(driver.store.finish(one, [outcome], 0.0))
        (again,) = driver.store.listing()
        assert (again.recipients[1].reason, again.recipients[1].relay) == ("\u00e9?", "?")

    def test_what_is_done_is_not_handed_out_again(self, driver: Driver) -> None:
        (message,) = self.enqueue(driver, make(5))
        a, b, c, d, e = message.recipients
        assert not driver.wait(driver.store.finish(message, sent(a, b), 10.0))
        bounced = [Outcome(c, "bounced", "5.1.1", "no such user")]
        assert not driver.wait(driver.store.finish(message, [*bounced, *deferred(d)], 20.0))
        driver.reopen()
        (back,) = driver.wait(driver.store.due(20.0, 10, NOBODY))
        assert [r.address for r in back.recipients] == [d.address, e.address]
        assert back.recipient_count == 5
        d, e = back.recipients
        assert driver.wait(driver.store.finish(back, sent(d, e), 0.0)) is True
        assert list(driver.store.listing()) == []

    def test_due_longest_first(self, driver: Driver) -> None:
        messages = self.enqueue(driver, *(make() for _ in range(6)))
        for message, when in zip(messages, (30.0, 10.0, 50.0, 20.0, 40.0, 99.0), strict=True):
            self.defer(driver, message, when)
        names = [messages[n].queue_id for n in (1, 3, 0, 4, 2)]
        assert self.due(driver, 50.0) == names
        assert self.due(driver, 50.0, 2) == names[:2]
        assert self.due(driver, 50.0, 2, frozenset((messages[1].seq, messages[0].seq))) == [
            names[1],
            names[3],
        ]
        assert driver.wait(driver.store.next_due(0.0)) == 10.0
        assert driver.wait(driver.store.next_due(10.0)) == 20.0
        assert driver.wait(driver.store.next_due(99.0)) is None

    def test_due_behind_another(self, driver: Driver) -> None:
        """In portions, as a long queue is gone through."""
        messages = self.enqueue(driver, *[make() for _ in range(7)])
        for message, when in zip(messages, (10.0, 20.0, 20.0, 20.0, 20.0, 30.0, 40.0), strict=True):
            self.defer(driver, message, when)
        names = [message.queue_id for message in messages]
        found: list[str] = []
        after = (float("-inf"), 0)
        while some := driver.wait(driver.store.due(35.0, 2, frozenset((messages[2].seq,)), after)):
            found += [message.queue_id for message in some]
            after = (some[-1].next_attempt, some[-1].seq)
        assert found == [names[0], names[1], *names[3:6]]

    def test_warned_is_kept(self, driver: Driver) -> None:
        (message,) = self.enqueue(driver, make())
        message.warned = True
        self.defer(driver, message, 1.0)
        (back,) = driver.wait(driver.store.due(1.0, 1, NOBODY))
        assert back.warned

    def test_bounces_come_with_the_attempt(self, driver: Driver) -> None:
        (message,) = self.enqueue(driver, make(2))
        a, b = message.recipients
        bounces = [
            make(content=b"failed"),
            spooled(b"y" * (20 * PIECE + 1)),
            make(content=b"z" * (2 * PIECE)),
        ]
        outcomes = [Outcome(a, "bounced", "5.1.1", "no"), *deferred(b)]
        assert not driver.wait(driver.store.finish(message, outcomes, 7.0, bounces))
        back = driver.wait(driver.store.incoming(0, 10))
        assert [m.queue_id for m in back] == [m.queue_id for m in bounces]
        assert [b"".join(driver.store.read(m))[:1] for m in back] == [b"f", b"y", b"z"]
        assert self.due(driver, 7.0) == [message.queue_id]

    def test_failed_attempt_changes_nothing(self, driver: Driver) -> None:
        message, other = self.enqueue(driver, make(), make())
        bounce = make()
        bounce.queue_id = other.queue_id
        with pytest.raises(QueueError):
            driver.wait(driver.store.finish(message, sent(*message.recipients), 0.0, [bounce]))
        assert self.incoming(driver) == [message.queue_id, other.queue_id]

    def test_attempt_of_a_removed_message(self, driver: Driver) -> None:
        one, two = self.enqueue(driver, make(), make(2))
        assert sorted(driver.wait(driver.store.remove([one.queue_id, two.queue_id, "NONE"]))) == [
            one.queue_id, two.queue_id,
        ]  # fmt: skip
        assert driver.wait(driver.store.finish(one, sent(*one.recipients), 0.0)) is True
        assert driver.wait(driver.store.finish(two, deferred(*two.recipients), 0.0)) is True
        assert list(driver.store.listing()) == []

    # -- commands

    def test_flush(self, driver: Driver) -> None:
        messages = self.enqueue(driver, *(make() for _ in range(4)))
        for message in messages[:3]:
            self.defer(driver, message, 9000.0)
        names = [m.queue_id for m in messages]
        assert driver.wait(driver.store.flush([names[1], names[3], "NONE"])) == 1
        assert self.due(driver, 1.0) == [names[1]]
        assert driver.wait(driver.store.flush()) == 3
        assert self.due(driver, 1.0) == names[:3]
        assert self.incoming(driver) == [names[3]]

    def test_hold_and_release(self, driver: Driver) -> None:
        one, two = self.enqueue(driver, make(), make())
        names = [one.queue_id, two.queue_id]
        self.defer(driver, two, 9000.0)
        assert sorted(driver.wait(driver.store.hold([*names, "NONE"]))) == names
        assert driver.wait(driver.store.hold(names)) == []
        assert driver.store.counts() == {INCOMING: 0, DEFERRED: 0, HOLD: 2}
        assert self.incoming(driver) == self.due(driver, 1e12) == []
        # One that was in hand stays on hold.
        self.defer(driver, one, 10.0)
        assert self.due(driver, 1e12) == []
        assert driver.wait(driver.store.flush()) == 0
        assert sorted(driver.wait(driver.store.release(names))) == names
        assert self.due(driver, 1.0) == names

    def test_requeue(self, driver: Driver) -> None:
        one, two, three = self.enqueue(driver, make(), make(), make())
        self.defer(driver, two, 9000.0)
        driver.wait(driver.store.hold([three.queue_id]))
        names = [one.queue_id, two.queue_id, three.queue_id]
        assert sorted(driver.wait(driver.store.requeue([*names, "NONE"]))) == names
        assert self.due(driver, 1e12) == self.incoming(driver) == []
        assert [m.queue_id for m in driver.store.requeued(9, frozenset((two.seq,)))] == [names[0], names[2]]
        (back,) = driver.store.requeued(1, NOBODY)
        new = make()
        assert driver.wait(driver.store.finish(back, sent(*back.recipients), 1.0, [new]))
        assert self.incoming(driver) == [new.queue_id]
        self.defer(driver, two, 1.0)  # it was under way
        assert [m.queue_id for m in driver.store.requeued(9, NOBODY)] == [names[1], names[2]]

    def test_expire(self, driver: Driver) -> None:
        (message,) = self.enqueue(driver, make())
        assert driver.wait(driver.store.expire([message.queue_id, "nobody"])) == [message.queue_id]
        assert driver.wait(driver.store.expire([message.queue_id])) == []
        (back,) = driver.store.listing()
        assert back.expired

    def test_find(self, driver: Driver) -> None:
        (message,) = self.enqueue(driver, make(3))
        found = driver.store.find(message.queue_id)
        assert found is not None
        assert (found.seq, len(found.recipients), found.content) == (message.seq, 3, None)
        assert driver.store.find("nobody") is None

    def test_taken_is_known_with_the_message_and_after_it(self, driver: Driver) -> None:
        message = make()
        driver.wait(driver.store.enqueue(message, "maildrop/A"))
        assert driver.store.was_taken("maildrop/A")
        assert not driver.store.was_taken("maildrop/B")
        with pytest.raises(QueueError):  # one file is one message
            driver.wait(driver.store.enqueue(make(), "maildrop/A"))
        driver.wait(driver.store.remove([message.queue_id]))
        driver.reopen()
        assert driver.store.was_taken("maildrop/A")
        driver.wait(driver.store.forget_taken(["maildrop/A", "maildrop/B"]))
        assert not driver.store.was_taken("maildrop/A")

    def test_remove_leaves_nothing(self, driver: Driver) -> None:
        (large,) = self.enqueue(driver, spooled(b"q" * (5 * PIECE), recipients=40))
        (small,) = self.enqueue(driver, make())
        assert driver.wait(driver.store.remove([large.queue_id])) == [large.queue_id]
        assert [m.queue_id for m in driver.store.listing()] == [small.queue_id]

    def test_listing(self, driver: Driver) -> None:
        messages = self.enqueue(driver, *(make(2) for _ in range(450)))
        driver.wait(driver.store.finish(messages[7], sent(messages[7].recipients[0]), 5.0))
        driver.wait(driver.store.hold([messages[8].queue_id]))
        listed = list(driver.store.listing())
        assert [m.queue_id for m in listed] == [m.queue_id for m in messages]
        assert [len(m.recipients) for m in listed[6:9]] == [2, 1, 2]
        assert [m.state for m in listed[6:9]] == [INCOMING, DEFERRED, HOLD]
        assert all(m.content is None for m in listed)
        assert driver.store.counts() == {INCOMING: 448, DEFERRED: 1, HOLD: 1}

    # -- the end

    def test_close_finishes_what_was_begun(self, driver: Driver) -> None:
        waiting = [driver.store.enqueue(m) for m in (make(), spooled(b"w" * (50 * PIECE)), make())]
        driver.reopen()
        for awaitable in waiting:
            driver.wait(awaitable)
        assert len(self.incoming(driver)) == 3

    def test_closed(self, driver: Driver) -> None:
        store = driver.store
        driver.reopen()
        for awaitable in (store.enqueue(make()), store.incoming(0, 1), store.flush()):
            with pytest.raises(QueueError):
                driver.wait(awaitable)
