"""``mtad postsuper``: delete, hold, release, requeue and expire queued mail, and look after the queue.

``postsuper [-psSv] [-c DIR] [-d ID] [-h ID] [-H ID] [-r ID] [-e ID] [-f ID] [QUEUE...]``.  An ID may be ``-``
(ids are read from standard input) or ``ALL`` (of the queues named, by default all).  Works with and without a
running mail system.  ``-s`` checks the database, ``-p`` removes what an interrupted submission left behind.
The work is done with the rights of ``mail_owner``; what changes is logged, and told to the queue manager.

Postfix counterpart: ``postsuper(1)``.
"""

from __future__ import annotations

import getopt
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mtad.cli.control import ControlError, ask
from mtad.cli.directory import load_parameters
from mtad.cli.voice import Fatal, Voice, complaint
from mtad.config.parameters import Parameters
from mtad.daemon.paths import owner, paths
from mtad.errors import MtadError
from mtad.queue.blocking import BlockingStore
from mtad.queue.postfix.files import ACTIVE, HOLD, INCOMING, MAILDROP, QueueDirectory, ready, valid_id
from mtad.queue.repair import check

USAGE = (
    "usage: postsuper [-c config_dir] [-d queue_id (delete)] [-e queue_id (expire)]"
    " [-f queue_id (expire and/or un-hold)] [-h queue_id (hold)] [-H queue_id (un-hold)]"
    " [-p (purge temporary files)] [-r queue_id (requeue)] [-s (structure fix)]"
    " [-S (redundant structure fix)][-v (verbose)] [queue...]"
)
_QUEUES = ("defer", "bounce", MAILDROP, INCOMING, ACTIVE, "deferred", HOLD, "flush")
#: What was done to one message, and how the sums are told, in their order.
_DONE = {"r": "requeued", "d": "removed", "e": "expired", "h": "placed on hold", "H": "released from hold"}
_SUMS = {
    "r": "Requeued",
    "d": "Deleted",
    "e": "Force-expired",
    "h": "Placed on hold",
    "H": "Released from hold",
}
_PARTS = {"f": "eH"}
#: Ids that are changed at a time.
_BATCH = 1000
#: Seconds after which a file of the maildrop that is not whole was given up by who began it.
_STALE = 7 * 86400


class _Super:
    """One run on one queue."""

    def __init__(self, p: Parameters, voice: Voice, queues: Sequence[str]) -> None:
        self._voice = voice
        self._queues = frozenset(queues or _QUEUES)
        self._control = paths(p).control
        self._maildrop = QueueDirectory.of(p)
        self._directory = p["mtad_queue_directory"]
        self._blocking: BlockingStore | None = None
        self.counts = dict.fromkeys(_SUMS, 0)

    def repair(self, purge: bool, structure: bool) -> None:
        """What ``-p`` and ``-s`` ask for."""
        if structure and os.path.exists(os.path.join(self._directory, "queue.db")):
            for problem in check(self._directory):
                raise Fatal(problem)
        if not purge or MAILDROP not in self._queues:
            return
        for entry in self._maildrop.files(MAILDROP):
            status = entry.stat(follow_symlinks=False)
            if not ready(status.st_mode) and status.st_mtime < time.time() - _STALE:
                os.unlink(entry.path)

    def apply(self, letter: str, argument: str) -> None:
        """One option."""
        actions = _PARTS.get(letter, letter)
        if argument == "ALL":
            for action in actions:
                self._apply_to_all(action)
            return
        names = (line.rstrip("\n") for line in sys.stdin) if argument == "-" else (argument,)
        for batch in _batches(names):
            done = {(name, action) for action in actions for name in self._apply_to(action, batch)}
            for name, action in ((name, action) for name in batch for action in actions):
                if (name, action) in done:
                    done.discard((name, action))
                    self._voice.info(f"{name}: {_DONE[action]}")
                elif not valid_id(name):
                    self._voice.warning(f"invalid mail queue id: {name}")

    def _apply_to(self, action: str, names: Sequence[str]) -> list[str]:
        """The ids of the messages that it was done to."""
        good = [name for name in names if valid_id(name)]
        if self._queues != frozenset(_QUEUES):
            store = self._store()
            good = [name for name in good if (message := store.store.find(name)) is None
                    or self._in_queues(name, message.state, self._active())]  # fmt: skip
        return self._change(action, good)

    def _apply_to_all(self, action: str) -> None:
        if action == "d" and MAILDROP in self._queues:
            for entry in list(self._maildrop.files(MAILDROP)):
                self.counts["d"] += self._delete_file(entry.name)
        if not self._queues - {MAILDROP}:
            return
        active = self._active()
        found = (
            message.queue_id
            for message in self._store().store.listing()
            if self._in_queues(message.queue_id, message.state, active)
        )
        for names in _batches(found):
            self._change(action, names)

    def _in_queues(self, name: str, state: str, active: frozenset[str]) -> bool:
        return (ACTIVE if name in active and state != HOLD else state) in self._queues

    def _change(self, action: str, names: Sequence[str]) -> list[str]:
        blocking = self._store()
        store = blocking.store
        operations: dict[str, Callable[[Sequence[str]], Any]] = {
            "d": store.remove,
            "h": store.hold,
            "H": store.release,
            "r": store.requeue,
            "e": store.expire,
        }
        done: list[str] = blocking.wait(operations[action](names))
        if action == "d":
            done += [name for name in names if name not in done and self._delete_file(name)]
        self.counts[action] += len(done)
        return done

    def _delete_file(self, name: str) -> bool:
        """Remove a message that waits in the maildrop."""
        if MAILDROP not in self._queues:
            return False
        path = self._maildrop.file(MAILDROP, name)
        try:
            if not ready(os.lstat(path).st_mode):
                return False
            os.unlink(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def _active(self) -> frozenset[str]:
        try:
            return frozenset(ask(self._control, {"command": "showq"}, 10.0).get("active", ()))
        except ControlError:
            return frozenset()

    def _store(self) -> BlockingStore:
        if self._blocking is None:
            if not os.path.isdir(self._directory):
                raise Fatal(f"{self._directory}: there is no queue; mtad has never run here")
            self._blocking = BlockingStore(self._directory)
            self._blocking.store.open()
        return self._blocking

    def close(self) -> None:
        if self._blocking is not None:
            self._blocking.wait(self._blocking.store.close())
        if self.counts["H"] or self.counts["r"]:
            try:
                ask(self._control, {"command": "scan"}, 10.0)
            except ControlError:
                pass  # whoever starts looks by himself


def _batches(names: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for name in names:
        batch.append(name)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def main(argv: Sequence[str]) -> int:
    """Run with the arguments behind the command's name; the exit status."""
    voice = Voice("postsuper")
    try:
        if os.geteuid() != 0 and not _own_queue(argv):
            raise Fatal("use of this command is reserved for the superuser")
        options, queues, directory = _parse(argv)
        p = load_parameters(directory)
        voice.log_to(p)
        for queue in queues:
            if queue not in _QUEUES:
                raise Fatal(f"invalid directory name: {queue}")
        owner(p).become()
        before = os.umask(0o077)
        try:
            _run(p, voice, options, queues)
        finally:
            os.umask(before)
    except (MtadError, OSError) as error:
        voice.fatal(str(error))
        return 1
    return 0


def _own_queue(argv: Sequence[str]) -> bool:
    """Whether this user runs a mail system of their own."""
    try:
        return os.stat(load_parameters(_parse(argv)[2])["mtad_queue_directory"]).st_uid == os.geteuid()
    except (MtadError, OSError):
        return False


def _parse(argv: Sequence[str]) -> tuple[list[tuple[str, str]], list[str], str | None]:
    try:
        options, queues = getopt.getopt(list(argv), "c:d:e:f:h:H:pr:sSv")
    except getopt.GetoptError as error:
        sys.stderr.write(f"postsuper: {complaint(error)}\n")
        raise Fatal(USAGE) from error
    directory = None
    for option, value in options:
        if option == "-c":
            if not value.startswith("/"):
                raise Fatal("-c requires absolute pathname")
            directory = value
    return [(option[1], value) for option, value in options], queues, directory


def _run(p: Parameters, voice: Voice, options: Sequence[tuple[str, str]], queues: Sequence[str]) -> None:
    letters = {letter for letter, _ in options}
    actions = letters & set("defhHr")
    work = _Super(p, voice, queues)
    try:
        nothing = not letters - {"c", "v"}
        work.repair("p" in letters or nothing, bool(letters & {"s", "S"}) or nothing)
        for letter, value in options:
            if letter in actions:
                work.apply(letter, value)
    finally:
        work.close()
    wanted = {part for letter in actions for part in _PARTS.get(letter, letter)}
    for action, text in _SUMS.items():
        if action in wanted:
            count = work.counts[action]
            voice.info(f"{text}: {count} message{'' if count == 1 else 's'}")
