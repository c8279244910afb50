"""``pcre:``: Perl-compatible regular expressions, by the system's ``libpcre2-8``.

Lines are ``/pattern/flags result``; flags ``i`` (case matters), ``m`` (lines), ``s`` (dot is not newline),
``x`` (extended), ``A`` (anchored), ``E`` (``$`` is the end only), ``U`` (ungreedy).  See
:mod:`mtad.tables.rules`.  Raises :class:`~mtad.errors.ConfigError` when the library is missing.  A match that
exceeds the library's limits is none, and a warning.

Postfix counterpart: ``dict_pcre(3)``, ``pcre_table(5)``.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import weakref
from functools import cache
from typing import ClassVar

from mtad.errors import ConfigError
from mtad.tables.rules import BadRule, ExpressionTable, MatchFailed

_CASELESS, _DOTALL = 0x8, 0x20
_CAPTURE_COUNT = 4  # what pcre2_pattern_info is asked for
_NO_MATCH = -1


@cache
def _library() -> ctypes.CDLL:
    name = ctypes.util.find_library("pcre2-8") or "libpcre2-8.so.0"
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        raise ConfigError(
            "unsupported dictionary type: pcre", remedy="install the library libpcre2-8"
        ) from error
    for function in (
        library.pcre2_compile_8,
        library.pcre2_match_data_create_from_pattern_8,
        library.pcre2_get_ovector_pointer_8,
    ):
        function.restype = ctypes.c_void_p
    library.pcre2_get_ovector_pointer_8.restype = ctypes.POINTER(ctypes.c_size_t)
    return library


def _message(code: int) -> str:
    """The library's words for an error."""
    text = ctypes.create_string_buffer(256)
    _library().pcre2_get_error_message_8(code, text, ctypes.c_size_t(len(text)))
    return text.value.decode()


class _Expression:
    """One compiled expression."""

    def __init__(self, pattern: bytes, flags: int) -> None:
        library = _library()
        error, offset = ctypes.c_int(), ctypes.c_size_t()
        code = library.pcre2_compile_8(
            pattern,
            ctypes.c_size_t(len(pattern)),
            ctypes.c_uint32(flags),
            ctypes.byref(error),
            ctypes.byref(offset),
            None,
        )
        if not code:
            raise BadRule(f"error in regex at offset {offset.value}: {_message(error.value)}")
        self._code = ctypes.c_void_p(code)
        weakref.finalize(self, library.pcre2_code_free_8, self._code)
        self._data = ctypes.c_void_p(library.pcre2_match_data_create_from_pattern_8(self._code, None))
        weakref.finalize(self, library.pcre2_match_data_free_8, self._data)
        groups = ctypes.c_uint32()
        library.pcre2_pattern_info_8(self._code, _CAPTURE_COUNT, ctypes.byref(groups))
        self.groups = groups.value
        self._library = library

    def match(self, key: bytes) -> tuple[bytes | None, ...] | None:
        count = self._library.pcre2_match_8(
            self._code, key, ctypes.c_size_t(len(key)), ctypes.c_size_t(0), 0, self._data, None
        )
        if count == _NO_MATCH:
            return None
        if count < 0:
            raise MatchFailed(_message(count))
        ends = self._library.pcre2_get_ovector_pointer_8(self._data)
        return tuple(
            key[ends[2 * number] : ends[2 * number + 1]] if number < count else None
            for number in range(1, self.groups + 1)
        )


class PcreTable(ExpressionTable):
    """Rules whose patterns are Perl-compatible regular expressions."""

    kind = "pcre"
    flags: ClassVar = {
        "i": _CASELESS, "m": 0x400, "s": _DOTALL, "x": 0x80, "A": 0x80000000, "E": 0x10, "U": 0x40000, "X": 0,
    }  # fmt: skip
    usual_flags = _CASELESS | _DOTALL
    unclosed = "ignoring this rule"

    def compile(self, text: bytes, flags: int) -> _Expression:
        return _Expression(text, flags)
