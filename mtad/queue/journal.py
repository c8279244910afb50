"""A journal of deliveries: what a process that is killed has not written to the queue any more.

Whoever delivers says here that the end of a message is about to be sent (:meth:`Journal.in_doubt`), and
what the server has answered (:meth:`Journal.answered`), each by one write that no kill can undo.  The queue
itself learns of outcomes some milliseconds later, many at a time.  After a kill, :func:`left_behind` tells
what was delivered though the queue does not know, and what is in doubt: the end was sent, and nobody has
heard the answer.

A journal is a file ``journal.N`` beside the database, made beforehand in its full size, so that a full disk
does not keep anything from being written, and locked by its process for as long as that lives.  Lines are
``?``, ``+`` or ``-`` and the numbers of recipients.  Nothing is raised while delivering: a journal that
fails is told of once.

Postfix counterpart: ``deliver_completed(3)``, which marks recipients in the queue file at once.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from mtad.errors import QueueError
from mtad.maillog import printable
from mtad.queue.spool import queue_error
from mtad.wire.tokens import quote

_SIZE = 1024 * 1024
_NAME = re.compile(r"journal\.\d+")
_LINE = re.compile(rb"([?+-])((?: \d+)+)")


class Journal:
    """The journal of this process, in ``directory``.  Raises QueueError where it cannot be made."""

    def __init__(self, directory: str, failed: Callable[[str], object] = lambda text: None) -> None:
        self._directory = directory
        self._failed = failed
        self._told = False
        self._open: dict[int, bytes] = {}  # recipients that the queue has not recorded, and what is known
        self._path, self._fd = _make(directory)
        self._at = 0

    def in_doubt(self, ids: Sequence[int]) -> None:
        """The end of a message is about to be sent for these recipients."""
        self._note(b"?", ids)

    def answered(self, ids: Sequence[int], delivered: bool) -> None:
        """What the server has said about them."""
        self._note(b"+" if delivered else b"-", ids)

    def recorded(self, ids: Iterable[int]) -> None:
        """The queue knows what became of them."""
        for one in ids:
            self._open.pop(one, None)

    def close(self) -> None:
        """Nothing more is delivered; the file goes unless it holds what the queue does not."""
        if not self._open:
            os.unlink(self._path)
        os.close(self._fd)

    def _note(self, mark: bytes, ids: Sequence[int]) -> None:
        if mark == b"-":
            self.recorded(ids)
        else:
            for one in ids:
                self._open[one] = mark
        line = b"%b %b\n" % (mark, b" ".join([b"%d" % one for one in ids]))
        try:
            if self._at + len(line) > _SIZE:
                self._begin_anew()
                if mark != b"-":
                    return  # it is among what is open
            self._at += os.pwrite(self._fd, line, self._at)
        except OSError as error:
            if not self._told:
                self._told = True
                self._failed(
                    f"journal of deliveries: {error.strerror}; a delivery may be repeated after a crash"
                )

    def _begin_anew(self) -> None:
        """A fresh file with what still matters."""
        path, fd = _make(self._directory)
        data = b"".join([b"%b %d\n" % (mark, one) for one, mark in self._open.items()])
        os.pwrite(fd, data, 0)
        os.unlink(self._path)
        os.close(self._fd)
        self._path, self._fd, self._at = path, fd, len(data)


def _make(directory: str) -> tuple[str, int]:
    """A new file, locked."""
    number = 0
    while True:
        path = os.path.join(directory, f"journal.{number}")
        try:
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
            break
        except FileExistsError:
            number += 1
        except OSError as error:
            raise queue_error(error) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.posix_fallocate(fd, 0, _SIZE)
    except OSError as error:
        os.close(fd)
        raise queue_error(error) from error
    return path, fd


@dataclass(slots=True)
class Left:
    """What a process has left behind: numbers of recipients."""

    path: str
    delivered: set[int] = field(default_factory=set)
    doubtful: set[int] = field(default_factory=set)


def left_behind(directory: str) -> Iterator[Left]:
    """The journals of processes that are no more.  Each is the caller's, to remove when it is settled."""
    for name in sorted(os.listdir(directory)):
        if not _NAME.fullmatch(name):
            continue
        path = os.path.join(directory, name)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise queue_error(error) from error
        with open(fd, "rb") as file:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            try:
                data = file.read(_SIZE * 64)
            except OSError as error:
                raise queue_error(error) from error
            yield _parsed(path, data.rstrip(b"\0"))


def doubt(queue_id: str, address: bytes) -> str:
    """What is said of a recipient in doubt."""
    return (
        f"{queue_id}: to=<{printable(quote(address))}>: delivery was interrupted before the server's"
        " answer was known; the message may be delivered twice"
    )


def _parsed(path: str, data: bytes) -> Left:
    found = Left(path)
    for line in data.split(b"\n")[:-1]:  # what has no end may be cut short
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        ids = {int(word) for word in match[2].split()}
        found.doubtful -= ids
        if match[1] == b"?":
            found.doubtful |= ids
        elif match[1] == b"+":
            found.delivered |= ids
    return found


def remove(path: str) -> None:
    """A journal is settled."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise QueueError(f"{path}: {error.strerror}") from error
