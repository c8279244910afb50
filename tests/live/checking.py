"""saslauthd for tests, Cyrus' own or ours, and logins that ask it.

The daemon runs in a mount namespace in which copies stand for ``/etc/sasldb2``, ``/etc/passwd`` and
``/etc/shadow``, so that the host's users are neither used nor changed.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from live.host_users import kept
from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor

from mtad.auth.authenticator import Authenticator, AuthSession
from mtad.config.parameters import Parameters
from mtad.maillog import ListSink, MailLog
from mtad.tables.sasldb import SaslDb

SESSION = AuthSession("client.test", "192.0.2.1", "4000", "192.0.2.2", "587", True)
#: Cyrus' daemon, and ours.
PROGRAMS = ("saslauthd", f"{sys.executable} -m mtad.cli.main saslauthd")

NEEDED = ("saslauthd", "unshare", "openssl")
#: Users in shadow(5), all with the same password, and what follows it there; ``!``: locked.
SHADOW = {
    "alice": "19000:0:99999:7:::",
    "expired": "19000:0:99999:7::19001:",
    "aged": "10000:0:90:7:::",
    "mustchange": "0:0:99999:7:::",
    "locked": "!19000:0:99999:7:::",
}

MISSING = os.geteuid() != 0 or not all(map(shutil.which, NEEDED))
WHY_NOT = f"needs root and {', '.join(NEEDED)}"


def prepare(root: Path) -> dict[str, Path]:
    """Copies of the user databases, with alice in them."""
    db = root / "sasldb2"
    SaslDb(str(db)).set("alice", "mail.test", b"secret")
    SaslDb(str(db)).set("alice", "", b"secret")
    SaslDb(str(db)).set("alice@mail.test", "mail.test", b"joined")
    made = subprocess.run(
        ["openssl", "passwd", "-5", "-stdin"], input="secret", text=True, capture_output=True, check=True
    )
    hashed = made.stdout.strip()
    copies = {"/etc/sasldb2": db, "/etc/passwd": root / "passwd", "/etc/shadow": root / "shadow"}
    for name, line in (
        (
            "/etc/passwd",
            "".join(f"{user}:x:61234:61234::/nonexistent:/usr/sbin/nologin\n" for user in SHADOW)
            + f"plain:{hashed}:61235:61234::/nonexistent:/usr/sbin/nologin\n",
        ),
        (
            "/etc/shadow",
            "".join(
                f"{user}:{hashed if '!' not in rest else '!'}:{rest.strip('!')}\n"
                for user, rest in SHADOW.items()
            ),
        ),
    ):
        copies[name].write_text(Path(name).read_text() + line)
        shutil.copymode(name, copies[name])
    return copies


@contextmanager
def running(
    mechanism: str,
    root: Path,
    program: str = "saslauthd",
    options: str = "",
    binds: str = "",
    environment: Mapping[str, str] | None = None,
) -> Iterator[Path]:
    """A saslauthd with users of our own; gives the path of its socket."""
    with kept():
        copies = prepare(root)
        binds += "".join(f"[ -e {name} ] && mount --bind {copy} {name}; " for name, copy in copies.items())
        script = f"{binds} exec {program} -d -a {mechanism} -m {root} -n 2 {options}"
        with open(root / "log", "wb") as log:
            daemon = subprocess.Popen(
                ["unshare", "-m", "sh", "-c", script],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment,
            )  # fmt: skip
        try:
            mux = root / "mux"
            deadline = time.monotonic() + 60
            while not answers(mux):
                assert daemon.poll() is None, (root / "log").read_text()
                assert time.monotonic() < deadline, (root / "log").read_text()
                time.sleep(0.02)
            yield mux
        finally:
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(daemon.pid, signal.SIGKILL)
                daemon.wait()


def answers(mux: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(mux)) == 0


class Logins:
    """An authenticator on a reactor of its own."""

    def __init__(self, root: Path, mux: Path, **values: str) -> None:
        self.sink = ListSink()
        self.reactor: Any = EPollReactor()
        conf = root / "conf"
        conf.mkdir(exist_ok=True)
        (conf / "smtpd.conf").write_text(
            f"pwcheck_method: saslauthd\nsaslauthd_path: {mux}\nmech_list: plain login\n"
        )
        p = Parameters.from_mapping(
            {"myhostname": "mail.test", "cyrus_sasl_config_path": str(conf), **values}
        )
        self.authenticator = Authenticator.build(p, self.reactor, MailLog(self.sink, "postfix/smtpd"))

    def plain(self, user: bytes, password: bytes) -> Deferred[Any]:
        exchange = self.authenticator.begin(b"PLAIN", SESSION)
        return Deferred.fromCoroutine(exchange.step(b64encode(b"\0" + user + b"\0" + password)))

    def results(self, *outcomes: Deferred[Any]) -> list[Any]:
        results: list[Any] = []
        for each in outcomes:
            each.addBoth(results.append)
        deadline = time.monotonic() + 60  # PAM takes its time, and other tests theirs
        while len(results) < len(outcomes):
            assert time.monotonic() < deadline
            self.reactor.iterate(0.05)
        return results


def smtp_login(port: int, response: bytes) -> str:
    """The answer of an SMTP server to AUTH PLAIN."""
    with socket.create_connection(("127.0.0.1", port), 60) as connection, connection.makefile("rwb") as wire:
        wire.readline()
        for line in (b"HELO client.test", b"AUTH PLAIN " + b64encode(response)):
            wire.write(line + b"\r\n")
            wire.flush()
            reply = wire.readline().decode()
    return reply
