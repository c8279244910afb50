"""Restrictions on the HELO name, sender and recipient that need no table of their own.

Each is ``async (check, scope) -> status``; see :mod:`mtad.policy.check`.

Postfix counterpart: ``reject_unauth_destination()``, ``reject_non_fqdn_address()``,
``reject_invalid_hostname()`` ...
"""

from __future__ import annotations

from mtad.policy.check import DUNNO, HELO, RECIPIENT, SENDER, Check, Scope
from mtad.rewrite.classes import DEFAULT, RELAY
from mtad.rewrite.hostnames import mailhost_address, valid_address, valid_domain
from mtad.wire.address import valid_hostname
from mtad.wire.events import Address


async def is_authorized(check: Check, recipient: Address) -> bool:
    """Whether mail for ``recipient`` is ours to deliver or to relay, and not routed on by its local part."""
    found = await check.resolve(recipient)
    if found.routed and not check.setup.untrusted_routing:
        return False
    if found.kind == RELAY and check.setup.old_relay_domains:
        check.setup.note_relay_domain("domain", found.domain)
    return found.kind != DEFAULT


async def permit_auth_destination(check: Check, scope: Scope) -> int:
    recipient = check.request.recipient
    if recipient is not None and await is_authorized(check, recipient):
        return await check.permit("permit_auth_destination", RECIPIENT, recipient.text)
    return DUNNO


async def reject_unauth_destination(check: Check, scope: Scope) -> int:
    return await _refuse_relay(check, check.setup.codes["relay_domains_reject_code"], b"5.7.1")


async def defer_unauth_destination(check: Check, scope: Scope) -> int:
    return await _refuse_relay(check, check.setup.codes["relay_domains_reject_code"] - 100, b"4.7.1")


async def _refuse_relay(check: Check, code: int, dsn: bytes) -> int:
    recipient = check.request.recipient
    if recipient is None or await is_authorized(check, recipient):
        return DUNNO
    return check.reject(code, dsn, b"<%b>: Relay access denied" % recipient.text)


async def reject_non_fqdn_sender(check: Check, scope: Scope) -> int:
    sender = check.request.sender
    return _non_fqdn(check, sender, SENDER) if sender is not None and sender.text else DUNNO


async def reject_non_fqdn_recipient(check: Check, scope: Scope) -> int:
    recipient = check.request.recipient
    return _non_fqdn(check, recipient, RECIPIENT) if recipient is not None else DUNNO


def _non_fqdn(check: Check, address: Address, kind: str) -> int:
    domain = address.text.rpartition(b"@")[2] if b"@" in address.text else b""
    if domain[:1] == b"[" and domain[-1:] == b"]":
        return DUNNO
    domain = _without_dot(domain)
    if b"." in domain and valid_domain(domain, check.request.smtputf8):
        return DUNNO
    code = check.setup.codes["non_fqdn_reject_code"]
    return check.refuse(code, b"4.5.2", Scope(address.text, kind, ""), b"need fully-qualified address")


async def reject_invalid_helo_hostname(check: Check, scope: Scope) -> int:
    helo = check.request.helo
    if not helo:
        return DUNNO
    if helo[:1] == b"[":
        return invalid_literal(check, helo)
    name = _without_dot(helo)
    if valid_hostname(name) or valid_address(name):
        return DUNNO
    return _refuse_helo(check, "invalid_hostname_reject_code", b"Invalid name")


async def reject_non_fqdn_helo_hostname(check: Check, scope: Scope) -> int:
    helo = check.request.helo
    if not helo:
        return DUNNO
    if helo[:1] == b"[":
        return invalid_literal(check, helo)
    name = _without_dot(helo)
    if b"." in name and valid_domain(name, check.request.smtputf8):
        return DUNNO
    return _refuse_helo(check, "non_fqdn_reject_code", b"need fully-qualified hostname")


def invalid_literal(check: Check, helo: bytes) -> int:
    """Refuse a HELO name in brackets that holds no address."""
    bare = helo[1:-1] if len(helo) > 2 and helo[-1:] == b"]" else helo
    if mailhost_address(bare) is not None:
        return DUNNO
    return _refuse_helo(check, "invalid_hostname_reject_code", b"invalid ip address")


def _refuse_helo(check: Check, code: str, text: bytes) -> int:
    return check.refuse(check.setup.codes[code], b"5.5.2", Scope(check.request.helo, HELO, ""), text)


def _without_dot(name: bytes) -> bytes:
    """The name without the dot at its end, unless there are two."""
    if len(name) > 1 and name[-1:] == b"." and name[-2:-1] != b".":
        return name[:-1]
    return name
