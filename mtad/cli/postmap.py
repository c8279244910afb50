"""``mtad postmap``: make, change and ask lookup tables, as ``postmap(1)`` does.

Makes ``hash``, ``btree``, ``lmdb`` and ``cdb`` files (:mod:`mtad.cli.mapfiles`), asks and lists every type
there is.  Messages go to standard error as ``postmap: warning: ...`` and ``postmap: fatal: ...``; exit codes
are 0, and 1 for what is not found and for every failure.

:func:`run_tool` is the command for all formats of sources; ``mtad postalias`` shares it.
"""

from __future__ import annotations

import base64
import binascii
import getopt
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

from mtad.cli.directory import load_parameters
from mtad.cli.mapfiles import Job, delete, make
from mtad.cli.message_keys import message_keys
from mtad.cli.postconf_services import json_line
from mtad.cli.voice import Fatal, complaint
from mtad.errors import ConfigError, MtadError, TableError
from mtad.maillog import printable
from mtad.tables.memory import Parser
from mtad.tables.registry import open_with
from mtad.tables.source import parse_source
from mtad.tables.table import LocalTable, Options, Table


@dataclass(frozen=True, slots=True)
class Tool:
    """One of the commands: its name, its options, its format of sources, and what separates key and value."""

    name: str
    usage: str
    letters: str
    parse: Parser
    separator: bytes = b"\t"
    ending: tuple[tuple[bytes, bytes], ...] = ()


POSTMAP = Tool(
    "postmap",
    "usage: postmap [-bfFhijmnNoprsuUvw] [-c config_dir] [-d key] [-q key] [map_type:]file...",
    "Nbc:d:fFhijmnopq:rsuUvw",
    parse_source,
)


def main(argv: list[str]) -> int:
    """Run the command on ``argv`` (without its name); the exit code."""
    return run_tool(POSTMAP, argv)


def run_tool(tool: Tool, argv: list[str]) -> int:
    """The command that ``tool`` describes; the exit code."""
    try:
        return _run(tool, argv)
    except ConfigError as error:
        _say(tool, f"fatal: {error if error.path else error.reason}")
    except MtadError as error:
        _say(tool, f"fatal: {error}")
    return 1


def _say(tool: Tool, text: str) -> None:
    sys.stderr.buffer.write(f"{tool.name}: {printable(text)}\n".encode("utf-8", "replace"))
    sys.stderr.buffer.flush()


def _run(tool: Tool, argv: list[str]) -> int:
    try:
        flags, specs = getopt.getopt(argv, tool.letters)
    except getopt.GetoptError as error:
        _say(tool, complaint(error))
        raise Fatal(tool.usage) from error
    modes = [(flag, value) for flag, value in flags if flag in ("-d", "-i", "-q", "-s")]
    if len(modes) > 1:
        raise Fatal("specify only one of -d -i -q or -s")
    mode, key = modes[0] if modes else ("", "")
    job = _job(tool, flags)
    if job.json and mode not in ("-q", "-s"):
        raise Fatal("option -j requires -q or -s")
    message = {flag for flag, _ in flags} & {"-b", "-h", "-m"}
    if message and (mode, key) != ("-q", "-"):
        raise Fatal('specify -b -h or -m only with "-q -"')
    if mode == "-s":
        return _list(tool, job, specs)
    if not specs:
        raise Fatal(tool.usage)
    if mode == "-q":
        if key != "-":
            return _ask(job, specs, os.fsencode(key))
        return _ask_many(tool, job, specs, _keys(job, message))
    if mode == "-d":
        keys = list(_standard_input_lines()) if key == "-" else [os.fsencode(key)]
        return 0 if sum([delete(job, spec, keys) for spec in specs]) else 1
    for spec in specs:
        make(job, spec, add=mode == "-i")
    return 0


def _job(tool: Tool, flags: list[tuple[str, str]]) -> Job:
    """The options of the command line, together with those of main.cf."""
    given = dict(flags)
    p = load_parameters(given.get("-c"))
    utf8 = p.flag("smtputf8_enable") and "-u" not in given
    if ("-b" in given or "-h" in given) and "-U" not in given:
        utf8 = False
    options = Options(config_directory=p.directory, utf8=utf8)
    job = Job(tool.name, p, options, tool.parse, tool.ending)
    options = replace(options, warn=job.warn)
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


def _name(table: Table) -> str:
    """The table in messages: Berkeley DB files by the name of the file."""
    return f"{table.spec}.db" if table.spec.partition(":")[0] in ("hash", "btree") else table.spec


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
        job.warn(f"table {table.spec}: key {shown}: empty string result is not allowed")
        job.warn(f"table {table.spec} should return NO RESULT in case of NOT FOUND")
    if job.options.value_is_file:
        try:
            return _decoded(value)
        except ValueError as error:
            job.warn(f"table {_name(table)}: key {shown}: {error}")
            raise Fatal(f"table {_name(table)}: query error") from error
    return value


def _decoded(value: bytes) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ValueError(f"malformed BASE64 value: {value[:30].decode('utf-8', 'replace')}") from error


def _print(job: Job, key: bytes, value: bytes, separator: bytes = b"") -> None:
    """The value, behind its key where there is a ``separator``."""
    line = key + separator + value if separator else value
    if job.json:
        texts = (part.decode("utf-8", "surrogateescape") for part in (key, value))
        line = json_line(*texts).encode("utf-8", "surrogateescape")
    sys.stdout.buffer.write(line + b"\n")


def _ask(job: Job, specs: list[str], key: bytes) -> int:
    """``-q key``: the first table's answer."""
    for spec in specs:
        table = _open(job, spec)
        value = _lookup(job, table, key)
        table.close()
        if value is not None:
            _print(job, key, value)
            sys.stdout.buffer.flush()
            return 0
    return 1


def _keys(job: Job, message: set[str]) -> Iterator[bytes]:
    """The keys on standard input: one a line, or those of a message."""
    if message == {"-m"}:
        job.warn("ignoring -m option without -b or -h")
    if not message & {"-b", "-h"}:
        return _standard_input_lines()
    return message_keys(
        _standard_input_lines(), header="-h" in message, body="-b" in message, mime="-m" in message
    )


def _ask_many(tool: Tool, job: Job, specs: list[str], keys: Iterator[bytes]) -> int:
    """``-q -``: each table is opened when it is first needed."""
    tables: dict[str, Table] = {}
    code = 1
    for key in keys:
        for spec in specs:
            if spec not in tables:
                tables[spec] = _open(job, spec)
            value = _lookup(job, tables[spec], key)
            if value is not None:
                _print(job, key, value, tool.separator)
                code = 0
                break
    sys.stdout.buffer.flush()
    for table in tables.values():
        table.close()
    return code


def _list(tool: Tool, job: Job, specs: list[str]) -> int:
    """``-s``: all entries of the first table."""
    if not specs:
        return 1
    table = _open(job, specs[0])
    if not isinstance(table, LocalTable):
        raise Fatal(f"table {table.spec}: sequence operation is not supported")
    for key, value in table.items():
        _list_entry(tool, job, table, key, value)
    sys.stdout.buffer.flush()
    table.close()
    return 0


def _list_entry(tool: Tool, job: Job, table: LocalTable, key: bytes, value: bytes) -> None:
    shown = key.decode("utf-8", "surrogateescape")
    if not key:
        job.warn(f"table {table.spec}: empty lookup key value is not allowed")
    elif not value:
        job.warn(f"table {table.spec}: key {shown}: empty string result is not allowed")
        job.warn(f"table {table.spec} should return NO RESULT in case of NOT FOUND")
    if job.options.value_is_file:
        try:
            value = _decoded(value)
        except ValueError as error:
            job.warn(f"table {_name(table)}: key {shown}: {error}")
            return
    _print(job, key, value, tool.separator)


def _standard_input_lines() -> Iterator[bytes]:
    for line in sys.stdin.buffer:
        yield line.removesuffix(b"\n")
