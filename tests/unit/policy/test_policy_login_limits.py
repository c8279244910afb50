"""mtad_sasl_*_limit: what each login may send."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from policy_support import BASE, drive

from mtad.config.parameters import Parameters
from mtad.maillog import ListSink, MailLog
from mtad.policy.login_counts import DAY, MESSAGES, LoginCounts
from mtad.policy.login_limits import LoginLimits
from mtad.policy.request import Request
from mtad.wire.address import from_text

HOUR = 3600


class Time:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def counts(tmp_path: Path, time: Time) -> LoginCounts:
    return LoginCounts(str(tmp_path / "logins"), 10, time)


def test_windows(counts: LoginCounts, time: Time) -> None:
    assert [counts.message("alice", HOUR) for _ in range(3)] == [1, 2, 3]
    assert counts.message("bob", HOUR) == 1
    time.now += HOUR
    assert counts.message("alice", HOUR) == 4
    time.now += 1
    assert counts.message("alice", HOUR) == 1
    time.now -= 100_000  # somebody has set the clock
    assert [counts.message("alice", HOUR) for _ in range(2)] == [1, 2]


def test_two_processes_count_together_and_a_new_one_goes_on(
    counts: LoginCounts, tmp_path: Path, time: Time
) -> None:
    other = LoginCounts(str(tmp_path / "logins"), 10, time)
    assert (counts.message("alice", HOUR), other.message("alice", HOUR)) == (1, 2)
    counts.close()
    other.close()
    assert counts.message("alice", HOUR) == 3


def test_all_processes_count_from_the_first_moment(tmp_path: Path) -> None:
    ready, go = os.pipe()
    processes = []
    for _ in range(8):
        pid = os.fork()
        if pid == 0:
            os.close(go)
            os.read(ready, 1)  # until all are there
            mine = LoginCounts(str(tmp_path / "logins"), 10)
            for _ in range(20):
                mine.message("alice", HOUR)
            os._exit(0)
        processes.append(pid)
    os.close(go)
    assert [os.waitpid(pid, 0)[1] for pid in processes] == [0] * 8
    os.close(ready)
    assert LoginCounts(str(tmp_path / "logins"), 10).message("alice", HOUR) == 161


def test_new_recipients(counts: LoginCounts, time: Time) -> None:
    def fresh(address: bytes, login: str = "alice") -> int:
        return counts.recipient(login, address, 0, 2)[1]

    assert [fresh(b"a@x"), fresh(b"a@X"), fresh(b"b@x")] == [1, 0, 2]
    assert fresh(b"a@x", "bob") == 1
    assert [fresh(b"c@x"), fresh(b"c@x")] == [3, 4]  # refused, so still unknown
    time.now += DAY + 1
    assert [fresh(b"b@x"), fresh(b"c@x"), fresh(b"c@x")] == [0, 1, 0]
    for _ in range(9):
        time.now += DAY
        assert fresh(b"b@x") == 0  # known as long as it is written to
    time.now += 2 * DAY
    assert [fresh(b"c@x"), fresh(b"b@x")] == [1, 0]


def test_recipients_count_as_asked(counts: LoginCounts) -> None:
    assert counts.recipient("alice", b"a@x", HOUR, 0) == (1, 0)
    assert counts.recipient("alice", b"a@x", HOUR, 5) == (2, 1)
    assert counts.recipient("alice", b"a@x", 0, 5) == (0, 0)


def test_what_is_over_is_cleaned_away(counts: LoginCounts, tmp_path: Path, time: Time) -> None:
    counts.message("alice", HOUR)
    counts.recipient("alice", b"a@x", HOUR, 5)
    time.now += 20 * DAY
    counts.message("bob", HOUR)
    counts.close()
    with sqlite3.connect(tmp_path / "logins") as database:
        assert database.execute("SELECT login, kind FROM counts").fetchall() == [("bob", MESSAGES)]
        assert database.execute("SELECT count(*) FROM known").fetchall() == [(0,)]
    assert b"a@x" not in (tmp_path / "logins").read_bytes()


class Bench:
    def __init__(self, directory: Path, **settings: str) -> None:
        self.sink = ListSink()
        p = Parameters.from_mapping({**BASE, "mtad_queue_directory": str(directory), **settings})
        limits = LoginLimits.build(p, "submission", MailLog(self.sink, "postfix/smtpd"))
        assert limits is not None
        self.limits = limits
        self.request = Request("c.example", "192.0.2.1")

    def login(self, name: str, method: str = "PLAIN") -> Bench:
        self.request.sasl_method, self.request.sasl_username = method, name
        return self

    def message(self) -> str | None:
        return self._text(drive(self.limits.message(self.request)))

    def recipient(self, address: str = "r@example.net") -> str | None:
        self.request.recipient = from_text(address.encode())
        return self._text(drive(self.limits.recipient(self.request)))

    @staticmethod
    def _text(reply: Any) -> str | None:
        return None if reply is None else str(reply)

    @property
    def log(self) -> list[str]:
        return [text for _, _, text in self.sink.lines]


def test_nothing_is_made_without_limits(tmp_path: Path) -> None:
    p = Parameters.from_mapping({**BASE, "mtad_queue_directory": str(tmp_path)})
    assert LoginLimits.build(p, "submission", MailLog(ListSink(), "x")) is None
    bench = Bench(tmp_path, mtad_sasl_message_rate_limit="1")
    assert [bench.message(), bench.message()] == [None, None]  # no login
    assert list(tmp_path.iterdir()) == []


def test_messages(tmp_path: Path) -> None:
    bench = Bench(tmp_path, mtad_sasl_message_rate_limit="2").login("Alice@example.com")
    assert [bench.message(), bench.login("alice@example.com").message()] == [None, None]
    assert bench.message() == "450 4.7.1 Error: too much mail from alice@example.com"
    assert bench.recipient() is None
    assert bench.login("bob@example.com").message() is None
    assert bench.log == [
        "warning: Message rate limit of login exceeded: 3 by alice@example.com from c.example[192.0.2.1] "
        "for service submission"
    ]


def test_recipients(tmp_path: Path) -> None:
    bench = Bench(tmp_path, mtad_sasl_recipient_rate_limit="3", mtad_sasl_new_recipient_limit="1").login(
        "alice"
    )
    assert [bench.recipient("a@x"), bench.recipient("a@x")] == [None, None]
    assert bench.recipient("b@x") == "450 4.7.1 Error: too many new recipients from alice"
    assert bench.recipient("a@x") == "450 4.7.1 Error: too many recipients from alice"
    assert [line.partition(" of login")[0] for line in bench.log] == [
        "warning: New recipient rate limit",
        "warning: Recipient rate limit",
    ]


def test_logins_with_limits_of_their_own(tmp_path: Path) -> None:
    table = (
        "inline:{ {alice@example.com = messages=2} {bob@example.com = none}"
        " {@example.com = messages = 3, recipients=1} {carol = message=1 messages=0} }"
    )
    bench = Bench(tmp_path, mtad_sasl_message_rate_limit="1", mtad_sasl_rate_limit_maps=table)

    def allowed(login: str) -> int:
        bench.login(login)
        return [bench.message() is None for _ in range(5)].count(True)

    assert allowed("alice@example.com") == 2
    assert allowed("bob@example.com") == 5
    assert allowed("dora@example.com") == 3
    assert [bench.recipient(), bench.recipient()] == [
        None,
        "450 4.7.1 Error: too many recipients from dora@example.com",
    ]
    assert allowed("eve@example.net") == 1
    assert allowed("carol") == 5
    assert any('entry "carol" has "message=1"' in line for line in bench.log)


def test_what_fails_limits_nobody(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "absent", mtad_sasl_message_rate_limit="1").login("alice")
    assert [bench.message(), bench.message()] == [None, None]
    assert "cannot count what logins send: " in bench.log[0]
    bench = Bench(tmp_path, mtad_sasl_message_rate_limit="1", mtad_sasl_rate_limit_maps="fail:no").login(
        "alice"
    )
    assert [bench.message(), bench.message() is None] == [None, False]
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "logins").write_bytes(b"no database at all" * 100)
    bench = Bench(broken, mtad_sasl_message_rate_limit="1").login("alice")
    assert [bench.message(), bench.message()] == [None, None]


def test_logins_of_any_kind(tmp_path: Path) -> None:
    bench = Bench(tmp_path, mtad_sasl_message_rate_limit="1")
    for name in ("a\nb", "\udcff", "ä@ö", "'; DROP TABLE counts; --", "x" * 3000):
        bench.login(name)
        assert bench.message() is None
        said = bench.message()
        assert said is not None and said.isprintable() and len(said) < 300
    assert bench.login("anonymous", "ANONYMOUS").message() is None
