"""Parameters of MAIL that few clients use: XVERP, REQUIRETLS, and extensions beyond Postfix.

:class:`Wishes` is what a client asked for by them; :func:`take` reads one parameter into it.  A parameter is
known only where this session offers it; :class:`Wrong` carries the refusal of one that is malformed.  What
depends on the clock is judged by the session's shell.

RFC 2852 (DELIVERBY), 3030 (BINARYMIME), 4865 (FUTURERELEASE), 6710 (MT-PRIORITY), 8689 (REQUIRETLS), 9422
(LIMITS).  Postfix counterpart: ``mail_cmd`` in ``smtpd.c``, ``verp_sender.c``; it has the first two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from mtad.wire.reply import Reply
from mtad.wire.settings import ServerSettings

#: The extensions that Postfix has not, each offered where ``mtad_smtpd_extensions`` names it.
BEYOND = ("limits", "binarymime", "futurerelease", "deliverby", "mt-priority")

_HOLD_FOR = re.compile(rb"[0-9]{1,9}")
_HOLD_UNTIL = re.compile(
    rb"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?(?:[Zz]|[-+][0-9]{2}:[0-9]{2})"
)
_BY = re.compile(rb"([-+]?[0-9]{1,9});([RrNn])([Tt]?)")
_PRIORITY = re.compile(rb"-?[0-9]")


class Wrong(Exception):
    """A parameter that is refused."""

    def __init__(self, code: int, dsn: bytes, text: bytes) -> None:
        self.reply = Reply(code, text, dsn)


@dataclass(slots=True)
class Wishes:
    """What was asked for; None, zero or empty where it was not."""

    verp: bytes = b""  # two delimiters
    requiretls: bool = False
    hold_for: int = 0  # seconds
    hold_until: float = 0.0  # an epoch
    by: int | None = None  # seconds from now
    by_mode: str = ""  # R or N, perhaps with T
    priority: int | None = None


def take(settings: ServerSettings, tls: bool, word: bytes, wishes: Wishes) -> bool:
    """Read the parameter ``word``; False: it is none of these, or not offered.  Raises :class:`Wrong`."""
    key, equals, value = word.partition(b"=")
    key = key.upper()
    if key == b"XVERP":
        return bool(settings.verp_delimiters) and _verp(settings, bool(equals), value, wishes)
    if key == b"REQUIRETLS":
        if not offers_requiretls(settings, tls) or equals:
            return False
        wishes.requiretls = True
        return True
    reader = _READERS.get(key)
    if reader is None or not equals:
        return False
    extension, read = reader
    if not settings.offers(extension):
        return False
    read(value, wishes)
    return True


def offers_requiretls(settings: ServerSettings, tls: bool) -> bool:
    """Is REQUIRETLS offered now?"""
    return tls and settings.requiretls and not settings.discards("requiretls")


def _verp(settings: ServerSettings, given: bool, value: bytes, wishes: Wishes) -> bool:
    if given and (len(value) != 2 or not all(char in settings.verp_filter for char in value)):
        raise Wrong(501, b"5.5.4", b"Error: XVERP needs two characters from %b" % settings.verp_filter)
    wishes.verp = value if given else settings.verp_delimiters
    return True


def _bad(name: bytes) -> Wrong:
    return Wrong(501, b"5.5.4", b"Bad %b parameter syntax" % name)


def _held(wishes: Wishes) -> None:
    if wishes.hold_for or wishes.hold_until:
        raise Wrong(501, b"5.5.4", b"Error: multiple HOLDFOR= or HOLDUNTIL= options")


def _hold_for(value: bytes, wishes: Wishes) -> None:
    _held(wishes)
    if _HOLD_FOR.fullmatch(value) is None or not int(value):
        raise _bad(b"HOLDFOR")
    wishes.hold_for = int(value)


def _hold_until(value: bytes, wishes: Wishes) -> None:
    _held(wishes)
    if _HOLD_UNTIL.fullmatch(value) is None:
        raise _bad(b"HOLDUNTIL")
    try:
        wishes.hold_until = datetime.fromisoformat(value.decode("ascii").upper()).timestamp()
    except (ValueError, OverflowError):
        raise _bad(b"HOLDUNTIL") from None


def _by(value: bytes, wishes: Wishes) -> None:
    match = _BY.fullmatch(value)
    if match is None or wishes.by is not None:
        raise _bad(b"BY")
    seconds, mode = int(match[1]), match[2].upper()
    if mode == b"R" and seconds <= 0:
        raise _bad(b"BY")
    wishes.by, wishes.by_mode = seconds, (mode + match[3].upper()).decode("ascii")


def _priority(value: bytes, wishes: Wishes) -> None:
    if _PRIORITY.fullmatch(value) is None or wishes.priority is not None:
        raise _bad(b"MT-PRIORITY")
    wishes.priority = int(value)


_READERS = {
    b"HOLDFOR": ("futurerelease", _hold_for),
    b"HOLDUNTIL": ("futurerelease", _hold_until),
    b"BY": ("deliverby", _by),
    b"MT-PRIORITY": ("mt-priority", _priority),
}
