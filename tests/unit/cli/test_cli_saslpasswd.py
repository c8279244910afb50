"""``mtad saslpasswd``: users made, changed and removed."""

import getpass
import io
import sys

import pytest

from mtad.cli.saslpasswd import main
from mtad.tables.sasldb import SaslDb


class Terminal(io.TextIOWrapper):
    def isatty(self):
        return True


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    (tmp_path / "main.cf").write_text("myhostname = mail.example.com\n")
    monkeypatch.setenv("MAIL_CONFIG", str(tmp_path))

    def command(*argv, stdin=b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main(["-f", str(tmp_path / "db"), *argv])
        return code, capsys.readouterr().err

    return command


def test_make_change_remove(run, tmp_path):
    db = SaslDb(str(tmp_path / "db"))
    assert run("-p", "-c", "-u", "r", "alice", stdin=b"secret\n") == (0, "")
    assert db.get("alice", "r") == b"secret"
    assert run("-p", "-u", "r", "alice", stdin=b"two\nlines") == (0, "")
    assert db.get("alice", "r") == b"two\nlines"
    assert run("-c", "bob@other", "-u", "r", stdin=b"x")[0] == 1
    assert run("-c", "-u", "r", "bob@other", stdin=b"x") == (0, "")
    assert db.get("bob", "other") == b"x"
    assert run("-c", "carl", stdin=b"y") == (0, "")
    assert db.get("carl", "mail.example.com") == b"y"
    assert run("-d", "-u", "r", "alice") == (0, "")
    assert db.get("alice", "r") is None
    assert run("-d", "-u", "r", "alice") == (0, "")
    assert run("-c", "-n", "-u", "r", "dora", stdin=b"z") == (0, "")
    assert db.get("dora", "r") is None


@pytest.mark.parametrize("password", [b"", b"\n", b"a\0b", b"x" * 5000])
def test_passwords_that_cannot_be(run, password):
    code, err = run("-p", "-c", "alice", stdin=password)
    assert code == 7
    assert err.startswith("saslpasswd: invalid parameter supplied")
    assert "xxx" not in err


@pytest.mark.parametrize("argv", [[], ["-z"], ["a", "b"], ["-c", "-d", "a"], ["-a", "x/y", "a"]])
def test_usage(run, argv):
    assert run(*argv)[0] == 1


def test_a_file_that_cannot_be(run, tmp_path):
    code, err = run("-f", f"{tmp_path}/none/db", "-p", "-u", "r", "a", stdin=b"Geheimnis")
    assert code == 1
    assert "No such file" in err and "Geheimnis" not in err


def test_prompts(run, monkeypatch, tmp_path, capsys):
    answers = iter(["secret", "secret", "one", "two"])
    prompts = []

    def ask(prompt):
        prompts.append(prompt)
        return next(answers)

    monkeypatch.setattr(getpass, "getpass", ask)
    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO()))
    path = str(tmp_path / "db")
    assert main(["-c", "-u", "r", "-f", path, "alice"]) == 0
    assert prompts == ["Password: ", "Again (for verification): "]
    assert SaslDb(path).get("alice", "r") == b"secret"
    assert main(["-u", "r", "-f", path, "alice"]) == 7
    assert "passwords don't match; aborting" in capsys.readouterr().err
    assert SaslDb(path).get("alice", "r") == b"secret"


def test_the_file_of_the_configuration(tmp_path, monkeypatch):
    (tmp_path / "main.cf").write_text(f"cyrus_sasl_config_path = {tmp_path}\n")
    (tmp_path / "smtpd.conf").write_text(f"sasldb_path: {tmp_path}/configured\n")
    (tmp_path / "imapd.conf").write_text(f"sasldb_path: {tmp_path}/imap\n")
    monkeypatch.setenv("MAIL_CONFIG", str(tmp_path))
    for argv, name in (([], "configured"), (["-a", "imapd"], "imap")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"secret")))
        assert main(["-p", "-c", *argv, "alice@r"]) == 0
        assert SaslDb(str(tmp_path / name)).get("alice", "r") == b"secret"
