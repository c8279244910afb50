"""Which milters there are, as main.cf says: ``smtpd_milters`` and all ``milter_*``.

:func:`read_filters` reads what is the same for all sessions (:class:`Filters`); :meth:`Filters.parse` takes a
list of filters apart, where main.cf names it or where ``smtpd_milter_maps`` does.  A filter is
``inet:host:port`` or ``unix:/path``, or ``{ inet:host:port, default_action=accept, ... }``.

Raises ConfigError for a list that is wrong.  Postfix counterpart: ``milter_new()``, ``milter8_connect()``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mtad.config import types
from mtad.config.endpoint import Endpoint
from mtad.config.lines import tokens, unbraced
from mtad.config.parameters import Parameters
from mtad.errors import ConfigError
from mtad.net.connect import port_number
from mtad.smtpd.milter.wire import UNANSWERED_HEADER, VERSIONS

DEFAULT_ACTIONS = ("accept", "quarantine", "reject", "shutdown", "tempfail")

#: What a filter's own ``{ ... }`` may set, without ``milter_``.
_TIMES = {
    "connect_timeout": "milter_connect_timeout",
    "command_timeout": "milter_command_timeout",
    "content_timeout": "milter_content_timeout",
}

#: The stages that macros belong to.
STAGES = ("connect", "helo", "mail", "rcpt", "data", "end_of_header", "end_of_data", "unknown_command")

_ASSIGNMENT = re.compile(r"\s*([A-Za-z_]+)\s*=\s*(.*?)\s*\Z", re.DOTALL)

DISABLE = "DISABLE"


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter.  Times in seconds; ``events`` are the protocol's bits for what we know."""

    name: str  # as main.cf has it
    endpoint: Endpoint
    connect_timeout: int
    command_timeout: int
    content_timeout: int
    version: int
    events: int
    default_action: str


@dataclass(frozen=True, slots=True)
class Filters:
    """The configuration of all milters."""

    defaults: Filter  # what a filter has that sets nothing of its own
    macros: Mapping[str, tuple[str, ...]]  # names by stage
    macro_defaults: Mapping[str, bytes]  # by ``{name}``
    daemon_name: bytes
    version_text: bytes
    queue_directory: str
    parameter: str
    configured: tuple[Filter, ...]  # what ``parameter`` names

    def parse(self, text: str) -> tuple[Filter, ...]:
        """The filters of a list.  Raises ConfigError."""
        found = []
        for word in tokens(text):
            name, settings = word, []
            if word.startswith("{"):
                try:
                    name, *settings = [word.strip() for word in tokens(unbraced(word))] or [""]
                except ValueError as problem:
                    raise self._error(f"milter service syntax error: {problem}") from problem
            found.append(self._filter(name, settings))
        return tuple(found)

    def unusable(self, text: str) -> Filter:
        """What stands for a list that is wrong: a filter that can't be reached."""
        return replace(self.defaults, name=text[:100], endpoint=Endpoint(""))

    def _filter(self, name: str, settings: Sequence[str]) -> Filter:
        if not name:
            raise self._error("empty milter definition", "inet:host:port or unix:/path")
        one = replace(self.defaults, name=name, endpoint=self._endpoint(name))
        for setting in settings:
            matched = _ASSIGNMENT.match(setting.strip("{}"))
            if not matched:
                raise self._error(f'"{setting}": expected attribute=value', "write it as: name=value")
            attribute, value = matched.groups()
            if attribute in _TIMES:
                try:
                    seconds = types.seconds(attribute, value, types.parse_type("time s 1.."))
                except ValueError as problem:
                    raise self._error(f"{attribute}: {problem}") from problem
                changed: dict[str, Any] = {attribute: seconds}
                one = replace(one, **changed)
            elif attribute == "protocol":
                version, events = self.protocol(value)
                one = replace(one, version=version, events=events)
            elif attribute == "default_action":
                if value.lower() not in DEFAULT_ACTIONS:
                    raise self._error(
                        f"unrecognized default action: {value}", f"one of {', '.join(DEFAULT_ACTIONS)}"
                    )
                one = replace(one, default_action=value.lower())
            else:
                allowed = ", ".join((*_TIMES, "default_action", "protocol"))
                raise self._error(f"unknown attribute: {attribute}", f"one of {allowed}")
        return one

    def _endpoint(self, name: str) -> Endpoint:
        kind, colon, place = name.partition(":")
        if not colon or not place or not kind:
            raise self._error(
                f'Milter service needs transport:endpoint instead of "{name}"', "inet:host:port or unix:/path"
            )
        if kind in ("unix", "local"):
            return Endpoint(place if place.startswith("/") else f"{self.queue_directory}/{place}")
        if kind != "inet":
            raise self._error(f"invalid transport name: {kind} in Milter service: {name}", "inet or unix")
        endpoint = Endpoint.parse_inet(place)
        try:
            port_number(endpoint.port or "")
        except OSError:
            raise self._error(f"bad port in Milter service: {name}", "write it as: inet:host:port") from None
        return endpoint

    def protocol(self, text: str) -> tuple[int, int]:
        """``milter_protocol``: the version, and the events that go with it."""
        version = events = 0
        for word in text.replace(",", " ").split():
            if word == "no_header_reply":
                events |= UNANSWERED_HEADER
            elif word.isdigit() and int(word) in VERSIONS and not version:
                version = int(word)
                events |= VERSIONS[version]
            else:
                raise self._error(f"bad protocol information: {word}", "one of 2, 3, 4, 6")
        if not version:
            raise self._error("no protocol version information", "one of 2, 3, 4, 6")
        return version, events

    def _error(self, reason: str, remedy: str = "") -> ConfigError:
        return ConfigError(reason, parameter=self.parameter, remedy=remedy)


def read_filters(p: Parameters, parameter: str) -> Filters | None:
    """What ``parameter`` (``smtpd_milters``, ``non_smtpd_milters``) names, or None where it is empty and no
    ``smtpd_milter_maps`` may name others.  Raises ConfigError."""
    text = p[parameter]
    if not text.strip() and not (parameter == "smtpd_milters" and p["smtpd_milter_maps"].strip()):
        return None
    blank = Filter("", Endpoint(""), 1, 1, 1, 6, 0, "")
    filters = Filters(
        defaults=blank,
        macros={stage: tuple(p[f"milter_{stage}_macros"].replace(",", " ").split()) for stage in STAGES},
        macro_defaults=_macro_defaults(p),
        daemon_name=p["milter_macro_daemon_name"].encode(),
        version_text=p["milter_macro_v"].encode(),
        queue_directory=p["queue_directory"],
        parameter=parameter,
        configured=(),
    )
    try:
        version, events = filters.protocol(p["milter_protocol"])
    except ConfigError as problem:
        raise p.error("milter_protocol", problem.reason, problem.remedy) from problem
    defaults = Filter(
        "", Endpoint(""), p.seconds("milter_connect_timeout"), p.seconds("milter_command_timeout"),
        p.seconds("milter_content_timeout"), version, events, p["milter_default_action"].lower(),
    )  # fmt: skip
    filters = replace(filters, defaults=defaults)
    try:
        return replace(filters, configured=() if text.strip().upper() == DISABLE else filters.parse(text))
    except ConfigError as problem:
        raise p.error(parameter, problem.reason, problem.remedy) from problem


def _macro_defaults(p: Parameters) -> dict[str, bytes]:
    """``milter_macro_defaults``: values for macros that are not known otherwise."""
    found: dict[str, bytes] = {}
    for word in tokens(p["milter_macro_defaults"]):
        whole = word.startswith("{") and "}=" not in word.replace(" ", "")[: word.find("=") + 1]
        name, sign, value = (unbraced(word) if whole else word).partition("=")
        name = name.strip()
        if not sign or not name:
            raise p.error(
                "milter_macro_defaults", f'"{word}": expected name=value', "write it as: {name}=value"
            )
        found[name if name.startswith("{") else f"{{{name}}}"] = value.strip().encode()
    return found
