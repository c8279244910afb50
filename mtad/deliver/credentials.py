"""Logins for servers: ``smtp_sasl_password_maps``.

:meth:`PasswordMaps.find` asks, in this order: the sender (where ``smtp_sender_dependent_authentication``),
the name of the host that is connected to, the next hop as written.  The first answer counts; it is split
at the first delimiter.  A password ``oauth:NAME`` stands for a token of that account.  Raises
:class:`~mtad.errors.TableError`.

Postfix counterpart: ``smtp_sasl_passwd_lookup``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mtad.config.parameters import Parameters
from mtad.tables.maps import Maps

#: How a value begins that names an OAuth account.
_OAUTH = b"oauth:"


@dataclass(frozen=True, slots=True)
class Login:
    """A name and its password, which never shows.

    ``account``: the password is an OAuth token of that account, from :mod:`mtad.oauth`.
    """

    user: bytes
    password: bytes = field(repr=False)
    account: str = ""


class PasswordMaps:
    """The logins of one transport.  False when there is no need to ask.

    ``by_sender``: the sender is asked for.  ``lmtp``: it never is, whatever main.cf says, as in Postfix."""

    def __init__(self, p: Parameters, lmtp: bool = False) -> None:
        self._enabled = p.flag("smtp_sasl_auth_enable")
        by_sender = p.flag("smtp_sender_dependent_authentication")
        self.by_sender = self._enabled and by_sender and not lmtp
        self._delimiter = p["smtp_sasl_password_result_delimiter"].encode()
        self._extension = p["recipient_delimiter"]
        name = "smtp_sasl_password_maps"
        self._maps = Maps(p[name] if self._enabled else "", p.directory, title=name)
        if self._enabled and not self._maps:
            raise p.error(name, "specify a password table via this parameter")

    def __bool__(self) -> bool:
        return self._enabled

    async def find(self, sender: bytes, host: str, nexthop: str) -> Login | None:
        """The login for a session with ``host`` on the way to ``nexthop``, or None."""
        value: bytes | None = None
        if self.by_sender and sender:
            value = await self._maps.find_address(sender, self._extension)
        if value is None:
            value = await self._maps.lookup(host.encode())
        if value is None:
            value = await self._maps.lookup(nexthop.encode())
        if value is None:
            return None
        user, _, password = value.partition(self._delimiter)
        if password.startswith(_OAUTH):
            return Login(user, b"", password.removeprefix(_OAUTH).decode("utf-8", "replace"))
        return Login(user, password)
