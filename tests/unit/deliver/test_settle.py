"""Attempts that end though something goes wrong: nothing is held for ever, or tried again at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from delivery_world import NOW, World, finish

from mtad.config.parameters import Parameters
from mtad.deliver.job import Clean, Job, Result
from mtad.deliver.local import LocalAgent, Office
from mtad.deliver.mailbox import Mailboxes
from mtad.deliver.outcomes import Outcomes
from mtad.deliver.qmgr import QueueManager
from mtad.deliver.report import Stamps
from mtad.deliver.route import Route
from mtad.errors import MtadError, QueueError
from mtad.maillog import MailLog
from mtad.queue.message import Message, Outcome, Recipient


def scene(clean: Clean, **settings: str) -> World:
    """A world whose own mail is cleaned like that."""
    world = World(**settings)
    log = MailLog(world.sink, "postfix")
    world.qmgr = QueueManager(
        world.p,
        world.store,
        world.reactor,
        log,
        world.resolver,
        clean=clean,  # type: ignore[arg-type]
    )
    return world


def ended(world: World) -> tuple[list[Outcome], float]:
    """How the first attempt ended; none is under way."""
    assert world.qmgr.snapshot() == []
    _, outcomes, when = world.store.finished[0]
    return outcomes, when


@pytest.mark.parametrize("error", [MtadError("no"), ValueError("a mistake")])
def test_a_notice_that_may_not_be_sent_holds_up_nothing(error: Exception) -> None:
    async def clean(message: Message, source: str) -> bool:
        if source == "notify":
            raise error
        return True

    world = scene(clean, notify_classes="protocol")
    world.server(extensions=(), rcpt=b"350 what\r\n")
    world.submit("Q1", b"you@dest.test")
    world.run()
    (outcome,), _ = ended(world)
    assert outcome.status == "bounced"
    assert any("message-id" in line for line in world.lines)
    assert any("a mistake" in line for line in world.lines) == isinstance(error, ValueError)


@pytest.mark.parametrize("error", [QueueError("unreadable"), ValueError("a mistake")])
def test_a_notification_that_cannot_be_made_keeps_the_recipient(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(message: Message) -> Iterator[bytes]:
        raise error

    world = World()
    world.server(rcpt=lambda line: b"550 no\r\n" if b"bad@" in line else b"250 ok\r\n")
    world.submit("Q1", b"you@dest.test", b"bad@dest.test")
    monkeypatch.setattr(
        world.qmgr._settler._bouncer, "failed", lambda *_: list(read(Message("", b"", [], 0)))
    )
    world.run()
    outcomes, when = ended(world)
    assert {one.recipient.address: one.status for one in outcomes} == {
        b"you@dest.test": "sent",
        b"bad@dest.test": "deferred",
    }
    assert when > NOW
    assert [message.queue_id for message in world.store.messages.values()] == ["Q1"]


def test_a_notification_that_may_not_be_sent_keeps_the_recipient() -> None:
    async def clean(message: Message, source: str) -> bool:
        raise MtadError("not now")

    world = scene(clean)
    world.server(rcpt=b"550 no\r\n")
    world.submit("Q1", b"you@dest.test")
    world.run()
    (outcome,), when = ended(world)
    assert (outcome.status, when > NOW) == ("deferred", True)
    assert any("status=deferred (bounce failed)" in line for line in world.lines)
    assert [message.queue_id for message in world.store.messages.values()] == ["Q1"]


def test_what_could_not_be_recorded_at_once_is_recorded_in_the_end() -> None:
    world = World(
        relayhost="", transport_maps="inline:{a.test=smtp:[192.0.2.1]:2525, b.test=smtp:[192.0.2.2]:2525}"
    )
    world.server("192.0.2.1")
    world.server("192.0.2.2", rcpt=b"", data=b"")
    world.submit("Q1", b"x@a.test", b"x@b.test")
    world.store.fail = 1
    world.run()
    assert world.store.finished == []
    world.advance(300)
    outcomes, _ = ended(world)
    assert sorted(outcome.status for outcome in outcomes) == ["deferred", "sent"]


def test_a_warning_that_may_not_be_sent_is_made_again() -> None:
    refuses = True

    async def clean(message: Message, source: str) -> bool:
        if refuses:
            raise MtadError("not now")
        return True

    world = scene(clean, delay_warning_time="1h")
    message = world.submit("Q1", b"you@dest.test", arrival=NOW - 4000)  # nobody listens
    world.run()
    assert not message.warned
    refuses = False
    world.advance(8000)
    assert message.warned
    assert len([line for line in world.lines if "delay notification" in line]) == 1


def test_a_mistake_after_the_delivery_repeats_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise ValueError("a mistake")

    world = World()
    server = world.server(rcpt=lambda line: b"450 later\r\n" if b"late@" in line else b"250 ok\r\n")
    world.submit("Q1", b"you@dest.test", b"late@dest.test")
    with monkeypatch.context() as mistaken:
        mistaken.setattr(Outcomes, "settle", broken)
        world.run()
    assert {one.recipient.address: one.status for one in ended(world)[0]} == {
        b"you@dest.test": "sent",
        b"late@dest.test": "deferred",
    }
    server.answers.clear()
    world.advance(600)
    assert world.qmgr.snapshot() == [] and not world.store.messages
    assert [line for line in server.commands if b"you@" in line] == [
        b"RCPT TO:<you@dest.test> ORCPT=rfc822;you@dest.test"
    ]


def test_a_mistake_before_the_deliveries_are_made_defers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise ValueError("a mistake")

    world = World()
    server = world.server()
    world.submit("Q1", b"you@dest.test")
    with monkeypatch.context() as mistaken:
        mistaken.setattr(world.qmgr._ways, "of", broken)
        world.run()
    assert ended(world) == ([], NOW + 300)
    world.submit("Q2", b"you@dest.test")
    world.run()
    world.advance(600)
    assert len(server.messages) == 2


def test_recipients_that_cannot_be_read_wait_for_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(message: Message, first: int, count: int) -> Sequence[Recipient]:
        raise QueueError("unreadable")

    world = World(qmgr_message_recipient_limit="20", qmgr_message_active_limit="20")
    server = world.server()
    world.submit("Q1", *[b"r%d@dest.test" % number for number in range(30)])
    with monkeypatch.context() as broken:
        broken.setattr(world.store, "recipients", fail)
        world.run()
        world.advance(0)
    assert ended(world) == ([], NOW + 300)
    world.advance(600)
    world.advance(0)
    assert sum(command.startswith(b"RCPT") for command in server.commands) == 30


@pytest.mark.parametrize("refuses", [False, True])
def test_mail_that_goes_on_is_cleaned_once_and_before_it_is_done(refuses: bool) -> None:
    cleaned: list[tuple[str, str]] = []

    async def clean(message: Message, source: str) -> bool:
        cleaned.append((message.queue_id, source))
        if refuses:
            raise MtadError("a table is not there")
        return True

    async def resolve(address: bytes) -> Route:
        return Route("local" if address.endswith(b"@local.test") else "smtp", "x")

    async def pause() -> None:
        pass

    world = World()
    p = Parameters.from_mapping(
        {"alias_maps": "inline:{{people = a@other.test, b@other.test}}", "myorigin": "local.test"}
    )
    log = MailLog(world.sink, "postfix/local")
    mailboxes = Mailboxes("/nonexistent", world.reactor)
    office = Office(world.store, log, lambda: NOW, mailboxes, lambda: "NEW", resolve, pause, clean)
    message = world.submit("Q1", b"people@local.test")
    job = Job(message, message.recipients, Route("local", "local.test"), Stamps(NOW, NOW))
    result: Result = finish(LocalAgent(p, "local", office).deliver(job))
    assert cleaned == [("NEW", "forward")]
    (outcome,) = result.outcomes
    if refuses:
        assert (outcome.status, outcome.dsn, outcome.reason) == (
            "deferred",
            "4.3.0",
            "unable to forward message",
        )
        assert result.forwards == [] and not any("forwarded as" in line for line in world.lines)
    else:
        assert (outcome.status, [one.queue_id for one in result.forwards]) == ("sent", ["NEW"])
