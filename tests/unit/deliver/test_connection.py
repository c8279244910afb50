"""The end of a session, with servers that do not want it to end."""

from __future__ import annotations

import pytest
from delivery_world import World
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from mtad.config.parameters import Parameters
from mtad.deliver.connection import Connection
from mtad.deliver.nexthop import Destination, Host
from mtad.deliver.settings import Timeouts
from mtad.deliver.transaction import Transaction
from mtad.wire.client import ClientSession
from mtad.wire.client_events import ClientSettings

HOST = Host("mx.test", "192.0.2.1", 25, 0, Destination("mx.test", "mx.test", 25, False))


@pytest.mark.parametrize("skip", ["yes", "no"])
def test_nobody_keeps_a_session_that_is_over(skip: str) -> None:
    clock, transport = Clock(), StringTransport()
    timeouts = Timeouts.of(Parameters.from_mapping({"smtp_skip_quit_response": skip}))
    session = ClientSession(ClientSettings(helo_name=b"me"))
    connection = Connection(HOST, session, timeouts, clock)
    connection.makeConnection(transport)
    session.receive(b"220 hello\r\n250 hello\r\n")
    while session.next_event() is not None:
        pass
    connection.quit()
    assert transport.value().endswith(b"QUIT\r\n")
    assert transport.disconnecting == (skip == "yes")
    for _ in range(4):
        clock.advance(4)
        connection.dataReceived(b"250 not yet\r\n" * 1000)
    assert transport.disconnecting and transport.disconnected
    assert not session.unread


def test_a_mistake_leaves_no_connection_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(transaction: Transaction) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Transaction, "run", broken)
    world = World()
    world.server()
    world.submit("Q1", b"you@dest.test")
    world.run()
    assert "status=deferred (unknown mail transport error)" in world.log("Q1")[-1]
    assert not world.wires[0].open
