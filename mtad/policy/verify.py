"""Can mail be delivered there?  ``reject_unverified_recipient`` and ``reject_unverified_sender``.

The answer is that of the verify service, asked as often as ``address_verify_poll_count`` says while a probe
is under way.  Each restriction is ``async (check, scope) -> status``; see :mod:`mtad.policy.check`.

Postfix counterpart: ``reject_unverified_address()``, ADDRESS_VERIFICATION_README.
"""

from __future__ import annotations

from enum import IntEnum

from mtad.errors import MtadError
from mtad.policy.check import DUNNO, RECIPIENT, SENDER, Check, Scope
from mtad.wire.events import Address

_LONGEST = 250


class Known(IntEnum):
    """What the verify service says of an address; the numbers are those of Postfix' protocol."""

    OK = 0
    DEFER = 1
    BOUNCE = 2
    TODO = 3


async def reject_unverified_sender(check: Check, scope: Scope) -> int:
    sender = check.request.sender
    return await _unverified(check, sender, SENDER) if sender is not None and sender.text else DUNNO


async def reject_unverified_recipient(check: Check, scope: Scope) -> int:
    recipient = check.request.recipient
    return await _unverified(check, recipient, RECIPIENT) if recipient is not None else DUNNO


async def _unverified(check: Check, address: Address, kind: str) -> int:
    setup = check.setup
    what = "sender" if kind == SENDER else "recipient"
    dsn = b"4.1.7" if kind == SENDER else b"4.1.1"
    action = f"unverified_{what}_tempfail_action"
    scope = b"<%b>: %b rejected: " % (address.text, kind.encode())
    found = await check.resolve(address)
    try:
        status, text = await setup.verified(found.text)
    except MtadError as error:
        setup.log.warning(f"verify service failure: {error}")
        return check.temporary(action, dsn, scope + b"address verification problem")
    if status is Known.OK:
        return DUNNO
    code = setup.codes[f"unverified_{what}_{'reject' if status is Known.BOUNCE else 'defer'}_code"]
    text = setup.p[f"unverified_{what}_reject_reason"] or text
    said = text.encode("utf-8", "replace")
    if code < 300:
        return DUNNO
    if code < 500:
        whole = scope + b"unverified address: " + said[:_LONGEST]
        if setup.defer_at_once[action]:
            return check.reject(code, dsn, whole)
        return check.hold_permit(code, dsn, whole)
    return check.reject(code, dsn, scope + b"undeliverable address: " + said)
