"""Programs of Postfix's test suite, played by mtad's modules.

Each is a function of ``argv`` that gives an exit status.  They only translate: what is looked up, expanded,
matched and complained about is mtad's.  ``diff`` compares without what mtad has no counterpart for: who owns
a table, the half of a result before an error, the order of a hash table.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from mtad.errors import MtadError


def _say(program: str, text: str) -> None:
    sys.stdout.flush()
    sys.stderr.buffer.write(f"{program}: {text}\n".encode("utf-8", "surrogateescape"))
    sys.stderr.flush()


def _print(text: str) -> None:
    sys.stdout.buffer.write(f"{text}\n".encode("utf-8", "surrogateescape"))
    sys.stdout.flush()


def _stdin() -> list[str]:
    return sys.stdin.buffer.read().decode("utf-8", "surrogateescape").splitlines()


# diff


def diff(argv: Sequence[str]) -> int:
    """``diff [-b] FILE FILE``, where ``-`` is standard input."""
    names = [word for word in argv[1:] if word == "-" or not word.startswith("-")]
    left, right = (_lines(name) for name in names[:2])
    if left == right:
        return 0
    import difflib

    print("\n".join(difflib.unified_diff(left, right, *names[:2], lineterm="")))
    return 1


def _lines(name: str) -> list[str]:
    data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    lines = data.decode("utf-8", "surrogateescape").splitlines()
    mode = os.environ.get("PEER_MODE", "")
    if mode == "sorted":
        return sorted(lines)
    kept = [line for line in lines if not line.startswith("owner=")]
    return [re.sub(r"^stat=[13] result=.*", "stat=error", line) for line in kept]


# programs that mtad has


def postconf(argv: Sequence[str]) -> int:
    from mtad.cli import postconf as command

    command.PROGRAM = argv[0]
    return command.main(list(argv[1:]))


def postmap(argv: Sequence[str]) -> int:
    from mtad.cli import postmap as command

    return command.main(list(argv[1:]))


def postalias(argv: Sequence[str]) -> int:
    from mtad.cli import postalias as command

    return command.main(list(argv[1:]))


# programs for tests only


def dict_open(argv: Sequence[str]) -> int:
    """Opens a table and answers ``get key`` lines."""
    from mtad.tables.registry import DeferredTable, open_with
    from mtad.tables.table import Options

    program, spec, mode, *words = argv
    flags = set(",".join(words).replace("|", ",").split(","))
    if mode != "read":
        _say(program, f"error: mtad opens tables for reading only: {spec}")
        return 1

    def warn(text: str) -> None:
        _say(program, f"warning: {text}")

    options = Options(
        fold="fold_fix" in flags, duplicates="replace", value_is_file="src_rhs_is_file" in flags, warn=warn
    )
    try:
        table = open_with(spec, options)
    except MtadError as problem:
        _say(program, f"error: {getattr(problem, 'reason', '') or problem}")
        table = DeferredTable(spec, options, problem)
    for line in _stdin():
        _print(f"> {line}")
        command, _, key = line.partition(" ")
        if line.startswith("#") or command != "get":
            continue
        name = codecs.escape_decode(key.encode("utf-8", "surrogateescape"))[0]
        shown = name.decode("utf-8", "surrogateescape")
        try:
            value = asyncio.run(_lookup(table, name))
        except MtadError as problem:
            if "unavailable" in str(problem):
                _say(program, f"warning: {problem}")
            _print(f"{shown}: error")
            continue
        if value is None:
            _print(f"{shown}: not found")
        else:
            _print(f"{shown}={value.decode('utf-8', 'surrogateescape')}")
    return 0


async def _lookup(table: object, key: bytes) -> bytes | None:
    return await table.lookup(key)  # type: ignore[attr-defined,no-any-return]


def _expansions(argv: Sequence[str]) -> int:
    """Blocks of definitions and blocks of expressions, each ended by an empty line."""
    from mtad.config.expand import ExpansionError, expand

    lines = _stdin()
    while True:
        table: dict[str, str] = {}
        while lines:
            line = lines.pop(0)
            _print(f"<< {line}")
            if not line:
                break
            name, *rest = re.split(r"[ \t=]+", line, maxsplit=1)
            table[name] = re.split(r"[ \t=]+", rest[0])[0] if rest else ""
        while lines:
            line = lines.pop(0)
            _print(f"<< {line}")
            if not line:
                break
            undefined: list[str] = []

            def value(
                name: str, depth: int, table: dict[str, str] = table, undefined: list[str] = undefined
            ) -> str:
                if name not in table:
                    undefined.append(name)
                return table.get(name, "")

            def is_set(name: str, depth: int, table: dict[str, str] = table) -> bool:
                return bool(table.get(name))

            try:
                result = expand(line, value, is_set)
            except ExpansionError as problem:
                _say("unknown", f"warning: {problem}")
                _print("stat=1 result=")
            else:
                _print(f"stat={2 if undefined else 0} result={result}")
        if not lines:
            return 0
        _print("")


def mac_expand(argv: Sequence[str]) -> int:
    """Expressions, with an operator and a function that are for this test only."""
    from mtad.config import expand

    expand.SUFFIXES["length"] = lambda left, right: len(left) - len(right)
    expand.FUNCTIONS["test_named_fn"] = lambda text: f"-=oO{text}Oo=-"
    return _expansions(argv)


def compat_level(argv: Sequence[str]) -> int:
    """``-x``: expressions; ``-c``: levels to numbers and back."""
    from mtad.config.expand import ExpansionError, parse_level

    if argv[1] == "-x":
        return _expansions(argv)
    for line in _stdin():
        try:
            major, minor, patch = parse_level(line)
        except ExpansionError as problem:
            _say("unknown", f"warning: {problem}")
            continue
        number = major << 20 | minor << 10 | patch
        _say("unknown", f"{line} -> {number:#x}")
        text = f"{major}.{minor}.{patch}" if patch else f"{major}.{minor}" if major > 2 else str(major)
        _say("unknown", f"{number:#x}->{text}")
    return 0


def namadr_list(argv: Sequence[str]) -> int:
    """Whether a client is in a list."""
    from mtad.tables.match import AddressList

    program, patterns, host, address = argv

    def warn(text: str) -> None:
        if "#comment" in text:  # what is unavailable is told when it is asked
            _say(program, f"warning: {text}")

    clients = AddressList("command line", patterns, parent_matches=True, warn=warn)
    for problem in clients.problems:
        if "address bits" not in str(problem) and "bad " not in str(problem):
            _say(program, f"error: {getattr(problem, 'reason', '') or problem}")
    try:
        answer = "YES" if asyncio.run(_matches(clients, address, host)) else "NO"
    except MtadError as problem:
        for part in reversed(str(problem).split(": table lookup problem: ")):
            ending = "" if part == str(problem) or "unavailable" in part else ": table lookup problem"
            if part != "Application error":
                _say(program, f"warning: {part}{ending}")
        answer = "ERROR"
    _print(f"{host}/{address}: {answer}")
    return 0


async def _matches(clients: object, address: str, host: str) -> bool:
    return await clients.matches(address, host)  # type: ignore[attr-defined,no-any-return]
