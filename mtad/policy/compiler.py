"""From the text of a restriction list to rules that run.

:class:`Compiler` reads each list once, opens its tables, and knows Postfix's names: those that mtad has
(:mod:`mtad.policy.registry`), those it has not yet (an error that names the parameter), those Postfix
has dropped, and unknown ones: both of these answer ``451 4.3.5 Server configuration error`` when they are
reached, as in Postfix, and are among the warnings before.

Postfix counterpart: ``smtpd_check_parse()``, ``has_required()``, the dispatch in ``generic_checks()``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mtad.config.lines import LIST_SEPARATORS, cut, tokens, unbraced
from mtad.errors import ConfigError
from mtad.policy import registry
from mtad.policy.access import AccessTable
from mtad.policy.access_restrictions import CERTIFICATE_KEYS
from mtad.policy.check import Check, Rule, Run, Scope
from mtad.policy.policy_service import parse_service

if TYPE_CHECKING:
    from mtad.policy.setup import Setup

#: What compatibility level 1 would have for ``smtpd_relay_restrictions``, asked only to tell the difference.
FAKE_RELAY = "permit_mynetworks, permit_sasl_authenticated, permit_auth_destination"

#: One of these must be where it can refuse to relay.
REQUIRED = (
    "reject_unauth_destination",
    "defer_unauth_destination",
    "reject",
    "defer",
    "defer_if_permit",
    "check_relay_domains",
)

_RESULTS_KEPT = 256
#: What may have a colon in its argument.
_WITH_COLON = frozenset((*registry.TABLES, "check_policy_service"))
_WARN = "warn_if_reject"


class Compiler:
    """The compiler of one service's lists, and its restriction classes."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._results: dict[str, tuple[Rule, ...]] = {}
        self._tables: dict[str, AccessTable] = {}
        self._classes: dict[str, str] = {"reject_sender_login_mismatch": registry.LOGIN_MISMATCH}
        self._compiled: dict[str, tuple[Rule, ...]] = {}
        self._read_classes()

    def _read_classes(self) -> None:
        p = self._setup.p
        for name in p.words("smtpd_restriction_classes"):
            if name not in p or not p[name]:
                error = p.error(
                    "smtpd_restriction_classes",
                    f"restriction class `{name}' needs a definition",
                    f"add a line: {name} = ...",
                )
                self._setup.errors.append(error)
            else:
                self._classes[name] = p[name]
        for name, text in self._classes.items():
            self._compiled[name] = self.compile(text, name)

    def parameter(self, name: str, bare_tables: bool = True) -> tuple[Rule, ...]:
        """The rules of a list of main.cf."""
        words = tokens(self._setup.p[name])
        if not bare_tables:
            for word, before in zip(words, ["", *words], strict=False):
                if ":" in word and before.lower() not in _WITH_COLON:
                    self._warn(name, f'no table can stand alone here: "{word}"')
        return self.compile(self._setup.p[name], name)

    def compile(self, text: str, parameter: str) -> tuple[Rule, ...]:
        """The rules of ``text``, which is the value of ``parameter`` or of a class of that name."""
        words = tokens(text)
        rules: list[Rule] = []
        at = 0
        while at < len(words):
            rule, end = self._rule(words, at, parameter)
            rules.append(replace(rule, words=tuple(words[at:end]), place=parameter))
            at = end
        return tuple(rules)

    def result(self, value: str) -> tuple[Rule, ...]:
        """The rules of an access(5) result that is itself a list."""
        rules = self._results.get(value)
        if rules is None:
            if len(self._results) >= _RESULTS_KEPT:
                self._results.clear()
            rules = self._results[value] = self.compile(value, "")
        return rules

    def require_rejection(self) -> None:
        """Note an error unless relaying is refused somewhere."""
        p = self._setup.p
        for name in ("smtpd_recipient_restrictions", "smtpd_relay_restrictions"):
            if self._has_required(tokens(p[name]), frozenset(), name):
                return
        names = ", ".join(REQUIRED[:-1]) + " or " + REQUIRED[-1]
        reason = (
            "in parameter smtpd_relay_restrictions or smtpd_recipient_restrictions, "
            f"specify at least one working instance of: {names}"
        )
        path, line = p.where("smtpd_relay_restrictions")
        self._setup.errors.append(ConfigError(reason, path=path, line=line))

    def _has_required(self, words: Sequence[str], inside: frozenset[str], parameter: str) -> bool:
        skip = False
        for at, word in enumerate(words):
            if skip:
                skip = False
                continue
            name = word.lower()
            if name == _WARN and at + 1 < len(words):
                skip = True
            elif name == "permit":
                if at + 1 < len(words):
                    self._warn(parameter, f"restriction `{words[at + 1]}' after `{word}' is ignored")
                return False
            elif name in REQUIRED or (
                word in self._classes
                and word not in inside
                and self._has_required(tokens(self._classes[word]), inside | {word}, word)
            ):
                return True
        return False

    # -- one restriction

    def _rule(self, words: list[str], at: int, parameter: str) -> tuple[Rule, int]:
        """The rule at ``words[at]``, and where the next one is."""
        word = words[at]
        name = word.lower()
        after = words[at + 1] if at + 1 < len(words) else ""
        if name == _WARN:
            return Rule(name, None), at + 1
        if ":" in word:
            return Rule(word, self._bare_table(word, parameter)), at + 1
        if name in registry.PLAIN:
            last = name in ("permit", "reject", "defer")
            return Rule(name, registry.PLAIN[name], after if last else ""), at + 1
        if name in registry.TABLES:
            if ":" not in after:
                text = f'restriction {name}: bad argument "{after}": need maptype:mapname'
                return Rule(name, self._wrong(parameter, text)), at + 2
            try:
                ask = registry.TABLES[name](self._table(after, parameter))
            except ValueError as problem:
                ask = self._wrong(parameter, f"restriction {name}: {problem}")
            return Rule(name, ask), at + 2
        if name in registry.DNS_LISTS:
            return Rule(name, self._dns_list(word, after, parameter)), at + 2
        if name == "check_policy_service":
            return Rule(name, self._policy_service(after, parameter)), at + 2
        if name == "sleep":
            return Rule(name, self._sleep(after, parameter)), at + 2
        return self._without(word, after, at, parameter)

    def _without(self, word: str, after: str, at: int, parameter: str) -> tuple[Rule, int]:
        """A class, or a name that stands for nothing that can be done."""
        name = word.lower()
        if name in registry.REMOVED:
            text = f'support for restriction "{name}" has been removed in Postfix 3.9; instead, specify '
            return Rule(name, self._wrong(parameter, text + registry.REMOVED[name])), at + 1
        if word in self._classes:
            return Rule(word, self._class(word)), at + 1
        return Rule(word, self._wrong(parameter, f'unknown smtpd restriction: "{word}"')), at + 1

    def _class(self, name: str) -> Run:
        async def run(check: Check, scope: Scope) -> int:
            return await check.run(self._compiled[name], scope)

        return run

    def _bare_table(self, word: str, parameter: str) -> Run:
        try:
            table = self._table(word, parameter)
        except ValueError as problem:
            return self._wrong(parameter, str(problem))
        asks = {name: registry.TABLES[name](table) for name in registry.BARE_TABLES}

        async def run(check: Check, scope: Scope) -> int:
            if not scope.table:
                names = ", ".join(registry.BARE_TABLES)
                check.misconfigured(f'specify one of ({names}) before {scope.kind} restriction "{word}"')
            return await asks[scope.table](check, scope)

        return run

    def _sleep(self, argument: str, parameter: str) -> Run:
        if not (argument.isascii() and argument.isdigit()):
            return self._wrong(parameter, "restriction sleep must be followed by number")
        sleep = self._setup.sleep
        if sleep is None:
            text = 'restriction "sleep" is not supported here'
            return _wrong(str(self._error(parameter, text, "remove it from the list")))
        seconds = int(argument)

        async def run(check: Check, scope: Scope) -> int:
            await sleep(seconds)
            return 0

        return run

    def _dns_list(self, word: str, zone: str, parameter: str) -> Run:
        if not zone:
            return self._without_zone(f"restriction {word} requires domain name argument", parameter)
        try:
            return registry.DNS_LISTS[word.lower()](zone)
        except ValueError as problem:
            return self._wrong(parameter, f"restriction {word} {zone}: RBL reply error: {problem}")

    def _without_zone(self, text: str, parameter: str) -> Run:
        self._warn(parameter, text)

        async def run(check: Check, scope: Scope) -> int:
            check.setup.log.warning(text)
            return 0

        return run

    def _policy_service(self, argument: str, parameter: str) -> Run:
        if ":" not in argument:
            text = "restriction check_policy_service must be followed by transport:server"
            return self._wrong(parameter, text)
        try:
            options = parse_service(argument, self._setup.p)
        except ValueError as problem:
            return _wrong(str(self._error(parameter, f"check_policy_service {argument}: {problem}")))
        return self._setup.policy.restriction(options, self._setup.sleep)

    def _table(self, word: str, parameter: str) -> AccessTable:
        """The table of ``type:name`` or ``{type:name, {search_order = ...}}``, opened once; ValueError."""
        table = self._tables.get(word)
        if table is None:
            spec, order = _braced(word) if word.startswith("{") else (word, None)
            table = AccessTable(spec, self._setup.open(spec, parameter), order)
            self._tables[word] = table
        return table

    # -- findings

    def _wrong(self, parameter: str, text: str) -> Run:
        self._warn(parameter, f"{text}: clients will get 451 4.3.5 Server configuration error")
        return _wrong(text)

    def _warn(self, parameter: str, text: str) -> None:
        if parameter:
            self._setup.warn(parameter, text)

    def _error(self, parameter: str, reason: str, remedy: str = "") -> ConfigError:
        if not parameter:
            return ConfigError(reason)
        error = self._setup.p.error(parameter, reason, remedy)
        self._setup.errors.append(error)
        return error


def _wrong(text: str) -> Run:
    async def run(check: Check, scope: Scope) -> int:
        check.misconfigured(text)

    return run


def _braced(word: str) -> tuple[str, tuple[str, ...] | None]:
    """The table and the search order of ``{type:name, {search_order = ...}}``; raises ValueError."""
    spec, *attributes = tokens(unbraced(word)) or [""]
    if ":" not in spec:
        raise ValueError(f'malformed map specification: "{word}": need maptype:mapname')
    order = None
    for attribute in attributes:
        name, equals, value = (unbraced(attribute) if attribute.startswith("{") else attribute).partition("=")
        if not equals or name.strip().lower() != "search_order":
            raise ValueError(f'unknown map attribute in "{word}": "{name.strip()}"')
        order = tuple(key.lower() for key in cut(value, LIST_SEPARATORS))
        if unknown := [key for key in order if key not in CERTIFICATE_KEYS]:
            raise ValueError(f'unknown search type "{unknown[0]}" in "{word}"')
    return spec, order
