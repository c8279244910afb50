"""A process of the daemon, from its fork to its end.

:func:`run_child` is called in a forked process that has no reactor yet and never returns.  It makes one, lets
the roles open what they must, gives up root, serves when it is told to, and leaves when it is told to
(SIGHUP: when all is finished; SIGTERM: soon) or when the master is gone.

What it says to the master, a byte each: ``P`` prepared, ``R`` serving, ``D`` takes no more connections, ``B``
a sign of life, ``T`` a table has changed that only fresh processes can read, ``F`` and a text: why it cannot
start.  What it hears: ``G``, serve.

Postfix counterpart: ``multi_server(3)``.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.logger import globalLogBeginner
from twisted.python.failure import Failure

from mtad.daemon.logs import program_log
from mtad.daemon.mailman import Mailman, Rules
from mtad.daemon.paths import Paths
from mtad.daemon.pickup import PickupRole
from mtad.daemon.plan import Plan
from mtad.daemon.readers import PipeWatch
from mtad.daemon.roles import QmgrRole, SmtpdRole, Surroundings
from mtad.daemon.sockets import Channels
from mtad.daemon.spawner import Spawner
from mtad.errors import MtadError
from mtad.maillog import Sink
from mtad.net.reactor import MailReactor
from mtad.policy.anvil import Anvil
from mtad.queue.pressure import Pressure
from mtad.queue.sqlite import SQLiteStore
from mtad.tables.blocking import BlockingTable
from mtad.tables.table import PAUSE, Text, Watch
from mtad.tables.threads import Threads

#: Exit status of a child that could not start for the configuration's sake.
BAD_START = 78

#: Enough for as many connections as a process can serve; a shell usually allows a thousand.
_DESCRIPTORS = 65536

#: The signals of a master, held back in a new child until it has its own handlers.
SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)

Sockets = Mapping[int, Sequence[socket.socket]]


@dataclass(frozen=True, slots=True)
class Lines:
    """The two pipes between a child and its master."""

    pipe: int
    life: int
    beat: float  # seconds between signs of life, 0: none

    def say(self, word: bytes) -> None:
        """Tell the master a word; nothing happens when it is gone."""
        try:
            os.write(self.pipe, word)
        except OSError:
            pass  # the master is gone, which we shall notice


def run_child(
    roles: Sequence[str],
    plan: Plan,
    paths: Paths,
    sink: Sink,
    sockets: Sockets,
    channels: Channels,
    lines: Lines,
    anvil: Anvil,
    pressure: Pressure,
) -> None:
    """Be a child with ``roles`` (``smtpd`` and ``qmgr``, or ``mailman`` or ``spawner`` alone).

    Signals are blocked when this is called."""
    status = 1
    try:
        if "mailman" in roles:
            status = _write_mailboxes(plan, channels, lines)
        elif "spawner" in roles:
            status = _run_commands(plan, sink, lines)
        else:
            _allow_connections()
            status = _Process(roles, plan, paths, sink, lines, anvil, pressure).run(sockets, channels)
    except MtadError as problem:
        _report(plan, sink, roles, f"fatal: {problem}")
        lines.say(f"F{problem}".encode("utf-8", "replace")[:4000])
        status = BAD_START
    except BaseException as mistake:
        for line in traceback.format_exc().strip().split("\n"):
            _report(plan, sink, roles, f"panic: {line}")
        lines.say(f"F{mistake!r}".encode("utf-8", "replace")[:4000])
    finally:
        sys.stdout.flush()
        os._exit(status)


def _allow_connections() -> None:
    """As many open descriptors as we may have, up to what a process can serve."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _write_mailboxes(plan: Plan, channels: Channels, lines: Lines) -> int:
    """Be the process that keeps root's rights, and has no reactor."""
    lines.say(b"P")
    mailman = Mailman(Rules.of(plan.p, plan.owner.uid), channels.mailman, lines.say, lines.beat)
    mailman.run(lines.life)
    return 0


def _run_commands(plan: Plan, sink: Sink, lines: Lines) -> int:
    """Be the process that runs commands for others; it, too, keeps root's rights and has no reactor."""
    log = program_log(plan.p, sink, "spawn")
    spawner = Spawner(plan.p, plan.services, plan.owner, log, lines.say, lines.beat)
    lines.say(b"P")
    spawner.run(lines.life)
    return 0


def _report(plan: Plan, sink: Sink, roles: Sequence[str], text: str) -> None:
    sink.write("fatal", f"{plan.p['syslog_name']}/{roles[0]}", text)


class _Process:
    """The parts of a child and the life they share."""

    def __init__(
        self,
        roles: Sequence[str],
        plan: Plan,
        paths: Paths,
        sink: Sink,
        lines: Lines,
        anvil: Anvil,
        pressure: Pressure,
    ) -> None:
        self._roles = roles
        self._plan = plan
        self._paths = paths
        self._sink = sink
        self._lines = lines
        self._anvil = anvil
        self._pressure = pressure
        self._status = 0
        self._parts: list[SmtpdRole | QmgrRole | PickupRole] = []
        self._reactor: Any = None

    def run(self, sockets: Sockets, channels: Channels) -> int:
        from twisted.internet.main import installReactor

        make: Any = MailReactor
        reactor = self._reactor = make()
        installReactor(reactor)
        Text.utf8 = self._plan.p.flag("smtputf8_enable")
        observers: Any = [self._report_failure]
        globalLogBeginner.beginLoggingTo(observers, redirectStandardIO=False, discardBuffer=True)
        around = Surroundings(self._plan, self._paths, self._sink, reactor, self._anvil, self._pressure)
        store = SQLiteStore(self._paths.queue, reactor)
        if "qmgr" in self._roles:
            manager = QmgrRole(around, store, channels)
            pickup = PickupRole(around, store, manager.busy, manager.clean)
            manager.scanned = pickup.look
            self._parts += [manager, pickup]
        if "smtpd" in self._roles:
            self._parts.append(SmtpdRole(around, store, sockets))
        for part in self._parts:
            part.start()
        # a table that root alone may read has changed: the master's fresh processes can open it
        Watch.pause = PAUSE
        Watch.unreadable = lambda: self._lines.say(b"T")
        self._plan.owner.become()
        os.umask(0o077)
        BlockingTable.runner = Threads(reactor)
        store.open()
        gc.freeze()
        gc.set_threshold(10_000, 20, 50)  # what a session makes is seldom part of a cycle

        def finished(_: object) -> None:
            store.close().addBoth(lambda _: reactor.stop())

        DeferredList([part.ended for part in self._parts]).addBoth(finished)
        PipeWatch(reactor, self._lines.life, self._go, self._stop)
        self._handle_signals()
        self._lines.say(b"P")
        if self._lines.beat:
            self._live()
        reactor.run(installSignalHandlers=False)
        return self._status

    def _handle_signals(self) -> None:
        def on(number: int, action: Callable[[], None]) -> None:
            signal.signal(number, lambda *_: self._reactor.callFromThread(action))

        on(signal.SIGHUP, self._drain)
        on(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the master's
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _live(self) -> None:
        self._lines.say(b"B")
        self._reactor.callLater(self._lines.beat, self._live)

    def _go(self) -> None:
        try:
            serving: list[Deferred[None]] = [part.serve() for part in self._parts]
        except Exception:
            self._broken(Failure())
            return
        gatherResults(serving).addCallbacks(lambda _: self._lines.say(b"R"), self._broken)

    def _broken(self, failure: Failure) -> None:
        """We can't serve."""
        for line in failure.getTraceback().strip().split("\n"):
            _report(self._plan, self._sink, self._roles, f"panic: {line}")
        self._status = 1
        self._reactor.stop()

    def _drain(self) -> None:
        for part in self._parts:
            part.drain()
        self._lines.say(b"D")

    def _stop(self) -> None:
        for part in self._parts:
            part.stop()
        self._lines.say(b"D")

    def _report_failure(self, event: Any) -> None:
        """What Twisted caught of our mistakes, with its traceback."""
        failure = event.get("log_failure")
        if failure is not None:
            for line in failure.getTraceback().strip().split("\n"):
                _report(self._plan, self._sink, self._roles, f"error: {line}")
