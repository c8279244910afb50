"""``cidr:``: results by IP address; the first network that has the address decides.

Lines are ``network/bits result``; see :mod:`mtad.tables.rules`.  A key that is no address is in no network.
Rules in a row that are neither negated nor an ``if`` are found by one look for each of their prefix lengths,
however many they are.

Postfix counterpart: ``dict_cidr(3)``, ``cidr_table(5)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mtad.errors import ConfigError
from mtad.tables.network import Network, parse_network, parse_unmapped
from mtad.tables.rules import BadRule, Matcher, Rule, RuleTable


@dataclass(frozen=True, slots=True)
class _Pattern:
    """A matcher that can be looked into."""

    network: Network
    wanted: bool

    def __call__(self, key: bytes) -> tuple[bytes | None, ...] | None:
        address = parse_unmapped(key.decode("ascii", "replace"))
        return () if address is not None and self.applies(*address) else None

    def applies(self, family: int, number: int) -> bool:
        return family == self.network.family and self.network.contains(family, number) is self.wanted


class _Run:
    """Plain rules in a row: for each family and mask, network to (place of the rule, result)."""

    def __init__(self) -> None:
        self._networks: dict[int, dict[int, dict[int, tuple[int, bytes]]]] = {4: {}, 6: {}}
        self._count = 0

    def add(self, network: Network, result: bytes) -> None:
        by_value = self._networks[network.family].setdefault(network.mask, {})
        by_value.setdefault(network.value, (self._count, result))
        self._count += 1

    def find(self, family: int, number: int) -> bytes | None:
        best: tuple[int, bytes] | None = None
        for mask, by_value in self._networks[family].items():
            found = by_value.get(number & mask)
            if found is not None and (best is None or found[0] < best[0]):
                best = found
        return None if best is None else best[1]


@dataclass(frozen=True, slots=True)
class _Choice:
    """A rule that is not plain: a result, or a plan of its own."""

    pattern: _Pattern
    result: bytes
    block: tuple[_Run | _Choice, ...] | None


class CidrTable(RuleTable):
    """Rules whose patterns are networks."""

    kind = "cidr"
    no_pattern = "no address pattern"
    empty_result = False
    _plan: tuple[_Run | _Choice, ...] = ()

    def end_if(self, inside: bool, rest: str) -> tuple[str, ...]:
        if rest:
            raise BadRule("garbage after ENDIF: skipping this rule")
        if not inside:
            raise BadRule("ENDIF without IF: skipping this rule")
        return ()

    def compile(self, text: str, wanted: bool) -> tuple[Matcher, int, str]:
        pattern, _, result = text.replace("\t", " ").partition(" ")
        try:
            network = parse_network(pattern)
        except ConfigError as error:
            raise BadRule(f"{error.reason}: skipping this rule") from error
        return _Pattern(network, wanted), 0, result.strip()

    def _parse(self, lines: Iterator[tuple[int, str]]) -> list[Rule]:
        rules = super()._parse(lines)
        self._plan = _plan(rules)
        return rules

    def get(self, key: bytes) -> bytes | None:
        if self._watch is not None:
            self._watch.refresh()
        address = parse_unmapped(key.decode("ascii", "replace"))
        return None if address is None else _find(self._plan, *address)


def _plan(rules: list[Rule]) -> tuple[_Run | _Choice, ...]:
    plan: list[_Run | _Choice] = []
    for rule in rules:
        pattern = rule.applies
        if not isinstance(pattern, _Pattern):
            continue
        if rule.template is None:
            plan.append(_Choice(pattern, b"", _plan(rule.block)))
            continue
        result = b"".join(part for part in rule.template if isinstance(part, bytes))
        if not pattern.wanted:
            plan.append(_Choice(pattern, result, None))
            continue
        last = plan[-1] if plan else None
        if not isinstance(last, _Run):
            last = _Run()
            plan.append(last)
        last.add(pattern.network, result)
    return tuple(plan)


def _find(plan: tuple[_Run | _Choice, ...], family: int, number: int) -> bytes | None:
    for step in plan:
        if isinstance(step, _Run):
            found = step.find(family, number)
        elif not step.pattern.applies(family, number):
            continue
        else:
            found = step.result if step.block is None else _find(step.block, family, number)
        if found is not None:
            return found
    return None
