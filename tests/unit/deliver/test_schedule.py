"""The queue manager's schedule: turns, rates, portions, priorities, what waits and what does not."""

from __future__ import annotations

import pytest
from delivery_world import NOW, World

from mtad.queue.message import DEFERRED, Recipient


def many(count: int, domain: str = "list.test") -> list[bytes]:
    return [b"r%d@%b" % (n, domain.encode()) for n in range(count)]


def test_a_list_of_50000_does_not_hold_up_one_mail() -> None:
    world = World(default_destination_recipient_limit="50", default_destination_concurrency_limit="2")
    server = world.server()
    before: list[int] = []

    def rcpt(line: bytes) -> bytes:
        if b"one@other.test" in line:
            before.append(sum(b"RCPT" in command for command in server.commands))
        return b"250 Ok\r\n"

    server.answers["rcpt"] = rcpt
    server.answers["message"] = b""  # the server takes its time: the list is in hand before the mail comes
    world.submit("LIST", *many(50_000))
    world.run()
    world.submit("ONE", b"one@other.test")
    world.qmgr.wake()
    server.answers["message"] = b"250 Ok\r\n"
    for wire in world.wires:
        wire.say(b"250 Ok\r\n")
    while world.store.messages:
        world.settle()
        world.advance(0.1)
    assert before and before[0] <= 200  # of 50,000
    sent = sum(1 for line in world.lines if "LIST: to=" in line and "status=sent" in line)
    assert sent == 50_000
    assert len([line for line in world.lines if "LIST: removed" in line]) == 1


def test_no_more_recipients_in_memory_than_allowed() -> None:
    """But of each message a few, so that lists which nobody takes do not keep out others."""
    world = World(
        qmgr_message_recipient_limit="150",
        qmgr_message_active_limit="100",
        qmgr_message_recipient_minimum="7",
        smtp_destination_recipient_limit="1",
    )
    server = world.server(extensions=(), rcpt=lambda line: b"" if b"@d" in line else b"250 Ok\r\n")
    for number in range(4):
        world.submit(f"Q{number}", *many(100, f"d{number}.test"))
    world.submit("ONE", b"one@other.test")
    world.run()
    world.advance(0.1)
    assert len(world.qmgr.snapshot()) == 4
    asked = [sum(b"@d%d." % number in line for line in server.commands) for number in range(4)]
    assert asked == [100, 50, 7, 7]
    assert "status=sent" in world.log("ONE")[1]
    server.answers.clear()  # from now on all is taken
    for wire in list(world.wires):
        wire.drop()
    for _ in range(20):
        world.advance(300)
    assert not world.store.messages
    assert sum("status=sent" in line for line in world.lines) == 401


def test_a_large_list_is_read_in_portions_and_ends_once() -> None:
    world = World(transport_maps="static:error:5.1.1 no", bounce_size_limit="1")
    world.submit("Q1", *many(3500), sender=b"")
    world.run()
    for _ in range(5):
        world.advance(0.01)
    assert sum("Q1: to=" in line for line in world.lines) == 3500
    assert not world.store.messages
    assert [len(outcomes) for name, outcomes, _ in world.store.finished if name == "Q1"] == [3500]


def test_a_rate_delay_spaces_the_deliveries_of_a_destination() -> None:
    world = World(smtp_destination_rate_delay="10s")
    server = world.server()
    for number in range(3):
        world.submit(f"Q{number}", b"a@dest.test")
    world.run()
    assert len(server.messages) == 1
    world.advance(9.9)
    assert len(server.messages) == 1
    world.advance(0.2)
    assert len(server.messages) == 2
    world.advance(10.1)
    assert len(server.messages) == 3


def test_a_transport_rate_delay_spaces_all_its_deliveries() -> None:
    world = World(
        smtp_transport_rate_delay="5s",
        transport_maps="inline:{ a.test=:[192.0.2.1]:2525, b.test=:[192.0.2.2]:2525 }",
    )
    servers = world.server(), world.server("192.0.2.2")
    for number in range(2):
        world.submit(f"A{number}", b"x@a.test")
        world.submit(f"B{number}", b"x@b.test")
    world.run()
    counts = [sum(len(server.messages) for server in servers)]
    for _ in range(3):
        world.advance(5.1)
        counts.append(sum(len(server.messages) for server in servers))
    assert counts == [0, 1, 2, 3]


def test_a_transport_with_a_rate_delay_makes_one_delivery_at_a_time() -> None:
    world = World(
        smtp_transport_rate_delay="5s",
        transport_maps="inline:{ a.test=:[192.0.2.1]:2525, b.test=:[192.0.2.2]:2525 }",
    )
    slow, other = world.server(message=b""), world.server("192.0.2.2")
    for name in ("x", "y"):
        world.submit(f"Q{name}", b"%b@a.test" % name.encode(), b"%b@b.test" % name.encode())
    world.run()
    world.advance(5)
    assert len(slow.messages) == 1
    world.advance(60)
    assert (len(slow.messages), len(other.messages)) == (1, 0)
    slow.answers.clear()
    world.wires[0].say(b"250 Ok\r\n")  # from now on
    world.settle()
    counts = []
    for _ in range(3):
        world.advance(4.9)
        counts.append((len(slow.messages), len(other.messages)))
        world.advance(0.1)
    assert counts == [(1, 0), (1, 1), (2, 1)]  # by message, and destinations in turn
    assert (len(slow.messages), len(other.messages)) == (2, 2)
    world.qmgr.stop()
    assert not [call for call in world.reactor.getDelayedCalls() if call.getTime() > NOW + 200]


def test_a_destination_with_a_rate_delay_is_not_dead_for_longer() -> None:
    world = World(smtp_destination_rate_delay="10s", minimal_backoff_time="1h")
    for number in range(3):
        world.submit(f"Q{number}", b"a@dest.test")
    world.run()
    assert sum("delivery temporarily suspended: connect to" in line for line in world.lines) == 2
    world.submit("NEXT", b"a@dest.test")
    server = world.server()
    world.run()
    world.advance(9.9)
    assert not server.messages
    world.advance(0.2)
    assert len(server.messages) == 1 and "status=sent" in world.log("NEXT")[1]


def test_deferred_transports_wait_for_a_flush() -> None:
    world = World(defer_transports="smtp")
    server = world.server()
    world.submit("Q1", b"a@dest.test")
    world.run()
    assert "relay=none" in world.log("Q1")[1] and "status=deferred (deferred transport)" in world.log("Q1")[1]
    world.advance(4001)
    assert not server.messages
    world.qmgr.flush()
    world.settle()
    assert len(server.messages) == 1


def test_mail_to_be_released_later_waits_even_when_flushed() -> None:
    world = World()
    server = world.server()
    world.submit("Q1", b"a@dest.test", attributes={"release": str(int(NOW) + 7200)})
    world.run()
    world.advance(3600)
    world.qmgr.flush()
    world.settle()
    assert not server.messages and not world.log("Q1")
    world.advance(3700)
    assert len(server.messages) == 1


def test_deferred_mail_is_tried_at_each_queue_run_after_its_time() -> None:
    world = World(
        queue_run_delay="100s",
        minimal_backoff_time="30s",
        maximal_backoff_time="250s",
        default_destination_concurrency_failed_cohort_limit="0",
    )
    world.submit("Q1", b"a@dest.test")
    world.run()
    tried = []
    for second in range(1, 1300):
        before = len(world.log("Q1"))
        world.advance(1)
        if len(world.log("Q1")) > before:
            tried.append(second)
    # the time since it came doubles; from 250 seconds on that is the time between two attempts
    assert tried == [100, 200, 400, 700, 1000]


@pytest.mark.parametrize(("mode", "notice"), [("R", "sender non-delivery"), ("N", "sender delay")])
def test_mail_to_be_delivered_by_a_time(mode: str, notice: str) -> None:
    world = World()
    world.submit("Q1", b"a@dest.test", attributes={"deliver_by": f"{int(NOW) + 450};{mode}"})
    world.run()
    world.advance(301)
    assert not any("notification" in line for line in world.lines)
    world.advance(151)
    assert any(f"Q1: {notice} notification" in line for line in world.lines)
    kept = [message for message in world.store.messages.values() if message.queue_id == "Q1"]
    assert bool(kept) == (mode == "N")


def test_the_higher_priority_goes_first() -> None:
    world = World(default_destination_concurrency_limit="1", initial_destination_concurrency="1")
    server = world.server()
    for number in range(3):
        world.submit(f"L{number}", b"low@dest.test", sender=b"l%d@example.com" % number)
    world.submit("H", b"high@dest.test", attributes={"mt_priority": "4"}, sender=b"h@example.com")
    world.run()
    senders = [line for line in server.commands if line.startswith(b"MAIL")]
    assert senders[1].startswith(b"MAIL FROM:<h@example.com>")


def test_expired_by_the_operator() -> None:
    world = World()
    world.submit("Q1", b"a@dest.test", expired=True)
    world.run()
    assert "status=deferred (message is administratively expired)" in world.log("Q1")[1]
    assert "status=force-expired, returned to sender" in world.log("Q1")[2]
    assert any("Q1: sender non-delivery notification" in line for line in world.lines)


def test_a_content_filter_overrides_all_routes() -> None:
    world = World(transport_maps="static:error:5.7.1 no")
    server = world.server("192.0.2.9", 10025)
    world.submit("Q1", b"a@dest.test", b"b@other.test", attributes={"filter": "smtp:[192.0.2.9]:10025"})
    world.run()
    assert len(server.messages) == 1


def test_each_recipient_has_a_sender_with_verp() -> None:
    world = World()
    server = world.server()
    world.submit(
        "Q1", b"a@x.test", b"b@y.test", sender=b"list@example.com", attributes={"verp_delimiters": "+="}
    )
    world.run()
    senders = sorted(line.split()[1] for line in server.commands if line.startswith(b"MAIL"))
    assert senders == [b"FROM:<list+a=x.test@example.com>", b"FROM:<list+b=y.test@example.com>"]
    assert world.log("Q1")[-1] == "postfix/qmgr: removed"


def test_mail_for_the_double_bounce_sender_is_discarded() -> None:
    world = World(mydestination="local.test")
    world.submit("Q1", b"double-bounce@local.test", sender=b"")
    world.run()
    assert "postfix/qmgr: to=<double-bounce@local.test>, relay=none" in world.log("Q1")[1]
    assert "status=sent (undeliverable postmaster notification discarded)" in world.log("Q1")[1]


def test_the_best_mx_transport_takes_what_would_loop() -> None:
    world = World(relayhost="", best_mx_transport="error:5.7.1 it is ours", inet_interfaces="127.0.0.1")
    world.resolver.mx_records["dest.test"] = [(10, "me.test")]
    world.resolver.address_records["me.test"] = ["127.0.0.1"]
    world.submit("Q1", b"a@dest.test")
    world.run()
    passing, outcome = world.log("Q1")[1:3]
    assert passing == "postfix/smtp: passing <a@dest.test> to transport=error:5.7.1 it is ours"
    assert "relay=none" in outcome and "dsn=5.7.1, status=bounced (it is ours)" in outcome


@pytest.mark.parametrize("delay", ["0", "1"])
def test_what_waits_for_a_dead_destination_is_handed_back_in_portions(delay: str) -> None:
    world = World(
        initial_destination_concurrency="1",
        default_destination_concurrency_limit="1",
        default_destination_rate_delay=delay,
    )
    world.server(greeting=b"")
    for number in range(250):
        world.submit(f"Q{number}", b"you@dest.test")
    world.run()
    for wire in world.wires:
        wire.drop()
    world.settle()
    assert len(world.store.finished) == 101
    world.qmgr.stop()
    assert not world.qmgr.in_hand()
    world.advance(0)
    assert len(world.store.finished) == 101


def test_a_dead_destination_is_left_alone_for_a_while() -> None:
    world = World(default_destination_concurrency_limit="1", initial_destination_concurrency="1")
    world.submit("Q1", b"a@dest.test")
    world.submit("Q2", b"a@dest.test")
    world.run()
    assert "Connection refused" in world.log("Q1")[1]
    assert "delivery temporarily suspended: connect to 192.0.2.1" in world.log("Q2")[1]
    kept = list(world.store.messages.values())
    assert all(message.state == DEFERRED for message in kept)
    assert isinstance(kept[0].recipients[0], Recipient)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 2),
        ({"qmgr_clog_warn_time": "10m"}, 1),
        ({"qmgr_clog_warn_time": "0"}, 0),
        ({"helpful_warnings": "no"}, 0),
    ],
)
def test_who_takes_up_the_queue_is_warned_of(settings: dict[str, str], expected: int) -> None:
    """Not more than once in ``qmgr_clog_warn_time``, and nothing for those who want no help."""
    world = World(qmgr_message_active_limit="10", smtp_destination_rate_delay="1000s", **settings)
    world.server()
    for number in range(3):
        world.submit(f"A{number}", b"a@dest.test")
    world.run()  # one is delivered, two wait
    world.submit("B", b"a@dest.test")
    world.run()
    world.advance(400)
    world.submit("C", b"a@dest.test")
    world.run()
    found = [line for line in world.lines if "is using up" in line]
    text = "postfix/qmgr: warning: mail for [192.0.2.1]:2525 is using up {} of {} active queue entries"
    assert found == [text.format(number, number) for number in (3, 4)[:expected]]


def test_limits_that_do_not_fit_are_adjusted() -> None:
    world = World(
        qmgr_message_active_limit="100",
        qmgr_message_recipient_limit="50",
        smtp_destination_recipient_limit="1",
    )
    name = "qmgr_message_recipient_limit"
    text = f"warning: {name} is smaller than qmgr_message_active_limit - adjusting {name}"
    assert [line for line in world.lines if name in line] == [f"postfix/qmgr: {text}"]
    server = world.server(extensions=(), rcpt=lambda line: b"")
    for number in range(9):
        world.submit(f"Q{number}", *[b"m%d-%d@d%d.test" % (number, n, number) for n in range(20)])
    world.run()
    world.advance(0.1)
    asked = [sum(b"@d%d." % number in line for line in server.commands) for number in range(9)]
    assert asked == [20, 20, 20, 20, 20, 10, 10, 10, 10]


def test_a_flush_of_one_message_revives_its_destination_alone() -> None:
    world = World(
        initial_destination_concurrency="1",
        relayhost="",
        transport_maps="inline:{a.test=smtp:[192.0.2.1]:2525, b.test=smtp:[192.0.2.2]:2525}",
    )
    world.submit("A", b"x@a.test")
    world.submit("B", b"x@b.test")
    world.run()
    servers = world.server("192.0.2.1"), world.server("192.0.2.2")
    flushed = next(message for message in world.store.messages.values() if message.queue_id == "A")
    flushed.next_attempt = 0.0  # what the store makes of it
    world.qmgr.scan()
    world.settle()
    assert [len(server.messages) for server in servers] == [1, 0]
    world.submit("C", b"x@b.test")
    world.run()
    assert "delivery temporarily suspended" in world.log("C")[1]


def test_a_success_under_way_revives_a_destination() -> None:
    """The window is then as wide as what is under way."""
    world = World(
        initial_destination_concurrency="2",
        default_destination_concurrency_negative_feedback="0",
        smtp_connection_cache_on_demand="no",
    )
    server = world.server(message=b"")
    world.submit("SLOW", b"slow@dest.test")
    world.run()
    del world.servers["192.0.2.1", 2525]  # nobody listens any more
    for name in ("Q1", "Q2"):
        world.submit(name, b"x@dest.test")
        world.run()
    assert "Connection refused" in world.log("Q1")[1]
    world.submit("Q3", b"x@dest.test")
    world.run()
    assert "delivery temporarily suspended" in world.log("Q3")[1]
    server.answers.clear()
    world.servers["192.0.2.1", 2525] = server
    world.wires[0].say(b"250 ok\r\n")
    world.settle()
    world.submit("Q4", b"x@dest.test")
    world.run()
    assert "status=sent" in world.log("SLOW")[1] and "status=sent" in world.log("Q4")[1]


def test_a_mistake_of_ours_counts_as_a_failure_of_the_destination() -> None:
    world = World(initial_destination_concurrency="1")

    async def fail(job: object) -> None:
        raise RuntimeError("a mistake")

    world.qmgr.deliver = fail  # type: ignore[assignment,method-assign]
    for name in ("Q1", "Q2"):
        world.submit(name, b"x@dest.test")
    world.run()
    text = "unknown mail transport error)"
    assert f"status=deferred ({text}" in world.log("Q1")[-1]
    assert f"status=deferred (delivery temporarily suspended: {text}" in world.log("Q2")[-1]
    assert sum("a mistake" in line for line in world.lines) == 1  # the second was not even tried
