"""mtad explain: cases from options and lines, and what is told of them."""

from __future__ import annotations

import io
import json
import os
import pwd
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.cli.explain import main
from mtad.cli.explaining.case import Case, NoCase, client, from_line, from_message
from mtad.queue.message import Message, Recipient

STAMP = "Nov 22 10:00:00 mail postfix/submission/smtpd[123]: "
REJECT = (
    "NOQUEUE: reject: RCPT from c.example[192.0.2.1]: 554 5.7.1 <bob@example.net>: Relay access denied; "
    "please; from=<a@example.com> to=<bob@example.net> proto=ESMTP helo=<c.example>"
)


# -- what is asked


def test_a_refusal() -> None:
    assert from_line(STAMP + REJECT) == Case(
        "192.0.2.1",
        "c.example",
        helo="c.example",
        sender="a@example.com",
        recipients=("bob@example.net",),
        ident="postfix/submission/smtpd",
        pid="123",
        said="554 5.7.1 <bob@example.net>: Relay access denied; please",
    )
    assert from_line(REJECT).address == "192.0.2.1"
    assert from_line(f"2026-11-22T10:00:00.1+01:00 mail postfix/smtpd[9]: {REJECT}").ident == "postfix/smtpd"


@pytest.mark.parametrize("comma", [",", ""])
def test_a_login(comma: str) -> None:
    case = from_line(f"{REJECT} sasl_method=LOGIN{comma} sasl_username=alice@example.com")
    assert (case.login, case.mechanism, case.helo) == ("alice@example.com", "LOGIN", "c.example")


def test_other_events() -> None:
    line = "4abc: hold: RCPT from unknown[2001:db8::1]:4711: <b@c>: held; from=<> to=<b@c> proto=SMTP"
    case = from_line(line)
    assert (case.address, case.port, case.queue_id, case.sender, case.said) == (
        "2001:db8::1",
        "4711",
        "4abc",
        "",
        "",
    )
    assert not case.extended
    line = "4abc: reject: END-OF-MESSAGE from c[192.0.2.1]: 550 no; from=<a@b> proto=ESMTP helo=<c>"
    assert from_line(line).recipients == ()
    line = "NOQUEUE: reject: CONNECT from c[192.0.2.1]: 554 5.7.1 no; proto=SMTP"
    assert from_line(line).sender is None
    line = "4abc: client=c[192.0.2.1], sasl_method=PLAIN, sasl_username=alice"
    assert from_line(line) == Case("192.0.2.1", "c", login="alice", queue_id="4abc")


@pytest.mark.parametrize("line", ["", "nonsense", STAMP + "connect from c[192.0.2.1]", "4abc: removed"])
def test_lines_that_tell_nothing(line: str) -> None:
    with pytest.raises(NoCase):
        from_line(line)


@given(st.text(), st.text())
def test_any_line(before: str, after: str) -> None:
    for line in (before, REJECT + after, before + REJECT, STAMP + REJECT[: len(after)] + before):
        try:
            from_line(line)
        except NoCase:
            pass


def test_options_win() -> None:
    told = Case("192.0.2.1", "c.example", sender="a@b", recipients=("x@y",), notes=("one",))
    wanted = Case(address="198.51.100.1", sender="", notes=("two",)).fill(told)
    assert (wanted.address, wanted.name, wanted.sender) == ("198.51.100.1", "c.example", "")
    assert (wanted.recipients, wanted.notes) == (("x@y",), ("one", "two"))
    assert client("c.example[192.0.2.1]") == ("192.0.2.1", "c.example")
    assert client("2001:db8::1") == ("2001:db8::1", "")


def test_messages() -> None:
    attributes = {
        "client_address": "192.0.2.1",
        "client_name": "c",
        "sasl_username": "alice",
        "helo_name": "h",
    }
    message = Message("4abc", b"a@b", [Recipient(b"x@y", b"orig@y"), Recipient(b"z@y", b"orig@y")], 0)
    with pytest.raises(NoCase):
        from_message(message)
    message.attributes = attributes
    case = from_message(message)
    assert (case.name, case.login, case.helo, case.sender) == ("c", "alice", "h", "a@b")
    assert case.recipients == ("orig@y",)


# -- what is told

MAIN = """\
compatibility_level = 3.6
myhostname = mail.example.com
mydestination = example.com
local_recipient_maps =
mail_owner = {owner}
queue_directory = {dir}/spool
data_directory = {dir}/data
maillog_file = {dir}/maillog
maillog_file_prefixes = {dir}
smtpd_peername_lookup = no
mynetworks = 10.0.0.0/8
smtpd_restriction_classes = strict
strict =
    reject_non_fqdn_sender
    check_sender_access inline:{{bad@example.org=REJECT bad}}
smtpd_client_restrictions =
    permit_mynetworks
    # not this one
    check_client_access inline:{{192.0.2=DUNNO}, {198.51.100=REJECT go away}}
smtpd_relay_restrictions = permit_sasl_authenticated, reject_unauth_destination
smtpd_recipient_restrictions =
    check_recipient_access inline:{{held@example.com=HOLD}}
    strict
"""
MASTER = """\
127.0.0.1:2587 inet n - n - - smtpd
  -o syslog_name=postfix/submission
  -o smtpd_tls_security_level=encrypt
  -o { smtpd_helo_restrictions = reject_invalid_helo_hostname,
       check_helo_access inline:{{me=OK}} }
127.0.0.1:2525 inet n - n - - smtpd
  -o smtpd_delay_reject=no
  -o smtpd_data_restrictions=check_policy_service,inet:127.0.0.1:1
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    owner = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    text = MAIN.replace("{dir}", str(tmp_path)).replace("{owner}", owner)
    (tmp_path / "main.cf").write_text(text)
    (tmp_path / "master.cf").write_text(MASTER)
    return tmp_path


def explain(directory: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    status = main(["-c", str(directory), "--json", *words])
    return status, json.loads(capsys.readouterr().out)


def steps(command: dict[str, Any]) -> list[tuple[str, str, int, str]]:
    """List, restriction, line and result of each step of the lists themselves."""
    return [
        (each["list"], step["restriction"], step["line"], step["result"])
        for each in command["lists"]
        for step in each["steps"]
    ]


def test_each_restriction_in_order(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = explain(
        directory, capsys, "-s", "127.0.0.1:2525", "--client", "192.0.2.1", "--from", "bad@example.org",
        "--to", "x@example.com",
    )  # fmt: skip
    assert (status, report["reply"]) == (1, "554 5.7.1 <bad@example.org>: Sender address rejected: bad")
    connect, mail, rcpt = report["commands"]
    assert steps(connect) == [
        ("smtpd_client_restrictions", "permit_mynetworks", 17, "DUNNO"),
        ("smtpd_client_restrictions", "check_client_access", 19, "DUNNO"),
    ]
    table = "inline:{{192.0.2=DUNNO}, {198.51.100=REJECT go away}}"
    assert connect["lists"][0]["steps"][1]["matches"] == [
        {"table": table, "key": "192.0.2", "value": "DUNNO"}
    ]
    assert (mail["command"], mail["reply"], mail["lists"]) == (
        "MAIL FROM:<bad@example.org>",
        "250 2.1.0 Ok",
        [],
    )
    assert steps(rcpt) == [
        ("smtpd_relay_restrictions", "permit_sasl_authenticated", 20, "DUNNO"),
        ("smtpd_relay_restrictions", "reject_unauth_destination", 20, "DUNNO"),
        ("smtpd_recipient_restrictions", "check_recipient_access", 22, "DUNNO"),
        ("smtpd_recipient_restrictions", "strict", 23, report["reply"]),
    ]
    inner = rcpt["lists"][1]["steps"][1]["steps"]
    assert [(step["restriction"], step["line"], step["result"]) for step in inner] == [
        ("reject_non_fqdn_sender", 14, "DUNNO"),
        ("check_sender_access", 15, report["reply"]),
    ]


def test_refused_at_once(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = explain(
        directory, capsys, "-s", "127.0.0.1:2525", "--client", "198.51.100.7", "--to", "x@y"
    )
    assert status == 1
    assert [command["command"] for command in report["commands"]] == ["CONNECT"]
    assert report["reply"] == "554 5.7.1 <unknown[198.51.100.7]>: Client host rejected: go away"
    assert report["commands"][0]["log"][0].startswith(
        "NOQUEUE: reject: CONNECT from unknown[198.51.100.7]: 554 "
    )


def test_what_decides_is_named(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, report = explain(
        directory,
        capsys,
        "--client",
        "10.0.0.1",
        "--helo",
        "me",
        "--from",
        "a@example.org",
        "--to",
        "x@example.net",
    )
    helo = report["commands"][3]["lists"][1]
    assert (helo["list"], [step["line"] for step in helo["steps"]]) == ("smtpd_helo_restrictions", [4, 5])
    assert helo["file"] == f"{directory}/master.cf"
    client_list, relay = report["commands"][3]["lists"][0], report["commands"][3]["lists"][-1]
    assert client_list["steps"][0]["by"] == [
        {"parameter": "mynetworks", "value": "10.0.0.0/8", "file": f"{directory}/main.cf", "line": 11}
    ]
    assert relay["steps"][-1]["by"][0]["parameter"] == "mydestination"
    assert report["reply"] == "554 5.7.1 <x@example.net>: Relay access denied"
    assert [note.partition(" ")[0] for note in report["notes"]] == ["service", "with"]


def test_tls_that_is_demanded(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = explain(directory, capsys, "--no-tls", "--client", "10.0.0.1", "--from", "a@b")
    assert (status, report["reply"]) == (1, "530 5.7.0 Must issue a STARTTLS command first")


def test_let_through_with_a_login(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = explain(
        directory, capsys, "-s", "127.0.0.1:2525", "--login", "alice", "--from", "a@example.org",
        "--to", "held@example.com", "--to", "x@example.net", "--no-ask",
    )  # fmt: skip
    assert (status, report["reply"], report["login"]) == (0, "250 2.0.0 Ok", "alice")
    actions = [(command["command"].partition(" ")[0], command["actions"]) for command in report["commands"]]
    assert ("RCPT", {"hold": True}) in actions
    assert [name for name, found in actions if found] == ["RCPT"]
    asked = report["commands"][-2]
    assert asked["command"] == "DATA"
    assert asked["lists"][0]["steps"][0]["matches"][0]["value"] == "DUNNO (not asked)"
    _, report = explain(
        directory, capsys, "-s", "127.0.0.1:2525", "--login", "alice", "--to", "x@example.net"
    )
    assert report["reply"] == "451 4.3.5 <DATA>: Data command rejected: Server configuration problem"
    assert "problem talking to server 127.0.0.1:1" in "".join(report["commands"][-1]["log"])


def test_no_probe_is_sent(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (directory / "main.cf").open("a") as file:
        file.write("smtpd_recipient_restrictions = reject_unverified_recipient\n")
    _, report = explain(
        directory, capsys, "-s", "127.0.0.1:2525", "--client", "192.0.2.1", "--to", "x@example.com"
    )
    assert steps(report["commands"][2])[-2] == (
        "smtpd_recipient_restrictions", "reject_unverified_recipient", 24, "DUNNO"
    )  # fmt: skip
    assert "a probe would find that x@example.com can be delivered to" in report["notes"]


def test_some_recipients_are_refused(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--client",
        "192.0.2.1",
        "--from",
        "a@example.org",
        "--to",
        "x@example.net",
        "--to",
        "y@example.com",
    ]
    status = main(["-c", str(directory), "-s", "127.0.0.1:2525", "--no-ask", *words])
    assert status == 1
    assert capsys.readouterr().out.endswith(
        "=> 250 2.0.0 Ok\n   but not for x@example.net: 554 5.7.1 <x@example.net>: Relay access denied\n"
    )


def test_a_line_of_the_log(
    directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "maillog").write_text(
        f"{STAMP}connect from c.example[192.0.2.1]\n"
        f"{STAMP}Anonymous TLS connection established from c.example[192.0.2.1]: TLSv1.3 with cipher X\n"
        f"{STAMP}{REJECT}\n"
    )
    monkeypatch.setattr("sys.stdin", io.StringIO(STAMP + REJECT))
    status = main(["-c", str(directory), "-"])
    told = capsys.readouterr().out
    assert status == 1
    assert told.startswith(
        "service  127.0.0.1:2587 (master.cf line 1)\nclient   c.example[192.0.2.1], ESMTP, TLS\n"
    )
    assert "assumed" not in told
    assert (
        "    reject_unauth_destination: 554 5.7.1 <bob@example.net>: Relay access denied  (main.cf line 20)"
        in told
    )
    assert "      by mydestination = example.com  (main.cf line 3)\n" in told
    assert told.endswith("   the log has: 554 5.7.1 <bob@example.net>: Relay access denied; please\n")


def test_a_queue_id_that_only_the_log_knows(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / "maillog").write_text(
        f"{STAMP}4abc: client=c.example[10.1.2.3], sasl_method=LOGIN, sasl_username=alice\n"
        "Nov 22 10:00:00 mail postfix/qmgr[9]: 4abc: from=<a@example.org>, size=77, nrcpt=2 (queue active)\n"
        "Nov 22 10:00:00 h postfix/smtp[9]: 4abc: to=<x@example.net>, relay=none, delay=1, status=deferred\n"
        "Nov 22 10:00:00 h postfix/smtp[9]: 4abc: to=<z@example.net>, orig_to=<y@example.net>, relay=none\n"
    )
    status, report = explain(directory, capsys, "4abc")
    assert (status, report["login"], report["client"]) == (0, "alice", "c.example[10.1.2.3]")
    assert [command["command"] for command in report["commands"]][-4:-2] == [
        "RCPT TO:<x@example.net>",
        "RCPT TO:<y@example.net>",
    ]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 64, "nothing to explain"),
        (["--colour", "red"], 64, "usage"),
        (["--size", "x", "--from", "a@b"], 64, "usage"),
        (["4abcdef"], 2, "4abcdef is neither in the queue nor in the log"),
        (["connect from c[192.0.2.1]"], 2, "tells of no client"),
        (["-s", "25", "--from", "a@b"], 2, "there is: 127.0.0.1:2587, 127.0.0.1:2525"),
    ],
)
def test_mistakes(
    directory: Path, capsys: pytest.CaptureFixture[str], words: list[str], status: int, said: str
) -> None:
    assert main(["-c", str(directory), *words]) == status
    assert said in capsys.readouterr().err
