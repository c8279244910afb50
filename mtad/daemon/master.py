"""The master: holds the lock and the listening sockets, and keeps the processes alive.

It has no reactor and does little: reads and checks the configuration, opens the sockets, forks one process
for the queue manager and several for smtpd, and waits for signals.  SIGHUP reloads: the new configuration
is read and checked whole; a broken one changes nothing; a good one gets new processes on the same sockets,
and the old ones finish what they have in hand.  SIGTERM stops.  A child that dies is replaced, slowly where
it dies at once.

Postfix counterpart: ``master(8)``.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import mtad
from mtad.daemon.lock import MasterLock
from mtad.daemon.logs import open_sink, program_log
from mtad.daemon.notify import Notifier
from mtad.daemon.paths import Paths, make_directories
from mtad.daemon.plan import Plan, make_plan
from mtad.daemon.process import run_child
from mtad.daemon.sockets import Listeners
from mtad.errors import ConfigError
from mtad.maillog import MailLog, Sink

#: Seconds that a stop waits for the children before it kills them.
STOP_PATIENCE = 7.0
#: A child that ends sooner after its start was never well.
_TOO_SOON = 2.0


@dataclass(slots=True)
class Child:
    """A process of ours.  ``generation`` counts configurations."""

    pid: int
    roles: tuple[str, ...]
    generation: int
    ready_pipe: int
    life_pipe: int
    started: float
    ready: bool = False
    leaving: bool = False


class Master:
    """See the module."""

    def __init__(self, directory: str, *, single: bool = False, started: Callable[[str], None]) -> None:
        """``single``: all roles in one process.  ``started`` is called once: with nothing when we serve, or
        with the reason why not."""
        self._directory = os.path.abspath(directory)
        self._single = single
        self._started: Callable[[str], None] | None = started
        self._notifier = Notifier()
        self._children: dict[int, Child] = {}
        self._generation = 0
        self._listeners = Listeners()
        self._retired: list[Listeners] = []
        self._stopping = 0  # the signal that ends us
        self._reload = False
        self._replace: list[tuple[float, tuple[str, ...]]] = []
        self._failures = 0
        self._selector = selectors.DefaultSelector()
        self._plan: Plan
        self._paths: Paths
        self._sink: Sink
        self._lock: MasterLock
        self._log: MailLog

    def run(self) -> int:
        """Start, serve, end.  Returns the exit status; raises ConfigError when it cannot start."""
        self._plan = plan = make_plan(self._directory)
        self._paths = make_directories(plan.p, plan.owner)
        self._lock = MasterLock(self._paths.lock)
        self._sink = open_sink(plan.p)
        self._log = program_log(plan.p, self._sink, "master")
        self._listeners = Listeners().change(plan.smtpd)
        self._signals()
        self._log.info(f"daemon started -- version {mtad.POSTFIX_VERSION}, configuration {self._directory}")
        gc.collect()
        gc.freeze()
        self._launch_all()
        self._loop()
        self._end()
        return 0

    # -- signals and the loop

    def _signals(self) -> None:
        read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._signal_pipe = read
        self._selector.register(read, selectors.EVENT_READ, None)
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        if number == signal.SIGHUP:
            self._reload = True
        elif number in (signal.SIGTERM, signal.SIGINT):
            self._stopping = number

    def _loop(self) -> None:
        beat = 0.0
        while not self._stopping:
            timeout = self._notifier.interval or 3600.0
            if self._replace:
                timeout = min(timeout, max(0.0, min(when for when, _ in self._replace) - time.monotonic()))
            for key, _ in self._selector.select(timeout):
                if key.data is None:
                    _drain(self._signal_pipe)
                else:
                    self._heard(key.data)
            self._reap()
            if self._reload and not self._stopping:
                self._reload = False
                self._reload_now()
            self._replace_the_dead()
            now = time.monotonic()
            if self._notifier.interval and now - beat >= self._notifier.interval * 0.5:
                beat = now
                self._notifier.alive()

    def _heard(self, child: Child) -> None:
        """A child wrote to its pipe: it serves, or it wants to be replaced since a table has changed."""
        try:
            word = os.read(child.ready_pipe, 16)
        except BlockingIOError:
            return
        if not word:
            self._selector.unregister(child.ready_pipe)
            os.close(child.ready_pipe)
            child.ready_pipe = -1
            return
        if b"R" in word:
            child.ready = True
            self._failures = 0
            self._when_ready()
        if b"T" in word and child.generation == self._generation and not child.leaving:
            self._reload = True

    # -- children

    def _roles(self) -> list[tuple[str, ...]]:
        if self._single:
            return [("qmgr", "smtpd")]
        workers = self._plan.p.number("mtad_smtpd_workers") or os.cpu_count() or 1
        return [("qmgr",), *[("smtpd",)] * workers]

    def _launch_all(self) -> None:
        self._generation += 1
        for roles in self._roles():
            self._launch(roles)

    def _launch(self, roles: tuple[str, ...]) -> None:
        ready_read, ready_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        life_read, life_write = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            self._let_go(ready_read, life_write)
            sockets = self._listeners.by_service
            run_child(roles, self._plan, self._paths, self._sink, sockets, ready_write, life_read)
        os.close(ready_write)
        os.close(life_read)
        child = Child(pid, roles, self._generation, ready_read, life_write, time.monotonic())
        self._children[pid] = child
        self._selector.register(ready_read, selectors.EVENT_READ, child)

    def _let_go(self, *pipes: int) -> None:
        """In a new child: close what is the master's alone."""
        signal.set_wakeup_fd(-1)
        self._selector.close()
        self._lock.leave()
        for fd in pipes:
            os.close(fd)
        os.close(self._signal_pipe)
        for child in self._children.values():
            os.close(child.life_pipe)
            if child.ready_pipe >= 0:
                os.close(child.ready_pipe)

    def _when_ready(self) -> None:
        """When all processes of this generation serve, the older ones may go."""
        current = [child for child in self._children.values() if child.generation == self._generation]
        if not all(child.ready for child in current if "smtpd" in child.roles):
            return
        for child in self._children.values():
            if child.generation < self._generation and not child.leaving:
                child.leaving = True
                os.kill(child.pid, signal.SIGHUP)
        if not all(child.ready for child in current):
            return
        for listeners in self._retired:
            listeners.close_all_but(self._listeners)
        self._retired.clear()
        self._notifier.ready("serving")
        if self._started is not None:
            self._started("")
            self._started = None
        else:
            self._outcome("")

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._children.pop(pid, None)
            if child is None:
                continue
            os.close(child.life_pipe)
            if child.ready_pipe >= 0:
                self._selector.unregister(child.ready_pipe)
                os.close(child.ready_pipe)
            if not child.leaving and not self._stopping:
                self._died(child, status)

    def _died(self, child: Child, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        how = f"exit status {code}" if code >= 0 else f"killed by signal {-code}"
        program = "/".join(child.roles)
        self._log.warning(f"process {program} pid {child.pid} {how}")
        if child.generation != self._generation:
            return
        delay = 0.0
        if not child.ready and time.monotonic() - child.started < _TOO_SOON:
            self._failures += 1
            delay = min(2.0**self._failures, float(self._plan.p.seconds("service_throttle_time")))
            self._log.warning(f"{program}: bad command startup -- throttling")
        self._replace.append((time.monotonic() + delay, child.roles))

    def _replace_the_dead(self) -> None:
        now = time.monotonic()
        due = [entry for entry in self._replace if entry[0] <= now]
        for entry in due:
            self._replace.remove(entry)
            self._launch(entry[1])

    # -- reload and end

    def _reload_now(self) -> None:
        self._notifier.reloading()
        self._log.info(f"reload -- version {mtad.POSTFIX_VERSION}, configuration {self._directory}")
        try:
            plan = make_plan(self._directory)
            if plan.p["queue_directory"] != self._plan.p["queue_directory"]:
                self._log.warning("ignoring queue_directory change: stop and start to change it")
            make_directories(plan.p, plan.owner)
            sink = open_sink(plan.p)
            listeners = self._listeners.change(plan.smtpd)
        except ConfigError as problem:
            self._log.error(f"reload refused: {problem}")
            self._outcome(str(problem))
            self._notifier.ready("serving the old configuration: the new one was refused")
            return
        self._retired.append(self._listeners)
        self._plan, self._sink, self._listeners = plan, sink, listeners
        self._log = program_log(plan.p, sink, "master")
        self._replace.clear()
        # the queue has one manager: the old one starts to finish now, the new one waits for its lock
        for child in self._children.values():
            if "qmgr" in child.roles and not child.leaving:
                child.leaving = True
                os.kill(child.pid, signal.SIGHUP)
        self._launch_all()

    def _outcome(self, text: str) -> None:
        """Leave word for ``mtad reload`` of what became of it: nothing, or why it was refused."""
        temporary = f"{self._paths.outcome}.tmp"
        try:
            with open(temporary, "w") as out:
                out.write(text)
            os.rename(temporary, self._paths.outcome)
        except OSError as problem:
            self._log.warning(f"cannot write {self._paths.outcome}: {problem.strerror}")

    def _end(self) -> None:
        self._notifier.stopping()
        self._log.info(f"terminating on signal {self._stopping}")
        for listener in self._listeners.open.values():
            listener.close()
        for child in self._children.values():
            child.leaving = True
            os.kill(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_PATIENCE
        while self._children and time.monotonic() < deadline:
            self._selector.select(0.2)
            _drain(self._signal_pipe)
            self._reap()
        for child in self._children.values():
            os.kill(child.pid, signal.SIGKILL)
        self._lock.release()


def _drain(fd: int) -> None:
    try:
        while os.read(fd, 512):
            pass
    except BlockingIOError:
        pass
