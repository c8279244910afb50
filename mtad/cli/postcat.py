"""``mtad postcat``: show queue files, and messages of mtad's queue as if they were such.

``postcat [-bdefhnoqrv] [-c DIR] [-s OFFSET] [FILE...]``; with ``-q`` the arguments are queue ids, which are
looked for in the maildrop, in mtad's queue, and among the files that were set aside as corrupt.  The output
is that of the original, byte for byte; ``-n``, which the original has not, leaves out the lines of asterisks
between the parts.

Postfix counterpart: ``postcat(1)``.
"""

from __future__ import annotations

import getopt
import io
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, cast

from mtad.cli.control import ControlError, ask
from mtad.cli.directory import load_parameters
from mtad.cli.voice import Fatal, Voice, complaint
from mtad.config.parameters import Parameters
from mtad.daemon.paths import paths
from mtad.errors import MtadError
from mtad.queue.message import Message
from mtad.queue.postfix import records as rec
from mtad.queue.postfix.envelope import write_message
from mtad.queue.postfix.files import CORRUPT, MAILDROP, QueueDirectory, open_plain, valid_id
from mtad.queue.postfix.records import BadRecord, Record, read_records
from mtad.queue.sqlite import SQLiteStore

USAGE = (
    "usage: postcat [-b (body text)] [-c config_dir] [-d (decimal record type)] [-e (envelope records)]"
    " [-h (header text)] [-q (access queue)] [-v] [file(s)...]"
)
_TEXT = (rec.LINE, rec.UNENDED)
_HEADER = re.compile(rb"[!-9;-~]+[ \t]*:|[ \t]")
_IN_MEMORY = 1024 * 1024

_ENVELOPE, _HEADERS, _BODY = 0, 1, 2


class _Printer:
    """Prints one file.  ``shown`` are the letters of the parts to show, ``ehb``."""

    def __init__(self, out: BinaryIO, voice: Voice, flags: frozenset[str], path: str) -> None:
        self._out = out
        self._voice = voice
        self._path = path
        shown = flags & set("ehb") or frozenset("ehb")
        self._show = [part in shown for part in "ehb"]
        self._verbose, self._raw = "v" in flags, "r" in flags
        self._with_path, self._offsets, self._decimal = "f" in flags, "o" in flags, "d" in flags
        self._headings = "n" not in flags
        self._part = _ENVELOPE
        self._last = b""
        self._sized = False

    def run(self, file: BinaryIO, start: int) -> None:
        """Print ``file`` from the offset ``start``."""
        if start == 0:
            first = file.read(1)
            if not first:
                return
            if first not in rec.ENVELOPE_TYPES:
                self._voice.warning(f"{self._path}: input is not a valid queue file")
                return
            if self._show[_ENVELOPE] and self._headings:
                self._write(f"*** ENVELOPE RECORDS {self._path} ***\n".encode())
        try:
            for record in self._records(file, start):
                if not self._take(record):
                    break
        except BadRecord as error:
            self._out.flush()
            self._voice.warning(f"{self._path}: {error}")
            raise Fatal("record read error") from error

    def _records(self, file: BinaryIO, start: int) -> Iterator[Record]:
        """The records in the order in which they count; with -v pointers and padding, too."""
        if not self._verbose:
            yield from read_records(file, start=start)
            return
        followed: set[int] = set()
        while True:
            for record in read_records(file, start=start, raw=True):
                yield record
                if record.kind == rec.POINTER and not self._raw and (target := rec.target(record.data)):
                    if record.offset in followed:
                        raise BadRecord("pointers lead round and round")
                    followed.add(record.offset)
                    start = target
                    break
            else:
                return

    def _take(self, record: Record) -> bool:
        """Print a record; False when it was the last that matters."""
        kind = record.kind
        if kind in _TEXT and self._part != _ENVELOPE:
            ends_header = self._last != rec.UNENDED and not _HEADER.match(record.data)
            if self._part == _HEADERS and ends_header:
                self._part = _BODY
                if not self._show[_BODY] and not self._show[_ENVELOPE]:
                    return False
        elif kind == rec.MESSAGE:
            self._marker(record, "MESSAGE CONTENTS")
            self._part = _HEADERS
            return True
        elif kind == rec.EXTRACTED:
            if self._show[self._part] and self._last == rec.UNENDED:
                self._write(b"\n")
            self._marker(record, "HEADER EXTRACTED")
            self._part = _ENVELOPE
            return self._show[_ENVELOPE]
        elif kind == rec.END:
            self._marker(record, "MESSAGE FILE END")
            return self._raw
        if self._show[self._part]:
            self._print(record)
        if kind == rec.SIZE and not self._path.startswith(f"{MAILDROP}/"):
            self._look_at_size(record.data)
        return True

    def _look_at_size(self, data: bytes) -> None:
        """Only told of: we need no size to find our way."""
        fields = data.split()
        if self._sized:
            self._voice.warning("file contains multiple size records")
        elif len(fields) < 2 or not all(field.isdigit() and int(field) for field in fields[:2]):
            self._voice.warning(f"invalid size record: {data[:100].decode('utf-8', 'replace')}")
        else:
            self._sized = True

    def _prefix(self, record: Record) -> bytes:
        text = f"{self._path}: " if self._with_path else ""
        if self._offsets:
            text += f"{record.offset:9d} "
        if self._decimal:
            text += f"{record.kind[0]:3d} "
        return text.encode("utf-8", "surrogateescape")

    def _marker(self, record: Record, text: str) -> None:
        if self._show[_ENVELOPE] and self._headings:
            self._write(self._prefix(record) + f"*** {text} {self._path} ***\n".encode())

    def _print(self, record: Record) -> None:
        _, kind, data = record
        if kind in _TEXT and self._part != _ENVELOPE:
            name = rec.NAMES[rec.LINE] if kind == rec.LINE else "unterminated_text"
            text = f"{name}: ".encode() if self._verbose else b""
            ended = kind == rec.LINE or self._verbose or self._offsets
            self._write(self._prefix(record) + text + data + (b"\n" if ended else b""))
            self._last = b"" if ended and kind == rec.UNENDED else kind
            return
        name = rec.NAMES.get(kind, "unknown_record_type")
        if kind in (rec.TIME, rec.WARN):
            data = _date(data)
        elif kind == rec.ATTRIBUTE:
            attribute, equals, value = data.partition(b"=")
            if not equals:
                self._write(self._prefix(record))
                self._out.flush()
                problem = f"missing '=' after attribute name: {data[:100].decode('utf-8', 'replace')}"
                self._voice.warning(f"{self._path}: malformed attribute: {problem}")
                return
            if attribute == b"create_time":
                name, data = "create_time", _date(value)
        self._write(self._prefix(record) + f"{name}: ".encode() + data + b"\n")
        self._last = kind

    def _write(self, data: bytes) -> None:
        self._out.write(data)


def _date(data: bytes) -> bytes:
    first = data.split()[:1]
    seconds = int(first[0]) if first and first[0].lstrip(b"-").isdigit() else 0
    return time.asctime(time.localtime(seconds)).encode()


@contextmanager
def _queued(p: Parameters, queue_id: str) -> Iterator[tuple[BinaryIO, str]]:
    """A message of the queue as a file, and the name that it would have."""
    where = QueueDirectory.of(p)
    if not valid_id(queue_id):
        raise Fatal(f"bad mail queue ID: {queue_id}")
    file = _plain(where, MAILDROP, queue_id)
    if file is None and (found := _find(p, queue_id)) is not None:
        store, message = found
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as made:
            file = cast(BinaryIO, made)
            created, warn_after = message.arrival, p.seconds("delay_warning_time")
            write_message(file, message, store.read(message), created=created, warn_after=warn_after)
            file.seek(0)
            yield file, where.relative(_queue_of(p, message), queue_id)
        return
    queue = MAILDROP if file is not None else CORRUPT
    file = file or _plain(where, CORRUPT, queue_id)
    if file is None:
        raise Fatal(f"open queue file {queue_id}: No such file or directory")
    with file:
        yield file, where.relative(queue, queue_id)


def _plain(where: QueueDirectory, queue: str, queue_id: str) -> BinaryIO | None:
    """A file of a queue, if it is there."""
    try:
        return open_plain(where.file(queue, queue_id))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _find(p: Parameters, queue_id: str) -> tuple[SQLiteStore, Message] | None:
    """A message in mtad's queue, if it is there."""
    directory = p["mtad_queue_directory"]
    if not os.path.exists(os.path.join(directory, "queue.db")):
        return None
    store = SQLiteStore(directory, None, read_only=True)
    store.open()
    message = store.find(queue_id)
    return None if message is None else (store, message)


def _queue_of(p: Parameters, message: Message) -> str:
    """The queue that the message would be in."""
    try:
        answer = ask(paths(p).control, {"command": "showq"}, 10.0)
    except ControlError:
        return message.state
    return "active" if message.queue_id in answer.get("active", ()) else message.state


def main(argv: Sequence[str]) -> int:
    """Run with the arguments behind the command's name; the exit status."""
    voice = Voice("postcat")
    try:
        try:
            options, names = getopt.getopt(list(argv), "bc:defhnoqrs:v")
        except getopt.GetoptError as error:
            sys.stderr.write(f"postcat: {complaint(error)}\n")
            raise Fatal(USAGE) from error
        values = {option[1]: value for option, value in options}
        flags = frozenset(values)
        offset = values.get("s", "0")
        if not offset.isdigit():
            raise Fatal(f"bad offset: {offset}")
        _show(voice, flags, names, int(offset), values.get("c"))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except (MtadError, OSError) as error:
        sys.stdout.flush()
        voice.fatal(str(error))
        return 1
    return 0


def _show(
    voice: Voice, flags: frozenset[str], names: Sequence[str], start: int, directory: str | None
) -> None:
    out = cast(BinaryIO, sys.stdout.buffer)
    if not names:
        _Printer(out, voice, flags, "stdin").run(io.BytesIO(sys.stdin.buffer.read()), start)
        return
    p = load_parameters(directory)
    for name in names:
        if "q" in flags:
            with _queued(p, name) as (file, path):
                _Printer(out, voice, flags, path).run(file, start)
            continue
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise Fatal(f"open {name}: {error.strerror}") from error
        with open(fd, "rb") as file:
            _Printer(out, voice, flags, name).run(file, start)
