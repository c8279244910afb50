"""The ``$`` language of main.cf and master.cf, whole.

``$name ${name} $(name)``, ``${name?text}``, ``${name:text}``, ``${name?{a}:{b}}``,
``${{left} op {right} ? {a} : {b}}`` with ``== != < <= > >=`` and the same with suffix ``level`` for versions,
``${domain_to_ascii{text}}`` and ``${domain_to_utf8{text}}``, and ``$$`` for one dollar.

:func:`expand` ends on every input, with a result no longer than :data:`RESULT_LIMIT`, or raises
:class:`ExpansionError`.  It knows no parameters: it asks ``value`` for the expanded value of a name and
``is_set`` whether a name has text, and passes on how deep it is, so that a circle of names ends in an error.

Postfix counterpart: ``mac_parse(3)``, ``mac_expand(3)``, ``compat_level(3)``.
"""

from __future__ import annotations

import re
from collections.abc import Callable

#: Deepest nesting of names in values and of braces, as in Postfix.
DEPTH_LIMIT = 100

#: Longest result; Postfix has no limit, and doubling names could fill the memory.
RESULT_LIMIT = 1 << 20

_BLANKS = " \t\r\n"
_BRACES = re.compile(r"[{}]")
_PARENTHESES = re.compile(r"[()]")
_NAME = re.compile(r"[A-Za-z0-9_]*")
_OPERATOR = re.compile(r"([<>!=?+\-*/~&|%]*)([A-Za-z0-9]*)")
_DIGITS = re.compile(r"[0-9]+")
_LEVEL = re.compile(r"[+-]?[0-9]{1,9}(?:\.[+-]?[0-9]{1,9}){0,2}")
_COMPARE: dict[str, Callable[[int], bool]] = {
    "==": lambda delta: delta == 0,
    "!=": lambda delta: delta != 0,
    "<": lambda delta: delta < 0,
    "<=": lambda delta: delta <= 0,
    ">=": lambda delta: delta >= 0,
    ">": lambda delta: delta > 0,
}

#: Expanded value of a name at a depth; empty for a name that is not defined.
Value = Callable[[str, int], str]
#: Whether a name is defined and not empty.
IsSet = Callable[[str, int], bool]


class ExpansionError(ValueError):
    """Text that cannot be expanded; the message says what and where."""


def expand(text: str, value: Value, is_set: IsSet, depth: int = 0) -> str:
    """``text`` with all its ``$`` expressions replaced."""
    if "$" not in text:
        return text
    if depth > DEPTH_LIMIT:
        raise ExpansionError(f'unreasonable macro call nesting: "{text[:60]}"')
    result: list[str] = []
    size = 0
    for literal, expression in pieces(text):
        piece = _evaluate(expression, value, is_set, depth + 1) if expression is not None else literal
        size += len(piece)
        if size > RESULT_LIMIT:
            raise ExpansionError(f'the expanded value is too long: "{text[:60]}"')
        result.append(piece)
    return "".join(result)


def references(text: str, broken: list[str] | None = None) -> list[str]:
    """All names that ``text`` mentions in any branch, up to a broken expression (it goes to ``broken``)."""
    found: list[str] = []

    def note(name: str, depth: int) -> str:
        found.append(name)
        return ""

    try:
        _scan(text, note, 0)
    except ExpansionError as error:
        if broken is not None:
            broken.append(str(error))
    return found


def has_literal(text: str) -> bool:
    """Whether ``text`` is not empty whatever its expressions come to."""
    return any(literal for literal, _ in pieces(text))


def compare_levels(left: str, right: str) -> int:
    """Order of two compatibility levels: negative, zero or positive."""
    one, two = parse_level(left), parse_level(right)
    return (one > two) - (one < two)


def parse_level(text: str) -> tuple[int, int, int]:
    """``N[.N[.N]]`` as numbers; :class:`ExpansionError` when malformed."""
    if _LEVEL.fullmatch(text):
        numbers = [int(part) for part in text.split(".")] + [0, 0]
        major, minor, patch = numbers[:3]
        if major >= 0 and 0 <= minor <= 1023 and 0 <= patch <= 1023:
            return major, minor, patch
    raise ExpansionError(f'malformed compatibility level syntax: "{text}"')


def pieces(text: str) -> list[tuple[str, str | None]]:
    """``text`` cut into ``(literal, None)`` and ``("", expression)``."""
    pieces: list[tuple[str, str | None]] = []
    position = 0
    while True:
        dollar = text.find("$", position)
        if dollar < 0:
            pieces.append((text[position:], None))
            return pieces
        pieces.append((text[position:dollar], None))
        following = text[dollar + 1 : dollar + 2]
        if following == "$":
            pieces.append(("$", None))
            position = dollar + 2
            continue
        if following and following in "({":
            end = _closing(text, dollar + 1)
            if end < 0:
                raise ExpansionError(f'truncated macro reference: "{text}"')
            expression = text[dollar + 2 : end]
            position = end + 1
        else:
            match = _NAME.match(text, dollar + 1)
            expression = match.group() if match else ""
            position = dollar + 1 + len(expression)
        if not expression:
            raise ExpansionError(f'empty macro name: "{text}"')
        pieces.append(("", expression))


def _closing(text: str, start: int) -> int:
    """Where the bracket at ``start`` closes, counting its own kind only; -1 when it does not."""
    opening = text[start]
    level = 0
    for match in (_BRACES if opening == "{" else _PARENTHESES).finditer(text, start):
        level += 1 if match.group() == opening else -1
        if level == 0:
            return match.start()
    return -1


class _Expression:
    """One ``${...}``, read: a condition or a name, and the branches behind it."""

    __slots__ = ("branches", "function", "left", "name", "operator", "right", "suffix")

    def __init__(self, text: str) -> None:
        self.name = self.left = self.right = self.function = self.operator = self.suffix = ""
        rest = text.lstrip(_BLANKS)
        rest = self._comparison(rest) if rest.startswith("{") else self._name(text, rest)
        self.branches: tuple[str | None, str | None] | None = None
        if rest:
            self.branches = self._branches(rest)

    def _name(self, text: str, rest: str) -> str:
        match = _NAME.match(rest)
        self.name = match.group() if match else ""
        after = rest[len(self.name) :]
        rest = after.lstrip(_BLANKS)
        if rest.startswith("{"):
            self.function = self.name
            self.left, behind = _braced(rest)
            if behind:
                raise ExpansionError(f'unexpected input at: "...{self.left}}}>>>{behind[:20]}"')
            self.left = self.left.strip(_BLANKS)
            if self.function not in FUNCTIONS:
                raise ExpansionError(f'unknown function "{self.function}" at: "{text[:60]}"')
            return ""
        if rest and rest[0] not in "?:":
            start = text[: len(text) - len(after)]
            raise ExpansionError(f'attribute name syntax error at: "...{start}>>>{after[:20]}"')
        return rest

    def _comparison(self, rest: str) -> str:
        self.left, rest = _braced(rest)
        match = _OPERATOR.match(rest)
        self.operator, self.suffix = match.groups() if match else ("", "")
        if self.operator not in _COMPARE:
            known = '"" or "'.join(_COMPARE).replace('""', '"', 1)  # Postfix's own way with quotes
            raise ExpansionError(f'"{known}" expected at: "...{self.left}}}>>>{rest[:20]}"')
        if self.suffix and self.suffix not in SUFFIXES:
            raise ExpansionError(f'bad operator suffix at: "...{self.operator}>>>{self.suffix}"')
        rest = rest[len(self.operator) + len(self.suffix) :].lstrip(_BLANKS)
        if not rest.startswith("{"):
            raise ExpansionError(
                f'"{{expression}}" expected at: "...{{{self.left}}} {self.operator}>>>{rest[:20]}"'
            )
        self.right, rest = _braced(rest)
        if rest and rest[0] not in "?:":
            raise ExpansionError(f'"?" or ":" expected at: "...}}>>>{rest[:20]}"')
        return rest

    @staticmethod
    def _branches(rest: str) -> tuple[str | None, str | None]:
        then: str | None = None
        if rest[0] == "?":
            then, rest = _operand(rest[1:])
            if not rest:
                return then, None
            if rest[0] != ":":
                raise ExpansionError(f'":" expected at: "...{then}}}>>>{rest[:20]}"')
        otherwise, rest = _operand(rest[1:])
        if rest:
            raise ExpansionError(f'unexpected input at: "...{otherwise}}}>>>{rest[:20]}"')
        return then, otherwise


def _braced(text: str) -> tuple[str, str]:
    """``{payload} rest`` as ``(payload, rest)``."""
    end = _closing(text, 0)
    if end < 0:
        raise ExpansionError(f'unbalanced {{}} in attribute expression: "{text}"')
    return text[1:end], text[end + 1 :].lstrip(_BLANKS)


def _operand(text: str) -> tuple[str, str]:
    """A branch: ``{text}`` and what follows it, or all that is left, taken as it stands."""
    stripped = text.lstrip(_BLANKS)
    return _braced(stripped) if stripped.startswith("{") else (text, "")


def _evaluate(text: str, value: Value, is_set: IsSet, depth: int) -> str:
    part = _Expression(text)
    if part.function:
        argument = expand(part.left, value, is_set, depth)
        return FUNCTIONS[part.function](argument)
    if part.operator:
        left = expand(part.left, value, is_set, depth)
        right = expand(part.right, value, is_set, depth)
        truth = _COMPARE[part.operator](_order(left, right, part.suffix))
        if part.branches is None:
            return "true" if truth else ""
    elif part.branches is None:
        return value(part.name, depth)
    else:
        truth = is_set(part.name, depth)
    branch = part.branches[0 if truth else 1]
    return expand(branch, value, is_set, depth) if branch else ""


def _scan(text: str, note: Value, depth: int) -> None:
    """Tell ``note`` each name in ``text``, in all branches."""
    if depth > DEPTH_LIMIT or "$" not in text:
        return
    for _, expression in pieces(text):
        if expression is None:
            continue
        part = _Expression(expression)
        if part.name and not part.function:
            note(part.name, depth)
        for operand in (part.left, part.right, *(part.branches or ())):
            if operand:
                _scan(operand, note, depth + 1)


def _order(left: str, right: str, suffix: str) -> int:
    if suffix:
        return SUFFIXES[suffix](left, right)
    if _DIGITS.fullmatch(left) and _DIGITS.fullmatch(right):
        for side in (left, right):
            if len(side.lstrip("0")) > 18:
                raise ExpansionError(f"bad conversion: {side[:40]}")
        return int(left) - int(right)
    one, two = left.encode("utf-8", "surrogateescape"), right.encode("utf-8", "surrogateescape")
    return (one > two) - (one < two)


def _domain_to_ascii(text: str) -> str:
    if text.isascii():
        return text.lower()
    import idna

    try:
        return idna.encode(text, uts46=True).decode("ascii")
    except (idna.IDNAError, UnicodeError) as error:
        raise ExpansionError(f'domain_to_ascii: bad domain name: "{text}"') from error


def _domain_to_utf8(text: str) -> str:
    import idna

    try:
        return idna.decode(text, uts46=True) if text else ""
    except (idna.IDNAError, UnicodeError) as error:
        raise ExpansionError(f'domain_to_utf8: bad domain name: "{text}"') from error


#: ``${name{text}}`` and ``${{left} ==suffix {right}}``, by name.
FUNCTIONS: dict[str, Callable[[str], str]] = {
    "domain_to_ascii": _domain_to_ascii,
    "domain_to_utf8": _domain_to_utf8,
}

SUFFIXES: dict[str, Callable[[str, str], int]] = {"level": compare_levels}
