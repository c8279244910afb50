"""The maildrop: where programs of this host leave mail, whether or not the mail system runs.

It is the directory ``maildrop`` in ``queue_directory``, as Postfix has it, and its files are as Postfix's:
what one of the two leaves there the other takes.  :func:`open_drop` begins a file, in the first way that this
user may:

- by itself, where the user may write to the directory: root, the group ``setgid_group``, or everybody, where
  ``mtad install-commands`` has made it so (mode 1733: nobody can list it or touch the files of others);
- through Postfix's set-gid postdrop(1), where that is installed.

A file is whole once its owner may execute it; until then nobody takes it, and it goes away with its writer.
A file of more than ``message_size_limit`` bytes comes to nothing, as its writer is told at the end.
Raises :class:`~mtad.errors.QueueError`.

Postfix counterpart: ``mail_stream(3)``, ``postdrop(1)``.
"""

from __future__ import annotations

import os
import secrets
import stat
import subprocess
import time
from typing import BinaryIO, Protocol

from mtad.config.parameters import Parameters
from mtad.errors import QueueError
from mtad.queue.postfix.files import MAILDROP, READY, SECRET, public_name
from mtad.queue.postfix.records import TIME, pack
from mtad.queue.spool import queue_error

_BUFFER = 65536
#: What postdrop(1) means by the bits of its status, the worst first.
_FAULTS = (
    (1, "internal protocol error"), (4, "message file too big"), (2, "queue file write error"),
    (512, "service denied"),
)  # fmt: skip


class Drop(Protocol):
    """A message on its way into the maildrop.  ``name``: what is known of its file's name."""

    name: str

    def write(self, data: bytes) -> None:
        """Some records, the one of the time not among them."""

    def commit(self) -> None:
        """The message is complete: it is durable when this returns."""

    def abandon(self) -> None:
        """Forget it."""


class FileDrop:
    """A file of our own."""

    def __init__(self, directory: str, limit: int = 0) -> None:
        """``limit``: the most bytes that the file may have; 0: any number."""
        now = time.time()
        self._limit = limit
        self._size = 0
        try:
            fd, self._path = _create(directory)
        except OSError as error:
            raise queue_error(error) from error
        self._file: BinaryIO = os.fdopen(fd, "wb", _BUFFER)
        try:
            status = os.fstat(fd)
            name = f"{int(now % 1 * 1_000_000):05X}{status.st_ino:X}"
            if os.stat(directory).st_mode & stat.S_IXOTH:
                name += secrets.token_hex(SECRET // 2).upper()  # the file can be read by who knows its name
            path = os.path.join(directory, name)
            os.rename(self._path, path)
        except OSError as error:
            self.abandon()
            raise queue_error(error) from error
        self._path = path
        self.name = public_name(name)
        self.write(pack(TIME, b"%d %d" % (now, now % 1 * 1_000_000)))

    def write(self, data: bytes) -> None:
        self._size += len(data)
        if self._too_big:
            return
        try:
            self._file.write(data)
        except OSError as error:
            self.abandon()
            raise queue_error(error) from error

    @property
    def _too_big(self) -> bool:
        return 0 < self._limit < self._size

    def commit(self) -> None:
        if self._too_big:
            self.abandon()
            raise QueueError("message file too big")
        try:
            self._file.flush()
            fd = self._file.fileno()
            os.fchmod(fd, READY | 0o044)
            os.fsync(fd)
            self._file.close()
        except OSError as error:
            self.abandon()
            raise queue_error(error) from error

    def abandon(self) -> None:
        try:
            os.unlink(self._path)
        except OSError:
            pass
        try:
            self._file.close()
        except OSError:
            pass


def _create(directory: str) -> tuple[int, str]:
    path = os.path.join(directory, f"new{secrets.token_hex(16)}")
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), path


class PostdropDrop:
    """A file that postdrop(1) makes."""

    def __init__(self, program: str, p: Parameters) -> None:
        environment = {**os.environ, "MAIL_CONFIG": p.directory}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [program, "-r"], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment, bufsize=0
        )
        assert self._process.stdout is not None
        said = b""  # names and values, then nothing
        while not said.endswith(b"\0\0") and (more := self._process.stdout.read(1024)):
            said += more
        self.name = _values(said).get("queue_id", "")

    def write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            while data:
                data = data[self._process.stdin.write(data) :]
        except BrokenPipeError:
            pass  # it says why at the end

    def commit(self) -> None:
        said, _ = self._process.communicate()
        values = _values(said)
        status = values.get("status", "")
        bits = int(status) if status.isdigit() else 0
        if status != "0":
            faults = [text for bit, text in _FAULTS if bits & bit]
            raise QueueError(values.get("reason") or next(iter(faults), "mail system configuration error"))

    def abandon(self) -> None:
        self._process.terminate()  # which it heeds, and takes its file away
        self._process.communicate()


def _values(said: bytes) -> dict[str, str]:
    """What postdrop(1) says: names and values, each with a NUL behind it."""
    words = said.decode("utf-8", "replace").split("\0")
    return dict(zip(words[::2], words[1::2], strict=False))


def open_drop(p: Parameters, limit: int = 0) -> Drop:
    """Begin a message; ``limit``: see :class:`FileDrop`."""
    directory = os.path.join(p["queue_directory"], MAILDROP)
    if os.access(directory, os.W_OK | os.X_OK):
        return FileDrop(directory, limit)
    postdrop = os.path.join(p["command_directory"], "postdrop")
    try:
        if os.stat(postdrop).st_mode & stat.S_ISGID:
            return PostdropDrop(postdrop, p)
    except OSError:
        pass
    if not os.path.isdir(directory):
        raise QueueError(f"{directory}: there is no maildrop; has mtad ever been started?")
    raise QueueError(f"{directory}: permission denied; root opens it to all by: mtad install-commands")
