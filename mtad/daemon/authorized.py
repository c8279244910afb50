"""Which users of the host may submit mail, see the queue, or have it flushed.

:func:`refused` goes by ``authorized_submit_users`` and its sisters.  Raises
:class:`~mtad.errors.MtadError` for a list that cannot be read or asked.

Postfix counterpart: ``user_acl(3)``.
"""

from __future__ import annotations

import pwd

from mtad.config.parameters import Parameters
from mtad.errors import TableError
from mtad.maillog import printable
from mtad.tables.maps import Maps, split_extension
from mtad.tables.match import StringList
from mtad.wire.address import quote


def user_name(uid: int) -> str:
    """The account's name; ``unknown`` where there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "unknown"


def refused(p: Parameters, parameter: str, uid: int) -> str:
    """The name of the user where the list in ``parameter`` refuses them, else empty."""
    value = p[parameter]
    if value.startswith("static:"):  # the usual case, which must not depend on the accounts
        return ""
    name = user_name(uid)
    users = StringList(parameter, value, p.directory)
    try:
        users.matches(name.encode()).send(None)
    except StopIteration as end:
        return "" if end.value else name
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
