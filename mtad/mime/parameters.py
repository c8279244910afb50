"""The value of a MIME header in tokens: ``text/plain; charset="utf-8"``.

RFC 2045 section 5.1, RFC 822 section 3.3.  Nothing is raised.  Postfix counterpart: ``header_token(3)``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

WORD, QUOTED = "word", "quoted"
#: A kind (WORD, QUOTED, or a special character by itself) and the text.
Token = tuple[str, bytes]

_COMMENT_PART = re.compile(rb"[^()\\]+|\\.?|[()]", re.DOTALL)
_QUOTED = re.compile(rb'((?:[^"\\]|\\.)*)(?:"|\\?\Z)', re.DOTALL)
_FOLD = re.compile(rb"(?<![ \t\r\n])[ \t\r\n]*\n")  # looked for once a run of blanks
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_TYPE_WORD = re.compile(rb"[^\x00-\x20\x7f()<>@,;:\\\"/\[\]?=]+")
_PLAIN_WORD = re.compile(rb"[^\x00-\x20\x7f()<>@,;:\\\".\[\]]+")


def fields(value: bytes) -> Iterator[list[Token]]:
    """The tokens between the semicolons of a ``Content-Type``, three at most of each."""
    found: list[Token] = []
    ended = True
    for token in _tokens(value, _TYPE_WORD):
        ended = False
        if token[0] == ";":
            yield found
            found, ended = [], True
        elif len(found) < 3:
            found.append(token)
    if not ended:
        yield found


def first(value: bytes) -> Token | None:
    """The first token of a value."""
    return next(_tokens(value, _PLAIN_WORD), None)


def _tokens(value: bytes, word: re.Pattern[bytes]) -> Iterator[Token]:
    at = 0
    while at < len(value):
        char = value[at : at + 1]
        if char in b" \t\r\n":
            at += 1
        elif char == b"(":
            at = _comment(value, at + 1)
        elif char == b'"':
            m = _QUOTED.match(value, at + 1)
            assert m is not None  # it matches nothing, too
            at = m.end()
            yield QUOTED, _ESCAPE.sub(rb"\1", _FOLD.sub(b"", m[1]))
        elif m := word.match(value, at):
            at = m.end()
            yield WORD, m[0]
        else:
            at += 1
            yield char.decode("latin-1"), char


def _comment(text: bytes, at: int) -> int:
    level = 1
    while level and (m := _COMMENT_PART.match(text, at)):
        at = m.end()
        level += {b"(": 1, b")": -1}.get(m.group(), 0)
    return at
