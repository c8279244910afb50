"""The master: holds the lock and the sockets, and keeps the processes alive.

It has no reactor and does little: reads and checks the configuration, opens the sockets, forks one process
for the queue manager and several for smtpd, and waits for signals.  SIGHUP reloads, SIGTERM and SIGINT stop.
A child that dies is replaced, slowly where it dies at once.

A new configuration takes effect whole or not at all: it is read and checked, its processes are forked and
make everything that may fail, and only when all of them are prepared are they told to serve and the old ones
to finish what they have in hand.  Whatever goes wrong before that leaves the old ones as they were.  In the
same way, but with the configuration as it was read before, come processes for certificates that have changed
(:mod:`mtad.daemon.certificates`).  The words that pass between us and a child are those of
:mod:`mtad.daemon.process`.

Postfix counterpart: ``master(8)``.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import mtad
from mtad.daemon.certificates import CertificateWatch, certificate_files
from mtad.daemon.children import Child, Children
from mtad.daemon.lock import MasterLock
from mtad.daemon.logs import close_sink, open_sink, program_log
from mtad.daemon.notify import Notifier
from mtad.daemon.paths import Paths, hand_over, make_directories
from mtad.daemon.plan import Plan, make_plan, renewed
from mtad.daemon.sockets import Channels, Listeners
from mtad.daemon.spawner import spawns
from mtad.deliver.transports import writes_mailboxes
from mtad.errors import ConfigError, MtadError
from mtad.maillog import MailLog, Sink, printable
from mtad.net.tls_sessions import SessionContexts

#: Seconds that a stop waits for the children before it kills them.
STOP_PATIENCE = 7.0
#: Seconds to wait for a port that the processes of a killed master may still hold.
_ORPHANS = 10.0
#: A child that ends sooner after its start was never well.
_TOO_SOON = 2.0
#: Seconds after which a process that could not be made is tried again.
_FORK_RETRY = 1.0

_SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


@dataclass(frozen=True, slots=True, eq=False)
class Configuration:
    """A configuration and what the master has opened for it."""

    plan: Plan
    sink: Sink
    log: MailLog
    listeners: Listeners
    read: int  # when we began to read it, by the monotonic clock (ns)
    certificates: CertificateWatch


class Master:
    """See the module."""

    def __init__(self, directory: str, *, single: bool = False, started: Callable[[str], None]) -> None:
        """``single``: all roles in one process.  ``started`` is called once: with nothing when we serve, or
        with the reason why not."""
        self._directory = os.path.abspath(directory)
        self._single = single
        self._started: Callable[[str], None] | None = started
        self._notifier = Notifier()
        self._selector = selectors.DefaultSelector()
        self._current: Configuration | None = None
        self._next: Configuration | None = None  # its processes are not all prepared
        self._settling = False  # the current one serves, but not all of its processes do
        self._stopping = 0  # the signal that ends us
        self._status = 0
        self._reload = False
        self._replace: list[tuple[float, tuple[str, ...]]] = []
        self._failures = 0
        self._tls_sessions = SessionContexts(float("inf"))
        self._children: Children
        self._paths: Paths
        self._lock: MasterLock

    def run(self) -> int:
        """Start, serve, end.  Returns the exit status; raises ConfigError when it cannot start."""
        read, begun = time.monotonic_ns(), time.time_ns()
        plan = make_plan(self._directory, self._tls_sessions)
        self._paths = make_directories(plan.p, plan.owner)
        self._lock = MasterLock(self._paths.lock)
        with suppress(FileNotFoundError):
            os.unlink(self._paths.outcome)  # that of another master; its clock may have begun anew since
        try:
            hand_over(self._paths, plan.owner)
            sink = open_sink(plan.p)
            listeners = self._first_listeners(plan)
            channels = Channels(self._paths, plan.owner)
        except ConfigError:
            self._lock.release()
            raise
        log = program_log(plan.p, sink, "master")
        read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._children = Children(
            self._selector,
            self._paths,
            channels,
            self._lock,
            (read_end, write_end),
            self._notifier.interval,
        )
        self._signals(read_end, write_end)
        log.info(f"daemon started -- version {mtad.POSTFIX_VERSION}, configuration {self._directory}")
        gc.collect()
        gc.freeze()
        self._try(Configuration(plan, sink, log, listeners, read, self._watch(plan, begun)))
        self._loop()
        self._end()
        return self._status

    def _watch(self, plan: Plan, begun: int) -> CertificateWatch:
        """A watch over the certificates of ``plan``, which we began to read at ``begun``."""
        self._tls_sessions.lifetime = plan.p.seconds("mtad_tls_ticket_key_lifetime")
        files = certificate_files(plan.p, plan.smtpd, plan.services)
        return CertificateWatch(files, begun, plan.p.seconds("mtad_tls_reload_interval"), self._tls_sessions)

    def _first_listeners(self, plan: Plan) -> Listeners:
        """The sockets; those of a master that was killed are free as soon as its children have noticed."""
        deadline = time.monotonic() + (_ORPHANS if self._lock.orphaned else 0.0)
        while True:
            try:
                return Listeners().change(plan.smtpd)
            except ConfigError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(0.02)

    # -- signals and the loop

    def _signals(self, read_end: int, write_end: int) -> None:
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        self._signal_pipe = read_end
        self._selector.register(read_end, selectors.EVENT_READ, None)
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        if number == signal.SIGHUP:
            self._reload = True
        elif number in (signal.SIGTERM, signal.SIGINT):
            self._stopping = number

    def _loop(self) -> None:
        beat = 0.0
        while not self._stopping and not self._status:
            self._wait(self._patience())
            if self._next is None and not self._stopping:
                if self._reload:
                    self._reload = False
                    self._reload_now()
                elif self._current is not None and self._current.certificates.stale():
                    self._renew(self._current)
            self._replace_the_dead()
            now = time.monotonic()
            interval = self._notifier.interval
            if interval and now - beat >= interval * 0.5 and self._well(now):
                beat = now
                self._notifier.alive()

    def _patience(self) -> float:
        """Seconds until there is something to do of ourselves."""
        patience = self._notifier.interval * 0.5 or 3600.0
        if self._current is not None and self._next is None:
            patience = min(patience, self._current.certificates.patience())
        if self._replace:
            patience = min(patience, max(0.0, min(when for when, _ in self._replace) - time.monotonic()))
        return patience

    def _wait(self, seconds: float) -> None:
        """Wait for signals and words of the children, and heed them."""
        for key, _ in self._selector.select(seconds):
            if key.data is None:
                _drain(self._signal_pipe)
            else:
                self._children.hear(key.data)
        for child, status in self._children.reap():
            self._ended(child, status)
        self._look_round()

    def _well(self, now: float) -> bool:
        """Whether every process that there should be lives, serves and answers."""
        if self._current is None:
            return False
        limit = now - 1.5 * self._notifier.interval
        here = [child.roles for child in self._children.of(self._current) if child.serving]
        heard = all(child.heard >= limit for child in self._children.of(self._current))
        return heard and sorted(here) == sorted(self._roles(self._current))

    # -- children

    def _roles(self, configuration: Configuration) -> list[tuple[str, ...]]:
        plan = configuration.plan
        mailman: list[tuple[str, ...]] = [("mailman",)] if writes_mailboxes(plan.p, plan.services) else []
        if spawns(plan.services):
            mailman.append(("spawner",))
        if self._single:
            return [("qmgr", "smtpd"), *mailman]
        workers = plan.p.number("mtad_smtpd_workers") or os.cpu_count() or 1
        return [("qmgr",), *mailman, *[("smtpd",)] * workers]

    def _try(self, configuration: Configuration) -> None:
        """Fork the processes of a new configuration; the rest follows when they are prepared."""
        self._next = configuration
        for roles in self._roles(configuration):
            try:
                self._children.launch(roles, configuration, self._current)
            except OSError as problem:
                self._give_up(configuration, f"cannot start a process: {problem.strerror}")
                return

    def _look_round(self) -> None:
        """See how far the children are."""
        if self._next is not None and all(child.prepared for child in self._children.of(self._next)):
            self._take(self._next)
        current = self._current
        if current is None or self._next is not None:
            return
        for child in self._children.of(current):
            if child.prepared and not child.told:
                child.go()
        if any(child.wants_others for child in self._children.of(current)):
            self._reload = True
            for child in self._children.of(current):
                child.wants_others = False
        if self._settling:
            self._settle(current)

    def _take(self, new: Configuration) -> None:
        """From now on ``new`` counts: all its processes are prepared."""
        old, self._current, self._next = self._current, new, None
        for child in self._children.of(new):
            child.go()
        self._settling = True
        if old is None:
            return
        self._replace.clear()
        for child in self._children.of(old):
            if "spawner" not in child.roles:  # its sockets are not ours: it stays until others listen there
                child.leave()
        old.listeners.close_all_but(new.listeners)
        close_sink(old.sink)

    def _settle(self, current: Configuration) -> None:
        """Say that the current configuration serves, and no other any more, once that is so."""
        mine = self._children.of(current)
        if not all(child.serving for child in mine) or len(mine) < len(self._roles(current)):
            return
        old = [child for child in self._children if child.configuration is not current]
        for child in old:
            if not child.leaving:
                child.leave()
        if not all(child.left for child in old):
            return
        self._settling = False
        self._failures = 0
        self._notifier.ready("serving")
        if self._started is not None:
            self._started("")
            self._started = None
        else:
            self._outcome(current.read, "")

    def _ended(self, child: Child, status: int) -> None:
        """A child is gone."""
        if child.leaving or self._stopping:
            return
        code = os.waitstatus_to_exitcode(status)
        how = f"exit status {code}" if code >= 0 else f"killed by signal {-code}"
        program = "/".join(child.roles)
        log = child.configuration.log
        log.warning(f"process {program} pid {child.pid} {how}")
        if child.configuration is self._next:
            self._give_up(self._next, child.problem or f"process {program}: {how}")
        elif child.configuration is self._current:
            delay = 0.0
            if not child.serving and time.monotonic() - child.started < _TOO_SOON:
                self._failures += 1
                limit = float(self._current.plan.p.seconds("service_throttle_time"))
                delay = min(2.0**self._failures, limit)
                log.warning(f"{program}: bad command startup -- throttling")
            self._replace.append((time.monotonic() + delay, child.roles))

    def _give_up(self, new: Configuration, problem: str) -> None:
        """The processes of ``new`` cannot start: do as if it had never been."""
        self._next = None
        for child in self._children.of(new):
            child.kill()
        if self._current is None:
            self._status = 1
            if self._started is not None:
                self._started(problem)
            return
        new.listeners.close_all_but(self._current.listeners)
        close_sink(new.sink)
        self._refuse(new.read, problem)

    def _replace_the_dead(self) -> None:
        now = time.monotonic()
        due = [entry for entry in self._replace if entry[0] <= now]
        for entry in due:
            self._replace.remove(entry)
            if self._current is None:
                continue
            try:
                self._children.launch(entry[1], self._current, self._next)
            except OSError as problem:
                program = "/".join(entry[1])
                self._current.log.warning(
                    f"cannot start process {program}: {problem.strerror}; will try again"
                )
                self._replace.append((now + _FORK_RETRY, entry[1]))

    # -- reload and end

    def _reload_now(self) -> None:
        current = self._current
        if current is None:
            return
        read = time.monotonic_ns()
        self._notifier.reloading()
        current.log.info(f"reload -- version {mtad.POSTFIX_VERSION}, configuration {self._directory}")
        try:
            self._try(self._read(current, read))
        except (MtadError, OSError) as problem:
            self._refuse(read, str(problem))
        except Exception as problem:  # a mistake of ours must not end what runs well
            for line in traceback.format_exc().strip().split("\n"):
                current.log.error(line)
            self._refuse(read, f"internal error: {problem!r}")

    def _renew(self, current: Configuration) -> None:
        """Fresh processes for the configuration that is in use, with its certificates as they are now."""
        begun = time.time_ns()
        try:
            plan = renewed(current.plan, self._tls_sessions, current.log)
            new = self._opened(current, plan, current.read, begun)
        except (MtadError, OSError) as problem:
            current.log.warning(f"certificates are not loaded anew: {problem}; those in use stay")
            return
        current.log.info("certificates or ticket keys renewed")
        self._try(new)

    def _read(self, current: Configuration, read: int) -> Configuration:
        """The configuration as it is now in the files, checked, with its sockets."""
        begun = time.time_ns()
        plan = make_plan(self._directory, self._tls_sessions)
        if plan.owner != current.plan.owner:
            path, line = plan.p.where("mail_owner")
            raise ConfigError(
                f"the queue belongs to {current.plan.owner.name}",
                path=path,
                line=line,
                parameter="mail_owner",
                remedy="stop and start to change it",
            )
        for name in ("queue_directory", "mtad_queue_directory"):
            if plan.p[name] != current.plan.p[name]:
                current.log.warning(f"ignoring {name} change: stop and start to change it")
        make_directories(current.plan.p, plan.owner)
        return self._opened(current, plan, read, begun)

    def _opened(self, current: Configuration, plan: Plan, read: int, begun: int) -> Configuration:
        """``plan`` with its log and its sockets."""
        sink = open_sink(plan.p)
        try:
            listeners = current.listeners.change(plan.smtpd)
        except BaseException:
            close_sink(sink)
            raise
        log = program_log(plan.p, sink, "master")
        return Configuration(plan, sink, log, listeners, read, self._watch(plan, begun))

    def _refuse(self, read: int, problem: str) -> None:
        assert self._current is not None
        self._current.log.error(f"reload refused: {problem}")
        self._outcome(read, problem)
        self._notifier.ready("serving the old configuration: the new one was refused")

    def _outcome(self, read: int, text: str) -> None:
        """Leave word for ``mtad reload`` of what became of it: when we read the configuration, and nothing
        more or why it was refused."""
        temporary = f"{self._paths.outcome}.tmp"
        try:
            with open(temporary, "w", encoding="utf-8") as out:
                out.write(f"{read}\n{printable(text)}")
            os.rename(temporary, self._paths.outcome)
        except OSError as problem:
            assert self._current is not None
            self._current.log.warning(f"cannot write {self._paths.outcome}: {problem.strerror}")

    def _end(self) -> None:
        self._notifier.stopping()
        configuration = self._current or self._next
        if configuration is not None:
            if self._stopping:
                configuration.log.info(f"terminating on signal {self._stopping}")
            configuration.listeners.close()
        if self._started is not None and self._stopping:
            self._started("stopped before it served")
        for child in self._children:
            child.stop()
        self._stopping = self._stopping or signal.SIGTERM
        deadline = time.monotonic() + STOP_PATIENCE
        while len(self._children) and (left := deadline - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                if key.data is None:
                    _drain(self._signal_pipe)
                else:
                    self._children.hear(key.data)
            self._children.reap()
        self._children.kill()
        self._lock.release()


def _drain(fd: int) -> None:
    try:
        while os.read(fd, 512):
            pass
    except BlockingIOError:
        pass
