"""Local delivery: aliases expanded, mail for users into their maildirs.

:class:`LocalAgent` stands for ``local(8)`` and :class:`VirtualAgent` for ``virtual(8)``.  A name that is an
alias of one mailbox is delivered there; one that stands for more, or for an address elsewhere, becomes a new
message, queued in the same transaction that ends the old recipient, so that nothing is lost or sent twice
when some of them must wait.  ``mailbox_transport`` and ``fallback_transport`` pass mail on.  Commands, files,
``~/.forward`` and mailboxes in mbox format are none of mtad's: what needs one of them waits (``.forward`` is
not looked at).  Outcomes are logged; nothing is raised but mistakes.

RFC 3461 section 5.2.7 (aliases and lists).  Postfix counterpart: ``local(8)``, ``virtual(8)``.
"""

from __future__ import annotations

import os
import pwd
import re
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from mtad.auth.offload import offload
from mtad.config.expand import expand
from mtad.config.parameters import Parameters
from mtad.deliver.bounce import content_of, header_section, message_id_in
from mtad.deliver.delivered import was_delivered_to
from mtad.deliver.expansion import Aliases, Copy, Expansion, NotExpanded, Resolve
from mtad.deliver.job import Clean, Job, Result
from mtad.deliver.mailbox import Mailboxes, NotWritten
from mtad.deliver.outcomes import Outcomes
from mtad.deliver.report import external
from mtad.errors import MtadError, TableError
from mtad.maillog import MailLog, printable
from mtad.mime.date import mail_date
from mtad.queue.message import Message, Outcome, Recipient
from mtad.queue.store import QueueStore
from mtad.tables.blocking import Lane
from mtad.tables.maps import Maps, split_extension
from mtad.tables.table import fold

_HEADER_LIMIT = 256 * 1024
_NO_MAILDIR = NotWritten("4.3.5", "home_mailbox does not end in a slash: mtad writes only maildirs")
#: Users whose mail is discarded where nobody has it.
_NOBODY = (b"mailer-daemon", b"postmaster", b"double-bounce")
_ACCOUNTS = Lane("accounts", 2)
_NAME_BAD = re.compile(r"[^A-Za-z0-9.-]")


@dataclass(frozen=True, slots=True)
class Office:
    """What local deliveries are made with.  ``resolve`` gives the way to an address, ``pause`` lets others
    have their turn, ``clean`` cleans mail that goes on."""

    store: QueueStore
    log: MailLog
    clock: Callable[[], float]
    mailboxes: Mailboxes
    new_id: Callable[[], str]
    resolve: Resolve
    pause: Callable[[], Awaitable[None]]
    clean: Clean


class _Carrier:
    """What both kinds of mailboxes share: the headers on top, the file, the outcome."""

    immediate = False

    def __init__(self, p: Parameters, office: Office, relay: str, filter_name: str) -> None:
        self._office = office
        self._relay = relay
        self._delivered_to = "file" in p.words("prepend_delivered_header")
        self._original = p.flag("enable_original_recipient")
        self._host = _NAME_BAD.sub("_", socket.gethostname())
        self._outcomes = Outcomes(p, office.log, filter_name)

    def close_idle(self) -> None:
        """Nothing is ever idle."""

    def abort(self) -> None:
        """What is being written will be, or will be again."""

    async def _write(
        self, message: Message, one: Recipient, whose: Mapping[str, object], delivered: bytes
    ) -> NotWritten | None:
        """Write a mail into a mailbox; ``delivered`` is for Delivered-To."""
        head = self._head(message, one, delivered)
        size = len(head)
        pieces = [head]
        if message.content is not None:
            body = message.content.replace(b"\r\n", b"\n")
            pieces.append(body)
            size += len(body)
            return await self._office.mailboxes.write(whose, self._name(message, one), pieces, size)
        for piece in _with_newlines(self._office.store.read(message)):  # twice: the size comes first
            size += len(piece)

        def all_pieces() -> Iterator[bytes]:
            yield head
            yield from _with_newlines(self._office.store.read(message))

        return await self._office.mailboxes.write(whose, self._name(message, one), all_pieces(), size)

    def _name(self, message: Message, one: Recipient) -> str:
        """The file's name: the same each time that this mail is written for this recipient."""
        return f"{int(message.arrival)}.Q{message.queue_id}R{one.id}.{self._host}"

    def _head(self, message: Message, one: Recipient, delivered: bytes) -> bytes:
        lines = [b"Return-Path: <%b>\n" % external(message.sender)]
        if self._original and one.original:
            lines.append(b"X-Original-To: %b\n" % external(one.original))
        if self._delivered_to:
            lines.append(b"Delivered-To: %b\n" % external(delivered))
        return b"".join(lines)

    async def _end(self, job: Job, outcomes: list[Outcome], logged: Sequence[Outcome] = ()) -> list[Outcome]:
        """Log outcomes; ``logged``: others in their place."""
        job.stamps.done = self._office.clock()
        await self._outcomes.settle(job, outcomes, logged=logged)
        return outcomes

    def _outcome(self, one: Recipient, dsn: str, reason: str) -> Outcome:
        status = {"2": "sent", "4": "deferred"}.get(dsn[0], "bounced")
        return Outcome(one, status, dsn, reason, self._relay)


class LocalAgent(_Carrier):
    """The deliveries of one ``local`` transport."""

    def __init__(self, p: Parameters, name: str, office: Office) -> None:
        super().__init__(p, office, "local", "local_delivery_status_filter")

        def maps(title: str) -> Maps:
            return Maps(p[title], p.directory, title=title, warn=office.log.warning)

        self._aliases = Aliases(p, name, office.resolve, office.pause, office.log)
        self._delimiter = p["recipient_delimiter"]
        self._hostname = p["myhostname"].encode()
        self._mail_name = p["mail_name"].encode()
        self._mailbox_maps = maps("mailbox_transport_maps")
        self._mailbox_transport = p["mailbox_transport"]
        self._fallback_maps = maps("fallback_transport_maps")
        self._fallback_transport = p["fallback_transport"]
        self._luser_relay = p["luser_relay"]
        self._maildirs = p["home_mailbox"].endswith("/")
        self._cleanup_log = office.log.named(f"{p['syslog_name']}/cleanup")
        self._frozen = p.flag("frozen_delivered_to")
        self._delivered_forward = "forward" in p.words("prepend_delivered_header")

    async def deliver(self, job: Job) -> Result:
        """Make a delivery, one recipient after the other."""
        result = Result()
        for recipient in job.recipients:
            job.stamps.begun = job.stamps.connected = self._office.clock()
            try:
                await self._recipient(job, recipient, result)
            except NotExpanded as error:
                result.outcomes += await self._end(job, [self._outcome(recipient, error.dsn, error.text)])
        return result

    async def _recipient(self, job: Job, one: Recipient, result: Result) -> None:
        message = job.message
        delivered = message.attributes.get("direct")
        if delivered is not None:
            await self._mailbox(job, one, one.address, os.fsencode(delivered) or one.address, result)
            return
        if was_delivered_to(self._office.store, message, one.address):
            reason = f"mail forwarding loop for {printable(external(one.address))}"
            result.outcomes += await self._end(job, [self._outcome(one, "5.4.6", reason)])
            return
        if "probe" in message.attributes:
            value = await self._aliases.lookup(one.address)
            if value is not None:
                reason = f"aliased to {printable(value)}"
                result.outcomes += await self._end(job, [self._outcome(one, "2.0.0", reason)])
                return
        found = await self._aliases.expand(one.address)
        if found.failed and not found.copies:
            raise found.failed[0][2]
        if found.user is None or (message.probing and found.aliased):
            await self._forward(job, one, found, result)
            return
        copy, address = found.user
        asked = replace(one)
        if found.aliased:
            one.notify = _not_of_success(one.notify)
        await self._mailbox(job, one, address, copy.delivered if self._frozen else address, result)
        if found.aliased and (result.passed or result.outcomes[-1].status == "sent"):
            self._trace(asked, found, result)

    # -- new messages

    async def _forward(self, job: Job, one: Recipient, found: Expansion, result: Result) -> None:
        """Send the mail on to those that a name stands for."""
        if job.message.probing:
            await self._foresee(job, one, found, result)
            return
        news = [self._new_message(job.message, one, copy, found.copies[copy]) for copy in found.copies]
        for copy, address, error in found.failed:  # which the sender of that copy is to hear of
            new = self._new_message(job.message, one, replace(copy, direct=True), [address])
            new.attributes["filter"] = f"error:{error.dsn} {error.text}"
            news.append(new)
        try:  # but for users themselves, whatever tables make of their names
            news = [
                new for new in news if "direct" in new.attributes or await self._office.clean(new, "forward")
            ]
        except MtadError as error:  # which was logged
            raise NotExpanded("4.3.0", "unable to forward message") from error
        for new in news:
            name = message_id_in(header_section((new.content or b"")[:_HEADER_LIMIT]))
            self._cleanup_log.info(f"{new.queue_id}: message-id={printable(name)}")
        ids = ", ".join(new.queue_id for new in news) or "nothing, since nobody is in the list"
        done = self._outcome(one, "2.0.0", f"forwarded as {ids}")
        logged = [replace(done, reason=f"forwarded as {new.queue_id}") for new in news]
        result.outcomes += await self._end(job, [done], logged)
        result.forwards += news
        self._trace(one, found, result)

    async def _foresee(self, job: Job, one: Recipient, found: Expansion, result: Result) -> None:
        """Tell where mail would go, address by address."""
        told: list[Outcome] = []
        for copy, people in found.copies.items():
            for address in people:
                served = _served(one, copy, address)
                each = Result()
                if copy.direct:
                    await self._mailbox(job, served, address, address, each)
                    passed = [self._outcome(served, "2.0.0", f"passes to {name}") for name in each.passed]
                    told += each.told or each.outcomes or await self._end(job, passed)
                else:
                    reason = f"forwards to {printable(address)}"
                    told += await self._end(job, [self._outcome(served, "2.0.0", reason)])
        for copy, address, error in found.failed:
            served = _served(one, copy, address)
            told += await self._end(job, [self._outcome(served, error.dsn, error.text)])
        result.outcomes.append(self._outcome(one, "2.0.0", "expanded"))
        result.told += told

    def _trace(self, one: Recipient, found: Expansion, result: Result) -> None:
        """Tell a sender who wants to know that an alias was expanded."""
        if b"SUCCESS" in one.notify:
            traced = self._outcome(one, "2.0.0", "alias expanded")
            traced.action = "delivered" if found.owned else "expanded"
            result.traced.append(traced)

    def _new_message(self, message: Message, one: Recipient, copy: Copy, people: list[bytes]) -> Message:
        """The mail once more: for users as it is, for others with the trace of having been here."""
        now = self._office.clock()
        queue_id = self._office.new_id()
        content = content_of(self._office.store, message, message.size)
        attributes = dict(message.attributes)
        for name in ("filter", "deliver_by", "untold"):
            attributes.pop(name, None)
        if copy.direct:
            attributes["direct"] = os.fsdecode(copy.delivered) if self._frozen else ""
        else:
            content = self._received(copy, queue_id, now) + content
        return Message(
            queue_id,
            message.sender if copy.sender is None else copy.sender,
            [_served(one, copy, address) for address in people],
            now,
            size=len(content),
            content=content,
            body=message.body,
            smtputf8=message.smtputf8,
            ret=message.ret,
            envid=message.envid,
            attributes=attributes,
        )

    def _received(self, copy: Copy, queue_id: str, now: float) -> bytes:
        """The headers on top of a mail that goes on."""
        where = self._hostname, self._mail_name, queue_id.encode(), mail_date(now)
        received = b"Received: by %b (%b)\r\n\tid %b; %b\r\n" % where
        if self._delivered_forward:
            received += b"Delivered-To: %b\r\n" % fold(copy.delivered)
        return received

    # -- a mailbox

    async def _mailbox(
        self, job: Job, one: Recipient, address: bytes, delivered: bytes, result: Result
    ) -> None:
        """Deliver to a user; ``address`` is the user's, which may be another than the recipient's."""
        transport = await self._transport(self._mailbox_maps, address, self._mailbox_transport)
        if transport:
            self._pass(one, address, transport, result)
            return
        served = one if address == one.address else Recipient(address, one.original or one.address, id=one.id)
        local = _local_part(address).lower()
        user, _ = split_extension(local, self._delimiter)
        name = user.decode("utf-8", "replace")
        probe = job.message.probing
        if not self._maildirs:
            failure: NotWritten | None = await self._account(name)
        elif probe:
            failure = await self._office.mailboxes.ask({"user": name})
        else:
            failure = await self._write(job.message, served, {"user": name}, delivered)
        if failure is not None and failure.unknown:
            await self._unknown(job, one, address, name, result)
            return
        dsn, reason = "2.0.0", "delivers to maildir" if probe else "delivered to maildir"
        if failure is not None:
            dsn, reason = failure.dsn, failure.text
        await self._done(job, one, served, dsn, reason, result)

    async def _account(self, user: str) -> NotWritten:
        """Why there is no mail for a user where no maildirs are written."""
        try:
            return await offload(_ACCOUNTS, partial(_look_up, user))
        except TableError as error:
            self._office.log.warning(str(error))
            return NotWritten("4.3.0", "user database unavailable")

    async def _done(
        self, job: Job, one: Recipient, served: Recipient, dsn: str, reason: str, result: Result
    ) -> None:
        done = self._outcome(one, dsn, reason)
        logged = [Outcome(served, done.status, dsn, reason, self._relay)] if served is not one else ()
        result.outcomes += await self._end(job, [done], logged)
        if done.status == "sent":
            done.action = "delivered"
            result.traced.append(done)

    def _pass(self, one: Recipient, address: bytes, transport: str, result: Result) -> None:
        one.address = address
        result.passed.setdefault(transport, []).append(one)

    async def _unknown(self, job: Job, one: Recipient, address: bytes, user: str, result: Result) -> None:
        """There is no such user."""
        transport = await self._transport(self._fallback_maps, address, self._fallback_transport)
        if transport:
            self._pass(one, address, transport, result)
            return
        dsn, reason = "5.1.1", f'unknown user: "{printable(user)}"'
        if user.encode() in _NOBODY:
            dsn, reason = "2.0.0", "discarded"
            if user != "double-bounce":
                self._office.log.warning(f"required alias not found: {user}")
        elif self._luser_relay and (found := await self._elsewhere(one, user)).copies:
            await self._forward(job, one, found, result)
            return
        await self._done(job, one, one, dsn, reason, result)

    async def _elsewhere(self, one: Recipient, user: str) -> Expansion:
        """What ``luser_relay`` makes of a recipient who is nobody here."""
        local, _, domain = one.address.decode("utf-8", "replace").rpartition("@")
        _, extension = split_extension(local.encode(), self._delimiter)
        values = {
            "user": user,
            "local": local,
            "domain": domain,
            "recipient": f"{local}@{domain}",
            "extension": extension.decode("utf-8", "replace")[1:],
            "recipient_delimiter": self._delimiter[:1],
        }

        def value(name: str, depth: int) -> str:
            return values.get(name, "")

        text = expand(self._luser_relay, value, lambda name, depth: bool(value(name, depth)))
        return await self._aliases.of(text, one.address)

    async def _transport(self, maps: Maps, address: bytes, usual: str) -> str:
        """What a pair like ``mailbox_transport_maps``, ``mailbox_transport`` says."""
        try:
            value = await maps.lookup(_local_part(address).lower())
        except MtadError as error:
            self._office.log.warning(str(error))
            return "retry:4.3.0 table lookup failure"
        return usual if value is None else value.decode("utf-8", "replace")


class VirtualAgent(_Carrier):
    """The deliveries of one ``virtual`` transport."""

    def __init__(self, p: Parameters, name: str, office: Office) -> None:
        super().__init__(p, office, "virtual", "virtual_delivery_status_filter")

        def maps(title: str) -> Maps:
            return Maps(p[title], p.directory, title=title, warn=office.log.warning)

        self._delimiter = p["recipient_delimiter"]
        self._mailbox_maps = maps("virtual_mailbox_maps")
        self._uid_maps = maps("virtual_uid_maps")
        self._gid_maps = maps("virtual_gid_maps")

    async def deliver(self, job: Job) -> Result:
        """Make a delivery, one recipient after the other."""
        result = Result()
        for one in job.recipients:
            job.stamps.begun = job.stamps.connected = self._office.clock()
            dsn, reason = await self._recipient(job.message, one)
            done = self._outcome(one, dsn, reason)
            result.outcomes += await self._end(job, [done])
            if done.status == "sent":
                done.action = "delivered"
                result.traced.append(done)
        return result

    async def _recipient(self, message: Message, one: Recipient) -> tuple[str, str]:
        """Status and reason."""
        address = one.address
        try:
            path = await self._mailbox_maps.find_address(address, self._delimiter)
            if path is None:
                return "5.1.1", f'unknown user: "{printable(external(address))}"'
            uid = await self._uid_maps.find_address(address, self._delimiter)
            gid = await self._gid_maps.find_address(address, self._delimiter)
        except MtadError as error:
            self._office.log.warning(str(error))
            return "4.3.5", "mail system configuration error"
        if uid is None or gid is None or not (uid.isdigit() and gid.isdigit()):
            shown = printable(external(address))
            self._office.log.warning(f"recipient {shown}: not found in virtual_uid_maps or virtual_gid_maps")
            return "4.3.5", "mail system configuration error"
        if not path.endswith(b"/"):
            return "4.3.5", "the mailbox is no maildir: mtad writes no other"
        if message.probing:
            return "2.0.0", "delivers to maildir"
        whose = {"path": path.decode("utf-8", "surrogateescape"), "uid": int(uid), "gid": int(gid)}
        failure = await self._write(message, one, whose, one.address)
        return ("2.0.0", "delivered to maildir") if failure is None else (failure.dsn, failure.text)


def _served(one: Recipient, copy: Copy, address: bytes) -> Recipient:
    """Who gets a copy for ``one``: what was asked of one who is a list is not asked of its members."""
    notify = _not_of_success(one.notify)
    if copy.sender is not None:
        return Recipient(address, address, notify)
    return Recipient(address, one.original or one.address, notify, one.orcpt)


def _not_of_success(notify: frozenset[bytes]) -> frozenset[bytes]:
    """What is left of NOTIFY where an alias was expanded (RFC 3461 section 5.2.7.3)."""
    return (notify - {b"SUCCESS"} or frozenset((b"NEVER",))) if notify else notify


def _look_up(user: str) -> NotWritten:
    """The same for who is no user.  Blocking."""
    try:
        pwd.getpwnam(user)
    except (KeyError, ValueError):
        return NotWritten("5.1.1", "", unknown=True)
    return _NO_MAILDIR


def _with_newlines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same with LF for CRLF, over the edges of pieces."""
    held = b""
    for piece in pieces:
        piece = held + piece
        held = b"\r" if piece.endswith(b"\r") else b""
        yield (piece[:-1] if held else piece).replace(b"\r\n", b"\n")
    if held:
        yield held


def _local_part(address: bytes) -> bytes:
    local, at, domain = address.rpartition(b"@")
    return local if at else domain
