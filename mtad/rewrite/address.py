"""Addresses made complete.

:class:`Rewriter` gives an address its full ``user@domain`` form by the rules of the *local* context (all
envelope addresses, and the headers of clients that ``local_header_rewrite_clients`` names) or of the
*remote* one (``remote_header_rewrite_domain`` takes the place of ``$myorigin`` and ``$mydomain``; while it is
empty, headers of remote clients are left alone).  It raises nothing and looks nothing up.

What is complete already, as nearly all are, is seen at a glance; all else goes by its tokens.

Postfix counterpart: ``rewrite_tree()`` in ``trivial-rewrite(8)``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mtad.wire.address import from_text
from mtad.wire.events import Address
from mtad.wire.tokens import ADDRESS, LITERAL, QUOTED, Token, external, quote, scan, unquote

if TYPE_CHECKING:
    from mtad.config.parameters import Parameters

#: What is complete in any case: no quotes, and a dot in the domain.
_COMPLETE = re.compile(
    rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]*[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]@[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+"
)


class Rewriter:
    """The rewriting rules of one configuration: main.cf itself, without the ``-o`` of any service."""

    def __init__(self, p: Parameters) -> None:
        self.p = p
        self._at_myorigin = p.flag("append_at_myorigin")
        self._dot_mydomain = p.flag("append_dot_mydomain")
        self.swap_bangpath = p.flag("swap_bangpath")
        self.percent_hack = p.flag("allow_percent_hack")
        self.myorigin = p["myorigin"].encode()
        self._local = (self.myorigin, p["mydomain"].encode())
        remote = p["remote_header_rewrite_domain"].encode()
        self._remote = (remote, remote)
        #: headers of remote clients are rewritten at all
        self.rewrites_remote = bool(remote)

    def rewrite(self, address: Address, remote: bool = False) -> Address:
        """``address`` in complete form; the null address and one that is complete come back as they are."""
        after = self.rewrite_internal(address.text, remote)
        return address if after == address.text else from_text(after)

    def rewrite_internal(self, text: bytes, remote: bool = False) -> bytes:
        """The same on an internal form."""
        if not text or (_COMPLETE.fullmatch(text) and b".." not in text and text[:1] != b"."):
            return text
        return unquote(self.rewrite_external(quote(text), remote))

    def rewrite_external(self, text: bytes, remote: bool = False) -> bytes:
        """The same on an external form."""
        if not text or (_COMPLETE.fullmatch(text) and b".." not in text and text[:1] != b"."):
            return text
        address = Token(ADDRESS, parts=scan(text))
        address.loose = True
        self.rewrite_tokens(address, remote)
        return external(address)

    def rewrite_tokens(self, address: Token, remote: bool = False) -> None:
        """The same on the tokens of an address, which are changed."""
        parts = address.parts
        origin, mydomain = self._remote if remote else self._local
        kinds = [token.kind for token in parts]
        if kinds == ["@"]:
            parts[:] = [Token(QUOTED)]
            return
        if not parts or (kinds == [QUOTED] and not parts[0].text):
            return
        if kinds[0] == "@" and ":" in kinds[:-1]:  # source route
            del parts[: kinds.index(":") + 1]
        kinds = [token.kind for token in parts]
        if "@" not in kinds:
            if self.swap_bangpath and "!" in kinds:
                bang = kinds.index("!")
                parts[:] = [*parts[bang + 1 :], Token("@"), *parts[:bang]]
                address.loose &= bang > 0  # Postfix takes an address without a site for one that was parsed
            elif self.percent_hack and "%" in kinds:
                parts[last(kinds, "%")] = Token("@")
            elif self._at_myorigin and origin:
                parts += [Token("@"), *scan(origin)]
        kinds = [token.kind for token in parts]
        if self._dot_mydomain and mydomain and "@" in kinds[:-1]:
            domain = kinds[last(kinds, "@") :]
            if len(domain) > 1 and LITERAL not in domain and "." not in domain:
                parts += [Token("."), *scan(mydomain)]
        if len(parts) > 1 and parts[-1].kind == "." and parts[-2].kind not in (".", "@"):
            del parts[-1]


def last(kinds: list[str], kind: str) -> int:
    """The last place of a kind that is there."""
    return len(kinds) - 1 - kinds[::-1].index(kind)
