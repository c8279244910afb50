"""Sessions that end early: by clients that leave while tables or filters are asked, who leave nothing behind,
and by tables that can't be asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from mtad.config.parameters import Parameters
from mtad.errors import TableError
from mtad.maillog import ListSink, MailLog
from mtad.net.hosts import PeerName
from mtad.smtpd.protocol import SubmissionProtocol
from mtad.smtpd.settings import read_settings
from mtad.wire.reply import Reply
from mtad.wire.settings import ServerSettings


class Waits:
    """Gives what it is to give when it is told to go on, or at once."""

    def __init__(self) -> None:
        self.given: list[object] = []
        self._going: list[Deferred[None]] | None = None

    def stop(self) -> None:
        self._going = []

    def go_on(self) -> None:
        going, self._going = self._going or [], None
        assert going
        for one in going:
            one.callback(None)

    async def give(self, what: Any) -> Any:
        if self._going is not None:
            waiting: Deferred[None] = Deferred()
            self._going.append(waiting)
            await waiting
        self.given.append(what)
        return what


class House:
    """A service with one client, whose counts and filters are at hand."""

    def __init__(self) -> None:
        p = Parameters.from_mapping({"myhostname": "mail.example.com"})
        self.sink = ListSink()
        self.limits, self.attending, self.connecting = Waits(), Waits(), Waits()
        self.open = self.left = 0
        self.service: Any = SimpleNamespace(
            sessions=set(),
            stress=SimpleNamespace(connected=lambda: None, disconnected=lambda: None),
            reactor=Clock(),
            settings=read_settings(p, "submission"),
            log=MailLog(self.sink, "postfix/smtpd"),
            peer_name=self._peer_name,
            clients=SimpleNamespace(settings=self._settings),
            client_limits=SimpleNamespace(of=self._counts),
            watching=None,
            notices=None,
            tls=SimpleNamespace(wrapper=False),
            evaluator=SimpleNamespace(connect=self._permit, helo=self._permit),
            mechanisms=self._mechanisms,
            milters=None,
            refusals=SimpleNamespace(changes=False),
        )
        self.transport = StringTransport()
        self.protocol = SubmissionProtocol(self.service)

    def come(self) -> None:
        self.protocol.makeConnection(self.transport)  # type: ignore[no-untyped-call]

    def leave(self) -> None:
        self.protocol.connectionLost(Failure(ConnectionDone()))

    def with_filter(self) -> None:
        self.service.milters = SimpleNamespace(attend=self._attend)

    async def _peer_name(self, address: str) -> PeerName:
        return PeerName(address)

    async def _settings(self, *_: object) -> ServerSettings:
        return ServerSettings(xclient=True)

    async def _permit(self, *_: object) -> None:
        return None

    async def _mechanisms(self, *_: object) -> tuple[bytes, ...]:
        raise TableError("hash:x is unavailable")

    async def _counts(self, *_: object) -> Any:
        await self.limits.give(None)
        counted = False

        def connect() -> None:
            nonlocal counted
            counted = True
            self.open += 1

        def disconnect() -> None:
            nonlocal counted
            self.open -= counted
            counted = False

        return SimpleNamespace(connect=connect, disconnect=disconnect, command=lambda event: None)

    async def _attend(self, _: object) -> Any:
        return await self.attending.give(
            SimpleNamespace(connect=self._connect, abort=lambda: None, quit=self._quit)
        )

    async def _connect(self) -> Reply | None:
        await self.connecting.give(None)
        return None

    def _quit(self) -> None:
        self.left += 1


@pytest.fixture
def house() -> House:
    return House()


def test_a_client_is_counted_while_it_is_there(house: House) -> None:
    house.come()
    assert house.open == 1
    assert house.transport.value().startswith(b"220 ")
    house.leave()
    assert house.open == 0


def test_who_leaves_on_arrival_is_not_counted(house: House) -> None:
    house.limits.stop()
    house.come()
    house.leave()
    house.limits.go_on()
    assert house.open == 0
    assert house.sink.lines == []


def test_who_leaves_as_another_client_is_not_counted(house: House) -> None:
    house.come()
    house.limits.stop()
    house.protocol.dataReceived(b"XCLIENT NAME=a.example\r\n")
    assert house.open == 0
    house.leave()
    house.limits.go_on()
    assert house.open == 0


def test_no_filter_is_asked_about_who_has_left(house: House) -> None:
    house.with_filter()
    house.attending.stop()
    house.come()
    house.leave()
    house.attending.go_on()
    assert house.connecting.given == []
    assert house.open == 0


def test_filters_are_left_by_who_leaves_while_they_are_connected_to(house: House) -> None:
    house.with_filter()
    house.connecting.stop()
    house.come()
    house.leave()
    house.left = 0
    house.connecting.go_on()
    assert house.left == 1


def test_a_table_that_fails_ends_the_session(house: House) -> None:
    house.come()
    house.transport.clear()
    house.protocol.dataReceived(b"EHLO x\r\n")
    reply = "421 4.3.0 mail.example.com Server local data error"
    client = "unknown[192.168.1.1]"
    assert house.transport.value() == f"{reply}\r\n".encode()
    assert [text for _, _, text in house.sink.lines[1:]] == [
        "warning: hash:x is unavailable",
        f"warning: don't know if EHLO feature AUTH should be announced to {client}",
        f"NOQUEUE: reject: EHLO from {client}: {reply}",
    ]
