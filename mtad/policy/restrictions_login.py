"""Restrictions on who is logged in, and on the sender addresses that a login owns.

``smtpd_sender_login_maps`` gives the logins that own an address; the key is the *resolved* sender, in the
order of keys of address tables.  The null sender is never checked.  Each restriction is
``async (check, scope) -> status``; see :mod:`mtad.policy.check`.

Postfix counterpart: ``permit_sasl_auth()``, ``reject_auth_sender_login_mismatch()``,
``reject_unauth_sender_login_mismatch()``.
"""

from __future__ import annotations

from mtad.errors import MtadError
from mtad.policy.check import DUNNO, Check, Scope
from mtad.wire.events import Address


async def permit_sasl_authenticated(check: Check, scope: Scope) -> int:
    if check.request.logged_in:
        return await check.permit_client("permit_sasl_authenticated")
    return DUNNO


async def reject_authenticated_sender_login_mismatch(check: Check, scope: Scope) -> int:
    sender = _sender(check, "reject_authenticated_sender_login_mismatch")
    return DUNNO if sender is None else await _owned(check, sender, False)


async def reject_known_sender_login_mismatch(check: Check, scope: Scope) -> int:
    sender = _sender(check, "reject_known_sender_login_mismatch")
    if sender is None:
        return DUNNO
    if check.request.sasl_username:
        return await _owned(check, sender, True)
    return await _unowned(check, sender)


async def reject_unauthenticated_sender_login_mismatch(check: Check, scope: Scope) -> int:
    sender = _sender(check, "reject_unauthenticated_sender_login_mismatch")
    return DUNNO if sender is None else await _unowned(check, sender)


def _sender(check: Check, name: str) -> Address | None:
    """The sender, if there is one to check."""
    if not check.setup.sasl:
        check.setup.log.warning(f"restriction `{name}' ignored: no SASL support")
        return None
    sender = check.request.sender
    return sender if sender is not None and sender.text else None


async def _owners(check: Check, sender: Address) -> bytes | None:
    found = await check.resolve(sender)
    try:
        return await check.find_address(check.setup.login_maps, found.key)
    except MtadError as error:
        check.lookup_failed(error, sender.text)


async def _owned(check: Check, sender: Address, unknown_passes: bool) -> int:
    """A client that is logged in must own the sender address."""
    login = check.request.sasl_username
    if not login:
        return DUNNO
    owners = await _owners(check, sender)
    if owners is None:
        if unknown_passes:
            return DUNNO
    else:
        wanted = login.casefold()
        text = owners.decode("utf-8", "surrogateescape")
        if any(owner.casefold() == wanted for owner in text.replace(",", " ").split()):
            return DUNNO
    text = f": Sender address rejected: not owned by user {login}"
    return check.reject(553, b"5.7.1", b"<%b>" % sender.text + text.encode("utf-8", "surrogateescape"))


async def _unowned(check: Check, sender: Address) -> int:
    """An address that somebody owns wants a client that is logged in."""
    if check.request.sasl_username or await _owners(check, sender) is None:
        return DUNNO
    return check.reject(553, b"5.7.1", b"<%b>: Sender address rejected: not logged in" % sender.text)
