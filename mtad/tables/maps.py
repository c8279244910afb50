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
from collections.abc import Awaitable, Callable
from enum import IntFlag

from mtad.errors import MtadError, TableError
from mtad.tables.registry import open_or_defer
from mtad.tables.source import split_list
from mtad.tables.table import Options, Table, no_warning

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
    DEFAULT = FULL | NO_EXTENSION | LOCAL | AT_DOMAIN


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
        self.tables: tuple[Table, ...] = tuple(
            open_or_defer(spec, options, self.problems) for spec in split_list(specs)
        )

    def __bool__(self) -> bool:
        return bool(self.tables)

    def close(self) -> None:
        for table in self.tables:
            table.close()

    async def lookup(self, key: bytes, *, fixed_only: bool = False) -> bytes | None:
        """The first table's value for ``key``.  ``fixed_only`` leaves out tables of patterns."""
        if not key:
            return None
        for table in self.tables:
            if fixed_only and not table.fixed_key:
                continue
            try:
                value = await table.lookup(key)
            except MtadError as error:
                shown = key.decode("utf-8", "replace")
                error.add_note(f'{table.spec} lookup error for "{shown}"')  # for the log, too
                raise
            if value:
                return value
            if value is not None:
                raise TableError(
                    f"{self.title or table.spec} lookup of {key!r} returns an empty string result"
                )
        return None

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
        variants = [(local, b"")]
        if extension and strategy & Find.NO_EXTENSION:
            variants.append((bare, extension))
        for user, dropped in variants if strategy & Find.FULL else variants[1:]:
            value = await self._ask(user, at + domain, not dropped, bool(at))
            if value is not None:
                return value, dropped
        if not at:
            return None
        suffixes = [b""] if strategy & Find.LOCAL else []
        suffixes += [b"@"] if strategy & Find.LOCAL_AT else []
        if suffixes and not await _local(domain, is_local, myorigin):
            suffixes = []
        for suffix in suffixes:
            for user, dropped in variants:
                value = await self._ask(user, suffix, False)
                if value is not None:
                    return value, dropped
        value = await self._by_domain(domain, strategy)
        if value is not None:
            return value, b""
        if strategy & Find.ANY_LOCAL_AT:
            for user, dropped in variants:
                value = await self._ask(user, b"@", False)
                if value is not None:
                    return value, dropped
        return None

    async def _by_domain(self, domain: bytes, strategy: Find) -> bytes | None:
        if strategy & Find.AT_DOMAIN:
            value = await self.lookup(b"@" + domain, fixed_only=True)
            if value is not None:
                return value
        name = domain if strategy & Find.DOMAIN else b""
        while name:
            value = await self.lookup(name, fixed_only=True)
            if value is not None or not strategy & (Find.PARENTS | Find.DOT_PARENTS):
                return value
            dot = name.find(b".", 1)
            if dot < 0:
                break
            name = name[dot:] if strategy & Find.DOT_PARENTS else name[dot + 1 :]
        return None

    async def _ask(self, user: bytes, rest: bytes, whole: bool, quote: bool = True) -> bytes | None:
        """Ask for ``user`` + ``rest``: quoted where it needs quotes, then as it is."""
        if quote and _DOT_STRING.fullmatch(user) is None:
            value = await self.lookup(quote_local(user) + rest, fixed_only=not whole)
            if value is not None:
                return value
        return await self.lookup(user + rest, fixed_only=not whole)


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
