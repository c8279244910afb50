"""What auth-test tells of a login, and what of the one that fails."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from mtad.auth.explain import unreachable
from mtad.auth.failures import SPELLINGS, FailureLimit
from mtad.cli import auth_test, pluginviewer, sasldblistusers
from mtad.config.parameters import Parameters
from mtad.maillog import ListSink, MailLog
from mtad.tables.sasldb import SaslDb


class Input:
    def __init__(self, password: bytes) -> None:
        self.buffer = io.BytesIO(password)

    def isatty(self) -> bool:
        return False


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    db = SaslDb(str(tmp_path / "sasldb2"))
    db.set("alice", "mail.test", b"secret")
    db.set("bob", "other.test", b"secret")
    db.set("carol", "mail.test", b"{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=")
    (tmp_path / "sasl").mkdir()

    def command(*words: str, password: bytes = b"secret\n", conf: str = "", **values: str) -> tuple[int, str]:
        main = {
            "myhostname": "mail.test", "smtpd_sasl_auth_enable": "yes", "mail_owner": "root",
            "smtpd_tls_security_level": "may", **values,
        }  # fmt: skip
        (tmp_path / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in main.items()))
        (tmp_path / "sasl" / "smtpd.conf").write_text(conf or f"sasldb_path: {tmp_path}/sasldb2\n")
        monkeypatch.setattr("sys.stdin", Input(password))
        status = auth_test.main(["-c", str(tmp_path), *words])
        return status, capsys.readouterr().out

    return command


def report(run: Any, *words: str, **values: Any) -> tuple[int, dict[str, Any]]:
    status, out = run("--json", *words, **values)
    return status, json.loads(out)


def test_granted(run: Any, tmp_path: Path) -> None:
    status, told = report(run, "alice")
    assert status == 0
    assert told["file"] == f"{tmp_path}/sasl/smtpd.conf"
    assert {each["result"] for each in told["attempts"]} == {"granted"}
    assert {"PLAIN", "CRAM-MD5", "SCRAM-SHA-256"} <= {each["mechanism"] for each in told["attempts"]}
    assert told["advice"] == []
    status, out = run("alice")
    assert status == 0
    assert "PLAIN       GRANTED in " in out
    assert "secret" not in out


def test_wrong_realm(run: Any) -> None:
    status, told = report(run, "bob", "--mech", "PLAIN")
    assert status == 1
    assert [each["result"] for each in told["attempts"]] == ["denied"]
    assert "bob in realm other.test, but the server looks in mail.test" in told["advice"][0]
    assert "smtpd_sasl_local_domain to other.test" in told["advice"][0]
    assert report(run, "bob@other.test", "--mech", "PLAIN")[0] == 0
    assert "no user nobody@mail.test" in report(run, "nobody")[1]["advice"][0]
    assert "names have case" in report(run, "ALICE")[1]["advice"][0]


def test_a_locked_login(run: Any, tmp_path: Path) -> None:
    """It is told; and the operator's own attempts neither count nor are refused."""
    own = tmp_path / "own"
    own.mkdir()
    values = {"mtad_auth_failure_limit": "2", "mtad_queue_directory": str(own)}
    limit = FailureLimit(Parameters.from_mapping(values), MailLog(ListSink(), "x"))
    limit.failed(b"alice", "192.0.2.1")
    limit.failed(b"alice", "192.0.2.1")
    status, told = report(run, "alice", **values)
    assert status == 0
    assert any("alice is locked for clients in 192.0.2.1/32 until " in each for each in told["advice"])
    for _ in range(3):
        assert report(run, "nobody", "--mech", "plain", **values)[0] == 1
    assert [each.login for each in limit.now_locked()] == ["alice"]
    for number in range(SPELLINGS):
        limit.failed(b"Carol@realm%d" % number, "192.0.2.1")
    _, told = report(run, "carol", **values)
    assert any("carol@* is locked for clients in 192.0.2.1/32 until " in each for each in told["advice"])


def test_missing_password_kind(run: Any) -> None:
    status, told = report(run, "carol")
    assert status == 1
    results = {each["mechanism"]: each["result"] for each in told["attempts"]}
    assert results["PLAIN"] == "granted"
    assert results["CRAM-MD5"] == "denied"
    assert any("holds a hash (SHA)" in each for each in told["advice"])


def test_filtered_mechanism(run: Any, tmp_path: Path) -> None:
    conf = f"sasldb_path: {tmp_path}/sasldb2\nmech_list: plain login cram-md5 ntlm\n"
    status, told = report(
        run, "alice", "--no-tls", "--mech", "plain", conf=conf,
        smtpd_sasl_security_options="noplaintext", smtpd_sasl_tls_security_options="noanonymous",
    )  # fmt: skip
    assert status == 1
    why = {each["name"]: each["why"] for each in told["mechanisms"]}
    assert why["PLAIN"] == "without TLS: smtpd_sasl_security_options demands noplaintext"
    assert why["DIGEST-MD5"].startswith("not in mech_list")
    assert "there is no such mechanism" in why["NTLM"]
    assert "PLAIN: without TLS: smtpd_sasl_security_options demands noplaintext" in told["advice"]


def test_back_end_that_is_down(run: Any, tmp_path: Path) -> None:
    conf = f"pwcheck_method: saslauthd\nsaslauthd_path: {tmp_path}/none\nmech_list: plain\n"
    status, told = report(run, "alice", conf=conf)
    assert status == 1
    assert told["attempts"][0]["result"] == "temporary"
    assert "no socket of saslauthd is there" in told["advice"][0]


@pytest.mark.parametrize("words", [[], ["a", "b"], ["--what"]])
def test_usage(run: Any, words: list[str]) -> None:
    assert run(*words)[0] == 64


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_permissions(tmp_path: Path) -> None:
    path = tmp_path / "closed" / "mux"
    path.parent.mkdir(mode=0o710)
    path.write_text("")
    path.chmod(0o777)
    denied = unreachable(str(path), "nobody", os.W_OK)
    assert denied and str(path).startswith(denied)
    assert unreachable(str(path), "root", os.W_OK) == ""
    assert unreachable("/etc/passwd", "nobody", os.R_OK) == ""


def test_listing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SaslDb(str(tmp_path / "db")).set("alice", "mail.test", b"secret")
    assert sasldblistusers.main(["-f", str(tmp_path / "db")]) == 0
    assert capsys.readouterr().out == "alice@mail.test: userPassword\n"
    assert sasldblistusers.main(["-f", str(tmp_path / "none")]) == 1
    assert sasldblistusers.main(["x"]) == 1
    assert pluginviewer.main(["-s", "-m", "plain"]) == 0
    out = capsys.readouterr().out
    assert "SASL mechanism: PLAIN, best SSF: 0" in out
    assert pluginviewer.main(["-z"]) == 1
