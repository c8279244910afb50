"""The master's children: forked, heard, reaped.

A :class:`Child` is the master's knowledge of one process: what it has said on its pipe, and how to tell it
things.  Signals are held back around a fork until the child has its own handlers, so that none is lost or
ends in the wrong one.

Postfix counterpart: ``master_spawn.c``, ``master_status.c``.
"""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mtad.daemon.lock import MasterLock
from mtad.daemon.logs import close_sink
from mtad.daemon.paths import Paths
from mtad.daemon.process import SIGNALS, Lines, run_child
from mtad.daemon.sockets import Channels
from mtad.policy.anvil import Anvil
from mtad.queue.pressure import Pressure

if TYPE_CHECKING:
    from mtad.daemon.master import Configuration


@dataclass(slots=True, eq=False)
class Child:
    """A process.  It is prepared, is told to serve, serves; later it leaves (of a reload) or stops."""

    pid: int
    roles: tuple[str, ...]
    configuration: Configuration
    pipe: int  # what it says; -1: closed
    life: int  # what we tell it; it ends when we are gone
    started: float
    heard: float = field(default=0.0)  # when it last said anything
    prepared: bool = False
    told: bool = False
    serving: bool = False
    leaving: bool = False  # it is to end, or has told us why it must
    left: bool = False  # it takes no more connections
    wants_others: bool = False  # it cannot read any more what fresh processes can
    said: bytes = b""

    @property
    def problem(self) -> str:
        """Why it could not start, where it said so."""
        return self.said.partition(b"F")[2].decode("utf-8", "replace")

    def go(self) -> None:
        """Have it serve."""
        self.told = True
        try:
            os.write(self.life, b"G")
        except OSError:
            pass  # it has just died, which we shall hear

    def leave(self) -> None:
        """Have it finish what it has in hand, and end."""
        if self.prepared:
            self._end_by(signal.SIGHUP)
        else:
            self.kill()

    def stop(self) -> None:
        """Have it end soon."""
        self._end_by(signal.SIGTERM)

    def kill(self) -> None:
        """End it now."""
        self.left = True
        self._end_by(signal.SIGKILL)

    def _end_by(self, number: signal.Signals) -> None:
        # its pid is ours until we have reaped it
        self.leaving = True
        os.kill(self.pid, number)


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


class Children:
    """All processes of the master."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        paths: Paths,
        channels: Channels,
        lock: MasterLock,
        signal_pipe: tuple[int, int],
        watchdog: float,
    ) -> None:
        """``watchdog``: seconds between the master's signs of life, 0: none are wanted."""
        self._selector = selector
        self._paths = paths
        self._channels = channels
        self._lock = lock
        self._signal_pipe = signal_pipe
        self._beat = watchdog * 0.5
        self._by_pid: dict[int, Child] = {}
        self._anvil = Anvil()  # lives as long as we: no reload or death of a child loses counts
        self._pressure = Pressure()

    def __iter__(self) -> Iterator[Child]:
        return iter(self._by_pid.values())

    def __len__(self) -> int:
        return len(self._by_pid)

    def of(self, configuration: Configuration) -> list[Child]:
        """Those that serve ``configuration`` and are not about to end."""
        return [each for each in self if each.configuration is configuration and not each.leaving]

    def launch(
        self, roles: tuple[str, ...], configuration: Configuration, other: Configuration | None
    ) -> None:
        """Fork a process with ``roles``; ``other``: a configuration that has sockets open, too.

        Raises OSError where the system has no room for one."""
        with ExitStack() as undo:
            pipe, its_pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            undo.callback(_close, pipe, its_pipe)
            its_life, life = os.pipe2(os.O_CLOEXEC)
            undo.callback(_close, its_life, life)
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            undo.callback(signal.pthread_sigmask, signal.SIG_UNBLOCK, SIGNALS)
            pid = os.fork()
            undo.pop_all()
        if pid == 0:
            self._let_go(pipe, life)
            self._channels.keep(roles)
            if other is not None:
                other.listeners.close_all_but(configuration.listeners)
                if other.sink is not configuration.sink:
                    close_sink(other.sink)
            if "smtpd" not in roles:
                configuration.listeners.close()
            lines = Lines(its_pipe, its_life, self._beat)
            sockets = configuration.listeners.by_service
            run_child(
                roles,
                configuration.plan,
                self._paths,
                configuration.sink,
                sockets,
                self._channels,
                lines,
                self._anvil,
                self._pressure,
            )
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os.close(its_pipe)
        os.close(its_life)
        now = time.monotonic()
        child = Child(pid, roles, configuration, pipe, life, now, now)
        self._by_pid[pid] = child
        self._selector.register(pipe, selectors.EVENT_READ, child)

    def _let_go(self, *pipes: int) -> None:
        """In a new child: close what is the master's alone."""
        signal.set_wakeup_fd(-1)
        self._selector.close()
        self._lock.leave()
        for fd in (*pipes, *self._signal_pipe):
            os.close(fd)
        for child in self:
            os.close(child.life)
            if child.pipe >= 0:
                os.close(child.pipe)

    def hear(self, child: Child) -> None:
        """``child`` said something."""
        while child.pipe >= 0:
            try:
                words = os.read(child.pipe, 4096)
            except BlockingIOError:
                return
            if not words:
                self._selector.unregister(child.pipe)
                os.close(child.pipe)
                child.pipe = -1
                return
            child.heard = time.monotonic()
            if child.said.startswith(b"F") or b"F" in words:
                child.said += words
                continue
            child.prepared |= b"P" in words
            child.serving |= b"R" in words
            child.left |= b"D" in words
            child.wants_others |= b"T" in words

    def reap(self) -> list[tuple[Child, int]]:
        """Children that have ended, with their wait status."""
        found: list[tuple[Child, int]] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return found
            if pid == 0:
                return found
            child = self._by_pid.pop(pid, None)
            if child is not None:
                self._anvil.forget(pid)
                self._over(child)
                found.append((child, status))

    def _over(self, child: Child) -> None:
        self.hear(child)
        os.close(child.life)
        if child.pipe >= 0:
            self._selector.unregister(child.pipe)
            os.close(child.pipe)
            child.pipe = -1

    def kill(self) -> None:
        """End all of them now."""
        for child in list(self):
            child.kill()
        for pid in self._by_pid:
            os.waitpid(pid, 0)
        self._by_pid.clear()
