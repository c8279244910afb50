"""A reactor that is turned by hand, and a name server in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from net_reactor import NameServer, Turned


@pytest.fixture(scope="module")
def reactor() -> Iterator[Turned]:
    turned = Turned()
    yield turned
    turned.close()


@pytest.fixture
def server(reactor: Turned) -> Iterator[NameServer]:
    name_server = NameServer(reactor)
    yield name_server
    name_server.stop()
    reactor.iterate(0)
