"""Which of several servers is asked."""

from collections import Counter

import pytest

from mtad.errors import TableError
from mtad.tables.servers import INET, UNIX, URI, Address, Servers
from mtad.tables.settings import Settings
from mtad.tables.table import Options


class World:
    """Servers by name; those in ``dead`` refuse connections and break those there are."""

    def __init__(self, tmp_path, monkeypatch, text=""):
        (tmp_path / "x.cf").write_text(text)
        self.settings = Settings(Options(), str(tmp_path / "x.cf"))
        self.dead = set()
        self.warnings = []
        self.opened = Counter()
        self.open = 0
        self.now = 1000.0
        monkeypatch.setattr("mtad.tables.servers.time.monotonic", lambda: self.now)
        monkeypatch.setattr("mtad.tables.blocking.time.monotonic", lambda: self.now)

    def servers(self, *addresses):
        return Servers("sql", addresses, self.settings, self.connect, self.close, self.warnings.append)

    def connect(self, address):
        self.opened[address.name] += 1
        if address.name in self.dead:
            raise TableError("refused")
        self.open += 1
        return [address.name]

    def close(self, connection):
        assert connection, "closed twice"
        connection.clear()
        self.open -= 1

    def query(self, connection):
        if connection[0] in self.dead:
            raise TableError("gone")
        return connection[0]


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


def test_unix_first_then_network_then_uri(world):
    servers = world.servers(Address(URI, "u"), Address(INET, "i"), Address(UNIX, "x"))
    for dead, expected in [("", "x"), ("x", "i"), ("i", "u")]:
        world.dead.add(dead)
        assert servers.ask(world.query) == expected
    assert world.open == 1


def test_equals_by_chance(world):
    seen = Counter()
    for _ in range(200):
        servers = world.servers(Address(INET, "a"), Address(INET, "b"))
        seen[servers.ask(world.query)] += 1
        servers.shut()
    assert min(seen["a"], seen["b"]) > 50
    assert world.open == 0


def test_a_dead_server_is_left_alone_for_a_minute(world):
    servers = world.servers(Address(UNIX, "a"), Address(INET, "b"))
    world.dead = {"a"}
    for _ in range(5):
        assert servers.ask(world.query) == "b"
    assert world.opened["a"] == 1
    assert world.warnings == ["connect to sql server a: refused"]
    world.dead = {"b"}
    world.now += 59
    with pytest.raises(TableError):
        servers.ask(world.query)
    world.now += 2
    world.dead = set()
    assert servers.ask(world.query) == "a"


def test_a_single_server_gets_a_second_try(world):
    servers = world.servers(Address(INET, "a"))
    world.dead = {"a"}
    with pytest.raises(TableError, match="refused"):
        servers.ask(world.query)
    assert world.opened["a"] == 2
    with pytest.raises(TableError, match="no sql server answers"):
        servers.ask(world.query)
    assert world.opened["a"] == 2


def test_a_used_connection_that_broke_tells_nothing_about_the_server(world):
    servers = world.servers(Address(INET, "a"), Address(INET, "b"))
    first = servers.ask(world.query)
    restarted = []

    def query(connection):
        if not restarted:
            restarted.append(connection)
            raise TableError("gone away")
        return world.query(connection)

    assert servers.ask(query) in "ab"
    assert first
    assert not world.warnings
    assert world.open == 1


def test_idle_connections_are_closed_after_a_minute(world):
    servers = world.servers(Address(INET, "a"))
    servers.ask(world.query)
    world.now += 61
    servers.ask(world.query)
    assert world.opened["a"] == 2
    assert world.open == 1


def test_the_intervals_can_be_set(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch, "retry_interval = 5\nidle_interval = 7\n")
    servers = world.servers(Address(INET, "a"))
    servers.ask(world.query)
    world.now += 8
    world.dead = {"a"}
    with pytest.raises(TableError):
        servers.ask(world.query)
    world.dead = set()
    world.now += 6
    assert servers.ask(world.query) == "a"


def test_a_mistake_of_ours_closes_the_connection(world):
    servers = world.servers(Address(INET, "a"))
    with pytest.raises(ZeroDivisionError):
        servers.ask(lambda connection: 1 // 0)
    assert world.open == 0


def test_addresses_show_no_secret():
    address = Address(URI, "postgresql://user:secret@host/db")
    assert "secret" not in repr(address) + address.label
