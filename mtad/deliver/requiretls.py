"""How strictly to take a sender's wish for REQUIRETLS at a next hop: ``smtp_requiretls_policy``.

:meth:`RequireTls.level` gives ``enforce``, ``opportunistic+starttls``, ``opportunistic``, ``disable`` or
``error``; the first word of the policy, or table of it that knows the next hop, counts.  Nothing is raised: a
table that fails or says nonsense is ``error``, by which the mail waits.

RFC 8689.  Postfix counterpart: ``smtp_reqtls_policy.c``.
"""

from __future__ import annotations

from mtad.config.lines import tokens
from mtad.config.parameters import Parameters
from mtad.errors import MtadError
from mtad.maillog import MailLog
from mtad.net.dns import to_ascii
from mtad.tables.maps import Maps

NAME = "smtp_requiretls_policy"
DISABLE, OPPORTUNISTIC, STARTTLS, ENFORCE, ERROR = (
    "disable",
    "opportunistic",
    "opportunistic+starttls",
    "enforce",
    "error",
)
_WORDS = frozenset((DISABLE, OPPORTUNISTIC, STARTTLS, ENFORCE, ERROR))


class RequireTls:
    """The policy of one transport."""

    def __init__(self, p: Parameters, log: MailLog) -> None:
        self._log = log
        self._enabled = p.flag("requiretls_enable")
        self._items: list[str | Maps] = [
            Maps(item, p.directory, title=NAME, warn=log.warning) if ":" in item else item
            for item in tokens(p[NAME])
        ]

    async def level(self, nexthop: str, wished: bool) -> str:
        """The level for a next hop without brackets and port; ``wished``: the sender wants REQUIRETLS."""
        if not (wished and self._enabled):
            return DISABLE
        name = to_ascii(nexthop)
        for item in self._items:
            if isinstance(item, str):
                return self._known(item, NAME)
            try:
                found = await self._find(item, name)
            except MtadError as error:
                self._log.warning(
                    f"{NAME}: {error}: table lookup error -- ignoring the remainder of this policy"
                )
                return ERROR
            if found is not None:
                return self._known(found, item.tables[0].spec)
        return ENFORCE

    async def _find(self, maps: Maps, name: str) -> str | None:
        while name:
            value = await maps.lookup(name.encode())
            if value is not None:
                return value.decode("utf-8", "replace")
            if not maps.tables[0].fixed_key or not name.replace(".", "").strip("0123456789"):
                return None
            dot = name.find(".", 1)
            name = name[dot:] if dot > 0 else ""
        return None

    def _known(self, word: str, where: str) -> str:
        level = word.lower()
        if level in _WORDS:
            return level
        self._log.warning(
            f"{where}: unknown policy action: '{word}' -- ignoring the remainder of this policy"
        )
        return ERROR
