"""The answer: a case put to the live configuration, as a session would put it.

:class:`Trial` evaluates the lists of one smtpd service for a client's commands, one after the other until
one is refused, and tells each restriction: where it stands, what was found, what it came to. DNS and policy
services are asked as in a session (policy services not with ``ask=False``: then they have nothing to say),
and nothing is changed or sent; limits by client or login, milters and addresses that only a probe could
verify take no part.

Raises ConfigError. Postfix counterpart: none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from mtad.cli.explaining.case import Case
from mtad.config.places import Places
from mtad.daemon.plan import Plan
from mtad.deliver.route import Router
from mtad.maillog import ListSink, MailLog, printable
from mtad.net.dns import Resolver
from mtad.net.hosts import PeerStatus, peername
from mtad.policy.check import DUNNO
from mtad.policy.evaluator import Evaluator, Verdict
from mtad.policy.policy_service import PolicyOptions
from mtad.policy.request import Request
from mtad.policy.trace import Step
from mtad.policy.trace_text import outcome
from mtad.policy.verify import Known
from mtad.rewrite.address import Rewriter
from mtad.rewrite.classes import AddressClasses
from mtad.smtpd.policy_client import PolicyConnections
from mtad.smtpd.service import ACTIONS, ServicePlan
from mtad.tables.table import Text
from mtad.wire.address import from_text
from mtad.wire.reply import Reply

Report = dict[str, Any]

_ENCRYPT = Reply(530, b"Must issue a STARTTLS command first", b"5.7.0")
_GREETING = "220 ..."

_DESTINATIONS = ("mydestination", "virtual_alias_domains", "virtual_mailbox_domains", "relay_domains")
_RECIPIENTS = ("local_recipient_maps", "virtual_alias_maps", "virtual_mailbox_maps", "relay_recipient_maps")

_LIMITS = (
    "smtpd_client_auth_rate_limit",
    "smtpd_client_connection_rate_limit",
    "smtpd_client_message_rate_limit",
    "smtpd_client_new_tls_session_rate_limit",
    "smtpd_client_recipient_rate_limit",
    "mtad_sasl_message_rate_limit",
    "mtad_sasl_new_recipient_limit",
    "mtad_sasl_recipient_rate_limit",
)

#: What these go by, besides the client and its mail: told where they decide.
_BY = {
    "defer_unauth_destination": _DESTINATIONS,
    "permit_auth_destination": _DESTINATIONS,
    "permit_inet_interfaces": ("inet_interfaces", "proxy_interfaces"),
    "permit_mx_backup": ("permit_mx_backup_networks",),
    "permit_mynetworks": ("mynetworks",),
    "permit_tls_all_clientcerts": ("relay_clientcerts",),
    "permit_tls_clientcerts": ("relay_clientcerts",),
    "reject_authenticated_sender_login_mismatch": ("smtpd_sender_login_maps",),
    "reject_known_sender_login_mismatch": ("smtpd_sender_login_maps",),
    "reject_sender_login_mismatch": ("smtpd_sender_login_maps",),
    "reject_unauth_destination": _DESTINATIONS,
    "reject_unauthenticated_sender_login_mismatch": ("smtpd_sender_login_maps",),
    "reject_unlisted_recipient": _RECIPIENTS,
    "reject_unlisted_sender": _RECIPIENTS,
}


class _Silent:
    """A policy service that is not asked."""

    def __init__(self, options: PolicyOptions) -> None:
        pass

    async def exchange(self, request: bytes, accept: Callable[[bytes], bool]) -> bytes:
        return b"action=DUNNO (not asked)\n\n"

    def close(self) -> None:
        pass


class Trial:
    """One case before one service."""

    def __init__(self, plan: Plan, service: ServicePlan, case: Case, reactor: Any, ask: bool = True) -> None:
        self._case = case
        self._plan = service
        self._reactor = reactor
        self._sink = ListSink()
        self._steps: list[Step] = []
        self._commands: list[Report] = []
        self._actions: dict[str, Any] = {}  # those told already
        self._refused: list[Report] = []
        self._places = Places(service.p)
        self._notes = list(case.notes)
        self._resolver = Resolver(reactor)
        Text.utf8 = plan.p.flag("smtputf8_enable")
        self._classes = AddressClasses(plan.p)
        self._router = Router(plan.p, self._classes)
        queue = plan.p["queue_directory"]
        self._evaluator = Evaluator(
            service.p,
            MailLog(self._sink, service.settings.ident),
            Rewriter(plan.p),
            self._classes,
            sleep=_no_sleep,
            actions=ACTIONS,
            dial=(lambda options: PolicyConnections(reactor, options, queue)) if ask else _Silent,
            resolver=self._resolver,
            route=self._router.resolve,
            verify=self._verified,
        )

    async def run(self) -> Report:
        """The report, for JSON."""
        request = await self._client()
        try:
            await self._session(request)
        finally:
            self._evaluator.close()
        case, service = self._case, self._plan
        last = self._commands[-1]["reply"]
        return {
            "service": service.service.name,
            "file": f"{service.p.directory}/master.cf",
            "line": service.service.line,
            "client": request.client,
            "reverse_name": request.reverse_name,
            "helo": printable(request.helo),
            "protocol": request.protocol,
            "tls": request.tls,
            "login": request.sasl_username,
            "queue_id": case.queue_id,
            "notes": self._notes,
            "commands": self._commands,
            "reply": last,
            "refused": not _positive(last) or bool(self._refused),
            "refused_recipients": self._refused,
            "logged": case.said,
        }

    async def _verified(self, address: bytes) -> tuple[Known, str]:
        """No probe is sent: the address is taken for good."""
        note = f"a probe would find that {printable(address)} can be delivered to"
        if note not in self._notes:
            self._notes.append(note)
        return Known.OK, ""

    # -- the client

    async def _client(self) -> Request:
        case, p = self._case, self._plan.p
        name, reverse, temporary, reverse_temporary = case.name, case.name, False, False
        if not name or name == "unknown":
            peer = await peername(self._resolver, case.address, lookup=p.flag("smtpd_peername_lookup"))
            name, reverse = case.name or peer.name, peer.reverse_name
            temporary = peer.status == PeerStatus.TEMPORARY
            reverse_temporary = peer.reverse_status == PeerStatus.TEMPORARY
        request = Request(
            client_name=name,
            client_address=case.address,
            client_port=case.port,
            reverse_name=reverse,
            name_temporary=temporary,
            reverse_temporary=reverse_temporary,
            protocol="ESMTP" if case.extended else "SMTP",
            tls=self._has_tls(),
            cert_trusted=case.trusted,
            cert_fingerprint=case.fingerprint,
            pubkey_fingerprint=case.key_fingerprint,
            sasl_method=case.mechanism if case.login else "",
            sasl_username=case.login,
        )
        request.trace = self._steps.append
        self._note_absent()
        return request

    def _note_absent(self) -> None:
        """Say what would take part in a session, and doesn't here."""
        p, case = self._plan.p, self._case
        if not case.helo and p.flag("smtpd_helo_required"):
            self._notes.append("the client has said HELO, which this service demands (--helo: what it says)")
        if p["smtpd_milters"]:
            self._notes.append("smtpd_milters would agree: they are not asked")
        limited = [name for name in _LIMITS if p.number(name)]
        if limited:
            self._notes.append(f"no limit is reached ({', '.join(limited)})")

    def _has_tls(self) -> bool:
        case, p = self._case, self._plan.p
        if case.tls is not None:
            return case.tls
        if self._plan.tls.wrapper or self._plan.tls.level == "encrypt":
            self._notes.append("with TLS, which this service demands (--no-tls: without)")
            return True
        if case.login and p.flag("smtpd_tls_auth_only"):
            self._notes.append("with TLS, without which nobody can log in here (--no-tls: without)")
            return True
        if case.fingerprint:
            return True
        self._notes.append("without TLS (--tls: with)")
        return False

    # -- its commands

    async def _session(self, request: Request) -> None:
        case, evaluator = self._case, self._evaluator
        if not await self._ask("CONNECT", evaluator.connect(request), _GREETING, request):
            return
        verb = "EHLO" if case.extended else "HELO"
        if case.helo:
            request.helo = case.helo.encode("utf-8", "surrogateescape")
            helo = evaluator.helo(request, case.extended)
            if not await self._ask(f"{verb} {case.helo}", helo, "250 ...", request):
                return
        if case.sender is None or not await self._mail(request, case.sender):
            return
        accepted = []
        for address in case.recipients:
            if await self._rcpt(request, address):
                accepted.append(address)
            else:
                reply = self._commands[-1]["reply"]
                self._refused.append({"recipient": printable(address), "reply": reply})
        if not accepted:
            return
        request.recipient_count = len(accepted)
        request.recipient = from_text(_wire(accepted[0])) if len(accepted) == 1 else None
        if await self._ask("DATA", evaluator.data(request), "354 ...", request):
            await self._ask("end of content", evaluator.end_of_data(request), "250 2.0.0 Ok", request)

    async def _mail(self, request: Request, address: str) -> bool:
        command = f"MAIL FROM:<{address}>"
        if self._plan.tls.level == "encrypt" and not request.tls:
            return self._tell(command, str(_ENCRYPT), request)
        request.sender = from_text(_wire(address))
        request.size = self._case.size
        limit = self._plan.p.number("message_size_limit")
        if not await self._evaluator.acceptable(request.sender, not address.isascii()):
            return self._tell(command, "501 5.1.7 Bad sender address syntax", request)
        refused = await self._ask(command, self._evaluator.mail(request), "250 2.1.0 Ok", request)
        if refused and limit and request.size > limit:
            return self._tell(command, "552 5.3.4 Message size exceeds fixed limit", request)
        return refused

    async def _rcpt(self, request: Request, address: str) -> bool:
        command = f"RCPT TO:<{address}>"
        request.recipient = from_text(_wire(address))
        try:
            if not await self._evaluator.acceptable(request.recipient, not address.isascii()):
                return self._tell(command, "501 5.1.3 Bad recipient address syntax", request)
            return await self._ask(command, self._evaluator.rcpt(request), "250 2.1.5 Ok", request)
        finally:
            request.recipient = None

    async def _ask(
        self, command: str, question: Awaitable[Verdict | None], positive: str, request: Request
    ) -> bool:
        """Put a question, and tell what comes of it; True: the client may go on."""
        self._places.begin()
        verdict = await question
        return self._tell(command, positive if verdict is None else str(verdict.reply), request)

    def _tell(self, command: str, reply: str, request: Request) -> bool:
        actions = request.actions
        asked: dict[str, Any] = {
            "discard": actions.discard,
            "hold": actions.hold,
            "filter": actions.filter,
            "redirect": printable(actions.redirect),
            "bcc": [printable(each) for each in actions.bcc],
            "prepend": [printable(each) for each in actions.prepend],
        }
        self._commands.append(
            {
                "command": printable(command),
                "lists": self._lists(),
                "reply": printable(reply),
                "actions": {
                    name: value for name, value in asked.items() if value and self._actions.get(name) != value
                },
                "log": [text for _, _, text in self._sink.lines],
            }
        )
        self._actions = asked
        self._steps.clear()
        self._sink.lines.clear()
        return _positive(reply)

    # -- the steps

    def _lists(self) -> list[Report]:
        """The steps so far, list by list."""
        lists: list[Report] = []
        for place, step in self._tree():
            if not lists or lists[-1]["list"] != place:
                path, line = self._places.of(place)
                lists.append({"list": place, "file": path, "line": line, "steps": []})
            lists[-1]["steps"].append(step)
        return lists

    def _tree(self) -> list[tuple[str, Report]]:
        """The steps of lists, those within them as their ``steps``."""
        open_: list[tuple[int, str, Report]] = []
        for step in self._steps:
            told = self._step(step)
            while open_ and open_[-1][0] > step.depth:
                told["steps"].insert(0, open_.pop()[2])
            open_.append((step.depth, step.place, told))
        return [(place, told) for _, place, told in open_]

    def _step(self, step: Step) -> Report:
        path, line = self._places.of(step.place, step.restriction) if step.place else ("", 0)
        decides = step.status != DUNNO or step.held is not None
        return {
            "restriction": step.restriction,
            "arguments": list(step.arguments),
            "file": path,
            "line": line,
            "matches": [
                {"table": each.source, "key": printable(each.key), "value": printable(each.value)}
                for each in step.matches
            ],
            "by": [self._by(name) for name in _BY.get(step.restriction.lower(), ())] if decides else [],
            "result": outcome(step),
            "steps": [],
        }

    def _by(self, name: str) -> Report:
        path, line = self._places.of(name)
        return {"parameter": name, "value": self._plan.p[name], "file": path, "line": line}


def _positive(reply: str) -> bool:
    return reply[:1] in ("2", "3")


def _wire(address: str) -> bytes:
    return address.encode("utf-8", "surrogateescape")


async def _no_sleep(seconds: float) -> None:
    """Nobody needs to wait."""
