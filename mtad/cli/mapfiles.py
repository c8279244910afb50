"""Making and changing the index files of tables, for ``mtad postmap`` and ``mtad postalias``.

Files are made whole and in one step: readers see the old table or the new one.  Run by root, a table is made
on behalf of its source file's owner unless the directory is root's alone.  Where Postfix's parameters
``non_bdb_*`` lead away from Berkeley DB, ``hash`` and ``btree`` stand for other types here, too.

Raises Fatal; TableError and ConfigError are passed on.
Postfix counterpart: ``mkmap_open(3)``, ``nbdb_redirect(3)``.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mtad.cli.voice import Fatal
from mtad.config.parameters import Parameters
from mtad.errors import TableError
from mtad.maillog import printable
from mtad.tables.bdb import open_bdb
from mtad.tables.bdb_write import write_hash, writing
from mtad.tables.btree_write import write_btree
from mtad.tables.cdb import CdbTable, write_cdb
from mtad.tables.lmdb_table import LmdbTable, write_lmdb
from mtad.tables.memory import Parser
from mtad.tables.registry import INDEXED, TYPES, open_with
from mtad.tables.source import read_text
from mtad.tables.table import LocalTable, Options, fold, is_utf8

Entries = Iterable[tuple[bytes, bytes]]

_LEGACY = ("hash", "btree")
_LEVELS = ("enable-redirect", "enable-reindex")
#: How many entries are read between two looks at the clock face, so to speak.
_STEP = 20000


@dataclass(slots=True)
class Job:
    """What the command line asks for; ``tool`` is the name in messages."""

    tool: str
    p: Parameters
    options: Options
    parse: Parser
    ending: tuple[tuple[bytes, bytes], ...] = ()  # entries that every table has at its end
    as_owner: bool = True
    save_mode: bool = True
    json: bool = False

    def split(self, spec: str) -> tuple[str, str]:
        """Type and name, the type that ``non_bdb_*`` has in its place."""
        kind, colon, name = spec.partition(":")
        if not colon:
            kind, name = self.p["default_database_type"], spec
        if kind not in _LEGACY or self.p["non_bdb_migration_level"] not in _LEVELS:
            return kind, name
        other = self._redirected(kind, name)
        if self.p.flag("non_bdb_migration_log_redirect"):
            self.say(f"redirecting {kind}:{name} to {other}:{name}")
        return other, name

    def _redirected(self, kind: str, name: str) -> str:
        other = ""
        custom = self.p["non_bdb_custom_mapping"].strip()
        if custom:
            table = open_with(custom, self.options)
            if not isinstance(table, LocalTable):
                raise Fatal(
                    f"non_bdb migration mapping lookup error for '{kind}': {custom} cannot be asked here"
                )
            for key in (f"{kind}:{name}", kind):
                other = other or (table.find(key.encode()) or b"").decode()
            table.close()
        if not other:
            other = self.p["default_database_type" if kind == "hash" else "default_cache_db_type"]
        if other in _LEGACY or other not in INDEXED:
            raise Fatal(f"non_bdb migration mapping lookup error for '{kind}': unexpected type '{other}'")
        return other

    def say(self, text: str) -> None:
        sys.stderr.buffer.write(f"{self.tool}: {printable(text)}\n".encode("utf-8", "replace"))
        sys.stderr.buffer.flush()

    def warn(self, text: str) -> None:
        self.say(f"warning: {text}")


def make(job: Job, spec: str, add: bool) -> None:
    """Make the table from its source; with ``add``, add to it from standard input."""
    kind, name = job.split(spec)
    path = name + _suffix(kind, name, "write")
    if add:
        text = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
        status, source = os.fstat(sys.stdin.fileno()), "stdin"
    else:
        text, status, source = *_read_source(name), name
    mode = 0o644
    if job.save_mode and stat.S_ISREG(status.st_mode):
        mode &= ~(0o022 | ~status.st_mode & 0o077)
    label = {"lmdb": f"{kind}:{name}", "cdb": name}.get(kind, path)
    with _as_owner(job, status, name) as owner, writing(path):
        entries = dict(_read(kind, path, job.options)) if add and os.path.exists(path) else {}
        _add_all(job, entries, _shown(job, job.parse(text, source, job.options), text), label)
        entries.update(job.ending)
        _write(kind, path, _terminated(entries, job.options), mode, owner)


def delete(job: Job, spec: str, keys: list[bytes]) -> bool:
    """Take keys out of a table; whether any was there."""
    kind, name = job.split(spec)
    path = name + _suffix(kind, name, "delete")
    if not os.path.exists(path):
        raise Fatal(f"open database {path}: No such file or directory")
    with writing(path):
        entries = dict(_read(kind, path, job.options))
        before = len(entries)
        for key in keys:
            entries.pop(_folded(key, job.options), None)
        if len(entries) == before:
            return False
        _write(kind, path, _terminated(entries, job.options), 0o644, None)
    return True


def _suffix(kind: str, name: str, action: str) -> str:
    """What the index file's name ends with."""
    if kind in INDEXED:
        return INDEXED[kind]
    if kind == "fail":
        raise Fatal(f"table fail:{name}: {action} error: Application error")
    if kind == "proxy":
        raise Fatal("can't create maps via the proxy service")
    if kind in TYPES and action == "delete":
        raise Fatal(f"{kind}:{name} map requires O_RDONLY access mode")
    if kind in TYPES:
        raise Fatal(f"unsupported dictionary type: {kind} does not support bulk-mode creation.")
    raise Fatal(f"unsupported dictionary type: {kind}")


def _write(kind: str, path: str, entries: Entries, mode: int, owner: tuple[int, int] | None) -> None:
    write = {"hash": write_hash, "btree": write_btree, "lmdb": write_lmdb, "cdb": write_cdb}[kind]
    write(path, entries, mode=mode, owner=owner)


def _read(kind: str, path: str, options: Options) -> Iterator[tuple[bytes, bytes]]:
    """All entries, for one who holds the file's lock."""
    if kind in _LEGACY:
        file = open_bdb(path, lock=0)
        for key, value in file.items():
            yield key.partition(b"\0")[0], value.partition(b"\0")[0]
        file.close()
        return
    opener = LmdbTable if kind == "lmdb" else CdbTable
    table = opener(f"{kind}:{path}", options, path)
    yield from table.items()
    table.close()


def _read_source(name: str) -> tuple[str, os.stat_result]:
    try:
        return read_text(name), os.stat(name)
    except TableError as error:
        raise Fatal(str(error)) from error


def _shown(
    job: Job, found: Iterator[tuple[int, bytes, bytes]], text: str
) -> Iterator[tuple[int, bytes, bytes]]:
    """The entries; how far we are is shown meanwhile, if somebody is looking at a terminal."""
    if not sys.stderr.isatty() or len(text) < 1 << 20:
        yield from found
        return
    total = text.count("\n") or 1
    for count, entry in enumerate(found, 1):
        if count % _STEP == 0:
            done = min(entry[0] / total, 1.0)
            bar = "#" * int(done * 40)
            sys.stderr.write(f"\r{job.tool}: [{bar:<40}] {done:4.0%} {count} entries")
            sys.stderr.flush()
        yield entry
    sys.stderr.write("\r\x1b[K")
    sys.stderr.flush()


def _add_all(
    job: Job, entries: dict[bytes, bytes], found: Iterator[tuple[int, bytes, bytes]], label: str
) -> None:
    options = job.options
    replace = options.duplicates == "replace"
    for _, key, value in found:
        if options.fold:
            key = fold(key, options.utf8)
        if replace or key not in entries:
            entries[key] = value
        elif options.duplicates == "warn":
            job.warn(f'{label}: duplicate entry: "{key.decode("utf-8", "surrogateescape")}"')


def _terminated(entries: dict[bytes, bytes], options: Options) -> Entries:
    """Entries as they are stored: with a NUL at the end unless ``-n`` says without."""
    end = b"\0" if options.nulls[0] else b""
    return ((key + end, value + end) for key, value in entries.items())


def _folded(key: bytes, options: Options) -> bytes:
    if options.utf8 and not is_utf8(key):
        return key
    return fold(key, options.utf8) if options.fold else key


@contextmanager
def _as_owner(job: Job, status: os.stat_result, name: str) -> Iterator[tuple[int, int] | None]:
    """Work as the owner of the source file, when root was asked to.

    In a directory that only root can write to, no trick is possible, and the owner could not make
    a file there: there the new file is given to the owner instead.
    """
    if not job.as_owner or os.geteuid() != 0:
        yield None
        return
    owner = (status.st_uid, status.st_gid)
    parent = os.path.dirname(name) or "."
    directory = os.stat(parent)
    if directory.st_uid == 0 and not directory.st_mode & 0o022:
        yield owner if status.st_uid else None
        return
    if status.st_uid == 0:
        if directory.st_uid != 0:
            job.warn(
                f"Creating root-owned database file(s) {name}.* in non-root-owned directory {parent}. "
                f"Files {name}, {name}.*, and directory {parent} should have the same owner. "
                "Please fix ownership to avoid a privilege-escalation attack."
            )
        yield None
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(status.st_gid)
    os.seteuid(status.st_uid)
    try:
        yield None
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
