"""Where a word of a value stands: the file, and the line among those that the value takes.

:meth:`Places.of` looks for the words of a list one after the other, so that one that stands there twice is
found twice; what comes from another parameter (``$name``) has the place of the whole value.  Line 0: a
default, which stands nowhere.  A file that can't be read any more gives the first line.

Postfix counterpart: none.
"""

from __future__ import annotations

import re

from mtad.config.lines import read_text
from mtad.config.parameters import Parameters
from mtad.errors import ConfigError

_WORD = re.compile(r"[^\s,{}=]+")


class Places:
    """Places in the files that ``p`` was read from."""

    def __init__(self, p: Parameters) -> None:
        self._p = p
        self._files: dict[str, list[str]] = {}
        self._words: dict[str, list[tuple[str, int]]] = {}
        self._next: dict[str, int] = {}

    def of(self, parameter: str, word: str = "") -> tuple[str, int]:
        """File and line of ``word`` in the value of ``parameter``, or of the value."""
        path, first = self._p.where(parameter)
        if first == 0 or not word:
            return path, first
        words = self._words.get(parameter)
        if words is None:
            words = self._words[parameter] = self._value(path, first, parameter)
        start = self._next.get(parameter, 0)
        for at in (*range(start, len(words)), *range(min(start, len(words)))):
            if words[at][0] == word:
                self._next[parameter] = at + 1
                return path, words[at][1]
        return path, first

    def begin(self) -> None:
        """Another evaluation: each list is gone through from its beginning."""
        self._next.clear()

    def _value(self, path: str, first: int, parameter: str) -> list[tuple[str, int]]:
        """The words of a logical line from the parameter's name on, with their lines."""
        lines = self._files.get(path)
        if lines is None:
            try:
                lines = read_text(path).split("\n")
            except ConfigError:
                lines = []
            self._files[path] = lines
        found: list[tuple[str, int]] = []
        named = False
        for number in range(first, len(lines) + 1):
            line = lines[number - 1]
            blank = not line.strip() or line.lstrip().startswith("#")
            if number > first and not blank and not line[0].isspace():
                break
            if blank:
                continue
            for word in _WORD.findall(line):
                if named:
                    found.append((word, number))
                named = named or word == parameter
        return found
