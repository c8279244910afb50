"""``mtad postconf``: show and edit the configuration as Postfix's ``postconf(1)`` does.

Standard output is that of postconf on the same files, standard error has its warnings about unused and
undefined parameters.  :func:`main` gives the exit status: 0, or 1 after a ``fatal:`` line.

Modes: main.cf (-p, the default), master.cf entries (-M), fields (-F), settings (-P), all that is in effect
for a service (-PP); -n explicit values, -d defaults, -x expanded, -h values only, -H names only, -f folded,
-j JSON, -C class, -o name=value, -q quiet; -e, -X and -# edit main.cf, or with -M, -F, -P master.cf; -a, -A,
-l, -m and -T list what is known; -b and -t show the texts of notifications; --man writes the manual page of
all parameters.
Postfix counterpart: ``postconf(1)``.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from mtad.cli import postconf_services as view
from mtad.cli.directory import POSTFIX_DIRECTORY
from mtad.cli.postconf_edit import edit
from mtad.cli.postconf_options import USAGE, Request, UsageError, parse
from mtad.cli.postconf_other import show
from mtad.config.edit_master import BadEdit, read_tolerantly
from mtad.config.lines import CANNOT_READ
from mtad.config.master_cf import Service
from mtad.config.names import Survey, survey
from mtad.config.parameters import Facts, Parameters, table
from mtad.errors import ConfigError
from mtad.net.interfaces import facts

#: The name in messages.
PROGRAM = "postconf"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
#: What ``$process_name`` and ``$service_name`` are here.
_PROCESS = ("postconf", "")


def main(argv: Sequence[str]) -> int:
    """Run with the arguments behind the command's name."""
    if "--help" in argv:
        _write(sys.stdout, [USAGE, "", *(__doc__ or "").split("\n\n")[2].split("\n")])
        return 0
    if list(argv) == ["--man"]:
        from mtad.cli.manual import page

        _write(sys.stdout, page())
        return 0
    try:
        return _run(parse(argv))
    except (UsageError, BadEdit) as error:
        return _fatal(str(error))
    except ConfigError as error:
        if error.reason.startswith(CANNOT_READ):
            return _fatal(f"open {error.path}: {error.reason.removeprefix(CANNOT_READ)}")
        return _fatal(str(error))


def _fatal(text: str) -> int:
    _write(sys.stderr, [f"{PROGRAM}: fatal: {_CONTROL.sub('?', text)}"])
    return 1


def _warn(lines: Sequence[str]) -> None:
    if lines:
        _write(sys.stderr, [f"{PROGRAM}: warning: {_CONTROL.sub('?', line)}" for line in lines])


def _write(stream: TextIO, lines: Iterator[str] | Sequence[str]) -> None:
    """Print lines; bytes that were no UTF-8 in the file come out as they were."""
    text = "".join(f"{line}\n" for line in lines)
    stream.buffer.write(text.encode("utf-8", "surrogateescape"))
    stream.flush()


def _run(request: Request) -> int:
    flags = request.flags
    lines = show(request)
    if lines is not None:
        _write(sys.stdout, lines)
    elif flags & {"-e", "-X", "-#"}:
        _warn(edit(request))
    elif flags & {"-M", "-F", "-P"}:
        _show_services(request)
    else:
        _show_parameters(request)
    return 0


def _load(request: Request) -> Parameters:
    p = Parameters.load(request.directory, Facts(), request.overrides, process=_PROCESS)
    _warn(p.warnings)
    return _with_networks(p)


def _with_networks(p: Parameters) -> Parameters:
    """The same with the default of mynetworks, for which the host is asked when it is needed."""
    return p.with_facts(Facts(mynetworks=lambda style: facts(p).mynetworks(style)))


def _show_services(request: Request) -> None:
    flags = request.flags
    warnings: list[str] = []
    services = read_tolerantly(f"{request.directory}/master.cf", warnings)
    p = _load(request)
    found = survey(p, services)
    _warn(warnings + _names_warnings(found))
    warnings = []
    how = _view(request, p)
    if "-M" in flags:
        lines = view.entries(services, request.names, how, warnings)
    elif "-F" in flags:
        lines = view.fields(services, request.names, how, warnings)
    elif "-PP" in flags:
        names = [name for name, kind in found.classes.items() if request.names or kind in request.classes]
        lines = view.all_settings(p, names, services, request.names, how, warnings)
    else:
        lines = view.settings(services, request.names, how, warnings)
    _write(sys.stdout, list(lines))
    _warn(warnings)
    if "-q" not in flags:
        _tell_use(found, (f"{request.directory}/master.cf",))


def _view(request: Request, p: Parameters) -> view.View:
    flags = request.flags
    expand = view.expander(p) if "-x" in flags else None
    return view.View("-f" in flags, *request.show, "-j" in flags, expand)


def _show_parameters(request: Request) -> None:
    flags = request.flags
    defaults = "-d" in flags
    p = _with_networks(Parameters({}, POSTFIX_DIRECTORY, process=_PROCESS)) if defaults else _load(request)
    warnings: list[str] = []
    services = _services(request, warnings)
    found = survey(p, services, defaults_only=defaults)
    _warn(warnings + _names_warnings(found))
    unknown: list[str] = []
    lines: list[str] = []
    how = _view(request, p)
    for name in request.names or sorted(found.classes):
        if name not in found.classes:
            unknown.append(f"{name}: unknown parameter")
        elif request.names or found.classes[name] in request.classes:
            lines += _parameter_line(p, name, request, how)
    _warn(unknown)
    _write(sys.stdout, lines)
    if not defaults and "-q" not in flags:
        _tell_use(found, (f"{request.directory}/main.cf", f"{request.directory}/master.cf"))


def _services(request: Request, warnings: list[str]) -> list[Service]:
    path = f"{request.directory}/master.cf"
    if not os.path.exists(path):
        warnings.append(f"open {path}: No such file or directory")
        return []
    return read_tolerantly(path, warnings)


def _parameter_line(p: Parameters, name: str, request: Request, how: view.View) -> list[str]:
    """The line for one parameter, or none when -n leaves it out."""
    explicit = p.explicit(name) or (name == "config_directory" and request.explicit_directory)
    if "-n" in request.flags and not explicit:
        return []
    row = table().get(name)
    value = p.raw(name) or ""
    if how.expand and (row is None or row.type != "raw"):
        value = p.expand(value)
    return [view.setting_line(name, value, how)]


def _names_warnings(found: Survey) -> list[str]:
    return [
        *(
            f"{path}: read-only parameter assignment: {name}={text}"
            for path, _, name, text in found.read_only
        ),
        *(f"{path}: undefined parameter: {name}" for path, _, name in found.undefined),
        *found.broken,
        *found.odd,
    ]


def _tell_use(found: Survey, paths: Sequence[str]) -> None:
    """Warn of unused and deprecated parameters, file by file and there by name."""
    _warn(found.client_unused)
    deprecated = False
    for wanted in paths:
        lines = [
            (name, f"{path}: unused parameter: {name}={text}")
            for path, _, name, text in found.unused
            if path == wanted
        ]
        old = [
            (name, f'{path}: support for parameter "{name}" will be removed; instead, {instead}')
            for path, _, name, instead in found.deprecated
            if path == wanted
        ]
        old += [
            (name, f"{path}: support for parameter {name} has been removed; instead, {instead}")
            for path, _, name, instead in found.removed
            if path == wanted
        ]
        deprecated = deprecated or bool(old)
        _warn([text for _, text in sorted(lines + old)])
    if deprecated:
        _warn(["See https://www.postfix.org/DEPRECATION_README.html for details"])
