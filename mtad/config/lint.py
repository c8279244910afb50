"""What is wrong, doubtful or without effect in a configuration: what ``mtad check`` prints.

:func:`lint` looks at main.cf and at the ``-o`` settings of master.cf and never raises on what an operator
wrote.  Findings are errors (mtad must not start), warnings (it starts, but something is not as written) and
notes.  What mtad does not do is data: the status and the note of each row of ``parameters.tsv``, and the
programs below.

Postfix counterpart: the warnings of ``postconf(1)`` and the fatal errors of its daemons.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mtad.config import types
from mtad.config.lines import LIST_SEPARATORS, cut
from mtad.config.master_cf import Service
from mtad.config.names import survey
from mtad.config.parameters import Parameters, Spec, table
from mtad.errors import ConfigError

ERROR, WARNING, NOTE = "error", "warning", "note"

#: Programs of Postfix whose work mtad does itself, without a line of master.cf.
REPLACED = frozenset(
    {
        "anvil", "bounce", "cleanup", "defer", "discard", "error", "flush", "lmtp", "local", "nbdb_reindexd",
        "oqmgr", "pickup", "postlogd", "proxymap", "qmgr", "scache", "showq", "smtp", "smtpd", "tlsmgr",
        "tlsproxy", "trivial-rewrite", "verify", "virtual",
    }
)  # fmt: skip

#: Programs that are ours for services of one type only.
_KINDS = {"smtpd": "inet", "spawn": "unix"}

_WARNING = re.compile(r"(/.*?), line ([0-9]+): (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found; ``str()`` is the line for the operator."""

    severity: str
    path: str
    line: int
    parameter: str
    text: str

    def __str__(self) -> str:
        where = f"{self.path}, line {self.line}: " if self.line else f"{self.path}: " if self.path else ""
        return f"{where}parameter {self.parameter}: {self.text}" if self.parameter else f"{where}{self.text}"


def lint(p: Parameters, services: Sequence[Service], warnings: Iterable[str] = ()) -> list[Finding]:
    """All findings, errors first; ``warnings`` are those of reading master.cf."""
    found = [_from_text(text) for text in (*p.warnings, *warnings)]
    found += _values(p, services)
    found += _services(p, services)
    found += _not_done(p, services)
    found += _names(p, services)
    found += _level(p)
    return ordered(found)


def ordered(found: Iterable[Finding]) -> list[Finding]:
    """Each finding once, errors first; else in the order given."""
    order = (ERROR, WARNING, NOTE)
    return sorted(dict.fromkeys(found), key=lambda finding: order.index(finding.severity))


def _from_text(text: str) -> Finding:
    match = _WARNING.fullmatch(text)
    if match:
        return Finding(WARNING, match.group(1), int(match.group(2)), "", match.group(3))
    return Finding(WARNING, "", 0, "", text)


def _values(p: Parameters, services: Sequence[Service]) -> Iterator[Finding]:
    """Values that are not of their type, in main.cf and behind ``-o``."""
    for error in p.check():
        yield _from_error(error)
    for service in services:
        local = p.for_service(service)
        for name in service.overrides:
            try:
                local.check_one(name)
            except ConfigError as error:
                yield _from_error(error)
    for name in p.explicit_names():
        if p.type(name).kind in (*types.LISTS, "set") and any(
            word.startswith("#") for word in cut(p.raw(name) or "", LIST_SEPARATORS)
        ):
            yield _finding(p, WARNING, name, "# does not begin a comment here, it is part of the value")


def _from_error(error: ConfigError) -> Finding:
    text = f"{error.reason} ({error.remedy})" if error.remedy else error.reason
    return Finding(ERROR, error.path, error.line, error.parameter, text)


def _finding(p: Parameters, severity: str, name: str, text: str) -> Finding:
    path, line = p.where(name)
    return Finding(severity, path, line, name, text)


def _services(p: Parameters, services: Sequence[Service]) -> Iterator[Finding]:
    """Services that mtad does not run, in one line; none that it runs is an error."""
    path = f"{p.directory}/master.cf"
    if not any(service.type == "inet" and _program(service) == "smtpd" for service in services):
        yield Finding(
            ERROR, path, 0, "", "no inet service runs smtpd, so there is nothing to listen on "
            "(take the # from the lines of submission or submissions)",
        )  # fmt: skip
    ignored: dict[str, list[str]] = {}
    for service in services:
        if not _served(service):
            ignored.setdefault(_program(service), []).append(f"{service.name}/{service.type}")
    if ignored:
        parts = (f"{program} ({', '.join(names)})" for program, names in sorted(ignored.items()))
        yield Finding(NOTE, path, 0, "", f"services that mtad does not run: {', '.join(parts)}")


def _served(service: Service) -> bool:
    program = _program(service)
    if program in _KINDS:
        return service.type == _KINDS[program]
    return program in REPLACED


def _program(service: Service) -> str:
    return os.path.basename(service.command)


def _names(p: Parameters, services: Sequence[Service]) -> Iterator[Finding]:
    """Names that mean nothing, names that nothing defines, and names that are on their way out."""
    try:
        p.words("smtpd_restriction_classes")
        found = survey(p, list(services))
    except ConfigError:  # a value that cannot be read, which is among the errors already
        return
    known = [name for name, row in table().items() if row.status != "ignored"]
    for path, line, name, _ in found.unused:
        guess = types.nearest(name, known)
        text = "unused parameter: nothing reads it" + (f" ({guess})" if guess else "")
        yield Finding(WARNING, path, line, name, text)
    for path, line, name in found.undefined:
        guess = types.nearest(name, [*known, *p.explicit_names()])
        text = f"${name} is not defined, and stands for nothing" + (f" ({guess})" if guess else "")
        yield Finding(WARNING, path, line, "", text)
    for path, line, name, instead in found.deprecated:
        yield Finding(WARNING, path, line, name, f"it is deprecated; instead, {instead}")
    for path, line, name, instead in found.removed:
        yield Finding(WARNING, path, line, name, f"it has been removed; instead, {instead}")
    for text in (*found.odd, *found.client_unused):
        if "#comment after" not in text:  # of which the line is known: see _values
            yield Finding(WARNING, "", 0, "", text)
    for path, line, name, _ in found.read_only:
        yield Finding(WARNING, path, line, name, "it cannot be set")


def _not_done(p: Parameters, services: Sequence[Service]) -> Iterator[Finding]:
    """Settings of what mtad does not do, unless they say what is the default anyway."""
    scopes = [(p, p.explicit_names())]
    scopes += [
        (p.for_service(service), tuple(service.overrides)) for service in services if _listens(service)
    ]
    for scope, names in scopes:
        for name in names:
            row = scope.spec(name)
            if row is None or row.status != "unimplemented" or _is_default(scope, name, row):
                continue
            what = f": {row.note}" if row.note else ""
            yield _finding(scope, WARNING, name, f"mtad does not implement it{what}")


def _listens(service: Service) -> bool:
    return service.type == "inet" and _program(service) == "smtpd"


def _is_default(p: Parameters, name: str, row: Spec) -> bool:
    try:
        return cut(p[name], LIST_SEPARATORS) == cut(p.expand(p.default(name) or ""), LIST_SEPARATORS)
    except ConfigError:  # which is an error already
        return True


def _level(p: Parameters) -> Iterator[Finding]:
    if not p.explicit("compatibility_level"):
        yield Finding(
            WARNING, f"{p.directory}/main.cf", 0, "compatibility_level",
            "not set, so backwards-compatible defaults of old releases are used: append_dot_mydomain=yes, "
            "no smtpd_relay_restrictions, mynetworks_style=subnet, smtputf8_enable=no "
            "(set compatibility_level = 3.6, or 3.11 for the newest)",
        )  # fmt: skip
