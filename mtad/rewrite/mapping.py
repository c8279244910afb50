"""Addresses looked up in tables: one for another, one for many, domains for their parents.

:class:`Mapper` asks tables for an address (:mod:`mtad.tables.maps` has the order of keys) and completes what
it gets.  What goes wrong is told to a :class:`Trouble`; the address is then left as it was, and the message
is not to be taken.  Nothing is raised.

Postfix counterpart: ``mail_addr_map(3)``, ``cleanup_map11(3)``, ``cleanup_map1n(3)``,
``cleanup_masquerade(3)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mtad.config.lines import tokens
from mtad.errors import MtadError, TableError
from mtad.tables import StringList
from mtad.tables.maps import Find
from mtad.tables.table import fold
from mtad.wire.tokens import addresses, parse, quote, unquote, written

if TYPE_CHECKING:
    from mtad.rewrite.address import Rewriter
    from mtad.tables.maps import IsLocal, Maps

_DEEPEST = 10
_KEYS = Find.DEFAULT | Find.QUOTED
AGAIN = "message not accepted, try again later"


class Trouble(Protocol):
    """Who is told what went wrong with a message."""

    def lookup_failed(self, error: MtadError, text: str) -> None:
        """A table could not be asked, or its answer is of no use: the message can't be taken now."""

    def expansion_failed(self, text: str, error: MtadError | None = None) -> None:
        """An alias can't be expanded (because of ``error``): the message can't be taken now."""

    def odd(self, text: str) -> None:
        """Something is strange, and no reason to stop."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How far aliases are followed."""

    expansion: int
    recursion: int
    address_length: int


class Mapper:
    """The rules by which addresses are found in tables, and results completed."""

    def __init__(self, rewriter: Rewriter, delimiter: str, is_local: IsLocal | None) -> None:
        self._rewriter = rewriter
        self._delimiter = delimiter
        self._is_local = is_local
        self._myorigin = rewriter.myorigin

    async def find(self, maps: Maps, address: bytes) -> bytes | None:
        """The result for ``address`` as it is, or None.  Raises what the table raises."""
        return await maps.find_address(address, self._delimiter, self._is_local, self._myorigin)

    async def results(self, maps: Maps, address: bytes, propagate: bool) -> list[bytes] | None:
        """The addresses that the tables have for ``address``, at least one, all in internal form.  Raises
        what the table raises, and TableError for what is no address."""
        found = await maps.match_address(address, self._delimiter, self._is_local, self._myorigin, _KEYS)
        if found is None:
            return None
        value, extension = found
        if value[:1] == b"@":  # the user there
            user = address.rpartition(b"@")[0] if b"@" in address else address
            value = quote(user[: len(user) - len(extension)] + value)
        results = self.crunch(value, extension if propagate else b"")
        if not results:
            what = f'returns non-address result "{_text(value)}"'
            raise TableError(f"{maps.title} lookup of {_text(address)} {what}")
        return results

    def crunch(self, value: bytes, extension: bytes = b"") -> list[bytes]:
        """The addresses in a table's value, completed, with ``extension``, in internal form."""
        if value in (b"", b"<>"):
            value = b'""'
        out: list[bytes] = []
        for address in addresses(parse(value)):
            text = unquote(self._rewriter.rewrite_external(written(address)))
            if extension:
                local, at, domain = text.rpartition(b"@")
                text = local + extension + at + domain if at else text + extension
            out.append(text)
        return out

    async def one(self, maps: Maps, address: bytes, propagate: bool, trouble: Trouble) -> tuple[bytes, bool]:
        """What ``address`` (external form) is mapped to, again and again until it maps to itself; and whether
        that has changed it, be it only for a while."""
        changed = False
        for _ in range(_DEEPEST):
            before = address
            try:
                found = await self.results(maps, unquote(address), propagate)
            except MtadError as error:
                text = f"{maps.title} map lookup problem for {_text(address)} -- {AGAIN}"
                trouble.lookup_failed(error, text)
                return address, changed
            if found is None:
                return address, changed
            if len(found) > 1:
                trouble.odd(f"multi-valued {maps.title} entry for {_text(address)}")
            address = quote(found[0])
            changed |= address != before
            if fold(address) == fold(before):
                return address, changed
        trouble.odd(f"unreasonable {maps.title} map nesting for {_text(address)} -- {AGAIN}")
        return address, changed

    async def many(
        self, maps: Maps, address: bytes, propagate: bool, limits: Limits, trouble: Trouble
    ) -> list[bytes]:
        """What ``address`` (internal form) expands to, aliases of aliases too; itself where it is none."""
        found = [address]
        done: set[bytes] = set()  # what has expanded to itself, once
        at = 0
        while at < len(found):
            if len(found) > limits.expansion:
                trouble.expansion_failed(f"unreasonable {maps.title} map expansion size for {_text(address)}")
                return [address]
            depth = 0
            while fold(found[at]) not in done:
                if depth >= limits.recursion:
                    trouble.expansion_failed(f"unreasonable {maps.title} map nesting for {_text(address)}")
                    return [address]
                depth += 1
                try:
                    results = await self.results(maps, found[at], propagate)
                except MtadError as error:
                    trouble.expansion_failed(f"{maps.title} map lookup problem for {_text(address)}", error)
                    return [address]
                if results is None:
                    break
                long = next((one for one in results if len(one) > limits.address_length), None)
                if long is not None:
                    trouble.expansion_failed(f"unreasonable {maps.title} result {_text(long)[:300]}...")
                    return [address]
                if any(fold(one) == fold(found[at]) for one in results):
                    done.add(fold(found[at]))
                found[at] = results[0]
                found += results[1:]
            at += 1
        return found


class Masquerade:
    """``masquerade_domains``: hides the hosts of a domain, but not from some users."""

    def __init__(self, domains: str, exceptions: StringList | None) -> None:
        self._domains = [_masked(item) for item in tokens(domains) if item.strip("!")]
        self._exceptions = exceptions

    async def apply(self, address: bytes, trouble: Trouble) -> bytes:
        """``address`` (external form), or with a parent of its domain."""
        user, at, domain = address.rpartition(b"@")
        if not at:
            return address
        if self._exceptions is not None:
            try:
                if await self._exceptions.matches(user):
                    return address
            except MtadError as error:
                trouble.lookup_failed(error, f"masquerade_exceptions map lookup problem -- {AGAIN}")
        folded = fold(domain)
        for name, hide in self._domains:
            if folded == name:
                return address
            if folded.endswith(b"." + name):
                return user + b"@" + name if hide else address
        return address


def _masked(item: str) -> tuple[bytes, bool]:
    name = item.lstrip("!")
    return fold(name.encode("utf-8", "surrogateescape")), (len(item) - len(name)) % 2 == 0


def _text(address: bytes) -> str:
    return address.decode("utf-8", "replace")
