"""``regexp:``: POSIX regular expressions, as the C library has them.

Lines are ``/pattern/flags result``; flags ``i`` (case matters), ``m`` (lines), ``x`` (basic instead of
extended syntax).  See :mod:`mtad.tables.rules`.

Only where the C library is glibc, whose ``regex_t`` is known here; else :class:`~mtad.errors.ConfigError`.

Postfix counterpart: ``dict_regexp(3)``, ``regexp_table(5)``.
"""

from __future__ import annotations

import ctypes
import locale
import platform
import weakref
from typing import ClassVar

from mtad.errors import ConfigError
from mtad.tables.rules import BadRule, ExpressionTable
from mtad.tables.table import Options

_EXTENDED, _ICASE, _NEWLINE = 1, 2, 4
_GROUPS = 100
_REGEX_SIZE = 256  # more than any regex_t has
_libc = ctypes.CDLL(None)


class _Match(ctypes.Structure):
    _fields_ = (("start", ctypes.c_int), ("end", ctypes.c_int))


def _error(code: int, regex: ctypes.Array[ctypes.c_char]) -> str:
    text = ctypes.create_string_buffer(256)
    _libc.regerror(code, ctypes.byref(regex), text, ctypes.c_size_t(len(text)))
    return text.value.decode("utf-8", "replace")


class _Expression:
    """One compiled expression."""

    def __init__(self, pattern: bytes, flags: int) -> None:
        self._regex = ctypes.create_string_buffer(_REGEX_SIZE)
        # a byte is a character, as in Postfix's processes, whose locale is C
        before = locale.setlocale(locale.LC_CTYPE)
        locale.setlocale(locale.LC_CTYPE, "C")
        try:
            code = _libc.regcomp(ctypes.byref(self._regex), pattern, flags)
        finally:
            locale.setlocale(locale.LC_CTYPE, before)
        if code:
            raise BadRule(_error(code, self._regex))
        weakref.finalize(self, _libc.regfree, ctypes.byref(self._regex))
        probe = ctypes.cast(self._regex, ctypes.POINTER(ctypes.c_size_t))
        # glibc's regex_t: buffer, allocated, used, syntax, fastmap, translate, re_nsub
        self.groups = probe[6]
        self._count = min(self.groups + 1, _GROUPS)
        self._found = _Match * self._count

    def match(self, key: bytes) -> tuple[bytes | None, ...] | None:
        found = self._found()
        if _libc.regexec(self._regex, key, ctypes.c_size_t(self._count), found, 0):
            return None
        return tuple(key[m.start : m.end] if m.start >= 0 else None for m in found[1:])


class RegexpTable(ExpressionTable):
    """Rules whose patterns are POSIX regular expressions.

    ``/pattern/!/other/ result`` is for keys that are like the one and not like the other.
    """

    kind = "regexp"
    flags: ClassVar = {"i": _ICASE, "m": _NEWLINE, "x": _EXTENDED}
    usual_flags = _EXTENDED | _ICASE
    end_of_flags = b"!"
    no_number = "out-of-range"

    def __init__(self, spec: str, options: Options, name: str) -> None:
        if platform.libc_ver()[0] != "glibc":
            raise ConfigError("unsupported dictionary type: regexp", remedy="use pcre instead")
        super().__init__(spec, options, name)

    def compile(self, text: bytes, flags: int) -> _Expression:
        return _Expression(text, flags)
