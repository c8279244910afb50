"""The users of sasldb2."""

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mtad
from mtad.errors import TableError
from mtad.tables.gdbm import gdbm_content, read_gdbm
from mtad.tables.sasldb import Entry, SaslDb
from mtad.tables.sasldb_formats import KINDS, kind_of


def test_life_of_a_user(tmp_path):
    db = SaslDb(str(tmp_path / "sasldb2"))
    with pytest.raises(TableError, match="No such file"):
        db.get("alice", "example.com")
    db.set("alice", "example.com", b"secret")
    db.set("alice", "example.com", b"otp", "cmusaslsecretOTP")
    db.set("alice", "other", b"else")
    assert db.get("alice", "example.com") == b"secret"
    assert db.get("alice", "Example.com") is None
    assert db.get("bob", "example.com") is None
    assert db.get("", "example.com") is None
    assert db.get("alice\0example.com", "x") is None
    assert sorted(db.list()) == [
        Entry("alice", "example.com", "cmusaslsecretOTP"),
        Entry("alice", "example.com", "userPassword"),
        Entry("alice", "other", "userPassword"),
    ]
    db.set("alice", "example.com", b"new secret")
    assert db.get("alice", "example.com") == b"new secret"
    assert db.delete("alice", "example.com")
    assert not db.delete("alice", "example.com")
    assert db.list() == [Entry("alice", "other", "userPassword")]
    db.close()


def test_no_secret_in_messages(tmp_path):
    db = SaslDb(str(tmp_path / "none" / "sasldb2"))
    with pytest.raises(TableError) as caught:
        db.set("alice", "example.com", b"Geheimnis")
    assert "Geheimnis" not in str(caught.value)
    assert "Geheimnis" not in repr(db)


@pytest.mark.parametrize(("user", "realm"), [("", "r"), ("a\0b", "r"), ("a", "r\0")])
def test_names_that_cannot_be(tmp_path, user, realm):
    with pytest.raises(TableError):
        SaslDb(str(tmp_path / "x")).set(user, realm, b"x")


def test_mode_is_kept_and_a_new_file_is_private(tmp_path):
    path = tmp_path / "sasldb2"
    db = SaslDb(str(path))
    db.set("a", "b", b"c")
    assert not stat.S_IMODE(path.stat().st_mode) & 0o007
    path.chmod(0o600)
    db.set("a", "b", b"d")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_empty_file_is_an_empty_database(tmp_path):
    path = tmp_path / "sasldb2"
    path.touch()
    db = SaslDb(str(path))
    db.set("a", "b", b"c")
    assert db.get("a", "b") == b"c"


def test_two_writers_lose_nothing(tmp_path):
    path = str(tmp_path / "sasldb2")

    def add(name):
        db = SaslDb(path)
        for number in range(10):
            db.set(f"{name}{number}", "r", b"x")

    threads = [threading.Thread(target=add, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(SaslDb(path).list()) == 30
    assert os.listdir(tmp_path) == ["sasldb2"]


name = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(users=st.dictionaries(st.tuples(name, name), st.binary(max_size=3000), max_size=5))
def test_what_is_set_is_got(tmp_path, users):
    path = tmp_path / "sasldb2"
    path.unlink(missing_ok=True)
    db = SaslDb(str(path))
    for (user, realm), secret in users.items():
        db.set(user, realm, secret)
    for (user, realm), secret in users.items():
        assert db.get(user, realm) == secret


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_format_is_read_and_written(kind, tmp_path):
    path = str(tmp_path / "sasldb2")
    if kind.name == "LMDB":
        lmdb = pytest.importorskip("lmdb")
        lmdb.open(path, subdir=False).close()
    elif kind.name == "GDBM":
        Path(path).write_bytes(gdbm_content([]))
    db = SaslDb(path)
    for number in range(300):
        db.change(f"user{number}", "mail.test", {"userPassword": b"pw%d" % number, "authPassword": b"x"})
        if number > 10 and kind.name != "LMDB":
            break
    db.change("user1", "mail.test", {"userPassword": None})
    assert db.format == kind.name
    assert db.get("user2", "mail.test") == b"pw2"
    assert db.get("user1", "mail.test") is None
    assert db.get("user1", "mail.test", "authPassword") == b"x"
    assert db.delete("user1", "mail.test")
    assert not db.delete("user1", "mail.test")
    assert Entry("user1", "mail.test", "authPassword") not in db.list()
    assert Entry("user2", "mail.test", "authPassword") in db.list()
    assert db.get("u" * 600, "mail.test") is None
    assert kind_of(path) is kind


def test_a_file_of_another_kind_takes_the_place(tmp_path):
    path = tmp_path / "sasldb2"
    db = SaslDb(str(path))
    db.set("alice", "mail.test", b"one")
    assert db.get("alice", "mail.test") == b"one"
    path.with_suffix(".new").write_bytes(gdbm_content([(b"alice\0mail.test\0userPassword", b"two")]))
    path.with_suffix(".new").rename(path)
    assert db.get("alice", "mail.test") == b"two"


@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="needs setpriv")
def test_written_in_place_where_the_directory_is_closed(tmp_path):
    path = tmp_path / "closed" / "sasldb2"
    path.parent.mkdir()
    db = SaslDb(str(path))
    db.set("alice", "mail.test", b"one" * 100)
    inode = path.stat().st_ino
    path.chmod(0o666)
    for directory in tmp_path.parents[::-1]:
        if directory.stat().st_uid == os.geteuid() and str(directory).startswith("/tmp/"):
            directory.chmod(0o755)
    tmp_path.chmod(0o755)
    path.parent.chmod(0o555)
    code = f"from mtad.tables.sasldb import SaslDb; SaslDb({str(path)!r}).set('bob', 'mail.test', b'two')"
    command = [sys.executable, "-c", code]
    if os.geteuid() == 0:
        if not Path("/usr/bin/python3").exists():
            pytest.skip("no interpreter that others may run")
        source = str(Path(mtad.__file__).parents[1])
        command = [
            "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
            "/usr/bin/python3", "-c", f"import sys; sys.path.insert(0, {source!r}); {code}",
        ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if "No module named" in done.stderr:
        pytest.skip("the source is not readable by others")
    assert done.returncode == 0, done.stderr
    assert path.stat().st_ino == inode
    assert db.get("bob", "mail.test") == b"two"
    assert db.get("alice", "mail.test") == b"one" * 100


@given(st.dictionaries(st.binary(min_size=1, max_size=60), st.binary(max_size=60), max_size=40))
def test_gdbm_gives_back_what_was_put_in(entries):
    assert read_gdbm(gdbm_content(entries.items()), "x") == entries


def test_gdbm_splits_buckets():
    entries = {b"%d" % number: b"v" * (number % 50) for number in range(2000)}
    assert read_gdbm(gdbm_content(entries.items()), "x") == entries


@given(st.data())
def test_damaged_gdbm_is_an_error_and_no_more(data):
    content = bytearray(gdbm_content([(b"key", b"value"), (b"other", b"x" * 100)]))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.sampled_from([*range(60), *range(4096, 4120), *range(8192, 8330)]))] = data.draw(
            st.integers(0, 255)
        )
    with contextlib.suppress(TableError):
        read_gdbm(bytes(content[: data.draw(st.integers(0, len(content)))]), "x")


@pytest.mark.skipif(shutil.which("gdbmtool") is None, reason="gdbmtool is not installed")
def test_gdbm_itself_reads_what_we_write_and_the_other_way(tmp_path):
    path = tmp_path / "db"
    path.write_bytes(gdbm_content({b"k%d" % number: b"v%d" % number for number in range(1000)}.items()))

    def gdbmtool(*words):
        done = subprocess.run(["gdbmtool", str(path), *words], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert gdbmtool("fetch", "k777").strip() == "v777"
    assert "1000" in gdbmtool("count")
    gdbmtool("store", "new", "value")
    gdbmtool("delete", "k1")
    entries = read_gdbm(path.read_bytes(), "x")
    assert entries[b"new"].rstrip(b"\0") == b"value"
    assert len(entries) == 1000
