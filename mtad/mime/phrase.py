"""A person's name, as it stands beside the address in a header.

:func:`full_name` makes a phrase (``"J. Doe" <address>``) or a comment (``address (J. Doe)``) of it; what is
not ASCII becomes encoded words of at most 75 characters, with LF between them.  Nothing is raised.

RFC 5322 section 3.4, RFC 2047.  Postfix counterpart: ``ascii_header_text(3)``, ``rfc2047_code(3)``.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable

from mtad.wire.tokens import ADDRESS, QUOTED, Token, header_text, scan

_CONTROL = re.compile(rb"[\x00-\x20\x7f]+")
_SPECIAL = re.compile(rb"[%!()<>@,;:\\\".\[\]]")
_NO_TOKEN = re.compile(rb"[\x00-\x20\x7f-\xff()<>@,;:\\\"/\[\]?.=]")
_IN_COMMENT = re.compile(rb"[\x00-\x1f\x7f-\xff =?_()\\]")
_IN_PHRASE = re.compile(rb"[\x00-\x1f\x7f-\xff =?_()<>@,;:\\\".\[\]#$%&'^`{|}~]")
_LONGEST = 75
_SHORT = 20


def full_name(name: bytes, charset: bytes, *, comment: bool, warn: Callable[[str], None]) -> bytes:
    """The text for ``name``; empty where there is nothing to say.  ``warn`` is told of a bad charset."""
    name = _CONTROL.sub(b" ", name).strip(b" ")
    if not name:
        return b""
    if not name.isascii():
        return _encoded(name, charset, comment, warn)
    return _comment(name) if comment else _phrase(name)


def _phrase(name: bytes) -> bytes:
    tokens = [Token(QUOTED, name)] if _SPECIAL.search(name) else scan(name)
    assert all(token.kind != ADDRESS for token in tokens)
    return header_text(tokens, lambda text: None)


def _comment(name: bytes) -> bytes:
    out = bytearray()
    depth = at = 0
    while at < len(name):
        char = name[at : at + 1]
        at += 1
        if char == b"\\":
            out += name[at - 1 : at + 1] if at < len(name) else b""
            at += 1
            continue
        if char == b"(":
            depth += 1
        elif char == b")":
            if not depth:
                continue
            depth -= 1
        out += char
    out += b")" * depth
    return bytes(out) if out.strip() else b""


def _encoded(name: bytes, charset: bytes, comment: bool, warn: Callable[[str], None]) -> bytes:
    if len(charset) > _LONGEST // 2 or _NO_TOKEN.search(charset):
        warn(f"rfc2047_encode: unreasonable charset name: '{charset.decode('latin-1')[:100]}'")
        return b""
    if not comment and name.startswith(b'"'):
        warn(f"rfc2047_encode: encoder called with quoted word as input: '{name.decode('latin-1')}'")
        return b""
    special = _IN_COMMENT if comment else _IN_PHRASE
    if len(name) >= _SHORT and len(special.findall(name)) >= len(name) // 2:
        return _base64(name, charset)
    return _quoted(name, charset, special)


def _base64(name: bytes, charset: bytes) -> bytes:
    start = b"=?%b?B?" % charset
    width = 3 * ((_LONGEST - 2 - len(start)) >> 2)
    pieces = [name[at : at + width] for at in range(0, len(name), width)]
    return b"\n".join([start + base64.b64encode(piece) + b"?=" for piece in pieces])


def _quoted(name: bytes, charset: bytes, special: re.Pattern[bytes]) -> bytes:
    start = b"=?%b?Q?" % charset
    words: list[bytes] = []
    word, room = b"", 0
    for code in name:
        char = bytes([code])
        if char == b" ":
            char = b"_"
        elif special.match(char):
            char = b"=%02X" % code
        if not words or room <= 0 or room < len(char):
            if words:
                words[-1] = word
            words.append(b"")
            word, room = b"", _LONGEST - 2 - len(start)
        word += char
        room -= len(char)
    words[-1] = word
    return b"\n".join([start + each + b"?=" for each in words])
