"""SASLprep: names and passwords in one form, however they were typed (RFC 4013).

:func:`prepare` never fails: what is not UTF-8, or holds what SASLprep forbids, stays as it is, and so
is compared octet by octet, as libsasl compares all.

RFC 3454, RFC 4013.
"""

from __future__ import annotations

import stringprep
import unicodedata

_FORBIDDEN = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def prepare(text: bytes) -> bytes:
    """``text`` by the rules for stored strings, but unassigned code points may be there."""
    if text.isascii():
        return text
    try:
        mapped = "".join(
            " " if stringprep.in_table_c12(char) else char
            for char in text.decode()
            if not stringprep.in_table_b1(char)
        )
    except UnicodeDecodeError:
        return text
    prepared = unicodedata.normalize("NFKC", mapped)
    if not prepared or any(forbidden(char) for char in prepared for forbidden in _FORBIDDEN):
        return text
    return prepared.encode() if _one_direction(prepared) else text


def _one_direction(text: str) -> bool:
    """RFC 3454 section 6."""
    if not any(map(stringprep.in_table_d1, text)):
        return True
    if any(map(stringprep.in_table_d2, text)):
        return False
    return stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
