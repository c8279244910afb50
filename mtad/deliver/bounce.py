"""Notifications to senders: what failed, what is late, what was relayed out of sight.

:class:`Bouncer` decides who is told (RFC 3461: NOTIFY, RET, ENVID, ORCPT) and makes the messages; the caller
queues them in the transaction that ends the recipients' delivery, and then calls :meth:`Bouncer.announce`.
Mail from the null sender is never answered: its failures go to the postmaster when ``notify_classes`` has
``2bounce`` or ``bounce``, or end with the log line of the failed delivery.  Where none of the recipients
wants a notice, the log has one that is canceled, as Postfix begins and drops it.

Postfix counterpart: ``bounce(8)``, without its log files: the queue's rows are those.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mtad.config.parameters import Parameters
from mtad.deliver.bounce_template import templates_of
from mtad.deliver.dsn_text import Frame, Letter, compose, message_id
from mtad.deliver.job import Result
from mtad.deliver.report import external
from mtad.maillog import MailLog
from mtad.queue.message import Message, Outcome, Recipient
from mtad.queue.store import QueueStore
from mtad.wire.command import orcpt_of

#: The most of a message that is searched for the end of its headers.
_HEADER_LIMIT = 128 * 1024
#: Where senders are told of each recipient by itself (VERP), and so many have failed at once, each is told
#: with so much of the message's headers and no content: all notifications are in memory at a time.
_MANY, _BRIEF = 200, 4096
_MESSAGE_ID = re.compile(rb"(?im)^message-id:\s*(<[^<>\s]+>)")


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
            lifetime=p.seconds("maximal_queue_lifetime"),
            old_from=p.choice("header_from_format") == "obsolete",
            eight_bits=p.flag("smtputf8_enable"),
        )
        warn = self._bounce_log.warning
        self._letters = {
            template.name: Letter(template, "\n".join([*template.expanded(p, warn), ""]).encode())
            for template in templates_of(p, warn)
        }
        self._limit = p.number("bounce_size_limit")
        # a notification without its content may go where REQUIRETLS would keep the message from
        self._redacts = p.flag("requiretls_redact_dsn")
        self._threads = p.flag("enable_threaded_bounces")
        self._verp = not p.flag("disable_verp_bounces")
        self._classes = frozenset(p.words("notify_classes"))
        self._double_bounce = f"{p['double_bounce_sender']}@{p['myhostname']}".encode()
        self._postmasters = {
            "bounce": p["bounce_notice_recipient"].encode(),
            "2bounce": p["2bounce_notice_recipient"].encode(),
            "delay": p["delay_notice_recipient"].encode(),
        }

    def failed(self, message: Message, outcomes: Sequence[Outcome]) -> list[Notice]:
        """The notices about recipients that can't be reached; each of its own where senders are (VERP)."""
        delimiters = message.attributes.get("verp_delimiters", "")
        if not (delimiters and message.sender and self._verp):
            return self._notify("failure", "bounce", message, outcomes)
        notices: list[Notice] = []
        for outcome in outcomes:
            to = verp_sender(message.sender, delimiters, outcome.recipient, external)
            notices += self._notify("failure", "bounce", message, [outcome], to, len(outcomes) > _MANY)
        return notices

    def delayed(self, message: Message, outcomes: Sequence[Outcome]) -> list[Notice]:
        """The notices about recipients that are still being tried; mail from nobody is late in silence."""
        if not message.sender:
            return []
        return self._notify("delay", "delay", message, outcomes)

    def relayed(
        self,
        message: Message,
        outcomes: Sequence[Outcome],
        cleared: Sequence[Outcome] = (),
        report: Sequence[Outcome] = (),
    ) -> list[Notice]:
        """The notices about recipients handed to servers that won't report (RFC 3461 section 5.2.2).

        ``cleared``: recipients that the sender was told of as late, and whose delivery is told in any case
        (``confirm_delay_cleared``).  ``report``: all recipients, of whom the sender asked to be told."""
        told = [*_wanted(outcomes, b"SUCCESS", default=False)]
        told += [outcome for outcome in cleared if outcome not in told]
        kind = "verify" if report else "success"
        if report:
            told = [*report, *(outcome for outcome in told if outcome.action == "expanded")]
        if not told:
            return []
        if self._is_double(message.sender):
            text = f"{message.queue_id}: not sending trace/success notification for double-bounce message"
            self._bounce_log.info(text)
            return []
        if message.sender:
            return [self._notice(kind, message, told, message.sender)]
        if "2bounce" not in self._classes:
            text = f"{message.queue_id}: not sending trace/success notification for single-bounce message"
            self._bounce_log.info(text)
            return []
        return [self._notice(kind, message, told, b"", "2bounce", polite=True)]

    def announce(self, notices: Iterable[Notice]) -> None:
        """Log notices that have been queued."""
        for notice in notices:
            queued = notice.message
            if "message_id" not in queued.attributes:  # else it was seen when the notice was cleaned
                name = message_id(queued.queue_id, self._frame.hostname, queued.arrival)
                self._cleanup_log.info(f"{queued.queue_id}: message-id={name.decode()}")
            self._bounce_log.info(f"{notice.about}: {notice.text}: {queued.queue_id}")

    def _notify(
        self,
        kind: str,
        of: str,
        message: Message,
        outcomes: Sequence[Outcome],
        to: bytes = b"",
        brief: bool = False,
    ) -> list[Notice]:
        """To the sender, whose recipients' NOTIFY has a say, and to the postmaster, who hears of all."""
        if self._is_double(message.sender):
            text = f"{message.queue_id}: undeliverable postmaster notification discarded"
            self._bounce_log.warning(text)
            return []
        notices: list[Notice] = []
        if message.sender:
            told = _wanted(outcomes, b"DELAY" if kind == "delay" else b"FAILURE", default=True)
            if told:
                notices.append(self._notice(kind, message, told, to or message.sender, brief=brief))
            elif not to:
                self._cancel(kind, message)
            to_postmaster = of in self._classes
        else:
            of = "2bounce"
            to_postmaster = not self._classes.isdisjoint(("bounce", "2bounce"))
        if to_postmaster:
            notices.append(self._notice(kind, message, list(outcomes), b"", of, brief=brief))
        return notices

    def _cancel(self, kind: str, message: Message) -> None:
        """Log a notice to the sender that is not to be."""
        queue_id = self._new_id()
        name = message_id(queue_id, self._frame.hostname, self._clock()).decode()
        self._bounce_log.info(f"{message.queue_id}: sender {self._letters[kind].template.log}: {queue_id}")
        self._cleanup_log.info(f"{queue_id}: message-id={name}")
        self._cleanup_log.info(f"{queue_id}: removed (canceled)")

    def _is_double(self, sender: bytes) -> bool:
        """Whether mail is itself a notice to the postmaster."""
        return sender.lower() == self._double_bounce.lower()

    def _notice(
        self,
        kind: str,
        message: Message,
        outcomes: list[Outcome],
        to: bytes,
        postmaster: str = "",
        polite: bool = False,
        brief: bool = False,
    ) -> Notice:
        """One notification, to the sender ``to``, or to the postmaster of a class; ``polite``: in the words
        for a sender; ``brief``: with few headers."""
        now = self._clock()
        queue_id = self._new_id()
        original = self._postmasters[postmaster] if postmaster else b""
        if postmaster:
            to = original if b"@" in original else b"%b@%b" % (original, self._origin)
        whole = (
            kind == "failure"
            and not brief
            and (not postmaster or not message.sender)  # a postmaster's copy has only the headers
            and (message.ret != b"HDRS" or not message.sender)
            and not (self._redacts and "requiretls" in message.attributes)
            and (not self._limit or message.size <= self._limit)
        )
        content = content_of(self._store, message, message.size if whole else _HEADER_LIMIT)
        headers = header_section(content[:_HEADER_LIMIT])
        if brief and len(headers) > _BRIEF:
            headers = headers[: headers.rfind(b"\r\n", 0, _BRIEF) + 2]
        text = compose(
            self._letters[kind],
            self._frame,
            message,
            outcomes,
            content if whole else headers,
            whole=whole,
            queue_id=queue_id,
            recipient=to,
            now=now,
            postmaster=bool(postmaster) and not polite,
            thread=message_id_in(headers) if self._threads else b"",
        )
        eight = self._frame.eight_bits or message.body not in (b"", b"7BIT")
        notice = Message(
            queue_id=queue_id,
            sender=self._double_bounce if postmaster else b"",
            recipients=[Recipient(to, original=original or to, orcpt=orcpt_of(to, message.smtputf8))],
            arrival=now,
            size=len(text),
            content=text,
            body=b"8BITMIME" if eight else b"",
            smtputf8=message.smtputf8,
        )
        if "tls_required_no" in message.attributes and "requiretls" not in message.attributes:
            notice.attributes["tls_required_no"] = "yes"
        if "requiretls" in message.attributes and not self._redacts:
            notice.attributes["requiretls"] = "yes"
        who = "postmaster" if postmaster and not polite else "sender"
        return Notice(notice, message.queue_id, f"{who} {self._letters[kind].template.log}")


def verp_sender(
    sender: bytes, delimiters: str, recipient: Recipient, form: Callable[[bytes], bytes] = bytes
) -> bytes:
    """``prefix+user=domain@origin`` for ``prefix@origin`` and a recipient ``user@domain`` in that form."""
    prefix, _, origin = sender.rpartition(b"@") if b"@" in sender else (sender, b"", b"")
    address = form(recipient.original or recipient.address)
    user, _, domain = address.rpartition(b"@") if b"@" in address else (address, b"", b"")
    first, second = delimiters[:1].encode(), delimiters[1:2].encode()
    made = prefix + first + user + (second + domain if domain else b"")
    return made + b"@" + origin if origin else made


def message_id_in(headers: bytes) -> bytes:
    """The Message-Id of a message, where it is one."""
    match = _MESSAGE_ID.search(headers)
    return match[1] if match else b""


def late_no_more(result: Result) -> list[Outcome]:
    """Recipients that were late, and whose delivery is news to the sender (``confirm_delay_cleared``): those
    for whom it is told of delays, and as Postfix has it, those for whom nothing is asked but to be told of
    success by the next server."""
    found = []
    for outcome in result.outcomes:
        notify = outcome.recipient.notify
        if outcome not in result.traced:
            notify -= {b"SUCCESS"}
        if outcome.status == "sent" and (not notify or b"DELAY" in notify):
            found.append(outcome)
    return found


def _wanted(outcomes: Iterable[Outcome], word: bytes, *, default: bool) -> list[Outcome]:
    """The outcomes whose recipients' NOTIFY asks for ``word`` (RFC 3461 section 4.1)."""
    return [
        outcome
        for outcome in outcomes
        if (word in outcome.recipient.notify if outcome.recipient.notify else default)
    ]
