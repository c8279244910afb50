"""``mtad postconf``: show and edit the configuration as Postfix's ``postconf(1)`` does.

Standard output is that of postconf on the same files, standard error has its warnings about unused and
undefined parameters.  :func:`main` gives the exit status: 0, or 1 after a ``fatal:`` line.

Modes: main.cf (-p, the default), master.cf entries (-M), fields (-F) and settings (-P); -n explicit values,
-d defaults, -x expanded, -h values only, -H names only, -f folded, -C class, -o name=value, -q quiet;
-e, -X and -# edit main.cf; -a, -A, -l and -m list what is known.
Postfix counterpart: ``postconf(1)``.
"""

from __future__ import annotations

import getopt
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mtad.cli import postconf_services as view
from mtad.cli.directory import POSTFIX_DIRECTORY, config_directory
from mtad.config import edit
from mtad.config.lines import split_assignment
from mtad.config.master_cf import Service, read_entries
from mtad.config.names import BUILTIN, SERVICE, USER, Survey, survey
from mtad.config.parameters import Facts, Parameters, table
from mtad.errors import ConfigError
from mtad.net.interfaces import facts

_OPTIONS = "aAbc:C:defFhHjlmMno:pPqtT:vxX#"
_USAGE = "usage: mtad postconf [-c dir] [-adefhHlmMnpPqvxAFX#] [-C class] [-o name=value] [name...]"
_UNKNOWN = {"-b": "bounce templates", "-t": "bounce templates", "-T": "TLS information", "-j": "JSON"}
_LISTS = {"-a": ("cyrus",), "-A": ("cyrus",), "-l": ("flock", "fcntl", "dotlock")}
#: What ``$process_name`` and ``$service_name`` are here.
_PROCESS = ("postconf", "")
_CLASSES = {
    "builtin": {BUILTIN},
    "service": {SERVICE},
    "user": {USER},
    "all": {BUILTIN, SERVICE, USER},
}


@dataclass(slots=True)
class _Request:
    """The command line, read."""

    directory: str
    explicit_directory: bool
    flags: frozenset[str]
    overrides: dict[str, str] = field(default_factory=dict)
    classes: frozenset[str] = frozenset({BUILTIN, SERVICE, USER})
    names: list[str] = field(default_factory=list)

    @property
    def show(self) -> tuple[bool, bool]:
        """Whether names and whether values are shown."""
        return "-h" not in self.flags, "-H" not in self.flags


def main(argv: Sequence[str]) -> int:
    """Run with the arguments behind the command's name."""
    if "--help" in argv:
        _write(sys.stdout, [_USAGE, "", *(__doc__ or "").split("\n\n")[2].split("\n")])
        return 0
    try:
        request = _parse(argv)
        return _run(request)
    except view.UsageError as error:
        return _fatal(str(error))
    except ConfigError as error:
        return _fatal(str(error))
    except BrokenPipeError:
        return 1


def _fatal(text: str) -> int:
    sys.stderr.write(f"postconf: fatal: {text}\n")
    return 1


def _warn(lines: Sequence[str]) -> None:
    if lines:
        _write(sys.stderr, (f"postconf: warning: {line}" for line in lines))


def _write(stream: object, lines: Iterator[str] | Sequence[str]) -> None:
    """Print lines; bytes that were no UTF-8 in the file come out as they were."""
    text = "".join(f"{line}\n" for line in lines)
    stream.buffer.write(text.encode("utf-8", "surrogateescape"))  # type: ignore[attr-defined]
    stream.flush()  # type: ignore[attr-defined]


def _parse(argv: Sequence[str]) -> _Request:
    try:
        options, names = getopt.getopt(list(argv), _OPTIONS)
    except getopt.GetoptError as error:
        raise view.UsageError(f"{error}; {_USAGE}") from error
    request = _Request(config_directory(), "MAIL_CONFIG" in os.environ, frozenset(), names=names)
    flags: set[str] = set()
    for option, value in options:
        if option in _UNKNOWN:
            raise view.UsageError(f"option {option} ({_UNKNOWN[option]}) is not known here")
        if option == "-c":
            request.directory, request.explicit_directory = value, True
        elif option == "-o":
            name, text = _assignment(value, f"invalid parameter override: {value}: ")
            request.overrides[name] = text
        elif option == "-C":
            request.classes = _class_names(value)
        flags.add(option)
    main_or_master = not flags & {"-a", "-A", "-l", "-m"}
    if main_or_master and not flags & {"-X", "-#"} and names and "=" in names[0]:
        flags.add("-e")
    if "-e" in flags and not names:
        raise view.UsageError("-e requires name=value argument")
    for one, two in (("-n", "-d"), ("-h", "-H"), ("-e", "-X"), ("-e", "-#"), ("-X", "-#"), ("-d", "-e")):
        if one in flags and two in flags:
            raise view.UsageError(f"specify one of {one} {two}")
    if len(flags & {"-p", "-M", "-F", "-P"}) > 1:
        raise view.UsageError("specify one of " + " ".join(sorted(flags & {"-p", "-M", "-F", "-P"})))
    request.flags = frozenset(flags)
    return request


def _assignment(text: str, prefix: str = "") -> tuple[str, str]:
    try:
        return split_assignment(text)
    except ValueError as error:
        raise view.UsageError(f'{prefix}{error}: "{text}"' if not prefix else f"{prefix}{error}") from error


def _class_names(text: str) -> frozenset[str]:
    found: set[str] = set()
    for word in text.replace(",", " ").split():
        if word.lower() not in _CLASSES:
            raise view.UsageError(f'unknown -C option value "{word}" in "{text}"')
        found |= _CLASSES[word.lower()]
    return frozenset(found)


def _run(request: _Request) -> int:
    flags = request.flags
    for option, known in _LISTS.items():
        if option in flags:
            _write(sys.stdout, known)
            return 0
    if "-m" in flags:
        _write(sys.stdout, _table_types())
        return 0
    if flags & {"-e", "-X", "-#"}:
        return _edit(request)
    if flags & {"-M", "-F", "-P"}:
        return _show_services(request)
    return _show_parameters(request)


def _table_types() -> tuple[str, ...]:
    from mtad.tables.registry import TYPES

    return tuple(sorted(TYPES))


def _load(request: _Request) -> Parameters:
    p = Parameters.load(request.directory, Facts(), request.overrides, process=_PROCESS)
    _warn(p.warnings)
    return _with_networks(p)


def _with_networks(p: Parameters) -> Parameters:
    """The same with the default of mynetworks, for which the host is asked when it is needed."""
    return p.with_facts(Facts(mynetworks=lambda style: facts(p).mynetworks(style)))


def _show_services(request: _Request) -> int:
    warnings: list[str] = []
    services = read_entries(f"{request.directory}/master.cf", warnings)
    p = _load(request)
    found = survey(p, services)
    _warn(warnings + _names_warnings(found))
    warnings = []
    folding = "-f" in request.flags
    expand = view.expander(p) if "-x" in request.flags else None
    if "-M" in request.flags:
        lines = view.entries(services, request.names, folding, expand, warnings)
    elif "-F" in request.flags:
        lines = view.fields(services, request.names, folding, request.show, expand, warnings)
    else:
        lines = view.settings(services, request.names, folding, request.show, expand, warnings)
    _write(sys.stdout, list(lines))
    _warn(warnings)
    if "-q" not in request.flags:
        _warn(_use_warnings(found, f"{request.directory}/master.cf"))
    return 0


def _show_parameters(request: _Request) -> int:
    flags = request.flags
    defaults = "-d" in flags
    p = _with_networks(Parameters({}, POSTFIX_DIRECTORY, process=_PROCESS)) if defaults else _load(request)
    warnings: list[str] = []
    services = _services(request, warnings)
    found = survey(p, services, defaults_only=defaults)
    _warn(warnings + _names_warnings(found))
    unknown: list[str] = []
    lines: list[str] = []
    for name in request.names or sorted(found.classes):
        if name not in found.classes:
            unknown.append(f"{name}: unknown parameter")
        elif request.names or found.classes[name] in request.classes:
            lines += _parameter_line(p, name, request)
    _warn(unknown)
    _write(sys.stdout, lines)
    if not defaults and "-q" not in flags:
        _warn(_use_warnings(found, f"{request.directory}/main.cf"))
        _warn(_use_warnings(found, f"{request.directory}/master.cf"))
    return 0


def _services(request: _Request, warnings: list[str]) -> list[Service]:
    path = f"{request.directory}/master.cf"
    if not os.path.exists(path):
        warnings.append(f"open {path}: No such file or directory")
        return []
    return read_entries(path, warnings)


def _parameter_line(p: Parameters, name: str, request: _Request) -> list[str]:
    """The line for one parameter, or none when -n leaves it out."""
    flags = request.flags
    explicit = p.explicit(name) or (name == "config_directory" and request.explicit_directory)
    if "-n" in flags and not explicit:
        return []
    names, values = request.show
    if not values:
        return [name]
    row = table().get(name)
    if "-x" in flags and (row is None or row.type != "raw"):
        value = p.expand(p.raw(name) or "")
    else:
        value = p.raw(name) or ""
    return [view.fold(f"{name} = {value}" if names else value, "-f" in flags)]


def _names_warnings(found: Survey) -> list[str]:
    return [
        *(
            f"{path}: read-only parameter assignment: {name}={text}"
            for path, _, name, text in found.read_only
        ),
        *(f"{path}: undefined parameter: {name}" for path, _, name in found.undefined),
    ]


def _use_warnings(found: Survey, wanted: str) -> list[str]:
    """Unused and deprecated parameters of one file, by name."""
    lines = [
        (name, f"{path}: unused parameter: {name}={text}")
        for path, _, name, text in found.unused
        if path == wanted
    ]
    lines += [
        (name, f'{path}: support for parameter "{name}" will be removed; instead, {instead}')
        for path, _, name, instead in found.deprecated
        if path == wanted
    ]
    return [text for _, text in sorted(lines)]


def _edit(request: _Request) -> int:
    if request.flags & {"-M", "-F", "-P"}:
        raise view.UsageError("master.cf is not edited here; change the file with an editor")
    for name in request.names:
        if "\n" in name:
            raise view.UsageError("-e, -X, or -# accepts no multi-line input")
        if name.lstrip().startswith("#"):
            raise view.UsageError("-e, -X, or -# accepts no comment input")
    path = f"{request.directory}/main.cf"
    if "-e" in request.flags:
        changes = dict(_assignment(name) for name in request.names)
        warnings = edit.edit_main(path, changes, edit.SET)
    else:
        option = "-X or -#"
        for name in request.names:
            if not name.strip():
                raise view.UsageError(f"{option} requires non-blank parameter names")
            if "=" in name:
                raise view.UsageError(f"{option} requires parameter names without value")
        how = edit.REMOVE if "-X" in request.flags else edit.COMMENT_OUT
        warnings = edit.edit_main(path, {name.strip(): "" for name in request.names}, how)
    _warn(warnings)
    return 0
