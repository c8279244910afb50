"""Berkeley DB files: what is written is read, whatever it is; what is damaged raises TableError only."""

import fcntl
import os
import stat
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtad.errors import TableError
from mtad.tables.bdb import hash_fnv, hash_torek, open_bdb
from mtad.tables.bdb_live import LiveBdb
from mtad.tables.bdb_write import write_hash, writing

SAME_DIRECTORY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

short = st.binary(max_size=40)
item = st.one_of(short, short, st.binary(min_size=1000, max_size=9000))


@SAME_DIRECTORY
@given(content=st.dictionaries(item, item, max_size=60), absent=st.binary(max_size=2000))
def test_roundtrip(tmp_path, content, absent):
    path = str(tmp_path / "x.db")
    write_hash(path, content.items())
    file = open_bdb(path)
    assert dict(file.items()) == content
    for key, value in content.items():
        assert file.get(key) == value
    assert file.get(absent) == content.get(absent)


@pytest.mark.parametrize("count", [0, 1, 100, 3000])
def test_many_keys(tmp_path, count):
    content = {b"user%d@example.com\0" % n: b"value %d\0" % n for n in range(count)}
    path = str(tmp_path / "x.db")
    write_hash(path, content.items())
    file = open_bdb(path)
    assert dict(file.items()) == content
    assert all(file.get(key) == value for key, value in content.items())
    assert file.get(b"nobody\0") is None
    assert file.has_nuls is (count > 0)


def test_one_bucket_of_many_pages(tmp_path):
    """Keys of one hash value can't be spread by more buckets."""
    content = {}
    number = 0
    while len(content) < 300:
        key = b"k%d" % number
        number += 1
        if hash_fnv(key) % 16 == 5:
            content[key] = b"v" * 200
    path = str(tmp_path / "x.db")
    write_hash(path, content.items())
    file = open_bdb(path)
    assert all(file.get(key) == value for key, value in content.items())
    assert dict(file.items()) == content


def test_a_later_value_counts(tmp_path):
    path = str(tmp_path / "x.db")
    write_hash(path, [(b"a", b"1"), (b"a", b"2")])
    assert list(open_bdb(path).items()) == [(b"a", b"2")]


def test_key_inside_another_is_not_found(tmp_path):
    path = str(tmp_path / "x.db")
    write_hash(path, [(b"\x01a\x01a", b"\x01a"), (b"b", b"\x01\x01a\x01b")])
    file = open_bdb(path)
    assert file.get(b"a") is None
    assert file.get(b"\x01a\x01a") == b"\x01a"
    assert file.get(b"b") == b"\x01\x01a\x01b"


def test_hash_functions():
    assert hash_fnv(b"") == 0
    assert hash_fnv(b"%$sniglet^&\0") == 0x5E688DD1
    assert hash_torek(b"ab") == 97 * 33 + 98


@pytest.fixture(scope="module")
def specimen(tmp_path_factory):
    path = tmp_path_factory.mktemp("bdb") / "x.db"
    content = {b"key%d" % n: b"v" * (n * 7 % 60) for n in range(60)}
    content[b"big"] = b"V" * 6000
    content[b"K" * 2000] = b"w"
    write_hash(str(path), content.items())
    return path.read_bytes()


@SAME_DIRECTORY
@given(data=st.data())
def test_damage_is_an_error_not_a_crash(tmp_path, specimen, data):
    broken = bytearray(specimen)
    for _ in range(data.draw(st.integers(1, 6))):
        page = data.draw(st.integers(0, len(broken) // 4096 - 1)) * 4096
        broken[page + data.draw(st.integers(0, 200))] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.db"
    path.write_bytes(broken[: data.draw(st.integers(0, len(broken)))] if data.draw(st.booleans()) else broken)
    try:
        file = open_bdb(str(path))
    except TableError:
        return
    for ask in (lambda: list(file.items()), lambda: file.get(b"key7"), lambda: file.get(b"K" * 2000)):
        try:
            ask()
        except TableError:
            pass


@pytest.mark.parametrize("content", [b"", b"not a database", b"\0" * 8192])
def test_not_a_database(tmp_path, content):
    path = tmp_path / "x.db"
    path.write_bytes(content)
    with pytest.raises(TableError):
        open_bdb(str(path))
    with pytest.raises(TableError, match="No such file"):
        open_bdb(str(tmp_path / "none.db"))


def test_owner_and_mode_are_kept(tmp_path):
    path = tmp_path / "x.db"
    write_hash(str(path), [], mode=0o640)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    write_hash(str(path), [(b"a", b"b")], mode=0o640)
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    assert os.listdir(tmp_path) == ["x.db"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.db"
    write_hash(str(path), [(b"a", b"b")])

    def broken():
        yield b"c", b"d"
        raise TableError("no more")

    with pytest.raises(TableError):
        write_hash(str(path), broken())
    assert list(open_bdb(str(path)).items()) == [(b"a", b"b")]
    assert os.listdir(tmp_path) == ["x.db"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "x.db"
    link.symlink_to(tmp_path / "real" / "y.db")
    write_hash(str(link), [(b"a", b"b")])
    assert link.is_symlink()
    assert open_bdb(str(tmp_path / "real" / "y.db")).get(b"a") == b"b"


def test_live_file_follows_changes(tmp_path):
    path = str(tmp_path / "x.db")
    write_hash(path, [(b"a", b"1")])
    live = LiveBdb(path)
    assert live.get(b"a") == b"1"
    write_hash(path, [(b"a", b"2")])
    assert live.get(b"a") == b"2"
    os.unlink(path)
    assert live.get(b"a") == b"2"
    write_hash(path, [(b"b\0", b"3\0")])
    assert live.get(b"a") is None
    assert live.get_string(b"b", (True, True)) == b"3"
    live.close()


def test_live_file_while_a_writer_holds_it(tmp_path):
    path = str(tmp_path / "x.db")
    write_hash(path, [(b"a", b"1")])
    live = LiveBdb(path)
    with open(path, "r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.truncate(0)
        assert live.get(b"a") == b"1"


def test_large_files_are_read_by_page(tmp_path, monkeypatch):
    monkeypatch.setattr("mtad.tables.bdb.SNAPSHOT_LIMIT", 0)
    path = str(tmp_path / "x.db")
    write_hash(path, [(b"a", b"1"), (b"b", b"B" * 5000)])
    live = LiveBdb(path)
    assert live.get(b"a") == b"1"
    assert live.get(b"b") == b"B" * 5000
    with open(path, "r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(TableError, match="being written"):
            live.get(b"a")
    write_hash(path, [(b"a", b"2")])
    assert live.get(b"a") == b"2"
    with open(path, "r+b") as other:
        other.truncate(100)
    with pytest.raises(TableError):
        live.get(b"a")
    live.close()


def test_writers_take_turns(tmp_path):
    path = str(tmp_path / "x.db")

    def add(name):
        for number in range(10):
            with writing(path):
                old = dict(open_bdb(path, lock=0).items()) if os.path.exists(path) else {}
                old[b"%b%d" % (name, number)] = b""
                write_hash(path, old.items())

    threads = [threading.Thread(target=add, args=(name,)) for name in (b"x", b"y", b"z")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(open_bdb(path).items())) == 30


@pytest.mark.parametrize("what", ["", "x.db"])
def test_a_lock_that_stays_is_told(tmp_path, monkeypatch, what):
    """As of a user who may read the directory."""
    monkeypatch.setattr("mtad.tables.bdb_write._PATIENCE", 0.05)
    write_hash(str(tmp_path / "x.db"), [])
    fd = os.open(tmp_path / what, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        with pytest.raises(TableError, match="locked"), writing(str(tmp_path / "x.db")):
            pass
    finally:
        os.close(fd)
    with writing(str(tmp_path / "x.db")):
        pass
