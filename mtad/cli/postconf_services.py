"""The parts of ``mtad postconf`` that show master.cf: whole entries (-M), fields (-F), ``-o`` settings (-P).

Each function gives the lines to print and appends to ``warnings`` a line for each request that matched
nothing; :class:`~mtad.cli.postconf_options.UsageError` is a request that means nothing.
Postfix counterpart: ``postconf_master.c``, ``postconf_match.c``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mtad.cli.postconf_options import UsageError
from mtad.config.master_cf import FIELDS, Service
from mtad.config.master_text import Expand, entry_lines, field_line, fold, plain
from mtad.config.parameters import Parameters

_CONTROL = re.compile(r'[\x00-\x1f\x7f"\\]')
_SHORT = {"\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}


@dataclass(frozen=True, slots=True)
class View:
    """How things are shown; ``expand`` None: as written."""

    folding: bool
    names: bool
    values: bool
    json: bool
    expand: Expand | None

    @property
    def show(self) -> tuple[bool, bool]:
        return self.names, self.values


def expander(p: Parameters) -> Expand:
    """What -x does to a value: expand it as the service sees it."""
    return lambda service, text: p.for_service(service).expand(text)


def json_line(name: str, value: str) -> str:
    """One object, as -j prints them."""
    return f'{{"{_quoted(name)}": "{_quoted(value)}"}}'


def _quoted(text: str) -> str:
    """``text`` inside of a JSON string; bytes that are no UTF-8 stay what they are."""
    return _CONTROL.sub(lambda found: _SHORT.get(found[0]) or f"\\u{ord(found[0]):04X}", text)


def setting_line(name: str, value: str, view: View) -> str:
    """``name = value`` as the options ask."""
    if not view.values:
        return fold(name, view.folding)
    if view.json:
        return json_line(name, value)
    return fold(f"{name} = {value}" if view.names else value, view.folding)


def entries(
    services: Sequence[Service], requests: Sequence[str], view: View, warnings: list[str]
) -> Iterator[str]:
    """-M: whole entries."""
    for service, _ in _matching(services, requests, 2, "-M option requires service_name[/type]", warnings):
        if view.json:
            yield json_line(f"{service.name}/{service.type}", plain(service, None, view.expand))
        else:
            yield entry_lines(service, view.folding, view.expand)


def fields(
    services: Sequence[Service], requests: Sequence[str], view: View, warnings: list[str]
) -> Iterator[str]:
    """-F: single fields."""
    usage = "-F option requires service_name[/type[/field]]"
    found = _matching(services, requests, 3, usage, warnings)
    for request in requests:
        parts = request.split("/")
        if len(parts) == 3 and parts[2] not in (*FIELDS, "*"):
            raise UsageError(f'invalid service attribute name: "{parts[2]}"')
    for service, wanted in found:
        for index, name in enumerate(FIELDS):
            if wanted not in ("*", name):
                continue
            if view.json:
                key = f"{service.name}/{service.type}/{name}"
                yield json_line(key, plain(service, index, view.expand))
            else:
                yield field_line(service, index, view.folding, view.show, view.expand)


def settings(
    services: Sequence[Service], requests: Sequence[str], view: View, warnings: list[str]
) -> Iterator[str]:
    """-P: the ``-o`` settings."""
    known = {id(service): service.overrides for service in services}
    yield from _settings(services, requests, view, warnings, known)


def all_settings(
    p: Parameters,
    names: Sequence[str],
    services: Sequence[Service],
    requests: Sequence[str],
    view: View,
    warnings: list[str],
) -> Iterator[str]:
    """-PP: what is in effect for each service, of ``names`` and of its ``-o`` settings."""
    known: dict[int, dict[str, str]] = {}
    for service in services:
        local = p.for_service(service)
        known[id(service)] = {name: local.raw(name) or "" for name in (*names, *service.overrides)}
    yield from _settings(services, requests, view, warnings, known)


def _settings(
    services: Sequence[Service],
    requests: Sequence[str],
    view: View,
    warnings: list[str],
    known: dict[int, dict[str, str]],
) -> Iterator[str]:
    usage = "-P option requires service_name[/type[/parameter]]"
    for service, wanted in _matching(services, requests, 3, usage, warnings, known):
        values = known[id(service)]
        for name in sorted(values):
            if wanted not in ("*", name):
                continue
            value = view.expand(service, values[name]) if view.expand else values[name]
            yield setting_line(f"{service.name}/{service.type}/{name}", value, view)


def _matching(
    services: Sequence[Service],
    requests: Sequence[str],
    parts: int,
    usage: str,
    warnings: list[str],
    known: dict[int, dict[str, str]] | None = None,
) -> Iterator[tuple[Service, str]]:
    """Each service that a request names, with the request's third part; ``known``: names it must have."""
    wanted = [(request, service_pattern(request, 1, parts, usage)) for request in requests]
    matched: set[str] = set()
    for service in services:
        if not requests:
            yield service, "*"
        for request, (name, kind, third) in wanted:
            if name not in ("*", service.name) or kind not in ("*", service.type):
                continue
            if known is not None:
                names = known[id(service)]
                if not (names if third == "*" else third in names):
                    continue
            matched.add(request)
            yield service, third
    warnings.extend(f'unmatched request: "{request}"' for request in requests if request not in matched)


def service_pattern(request: str, least: int, most: int, usage: str) -> tuple[str, str, str]:
    """``name/type/what`` in parts; what is left out is ``*``, which stands alone or not at all."""
    found = [part for part in request.split("/") if part]
    if request.startswith("/") or not least <= len(found) <= most:
        raise UsageError(usage)
    if any("*" in part and part != "*" for part in found):
        raise UsageError(usage)
    name, kind, third = (*found, "*", "*")[:3]
    return name, kind, third
