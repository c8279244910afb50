"""``socketmap:``, ``tcp:`` and ``memcache:`` against servers made up here."""

import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.config.endpoint import Endpoint
from mtad.errors import ConfigError, TableError
from mtad.tables import open_table
from mtad.tables.streams import Stream, StreamError
from mtad.tables.tcp import TcpTable, decode, encode


class Server:
    """Each connection gets the next of ``scripts``: pairs of bytes to wait for and bytes to answer.

    At a script's end the connection is closed; after the last one no more are accepted.
    """

    def __init__(self, *scripts, path=None):
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.port = self._listener.getsockname()[1]
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(path)
            self._listener.listen()
        self.received = []
        self._thread = threading.Thread(target=self._serve, args=(scripts,), daemon=True)
        self._thread.start()

    def _serve(self, scripts):
        for script in scripts:
            connection, _ = self._listener.accept()
            with connection:
                for wanted, answer in script:
                    data = b""
                    while not data.endswith(wanted):
                        more = connection.recv(4096)
                        if not more:
                            break
                        data += more
                    self.received.append(data)
                    connection.sendall(answer)
        self._listener.close()

    def join(self):
        self._thread.join(10)


def ask(table, key):
    waiting = table.lookup(key)
    try:
        waiting.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("waits")


@pytest.fixture
def opened(tmp_path):
    """Open a table of a type that has an endpoint, or a ``.cf`` file."""
    tables = []

    def make(spec):
        tables.append(open_table(spec, str(tmp_path)))
        return tables[-1]

    yield make
    for table in tables:
        table.close()


# socketmap


def netstring(data):
    return b"%d:%b," % (len(data), data)


@pytest.mark.parametrize(
    ("reply", "value"),
    [(b"OK a b", b"a b"), (b"OK ", b""), (b"OK", b""), (b"NOTFOUND ", None), (b"NOTFOUND", None)],
)
def test_socketmap(opened, reply, value):
    server = Server([(b",", netstring(reply))])
    table = opened(f"socketmap:inet:127.0.0.1:{server.port}:themap")
    assert ask(table, b"Joe@Example.com") == value
    assert server.received == [b"22:themap Joe@Example.com,"]
    assert not table.fixed_key


def test_socketmap_at_a_unix_socket(opened, tmp_path):
    Server([(b",", netstring(b"OK x"))], path=str(tmp_path / "s"))
    assert ask(opened(f"socketmap:unix:{tmp_path}/s:m"), b"k") == b"x"


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (netstring(b"TEMP not now"), "socketmap server temporary error: not now"),
        (netstring(b"TIMEOUT"), "socketmap server timeout error$"),
        (netstring(b"PERM no\nline"), "socketmap server permanent error: no.line"),
        (netstring(b"ELSE"), "socketmap server unknown error"),
        (b"x", "netstring format error"),
        (b"3:abcd", "netstring format error"),
        (b"100001:", "input exceeds size limit"),
        (b"9" * 50, "input exceeds size limit"),
        (b"", "unexpected EOF"),
        (b"100:short", "unexpected EOF"),
    ],
)
def test_socketmap_failures(opened, reply, words):
    server = Server([(b",", reply)])
    with pytest.raises(TableError, match=words):
        ask(opened(f"socketmap:inet:127.0.0.1:{server.port}:m"), b"k")


def test_socketmap_limit_is_a_parameter(opened, tmp_path):
    (tmp_path / "main.cf").write_text("socketmap_max_reply_size = 5\n")
    server = Server([(b",", netstring(b"OK ab"))], [(b",", netstring(b"OK abc"))])
    table = opened(f"socketmap:inet:127.0.0.1:{server.port}:m")
    assert ask(table, b"k") == b"ab"
    with pytest.raises(TableError, match="size limit"):
        ask(table, b"k")


def test_socketmap_reconnects_once(opened):
    ok = (b",", netstring(b"OK x"))
    server = Server([ok, ok], [ok])
    table = opened(f"socketmap:inet:127.0.0.1:{server.port}:m")
    assert [ask(table, b"k") for _ in range(3)] == [b"x"] * 3
    server.join()
    with pytest.raises(TableError, match="Connection refused"):
        ask(table, b"k")


@pytest.mark.parametrize("name", ["socketmap:x", "socketmap:foo:bar:baz", "socketmap:inet:nothing", "tcp:x:"])
def test_bad_endpoints(opened, name):
    with pytest.raises(ConfigError):
        opened(name)


def test_endpoints():
    assert Endpoint.parse("inet:[::1]:25") == Endpoint("::1", "25")
    assert Endpoint.parse("inet:25") == Endpoint("localhost", "25")
    assert Endpoint.parse("unix:/a:b") == Endpoint("/a:b", None)
    assert str(Endpoint.parse("inet:h:smtp")) == "inet:h:smtp"


# streams


def test_a_slow_server_has_one_deadline():
    """A byte now and then doesn't prolong it."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def drip():
        connection, _ = listener.accept()
        with connection:
            while not stop.wait(0.02):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

    threading.Thread(target=drip, daemon=True).start()
    stream = Stream(Endpoint("127.0.0.1", str(listener.getsockname()[1])), 0.2)
    stream.send(b"q")
    with pytest.raises(StreamError, match="time limit exceeded"):
        stream.line(1000)
    stop.set()
    stream.close()
    listener.close()


@given(st.lists(st.binary(max_size=5), max_size=10), st.lists(st.integers(1, 7), max_size=20))
def test_lines_however_they_are_cut(lines, cuts):
    lines = [line.replace(b"\n", b"").rstrip(b"\r") for line in lines]
    data = b"".join(line + b"\r\n" for line in lines)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = object.__new__(Stream)
        stream._socket, stream._timeout, stream._buffer, stream._deadline = ours, 5, b"", float("inf")
        ours.settimeout(5)
        pieces = []
        for cut in cuts:
            pieces.append(data[:cut])
            data = data[cut:]
        for piece in [*pieces, data]:
            theirs.sendall(piece)
        stream._deadline = 1e12
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mtad.tables.streams._CHUNK", 3)
            patch.setattr("mtad.tables.streams.time.monotonic", lambda: 1e12 - 5)
            assert [stream.line(100) for _ in lines] == lines


# tcp


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(TcpTable, "pause", 0)
    monkeypatch.setattr(TcpTable, "tries", 3)


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        (b"200 a%20b%25%c3%bc\n", b"a b%\xc3\xbc"),
        (b"200 as it is\n", b"as it is"),
        (b"200 \n", b""),
        (b"500 no\n", None),
        (b"500\tno\n", None),
    ],
)
def test_tcp(opened, reply, value):
    server = Server([(b"\n", reply)])
    table = opened(f"tcp:127.0.0.1:{server.port}")
    assert ask(table, "J ö%".encode()) == value
    assert server.received == [b"get J%20%C3%B6%25\n"]
    assert not table.fixed_key


@pytest.mark.parametrize(
    "reply",
    [b"400 busy\n", b"nonsense\n", b"200\n", b"200 %zz\n", b"200 %2\n", b"300 x\n", b"2000 x\n", b"\n"],
)
def test_tcp_failures(opened, hurried, reply):
    server = Server([(b"\n", reply)])
    with pytest.raises(TableError):
        ask(opened(f"tcp:127.0.0.1:{server.port}"), b"k")
    server.join()
    assert len(server.received) == 1


def test_tcp_tries_again(opened, hurried):
    server = Server([(b"\n", b"")], [(b"\n", b"200 " + b"x" * 5000)], [(b"\n", b"200 yes\n")])
    assert ask(opened(f"tcp:127.0.0.1:{server.port}"), b"k") == b"yes"
    server.join()
    with pytest.raises(TableError, match="Connection refused"):
        ask(opened(f"tcp:127.0.0.1:{server.port}"), b"k")


@given(st.binary())
def test_tcp_encoding(data):
    encoded = encode(data)
    assert decode(encoded) == data
    assert b" " not in encoded
    assert b"\n" not in encoded


# memcache


@pytest.fixture
def memcache(opened, tmp_path):
    def make(server, text="", port=None):
        path = tmp_path / "m.cf"
        path.write_text(
            f"memcache = inet:127.0.0.1:{port or server.port}\nretry_pause = 1\nmax_try = 1\n{text}"
        )
        return opened(f"memcache:{path}")

    return make


HIT = b"VALUE k 0 3\r\nabc\r\nEND\r\n"


def test_memcache(memcache):
    server = Server([(b"\r\n", HIT), (b"\r\n", b"END\r\n")])
    table = memcache(server)
    assert ask(table, b"Key@X") == b"abc"
    assert ask(table, b"key") is None
    assert ask(table, b"two words") is None
    assert ask(table, b"new\nline") is None
    server.join()
    assert server.received == [b"get key@x\r\n", b"get key\r\n"]


def test_memcache_key_format_and_domain(memcache):
    server = Server([(b"\r\n", HIT)])
    table = memcache(server, "key_format = %d|%u|%1\ndomain = example.com\n")
    for key in (b"a@example.org", b"example.com", b"@example.com", b"a"):
        assert ask(table, key) is None
    assert ask(table, b"a@example.com") == b"abc"
    server.join()
    assert server.received == [b"get example.com|a|com\r\n"]


@pytest.mark.parametrize(
    "reply",
    [
        b"ERROR\r\n",
        b"VALUE k 0 99999999\r\n",
        b"VALUE k 0 -1\r\n",
        b"VALUE k 0 3\r\nabcd\r\nEND\r\n",
        b"VALUE k 0 3\r\nabc\r\nNO\r\n",
        b"x" * 2000,
        b"",
    ],
)
def test_memcache_failures(memcache, reply):
    server = Server([(b"\r\n", reply)])
    with pytest.raises(TableError):
        ask(memcache(server), b"k")


def test_memcache_backup(memcache):
    """What the backup has is stored; a cache that is away or nonsensical is no trouble."""
    backup = "backup = inline:{k=fromback}\nttl = 77\nflags = 5\n"
    server = Server(
        [(b"\r\n", b"END\r\n"), (b"fromback\r\n", b"STORED\r\n"), (b"\r\n", HIT), (b"\r\n", b"END\r\n")]
    )
    table = memcache(server, backup)
    assert ask(table, b"K") == b"fromback"
    assert ask(table, b"k") == b"abc"
    assert ask(table, b"other") is None
    server.join()
    assert server.received[1] == b"set k 5 77 8\r\nfromback\r\n"
    assert ask(memcache(None, backup, port=1), b"k") == b"fromback"
    server = Server([(b"\r\n", b"ERROR\r\n")], [(b"fromback\r\n", b"SERVER_ERROR\r\n")])
    assert ask(memcache(server, backup + "# again\n"), b"k") == b"fromback"


def test_memcache_does_not_store_what_is_too_long(memcache):
    server = Server([(b"\r\n", b"END\r\n")])
    table = memcache(server, "backup = inline:{k=fromback}\ndata_size_limit = 7\n")
    assert ask(table, b"k") == b"fromback"
    server.join()
    assert len(server.received) == 1


def test_memcache_failing_backup(memcache):
    server = Server([(b"\r\n", b"END\r\n")])
    with pytest.raises(TableError):
        ask(memcache(server, "backup = fail:x\n"), b"k")


@pytest.mark.parametrize(
    "text", ["timeout = x\n", "max_try = 0\n", "key_format = %x\n", "key_digest = rot13\n"]
)
def test_memcache_settings(memcache, text):
    with pytest.raises(ConfigError):
        memcache(None, text, port=1)
