"""Pairs of login and network that are locked after too many failures."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from auth_support import SESSION, Build, at_once, converse
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from zope.interface import implementer

from mtad.auth import failures
from mtad.auth.authenticator import Authenticator, AuthSession, Denied
from mtad.auth.credentials import SASLPassword
from mtad.auth.failures import SPELLINGS, FailureLimit
from mtad.auth.interfaces import ISASLPassword
from mtad.config.parameters import Parameters
from mtad.maillog import ListSink, MailLog
from mtad.sasl import client

ELSEWHERE = replace(SESSION, client_address="198.51.100.7")
LOCKED = "454 4.7.0 Temporary authentication failure: too many failed logins, try again later"
WRONG = "535 5.7.8 Error: authentication failed: authentication failure"


@pytest.fixture
def limited(build: Build, tmp_path: Path) -> Authenticator:
    (tmp_path / "own").mkdir()
    return build(
        mtad_auth_failure_limit="3",
        mtad_queue_directory=str(tmp_path / "own"),
        smtpd_sasl_security_options="",
    )


def attempt(
    authenticator: Authenticator, password: bytes, user: bytes = b"alice", mechanism: bytes = b"PLAIN",
    session: AuthSession = SESSION,
) -> str:  # fmt: skip
    """What a client with that password hears in the end."""
    mine = client.choose([mechanism], (), user, password, context=client.ClientContext(b"mail.test"))
    outcome = converse(authenticator, mine, session)
    return str(outcome.reply) if isinstance(outcome, Denied) else "granted"


@pytest.mark.parametrize("mechanism", [b"PLAIN", b"LOGIN", b"CRAM-MD5", b"DIGEST-MD5", b"SCRAM-SHA-256"])
def test_a_pair_is_locked(limited: Authenticator, sink: ListSink, mechanism: bytes) -> None:
    replies = [attempt(limited, b"guess", mechanism=mechanism) for _ in range(3)]
    assert replies == [WRONG] * 3
    for password in (b"guess", b"secret"):  # right and wrong get the same answer
        assert attempt(limited, password, mechanism=mechanism) == LOCKED
    assert attempt(limited, b"secret", session=ELSEWHERE) == "granted"
    assert attempt(limited, b"pass word", b"bob@example.com") == "granted"
    assert any("login alice is locked for clients in 192.0.2.1/32" in line for _, _, line in sink.lines)


def test_logins_under_way_at_once(limited: Authenticator) -> None:
    """However many guesses wait for the back end together, no more of them are answered."""
    asked: list[tuple[bytes, Deferred[bytes | tuple[()]]]] = []

    @implementer(ICredentialsChecker)
    class Slow:
        credentialInterfaces = (ISASLPassword,)

        def requestAvatarId(self, credentials: SASLPassword) -> Deferred[bytes | tuple[()]]:
            asked.append((credentials.password, Deferred()))
            return asked[-1][1]

    limited.portal.registerChecker(Slow())
    told: list[object] = []
    for password in (b"a", b"b", b"c", b"d", b"secret"):
        step = limited.begin(b"PLAIN", SESSION).step(base64.b64encode(b"\0alice\0" + password))
        Deferred.fromCoroutine(step).addCallback(
            lambda outcome: told.append(getattr(outcome, "reply", outcome))
        )
    assert told == []
    for password, answer in asked:
        if password == b"secret":
            answer.callback(b"alice")
        else:
            answer.errback(UnauthorizedLogin())
    assert list(map(str, told)) == [WRONG] * 3 + [LOCKED] * 2


def test_one_account_by_many_names(tmp_path: Path) -> None:
    """Who verifies passwords may heed neither case nor realm; and a neighbour's success frees nobody."""
    now = [1000.0]
    sink = ListSink()
    limit = FailureLimit(parameters(tmp_path), MailLog(sink, "x"), lambda: now[0])
    tries = 0
    while not limit.locked(b"alice@realm%d" % tries, "192.0.2.1"):
        limit.failed(b"aLiCe@realm%d" % tries, "192.0.2.1")
        limit.succeeded(b"alice@mine.example", "192.0.2.1")
        tries += 1
        assert tries < 100
    assert tries == SPELLINGS
    for name in (b"alice", b"ALICE", b"alice@else.where"):
        assert limit.locked(name, "192.0.2.1")
        assert not limit.locked(name, "192.0.2.2")
    assert not limit.locked(b"alic", "192.0.2.1")
    assert [(each.login, each.count) for each in limit.now_locked()] == [("alice@*", SPELLINGS)]
    assert sum("login alice@* is locked" in text for _, _, text in sink.lines) == 1
    now[0] += limit._life + 1
    assert not limit.locked(b"alice", "192.0.2.1")


def test_an_old_device_locks_out_nobody(tmp_path: Path) -> None:
    """It fails all day with one name, while another at the same place succeeds."""
    now = [1000.0]
    limit = FailureLimit(parameters(tmp_path), MailLog(ListSink(), "x"), lambda: now[0])
    for _ in range(50):
        limit.failed(b"alice", "192.0.2.1")
        limit.succeeded(b"alice", "192.0.2.1")
        now[0] += 30
        assert not limit.locked(b"alice", "192.0.2.1")


def test_one_client_with_a_network_of_its_own(tmp_path: Path) -> None:
    limit = FailureLimit(parameters(tmp_path), MailLog(ListSink(), "x"))
    for host in range(2):
        limit.failed(b"bob", f"2001:db8::{host}:0:0:1")
    assert limit.locked(b"bob", "2001:db8::ffff:0:0:1")
    assert not limit.locked(b"bob", "2001:db8:0:1::1")


def test_a_success_forgets_failures(limited: Authenticator) -> None:
    for _ in range(3):
        assert [attempt(limited, b"guess"), attempt(limited, b"guess")] == [WRONG, WRONG]
        assert attempt(limited, b"secret") == "granted"


def test_a_name_that_does_not_exist_is_locked_as_well(limited: Authenticator) -> None:
    assert [attempt(limited, b"x", b"nobody") for _ in range(4)] == [WRONG] * 3 + [LOCKED]


def test_temporary_failures_do_not_count(build: Build, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    conf = {"pwcheck_method": "saslauthd", "saslauthd_path": str(tmp_path / "none")}
    down = build(conf, mtad_auth_failure_limit="1", mtad_queue_directory=str(tmp_path / "own"))
    assert [attempt(down, b"x")[:3] for _ in range(3)] == ["454"] * 3
    assert list(down.limit.now_locked()) == []  # type: ignore[union-attr]


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def parameters(root: Path, **values: str) -> Parameters:
    return Parameters.from_mapping(
        {"mtad_queue_directory": str(root), "mtad_auth_failure_limit": "2", "mtad_auth_failure_time": "60s"}
        | values
    )


def test_it_ends(tmp_path: Path) -> None:
    clock, sink = Clock(), ListSink()
    limit = FailureLimit(parameters(tmp_path), MailLog(sink, "x"), clock)
    limit.failed(b"alice", "192.0.2.1")
    clock.now += 61
    limit.failed(b"alice", "192.0.2.1")
    assert not limit.locked(b"alice", "192.0.2.1")  # the first one is too long ago
    clock.now += 50
    limit.failed(b"alice", "192.0.2.1")
    clock.now += 59
    assert limit.locked(b"alice", "192.0.2.1")
    assert [(each.login, each.count) for each in limit.now_locked()] == [("alice", 2)]
    clock.now += 1
    assert not limit.locked(b"alice", "192.0.2.1")
    assert list(limit.now_locked()) == []
    assert sink.lines[-1][2].endswith("locked for clients in 192.0.2.1/32 after 2 failures, for 60 seconds")


def test_networks(tmp_path: Path) -> None:
    wide = parameters(tmp_path, smtpd_client_ipv4_prefix_length="24", smtpd_client_ipv6_prefix_length="64")
    limit = FailureLimit(wide, MailLog(ListSink(), "x"))
    for address in ("192.0.2.1", "192.0.2.200", "2001:db8::1", "2001:db8::2", "unknown", "unknown"):
        limit.failed(b"alice", address)
    locked = {each.network for each in limit.now_locked()}
    assert locked == {"192.0.2.0/24", "2001:db8::/64", "unknown"}
    assert not limit.locked(b"alice", "192.0.3.1")


def test_processes_share_it(tmp_path: Path) -> None:
    limit = FailureLimit(parameters(tmp_path), MailLog(ListSink(), "x"))
    limit.failed(b"alice", "192.0.2.1")
    program = (
        "import sys\nfrom mtad.auth.failures import FailureLimit\n"
        "from mtad.config.parameters import Parameters\nfrom mtad.maillog import ListSink, MailLog\n"
        "p = Parameters.from_mapping({'mtad_queue_directory': sys.argv[1], 'mtad_auth_failure_limit': '2'})\n"
        "FailureLimit(p, MailLog(ListSink(), 'x')).failed(b'alice', '192.0.2.1')\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=30)
    assert limit.locked(b"alice", "192.0.2.1")
    assert oct(os.stat(tmp_path / failures.FILE).st_mode)[-3:] == "600"


def test_what_can_not_be_counted_locks_nobody(tmp_path: Path) -> None:
    sink = ListSink()
    limit = FailureLimit(parameters(tmp_path / "none"), MailLog(sink, "x"))
    limit.failed(b"alice", "192.0.2.1")
    assert not limit.locked(b"alice", "192.0.2.1")
    assert "can not be counted" in sink.lines[0][2]
    (tmp_path / failures.FILE).write_bytes(b"this is no database, but long enough to be read as one" * 100)
    broken = FailureLimit(parameters(tmp_path), MailLog(sink, "x"))
    assert not broken.locked(b"alice", "192.0.2.1")
    assert list(broken.now_locked()) == []


def test_there_is_room_for_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "CAPACITY", 5)
    clock = Clock()
    limit = FailureLimit(parameters(tmp_path, mtad_auth_failure_limit="1"), MailLog(ListSink(), "x"), clock)
    for number in range(8):
        clock.now += 1
        limit.failed(b"user%d" % number, "192.0.2.1")
    assert [each.login for each in limit.now_locked()] == ["user7", "user6", "user5", "user4", "user3"]


def test_nothing_is_limited_by_default(build: Build, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    plain = build(mtad_queue_directory=str(tmp_path / "own"))
    assert not plain.limit
    outcomes = [
        at_once(plain.begin(b"PLAIN", SESSION).step(base64.b64encode(b"\0alice\0x"))) for _ in range(9)
    ]
    assert {str(each.reply) for each in outcomes if isinstance(each, Denied)} == {WRONG}
    assert os.listdir(tmp_path / "own") == []
