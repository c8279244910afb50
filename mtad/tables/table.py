"""What every lookup table is, and what most of them share.

A :class:`Table` maps keys to values.  ``lookup`` gives the value, or None when there is none, and
raises :class:`~mtad.errors.TableError` when it can't tell.  A :class:`LocalTable` answers at once from
memory or a local file: its ``lookup`` never waits.

Keys are folded (unless ``Options.fold`` is off) for tables whose keys are fixed strings, as Postfix
does with ``DICT_FLAG_FOLD_FIX``.  A key that is no UTF-8 is in no table; a value that is none is a
broken table (RFC 6532).

Postfix counterpart: ``dict(3)``, ``dict_utf8(3)``, ``casefold(3)``.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

from mtad.errors import TableError

#: A file changed less than this long ago may change again within the same clock tick.
HOT_NS = 20_000_000

#: What a process that serves sets :attr:`Watch.pause` to.
PAUSE = 0.01


def no_warning(text: str) -> None:
    """The default for ``Options.warn``: drop it."""


class Text:
    """What bytes beyond ASCII are to all tables and lists of a process."""

    #: UTF-8; where ``smtputf8_enable`` is no, nothing but bytes.
    utf8: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Options:
    """How to open a table.

    ``directory`` is what relative file names are relative to; ``config_directory``, by default the same, is
    where main.cf is, for types of table that heed it.  ``duplicates`` says what a text source's second
    entry for a key does: ``warn`` (the first stays), ``ignore`` (the same, silently), ``replace``.
    ``nulls``: whether index files are asked for keys with a NUL at the end, and for keys without.
    ``utf8``: whether keys and values must be UTF-8 (if :class:`Text` says so, too).
    ``value_is_file``: values in text sources name a file whose content, base64, is meant.
    """

    directory: str = "."
    config_directory: str = ""
    fold: bool = True
    utf8: bool = True
    duplicates: str = "warn"
    nulls: tuple[bool, bool] = (True, True)
    value_is_file: bool = False
    warn: Callable[[str], None] = no_warning

    def path(self, name: str) -> str:
        """A file's name, relative to ``directory``."""
        return name if self.directory == "." else os.path.join(self.directory, name)

    @property
    def wants_utf8(self) -> bool:
        """Whether what is no UTF-8 is refused."""
        return self.utf8 and Text.utf8


class Table(Protocol):
    """A lookup table.  ``fixed_key`` is False where keys are patterns (regexp, cidr, ...)."""

    spec: str
    fixed_key: bool

    async def lookup(self, key: bytes) -> bytes | None:
        """The value for ``key`` or None; :class:`TableError` when it can't be told."""

    def close(self) -> None:
        """Let go of files.  The table may not be used afterwards."""


class LocalTable(ABC):
    """A table that answers at once.  Subclasses give :meth:`get`, on a key already folded."""

    fixed_key = True
    #: False for those that wait all the same, or know only later how they answer
    at_once = True

    def __init__(self, spec: str, options: Options) -> None:
        self.spec = spec
        self.options = options

    def find(self, key: bytes) -> bytes | None:
        """The value, whatever its bytes."""
        folded = self.folded(key)
        return None if folded is None else self.get(folded)

    def folded(self, key: bytes) -> bytes | None:
        """The key as :meth:`get` wants it; None for one that is in no table."""
        options = self.options
        if key.isascii() or not options.wants_utf8:
            return key.lower() if options.fold and self.fixed_key else key
        try:
            text = key.decode()
        except UnicodeDecodeError:
            shown = key.decode("utf-8", "surrogateescape")
            options.warn(f'{self.spec}: non-UTF-8 key "{shown}": malformed UTF-8 or invalid codepoint')
            return None
        return text.casefold().encode() if options.fold and self.fixed_key else key

    async def lookup(self, key: bytes) -> bytes | None:
        return self.answer(key)

    def answer(self, key: bytes) -> bytes | None:
        """``lookup`` without the coroutine."""
        return self.checked(key, self.find(key))

    def checked(self, key: bytes, value: bytes | None) -> bytes | None:
        """The value, which must be UTF-8."""
        if value is None or value.isascii():
            return value
        if self.options.wants_utf8 and not is_utf8(value):
            shown = [data.decode("utf-8", "surrogateescape") for data in (key, value)]
            raise TableError(
                f'{self.spec}: key "{shown[0]}": non-UTF-8 value "{shown[1]}": '
                "malformed UTF-8 or invalid codepoint"
            )
        return value

    @abstractmethod
    def get(self, key: bytes) -> bytes | None:
        """The value for exactly this key."""

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All entries, in the table's own order, where the type can tell them (``postmap -s``)."""
        raise TableError(f"table {self.spec}: sequence operation is not supported")

    def close(self) -> None:  # noqa: B027
        """Most have nothing to let go of."""


def is_utf8(data: bytes) -> bool:
    """Whether these bytes are UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def fold(key: bytes, utf8: bool = True) -> bytes:
    """``key`` case-folded as Postfix folds it; bytes that are no UTF-8 stay what they are."""
    if key.isascii() or not (utf8 and Text.utf8):
        return key.lower()
    return key.decode("utf-8", "surrogateescape").casefold().encode("utf-8", "surrogateescape")


Identity = tuple[int, int, int, int]


def identity(status: os.stat_result) -> Identity | None:
    """What tells one state of a file from another; None for a file so fresh that this can't be told."""
    if -HOT_NS < time.time_ns() - status.st_mtime_ns < HOT_NS:
        return None
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)


def state_of(path: str) -> Identity | None:
    """The present state of ``path`` to compare with :func:`identity`; None while it isn't there."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)


class Watch:
    """Loads what is made from a file anew when the file changed.

    ``load`` reads the file and gives the :func:`identity` of what it read.  Its first failure is the
    caller's; later, while the file is missing or can't be read, what was read before serves on, and a
    warning says so once.
    """

    #: For so many seconds the file is believed to be what it was.  Where nothing hangs on the very moment of
    #: a change, this spares most of the calls.
    pause: ClassVar[float] = 0.0

    #: Called (once a change) when this process may no longer read the file, having given up its rights.
    unreadable: ClassVar[Callable[[], object] | None] = None

    def __init__(self, path: str, load: Callable[[], Identity | None], warn: Callable[[str], None]) -> None:
        self._path = path
        self._load = load
        self._warn = warn
        self._failed: Identity | None = None
        self.again = 0.0
        self._state = load()

    def refresh(self) -> None:
        """To be called before each use."""
        if self.pause:
            now = time.monotonic()
            if now < self.again:
                return
            self.again = now + self.pause
        state = state_of(self._path)
        if state is None or state == self._state:
            return
        try:
            self._state = self._load()
        except TableError as error:
            if state != self._failed:
                self._failed = state
                self._warn(f"{error}; what was read before stays in use")
                if Watch.unreadable is not None and not os.access(self._path, os.R_OK):
                    Watch.unreadable()
