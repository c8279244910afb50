"""The grammar of command lines: words, verbs, encoded parameter values.

A line is split at white space, except within ``<...>`` and ``"..."``; ``FROM:`` and ``TO:`` end a
word.  That is what Postfix accepts, wider than RFC 5321 section 4.1.2: ``MAIL FROM: <a@b>``,
``RCPT TO:a@b``.  Nothing here raises; the functions that decode return None for bad input.

Postfix counterpart: ``smtpd_token.c``, ``is_header.c``, ``xtext.c``, ``dsn_mask.c``.
"""

from __future__ import annotations

import re
from functools import lru_cache

#: The verbs that Postfix knows: those it counts by name in ``disconnect from``.
VERBS = frozenset(
    b"HELO EHLO XCLIENT XFORWARD STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP VRFY ETRN QUIT HELP".split()
)

#: Allowed before STARTTLS where TLS is required.
BEFORE_TLS = frozenset((b"HELO", b"EHLO", b"XCLIENT", b"STARTTLS", b"NOOP", b"QUIT", b"HELP"))

#: Only at the end of a pipelined group (RFC 2920 section 3.1).
ENDS_GROUP = frozenset((b"HELO", b"EHLO", b"DATA", b"NOOP", b"VRFY"))

_PLAIN = re.compile(rb"[^\\\"<:]*")
_SPACE = b" \t\n\v\f\r"
# A run that means nothing to the splitter, or an escaped character.
_RUN = re.compile(rb"[^\\\"<: \t\n\v\f\r]+|\\.?", re.DOTALL)
_QUOTED = re.compile(rb"[^\\\"<>]+|\\.?|[\"<>]", re.DOTALL)
_HEADER = re.compile(rb"[!-9;-~]+[ \t]*:")

_XTEXT_HEX = re.compile(rb"\+([0-9A-Fa-f]{2})?")
_UNICODE_ESCAPE = re.compile(rb"\\x\{([0-9A-Fa-f]{0,8}\}?)")


def _closing(line: bytes, at: int) -> int | None:
    """The index behind what closes the ``<`` or ``"`` at ``at``; None: nothing closes it."""
    open_ = [b">" if line[at : at + 1] == b"<" else b'"']
    at += 1
    while m := _QUOTED.match(line, at):
        at = m.end()
        token = m.group()
        if token == open_[-1]:
            open_.pop()
            if not open_:
                return at
        elif token == b'"' or (token == b"<" and open_[-1] == b">"):
            open_.append(b">" if token == b"<" else b'"')
    return None


def _word(line: bytes, at: int) -> tuple[bytes, int, bool]:
    """The word that begins at or after ``at``, the index behind it, and whether it is malformed."""
    size = len(line)
    while at < size and line[at] in _SPACE:
        at += 1
    start = at
    while at < size:
        if m := _RUN.match(line, at):
            at = m.end()
            continue
        char = line[at : at + 1]
        if char in b'<"':
            end = _closing(line, at)
            if end is None:
                return line[start:], size, True
            at = end
        elif char == b":":
            at += 1
            if line[start:at].lower() in (b"to:", b"from:"):
                break
        else:
            break
    return line[start:at], at, False


def first_word(line: bytes) -> tuple[bytes, bytes]:
    """The first word (empty when there is none) and what follows it."""
    word, at, _ = _word(line, 0)
    return word, line[at:]


def split(rest: bytes) -> tuple[list[bytes], bool]:
    """The words of a line, and whether the last of them lacks its closing quote or bracket."""
    if _PLAIN.fullmatch(rest):
        return rest.split(), False
    words: list[bytes] = []
    at, bad = 0, False
    while True:
        word, at, bad = _word(rest, at)
        if not word:
            return words, False
        words.append(word)
        if bad:
            return words, True


def is_header(word: bytes) -> bool:
    """Does this look like a message header, ``Subject:``?"""
    return _HEADER.match(word) is not None


def is_utf8(line: bytes) -> bool:
    """Is this well-formed UTF-8?"""
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def xtext_decode(value: bytes) -> bytes | None:
    """Decode xtext (RFC 3461 section 4)."""
    if b"+" not in value:
        return value
    if any(m.group(1) is None for m in _XTEXT_HEX.finditer(value)):
        return None
    return _XTEXT_HEX.sub(lambda m: bytes((int(m.group(1), 16),)), value)


def xtext_encode(value: bytes) -> bytes:
    """Encode as xtext: what is not printable ASCII, and ``+`` and ``=``, as ``+XX``."""
    return re.sub(rb"[^!-*,-<>-~]", lambda m: b"+%02X" % m.group()[0], value)


def utf8_xtext_encode(value: bytes) -> bytes:
    r"""Encode UTF-8 in the ``utf-8`` address form: all but plain ASCII as ``\x{HEX}``."""
    text = value.decode("utf-8", "replace")
    return re.sub(r"[^!-*,-<>-\[\]-~]", lambda m: f"\\x{{{ord(m.group()):02X}}}", text).encode("ascii")


def utf8_xtext_decode(value: bytes) -> bytes | None:
    r"""Decode the ``utf-8`` address form ``\x{HEX}`` (RFC 6533 section 3)."""
    bad = False

    def decode(m: re.Match[bytes]) -> bytes:
        nonlocal bad
        digits = m.group(1)
        code = int(digits[:-1] or b"0", 16) if digits.endswith(b"}") else 0x110000
        if code > 0x10FFFF:
            bad = True
            return b""
        return chr(code).encode("utf-8", "surrogatepass")

    text = _UNICODE_ESCAPE.sub(decode, value)
    return None if bad else text


def orcpt_of(address: bytes, utf8: bool) -> bytes:
    """ORCPT where the client gave none; ``utf8``: the sender has asked for SMTPUTF8."""
    if utf8 and not address.isascii() and is_utf8(address):
        return b"utf-8;" + utf8_xtext_encode(address)
    return b"rfc822;" + xtext_encode(address)


@lru_cache(maxsize=64)
def notify_conditions(value: bytes) -> frozenset[bytes] | None:
    """The value of NOTIFY= (RFC 3461 section 4.1); None when it is wrong."""
    words = [word for word in re.split(rb"[, \t\r\n]+", value.upper()) if word]
    conditions = frozenset(words)
    if not conditions or not conditions <= {b"NEVER", b"SUCCESS", b"FAILURE", b"DELAY"}:
        return None
    if b"NEVER" in conditions and len(conditions) > 1:
        return None
    return conditions
