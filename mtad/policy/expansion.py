"""Names in the texts of replies: ``$client_name``, ``$sender``, ``$localtime`` and the like.

:class:`Expander` fills in what is known of a request, for ``smtpd_reject_footer`` and RBL replies.  Of what a
client said, only the characters of ``smtpd_expansion_filter`` get through; others become ``_``.  Parameters
are no such names: their values are not for clients.

Raises :class:`~mtad.config.expand.ExpansionError` for text that is broken.  Postfix counterpart:
``smtpd_expand.c``, ``mac_expand(3)``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from mtad.config.expand import ExpansionError, expand

if TYPE_CHECKING:
    from mtad.config.parameters import Parameters
    from mtad.maillog import MailLog
    from mtad.policy.request import Request
    from mtad.wire.events import Address

_ESCAPE = re.compile(r"\\([0-7]{1,3}|.)", re.DOTALL)
_CONTROLS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_NOTHING: Mapping[str, str] = {}


def unescape(text: str) -> str:
    r"""``text`` with ``\t``, ``\40`` and their like replaced."""

    def one(match: re.Match[str]) -> str:
        code = match[1]
        return chr(int(code, 8) & 255) if code[0] in "01234567" else _CONTROLS.get(code, code)

    return _ESCAPE.sub(one, text)


def _whole(address: str) -> str:
    return address or "<>"


def _name(address: str) -> str:
    return address.rpartition("@")[0] if "@" in address else _whole(address)


def _domain(address: str) -> str:
    return address.rpartition("@")[2] if "@" in address else ""


_PARTS: dict[str, Callable[[str], str]] = {"": _whole, "_name": _name, "_domain": _domain}


class Expander:
    """Fills in texts for the clients of one service."""

    def __init__(self, p: Parameters, log: MailLog) -> None:
        self._log = log
        self._server_name = p["myhostname"]
        allowed = unescape(p["smtpd_expansion_filter"])
        self._forbidden = re.compile(f"[^{re.escape(allowed)}]") if allowed else re.compile(".", re.DOTALL)

    def expand(
        self, text: str, request: Request, more: Mapping[str, str] = _NOTHING, *, strict: bool = False
    ) -> str:
        """``text`` about ``request``; ``more``: further names and their values.

        ``strict``: a name that is not known makes the text a broken one.
        """

        def known(name: str) -> str | None:
            found = more.get(name)
            if found is None:
                found = self._lookup(name, request)
            if found is None:
                self._log.warning(f'unknown macro name "{name}" in expansion request')
            return found

        def value(name: str, depth: int) -> str:
            found = known(name)
            if found is None and strict:
                raise ExpansionError(f'unknown macro name "{name}"')
            return self._forbidden.sub("_", found or "")

        return expand(text, value, lambda name, depth: bool(known(name)))

    def _lookup(self, name: str, request: Request) -> str | None:
        """The value of ``name``; None: there is no such name."""
        plain = _PLAIN.get(name)
        if plain is not None:
            return plain(request)
        if name == "server_name":
            return self._server_name
        for which in ("sender", "recipient"):
            if name.startswith(which):
                part = _PARTS.get(name[len(which) :])
                address: Address | None = getattr(request, which)
                if part is None:
                    return None
                return "" if address is None else part(address.text.decode("utf-8", "replace"))
        return None


_PLAIN: dict[str, Callable[[Request], str]] = {
    "client": lambda request: request.client,
    "client_name": lambda request: request.client_name,
    "client_address": lambda request: request.client_address,
    "client_port": lambda request: request.client_port,
    "reverse_client_name": lambda request: request.reverse_name,
    "helo_name": lambda request: request.helo.decode("utf-8", "replace"),
    "localtime": lambda request: time.strftime("%b %d %H:%M:%S"),
}
