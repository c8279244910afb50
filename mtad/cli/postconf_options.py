"""The command line of ``mtad postconf``: which options there are, and which go together.

:func:`parse` gives a :class:`Request`, or raises :class:`UsageError` in Postfix's words.
Postfix counterpart: the option tables of ``postconf.c``.
"""

from __future__ import annotations

import getopt
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from mtad.cli.directory import config_directory
from mtad.cli.voice import complaint
from mtad.config.lines import split_assignment
from mtad.config.names import BUILTIN, SERVICE, USER

_LETTERS = "aAbc:C:deEfFhHjlmMno:pPqtT:vxX#"
USAGE = (
    "usage: postconf [-a (server SASL types)] [-A (client SASL types)] [-b (bounce templates)]"
    " [-c config_dir] [-C param_class] [-d (parameter defaults)] [-e (edit configuration)] [-f (fold lines)]"
    " [-F (master.cf fields)] [-h (no names)] [-H (no values)] [-j (streaming JSON)] [-l (lock types)]"
    " [-m (map types)] [-M (master.cf)] [-n (non-default parameters)]"
    " [-o name=value (override parameter value)] [-p (main.cf, default)] [-P (master.cf parameters)]"
    " [-q (no warnings)] [-t (bounce templates)] [-T compile-version|run-version|public-key-algorithms]"
    " [-v (verbose)] [-x (expand parameter values)] [-X (exclude)] [-# (comment-out)] [name...]"
)

#: The options that count for what goes with what, in Postfix's order.
_ORDER = (*(f"-{letter}" for letter in "aAbCdefFhHjlmMnopPtTxX#"), "-PP")
_MODES = frozenset(f"-{letter}" for letter in "aAblmtpMFPT")
#: Of each of these sets one at most.
_EXCLUSIVE = (
    _MODES,
    *(
        frozenset(group.split())
        for group in (
            "-PP -e -# -X",
            "-d -e -n -# -X",
            "-f -e -# -X",
            "-x -e -# -X",
            "-o -d -e -# -X",
            "-h -e -# -X -H",
        )
    ),
)
#: An option, and the others it may stand with.
_COMPATIBLE = {
    "-a": "",
    "-A": "",
    "-b": "",
    "-l": "",
    "-m": "",
    "-T": "",
    "-t": "",
    "-p": "-e -X -# -f -h -x -d -n -o -H -j",
    "-M": "-e -X -# -f -o -x -j",
    "-F": "-e -f -h -o -x -H -j",
    "-P": "-e -X -f -h -o -x -H -j -PP",
    "-PP": "-f -h -o -x -H -j -P",
    "-j": "-p -M -F -P -PP -o -x -n -d",
}
_CLASSES = {
    "builtin": {BUILTIN},
    "service": {SERVICE},
    "user": {USER},
    "all": {BUILTIN, SERVICE, USER},
}


class UsageError(ValueError):
    """A command line that cannot be understood."""


@dataclass(slots=True)
class Request:
    """The command line, read."""

    directory: str
    explicit_directory: bool
    flags: frozenset[str]
    overrides: dict[str, str] = field(default_factory=dict)
    classes: frozenset[str] = frozenset({BUILTIN, SERVICE, USER})
    names: list[str] = field(default_factory=list)
    tls: str = ""

    @property
    def show(self) -> tuple[bool, bool]:
        """Whether names and whether values are shown."""
        return "-h" not in self.flags, "-H" not in self.flags


def parse(argv: Sequence[str]) -> Request:
    """Read the arguments behind the command's name."""
    try:
        options, names = getopt.getopt(list(argv), _LETTERS)
    except getopt.GetoptError as error:
        sys.stderr.write(f"postconf: {complaint(error)}\n")
        raise UsageError(USAGE) from error
    request = Request(config_directory(), "MAIL_CONFIG" in os.environ, frozenset(), names=names)
    flags: set[str] = set()
    for option, value in options:
        if option == "-E":
            raise UsageError(USAGE)
        if option == "-c":
            request.directory, request.explicit_directory = value, True
        elif option == "-o":
            name, text = _override(value)
            request.overrides[name] = text
        elif option == "-C":
            request.classes = _class_names(value)
            continue
        elif option == "-T":
            if "-T" in flags:
                raise UsageError("At most one -T <mode> option may be specified")
            request.tls = value
        flags.add("-PP" if option == "-P" and "-P" in flags else option)
    if {"-b", "-t"} <= flags:
        raise UsageError("specify one of -b and -t")
    if not flags & _MODES:
        flags.add("-p")
    if flags & {"-p", "-M", "-F", "-P"} and names and "=" in names[0]:
        flags.add("-e")
    _check(flags)
    if "-e" in flags and not names:
        raise UsageError("-e requires name=value argument")
    if flags & {"-X", "-#"} and not names:
        raise UsageError("missing service argument")
    request.flags = frozenset(flags)
    return request


def _check(flags: set[str]) -> None:
    """Refuse options that contradict each other, or mean nothing together."""
    for group in _EXCLUSIVE:
        if len(flags & group) > 1:
            raise UsageError(f"specify one of {_listed(flags & group)}")
    for option in _ORDER:
        if option in flags and option in _COMPATIBLE:
            excess = flags & set(_ORDER) - {option} - set(_COMPATIBLE[option].split())
            if excess:
                raise UsageError(f"with option {option}, do not specify {_listed(excess)}")


def _listed(flags: set[str] | frozenset[str]) -> str:
    return " ".join(option for option in _ORDER if option in flags)


def _override(text: str) -> tuple[str, str]:
    try:
        return split_assignment(text)
    except ValueError as error:
        raise UsageError(f"invalid parameter override: {text}: {error}") from error


def _class_names(text: str) -> frozenset[str]:
    found: set[str] = set()
    for word in text.replace(",", " ").split():
        if word.lower() not in _CLASSES:
            raise UsageError(f'unknown -C option value "{word}" in "{text}"')
        found |= _CLASSES[word.lower()]
    return frozenset(found)
