"""What restrictions did, one by one: for those who ask why.

``Request.trace`` is None, or a function that is given a :class:`Step` after each restriction that was
evaluated.  A class, or an access(5) result that is a list, comes after the restrictions in it, whose
``depth`` is greater.  With None nothing is gathered, and an evaluation costs what it did.

Postfix counterpart: what ``smtpd -v`` logs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mtad.tables import Maps

if TYPE_CHECKING:
    from mtad.policy.check import Check
    from mtad.policy.request import Reason
    from mtad.wire.reply import Reply


@dataclass(frozen=True, slots=True)
class Match:
    """Something that was found: in a table (``hash:/etc/postfix/access``), or in ``dns``.

    In the DNS the key is ``name type``.
    """

    source: str
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Step:
    """One restriction, and what it came to.

    ``place`` is the parameter or the class whose value it stands in; empty for one in a table's result.
    """

    depth: int  # 1: in the list itself
    place: str
    restriction: str  # as it is written
    arguments: tuple[str, ...]
    matches: tuple[Match, ...]
    status: int  # DUNNO, OK or REJECT of mtad.policy.check
    reply: Reply | None  # of REJECT
    held: Reason | None  # what defer_if_permit or defer_if_reject has kept for later


Trace = Callable[[Step], None]


class Recorder(Maps):
    """The tables of ``maps``, telling a trace what was found in them."""

    def __init__(self, check: Check, maps: Maps) -> None:
        self.title, self.problems, self.tables = maps.title, maps.problems, maps.tables
        self.at_once = False
        self._check = check

    async def lookup(self, key: bytes, *, fixed_only: bool = False) -> bytes | None:
        single = Maps("", title=self.title)
        for table in self.tables:
            single.tables = (table,)
            value = await single.lookup(key, fixed_only=fixed_only)
            if value is not None:
                self._check.found(table.spec, key, value)
                return value
        return None
