"""Our saslauthd checker against Cyrus' own daemon, with its own run directory and user databases.

The daemon runs in a mount namespace in which copies stand for ``/etc/sasldb2``, ``/etc/passwd`` and
``/etc/shadow``, so that the host's users are neither used nor changed.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor

from mtad.auth import saslauthd
from mtad.auth.authenticator import Authenticator, AuthSession, Denied, Granted
from mtad.config.parameters import Parameters
from mtad.maillog import ListSink, MailLog
from mtad.tables.sasldb import SaslDb

SESSION = AuthSession("client.test", "192.0.2.1", "4000", "192.0.2.2", "587", True)
NEEDED = ("saslauthd", "unshare", "openssl")

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, NEEDED)), reason=f"needs root and {', '.join(NEEDED)}"
)


def prepare(root: Path) -> dict[str, Path]:
    """Copies of the user databases, with alice in them."""
    db = root / "sasldb2"
    SaslDb(str(db)).set("alice", "mail.test", b"secret")
    SaslDb(str(db)).set("alice", "", b"secret")
    made = subprocess.run(
        ["openssl", "passwd", "-5", "-stdin"], input="secret", text=True, capture_output=True, check=True
    )
    copies = {"/etc/sasldb2": db, "/etc/passwd": root / "passwd", "/etc/shadow": root / "shadow"}
    for name, line in (
        ("/etc/passwd", "alice:x:61234:61234::/nonexistent:/usr/sbin/nologin\n"),
        ("/etc/shadow", f"alice:{made.stdout.strip()}:19000:0:99999:7:::\n"),
    ):
        copies[name].write_text(Path(name).read_text() + line)
        shutil.copymode(name, copies[name])
    return copies


@contextmanager
def running(mechanism: str, root: Path) -> Iterator[Path]:
    """A saslauthd of our own; gives the path of its socket."""
    copies = prepare(root)
    binds = "".join(f"[ -e {name} ] && mount --bind {copy} {name}; " for name, copy in copies.items())
    script = f"{binds} exec saslauthd -d -a {mechanism} -m {root} -n 2"
    with open(root / "log", "wb") as log:
        daemon = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", script],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        mux = root / "mux"
        deadline = time.monotonic() + 10
        while not answers(mux):
            assert daemon.poll() is None, (root / "log").read_text()
            assert time.monotonic() < deadline, (root / "log").read_text()
            time.sleep(0.02)
        yield mux
    finally:
        daemon.terminate()
        try:
            daemon.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(daemon.pid, signal.SIGKILL)
            daemon.wait()


def answers(mux: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(mux)) == 0


class Logins:
    """An authenticator on a reactor of its own."""

    def __init__(self, root: Path, mux: Path) -> None:
        self.sink = ListSink()
        self.reactor = EPollReactor()
        conf = root / "conf"
        conf.mkdir(exist_ok=True)
        (conf / "smtpd.conf").write_text(
            f"pwcheck_method: saslauthd\nsaslauthd_path: {mux}\nmech_list: plain login\n"
        )
        p = Parameters.from_mapping({"myhostname": "mail.test", "cyrus_sasl_config_path": str(conf)})
        self.authenticator = Authenticator.build(p, self.reactor, MailLog(self.sink, "postfix/smtpd"))

    def plain(self, user: bytes, password: bytes) -> Deferred[Any]:
        exchange = self.authenticator.begin(b"PLAIN", SESSION)
        return Deferred.fromCoroutine(exchange.step(b64encode(b"\0" + user + b"\0" + password)))

    def results(self, *outcomes: Deferred[Any]) -> list[Any]:
        results: list[Any] = []
        for each in outcomes:
            each.addBoth(results.append)
        deadline = time.monotonic() + 20
        while len(results) < len(outcomes):
            assert time.monotonic() < deadline
            self.reactor.iterate(0.05)
        return results


@pytest.mark.parametrize(
    ("mechanism", "user"), [("sasldb", b"alice@mail.test"), ("shadow", b"alice"), ("pam", b"alice")]
)
def test_good_and_bad_passwords(mechanism: str, user: bytes, tmp_path: Path) -> None:
    with running(mechanism, tmp_path) as mux:
        logins = Logins(tmp_path, mux)
        (good,) = logins.results(logins.plain(user, b"secret"))
        assert isinstance(good, Granted), (tmp_path / "log").read_text()
        assert good.avatar.username == user.decode()
        for name, password in ((user, b"wrong"), (b"nobody-here", b"secret"), (user, b"")):
            (bad,) = logins.results(logins.plain(name, password))
            assert isinstance(bad, Denied)
            assert str(bad.reply) == "535 5.7.8 Error: authentication failed: authentication failure"
        many = logins.results(*(logins.plain(user, b"secret") for _ in range(40)))
        assert all(isinstance(each, Granted) for each in many)


def test_a_stopped_daemon_is_a_temporary_failure(tmp_path: Path) -> None:
    with running("sasldb", tmp_path) as mux:
        pass
    logins = Logins(tmp_path, mux)
    (denied,) = logins.results(logins.plain(b"alice@mail.test", b"secret"))
    assert str(denied.reply) == "454 4.7.0 Temporary authentication failure: generic failure"
    assert "cannot connect to saslauthd server: " in logins.sink.lines[0][2]


def test_one_that_hangs_holds_up_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """saslauthd accepts and never answers: 454 after the time-out, and the reactor goes on meanwhile."""
    monkeypatch.setattr(saslauthd, "TIMEOUT", 0.3)
    mux = tmp_path / "mux"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(mux))
        listener.listen(50)
        logins = Logins(tmp_path, mux)
        waiting = [logins.plain(b"alice", b"secret") for _ in range(30)]
        for _ in range(5):
            started = time.monotonic()
            logins.reactor.iterate(0.01)
            assert time.monotonic() - started < 0.1
        assert not any(each.called for each in waiting)
        replies = {str(each.reply) for each in logins.results(*waiting)}
        assert replies == {"454 4.7.0 Temporary authentication failure: generic failure"}
