"""The users of sasldb2."""

import os
import stat
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtad.errors import TableError
from mtad.tables.sasldb import Entry, SaslDb


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
