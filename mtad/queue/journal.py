"""A journal of deliveries: what a process that is killed has not written to the queue any more.

Whoever delivers says here that the end of a message is about to be sent (:meth:`Journal.in_doubt`), and
what the server has answered (:meth:`Journal.answered`), each by one write that no kill can undo.  The queue
itself learns of outcomes some milliseconds later, many at a time.  After a kill, :func:`left_behind` tells
what was delivered though the queue does not know, and what is in doubt: the end was sent, and nobody has
heard the answer.

A journal is two files ``journal.N`` beside the database, made beforehand in their full size, so that a full
disk does not keep anything from being written, and claimed by their process (:mod:`mtad.queue.claims`) for
as long as that lives.  One is written to; when it is full, what still matters goes into the other.  Lines
are ``?``, ``+`` or ``-`` and the numbers of recipients.  QueueError where a doubt can't be noted: then the
end of the message must not be sent.  An answer that can't be noted is told of once, and stays a doubt.

Postfix counterpart: ``deliver_completed(3)``, which marks recipients in the queue file at once.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from mtad.errors import QueueError
from mtad.maillog import printable
from mtad.queue.claims import Claims
from mtad.queue.spool import queue_error
from mtad.wire.tokens import quote

_SIZE = 1024 * 1024
_NAME = re.compile(r"journal\.(\d+)")
_LINE = re.compile(rb"([?+-])((?: \d+)+)")


class Journal:
    """The journal of this process, which has these claims.  Raises QueueError where it cannot be made."""

    def __init__(self, claims: Claims, failed: Callable[[str], object] = lambda text: None) -> None:
        self._failed = failed
        self._told = False
        self._open: dict[int, bytes] = {}  # recipients that the queue has not recorded, and what is known
        self._file = _File(claims)
        try:
            self._other = _File(claims)
        except QueueError:
            self._file.close(remove=True)
            raise

    def in_doubt(self, ids: Sequence[int]) -> None:
        """The end of a message is about to be sent for these recipients.  Raises QueueError."""
        try:
            self._note(b"?", ids)
        except OSError as error:
            raise queue_error(error) from error
        self._open.update(dict.fromkeys(ids, b"?"))

    def answered(self, ids: Sequence[int], delivered: bool) -> None:
        """What the server has said about them."""
        if delivered:
            self._open.update(dict.fromkeys(ids, b"+"))
        else:
            self.recorded(ids)
        try:
            self._note(b"+" if delivered else b"-", ids)
        except OSError as error:
            if not self._told:
                self._told = True
                self._failed(
                    f"journal of deliveries: {error.strerror}; a delivery may be repeated after a crash"
                )

    def recorded(self, ids: Iterable[int]) -> None:
        """The queue knows what became of them."""
        for one in ids:
            self._open.pop(one, None)

    def close(self) -> None:
        """Nothing more is delivered; what is written goes unless it holds what the queue does not."""
        self._other.close(remove=True)
        self._file.close(remove=not self._open)

    def _note(self, mark: bytes, ids: Sequence[int]) -> None:
        line = b"%b %b\n" % (mark, b" ".join([b"%d" % one for one in ids]))
        if self._file.full(len(line)):
            self._other.begin(b"".join([b"%b %d\n" % (mark, one) for one, mark in self._open.items()]))
            self._file, self._other = self._other, self._file
            self._other.clear()
        self._file.append(line)


class _File:
    """A new file, claimed.  Raises QueueError where it can't be made; writing to it raises OSError."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._number, self._path, self._fd = _make(claims)
        self._at = 0
        self._limit = _SIZE

    def full(self, more: int) -> bool:
        """Whether there is no room for so many bytes."""
        return self._at + more > self._limit

    def begin(self, data: bytes) -> None:
        """Write the first lines; where they are long, the file may become longer."""
        self._at = 0
        self._limit = max(_SIZE, 2 * len(data))
        self.append(data)

    def append(self, data: bytes) -> None:
        """Write lines, or nothing that counts."""
        if os.pwrite(self._fd, data, self._at) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._at += len(data)

    def clear(self) -> None:
        """What was written counts no more."""
        os.pwrite(self._fd, bytes(self._at), 0)
        self._at = 0

    def close(self, remove: bool) -> None:
        if remove:
            os.unlink(self._path)
        os.close(self._fd)
        self._claims.leave_journal(self._number)


def _make(claims: Claims) -> tuple[int, str, int]:
    """A new file, empty: its number, path and descriptor."""
    number = 0
    while True:
        if claims.take_journal(number):
            path = os.path.join(claims.directory, f"journal.{number}")
            try:
                return number, path, _create(path)
            except FileExistsError:  # it was left behind
                claims.leave_journal(number)
            except OSError as error:
                claims.leave_journal(number)
                raise queue_error(error) from error
        number += 1


def _create(path: str) -> int:
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, _SIZE)
    except OSError:
        os.unlink(path)
        os.close(fd)
        raise
    return fd


@dataclass(slots=True)
class Left:
    """What a process has left behind: numbers of recipients."""

    path: str
    delivered: set[int] = field(default_factory=set)
    doubtful: set[int] = field(default_factory=set)


def left_behind(directory: str) -> Iterator[Left]:
    """The files of processes that are no more.  Each is the caller's, to remove when it is settled."""
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        with _taken(path) as taken:
            if not taken:
                continue
            try:
                with open(path, "rb") as file:
                    lines = file.read(_SIZE * 64).strip(b"\0")
                if not lines:
                    os.unlink(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise queue_error(error) from error
        if lines:
            yield _parsed(path, lines)


def remove(path: str) -> None:
    """What was left behind there is settled."""
    with _taken(path) as taken:
        if taken:  # else a living process has made it anew
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
            except OSError as error:
                raise QueueError(f"{path}: {error.strerror}") from error


@contextmanager
def _taken(path: str) -> Iterator[bool]:
    """Whether it is a journal and nobody's; it is ours meanwhile."""
    directory, name = os.path.split(path)
    match = _NAME.fullmatch(name)
    if match is None:
        yield False
        return
    claims = Claims(directory)
    try:
        yield claims.take_journal(int(match[1]))
    finally:
        claims.close()


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
