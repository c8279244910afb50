"""One evaluation: the state that restrictions read and change while lists run.

A :class:`Check` belongs to one question of the protocol (may this RCPT pass?).  Restrictions give
``DUNNO``, ``OK`` or ``REJECT``; :meth:`Check.reject` finishes the text of a refusal (RFC 3463 code made
to fit, 510 bytes, printable), logs it, and keeps it as ``reply``.  :class:`Abort` ends the whole
evaluation: the reply is already set.  A :class:`~mtad.errors.TableError` from a restriction becomes
``451 4.3.0 <x>: Temporary lookup failure``.

Postfix counterpart: ``generic_checks()``, ``smtpd_check_reject()``, ``defer_if()``.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from mtad.errors import MtadError
from mtad.maillog import printable
from mtad.policy import report
from mtad.policy.request import Reason, Request
from mtad.policy.trace import Match, Recorder, Step
from mtad.wire.events import Address
from mtad.wire.reply import Reply

if TYPE_CHECKING:
    from mtad.net.lookup import Lookup
    from mtad.policy.setup import Setup
    from mtad.rewrite.resolve import Resolution
    from mtad.tables import Maps

DUNNO, OK, REJECT = 0, 1, 2

#: What the words of a reply call the thing that was refused.
CLIENT, REVERSE_CLIENT, HELO = "Client host", "Unverified Client host", "Helo command"
SENDER, RECIPIENT, ETRN = "Sender address", "Recipient address", "Etrn command"
DATA, END_OF_DATA = "Data command", "End-of-data"
CCERT, SASL_USER = "Client certificate", "SASL login name"

_DSN = re.compile(rb"[245]\.[0-9]{1,3}\.[0-9]{1,3}\Z")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_LONGEST = 510  # RFC 5321 section 4.5.3.1.5, without CRLF; Postfix means to cut here, and doesn't
_DEEPEST = 100


class Scope(NamedTuple):
    """What a list is applied to: the ``<x>`` and the class of its replies.

    ``table`` names the restriction that a bare ``type:table`` stands for; empty: none does.
    """

    name: bytes
    kind: str
    table: str


Run = Callable[["Check", Scope], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A restriction, ready to run.  ``run`` is None for ``warn_if_reject``.

    ``ignored`` names what follows a restriction after which nothing can follow.  ``words`` are it and its
    arguments as written in ``place``, a parameter or a class.
    """

    name: str
    run: Run | None
    ignored: str = ""
    words: tuple[str, ...] = ()
    place: str = ""


#: No reply at all: the connection ends without a word (access(5) result HANGUP).
HANG_UP = Reply(0, b"")


class Abort(Exception):
    """The evaluation ends here with the reply that was set."""


class Check:
    """The state of one evaluation."""

    __slots__ = (
        "defer_if_permit",
        "defer_if_reject",
        "matches",
        "recipient_listed",
        "recursion",
        "reply",
        "request",
        "resolutions",
        "sender_listed",
        "setup",
        "trace",
        "warn",
    )

    def __init__(self, setup: Setup, request: Request) -> None:
        self.setup = setup
        self.request = request
        self.trace = request.trace
        self.matches: list[Match] = []  # of the restriction at hand, for the trace
        self.reply: Reply | None = None
        self.resolutions: dict[bytes, Resolution] = {}
        self.defer_if_permit: Reason | None = None
        self.sender_listed = False  # reject_unlisted_sender has run
        self.recipient_listed = False
        self.reset()

    def reset(self) -> None:
        """A new stage begins."""
        self.recursion = 0
        self.warn = 0  # the depth at which warn_if_reject was seen
        self.defer_if_reject: Reason | None = None

    # -- running lists

    async def stage(self, rules: Sequence[Rule], name: bytes, kind: str, table: str) -> int:
        """Run one list from the top; never raises :class:`Abort`."""
        if not rules:
            return DUNNO
        try:
            return await self.run(rules, Scope(name, kind, table))
        except Abort:
            return REJECT

    async def run(self, rules: Sequence[Rule], scope: Scope) -> int:
        """Run a list in the evaluation at hand: the first OK or REJECT ends it."""
        depth = self.recursion
        if depth > _DEEPEST:
            self.misconfigured(f"restriction class {rules[0].name} causes unreasonable recursion")
        self.recursion = depth + 1
        actions = self.request.actions
        status = DUNNO
        for rule in rules:
            if actions.discard:
                break
            if rule.run is None:
                self.warn = self.warn or self.recursion
                continue
            try:
                status = await (rule.run(self, scope) if self.trace is None else self._traced(rule, scope))
            except MtadError as error:
                self.lookup_failed(error, scope.name)
            if rule.ignored and (status == OK or (rule.name != "permit" and not self.warn)):
                self.setup.log.warning(f"restriction `{rule.ignored}' after `{rule.name}' is ignored")
            if self.warn >= self.recursion:
                self.warn = 0
            if status or (self.defer_if_permit and self.defer_if_reject):
                break
        self.recursion = depth
        if self.warn >= depth:
            self.warn = 0
        return status

    async def _traced(self, rule: Rule, scope: Scope) -> int:
        """Run ``rule`` and tell what came of it."""
        assert rule.run is not None and self.trace is not None
        outer, self.matches = self.matches, []
        before = (self.defer_if_permit, self.defer_if_reject)
        depth, status = self.recursion, REJECT
        try:
            status = await rule.run(self, scope)
        except MtadError as error:
            self.lookup_failed(error, scope.name)
        finally:
            matches, self.matches = tuple(self.matches), outer
            reply = self.reply if status == REJECT else None
            after = (self.defer_if_permit, self.defer_if_reject)
            held = next((new for old, new in zip(before, after, strict=True) if new is not old), None)
            name, *arguments = rule.words or (rule.name,)
            self.trace(Step(depth, rule.place, name, tuple(arguments), matches, status, reply, held))
        return status

    def found(self, source: str, key: bytes, value: bytes) -> None:
        """Tell the trace what was found."""
        if self.trace is not None:
            self.matches.append(Match(source, key, value))

    # -- verdicts

    def reject(self, code: int, dsn: bytes, text: bytes, maskable: bool = True) -> int:
        """Refuse, or with ``warn_if_reject`` only log so; ``maskable`` False for errors of our own."""
        setup = self.setup
        whole = _finish(code, dsn, text)
        if not 400 <= code <= 599:
            setup.log.warning(f"SMTP reply code configuration error: {printable(whole)}")
            code, dsn, text = 450, b"4.7.1", b"Service unavailable"
        elif not _DSN.match(dsn):
            setup.log.warning(f"DSN detail code configuration error: {printable(whole)}")
            code, dsn, text = 450, b"4.7.1", b"Service unavailable"
        else:
            text = whole[5 + len(dsn) :]
        masked = maskable and self.warn > 0
        reason = self.defer_if_reject
        if reason is not None and not masked and code >= 500:
            self.warn = 0
            self.defer_if_reject = None
            return self.reject(reason.code, reason.dsn, reason.text)
        if code >= 500 and setup.soft_bounce:
            code -= 100
        reply = Reply(code, text, b"%d" % (code // 100) + dsn[1:])
        what = "reject_warning" if masked else "reject"
        setup.log.info(report.line(self.request, what, str(reply)))
        if masked:
            return DUNNO
        self.reply = reply
        return REJECT

    def refuse(self, code: int, dsn: bytes, scope: Scope, text: bytes) -> int:
        """:meth:`reject` with the usual words ``<x>: Client host rejected: text``."""
        return self.reject(code, dsn, b"<%b>: %b rejected: %b" % (scope.name, scope.kind.encode(), text))

    def hold_permit(self, code: int, dsn: bytes, text: bytes) -> int:
        """``defer_if_permit``: a later permission becomes this; the first reason is kept."""
        if self.warn:
            return self.reject(code, dsn, text)
        if self.defer_if_permit is None:
            self.defer_if_permit = Reason(code, dsn, text)
        return DUNNO

    def hold_reject(self, code: int, dsn: bytes, text: bytes) -> int:
        """``defer_if_reject``: a later 5xx becomes this; the first reason is kept."""
        if self.defer_if_reject is None:
            self.defer_if_reject = Reason(code, dsn, text)
        return DUNNO

    def temporary(self, parameter: str, dsn: bytes, text: bytes) -> int:
        """The DNS can't tell now: 450 at once or if a permission follows, as ``parameter`` says."""
        if self.setup.defer_at_once[parameter]:
            return self.reject(450, dsn, text)
        return self.hold_permit(450, dsn, text)

    async def permit(self, action: str, kind: str, name: bytes, more: str = "") -> int:
        """OK, logged where ``smtpd_log_access_permit_actions`` asks for it."""
        logged = self.setup.logged_permits
        if logged and self.defer_if_permit is None and await logged.matches(action.encode()):
            text = f"action={action} for {kind}={printable(name)} {more}"
            self.setup.log.info(report.line(self.request, "permit", text))
        return OK

    async def permit_client(self, action: str) -> int:
        """:meth:`permit` for something known of the client."""
        return (
            await self.permit(action, CLIENT, self.request.client.encode())
            if self.setup.logged_permits
            else OK
        )

    def settle(self, status: int) -> int:
        """At the end of a command: a pending ``defer_if_permit`` turns anything but REJECT into its reply."""
        reason = self.defer_if_permit
        if status == REJECT or reason is None:
            return status
        return self.reject(reason.code, reason.dsn, reason.text)

    # -- errors

    def lookup_failed(self, error: MtadError, name: bytes) -> NoReturn:
        """A table could not be asked: 451, and the end of the evaluation."""
        self.log_failure(error)
        if error.dsn == "4.3.5":
            self.misconfigured()
        self.reject(451, b"4.3.0", b"<%b>: Temporary lookup failure" % name, maskable=False)
        raise Abort

    def log_failure(self, error: MtadError) -> None:
        """What is wrong with a table, and what was asked."""
        for text in (str(error), *getattr(error, "__notes__", ())):
            self.setup.log.warning(text)

    def hang_up(self, text: str) -> NoReturn:
        """End the session."""
        self.setup.log.info(report.line(self.request, "hangup", text))
        self.reply = HANG_UP
        raise Abort

    def misconfigured(self, *warnings: str) -> NoReturn:
        """The configuration can't be followed: say why, 451, and the end of the evaluation."""
        for warning in warnings:
            self.setup.log.warning(warning)
        self.reject(451, b"4.3.5", b"Server configuration error", maskable=False)
        raise Abort

    # -- looking up

    @property
    def lookup(self) -> Lookup:
        """The DNS."""
        lookup = self.setup.lookup
        if lookup is None:
            self.misconfigured("there is no resolver for restrictions that ask the DNS")
        return lookup

    async def resolve(self, address: Address) -> Resolution:
        """What ``address`` comes to after rewriting; a failing table ends the evaluation."""
        found = self.resolutions.get(address.text)
        if found is None:
            try:
                found = await self.setup.resolver.resolve(address)
            except MtadError as error:
                self.lookup_failed(error, address.text)
            self.resolutions[address.text] = found
        return found

    async def find_address(self, maps: Maps, key: bytes) -> bytes | None:
        """An address in maps, by the order of keys that address tables have."""
        if not maps:
            return None
        if self.trace is not None:
            maps = Recorder(self, maps)
        setup = self.setup
        local = setup.classes.is_local_domain
        match = await maps.match_address(key, setup.delimiter, local, setup.myorigin)
        return None if match is None else match[0]


def _finish(code: int, dsn: bytes, text: bytes) -> bytes:
    """The reply as one line: cut to what a client must accept, and printable."""
    whole = b"%d %b %b" % (code, dsn, text)
    if len(whole) > _LONGEST:
        whole = whole[:_LONGEST]
    if whole.isascii():
        return whole if whole.decode().isprintable() else _CONTROL.sub(b" ", whole)
    shown = whole.decode("utf-8", "replace").replace("\ufffd", " ")
    return "".join(c if c.isprintable() else " " for c in shown).encode()
