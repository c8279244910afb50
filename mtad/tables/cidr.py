"""``cidr:``: results by IP address; the first network that has the address decides.

Lines are ``network/bits result``; see :mod:`mtad.tables.rules`.  A key that is no address is in no network.

Postfix counterpart: ``dict_cidr(3)``, ``cidr_table(5)``.
"""

from __future__ import annotations

from mtad.errors import ConfigError
from mtad.tables.network import parse_address, parse_network
from mtad.tables.rules import BadRule, Matcher, RuleTable


class CidrTable(RuleTable):
    """Rules whose patterns are networks."""

    kind = "cidr"
    no_pattern = "no address pattern"
    empty_result = False

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

        def applies(key: bytes) -> tuple[bytes | None, ...] | None:
            address = parse_address(key.decode("ascii", "replace"))
            if address is None or address[0] != network.family:
                return None
            return () if network.contains(*address) is wanted else None

        return applies, 0, result.strip()
