"""The milters of one smtpd service: who is asked about which client.

:meth:`MilterService.attend` gives a new session its filters: those that ``smtpd_milter_maps`` has for the
client's address, else ``smtpd_milters``; None where there are none.  An entry of the table that is wrong is
logged, and the client told to come back later (as ``milter_default_action`` has it).

Postfix counterpart: ``setup_milters()``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from mtad.config.parameters import Parameters
from mtad.errors import ConfigError
from mtad.maillog import MailLog
from mtad.smtpd.milter.local import milter_checks
from mtad.smtpd.milter.message import Screening
from mtad.smtpd.milter.session import SessionMilters
from mtad.smtpd.milter.specs import DISABLE, Filter, Filters, read_filters
from mtad.tables.maps import Maps

if TYPE_CHECKING:
    from mtad.smtpd.service import SmtpdService
    from mtad.smtpd.session import Session

#: Lists from the table that are remembered.
_LISTS = 1000


class Destination(Protocol):
    """Where mail to an address goes."""

    @property
    def transport(self) -> str: ...

    @property
    def nexthop(self) -> str: ...

    @property
    def address(self) -> bytes: ...


#: The destination of mail from a sender to a recipient.
Route = Callable[[bytes, bytes], Awaitable[Destination]]


class MilterService:
    """See the module."""

    def __init__(self, filters: Filters, p: Parameters, log: MailLog, route: Route) -> None:
        self.filters = filters
        self.route = route
        self.soft_bounce = p.flag("soft_bounce")
        self._checks = milter_checks(p, log)
        self._log = log
        title = "smtpd_milter_maps"
        self._maps = Maps(p[title], p.directory, title=title, warn=log.warning)
        self._parsed: dict[str, tuple[Filter, ...]] = {}

    async def attend(self, session: Session) -> SessionMilters | None:
        """The filters for a new session.  Raises TableError."""
        specs = self.filters.configured
        if self._maps:
            found = await self._maps.lookup(session.request.client_address.encode())
            if found is not None:
                specs = self._listed(found.decode("utf-8", "replace"))
        return SessionMilters(session, self, specs) if specs else None

    def screening(self, service: SmtpdService) -> Screening:
        """How messages of this service are shown to filters."""
        return Screening(
            self._checks,
            service.cleanup_log,
            service.open_spool,
            service.settings.message_size_limit,
            service.cleanup.limits.header_size,
        )

    def _listed(self, text: str) -> tuple[Filter, ...]:
        known = self._parsed.get(text)
        if known is None:
            known = () if text.strip().upper() == DISABLE else self._parse(text)
            if len(self._parsed) >= _LISTS:
                self._parsed.clear()
            self._parsed[text] = known
        return known

    def _parse(self, text: str) -> tuple[Filter, ...]:
        try:
            return self.filters.parse(text)
        except ConfigError as problem:
            self._log.warning(str(problem))
            return (self.filters.unusable(text),)


def milter_service(p: Parameters, log: MailLog, route: Route) -> MilterService | None:
    """The milters of the service with parameters ``p``, or None.  Raises ConfigError."""
    if "no_milters" in p.words("receive_override_options"):
        return None
    filters = read_filters(p, "smtpd_milters")
    return MilterService(filters, p, log, route) if filters is not None else None
