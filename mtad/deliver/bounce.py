"""Notifications to senders: what failed, what is late, what was relayed out of sight.

:class:`Bouncer` decides who is told (RFC 3461: NOTIFY, RET, ENVID, ORCPT) and makes the messages; the caller
queues them in the transaction that ends the recipients' delivery, and then calls :meth:`Bouncer.announce`.
Mail from the null sender is never answered: its failures go to the postmaster when ``notify_classes`` has
``2bounce``, or end with the log line of the failed delivery.

Postfix counterpart: ``bounce(8)``, without its log files: the queue's rows are those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mtad.config.parameters import Parameters
from mtad.deliver.dsn_text import DELAY, FAILURE, SUCCESS, Frame, Kind, compose, message_id
from mtad.maillog import MailLog
from mtad.queue.message import Message, Outcome, Recipient
from mtad.queue.store import QueueStore
from mtad.wire.command import xtext_encode

#: The most of a message that is searched for the end of its headers.
_HEADER_LIMIT = 128 * 1024


@dataclass(frozen=True, slots=True)
class Notice:
    """A notification ready to be queued, and what to log once it is."""

    message: Message
    about: str  # queue id
    text: str


def content_of(store: QueueStore, message: Message, limit: int) -> bytes:
    """At least the first ``limit`` bytes of a message, where it has so many."""
    if message.content is not None:
        return message.content
    parts: list[bytes] = []
    size = 0
    for part in store.read(message):
        parts.append(part)
        size += len(part)
        if size >= limit:
            break
    return b"".join(parts)


def header_section(content: bytes) -> bytes:
    """The headers of a message, without the empty line behind them."""
    if content.startswith(b"\r\n"):
        return b""
    end = content.find(b"\r\n\r\n")
    return content if end < 0 else content[: end + 2]


class Bouncer:
    """Makes the notifications of one configuration.  ``new_id`` gives queue ids, ``clock`` the time."""

    def __init__(
        self,
        p: Parameters,
        store: QueueStore,
        log: MailLog,
        new_id: Callable[[], str],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._new_id = new_id
        self._clock = clock
        self._bounce_log = log.named(f"{p['syslog_name']}/bounce")
        self._cleanup_log = log.named(f"{p['syslog_name']}/cleanup")
        self._origin = p["myorigin"].encode()
        self._frame = Frame(
            hostname=p["myhostname"].encode(),
            origin=self._origin,
            mail_name=p["mail_name"].encode(),
            warning_hours=p.seconds("delay_warning_time") // 3600,
            lifetime=p.seconds("maximal_queue_lifetime"),
        )
        self._limit = p.number("bounce_size_limit")
        self._classes = frozenset(p.words("notify_classes"))
        self._double_bounce = f"{p['double_bounce_sender']}@{p['myhostname']}".encode()
        self._postmasters = {
            "bounce": p["bounce_notice_recipient"].encode(),
            "2bounce": p["2bounce_notice_recipient"].encode(),
            "delay": p["delay_notice_recipient"].encode(),
        }

    def failed(self, message: Message, outcomes: Sequence[Outcome]) -> list[Notice]:
        """The notices about recipients that can't be reached."""
        return self._notify(FAILURE, "bounce", message, _wanted(outcomes, b"FAILURE", default=True))

    def delayed(self, message: Message, outcomes: Sequence[Outcome]) -> list[Notice]:
        """The notices about recipients that are still being tried."""
        return self._notify(DELAY, "delay", message, _wanted(outcomes, b"DELAY", default=True))

    def relayed(self, message: Message, outcomes: Sequence[Outcome]) -> list[Notice]:
        """The notices about recipients handed to servers that won't report (RFC 3461 section 5.2.2)."""
        return self._notify(SUCCESS, "", message, _wanted(outcomes, b"SUCCESS", default=False))

    def announce(self, notices: Iterable[Notice]) -> None:
        """Log notices that have been queued."""
        for notice in notices:
            queued = notice.message
            name = message_id(queued.queue_id, self._frame.hostname, queued.arrival)
            self._cleanup_log.info(f"{queued.queue_id}: message-id={name.decode()}")
            self._bounce_log.info(f"{notice.about}: {notice.text}: {queued.queue_id}")

    def _notify(self, kind: Kind, of: str, message: Message, outcomes: list[Outcome]) -> list[Notice]:
        if not outcomes:
            return []
        if message.sender == self._double_bounce:
            if kind is not SUCCESS:
                text = f"{message.queue_id}: undeliverable postmaster notification discarded"
                self._bounce_log.warning(text)
            return []
        notices: list[Notice] = []
        if message.sender:
            notices.append(self._notice(kind, message, outcomes, b"", message.sender, b""))
        elif of == "bounce":
            of = "2bounce"
        if of in self._classes:
            original = self._postmasters[of]
            address = original if b"@" in original else b"%b@%b" % (original, self._origin)
            notices.append(self._notice(kind, message, outcomes, self._double_bounce, address, original))
        return notices

    def _notice(
        self,
        kind: Kind,
        message: Message,
        outcomes: list[Outcome],
        sender: bytes,
        recipient: bytes,
        original: bytes,
    ) -> Notice:
        now = self._clock()
        queue_id = self._new_id()
        postmaster = bool(sender)
        whole = (
            kind is FAILURE
            and (not postmaster or not message.sender)  # a postmaster's copy has only the headers
            and message.ret != b"HDRS"
            and (not self._limit or message.size <= self._limit)
        )
        content = content_of(self._store, message, message.size if whole else _HEADER_LIMIT)
        text = compose(
            kind,
            self._frame,
            message,
            outcomes,
            content if whole else header_section(content[:_HEADER_LIMIT]),
            whole=whole,
            queue_id=queue_id,
            recipient=recipient,
            now=now,
            postmaster=postmaster,
        )
        orcpt = b"rfc822;" + xtext_encode(recipient) if recipient.isascii() else b""
        notice = Message(
            queue_id=queue_id,
            sender=sender,
            recipients=[Recipient(recipient, original=original or recipient, orcpt=orcpt)],
            arrival=now,
            size=len(text),
            content=text,
            body=b"7BIT" if message.body == b"7BIT" and not message.smtputf8 else b"8BITMIME",
            smtputf8=message.smtputf8,
        )
        who = "postmaster" if postmaster else "sender"
        return Notice(notice, message.queue_id, f"{who} {kind.log}")


def _wanted(outcomes: Iterable[Outcome], word: bytes, *, default: bool) -> list[Outcome]:
    """The outcomes whose recipients' NOTIFY asks for ``word`` (RFC 3461 section 4.1)."""
    return [
        outcome
        for outcome in outcomes
        if (word in outcome.recipient.notify if outcome.recipient.notify else default)
    ]
