"""What a search of an LDAP directory finds, by the attributes that a table wants of it.

An entry may refer to others by a DN or an LDAP URL (RFC 4516) in a *special* attribute: they are
searched, too. *Terminal* attributes, where an entry has one, are all that it gives; *leaf* attributes
count only in entries that refer to no others.

Postfix counterpart: ``dict_ldap_get_values()``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mtad.errors import TableError
from mtad.tables.settings import Settings
from mtad.tables.template import Results

#: A DN and its attributes, in the order in which the server gives them.
Entry = tuple[str, dict[str, list[bytes]]]

#: Search (base, scope, filter, attributes); None when there is no such base.
Search = Callable[[str, int, str, Sequence[str]], "list[Entry] | None"]

BASE, ONE, SUBTREE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Attributes:
    """The attributes that a table wants."""

    terminal: tuple[str, ...]
    leaf: tuple[str, ...]
    plain: tuple[str, ...]
    special: tuple[str, ...]

    @classmethod
    def read(cls, settings: Settings) -> Attributes:
        return cls(
            settings.words("terminal_result_attribute"),
            settings.words("leaf_result_attribute"),
            settings.words("result_attribute", "maildrop"),
            settings.words("special_result_attribute"),
        )

    @property
    def all(self) -> tuple[str, ...]:
        return self.terminal + self.leaf + self.plain + self.special


@dataclass(frozen=True, slots=True)
class Expansion:
    """How entries become results.

    ``parse_url`` gives the search that a value stands for, or None for a value that is no LDAP URL; it raises
    ValueError for a malformed one.
    """

    name: str
    attributes: Attributes
    size_limit: int
    recursion_limit: int
    parse_url: Callable[[str], tuple[str, int, str, list[str]] | None]
    warn: Callable[[str], None]

    def collect(self, entries: Sequence[Entry], results: Results, search: Search, depth: int = 1) -> None:
        """Add to ``results`` what ``entries`` give; :class:`TableError` when a limit is exceeded."""
        if 0 < self.size_limit < len(entries):
            raise TableError(f"{self.name}: Query size limit ({self.size_limit}) exceeded")
        wanted = self.attributes
        for _, found in entries:
            terminal = _has(found, wanted.terminal)
            leaf = terminal or not _has(found, wanted.special)
            for name, values in found.items():
                kind = self._kind(name)
                if not values or kind is None:
                    continue
                if terminal or kind != "special":
                    if kind == "terminal" if terminal else leaf or kind == "plain":
                        for value in values:
                            results.add(value)
                elif depth >= self.recursion_limit:
                    raise TableError(f"{self.name}: Recursion limit exceeded for special attribute {name}")
                else:
                    for value in values:
                        self._follow(value.decode("utf-8", "replace"), results, search, depth)

    def _kind(self, name: str) -> str | None:
        """Which kind of attribute this is, options (``;lang-en``) aside."""
        wanted = self.attributes
        for kind in ("terminal", "leaf", "plain", "special"):
            if any(_subtype(attribute, name) for attribute in getattr(wanted, kind)):
                return kind
        return None

    def _follow(self, reference: str, results: Results, search: Search, depth: int) -> None:
        """Search for the entries that a value refers to."""
        try:
            url = self.parse_url(reference)
        except ValueError as error:
            raise TableError(f"{self.name}: malformed URL {reference}") from error
        if url is None:
            entries = search(reference, BASE, "(objectclass=*)", self.attributes.all)
        else:
            base, scope, condition, attributes = url
            pertinent = self._pertinent(attributes)
            if not pertinent:
                return
            entries = search(base, scope, condition, pertinent)
        if entries is None:
            self.warn(f"{self.name}: DN {reference} not found, skipping")
        else:
            self.collect(entries, results, search, depth + 1)

    def _pertinent(self, attributes: Sequence[str]) -> Sequence[str]:
        """Those of a URL's attributes that the table wants; of two, the one with more options."""
        if not attributes:
            return self.attributes.all
        pertinent = []
        for theirs in attributes:
            for ours in self.attributes.all:
                if _subtype(theirs, ours):
                    pertinent.append(ours)
                elif _subtype(ours, theirs):
                    pertinent.append(theirs)
        return pertinent


def _has(found: dict[str, list[bytes]], names: Sequence[str]) -> bool:
    lowered = {name.lower() for name in names}
    return any(values and name.lower() in lowered for name, values in found.items())


def _subtype(general: str, special: str) -> bool:
    """Whether the second attribute is the first one, or the first one with options (RFC 4512 section 2.5)."""
    general, special = general.lower(), special.lower()
    return special == general or special.startswith(general + ";")
