"""What an address comes to: its final form, its class, and whether it can be handled at all.

:class:`Resolver` completes an address (local context), strips our own domains from it as long as the rest
is an address of its own (``user%remote@local``), puts ``empty_address_recipient`` in place of an empty local
part, and classifies what is left.  Raises :class:`~mtad.errors.TableError` when a table that defines a
class fails.

Postfix counterpart: ``resolve_addr()`` in ``trivial-rewrite(8)``, ``smtpd_resolve(3)``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from mtad.errors import TableError
from mtad.rewrite.address import Rewriter, last
from mtad.rewrite.classes import DEFAULT, LOCAL, AddressClasses
from mtad.rewrite.hostnames import literal_address, valid_address, valid_domain
from mtad.tables.table import fold, is_utf8
from mtad.wire.tokens import ADDRESS, QUOTED, Token, internal, quote, scan

if TYPE_CHECKING:
    from mtad.wire.events import Address

#: Addresses that are remembered, where no table has a say: each is asked for several times in a transaction.
_RECENT_LIMIT = 100
#: Nothing to strip: a local part without quotes and operators, and a domain without a dot at its end.
_USUAL = re.compile(
    rb"[A-Za-z0-9#$&'*+/=?^_`{}~-]+(?:\.[A-Za-z0-9#$&'*+/=?^_`{}~-]+)*"
    rb"@([A-Za-z0-9_.\x80-\xff-]*[A-Za-z0-9_\x80-\xff-]|\[[0-9A-Za-z:.]*\])"
)


def usual_domain(text: bytes) -> bytes:
    """The domain of an address that there is nothing to strip from, else nothing."""
    usual = _USUAL.fullmatch(text)
    return b"" if usual is None else usual[1]


class Resolution(NamedTuple):
    """A resolved address.

    ``text`` is its final internal form, always with a domain; ``key`` the same case-folded, for tables.
    ``routed``: the local part holds an ``@``, ``!`` or ``%`` that another host might act on.
    ``invalid``: no address that can be delivered; ``option``: only since it begins with ``-``, and might be
    taken for an option of a command.
    """

    text: bytes
    key: bytes
    domain: bytes
    kind: str
    routed: bool
    invalid: bool
    option: bool = False


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
        found = await self.resolve_completed(self._rewriter.rewrite_internal(address.text))
        if self._classes.fixed:
            if len(self._recent) >= _RECENT_LIMIT:
                self._recent.clear()
            self._recent[address.text] = found
        return found

    async def resolve_completed(self, text: bytes) -> Resolution:
        """:meth:`resolve` for an address that is completed: ``user@host`` gets no more domain."""
        domain = usual_domain(text)
        usual = bool(domain)
        if usual:
            local = await self._is_local(domain)
        else:
            text, local = await self._strip(text)
            domain = text.rpartition(b"@")[2]
        if not self._valid(text, domain):
            if not (self._numeric_domain and self._valid_text(text) and valid_address(domain)):
                return Resolution(text, fold(text), domain, DEFAULT, False, True)
            text, domain = text[: -len(domain)] + b"[" + domain + b"]", b"[" + domain + b"]"
            local = local or await self._is_local(domain)
        kind = LOCAL if local else self._classes.known(domain) or await self._classes.classify_domain(domain)
        if kind == LOCAL and not local:  # such as u@"x@local", which is not here
            kind = DEFAULT
        user = text[: -len(domain) - 1]
        routed = not usual and (b"@" in user or b"%" in user or b"!" in user)
        option = not self._dash and text[:1] == b"-"
        return Resolution(text, fold(text), domain, kind, routed, option, option)

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

    async def _strip(self, text: bytes) -> tuple[bytes, bool]:
        """Strip our own domains: what is left of the address, and whether it is here."""
        address = Token(ADDRESS, parts=scan(quote(text)))
        address.loose = True
        saved: list[Token] = []
        for _ in range(len(text) + 100):
            parts = address.parts
            kinds = [token.kind for token in parts]
            if kinds[-1:] == ["."] and "@" in kinds and kinds[-2] not in (".", "@"):
                del parts[-1], kinds[-1]
            if self._null_domain and kinds[-1:] == ["@"]:
                del parts[-1], kinds[-1]
            if "@" in kinds:
                at = last(kinds, "@")
                domain = Token(ADDRESS, parts=parts[at + 1 :])
                domain.loose = address.loose
                if domain.parts and not await self._is_local(internal(domain)):
                    return internal(address), False
                saved = parts[at:]
                del parts[at:]
            if self._operators(address):
                self._rewriter.rewrite_tokens(address)
            elif not parts or (len(parts) == 1 and parts[0].kind == QUOTED and not parts[0].text):
                address.parts = scan(self._empty)
                address.loose = True
            elif saved:
                parts += saved
                return internal(address), True
            else:
                parts += [Token("@"), *scan(self._myhostname)]
        raise TableError(f"resolve_addr: <{text!r}>: giving up after {len(text) + 100} iterations")

    def _operators(self, address: Token) -> bool:
        """Whether what is left is an address of its own; one in quotes is taken out of them."""
        rewriter, parts = self._rewriter, address.parts
        kinds = [token.kind for token in parts]
        if (
            "@" in kinds
            or ("!" in kinds and rewriter.swap_bangpath)
            or ("%" in kinds and rewriter.percent_hack)
        ):
            return True
        if not self._dequoted or kinds != [QUOTED]:
            return False
        inner = parts[0].text
        if b"@" in inner:
            inner = quote(inner)
        elif rewriter.percent_hack and b"%" in inner:
            user, _, site = inner.rpartition(b"%")
            inner = quote(user + b"@" + site)
        elif not (rewriter.swap_bangpath and b"!" in inner):
            return False
        address.parts = scan(inner)
        address.loose = True
        return True

    async def _is_local(self, domain: bytes) -> bool:
        answer = self._classes.is_local_domain(domain)
        return answer if isinstance(answer, bool) else await answer

    def _valid(self, text: bytes, domain: bytes) -> bool:
        """Whether an address with this domain can be delivered to."""
        if domain[:1] == b"[":
            return literal_address(domain) is not None
        return self._valid_text(text) and valid_domain(domain, self._utf8)

    def _valid_text(self, text: bytes) -> bool:
        return not self._utf8 or text.isascii() or is_utf8(text)
