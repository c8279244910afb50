"""``mtad postmap``: make, change and ask lookup tables, as ``postmap(1)`` does.

Makes ``hash`` and ``lmdb`` files, whole and in one step: readers see the old table or the new one.  Asks and
lists every type there is.  Messages go to standard error as ``postmap: warning: ...`` and
``postmap: fatal: ...``; exit codes are 0, and 1 for what is not found and for every failure.

Run by root, a table is made on behalf of its source file's owner unless the directory is root's alone.
"""

from __future__ import annotations

import base64
import binascii
import getopt
import json
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from mtad.cli.directory import load_parameters
from mtad.config.parameters import Parameters
from mtad.errors import ConfigError, MtadError, TableError
from mtad.tables.bdb import open_bdb
from mtad.tables.bdb_write import write_hash, writing
from mtad.tables.lmdb_table import LmdbTable, write_lmdb
from mtad.tables.registry import TYPES, open_with
from mtad.tables.source import parse_source, read_text
from mtad.tables.table import LocalTable, Options, Table, fold, is_utf8

USAGE = "usage: postmap [-fFijnNoprsuUvw] [-c config_dir] [-d key] [-q key] [map_type:]file..."
_FLAGS = "c:d:fFijnNopq:rsuUvw"

Writer = Callable[[str, Iterable[tuple[bytes, bytes]], int, "tuple[int, int] | None"], None]

Reader = Callable[[str, Options], Iterator[tuple[bytes, bytes]]]


class Fatal(Exception):
    """Ends the command with exit code 1 and this message."""


@dataclass(slots=True)
class Job:
    """What the command line asks for."""

    options: Options
    default_type: str = "hash"
    as_owner: bool = True
    save_mode: bool = True
    json: bool = False

    def split(self, spec: str) -> tuple[str, str]:
        kind, colon, name = spec.partition(":")
        return (kind, name) if colon else (self.default_type, spec)


def main(argv: list[str]) -> int:
    """Run the command on ``argv`` (without its name); the exit code."""
    try:
        return _run(argv)
    except Fatal as problem:
        _say(f"fatal: {problem}")
    except ConfigError as error:
        _say(f"fatal: {error if error.path else error.reason}")
    except MtadError as error:
        _say(f"fatal: {error}")
    return 1


def _say(text: str) -> None:
    sys.stderr.buffer.write(f"postmap: {text}\n".encode("utf-8", "replace"))
    sys.stderr.buffer.flush()


def _warn(text: str) -> None:
    _say(f"warning: {text}")


def _run(argv: list[str]) -> int:
    try:
        flags, specs = getopt.getopt(argv, _FLAGS)
    except getopt.GetoptError as error:
        _say(
            f"invalid option -- '{error.opt}'"
            if "not recognized" in error.msg
            else f"option requires an argument -- '{error.opt}'"
        )
        raise Fatal(USAGE) from error
    modes = [(flag, value) for flag, value in flags if flag in ("-d", "-i", "-q", "-s")]
    if len(modes) > 1:
        raise Fatal("specify only one of -d -i -q or -s")
    mode, key = modes[0] if modes else ("", "")
    job = _job(flags)
    if job.json and mode not in ("-q", "-s"):
        raise Fatal("option -j requires -q or -s")
    if mode == "-s":
        return _list(job, specs)
    if not specs:
        raise Fatal(USAGE)
    if mode == "-q":
        return _ask_many(job, specs) if key == "-" else _ask(job, specs, os.fsencode(key))
    if mode == "-d":
        keys = list(_standard_input_lines()) if key == "-" else [os.fsencode(key)]
        return 0 if sum([_delete(job, spec, keys) for spec in specs]) else 1
    for spec in specs:
        _make(job, spec, add=mode == "-i")
    return 0


def _job(flags: list[tuple[str, str]]) -> Job:
    """The options of the command line, together with those of main.cf."""
    given = dict(flags)
    p: Parameters = load_parameters(given.get("-c"))
    options = Options(
        config_directory=p.directory, warn=_warn, utf8=p.flag("smtputf8_enable") and "-u" not in given
    )
    job = Job(options, default_type=p["default_database_type"])
    for flag, _ in flags:
        match flag:
            case "-f":
                options = replace(options, fold=False)
            case "-F":
                options = replace(options, value_is_file=True)
            case "-n":
                options = replace(options, nulls=(False, True))
            case "-N":
                options = replace(options, nulls=(True, False))
            case "-r":
                options = replace(options, duplicates="replace")
            case "-w":
                options = replace(options, duplicates="ignore")
            case "-o":
                job.as_owner = False
            case "-p":
                job.save_mode = False
            case "-j":
                job.json = True
    job.options = options
    return job


# Asking


def _open(job: Job, spec: str) -> Table:
    kind, name = job.split(spec)
    return open_with(f"{kind}:{name}", job.options)


def _lookup(job: Job, table: Table, key: bytes) -> bytes | None:
    """One lookup; tables here never wait."""
    waiting = table.lookup(key)
    try:
        waiting.send(None)
    except StopIteration as done:
        value: bytes | None = done.value
    except TableError as error:
        raise Fatal(f"table {table.spec}: query error: {error}") from error
    else:
        waiting.close()
        raise Fatal(f"table {table.spec}: query error: this type of table needs a running server")
    if value is None:
        return None
    shown = key.decode("utf-8", "surrogateescape")
    if not value:
        _warn(f"table {table.spec}: key {shown}: empty string result is not allowed")
        _warn(f"table {table.spec} should return NO RESULT in case of NOT FOUND")
    if job.options.value_is_file:
        try:
            return _decoded(value)
        except ValueError as error:
            raise Fatal(f"table {table.spec}: key {shown}: {error}") from error
    return value


def _decoded(value: bytes) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ValueError(f"malformed BASE64 value: {value[:30].decode('utf-8', 'replace')}") from error


def _print(job: Job, key: bytes, value: bytes, bare: bool = False) -> None:
    if job.json:
        pair = {key.decode("utf-8", "replace"): value.decode("utf-8", "replace")}
        line = json.dumps(pair, ensure_ascii=False).encode()
    else:
        line = value if bare else key + b"\t" + value
    sys.stdout.buffer.write(line + b"\n")


def _ask(job: Job, specs: list[str], key: bytes) -> int:
    """``-q key``: the first table's answer."""
    for spec in specs:
        table = _open(job, spec)
        value = _lookup(job, table, key)
        table.close()
        if value is not None:
            _print(job, key, value, bare=True)
            sys.stdout.buffer.flush()
            return 0
    return 1


def _ask_many(job: Job, specs: list[str]) -> int:
    """``-q -``: keys from standard input; each table is opened when it is first needed."""
    tables: dict[str, Table] = {}
    code = 1
    for key in _standard_input_lines():
        for spec in specs:
            if spec not in tables:
                tables[spec] = _open(job, spec)
            value = _lookup(job, tables[spec], key)
            if value is not None:
                _print(job, key, value)
                code = 0
                break
    sys.stdout.buffer.flush()
    for table in tables.values():
        table.close()
    return code


def _list(job: Job, specs: list[str]) -> int:
    """``-s``: all entries of the first table."""
    if not specs:
        return 1
    table = _open(job, specs[0])
    if not isinstance(table, LocalTable):
        raise Fatal(f"table {table.spec}: sequence operation is not supported")
    for key, value in table.items():
        shown = key.decode("utf-8", "surrogateescape")
        if not key:
            _warn(f"table {table.spec}: empty lookup key value is not allowed")
        elif not value:
            _warn(f"table {table.spec}: key {shown}: empty string result is not allowed")
            _warn(f"table {table.spec} should return NO RESULT in case of NOT FOUND")
        if job.options.value_is_file:
            try:
                value = _decoded(value)
            except ValueError as error:
                _warn(f"table {table.spec}: key {shown}: {error}")
                continue
        _print(job, key, value)
    sys.stdout.buffer.flush()
    table.close()
    return 0


def _standard_input_lines() -> Iterator[bytes]:
    for line in sys.stdin.buffer:
        yield line.removesuffix(b"\n")


# Making


def _write_hash(
    path: str, items: Iterable[tuple[bytes, bytes]], mode: int, owner: tuple[int, int] | None
) -> None:
    write_hash(path, items, mode=mode, owner=owner)


def _write_lmdb(
    path: str, items: Iterable[tuple[bytes, bytes]], mode: int, owner: tuple[int, int] | None
) -> None:
    write_lmdb(path, items, mode=mode, owner=owner)


def _read_hash(path: str, options: Options) -> Iterator[tuple[bytes, bytes]]:
    """All entries, for one who holds the file's lock."""
    file = open_bdb(path, lock=0)
    for key, value in file.items():
        yield key.partition(b"\0")[0], value.partition(b"\0")[0]
    file.close()


def _read_lmdb(path: str, options: Options) -> Iterator[tuple[bytes, bytes]]:
    table = LmdbTable(f"lmdb:{path}", options, path)
    yield from table.items()
    table.close()


#: What can be made: the suffix of the file, what writes it, and what reads it.
WRITERS: dict[str, tuple[str, Writer, Reader]] = {
    "hash": (".db", _write_hash, _read_hash),
    "lmdb": (".lmdb", _write_lmdb, _read_lmdb),
}


def _writer(kind: str) -> tuple[str, Writer, Reader]:
    if kind in WRITERS:
        return WRITERS[kind]
    if kind in TYPES:
        raise Fatal(f"unsupported dictionary type: {kind} does not support bulk-mode creation.")
    raise Fatal(f"unsupported dictionary type: {kind}")


def _make(job: Job, spec: str, add: bool) -> None:
    """Make the table from its source; with ``add``, add to it from standard input."""
    kind, name = job.split(spec)
    suffix, write, read = _writer(kind)
    path = name + suffix
    if add:
        text = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
        status, source = os.fstat(sys.stdin.fileno()), "stdin"
    else:
        text, status, source = *_read_source(name), name
    mode = 0o644
    if job.save_mode and stat.S_ISREG(status.st_mode):
        mode &= ~(0o022 | ~status.st_mode & 0o077)
    label = path if kind == "hash" else spec
    with _as_owner(job, status, name) as owner, writing(path):
        entries = dict(read(path, job.options)) if add and os.path.exists(path) else {}
        for _, key, value in parse_source(text, source, job.options):
            _add(entries, key, value, job.options, label)
        write(path, _terminated(entries, job.options), mode, owner)


def _read_source(name: str) -> tuple[str, os.stat_result]:
    try:
        return read_text(name), os.stat(name)
    except TableError as error:
        raise Fatal(str(error)) from error


def _add(entries: dict[bytes, bytes], key: bytes, value: bytes, options: Options, label: str) -> None:
    if options.fold:
        key = fold(key)
    if key in entries and options.duplicates != "replace":
        if options.duplicates == "warn":
            _warn(f'{label}: duplicate entry: "{key.decode("utf-8", "surrogateescape")}"')
        return
    entries[key] = value


def _terminated(entries: dict[bytes, bytes], options: Options) -> Iterator[tuple[bytes, bytes]]:
    """Entries as they are stored: with a NUL at the end unless ``-n`` says without."""
    end = b"\0" if options.nulls[0] else b""
    for key, value in entries.items():
        yield key + end, value + end


def _delete(job: Job, spec: str, keys: list[bytes]) -> bool:
    """Delete keys from a table; whether one was there."""
    kind, name = job.split(spec)
    if kind in TYPES and kind not in WRITERS:
        raise Fatal(f"{kind}:{name} map requires O_RDONLY access mode")
    suffix, write, read = _writer(kind)
    path = name + suffix
    if not os.path.exists(path):
        raise Fatal(f"open database {path}: No such file or directory")
    with writing(path):
        entries = dict(read(path, job.options))
        before = len(entries)
        for key in keys:
            entries.pop(_folded(key, job.options), None)
        if len(entries) == before:
            return False
        write(path, _terminated(entries, job.options), 0o644, None)
    return True


def _folded(key: bytes, options: Options) -> bytes:
    if options.utf8 and not is_utf8(key):
        return key
    return fold(key) if options.fold else key


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
            _warn(
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
