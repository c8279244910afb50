"""Is there such a user?  ``reject_unlisted_recipient`` and ``reject_unlisted_sender``.

An address passes that any rewriting map knows; else the table of its class must know it:
``local_recipient_maps``, ``virtual_mailbox_maps``, ``relay_recipient_maps`` (a class without table takes
every address).  Transports ``error:`` and ``retry:`` refuse with their text, be they those of a class or
(where the evaluator was given a ``route``) from ``transport_maps``.

Postfix counterpart: ``check_rcpt_maps()``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtad.errors import MtadError
from mtad.policy import dsn
from mtad.policy.check import DUNNO, RECIPIENT, SENDER, Check, Rule, Scope
from mtad.rewrite.classes import DEFAULT, LOCAL, RELAY, VIRTUAL_ALIAS, VIRTUAL_MAILBOX
from mtad.tables import Maps
from mtad.wire.events import Address

if TYPE_CHECKING:
    from mtad.policy.setup import Setup
    from mtad.rewrite.resolve import Resolution

#: Beside the class of an address, these say what its transport is.
ROUTING = ("transport_maps", "sender_dependent_default_transport_maps")
_ALWAYS_LOCAL = ("postmaster", "mailer-daemon")


class UnlistedTables:
    """The maps that say which addresses exist, and the transports of the classes."""

    def __init__(self, setup: Setup) -> None:
        p = setup.p
        self.rewriting = [
            maps
            for name in ("recipient_canonical_maps", "canonical_maps", "virtual_alias_maps")
            if (maps := setup.maps(name))
        ]
        self.sender_canonical = setup.maps("sender_canonical_maps")
        self.relocated = setup.maps("relocated_maps")
        self.relocated_prefix = p.flag("relocated_prefix_enable")
        #: class: (maps, reply code, name of the table)
        self.listed: dict[str, tuple[Maps, int, bytes]] = {
            LOCAL: (
                # a table that can't be opened fails when it is asked, as in Postfix: most hosts never do
                setup.open(p["local_recipient_maps"], "local_recipient_maps", lenient=True),
                setup.codes["unknown_local_recipient_reject_code"],
                b"local recipient",
            ),
            VIRTUAL_MAILBOX: (
                setup.maps("virtual_mailbox_maps"),
                setup.codes["unknown_virtual_mailbox_reject_code"],
                b"virtual mailbox",
            ),
            RELAY: (
                setup.maps("relay_recipient_maps"),
                setup.codes["unknown_relay_recipient_reject_code"],
                b"relay recipient",
            ),
        }
        self.show_table = p.flag("show_user_unknown_table_name")
        main = setup.rewriter.p
        unknown = b"5.1.1 User unknown"
        if main.flag("show_user_unknown_table_name"):
            unknown += b" in virtual alias table"
        self.transports = {
            LOCAL: main["local_transport"].encode().partition(b":"),
            VIRTUAL_ALIAS: (b"error", b":", unknown),
            VIRTUAL_MAILBOX: main["virtual_transport"].encode().partition(b":"),
            RELAY: main["relay_transport"].encode().partition(b":"),
            DEFAULT: main["default_transport"].encode().partition(b":"),
        }
        self.system = (p["double_bounce_sender"].lower().encode(), *(n.encode() for n in _ALWAYS_LOCAL))


async def reject_unlisted_recipient(check: Check, scope: Scope) -> int:
    recipient = check.request.recipient
    if recipient is None or not recipient.text or not check.setup.check_listed or check.recipient_listed:
        return DUNNO
    if not check.warn:
        check.recipient_listed = True
    return await _listed(check, recipient, RECIPIENT)


async def reject_unlisted_sender(check: Check, scope: Scope) -> int:
    sender = check.request.sender
    if sender is None or not sender.text or not check.setup.check_listed or check.sender_listed:
        return DUNNO
    if not check.warn:
        check.sender_listed = True
    return await _listed(check, sender, SENDER)


#: What ``smtpd_reject_unlisted_recipient`` and ``smtpd_reject_unlisted_sender`` run at the end.
UNLISTED_RECIPIENT = (
    Rule("reject_unlisted_recipient", reject_unlisted_recipient, place="smtpd_reject_unlisted_recipient"),
)
UNLISTED_SENDER = (
    Rule("reject_unlisted_sender", reject_unlisted_sender, place="smtpd_reject_unlisted_sender"),
)


async def _listed(check: Check, address: Address, kind: str) -> int:
    found = await check.resolve(address)
    try:
        return await _search(check, address, found, kind)
    except MtadError as error:
        check.lookup_failed(error, address.text)


async def _search(check: Check, address: Address, found: Resolution, kind: str) -> int:
    setup = check.setup
    tables = setup.unlisted
    for maps in tables.rewriting:
        if await check.find_address(maps, found.key) is not None:
            return DUNNO
    if kind == SENDER and await check.find_address(tables.sender_canonical, found.key) is not None:
        return DUNNO
    scope = Scope(address.text, kind, "")
    transport, reason = await _transport(check, found, kind)
    default = b".1.0" if kind == SENDER else b".1.1"
    if transport in (b"error", b"retry"):
        hard = transport == b"error"
        status, text = dsn.split((b"5" if hard else b"4") + default, reason)
        code = 550 if hard else 450
        if hard and found.kind == VIRTUAL_ALIAS:
            code = setup.codes["unknown_virtual_alias_reject_code"]
        return check.refuse(code, dsn.fit(status, kind, setup.log), scope, text)
    if found.kind not in tables.listed:
        return DUNNO
    maps, code, name = tables.listed[found.kind]
    system = found.kind == LOCAL and found.key.rpartition(b"@")[0] in tables.system
    if maps and not system and await check.find_address(maps, found.key) is None:
        text = b"User unknown" + (b" in %b table" % name if tables.show_table else b"")
        return check.refuse(code, b"5" + default, scope, text)
    if found.kind == RELAY and setup.old_relay_domains:
        setup.note_relay_domain("address", address.text)
    return DUNNO


async def _transport(check: Check, found: Resolution, kind: str) -> tuple[bytes, bytes]:
    """The transport of an address, and for ``error`` and ``retry`` their text."""
    tables, request = check.setup.unlisted, check.request
    if check.setup.route is not None and check.setup.asks_routes:
        other = request.recipient if kind == SENDER else request.sender
        route = await check.setup.route(other.text if other is not None else b"", found.text)
        return route.transport.encode(), route.nexthop.encode()
    moved = await check.find_address(tables.relocated, found.key)
    if moved is not None:
        return b"error", _moved(moved, tables.relocated_prefix)
    transport, _, reason = tables.transports[found.kind]
    return transport, reason


def _moved(reply: bytes, prefix: bool) -> bytes:
    if prefix:
        return b"5.1.6 User has moved to " + reply
    status, text = dsn.split(b"", reply)
    return status + b" " + text if status and text else b"5.2.0 Mailbox is unavailable"
