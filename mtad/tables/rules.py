"""Tables of rules: the first rule that matches gives the result (``cidr:``, ``regexp:``, ``pcre:``).

A source is a file of ``pattern result`` lines, read again when it changes, or stands in the
specification itself, ``type:{ {pattern result}, ... }``.  ``!`` before a pattern turns its meaning round;
``if pattern`` ... ``endif`` guards the rules between.  A rule that is no good is left out with a warning.

Subclasses compile one pattern to a :data:`Matcher`: from the key to the groups it captured, or None.

Postfix counterpart: ``dict_cidr(3)``, ``dict_regexp(3)``, ``dict_pcre(3)``.
"""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mtad.config.lines import logical_lines, tokens
from mtad.errors import ConfigError, TableError
from mtad.tables.source import extract_braces, file_value, read_text, to_bytes
from mtad.tables.table import Identity, LocalTable, Options, Watch, identity

Matcher = Callable[[bytes], "tuple[bytes | None, ...] | None"]

_KEYWORD = re.compile(r"(if|endif)(?![A-Za-z0-9])", re.IGNORECASE)
_REPLACEMENT = re.compile(rb"\$(?:(\$)|(\w+)|\{(\w+)\}|\((\w+)\))", re.ASCII)
_SPACE = " \t\r\n\v\f"


@dataclass(slots=True)
class Rule:
    """One rule.  ``template`` alternates literal text and numbers of groups; None: a block of rules."""

    applies: Matcher
    template: list[bytes | int] | None
    block: list[Rule] = field(default_factory=list)


class BadRule(Exception):
    """Why a rule is left out."""


def negated(matcher: Matcher) -> Matcher:
    """Applies where ``matcher`` does not."""
    return lambda key: () if matcher(key) is None else None


class RuleTable(LocalTable):
    """What the types have in common."""

    fixed_key = False
    kind = ""
    no_pattern = "no regexp"
    empty_result = True

    def __init__(self, spec: str, options: Options, name: str) -> None:
        super().__init__(spec, options)
        self._rules: list[Rule] = []
        self._name = name
        self._path = ""
        self._watch: Watch | None = None
        if name.startswith("{"):
            self._rules = self._parse(self._inline())
        else:
            self._path = options.path(name)
            self._watch = Watch(self._path, self._load, options.warn)

    def _load(self) -> Identity | None:
        try:
            state = identity(os.stat(self._path))
        except OSError as error:
            raise TableError(f"open {self._path}: {error.strerror}") from error
        warnings: list[str] = []
        self._rules = self._parse(logical_lines(read_text(self._path), self._path, warnings))
        for warning in warnings:
            self.options.warn(warning)
        return state

    def _inline(self) -> Iterator[tuple[int, str]]:
        try:
            elements = tokens(extract_braces(self._name))
            if not elements:
                raise ConfigError("empty")
            for element in elements:
                yield 1, extract_braces(element)
        except ConfigError as error:
            raise ConfigError(
                f'bad syntax: "{self.spec}"; need "{self.kind}:{{{{pattern result}}...}}"'
            ) from error

    def _parse(self, lines: Iterator[tuple[int, str]]) -> list[Rule]:
        rules: list[Rule] = []
        stack = [rules]
        opened: list[int] = []
        for number, line in lines:
            try:
                for odd in self._add(line, stack):
                    self._warn(number, odd)
            except BadRule as problem:
                self._warn(number, str(problem))
            del opened[len(stack) - 1 :]
            opened += [number] * (len(stack) - 1 - len(opened))
        for number in reversed(opened):
            self._warn(number, "IF has no matching ENDIF")
        return rules

    def _warn(self, line: int, text: str) -> None:
        self.options.warn(f"{self.kind} map {self._path or self._name}, line {line}: {text}")

    def _add(self, line: str, stack: list[list[Rule]]) -> tuple[str, ...]:
        """Add the rule in ``line``; gives what is odd about it.  An IF that is no good guards nothing."""
        keyword = _KEYWORD.match(line)
        if keyword and keyword.group(1).lower() == "endif":
            rest = line[keyword.end() :].strip(_SPACE)
            odd = self.end_if(len(stack) > 1, rest)
            stack.pop()
            return odd
        text = line[keyword.end() :] if keyword else line
        bare = text.lstrip("!" + _SPACE)
        wanted = text[: len(text) - len(bare)].count("!") % 2 == 0
        if not bare:
            raise BadRule(f"{self.no_pattern}: skipping this rule")
        if keyword:
            applies, _, rest = self.compile(bare, wanted)
            rule = Rule(applies, None)
            stack[-1].append(rule)
            stack.append(rule.block)
            if not rest:
                return ()
            return (
                f'ignoring extra text after IF statement: "{rest}"',
                "do not prepend whitespace to statements between IF and ENDIF",
            )
        applies, groups, result = self.compile(bare, wanted)
        if not result and not self.empty_result:
            raise BadRule("no lookup result: skipping this rule")
        value = to_bytes(result)
        if self.options.value_is_file:
            try:
                value = file_value(result)
            except TableError as error:
                raise BadRule(f"{error}: skipping this rule") from error
        template = self.template(value)
        highest = max((part for part in template if isinstance(part, int)), default=0)
        if highest > groups:
            raise BadRule(f'out of range replacement index "{highest}": skipping this rule')
        if highest and not wanted:
            raise BadRule("$number found in negative match replacement text: skipping this rule")
        stack[-1].append(Rule(applies, template))
        return () if result else ("no replacement text: using empty string",)

    def end_if(self, inside: bool, rest: str) -> tuple[str, ...]:
        """An ENDIF: what is odd about it, or :class:`BadRule`.  ``inside`` an IF; ``rest``: what follows."""
        if not inside:
            raise BadRule("ignoring ENDIF without matching IF")
        return ("ignoring extra text after ENDIF",) if rest else ()

    @abstractmethod
    def compile(self, text: str, wanted: bool) -> tuple[Matcher, int, str]:
        """``pattern result`` as what applies, its number of groups, and the result; :class:`BadRule`.

        ``wanted`` is False where the pattern was negated.
        """

    def template(self, value: bytes) -> list[bytes | int]:
        """The result in parts."""
        return [value]

    def get(self, key: bytes) -> bytes | None:
        if self._watch is not None:
            self._watch.refresh()
        return self._search(self._rules, key)

    def _search(self, rules: list[Rule], key: bytes) -> bytes | None:
        for rule in rules:
            groups = rule.applies(key)
            if groups is None:
                continue
            if rule.template is None:
                value = self._search(rule.block, key)
                if value is not None:
                    return value
                continue
            return b"".join(
                (groups[part - 1] or b"") if isinstance(part, int) else part for part in rule.template
            )
        return None


def expression(text: str, end_of_flags: str = "") -> tuple[str, str, str]:
    """``/pattern/flags rest`` as pattern, flags and what follows them.

    White space ends the flags, and so does ``end_of_flags``.
    """
    delimiter = text[0]
    if delimiter.isalnum():
        raise BadRule("ignoring unrecognized request")
    end = 1
    while end < len(text) and text[end] != delimiter:
        end += 2 if text[end] == "\\" else 1
    if end >= len(text):
        raise BadRule(f'no closing regexp delimiter "{delimiter}": skipping this rule')
    after = end + 1
    while after < len(text) and text[after] not in _SPACE + end_of_flags:
        after += 1
    return text[1:end], text[end + 1 : after], text[after:].lstrip(_SPACE)


def replacement(value: bytes) -> list[bytes | int]:
    """A result with ``$1``, ``${1}``, ``$(1)`` and ``$$`` in parts."""
    parts: list[bytes | int] = []
    position = 0
    for match in _REPLACEMENT.finditer(value):
        parts.append(value[position : match.start()])
        position = match.end()
        if match.group(1):
            parts.append(b"$")
            continue
        name = match.group(2) or match.group(3) or match.group(4)
        if not name.isdigit():
            raise BadRule(f'non-numeric replacement index "{name.decode()}": skipping this rule')
        if not 0 < int(name) < 1000:
            raise BadRule(f'out of range replacement index "{name.decode()}": skipping this rule')
        parts.append(int(name))
    parts.append(value[position:])
    return parts
