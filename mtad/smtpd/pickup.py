"""Mail of this host's own programs: from a file of the maildrop into the queue.

:class:`Pickup` reads a file as sendmail(1) or postdrop(1) left it, puts a Received header on top, and has
envelope and content cleaned as those of any other message.  The message is in the queue, and that the file
was taken is noted with it, before the file goes: whenever the program stops, a file becomes one message.
What a file may hold is not trusted: its owner wrote it.

Raises :class:`Unfit` for a file of which nothing can be made, :class:`NotNow` for one that can't be taken for
the time being, as where a table can't be asked, and QueueError where the queue fails.

Postfix counterpart: ``pickup(8)``, and the part of ``cleanup(8)`` that serves it.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

from mtad.config.master_cf import Service
from mtad.config.parameters import Parameters
from mtad.errors import MtadError, QueueError
from mtad.maillog import MailLog, printable
from mtad.mime.date import mail_date
from mtad.queue.ids import QueueIds
from mtad.queue.message import Message, Outcome, Recipient
from mtad.queue.postfix.envelope import Envelope as FileEnvelope
from mtad.queue.postfix.envelope import QueueFile
from mtad.queue.postfix.files import open_plain, ready
from mtad.queue.postfix.records import BadRecord
from mtad.queue.postfix.submitted import Submitted
from mtad.queue.spool import open_spool
from mtad.queue.store import QueueStore
from mtad.rewrite.address import Rewriter
from mtad.rewrite.classes import AddressClasses
from mtad.smtpd.actions import act
from mtad.smtpd.envelope import Envelope
from mtad.smtpd.headers import Birth
from mtad.smtpd.intake import SMALL, Intake
from mtad.smtpd.milter.local import local_milters, milter_checks
from mtad.smtpd.milter.message import Screening
from mtad.smtpd.rules import CleanupRules, detects_utf8, service_parameters
from mtad.smtpd.state import FILE_TOO_BIG, MessageState, Origin
from mtad.wire.body import ChunkDecoder
from mtad.wire.logtext import logged
from mtad.wire.reply import Reply

#: Bytes that a file may have beside twice the content that a message may have.
_ENVELOPE = 16 * 1024 * 1024
#: Pieces of content that are taken before others have their turn.
_TURN = 16
_DAY, _DRIFT = 86400, 7200
#: Attributes that intake gives, or that what it did before has left.
_MADE_ANEW = frozenset(("filter", "message_id", "create_time"))


class Unfit(MtadError):
    """Nothing can be made of this file, now or later."""


class NotNow(MtadError):
    """Something can be made of this file, but not now."""


#: Puts messages into the queue in the place of what they were made of.
Keep = Callable[[Sequence[Message]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A message that may not come into the queue: its envelope, the beginning of its content, and why."""

    message: Message
    reply: Reply


class Pickup:
    """See the module.

    ``may_not_submit`` tells why a user (uid) may not submit mail from a sender, or nothing; ``pause`` lets
    others have their turn; ``refused`` has a message returned to its sender, and ends when that is durable.
    """

    def __init__(
        self,
        p: Parameters,
        services: Sequence[Service],
        store: QueueStore,
        log: MailLog,
        ids: QueueIds,
        spool_directory: str,
        *,
        may_not_submit: Callable[[int, bytes], str],
        reactor: Any,
        pause: Callable[[], Awaitable[None]],
        refused: Callable[[Refusal, Keep], Awaitable[None]],
    ) -> None:
        self._store = store
        self._log = log.named(f"{p['syslog_name']}/pickup")
        self._cleanup_log = log.named(f"{p['syslog_name']}/cleanup")
        self._ids = ids
        self._spool_directory = spool_directory
        self._may_not_submit = may_not_submit
        self._pause = pause
        self._refused = refused
        own = service_parameters(p, services, "pickup")
        cleanup = service_parameters(p, services, own["cleanup_service_name"])
        rewriter = Rewriter(service_parameters(p, services, "rewrite"))
        self._rules = CleanupRules(cleanup, rewriter, AddressClasses(p), self._cleanup_log)
        self._overrides = frozenset(own.words("receive_override_options"))
        self._filter = own["content_filter"]
        self._detect_utf8 = detects_utf8(own, "sendmail")
        self._keep_cr = not cleanup.flag("cleanup_replace_stray_cr_lf")
        self._size_limit = p.number("message_size_limit")
        self._delimiters = p["verp_delimiter_filter"].encode()
        how = Screening(
            milter_checks(cleanup, self._cleanup_log),
            self._cleanup_log,
            lambda: open_spool(spool_directory),
            self._size_limit,
            cleanup.number("header_size_limit"),
        )
        own_filters = "no_milters" not in self._overrides
        self._milters = local_milters(cleanup, reactor, how) if own_filters else None
        self._by = f"{p['myhostname']} ({p['mail_name']}, from userid "

    async def take(self, path: str) -> bool:
        """Make a message of the file, and remove it; False where it is not whole, or somebody else's."""
        try:
            file = open_plain(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise Unfit(f"open input file {path}: {error.strerror}") from error
        with file:
            status = os.fstat(file.fileno())
            if not ready(status.st_mode) or not _lock(file):
                return False
            name = f"{os.path.basename(path)}:{status.st_ino}:{status.st_mtime_ns}"
            if not self._store.was_taken(name):
                await self._make(path, file, status, name)
            _remove(path)
        await self._store.forget_taken((name,))
        return True

    async def _make(self, path: str, file: BinaryIO, status: os.stat_result, name: str) -> None:
        uid = status.st_uid
        if self._size_limit and status.st_size > 2 * self._size_limit + _ENVELOPE:
            raise Unfit(f"{path}: uid={uid}: file too big")
        now = time.time()
        if status.st_mtime > now + _DRIFT:
            late = int(status.st_mtime - now)
            self._log.warning(f"message {path} dated {late} seconds into the future")
        elif status.st_mtime < now - _DAY:
            self._log.warning(
                f"message {path} has been queued for {(now - status.st_mtime) // _DAY:.0f} days"
            )
        source = QueueFile(file, Submitted(now=now, delimiters=self._delimiters))
        queue_id = self._ids.next()
        intake: Intake | None = None
        try:
            written = source.read_envelope()
            if written.sender is None:
                raise Unfit(f"{path}: uid={uid}: no envelope sender")
            if reason := self._may_not_submit(uid, written.sender):
                raise Unfit(f"{path}: {reason}")
            self._log.info(f"{queue_id}: uid={uid} from=<{logged(written.sender, self._log)}>")
            state = self._state(queue_id, written)
            envelope = Envelope(self._rules, state)
            await envelope.set_sender(written.sender)
            known = len(written.recipients)  # others are named behind the content
            await self._add(envelope, written.recipients)
            intake = self._intake(written, state, now)
            await intake.begin(b"", self._received(queue_id, status, now))
            await self._feed(source.content(), intake)
            source.read_rest()
            await self._add(envelope, written.recipients[known:])
            await envelope.finish()
            if not written.recipients:
                raise Unfit(f"{path}: uid={uid}: no recipients")
            await self._queue(queue_id, written, envelope, intake, partial(self._keep_file, name))
        except BadRecord as error:
            raise Unfit(f"{path}: uid={uid}: {error}") from error
        finally:
            if intake is not None:
                intake.discard()

    def _state(self, queue_id: str, written: FileEnvelope) -> MessageState:
        state = MessageState(queue_id, self._cleanup_log, Origin("local"), overrides=self._overrides)
        state.returning = True
        state.detect_utf8 = self._detect_utf8
        state.smtputf8 = bool(written.options & 1)
        state.eight_bit = written.body == b"8BITMIME"
        if "requiretls" in written.attributes:
            state.wishes["requiretls"] = "yes"
        return state

    def _intake(self, written: FileEnvelope, state: MessageState, now: float) -> Intake:
        context = written.attributes.get("rewrite_context", "local")
        if context != "local":
            context = "remote" if self._rules.rewriter.rewrites_remote else ""
        full_name = written.attributes.get("sender_fullname", "").encode()
        return Intake(
            self._rules,
            state,
            Birth(now, written.arrival or now, context, full_name),
            size_limit=self._size_limit,
            spool=lambda: open_spool(self._spool_directory),
        )

    def _received(self, queue_id: str, status: os.stat_result, now: float) -> bytes:
        date = mail_date(min(status.st_mtime, now)).decode()
        return f"Received: by {self._by}{status.st_uid})\r\n\tid {queue_id}; {date}\r\n".encode()

    @staticmethod
    async def _add(envelope: Envelope, recipients: Iterable[Recipient]) -> None:
        for one in recipients:
            await envelope.add(one.address, one.notify, one.orcpt, one.original)

    async def _feed(self, content: Iterable[bytes], intake: Intake) -> None:
        """Have the content taken in, with CRLF alone at the ends of its lines."""
        lines = ChunkDecoder(keep_cr=self._keep_cr)
        for number, chunk in enumerate(content, 1):
            more = intake.feed(lines.feed(chunk))
            if more is not None:
                await more
            if number % _TURN == 0:
                await self._pause()
        more = intake.feed(lines.finish())
        if more is not None:
            await more

    async def _queue(
        self,
        queue_id: str,
        written: FileEnvelope,
        envelope: Envelope,
        intake: Intake,
        keep: Keep,
        screened: bool = False,
    ) -> None:
        """``screened``: Milters have seen it."""
        content = await intake.finish()
        state = intake.state
        message = written.message(queue_id)
        message.sender, message.recipients = state.sender, envelope.recipients
        message.smtputf8 = state.smtputf8
        if state.eight_bit:
            message.body = b"8BITMIME"
        message.attributes |= state.wishes
        if state.message_id:
            message.attributes["message_id"] = printable(state.message_id)
        message.content, message.spool, message.size = content, intake.spool, intake.size
        refusal = FILE_TOO_BIG if intake.too_big else intake.refusal
        if refusal is None and state.going_on and self._milters is not None and not screened:
            refusal = await self._milters.screen(message, envelope, state)
            intake.spool = message.spool  # closed with the rest
        act(message, state, self._rules.rewriter, filter=self._filter)
        if refusal is not None and refusal.code < 500:
            raise NotNow(f"{queue_id}: {printable(refusal.text)}")
        if refusal is not None:
            message.recipients = message.recipients or written.recipients
            message.content, message.ret = _for_its_sender(message, intake), b"HDRS"
            message.size = len(message.content)
            await self._refused(Refusal(message, refusal), keep)
            return
        if state.discarded:
            self._cleanup_log.info(f"{queue_id}: removed (discarded)")
            await keep(())
            return
        await keep((message,))

    async def _keep_file(self, name: str, messages: Sequence[Message]) -> None:
        """What was made of a file."""
        for message in messages:
            await self._store.enqueue(message, name)
            name = ""

    async def resubmit(self, message: Message) -> None:
        """Have a message of the queue go through intake once more, as another one that takes its place."""
        now = time.time()
        queue_id = self._ids.next()
        attributes = {name: value for name, value in message.attributes.items() if name not in _MADE_ANEW}
        written = FileEnvelope(
            message.arrival, message.sender, message.recipients, attributes, message.body, message.ret,
            message.envid, int(message.smtputf8),
        )  # fmt: skip
        shown = logged(message.sender, self._log)
        self._log.info(f"{queue_id}: uid={os.getuid()} from=<{shown}> orig_id={message.queue_id}")
        state = self._state(queue_id, written)
        envelope = Envelope(self._rules, state)
        await envelope.set_sender(message.sender)
        await self._add(envelope, message.recipients)
        intake = self._intake(written, state, now)
        try:
            date = mail_date(now).decode()
            received = f"Received: by {self._by}{os.getuid()})\r\n\tid {queue_id}; {date}\r\n"
            await intake.begin(b"", received.encode())
            await self._feed(self._store.read(message), intake)
            await envelope.finish()
            keep = partial(self._replace, message)
            await self._queue(queue_id, written, envelope, intake, keep, screened=True)
        finally:
            intake.discard()

    async def _replace(self, old: Message, messages: Sequence[Message]) -> None:
        """What was made of a message of the queue."""
        outcomes = [Outcome(one, "sent", "2.0.0", "requeued") for one in old.recipients]
        await self._store.finish(old, outcomes, time.time(), messages)


def _for_its_sender(message: Message, intake: Intake) -> bytes:
    """The headers of a message that is refused, and perhaps more."""
    if message.spool is None:
        return message.content or intake.kept
    message.spool.seek(0)
    return message.spool.read(SMALL)


def _lock(file: BinaryIO) -> bool:
    """Whether the file is ours: no other process takes it, or has just removed it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    status = os.fstat(file.fileno())
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise QueueError(f"remove {path}: {error.strerror}") from error
