"""How much a login may send: ``mtad_sasl_message_rate_limit`` and the like.

:class:`LoginLimits` counts messages and recipients of each login in each ``mtad_sasl_rate_time_unit``, and
the recipients of each day to whom it has never written (``mtad_sasl_new_recipient_limit``), in one database
for all services and processes, which outlives a restart.  A login's own limits come from
``mtad_sasl_rate_limit_maps``, by ``user@realm``, then ``@realm``: a list of ``messages=N``, ``recipients=N``
and ``new_recipients=N``, 0 for no limit, or ``none``.  Logins that differ in case only are one.  Recipients
count when nothing else refuses them.

A database that can't be asked limits nobody, and the log says so.  Postfix counterpart: none.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from mtad.errors import MtadError
from mtad.maillog import printable
from mtad.policy.login_counts import DAY, LoginCounts
from mtad.tables import Maps
from mtad.tables.blocking import BlockingTable, Lane
from mtad.wire.reply import Reply

if TYPE_CHECKING:
    from mtad.config.parameters import Parameters
    from mtad.maillog import MailLog
    from mtad.policy.request import Request

T = TypeVar("T")

_OWN = re.compile(r"(messages|recipients|new_recipients)\s*=\s*([0-9]{1,9})\Z")


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a login may send; 0: no limit."""

    messages: int = 0
    recipients: int = 0
    new_recipients: int = 0


class LoginLimits:
    """See the module."""

    def __init__(self, p: Parameters, service: str, log: MailLog) -> None:
        self._log = log
        self._service = service
        self._unit = p.seconds("mtad_sasl_rate_time_unit")
        self._allowed = Allowed(
            p.number("mtad_sasl_message_rate_limit"),
            p.number("mtad_sasl_recipient_rate_limit"),
            p.number("mtad_sasl_new_recipient_limit"),
        )
        name = "mtad_sasl_rate_limit_maps"
        self._maps = Maps(p["mtad_sasl_rate_limit_maps"], p.directory, title=name, warn=log.warning)
        path = os.path.join(p["mtad_queue_directory"], "logins")
        self._counts = LoginCounts(path, p.seconds("mtad_sasl_recipient_memory") // DAY)
        self._lane = Lane(path, 1)

    @classmethod
    def build(cls, p: Parameters, service: str, log: MailLog) -> LoginLimits | None:
        """The limits of a service; None where there are none."""
        limits = cls(p, service, log)
        if limits._allowed == Allowed() and not limits._maps:
            return None
        return limits

    async def message(self, request: Request) -> Reply | None:
        """A message of the login in ``request``: the reply if it is one too many."""
        allowed = await self._of(request)
        if not allowed.messages:
            return None
        count = await self._ask(partial(self._counts.message, _key(request), self._unit))
        if count is None or count <= allowed.messages:
            return None
        self._exceeded("Message", count, request)
        return _refusal("too much mail", request)

    async def recipient(self, request: Request) -> Reply | None:
        """A recipient of the login in ``request``: the reply if it is one too many."""
        allowed = await self._of(request)
        if request.recipient is None or not (allowed.recipients or allowed.new_recipients):
            return None
        counts = await self._ask(
            partial(
                self._counts.recipient,
                _key(request),
                request.recipient.text,
                self._unit if allowed.recipients else 0,
                allowed.new_recipients,
            )
        )
        if counts is None:
            return None
        count, fresh = counts
        if allowed.recipients and count > allowed.recipients:
            self._exceeded("Recipient", count, request)
            return _refusal("too many recipients", request)
        if fresh > allowed.new_recipients:
            self._exceeded("New recipient", fresh, request)
            return _refusal("too many new recipients", request)
        return None

    async def _of(self, request: Request) -> Allowed:
        """What this login may send."""
        if not request.logged_in:
            return Allowed()
        login = _key(request)
        realm = "@" + login.rpartition("@")[2]
        try:
            for key in (login, realm) if "@" in login else (login,):
                own = await self._maps.lookup(key.encode("utf-8", "surrogateescape"))
                if own is not None:
                    return self._read(own.decode("utf-8", "replace"), key)
        except MtadError as error:
            self._log.warning(str(error))
        return self._allowed

    def _read(self, text: str, key: str) -> Allowed:
        allowed = self._allowed
        for word in re.split(r"[\s,]+", re.sub(r"\s*=\s*", "=", text.strip())):
            match = _OWN.match(word)
            if word == "none":
                allowed = Allowed()
            elif match:
                allowed = replace(allowed, **{match[1]: int(match[2])})
            else:
                self._log.warning(
                    f'mtad_sasl_rate_limit_maps: entry "{printable(key)}" has "{printable(word)}", '
                    "which is none of messages=N, recipients=N, new_recipients=N, none"
                )
        return allowed

    async def _ask(self, work: Callable[[], T]) -> T | None:
        """What the database says, asked in a thread; None: nothing."""
        runner = BlockingTable.runner
        try:
            return work() if runner is None else await runner.run(self._lane, work)
        except (sqlite3.Error, MtadError) as error:
            self._log.warning(f"cannot count what logins send: {self._lane.name}: {error}")
            return None

    def _exceeded(self, what: str, count: int, request: Request) -> None:
        self._log.warning(
            f"{what} rate limit of login exceeded: {count} by {printable(request.sasl_username)} "
            f"from {request.client} for service {self._service}"
        )

    def close(self) -> None:
        """Let go of tables and database."""
        self._maps.close()
        self._counts.close()


def _key(request: Request) -> str:
    return printable(request.sasl_username).lower()


def _refusal(what: str, request: Request) -> Reply:
    login = printable(request.sasl_username)[:200]
    return Reply(450, f"Error: {what} from {login}".encode(), b"4.7.1")
