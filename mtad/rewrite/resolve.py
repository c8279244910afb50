"""What an address comes to: its final form, its class, and whether it can be handled at all.

:class:`Resolver` completes an address (local context), strips our own domains from it as long as the rest
is an address of its own (``user%remote@local``), puts ``empty_address_recipient`` in place of an empty local
part, and classifies what is left.  Raises :class:`~mtad.errors.TableError` when a table that defines a
class fails.

Postfix counterpart: ``resolve_addr()`` in ``trivial-rewrite(8)``, ``smtpd_resolve(3)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mtad.errors import TableError
from mtad.rewrite.address import Rewriter, needs_quotes, split
from mtad.rewrite.classes import DEFAULT, LOCAL, AddressClasses
from mtad.rewrite.hostnames import literal_address, valid_address, valid_domain
from mtad.tables.table import fold, is_utf8

if TYPE_CHECKING:
    from mtad.wire.events import Address

#: Addresses that are remembered, where no table has a say: each is asked for several times in a transaction.
_RECENT_LIMIT = 100


class Resolution(NamedTuple):
    """A resolved address.

    ``text`` is its final internal form, always with a domain; ``key`` the same case-folded, for tables.
    ``routed``: the local part holds an ``@``, ``!`` or ``%`` that another host might act on.
    ``invalid``: no address that can be delivered.
    """

    text: bytes
    key: bytes
    domain: bytes
    kind: str
    routed: bool
    invalid: bool


class Resolver:
    """The resolving rules of one configuration."""

    def __init__(self, rewriter: Rewriter, classes: AddressClasses) -> None:
        p = rewriter.p
        self._rewriter = rewriter
        self._classes = classes
        self._null_domain = p.flag("resolve_null_domain")
        self._numeric_domain = p.flag("resolve_numeric_domain")
        self._dequoted = p.flag("resolve_dequoted_address")
        self._dash = p.flag("allow_min_user")
        self._utf8 = p.flag("smtputf8_enable")
        self._myhostname = p["myhostname"].encode()
        self._recent: dict[bytes, Resolution] = {}
        self._empty = p["empty_address_recipient"].encode()

    async def resolve(self, address: Address) -> Resolution:
        """What ``address`` comes to."""
        known = self._recent.get(address.text)
        if known is not None:
            return known
        text = address.text
        found = await self._resolved(*(self._rewriter.rewrite_parts(*split(text)) if text else (b"", None)))
        if self._classes.fixed:
            if len(self._recent) >= _RECENT_LIMIT:
                self._recent.clear()
            self._recent[address.text] = found
        return found

    async def resolve_completed(self, text: bytes) -> Resolution:
        """:meth:`resolve` for an address that is completed: ``user@host`` gets no more domain."""
        return await self._resolved(*(split(text) if text else (b"", None)))

    async def _resolved(self, local: bytes, domain: bytes | None) -> Resolution:
        local, domain, kind = await self._strip(local, domain, len(local) + 100)
        valid = self._valid(local, domain)
        if not valid and self._numeric_domain and valid_address(domain):
            valid, domain = True, b"[" + domain + b"]"
            kind = self._classes.known(domain) or await self._classes.classify_domain(domain)
        text = local + b"@" + domain
        if not valid or (not self._dash and text[:1] == b"-"):
            return Resolution(text, fold(text), domain, DEFAULT, False, True)
        routed = b"@" in local or b"%" in local or b"!" in local
        return Resolution(text, fold(text), domain, kind, routed, False)

    async def acceptable(self, address: Address, smtputf8: bool) -> bool:
        """Whether an envelope address may be taken at all: syntax only, no matter whose it is.

        A class that can't be told now is no objection.
        """
        if not address.text:
            return True
        try:
            found = await self.resolve(address)
        except TableError:
            return True
        return not found.invalid and (smtputf8 or found.domain.isascii())

    async def _strip(self, local: bytes, domain: bytes | None, limit: int) -> tuple[bytes, bytes, str]:
        """Strip our own domains: what is left of the address, and the class of its domain."""
        saved: bytes | None = None
        for _ in range(limit):
            if domain is not None:
                domain = _without_dot(domain)
                if domain:
                    kind = self._classes.known(domain) or await self._classes.classify_domain(domain)
                    if kind != LOCAL:
                        return local, domain, kind
                    saved = domain
                elif not self._null_domain:
                    saved = domain
            inner = self._inner(local)
            if inner is not None:
                local, domain = inner
            elif not local and self._empty:
                local, domain = split(self._empty)
            elif saved is not None:
                return local, saved, LOCAL
            else:
                domain = self._myhostname
        raise TableError(f"resolve_addr: <{local!r}>: giving up after {limit} iterations")

    def _inner(self, local: bytes) -> tuple[bytes, bytes | None] | None:
        """The address that is the local part of one of ours, if it is one."""
        rewriter = self._rewriter
        if b"@" not in local and b"%" not in local and b"!" not in local:
            return None
        user, site = rewriter.operators(local)
        if site is None and self._dequoted and needs_quotes(local):
            if b"@" in local:
                user, site = split(local)
            elif rewriter.percent_hack and b"%" in local:
                user, _, site = local.rpartition(b"%")
            elif rewriter.swap_bangpath and b"!" in local:
                site, _, user = local.partition(b"!")
        return None if site is None else rewriter.rewrite_parts(user, site)

    def _valid(self, local: bytes, domain: bytes) -> bool:
        """Whether these parts can be delivered to."""
        if domain[:1] == b"[":
            return literal_address(domain) is not None
        if self._utf8 and not (local.isascii() and domain.isascii()) and not is_utf8(local + domain):
            return False
        return valid_domain(domain, self._utf8)


def _without_dot(domain: bytes) -> bytes:
    if domain[-1:] == b"." and len(domain) > 1 and domain[-2:-1] != b".":
        return domain[:-1]
    return domain
