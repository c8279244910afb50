"""A process without a reactor that forks for each connection to its sockets.

:class:`ForkingServer` is the life of such a process: the master's pipe, the signals, the children that end.
What is served, and how many at a time, is its subclasses' to say.  It ends when it is told to, or when the
master is gone.

Postfix counterpart: ``multi_server(3)``, as far as there is one.
"""

from __future__ import annotations

import os
import select
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence


class ForkingServer(ABC):
    """Serves until told otherwise.  ``say`` tells the master how we are: ``R`` serving, ``B`` alive, every
    ``beat`` seconds (0: never), ``D`` done."""

    def __init__(self, say: Callable[[bytes], None], beat: float) -> None:
        self._say = say
        self._beat = beat or None
        self._ending = False

    def run(self, life: int) -> None:
        """Serve as long as the pipe ``life`` is open and nobody ends us by a signal."""
        read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._end)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        while not self._ending:
            ready, _, _ = select.select([life, read_end, *self._open()], [], [], self._patience())
            if self._beat:
                self._say(b"B")
            if life in ready:
                if not os.read(life, 64):
                    break
                self._listen()
                self._say(b"R")
            if read_end in ready:
                os.read(read_end, 4096)
            self._reap()
            self._accept(ready)
        self._leave()
        self._say(b"D")

    def _end(self, *_: object) -> None:
        self._ending = True

    def _reap(self) -> None:
        """See which children have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self._ended(pid, status)

    def _patience(self) -> float | None:
        """Seconds until there is something to do where nothing happens; None: for ever."""
        return self._beat

    @abstractmethod
    def _listen(self) -> None:
        """The master has told us to serve."""

    @abstractmethod
    def _open(self) -> Sequence[int]:
        """The sockets on which one more connection may be taken."""

    @abstractmethod
    def _accept(self, ready: Sequence[int]) -> None:
        """Take what has come; our sockets may be among the descriptors ``ready``."""

    @abstractmethod
    def _ended(self, pid: int, status: int) -> None:
        """A child has ended, with that status of ``waitpid``."""

    @abstractmethod
    def _leave(self) -> None:
        """The last thing to do."""
