"""Which users of the host may submit mail, see the queue, or have it flushed.

:class:`Users` and :func:`refused` go by ``authorized_submit_users`` and its sisters.  Raises
:class:`~mtad.errors.MtadError` for a list that cannot be read or asked.

Postfix counterpart: ``user_acl(3)``.
"""

from __future__ import annotations

import pwd
from functools import partial

from mtad.auth.offload import offload
from mtad.config.parameters import Parameters
from mtad.errors import TableError
from mtad.maillog import printable
from mtad.tables.blocking import Lane
from mtad.tables.maps import Maps, split_extension
from mtad.tables.match import StringList
from mtad.wire.address import quote

_ACCOUNTS = Lane("accounts", 2)


def user_name(uid: int) -> str:
    """The account's name; ``unknown`` where there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "unknown"


class Users:
    """The lists of one configuration, each read when it is first asked, and kept."""

    def __init__(self, p: Parameters) -> None:
        self._p = p
        self._lists: dict[str, StringList] = {}

    async def refused(self, parameter: str, uid: int) -> str:
        """The name of the user where the list in ``parameter`` refuses them, else empty."""
        if self.everybody(parameter):
            return ""
        return await self.refused_name(parameter, await offload(_ACCOUNTS, partial(user_name, uid)))

    def everybody(self, parameter: str) -> bool:
        """Whether all are in the list: the usual case, which must not depend on the accounts."""
        return self._p[parameter].startswith("static:")

    async def refused_name(self, parameter: str, name: str) -> str:
        """The name where the list refuses it, else empty."""
        users = self._lists.get(parameter)
        if users is None:
            users = self._lists[parameter] = StringList(parameter, self._p[parameter], self._p.directory)
        return "" if await users.matches(name.encode()) else name

    def close(self) -> None:
        """Let go of the tables."""
        for users in self._lists.values():
            users.close()
        self._lists.clear()


def refused(p: Parameters, parameter: str, uid: int) -> str:
    """:meth:`Users.refused`, at once; an error where a table has to be waited for."""
    users = Users(p)
    if users.everybody(parameter):
        return ""
    try:
        users.refused_name(parameter, user_name(uid)).send(None)
    except StopIteration as end:
        found: str = end.value
        return found
    finally:
        users.close()
    raise TableError(f"{parameter}: a table that must be waited for")


def sender_refused(p: Parameters, uid: int, sender: bytes) -> str:
    """Why the user may not name this sender (``local_login_sender_maps``), else empty.  Does not raise."""
    try:
        return sender_problem(p, uid, sender)
    except TableError as error:
        return str(error)


def sender_problem(p: Parameters, uid: int, sender: bytes) -> str:
    """The same, which raises TableError where it can't be known."""
    value = p["local_login_sender_maps"]
    if value == "static:*":
        return ""
    if b"\0" in sender:
        return "NUL in FROM record"
    try:
        login = pwd.getpwuid(uid).pw_name
    except KeyError:
        login = f"uid:{uid}"
    maps = Maps(value, p.directory, title="local_login_sender_maps")
    failed = TableError(f"local_login_sender_maps table lookup error for '{value}'")
    try:
        maps.lookup(login.encode()).send(None)
        raise failed  # a table that must be waited for
    except StopIteration as end:
        found: bytes | None = end.value
    except TableError as error:
        raise failed from error
    finally:
        maps.close()
    null = p["empty_address_local_login_sender_maps_lookup_key"].encode()
    delimiters = p["recipient_delimiter"]
    for pattern in (found or b"").replace(b",", b" ").split():
        if pattern.startswith(b"@"):
            _, at, domain = sender.rpartition(b"@")
            if at and (b"@" + domain).lower() == pattern.lower():
                return ""
            continue
        literal = quote(_stripped(sender, delimiters)) if sender else null
        if pattern == b"*" or pattern.lower() == literal.lower():
            return ""
    return f"not authorized to use sender='{printable(sender)}'"


def _stripped(address: bytes, delimiters: str) -> bytes:
    """``address`` without its extension."""
    local, at, domain = address.rpartition(b"@")
    if not at:
        local, domain = address, b""
    return split_extension(local, delimiters)[0] + at + domain
