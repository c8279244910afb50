"""What less common parameters of MAIL come to: attributes of the message, or a refusal.

:func:`refusal` judges by the clock what the engine could not; :func:`attributes` gives what
:mod:`mtad.queue.message` describes.

RFC 2852, 4865, 6710, 8689.  Postfix counterpart: ``mail_open_stream()``.
"""

from __future__ import annotations

import math
import time

from mtad.policy.request import Request
from mtad.wire.extensions import Wishes
from mtad.wire.reply import Reply
from mtad.wire.settings import ServerSettings


def latest(settings: ServerSettings, now: float) -> bytes:
    """For EHLO, the last date until which mail may be held; empty where none may."""
    if not settings.offers("futurerelease"):
        return b""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + settings.longest_hold)).encode()


def refusal(wishes: Wishes, settings: ServerSettings, now: float) -> Reply | None:
    """Why these cannot be granted, or None."""
    hold = wishes.hold_for or (wishes.hold_until - now if wishes.hold_until else 0)
    if hold < 0:
        return Reply(501, b"Error: HOLDUNTIL is in the past", b"5.5.4")
    if hold > settings.longest_hold:
        return Reply(501, b"Error: mail is held for %d seconds at most" % settings.longest_hold, b"5.5.4")
    if hold and wishes.by is not None and hold >= wishes.by:
        return Reply(501, b"Error: to be delivered before it is to be released", b"5.5.4")
    return None


def priority(wishes: Wishes, request: Request) -> int | None:
    """The priority that is granted: one above normal only to who has logged in (RFC 6710 section 5)."""
    if wishes.priority is None or request.logged_in:
        return wishes.priority
    return min(wishes.priority, 0)


def mail_reply(wishes: Wishes, request: Request) -> Reply | None:
    """The reply to MAIL that names another priority than was asked for (RFC 6710 section 4.1), or None."""
    granted = priority(wishes, request)
    if granted == wishes.priority:
        return None
    return Reply(250, b"%d is the priority granted" % (granted or 0), b"2.3.6")


def attributes(wishes: Wishes, request: Request, arrival: float) -> dict[str, str]:
    """The message's attributes; ``arrival``: when MAIL was said."""
    found: dict[str, str] = {}
    if wishes.verp:
        found["verp_delimiters"] = wishes.verp.decode("latin-1")
    if wishes.requiretls:
        found["requiretls"] = "yes"
    if wishes.hold_for or wishes.hold_until:
        found["release"] = str(math.ceil(wishes.hold_until or arrival + wishes.hold_for))
    if wishes.by is not None:
        found["deliver_by"] = f"{int(arrival) + wishes.by};{wishes.by_mode}"
    granted = priority(wishes, request)
    if granted is not None:
        found["mt_priority"] = str(granted)
    return found
