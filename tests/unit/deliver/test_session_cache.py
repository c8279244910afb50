"""Sessions that are used again: which, for how long and how often, and what when they are dead."""

from __future__ import annotations

import pytest
from delivery_world import World

LISTED = {"smtp_connection_cache_destinations": "192.0.2.1, 192.0.2.2"}


def test_a_connection_is_used_again_and_ended_after_two_seconds() -> None:
    world = World(**LISTED)
    server = world.server()
    for name in ("Q1", "Q2"):
        world.submit(name, b"you@dest.test")
        world.run()
    assert server.connections == 1
    assert "conn_use=2" in world.log("Q2")[1]
    world.advance(1.9)
    assert b"QUIT" not in server.commands
    world.advance(0.2)
    assert server.commands[-1] == b"QUIT"
    assert not world.wires[0].open


def test_an_idle_connection_that_the_server_closed_costs_no_mail() -> None:
    world = World(**LISTED)
    server = world.server()
    world.submit("Q1", b"you@dest.test")
    world.run()
    world.wires[0].drop()
    world.submit("Q2", b"you@dest.test")
    world.run()
    assert server.connections == 2
    assert "status=sent" in world.log("Q2")[1]


@pytest.mark.parametrize("answer", [None, b"421 4.4.2 idle for too long\r\n"])
def test_a_connection_that_dies_as_it_is_used_again_is_replaced(answer: bytes | None) -> None:
    world = World(**LISTED)
    server = world.server()
    world.submit("Q1", b"you@dest.test")
    world.run()
    server.answers["mail"] = lambda line: answer if server.connections == 1 else b"250 ok\r\n"
    world.submit("Q2", b"you@dest.test")
    world.run()
    assert server.connections == 2
    assert "status=sent" in world.log("Q2")[1]
    assert "conn_use" not in world.log("Q2")[1]


@pytest.mark.parametrize(("on_demand", "sessions"), [("yes", 2), ("no", 3)])
def test_sessions_are_kept_while_mail_waits_for_the_same_destination(on_demand: str, sessions: int) -> None:
    world = World(
        smtp_connection_cache_on_demand=on_demand,
        initial_destination_concurrency="1",
        smtp_destination_concurrency_limit="1",
    )
    server = world.server()
    for name in ("Q1", "Q2", "Q3"):
        world.submit(name, b"you@dest.test")
    world.run()
    assert (server.connections, len(server.messages)) == (sessions, 3)


def test_a_listed_destination_needs_no_demand() -> None:
    world = World(**LISTED, smtp_connection_cache_on_demand="no")
    server = world.server()
    for name in ("Q1", "Q2"):
        world.submit(name, b"you@dest.test")
        world.run()
    assert server.connections == 1


@pytest.mark.parametrize(
    ("setting", "value", "sessions"),
    [
        ("smtp_connection_reuse_count_limit", "2", 2),  # it serves once, and twice more
        ("smtp_connection_reuse_count_limit", "0", 1),
        ("smtp_connection_reuse_time_limit", "2s", 2),
        ("smtp_connection_reuse_time_limit", "5s", 1),
        ("smtp_connection_cache_time_limit", "1s", 4),
        ("connection_cache_ttl_limit", "1s", 4),
    ],
)
def test_how_long_and_how_often(setting: str, value: str, sessions: int) -> None:
    world = World(**LISTED, **{setting: value})
    server = world.server()
    for number in range(4):
        world.submit(f"Q{number}", b"you@dest.test")
        world.run()
        world.advance(1.1)
    assert (server.connections, len(server.messages)) == (sessions, 4)


def test_the_host_of_a_session_that_was_of_no_use_is_not_tried_again() -> None:
    world = World(**LISTED, relayhost="[192.0.2.1]:2525, [192.0.2.2]:2525")
    first, second = world.server(), world.server("192.0.2.2")
    world.submit("Q1", b"you@dest.test")
    world.run()
    first.answers["rcpt"] = b"450 4.2.1 later\r\n"
    world.submit("Q2", b"you@dest.test")
    world.run()
    assert (first.connections, second.connections) == (1, 1)
    assert "relay=192.0.2.2[192.0.2.2]:2525" in world.log("Q2")[-2]


def test_a_host_of_less_preference_is_not_the_next_to_be_used() -> None:
    world = World(**LISTED, relayhost="[192.0.2.1]:2525, [192.0.2.2]:2525")
    first, second = world.server(rcpt=b"450 4.2.1 later\r\n"), world.server("192.0.2.2")
    world.submit("Q1", b"you@dest.test")
    world.run()
    del first.answers["rcpt"]
    world.submit("Q2", b"you@dest.test")
    world.run()
    assert len(second.messages) == 1
    assert "relay=192.0.2.1[192.0.2.1]:2525" in world.log("Q2")[-2]


def test_a_reply_too_many_is_no_answer_to_the_next_message() -> None:
    world = World(**LISTED)
    server = world.server(message=b"250 2.0.0 Ok\r\n250 2.0.0 Ok once more\r\n")
    for name in ("Q1", "Q2"):
        world.submit(name, b"you@dest.test")
        world.run()
        assert "status=sent (250 2.0.0 Ok)" in world.log(name)[1]
    assert server.connections == 2


def test_a_server_that_breaks_the_protocol_is_left() -> None:
    world = World(**LISTED)
    server = world.server(data=b"250 what?\r\n")
    for name in ("Q1", "Q2"):
        world.submit(name, b"you@dest.test", sender=b"")
        world.run()
    assert server.connections == 2
    assert "status=bounced (Protocol error: host " in world.log("Q1")[1]


@pytest.mark.parametrize(("helpful", "lines"), [("yes", 2), ("no", 1)])
def test_garbage_where_commands_are_pipelined(helpful: str, lines: int) -> None:
    world = World(helpful_warnings=helpful)
    world.server(mail=b"garbage\r\n250 ok\r\n")
    world.submit("Q1", b"you@dest.test")
    world.run()
    told = [line for line in world.lines if "garbage" in line or "to prevent loss" in line]
    assert [line.partition("warning: ")[2] for line in told] == [
        "Q1: non-ESMTP response from 192.0.2.1[192.0.2.1]:2525: garbage",
        "to prevent loss of mail, turn off command pipelining for 192.0.2.1 with the "
        "smtp_discard_ehlo_keyword_address_maps parameter",
    ][:lines]
    assert "status=sent" in world.log("Q1")[-2]
