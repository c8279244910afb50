"""A list of tables asked in order, and the order of keys by which a mail address is looked up.

:class:`Maps` is the value of a parameter like ``virtual_alias_maps``: the first table that has the key
answers.  A table that fails ends the search with :class:`~mtad.errors.TableError`; so does one that
answers with an empty text.  Tables that can't be opened fail at lookup (``problems`` tells at once).

:meth:`Maps.find_address` asks for ``user+ext@domain``, ``user@domain``, then, where the domain is local,
``user+ext`` and ``user``, then ``@domain``: see :class:`Find`.  Tables whose keys are patterns see the
whole address only.  Addresses are in internal form (unquoted, RFC 5322 section 3.4.1); tables hold the
external, quoted form, which is asked first, then the internal form.

Postfix counterpart: ``maps(3)``, ``mail_addr_find(3)``, ``strip_addr(3)``.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from enum import IntFlag

from mtad.config.lines import tokens
from mtad.errors import MtadError, TableError
from mtad.tables.registry import open_or_defer
from mtad.tables.table import LocalTable, Options, Table, no_warning

_DOT_STRING = re.compile(rb"[^\x00-\x20\x7f()<>@,;:\\\".\[\]]+(?:\.[^\x00-\x20\x7f()<>@,;:\\\".\[\]]+)*")
_TO_QUOTE = re.compile(rb'([\r\n"\\])')

IsLocal = Callable[[bytes], "bool | Awaitable[bool]"]


class Find(IntFlag):
    """The kinds of keys that :meth:`Maps.find_address` tries, in this order."""

    FULL = 1  # user+ext@domain
    NO_EXTENSION = 2  # user@domain
    LOCAL = 4  # user+ext, user, when the domain is local
    LOCAL_AT = 8  # user+ext@, user@, when the domain is local
    AT_DOMAIN = 16  # @domain
    DOMAIN = 32  # domain
    PARENTS = 64  # with DOMAIN: parent domains too
    DOT_PARENTS = 128  # with DOMAIN: .parent domains too
    ANY_LOCAL_AT = 256  # user+ext@, user@, whatever the domain
    QUOTED = 512  # of all these the external form only
    DEFAULT = FULL | NO_EXTENSION | LOCAL | AT_DOMAIN


(
    _FULL,
    _NO_EXTENSION,
    _LOCAL,
    _LOCAL_AT,
    _AT_DOMAIN,
    _DOMAIN,
    _PARENTS,
    _DOT_PARENTS,
    _ANY_LOCAL_AT,
    _QUOTED,
) = map(int, Find)


class Maps:
    """The tables of one parameter."""

    def __init__(
        self,
        specs: str,
        config_directory: str = ".",
        *,
        title: str = "",
        warn: Callable[[str], None] = no_warning,
        value_is_file: bool = False,
        raw: bool = False,
    ) -> None:
        """``raw``: keys are content, whose case matters and which may be no UTF-8."""
        options = Options(
            directory=config_directory, warn=warn, value_is_file=value_is_file, fold=not raw, utf8=not raw
        )
        self.title = title
        self.problems: list[MtadError] = []
        self.tables = tuple(open_or_defer(spec, options, self.problems) for spec in tokens(specs))

    @property
    def tables(self) -> tuple[Table, ...]:
        """The tables, in the order they are asked."""
        return self._tables

    @tables.setter
    def tables(self, tables: tuple[Table, ...]) -> None:
        self._tables = tables
        self._direct = tuple(table for table in tables if isinstance(table, LocalTable) and table.at_once)
        self.at_once = len(self._direct) == len(tables)
        #: whether keys that only tables with fixed keys are asked for are worth making
        self.only_patterns = self.at_once and not any(table.fixed_key for table in tables)

    def __bool__(self) -> bool:
        return bool(self.tables)

    def close(self) -> None:
        for table in self.tables:
            table.close()

    async def lookup(self, key: bytes, *, fixed_only: bool = False) -> bytes | None:
        """The first table's value for ``key``.  ``fixed_only`` leaves out tables of patterns."""
        if self.at_once:
            return self.answer(key, fixed_only)
        for table in self.tables if key else ():
            if fixed_only and not table.fixed_key:
                continue
            try:
                value = await table.lookup(key)
            except MtadError as error:
                _note(error, table, key)
                raise
            if value is not None:
                return self._filled(table, key, value)
        return None

    def answer(self, key: bytes, fixed_only: bool) -> bytes | None:
        """:meth:`lookup` without the coroutine, where all tables answer at once."""
        for table in self._direct if key else ():
            if fixed_only and not table.fixed_key:
                continue
            try:
                value = table.answer(key)
            except MtadError as error:
                _note(error, table, key)
                raise
            if value is not None:
                return self._filled(table, key, value)
        return None

    def _filled(self, table: Table, key: bytes, value: bytes) -> bytes:
        """The value, which may not be empty."""
        if not value:
            text = f"{self.title or table.spec} lookup of {key!r} returns an empty string result"
            raise TableError(text)
        return value

    async def find_address(
        self,
        address: bytes,
        delimiter: str = "",
        is_local: IsLocal | None = None,
        myorigin: bytes = b"",
        strategy: Find = Find.DEFAULT,
    ) -> bytes | None:
        """The value for ``address``, by the keys of ``strategy``."""
        found = await self.match_address(address, delimiter, is_local, myorigin, strategy)
        return None if found is None else found[0]

    async def match_address(
        self,
        address: bytes,
        delimiter: str = "",
        is_local: IsLocal | None = None,
        myorigin: bytes = b"",
        strategy: Find = Find.DEFAULT,
    ) -> tuple[bytes, bytes] | None:
        """As :meth:`find_address`, with the address extension (``+ext``) that the matching key left out."""
        if not self.tables:
            return None
        local, at, domain = address.rpartition(b"@")
        if not at:
            local, domain = address, b""
        bare, extension = split_extension(local, delimiter)
        wanted = int(strategy)  # operations on flags cost more than lookups
        variants = [(local, b"")]
        if extension and wanted & _NO_EXTENSION:
            variants.append((bare, extension))
        quoted = [
            (user, user if not at or _DOT_STRING.fullmatch(user) else quote_local(user), dropped)
            for user, dropped in variants
        ]
        if wanted & _QUOTED:
            quoted = [(external := quote_local(user), external, dropped) for user, dropped in variants]
        keys: list[_Key] = []
        for user, external, dropped in quoted if wanted & _FULL else quoted[1:]:
            if external is not user:
                keys.append((external + at + domain, bool(dropped), dropped))
            keys.append((user + at + domain, bool(dropped), dropped))
        if not at:
            return await self._first(keys)
        suffixes = [b""] if wanted & _LOCAL else []
        suffixes += [b"@"] if wanted & _LOCAL_AT else []
        if suffixes:
            found = await self._first(keys)
            if found is not None:
                return found
            keys = []
            if await _local(domain, is_local, myorigin):
                for suffix in suffixes:
                    keys += _local_keys(quoted, suffix)
        keys += _domain_keys(domain, wanted)
        if wanted & _ANY_LOCAL_AT:
            keys += _local_keys(quoted, b"@")
        return self._first_at_once(keys) if self.at_once else await self._first(keys)

    def _first_at_once(self, keys: Sequence[_Key]) -> tuple[bytes, bytes] | None:
        for key, fixed_only, dropped in keys:
            value = self.answer(key, fixed_only)
            if value is not None:
                return value, dropped
        return None

    async def _first(self, keys: Sequence[_Key]) -> tuple[bytes, bytes] | None:
        """The value of the first key that is there, and what it left out."""
        if self.at_once:
            return self._first_at_once(keys)
        for key, fixed_only, dropped in keys:
            value = await self.lookup(key, fixed_only=fixed_only)
            if value is not None:
                return value, dropped
        return None


#: What to ask for, whether of tables with fixed keys only, and the extension that the key left out.
_Key = tuple[bytes, bool, bytes]


def _note(error: MtadError, table: Table, key: bytes) -> None:
    """For the log, too."""
    error.add_note(f'{table.spec} lookup error for "{key.decode("utf-8", "replace")}"')


def _local_keys(users: Sequence[tuple[bytes, bytes, bytes]], suffix: bytes) -> list[_Key]:
    """Keys without a domain: quoted where it needs quotes, then as they are."""
    keys: list[_Key] = []
    for user, external, dropped in users:
        if external is not user:
            keys.append((external + suffix, True, dropped))
        keys.append((user + suffix, True, dropped))
    return keys


def _domain_keys(domain: bytes, wanted: int) -> list[_Key]:
    keys: list[_Key] = []
    if wanted & _AT_DOMAIN:
        keys.append((b"@" + domain, True, b""))
    name = domain if wanted & _DOMAIN else b""
    while name:
        keys.append((name, True, b""))
        dot = name.find(b".", 1)
        if dot < 0 or not wanted & (_PARENTS | _DOT_PARENTS):
            break
        name = name[dot:] if wanted & _DOT_PARENTS else name[dot + 1 :]
    return keys


async def _local(domain: bytes, is_local: IsLocal | None, myorigin: bytes) -> bool:
    if myorigin and domain.lower() == myorigin.lower():
        return True
    if is_local is None:
        return False
    answer = is_local(domain)
    return answer if isinstance(answer, bool) else await answer


def quote_local(local: bytes) -> bytes:
    """A local part in external form (RFC 5322 section 3.4.1)."""
    if _DOT_STRING.fullmatch(local):
        return local
    return b'"' + _TO_QUOTE.sub(rb"\\\1", local) + b'"'


def split_extension(local: bytes, delimiter: str) -> tuple[bytes, bytes]:
    """``user+ext`` as ``(user, +ext)``; the extension is empty when there is none to split off.

    ``delimiter`` is a set of characters (``recipient_delimiter``).  System addresses are left whole,
    and list-owner and list-request addresses when ``-`` is a delimiter.
    """
    if not delimiter:
        return local, b""
    where = [position for char in delimiter.encode() if (position := local.find(char)) >= 0]
    if not where or min(where) == 0:
        return local, b""
    lower = local.lower()
    if lower in (b"postmaster", b"mailer-daemon", b"double-bounce"):
        return local, b""
    if "-" in delimiter and (
        lower.startswith(b"owner-") or (lower.endswith(b"-request") and len(lower) > len(b"-request"))
    ):
        return local, b""
    return local[: min(where)], local[min(where) :]
