"""Counts of what clients do, shared by all processes.

:class:`Anvil` is memory that the master makes before it forks: a table of (service, client) pairs, each with
the number of its sessions and of its events in the current time unit.  An update is a lock, a few bytes, an
unlock: some microseconds, nothing to wait for.  Rates are those of Postfix: a fixed window, which begins
anew with the first event after its end, for all kinds of events at once.

The lock is one of ``fcntl``, which the kernel takes from a process that dies.  Which session counts where
stands in the same memory, by process: :meth:`Anvil.forget` takes back what a dead one has left behind.
The memory lives as long as the master; a reload changes nothing in it.

A client whose place in the table is taken by others with open sessions is not counted (None, 0), as in
Postfix when anvil(8) does not answer.

Postfix counterpart: ``anvil(8)``, ``anvil_clnt(3)``.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# Events, as places in a record.
CONNECTION, MESSAGE, RECIPIENT, NEW_TLS, AUTH = range(5)

_NAMES = ("connection", "message", "recipient", "newtls", "auth")

#: A pair: digest, sessions, start of the window, counts.
_PAIR = struct.Struct("=16sIIIIIII")
_WAYS = 16
#: A record of the largest value seen: value, time, pair.
_PEAK = struct.Struct("=IQ116s")
_PEAKS = 1 + len(_NAMES)  # that of sessions, then one an event
_SESSIONS = len(_NAMES)
#: Where open sessions stand: blocks of them, each a process's; its id, then pairs (0: none).
_BLOCK = 256
_ROW = struct.Struct("=I")

_MOST = 0x7FFFFFFF


@dataclass(frozen=True, slots=True)
class Peak:
    """The largest value in some time: of what, and for whom (``service:client``)."""

    what: str
    value: int
    ident: str
    when: float


@dataclass(slots=True)
class Session:
    """A session that is counted."""

    pair: int
    row: int
    sessions: int
    rate: int


class Anvil:
    """See the module.  ``pairs`` and ``sessions``: how many can be counted."""

    def __init__(
        self,
        pairs: int = 65536,
        sessions: int = 262144,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._sets = pairs // _WAYS
        self._blocks = sessions // _BLOCK
        self._key = os.urandom(16)
        self._peaks_at = self._sets * _WAYS * _PAIR.size
        self._made_at = self._peaks_at + _PEAKS * _PEAK.size
        self._owners_at = self._made_at + _ROW.size
        self._rows_at = self._owners_at + self._blocks * _ROW.size
        self._fd = os.memfd_create("anvil", os.MFD_CLOEXEC)
        size = self._rows_at + self._blocks * _BLOCK * _ROW.size
        os.ftruncate(self._fd, size)
        self._memory = mmap.mmap(self._fd, size)
        self._free: list[int] = []  # this process's rows
        self._owner = 0  # its id, when it has rows

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.lockf(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)

    # -- pairs

    def _find(self, ident: str, now: int) -> int | None:
        """Where the pair is, or is to be (then with zeros); None: no room."""
        digest = hashlib.blake2b(ident.encode("utf-8", "replace"), digest_size=16, key=self._key).digest()
        first = int.from_bytes(digest[:4], "little") % self._sets * _WAYS * _PAIR.size
        memory = self._memory
        end = first + _WAYS * _PAIR.size
        at = memory.find(digest, first, end)
        while at >= 0 and (at - first) % _PAIR.size:
            at = memory.find(digest, at + 1, end)
        if at >= 0:
            return at
        best, oldest = None, now + 1
        for place in range(first, end, _PAIR.size):
            _, sessions, start, *_ = _PAIR.unpack_from(memory, place)
            if not sessions and start < oldest:
                best, oldest = place, start
        if best is not None:
            _PAIR.pack_into(memory, best, digest, 0, now, 0, 0, 0, 0, 0)
            _ROW.pack_into(memory, self._made_at, (self.made + 1) & _MOST)
        return best

    @property
    def made(self) -> int:
        """How many pairs there have been."""
        return int(_ROW.unpack_from(self._memory, self._made_at)[0])

    def connect(self, ident: str, unit: int) -> Session | None:
        """A session begins: count it until :meth:`disconnect`."""
        with self._locked():
            now = int(self._clock())
            pair = self._find(ident, now)
            row = self._take_row() if pair is not None else None
            if pair is None or row is None:
                return None
            rate = self._count(pair, CONNECTION, now, unit)
            sessions = _ROW.unpack_from(self._memory, pair + 16)[0] + 1
            # whose session it is comes first: if we die in between, nothing is left behind
            _ROW.pack_into(self._memory, self._rows_at + row * _ROW.size, pair // _PAIR.size + 1)
            _ROW.pack_into(self._memory, pair + 16, sessions)
            self._peak(CONNECTION, rate, ident)
            self._peak(_SESSIONS, sessions, ident)
        return Session(pair, row, sessions, rate)

    def disconnect(self, session: Session) -> None:
        """The session is over."""
        with self._locked():
            self._drop(session.pair, session.row)
        self._free.append(session.row)

    def event(self, ident: str, event: int, unit: int) -> int:
        """How many events of this kind there were in this time unit, with this one; 0: we can't count it."""
        with self._locked():
            now = int(self._clock())
            pair = self._find(ident, now)
            if pair is None:
                return 0
            rate = self._count(pair, event, now, unit)
            self._peak(event, rate, ident)
        return rate

    def rate(self, ident: str, event: int, unit: int) -> int:
        """How many events of this kind there were in this time unit."""
        with self._locked():
            now = int(self._clock())
            pair = self._find(ident, now)
            if pair is None:
                return 0
            _, _, start, *counts = _PAIR.unpack_from(self._memory, pair)
            return 0 if start + unit < now else int(counts[event])

    def _count(self, pair: int, event: int, now: int, unit: int) -> int:
        digest, sessions, start, *counts = _PAIR.unpack_from(self._memory, pair)
        if start + unit < now:
            start, counts = now, [0] * len(counts)
        counts[event] = min(counts[event] + 1, _MOST)
        _PAIR.pack_into(self._memory, pair, digest, sessions, start, *counts)
        return int(counts[event])

    # -- whose sessions they are

    def _take_row(self) -> int | None:
        """A row of this process's; None: there is none left."""
        pid = os.getpid()
        if self._owner != pid:
            self._owner, self._free = pid, []
        if not self._free:
            owners = memoryview(self._memory)[self._owners_at : self._rows_at].cast("I")
            try:
                block = next((at for at, owner in enumerate(owners) if not owner), None)
                if block is None:
                    return None
                owners[block] = pid
            finally:
                owners.release()
            self._free = list(range((block + 1) * _BLOCK - 1, block * _BLOCK - 1, -1))
        return self._free.pop()

    def _drop(self, pair: int, row: int) -> None:
        sessions = _ROW.unpack_from(self._memory, pair + 16)[0]
        _ROW.pack_into(self._memory, pair + 16, max(sessions - 1, 0))
        _ROW.pack_into(self._memory, self._rows_at + row * _ROW.size, 0)

    def forget(self, pid: int) -> None:
        """The process ``pid`` is gone: so are its sessions."""
        with self._locked():
            for block in range(self._blocks):
                owner = self._owners_at + block * _ROW.size
                if _ROW.unpack_from(self._memory, owner)[0] != pid:
                    continue
                for row in range(block * _BLOCK, (block + 1) * _BLOCK):
                    pair = _ROW.unpack_from(self._memory, self._rows_at + row * _ROW.size)[0]
                    if pair:
                        self._drop((pair - 1) * _PAIR.size, row)
                _ROW.pack_into(self._memory, owner, 0)

    # -- statistics

    def _peak(self, which: int, value: int, ident: str) -> None:
        at = self._peaks_at + which * _PEAK.size
        if value > _ROW.unpack_from(self._memory, at)[0]:
            _PEAK.pack_into(self._memory, at, value, int(self._wall()), ident.encode("utf-8", "replace"))

    def peaks(self) -> list[Peak]:
        """The largest values since this was asked before."""
        found = []
        with self._locked():
            for which in (CONNECTION, _SESSIONS, MESSAGE, RECIPIENT, NEW_TLS, AUTH):
                at = self._peaks_at + which * _PEAK.size
                value, when, ident = _PEAK.unpack_from(self._memory, at)
                _PEAK.pack_into(self._memory, at, 0, 0, b"")
                if value:
                    what = "connection count" if which == _SESSIONS else f"{_NAMES[which]} rate"
                    found.append(Peak(what, value, ident.rstrip(b"\0").decode("utf-8", "replace"), when))
        return found

    def size(self, unit: int) -> int:
        """How many pairs are remembered: of open sessions, and of the last time unit."""
        oldest = int(self._clock()) - unit
        data = os.pread(self._fd, self._peaks_at, 0)
        return sum(
            1 for _, sessions, start, *_ in _PAIR.iter_unpack(data) if sessions or (start and start >= oldest)
        )
