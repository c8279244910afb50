"""Address lists of RFC 822: text to tokens, tokens to addresses, and back to text.

:func:`scan` throws nothing away; :func:`parse` finds the addresses among the tokens, from right to left,
moves comments out of them and adds commas that were left out; :func:`external` writes tokens as text that
means the same.  An address has an *internal* form, without quotes, and an *external* one, whose local part
is quoted where it must be (:func:`quote`, :func:`unquote`).  Nothing here raises.

RFC 822 section 3.3, RFC 5322 sections 3.2 and 3.4.  Postfix counterpart: ``tok822(3)``,
``quote_822_local(3)``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

#: Kinds of tokens; an operator's kind is the character itself.
ATOM, QUOTED, LITERAL, COMMENT = "atom", "quoted", "literal", "comment"
ADDRESS, GROUP = "address", "group"  # found by parse: an address, and the colon of a named group

_WORDS = (ATOM, QUOTED, LITERAL)
_PLAIN = (ATOM, QUOTED, COMMENT, LITERAL, ADDRESS)  # a blank keeps two of these apart

_SCAN = re.compile(
    rb"(?P<space>[ \t\r\n]+)"
    rb"|(?P<comment>\()"
    rb"|\[(?P<literal>(?:\\.|[^\\\]])*)(?:\]|\\?\Z)"
    rb'|"(?P<quoted>(?:\\.|[^\\"])*)(?:"|\\?\Z)'
    rb"|(?P<operator>[|%!)<>@,;:.\]])"
    rb"|(?P<atom>(?:\\.|[^|%!()<>@,;:\\\".\[\] \t\r\n])+)\\?"
    rb"|(?P<atom_end>\\)",
    re.DOTALL,
)
_COMMENT_PART = re.compile(rb"[^()\\]+|\\.?|[()]", re.DOTALL)
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_BLANK = bytes.maketrans(b"\t\r\n", b"   ")
_NO_ATOM = re.compile(rb"[\x00-\x20\x7f|%!()<>@,;:\\\".\[\]]")
_DOT_STRING = re.compile(rb"[^\x00-\x20\x7f<>()\[\]\\,;:@\".]+(?:\.[^\x00-\x20\x7f<>()\[\]\\,;:@\".]+)*")
_TO_QUOTE = re.compile(rb'([\r\n"\\])')
_TO_QUOTE_LITERAL = re.compile(rb"([\r\n\\])")

#: Text around an address beyond this size is dropped from a header that is written anew.
_MOST_AROUND = 250


class Token:
    """A token.  ``parts`` are those of an address; ``loose``: they were scanned by themselves."""

    __slots__ = ("kind", "loose", "parts", "text")

    def __init__(self, kind: str, text: bytes = b"", parts: list[Token] | None = None) -> None:
        self.kind = kind
        self.text = text
        self.parts: list[Token] = parts or []
        self.loose = False

    def __repr__(self) -> str:
        return f"Token({self.kind!r}, {self.text!r}, {self.parts!r})"


def scan(text: bytes, limit: int = 0) -> list[Token]:
    """The tokens of ``text``, up to a NUL, ``limit`` at most (0: all)."""
    text = text.partition(b"\0")[0]
    tokens: list[Token] = []
    at = 0
    while m := _SCAN.match(text, at):
        at, name = m.end(), m.lastgroup
        if name == "space":
            continue
        value = m.group(name) if name else b""
        if name == "comment":
            end = _comment(text, at)
            tokens.append(Token(COMMENT, text[at - 1 : end]))
            at = end
        elif name == "operator":
            tokens.append(Token(value.decode("ascii")))
        elif name == "atom":
            value = _plain(value)
            tokens.append(Token(QUOTED if _NO_ATOM.search(value) else ATOM, value))
        elif name == "atom_end":
            tokens.append(Token(ATOM))
        else:
            tokens.append(Token(QUOTED if name == "quoted" else LITERAL, _plain(value)))
        if len(tokens) == limit:
            break
    return tokens


def _plain(value: bytes) -> bytes:
    return _ESCAPE.sub(rb"\1", value).translate(_BLANK)


def _comment(text: bytes, at: int) -> int:
    """The index behind the comment whose ``(`` stands before ``at``; comments nest."""
    level = 1
    while level and (m := _COMMENT_PART.match(text, at)):
        at = m.end()
        level += {b"(": 1, b")": -1}.get(m.group(), 0)
    return at


def parse(text: bytes, limit: int = 0) -> list[Token]:
    """The tokens of ``text``, those that make an address put together."""
    return _Parser(scan(text, limit)).run()


class _Parser:
    """``pending`` holds the tokens that may become one address, ``found`` what is settled, both in reverse
    order."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = len(tokens) - 1
        self.pending: list[Token] = []
        self.found: list[Token] = []

    def run(self) -> list[Token]:
        tokens, found = self.tokens, self.found
        word_fits, in_group = True, False
        while self.at >= 0:
            token = tokens[self.at]
            kind = token.kind
            self.at -= 1
            if kind == COMMENT:
                found.append(token)
            elif kind in _WORDS:
                if not word_fits:
                    self._group(separate=True)
                word_fits = False
                self.pending.append(token)
            elif kind == ";":
                self._group(separate=True)
                found.append(token)
                word_fits = in_group = True
            elif kind == ":" and in_group:
                self._group()
                token.kind = GROUP
                found.append(token)
                self._pass(",")
            elif kind == ">":
                self._group(separate=True)
                found.append(token)
                self._route()
                self._pass(">;,:")
                if self.at >= 0 and tokens[self.at].kind == ":" and not in_group:
                    found.append(tokens[self.at])
                    self.at -= 1
                word_fits = True
            elif kind == ",":
                self._group()
                found.append(token)
                word_fits = True
            else:
                self.pending.append(token)
                word_fits = True
        self._group()
        found.reverse()
        return found

    def _group(self, separate: bool = False) -> None:
        """The pending tokens are an address; ``separate`` adds the comma that was left out."""
        if self.pending:
            self.found.append(Token(ADDRESS, parts=self.pending[::-1]))
            self.pending.clear()
            if separate:
                self.found.append(Token(","))

    def _route(self) -> None:
        """Take what stands between ``<`` and ``>`` as one address."""
        while self.at >= 0 and self.tokens[self.at].kind != "<":
            token = self.tokens[self.at]
            (self.found if token.kind == COMMENT else self.pending).append(token)
            self.at -= 1
        self._group()

    def _pass(self, stop: str) -> None:
        """Leave tokens alone up to one of ``stop``: they are no part of an address."""
        while self.at >= 0 and (len(self.tokens[self.at].kind) > 1 or self.tokens[self.at].kind not in stop):
            self.found.append(self.tokens[self.at])
            self.at -= 1


def addresses(tokens: Iterable[Token]) -> list[Token]:
    """The addresses among what :func:`parse` gave."""
    return [token for token in tokens if token.kind == ADDRESS]


# -- back to text


def internal(address: Token) -> bytes:
    """The internal form of an address."""
    return _internal(address.parts, address.loose)


def _internal(parts: Sequence[Token], loose: bool) -> bytes:
    out = bytearray()
    for number, token in enumerate(parts):
        out += b"[" + token.text + b"]" if token.kind == LITERAL else _same(token)
        if loose and _blank_after(parts, number):
            out += b" "
    return bytes(out)


def _same(token: Token) -> bytes:
    """A token whose text is the same in both forms."""
    if token.kind == GROUP:
        return b":"
    return token.text if len(token.kind) > 1 else token.kind.encode()


def external(address: Token) -> bytes:
    """The external form of an address."""
    return quote(internal(address))


def written(address: Token) -> bytes:
    """An address token by token, each quoted where it was."""
    return _external(address.parts, address.loose)


def header_text(tokens: Sequence[Token], warn: Callable[[str], None]) -> bytes:
    """An address list as the value of a header: a line for each address, without its blanks; where there is
    too much text around an address, it is left out and ``warn`` is told."""
    lines: list[bytes] = []
    line: list[Token] = []
    for token in tokens:
        if token.kind == ",":
            lines.append(_line(line, warn, b" " if line and line[-1].kind == GROUP else b"") + b",")
            line = []
        else:
            line.append(token)
    lines.append(_line(line, warn))
    return b"\n".join(lines)


def _line(tokens: list[Token], warn: Callable[[str], None], blank: bytes = b"") -> bytes:
    """``blank``: what keeps the last token apart from the next line's comma."""
    text = _external(tokens, True) + blank
    bare: bytes | None = None
    for number, token in enumerate(tokens):
        if token.kind == ADDRESS:
            bare = quote(internal(token))
        elif token.kind == "<" and number + 1 < len(tokens) and tokens[number + 1].kind == ">":
            bare = b""
    if bare is None or len(text) - len(bare) <= _MOST_AROUND:
        return text
    warn(f"stripping too many comments from address: {text[:100].decode('utf-8', 'replace')}...")
    return b"<" + bare + b">"


def _external(tokens: Sequence[Token], loose: bool) -> bytes:
    out = bytearray()
    for number, token in enumerate(tokens):
        kind = token.kind
        if kind == ",":
            out += b", "
            continue
        if kind == ADDRESS:
            out += quote(internal(token))
        elif kind == QUOTED:
            out += b'"' + _TO_QUOTE.sub(rb"\\\1", token.text) + b'"'
        elif kind == LITERAL:
            out += b"[" + _TO_QUOTE_LITERAL.sub(rb"\\\1", token.text) + b"]"
        else:
            out += _same(token)
        if loose and _blank_after(tokens, number):
            out += b" "
    return bytes(out)


def _blank_after(tokens: Sequence[Token], number: int) -> bool:
    if number + 1 == len(tokens):
        return False
    kind, following = tokens[number].kind, tokens[number + 1].kind
    if kind in (",", GROUP) or following == "<":
        return True
    return kind in _PLAIN and following in _PLAIN


def comment(text: str) -> str:
    """``text`` fit to stand in a header's comment: ASCII, no backslash, balanced parentheses."""
    out, depth = [], 0
    for char in text:
        if not " " <= char <= "~" or char == "\\" or (char == ")" and depth == 0):
            char = "?"
        elif char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
        out.append(char)
    return "".join(out) + ")" * depth


# -- quotes


def quote(text: bytes) -> bytes:
    """The external form of an internal form: the local part quoted where it must be.  A source route before
    it is left alone."""
    start = text.find(b":") + 1 if text[:1] == b"@" else 0
    at = text.rfind(b"@", start)
    local, rest = (text[start:], b"") if at < 0 else (text[start:at], text[at:])
    if _DOT_STRING.fullmatch(local):
        return text
    return text[:start] + b'"' + _TO_QUOTE.sub(rb"\\\1", local) + b'"' + rest


def unquote(text: bytes) -> bytes:
    """The internal form of an external form."""
    if b'"' not in text and b"\\" not in text:
        return text
    start = text.find(b":") + 1 if text[:1] == b"@" else 0
    out = bytearray(text[:start])
    quoted, bare_at, rest = False, -1, b""
    at = start
    while at < len(text):
        char = text[at : at + 1]
        at += 1
        if char == b'"':
            quoted = not quoted
            continue
        if char == b"@" and not quoted:
            bare_at, rest = len(out), text[at - 1 :]
        elif char == b"\\":
            if at == len(text):
                continue
            char = text[at : at + 1]
            at += 1
        out += char
    return bytes(out[:bare_at]) + rest if bare_at >= 0 else bytes(out)
