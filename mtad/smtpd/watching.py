"""Clients that are looked at more closely: ``debug_peer_list`` and ``mtad_trace_clients``.

:class:`Watching` finds them.  What comes of each restriction is logged for those of ``mtad_trace_clients``,
and for those of ``debug_peer_list`` from ``debug_peer_level`` 2 on (:mod:`mtad.policy.trace_text`); for these
last, a :class:`Transcript` also logs commands and replies, without secrets and without content.

Postfix counterpart: ``debug_peer(3)``, the verbose lines of ``smtpd_chat.c``.
"""

from __future__ import annotations

from mtad.config.parameters import Parameters
from mtad.errors import MtadError
from mtad.maillog import MailLog, printable
from mtad.policy.request import Request
from mtad.policy.trace_text import log_step
from mtad.tables import AddressList
from mtad.wire import events as ev
from mtad.wire.reply import Reply

_TRACE_LEVEL = 2


class Transcript:
    """Logs what one client and we say, in the form ``< client: MAIL FROM:<>``."""

    __slots__ = ("_client", "_log")

    def __init__(self, log: MailLog, client: str) -> None:
        self._log = log
        self._client = client

    def said(self, event: ev.Event) -> None:
        """The client has said something."""
        self._log.info(f"< {self._client}: {words_of(event)}")

    def replied(self, reply: Reply) -> None:
        """We have said something."""
        for line in printable_lines(reply):
            self._log.info(f"> {self._client}: {line}")


class Watching:
    """The clients of one service that are looked at."""

    def __init__(self, p: Parameters, log: MailLog) -> None:
        self._log = log
        self._level = p.number("debug_peer_level")
        parents = p.words("parent_domain_matches_subdomains")
        self._debug = AddressList(
            "debug_peer_list",
            p["debug_peer_list"],
            p.directory,
            parent_matches="debug_peer_list" in parents,
            warn=log.warning,
        )
        self._traced = AddressList(
            "mtad_trace_clients",
            p["mtad_trace_clients"],
            p.directory,
            parent_matches="debug_peer_list" in parents,
            warn=log.warning,
        )

    @classmethod
    def build(cls, p: Parameters, log: MailLog) -> Watching | None:
        """None where no client is looked at."""
        return cls(p, log) if p["debug_peer_list"] or p["mtad_trace_clients"] else None

    async def attend(self, request: Request) -> Transcript | None:
        """Look at this client, if it is one of those."""
        debug = await self._has(self._debug, request)
        if (debug and self._level >= _TRACE_LEVEL) or await self._has(self._traced, request):
            request.trace = log_step(request, self._log)
        return Transcript(self._log, request.client) if debug else None

    async def _has(self, clients: AddressList, request: Request) -> bool:
        try:
            return await clients.matches(request.client_address, request.client_name)
        except MtadError as error:
            self._log.warning(str(error))
            return False

    def close(self) -> None:
        """Let go of the lists' tables."""
        self._debug.close()
        self._traced.close()


def printable_lines(reply: Reply) -> list[str]:
    """A reply as it goes to the client, line by line; a challenge of SASL is left out."""
    if reply.code == 334:
        return ["334 (challenge)"]
    return [printable(line) for line in reply.encode().split(b"\r\n") if line]


def words_of(event: ev.Event) -> str:
    """What the client said, but no secret."""
    match event:
        case ev.Auth(mechanism, initial):
            return f"AUTH {printable(mechanism)}" + (" (response)" if initial is not None else "")
        case ev.AuthResponse():
            return "(response)"
        case ev.AuthAborted():
            return "*"
        case ev.Refused(line=line) if line.lstrip()[:4].upper() == b"AUTH":
            return "AUTH (something)" if b" " in line.strip() else printable(line)
        case ev.Refused(verb=b"AUTH"):
            return "(response)"
        case (
            ev.Refused(line=line)
            | ev.Ignored(line=line)
            | ev.Mail(line=line)
            | ev.Rcpt(line=line)
            | ev.Vrfy(line=line)
        ) if line:
            return printable(line)
        case ev.Helo(name, extended):
            return f"{'EHLO' if extended else 'HELO'} {printable(name)}"
        case ev.Bdat(size, last):
            return f"BDAT {size}{' LAST' if last else ''}"
        case ev.BdatEnd(size) | ev.BodyEnd(size):
            return f"({size} bytes of content)"
        case ev.Etrn(domain):
            return f"ETRN {printable(domain)}"
    return type(event).__name__.upper()
