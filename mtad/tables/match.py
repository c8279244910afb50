"""Match lists: ``mynetworks``, ``mydestination``, ``relay_domains`` and their like.

A list holds patterns apart by commas or white space: literals, ``/file`` with patterns of its own,
``type:table`` (only whether the key exists counts), each with ``!`` before it to exclude.  The first
pattern that matches decides.

* :class:`StringList`: the whole string, case folded.
* :class:`DomainList`: a domain; ``.parent`` matches below ``parent``, and so does ``parent`` itself when
  ``parent_matches`` is set (``parent_domain_matches_subdomains``).
* :class:`AddressList`: a client's name as in DomainList or its address: ``1.2.3.4``, ``1.2.3.0/24``,
  ``[v6]``, ``[v6]/64`` (the brackets may close after the prefix length).

A table that fails, and a network pattern that can't be one, raise :class:`~mtad.errors.TableError` when
the search gets there, not before; ``problems`` lists at once what is known to fail.

Postfix counterpart: ``match_list(3)``, ``match_ops(3)``, ``string_list(3)``, ``domain_list(3)``,
``namadr_list(3)``, ``cidr_match(3)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mtad.config.lines import logical_lines, tokens
from mtad.errors import ConfigError, MtadError, TableError
from mtad.tables.network import Network, parse_address, parse_network
from mtad.tables.registry import DeferredTable, open_or_defer
from mtad.tables.source import read_text, to_bytes
from mtad.tables.table import Options, Table, fold, no_warning

_V4 = frozenset("0123456789.")
_V6 = frozenset("0123456789.abcdefABCDEF:")
_NET = _V6 | frozenset("[]/")
_NESTING_LIMIT = 100


@dataclass(frozen=True, slots=True)
class Pattern:
    """One element: what a match means, and a literal or a table to match by."""

    wanted: bool
    literal: bytes = b""
    table: Table | None = None
    network: Network | None = None
    problem: str = ""  # a network that can't be one
    family: int = 0  # of the problem


class _MatchList:
    """What the three lists share: reading the patterns."""

    def __init__(
        self,
        name: str,
        patterns: str,
        config_directory: str = ".",
        *,
        warn: Callable[[str], None] = no_warning,
    ) -> None:
        self.name = name
        self.problems: list[MtadError] = []
        self._options = Options(directory=config_directory, fold=False, warn=warn)
        self._patterns: list[Pattern] = []
        self._parse(patterns, True, 0)

    def _parse(self, text: str, wanted: bool, depth: int) -> None:
        for element in tokens(text):
            item = element.lstrip("!")
            match = wanted ^ ((len(element) - len(item)) % 2 == 1)
            if item.startswith("#"):
                rest = text[text.index(element) + len(element) + 1 :][:20]
                self._options.warn(
                    f"{self.name}: #comment after other text is not allowed: {element} {rest}..."
                )
                return
            if not item:
                raise ConfigError("no pattern after '!'", parameter=self.name)
            if item.startswith("/"):
                self._parse_file(item, match, depth)
            elif ":" in item and not item.startswith("["):
                table = open_or_defer(item, self._options, self.problems)
                self._patterns.append(Pattern(match, table=table))
            else:
                self._patterns.append(self._literal(match, fold(to_bytes(item))))

    def _parse_file(self, path: str, wanted: bool, depth: int) -> None:
        try:
            if depth >= _NESTING_LIMIT:
                raise TableError(f"open file {path}: files of patterns include each other")
            for _, line in logical_lines(read_text(path), path, None):
                self._parse(line, wanted, depth + 1)
        except TableError as problem:
            error = TableError(str(problem).replace(f"open {path}:", f"open file {path}:"))
            self.problems.append(error)
            self._options.warn(f"{self.name}: {error}")
            missing = DeferredTable(f"non-existent:{path}", self._options, error)
            self._patterns.append(Pattern(wanted, table=missing))

    def _literal(self, wanted: bool, literal: bytes) -> Pattern:
        return Pattern(wanted, literal)

    async def _in_table(self, table: Table, key: bytes) -> bool:
        try:
            return await table.lookup(key) is not None
        except TableError as error:
            raise TableError(f"{self.name}: {table.spec}: table lookup problem: {error}") from error

    def close(self) -> None:
        for pattern in self._patterns:
            if pattern.table is not None:
                pattern.table.close()

    def __bool__(self) -> bool:
        return bool(self._patterns)


class StringList(_MatchList):
    """Whole strings, e.g. ``smtpd_sasl_mechanism_filter``."""

    async def matches(self, text: bytes) -> bool:
        key = fold(text)
        for pattern in self._patterns:
            if pattern.table is not None:
                if await self._in_table(pattern.table, key):
                    return pattern.wanted
            elif pattern.literal == key:
                return pattern.wanted
        return False


class _HostList(_MatchList):
    """Patterns for names of hosts."""

    def __init__(
        self,
        name: str,
        patterns: str,
        config_directory: str = ".",
        *,
        parent_matches: bool = False,
        warn: Callable[[str], None] = no_warning,
    ) -> None:
        self._parent_matches = parent_matches
        super().__init__(name, patterns, config_directory, warn=warn)

    def _name_matches(self, name: bytes, literal: bytes) -> bool:
        if name == literal:
            return True
        if self._parent_matches:
            return name.endswith(literal) and name[: -len(literal)].endswith(b".")
        return literal.startswith(b".") and name.endswith(literal)

    async def _name_in_table(self, table: Table, name: bytes) -> bool:
        entry = name
        while entry:
            if await self._in_table(table, entry):
                return True
            dot = entry.find(b".", 1)
            if dot < 0 or not table.fixed_key:
                return False
            entry = entry[dot + 1 :] if self._parent_matches else entry[dot:]
        return False


class DomainList(_HostList):
    """Domains, e.g. ``mydestination`` and ``relay_domains``."""

    async def matches(self, domain: bytes) -> bool:
        name = fold(domain)
        for pattern in self._patterns:
            if pattern.table is not None:
                if await self._name_in_table(pattern.table, name):
                    return pattern.wanted
            elif self._name_matches(name, pattern.literal):
                return pattern.wanted
        return False


class AddressList(_HostList):
    """Clients by name or address, e.g. ``mynetworks``."""

    def _literal(self, wanted: bool, literal: bytes) -> Pattern:
        text = literal.decode("utf-8", "surrogateescape")
        if not _NET.issuperset(text):
            return Pattern(wanted, literal)
        family = 6 if ":" in text else 4
        if family == 4 and "/" not in text:
            bare = text[1:-1] if text[:1] + text[-1:] == "[]" else text
            number = parse_address(bare)
            if number is None:
                return Pattern(wanted, literal)
            return Pattern(wanted, literal, network=Network(4, number[1], 0xFFFFFFFF))
        try:
            return Pattern(wanted, literal, network=parse_network(text))
        except ConfigError as error:
            self.problems.append(ConfigError(error.reason, parameter=self.name))
            return Pattern(wanted, literal, problem=error.reason, family=family)

    async def matches(self, address: str, name: str = "") -> bool:
        """Whether a client of this address (and name, where the list may hold names) is in the list."""
        number = parse_address(address)
        host = fold(name.encode("utf-8", "surrogateescape")) if name else b""
        if number is None:
            family, value = 0, 0
        else:
            family, value = number
        for pattern in self._patterns:
            network = pattern.network
            if network is not None:
                if network.family == family and value & network.mask == network.value:
                    return pattern.wanted
                if not host:
                    continue
            if pattern.table is not None:
                if await self._client_in_table(pattern.table, host, address, family):
                    return pattern.wanted
                continue
            if host and self._name_matches(host, pattern.literal):
                return pattern.wanted
            if pattern.problem and pattern.family == family:
                raise TableError(f"{self.name}: {pattern.problem}")
        return False

    async def _client_in_table(self, table: Table, host: bytes, address: str, family: int) -> bool:
        if host and await self._name_in_table(table, host):
            return True
        if not family:
            return False
        if address[:7].lower() == "::ffff:" and family == 4:
            address = address[7:]
        return await self._in_table(table, address.lower().encode())
