"""The operator's last word on outcomes: ``smtp_delivery_status_filter`` and its sisters.

:class:`StatusFilter` asks its tables for ``DSN text`` of each outcome that counts, and takes the status and
the text that they answer.  It can make a failure one for now or for good, but no failure a success, and no
success a failure.  A table that fails, or an answer that is none, changes nothing and is told to the log.

Postfix counterpart: ``dsn_filter(3)``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from mtad.config.parameters import Parameters
from mtad.errors import TableError
from mtad.maillog import MailLog
from mtad.queue.message import Outcome
from mtad.tables.maps import Maps

_ANSWER = re.compile(r"([245]\.\d{1,3}\.\d{1,3})\s+(\S.*)")
_STATUS = {"4": "deferred", "5": "bounced"}


class StatusFilter:
    """The filter of one transport; false where there is none."""

    def __init__(self, p: Parameters, log: MailLog, name: str = "smtp_delivery_status_filter") -> None:
        self._name = name
        self._log = log
        self._maps = Maps(p[name], p.directory, title=name, warn=log.warning)

    def __bool__(self) -> bool:
        return bool(self._maps)

    async def apply(self, outcomes: Iterable[Outcome]) -> None:
        """Change these outcomes."""
        answers: dict[str, tuple[str, str] | None] = {}
        for outcome in outcomes:
            key = f"{outcome.dsn} {outcome.reason}"
            if key not in answers:
                answers[key] = await self._ask(key)
            answer = answers[key]
            if answer is not None:
                outcome.dsn, outcome.reason = answer
                outcome.status = _STATUS.get(outcome.dsn[0], outcome.status)

    async def _ask(self, key: str) -> tuple[str, str] | None:
        try:
            value = await self._maps.lookup(key.encode())
        except TableError as error:
            self._log.warning(f"{self._name}: {error}")
            return None
        if value is None:
            return None
        text = value.decode("utf-8", "replace")
        match = _ANSWER.fullmatch(text)
        if match is None or (match[1][0] == "2") != (key[0] == "2"):
            self._log.warning(f'{self._name}: bad replacement of "{key}": "{text[:200]}"')
            return None
        return match[1], match[2]
