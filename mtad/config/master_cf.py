"""master.cf: the services, one a logical line of eight fields and the command's arguments.

Fields are split at blanks; ``{ a b }`` is one argument.  ``-o name=value`` and ``-o { name = value }`` go to
``overrides`` (the last of a name counts; values are not expanded yet), ``-v`` adds to ``verbose``, ``-D``
sets ``debug``, the rest stays in ``args``.  Of two lines with the same name and type the last counts.

:func:`read_master_cf` raises ConfigError with file and line for what Postfix's master would not start with.
Postfix counterpart: ``master_ent.c``, ``postconf_master.c``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mtad.config.lines import (
    SPACE,
    WORD_SEPARATORS,
    logical_lines,
    read_text,
    split_assignment,
    tokens,
    unbraced,
)
from mtad.errors import ConfigError

FIELDS = ("service", "type", "private", "unprivileged", "chroot", "wakeup", "process_limit", "command")
TYPES = ("unix", "fifo", "inet", "pass", "unix-dgram")

_WAKEUP = re.compile(r"(?:[0-9]*|-)\??")
_LIMIT = re.compile(r"[0-9]+|-")


@dataclass(frozen=True, slots=True)
class Service:
    """One service.

    ``chroot`` is None for ``-`` (depends on compatibility_level), ``maxproc`` None for ``-``
    ($default_process_limit) and 0 for no limit.  ``fields`` are the eight fields and all arguments
    as written, options pulled apart.
    """

    name: str
    type: str
    private: bool
    unprivileged: bool
    chroot: bool | None
    wakeup: int
    maxproc: int | None
    command: str
    args: tuple[str, ...]
    overrides: dict[str, str]
    verbose: int
    line: int
    debug: bool = False
    fields: tuple[str, ...] = ()


def read_master_cf(path: str, warnings: list[str] | None = None) -> list[Service]:
    """The services of the file at ``path``, in its order, without those that a later line replaces."""
    services: dict[tuple[str, str], Service] = {}
    for service in read_entries(path, warnings):
        key = (service.name, service.type)
        if key in services and warnings is not None:
            warnings.append(
                f"{path}, line {service.line}: duplicate master.cf entry for service "
                f'"{service.name}" ({service.type}) -- using the last entry'
            )
        services[key] = service
    return list(services.values())


def read_entries(path: str, warnings: list[str] | None = None) -> list[Service]:
    """Every entry of the file, also those that a later line replaces."""
    return [
        parse_service(line, path, number) for number, line in logical_lines(read_text(path), path, warnings)
    ]


def parse_service(text: str, path: str = "", line: int = 0) -> Service:
    """One logical line as a service."""
    try:
        fields = tokens(text, WORD_SEPARATORS)
        if len(fields) < len(FIELDS):
            missing = FIELDS[len(fields)]
            raise ValueError(f'bad field count: field "{missing}" is missing')
        bad = bad_field(fields)
        if bad:
            raise ValueError(f'field "{bad}": bad value: "{fields[FIELDS.index(bad)]}"')
        _check_inet(fields)
        return make_service(fields, line)
    except ValueError as error:
        raise ConfigError(
            str(error), path=path, line=line, remedy=f"the fields are: {', '.join(FIELDS)}"
        ) from error


def make_service(words: list[str], line: int = 0, odd: list[str] | None = None) -> Service:
    """A service of checked fields and of its arguments, as split at blanks.

    With ``odd``, what is wrong with the arguments is noted there, and taken as ``postconf(1)`` takes it;
    without, it is a :class:`ValueError`.
    """
    fields, overrides = _options(words, odd)
    name, kind, private, unprivileged, chroot, wakeup, maxproc, command = fields[:8]
    args, verbose, debug = _arguments(fields[8:])
    return Service(
        name=name,
        type=kind,
        private=private != "n",
        unprivileged=unprivileged != "n",
        chroot=None if chroot == "-" else chroot == "y",
        wakeup=int(wakeup.rstrip("?").rstrip("-") or 0),
        maxproc=None if maxproc == "-" else int(maxproc),
        command=command,
        args=args,
        overrides=overrides,
        verbose=verbose,
        line=line,
        debug=debug,
        fields=tuple(fields),
    )


def bad_field(fields: list[str]) -> str:
    """The name of the first field whose value is not allowed, or nothing."""
    if fields[1] not in TYPES:
        return FIELDS[1]
    for index in (2, 3, 4):
        if fields[index] not in ("y", "n", "-"):
            return FIELDS[index]
    if not _WAKEUP.fullmatch(fields[5]) or len(fields[5]) > 10:
        return FIELDS[5]
    if not _LIMIT.fullmatch(fields[6]) or len(fields[6]) > 9:
        return FIELDS[6]
    return ""


def _check_inet(fields: list[str]) -> None:
    name, kind, private, *_ = fields
    if kind == "inet":
        if private != "n":
            raise ValueError("inet service cannot be private")
        if re.fullmatch(r"0+", name.rpartition(":")[2]):
            raise ValueError(f'bad port in service name "{name}"')


def _options(fields: list[str], odd: list[str] | None) -> tuple[list[str], dict[str, str]]:
    """The fields with options pulled apart and braces off, and the ``-o`` settings."""
    done = fields[: len(FIELDS)]
    rest = fields[len(FIELDS) :]
    overrides: dict[str, str] = {}
    while rest and rest[0].startswith("-") and rest[0] != "--":
        argument = rest.pop(0)
        letters, found, value = argument[1:].partition("o")
        if letters:
            done.append(f"-{letters}")
        if not found:
            continue
        if value:
            rest.insert(0, value)
        if not rest:
            if odd is None:
                raise ValueError("option -o needs a parameter name=value")
            done.append("-o")
            continue
        setting = rest.pop(0)
        if setting.startswith("{"):
            setting = _inside(setting, odd)
            try:
                setting = "=".join(split_assignment(setting))
            except ValueError as error:
                if odd is None:
                    raise
                odd.append(f'{error}: "{setting}"')
        try:
            name, text = split_assignment(setting)
            overrides[name] = text
        except ValueError:
            if odd is None:
                raise
        done += ["-o", setting]
    done += [_inside(word, odd) if word.startswith("{") else word for word in rest]
    return done, overrides


def _inside(word: str, odd: list[str] | None) -> str:
    """The text in braces; with ``odd``, also that of a word whose braces are not quite right."""
    try:
        return unbraced(word)
    except ValueError as error:
        if odd is None:
            raise
        odd.append(str(error))
        level = 0
        for position, char in enumerate(word):
            level += (char == "{") - (char == "}")
            if level == 0:
                return word[1:position].strip(SPACE)
        return word[1:].strip(SPACE)


def _arguments(words: list[str]) -> tuple[tuple[str, ...], int, bool]:
    """What is left of the arguments without ``-o``, ``-v`` and ``-D``; how often ``-v``; whether ``-D``."""
    rest: list[str] = []
    verbose, debug = 0, False
    words = list(words)
    while words and words[0].startswith("-") and words[0] != "--":
        word = words.pop(0)
        if word == "-o":
            del words[:1]
            continue
        verbose += word.count("v")
        debug = debug or "D" in word
        left = word.replace("v", "").replace("D", "")
        if left != "-":
            rest.append(left)
    return (*rest, *words), verbose, debug
