"""``cidr:``: results by IP address; the first network that has the address decides.

Lines are ``network/bits result``; see :mod:`mtad.tables.rules`.  A key that is no address is in no network.
Rules in a row that are neither negated nor an ``if`` are found by one look for each of their prefix lengths,
however many they are.

Postfix counterpart: ``dict_cidr(3)``, ``cidr_table(5)``.
"""

from __future__ import annotations

from dataclasses import dataclass

from mtad.errors import ConfigError
from mtad.tables.network import Network, parse_network, parse_unmapped
from mtad.tables.rules import BadRule, Matcher, Rule, RuleTable, negation


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
    _plan: tuple[_Run | _Choice, ...] = ()

    def rule(self, number: int, line: bytes) -> Rule:
        wanted, text = negation(line)
        pattern, *rest = text.split(None, 1)[:2] or [b""]
        applies = self._pattern(pattern, wanted)
        result = b"".join(rest)
        if not result:
            raise BadRule("no lookup result: skipping this rule")
        return Rule(number, applies, [self.result(result)])

    def guard(self, number: int, text: bytes) -> Matcher:
        wanted, pattern = negation(text)
        return self._pattern(pattern, wanted)

    def end_if(self, number: int, rest: bytes, inside: bool) -> None:
        if rest:
            raise BadRule("garbage after ENDIF: skipping this rule")
        if not inside:
            raise BadRule("ENDIF without IF: skipping this rule")

    @staticmethod
    def _pattern(text: bytes, wanted: bool) -> _Pattern:
        if not text:
            raise BadRule("no address pattern: skipping this rule")
        try:
            return _Pattern(parse_network(text.decode("utf-8", "surrogateescape")), wanted)
        except ConfigError as error:
            raise BadRule(f"{error.reason}: skipping this rule") from error

    def _parse(self, text: str) -> list[Rule]:
        rules = super()._parse(text)
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
