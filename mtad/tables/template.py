"""Queries and results made from a key: ``%s %u %d %1 ... %9 %S %U %D %%``.

:class:`Templates` holds what the templates of one table demand together of a key: one that lacks a part that
any of them needs is in the table for none.  A malformed template raises :class:`~mtad.errors.ConfigError`.

Postfix counterpart: ``db_common(3)``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from mtad.errors import ConfigError, TableError

Quote = Callable[[str], str]

_CODE = re.compile(r"%(.?)", re.DOTALL)
_KNOWN = frozenset("sudSUD123456789%")


@dataclass(frozen=True, slots=True)
class Template:
    """Literal texts and, between them, what is to be filled in."""

    texts: tuple[str, ...]
    codes: tuple[str, ...]

    @property
    def dynamic(self) -> bool:
        """Whether it depends on the key at all."""
        return any(code != "%" for code in self.codes)

    def fill(self, values: dict[str, str], quote: Quote | None) -> str:
        """The text with each ``%`` code replaced by its value, through ``quote``."""
        parts = [self.texts[0]]
        for code, text in zip(self.codes, self.texts[1:], strict=True):
            if code == "%":
                parts.append("%")
            else:
                parts.append(values[code] if quote is None else quote(values[code]))
            parts.append(text)
        return "".join(parts)


class Templates:
    """The templates of one table."""

    def __init__(self, spec: str, name: str, warn: Callable[[str], None]) -> None:
        self._spec = spec
        self._name = name
        self._warn = warn
        self._labels = 0
        self._key_user = self._key_domain = self._value_user = self._value_domain = False

    def query(self, text: str) -> Template:
        """A template for queries, where ``%s`` and ``%S`` are the key."""
        return self._parse(text, True)

    def result(self, text: str) -> Template:
        """A template for results, where ``%s`` is the value found and ``%S`` the key."""
        return self._parse(text, False)

    def _parse(self, text: str, query: bool) -> Template:
        parts = _CODE.split(text)
        codes = parts[1::2]
        for code in codes:
            if code not in _KNOWN or not code:
                kind = "query" if query else "result"
                raise ConfigError(f"{self._name}: Invalid {kind} template: {text}")
            if code == "u" and not query:
                self._value_user = True
            elif code == "d" and not query:
                self._value_domain = True
            elif code in "uU":
                self._key_user = True
            elif code in "dD":
                self._key_domain = True
            elif code.isdigit():
                self._key_domain = True
                self._labels = max(self._labels, int(code))
        return Template(tuple(parts[::2]), tuple(codes))

    def key_values(self, key: str) -> dict[str, str] | None:
        """What query templates are filled with, or None for a key that can't be in the table."""
        user, domain = _split(key)
        if (self._key_domain and not domain) or (self._key_user and not user):
            return None
        values = {"s": key, "u": user, "d": domain, "S": key, "U": user, "D": domain}
        if self._labels:
            labels = [label for label in domain.split(".") if label]
            if len(labels) < self._labels:
                return None
            for number in range(1, self._labels + 1):
                values[str(number)] = labels[-number]
        return values

    def for_query(self, key: str) -> dict[str, str] | None:
        """As :meth:`key_values`, for a key that is to be asked for."""
        if not key:
            self._warn(f'table "{self._spec}": empty query string -- ignored')
            return None
        return self.key_values(key)

    def value_values(self, value: str, key: str, values: dict[str, str]) -> dict[str, str] | None:
        """What result templates are filled with, or None for a value that is to be left out."""
        if not value:
            self._warn(f'table "{self._spec}": empty lookup result for: "{key}" -- ignored')
            return None
        user, domain = _split(value)
        if (self._value_domain and not domain) or (self._value_user and not user):
            return None
        return values | {"s": value, "u": user, "d": domain}


def _split(text: str) -> tuple[str, str]:
    """``user@domain`` in two; without ``@`` it is all user."""
    user, at, domain = text.rpartition("@")
    return (user, domain) if at else (text, "")


class Results:
    """The values found for one key, each put into the result template, joined by commas."""

    def __init__(self, templates: Templates, template: Template, limit: int, key: str) -> None:
        self._templates = templates
        self._template = template
        self._limit = limit
        self._key = key
        self._values = templates.key_values(key) or {}
        self._found: list[str] = []

    def add(self, value: bytes | None) -> None:
        """One more value; :class:`TableError` when there are more than the limit (0: no limit) allows."""
        if value is None:
            return
        text = value.partition(b"\0")[0].decode("utf-8", "surrogateescape")
        values = self._templates.value_values(text, self._key, self._values)
        if values is None:
            return
        self._found.append(self._template.fill(values, None))
        if 0 < self._limit < len(self._found):
            raise TableError(f"Expansion limit exceeded for key: '{self._key}'")

    def joined(self) -> bytes | None:
        """All of them."""
        return ",".join(self._found).encode("utf-8", "surrogateescape") or None
