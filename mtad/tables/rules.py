"""Tables of rules: the first rule that matches gives the result (``cidr:``, ``regexp:``, ``pcre:``).

A source is a file of ``pattern result`` lines, read again when it changes, or stands in the
specification itself, ``type:{ {pattern result}, ... }``.  ``!`` before a pattern turns its meaning round;
``if pattern`` ... ``endif`` guards the rules between.  A rule that is no good is left out with a warning.

Subclasses compile one pattern to a :data:`Matcher`: from the key to the groups it captured, or None.
:class:`ExpressionTable` is for those whose patterns are regular expressions between delimiters.

Postfix counterpart: ``dict_cidr(3)``, ``dict_regexp(3)``, ``dict_pcre(3)``.
"""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from mtad.config.expand import ExpansionError, pieces
from mtad.config.lines import logical_lines, tokens
from mtad.errors import ConfigError, TableError
from mtad.tables.source import extract_braces, file_value, read_text, to_bytes
from mtad.tables.table import Identity, LocalTable, Options, Watch, identity

Matcher = Callable[[bytes], "tuple[bytes | None, ...] | None"]

_KEYWORD = re.compile(rb"(if|endif)(?![A-Za-z0-9])", re.IGNORECASE)
_SPACE = b" \t\r\n\v\f"


@dataclass(slots=True)
class Rule:
    """One rule.  ``template`` alternates literal text and numbers of groups; None: a block of rules."""

    line: int
    applies: Matcher
    template: list[bytes | int] | None
    block: list[Rule] = field(default_factory=list)


class BadRule(Exception):
    """Why a rule is left out; nothing where that is said already."""


class MatchFailed(Exception):
    """Why it can't be told whether a pattern matches: its rule does not apply."""


def _negated(matcher: Matcher) -> Matcher:
    """Applies where ``matcher`` does not."""
    return lambda key: () if matcher(key) is None else None


class RuleTable(LocalTable):
    """What the types have in common."""

    fixed_key = False
    kind = ""

    def __init__(self, spec: str, options: Options, name: str) -> None:
        super().__init__(spec, options)
        self._rules: list[Rule] = []
        self._source = name
        self._watch: Watch | None = None
        if name.startswith("{"):
            self._rules = self._parse(self._inline())
        else:
            self._source = options.path(name)
            self._watch = Watch(self._source, self._load, options.warn)

    def _load(self) -> Identity | None:
        try:
            state = identity(os.stat(self._source))
        except OSError as error:
            raise TableError(f"open {self._source}: {error.strerror}") from error
        self._rules = self._parse(read_text(self._source))
        return state

    def _inline(self) -> str:
        """The rules in the table's name, one a line."""
        try:
            return "\n".join(extract_braces(element) for element in tokens(extract_braces(self._source)))
        except ConfigError as error:
            raise ConfigError(f"{self.kind} map: {error.reason}") from error

    def _parse(self, text: str) -> list[Rule]:
        rules: list[Rule] = []
        stack = [rules]
        opened: list[int] = []
        warnings: list[str] = []
        for number, line in logical_lines(text, self._source, warnings):
            while warnings:
                self.options.warn(warnings.pop(0))
            try:
                self._add(number, to_bytes(line).strip(_SPACE), stack)
            except BadRule as problem:
                if str(problem):
                    self.warn(number, str(problem))
            del opened[len(stack) - 1 :]
            opened += [number] * (len(stack) - 1 - len(opened))
        for warning in warnings:
            self.options.warn(warning)
        for number in reversed(opened):
            self.warn(number, "IF has no matching ENDIF")
        return rules

    def warn(self, line: int, text: str) -> None:
        """A warning about a line."""
        self.options.warn(f"{self.kind} map {self._source}, line {line}: {text}")

    def _add(self, number: int, line: bytes, stack: list[list[Rule]]) -> None:
        """Add the rule in ``line``.  An IF that is no good guards nothing."""
        keyword = _KEYWORD.match(line)
        if keyword is None:
            stack[-1].append(self.rule(number, line))
        elif keyword.group(1).lower() == b"if":
            rule = Rule(number, self.guard(number, line[keyword.end() :]), None)
            stack[-1].append(rule)
            stack.append(rule.block)
        else:
            self.end_if(number, line[keyword.end() :].strip(_SPACE), len(stack) > 1)
            stack.pop()

    @abstractmethod
    def rule(self, number: int, line: bytes) -> Rule:
        """``pattern result`` as a rule; :class:`BadRule`."""

    @abstractmethod
    def guard(self, number: int, text: bytes) -> Matcher:
        """What follows an IF as what applies; :class:`BadRule`."""

    @abstractmethod
    def end_if(self, number: int, rest: bytes, inside: bool) -> None:
        """Look at an ENDIF; :class:`BadRule`.  ``rest`` follows it, ``inside``: there was an IF."""

    def result(self, text: bytes) -> bytes:
        """The result ``text``, or what is in the file of that name; :class:`BadRule`."""
        if not self.options.value_is_file:
            return text
        try:
            return file_value(text.decode("utf-8", "surrogateescape"))
        except TableError as error:
            raise BadRule(f"{error}: skipping this rule") from error

    def get(self, key: bytes) -> bytes | None:
        if self._watch is not None:
            self._watch.refresh()
        return self._search(self._rules, key)

    def _search(self, rules: list[Rule], key: bytes) -> bytes | None:
        for rule in rules:
            try:
                groups = rule.applies(key)
            except MatchFailed as failure:
                self.warn(rule.line, str(failure))
                continue
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


def negation(text: bytes) -> tuple[bool, bytes]:
    """Whether a pattern means what it says, and the pattern, without the ``!`` before it."""
    bare = text.lstrip(b"!" + _SPACE)
    return text[: len(text) - len(bare)].count(b"!") % 2 == 0, bare


class Expression(Protocol):
    """A compiled expression and the number of its groups."""

    groups: int

    def match(self, key: bytes, /) -> tuple[bytes | None, ...] | None:
        """See :data:`Matcher`; :class:`MatchFailed`."""


@dataclass(frozen=True, slots=True)
class _Pattern:
    """``!/expression/flags``, and what follows it."""

    wanted: bool
    text: bytes
    flags: int
    rest: bytes


class ExpressionTable(RuleTable):
    """Rules of the form ``/expression/flags result``, where the result may have ``$1``, ``${1}``, ``$(1)``.

    ``flags``: letters, and what they turn on or off in ``usual_flags``.  ``end_of_flags`` begins a second
    pattern.  ``unclosed`` and ``no_number``: words in which Postfix's two types differ.
    """

    flags: ClassVar[dict[str, int]]
    usual_flags: int
    end_of_flags = b""
    unclosed = "skipping this rule"
    no_number = "out of range"

    @abstractmethod
    def compile(self, text: bytes, flags: int) -> Expression:
        """The expression; :class:`BadRule`."""

    def rule(self, number: int, line: bytes) -> Rule:
        if line[:1].isalnum():
            raise BadRule("ignoring unrecognized request")
        first = self._pattern(number, line)
        second = None
        if self.end_of_flags and first.rest.startswith(self.end_of_flags):
            second = self._pattern(number, first.rest)
        text = (second or first).rest.lstrip(_SPACE)
        if not text:
            self.warn(number, "no replacement text: using empty string")
        template = self._template(number, self.result(text))
        highest = max((part for part in template if isinstance(part, int)), default=0)
        if highest and not first.wanted:
            raise BadRule("$number found in negative match replacement text: skipping this rule")
        expression = self.compile(first.text, first.flags)
        if highest > expression.groups:
            raise BadRule(f'out of range replacement index "{highest}": skipping this rule')
        applies = expression.match if first.wanted else _negated(expression.match)
        if second is not None:
            applies = _both(applies, self._matcher(second))
        return Rule(number, applies, template)

    def guard(self, number: int, text: bytes) -> Matcher:
        pattern = self._pattern(number, text)
        rest = pattern.rest.strip(_SPACE)
        if rest:
            shown = rest.decode("utf-8", "surrogateescape")
            self.warn(number, f'ignoring extra text after IF statement: "{shown}"')
            self.warn(number, "do not prepend whitespace to statements between IF and ENDIF")
        return self._matcher(pattern)

    def end_if(self, number: int, rest: bytes, inside: bool) -> None:
        if not inside:
            raise BadRule("ignoring ENDIF without matching IF")
        if rest:
            self.warn(number, "ignoring extra text after ENDIF")

    def _matcher(self, pattern: _Pattern) -> Matcher:
        matcher = self.compile(pattern.text, pattern.flags).match
        return matcher if pattern.wanted else _negated(matcher)

    def _pattern(self, number: int, text: bytes) -> _Pattern:
        wanted, text = negation(text)
        if not text:
            raise BadRule("no regexp: skipping this rule")
        delimiter = text[:1]
        end = 1
        while end < len(text) and text[end : end + 1] != delimiter:
            end += 2 if text[end : end + 1] == b"\\" else 1
        if end >= len(text):
            shown = delimiter.decode("ascii", "replace").replace("\ufffd", "?")
            raise BadRule(f'no closing regexp delimiter "{shown}": {self.unclosed}')
        flags, after = self.usual_flags, end + 1
        while after < len(text) and text[after : after + 1] not in _SPACE + self.end_of_flags:
            letter = chr(text[after])
            if letter not in self.flags:
                letter = letter if letter.isascii() else "?"
                raise BadRule(f'unknown regexp option "{letter}": skipping this rule')
            if not self.flags[letter]:
                self.warn(number, f'ignoring obsolete regexp option "{letter}"')
            flags ^= self.flags[letter]
            after += 1
        return _Pattern(wanted, text[1:end], flags, text[after:])

    def _template(self, number: int, value: bytes) -> list[bytes | int]:
        """A result in parts: text, and numbers of groups."""
        parts: list[bytes | int] = []
        bad = False
        try:
            for literal, name in pieces(value.decode("utf-8", "surrogateescape")):
                if name is None:
                    parts.append(to_bytes(literal))
                elif not (name.isascii() and name.isdigit()):
                    self.warn(number, f'non-numeric replacement index "{name}"')
                    bad = True
                elif len(name) > 9 or int(name) < 1:
                    self.warn(number, f'{self.no_number} replacement index "{name}"')
                    bad = True
                else:
                    parts.append(int(name))
        except ExpansionError as error:
            self.options.warn(str(error))
            bad = True
        if bad:
            raise BadRule("bad replacement syntax: skipping this rule")
        return parts


def _both(first: Matcher, second: Matcher) -> Matcher:
    """The groups of ``first`` where ``second`` applies, too."""

    def both(key: bytes) -> tuple[bytes | None, ...] | None:
        groups = first(key)
        return None if groups is None or second(key) is None else groups

    return both
