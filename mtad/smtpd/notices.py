"""The postmaster is told of sessions with errors: ``notify_classes``.

Where its words ask for ``policy`` or ``protocol``, each session keeps a :class:`History`, at most
``smtpd_history_flush_threshold`` lines; for the other words one begins with the first error of that kind, so
that sessions without one keep nothing.  At the end of the session, or when the history is full,
:meth:`Notices.tell` queues a transcript if there was an error of a class that is asked for.  A message that
is taken forgives what was before it.  Logins are not in transcripts.  Nothing is raised: a notice that can't
be queued is logged and lost.

Postfix counterpart: ``smtpd_chat_notify()``, ``chat_reset()`` and the ``error_mask`` of ``smtpd(8)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.python.failure import Failure

from mtad.config.parameters import Parameters
from mtad.errors import MtadError
from mtad.maillog import printable
from mtad.net.drive import drive
from mtad.queue.message import Message
from mtad.queue.postmaster import LINES, Postmaster, Transcript
from mtad.smtpd.internal import NOTIFY
from mtad.smtpd.watching import words_of
from mtad.wire import events as ev
from mtad.wire.reply import Reply

if TYPE_CHECKING:
    from mtad.smtpd.service import SmtpdService

_CLASSES = frozenset(("bounce", "data", "policy", "protocol", "resource", "software"))

#: What errors are, by the first line of their replies.
_KNOWN = {
    b"Error: internal error": "software",
    b"Server configuration error": "software",
    b"TLS not available due to local problem": "software",
    b"Insufficient system storage": "resource",
    b"Error: insufficient system storage": "resource",
    b"Error: queue file write error": "resource",
    b"Mail system error": "resource",
    b"Temporary lookup error": "resource",
    b"Temporary lookup failure": "resource",
    b"Error: message file too big": "bounce",
    b"Error: too many hops": "bounce",
    b"Bad sender address syntax": "protocol",
    b"Bad recipient address syntax": "protocol",
    b"Error: send HELO/EHLO first": "policy",
    b"VRFY command is disabled": "policy",
    b"Error: too many recipients": "policy",
    b"Must issue a STARTTLS command first": "",
    b"Error: SMTP protocol synchronization": "",
    b"Error: no valid recipients": "",
}
#: The same by their last words.
_ENDINGS = (
    (b" rejected: Improper use of SMTP command pipelining", "protocol"),
    (b" Error: bare <LF> received", "protocol"),
    (b" Error: too many errors", "protocol"),
    (b" Server local data error", "data"),
    (b" Server local error", ""),
    (b" Error: timeout exceeded", ""),
)
_LOGINS = (ev.Auth, ev.AuthResponse, ev.AuthAborted)


def error_class(event: ev.Event | None, reply: Reply) -> str:
    """The word of ``notify_classes`` for this answer to ``event`` (None: to nothing), or "" for none."""
    if reply.code < 400:
        return ""
    text = reply.text.partition(b"\n")[0]
    known = _KNOWN.get(text)
    if known is not None:
        return known
    for ending, word in _ENDINGS:
        if text.endswith(ending):
            return word
    if text.startswith(b"Error: access denied for "):
        return ""
    return "protocol" if isinstance(event, (ev.Refused, *_LOGINS)) else "policy"


class History(Transcript):
    """What was said in one session."""

    __slots__ = ("_after_login", "errors")

    def __init__(self) -> None:
        super().__init__()
        self.errors: set[str] = set()
        self._after_login = False

    def exchange(self, event: ev.Event | None, reply: Reply | None) -> None:
        """The client has said ``event``, and was answered."""
        if event is not None and type(event) not in (ev.BodyEnd, ev.BdatEnd):
            self.add("In:  ", self._words(event))
        if reply is None:
            return
        for line in reply.encode().split(b"\r\n")[:-1]:
            self.add("Out: ", "334 (challenge)" if reply.code == 334 else printable(line))
        if type(event) is ev.BodyEnd and reply.positive:
            self.errors.clear()
        elif word := error_class(event, reply):
            self.errors.add(word)

    def _words(self, event: ev.Event) -> str:
        """What the client said.  A client whose AUTH failed may go on with its password all the same."""
        words = words_of(event)
        if words.startswith("AUTH ") or isinstance(event, _LOGINS):
            self._after_login = True
        elif not isinstance(event, ev.Refused):
            self._after_login = False
        elif self._after_login and event.verb in (b"unknown", b""):
            return "(something)"
        return words

    def clear(self) -> None:
        """Begin again."""
        self.lines.clear()
        self.errors.clear()


class Notices:
    """The notices of one service."""

    def __init__(self, p: Parameters, service: SmtpdService) -> None:
        self._service = service
        self._classes = _CLASSES & frozenset(p.words("notify_classes"))
        #: sessions keep a history from their beginning
        self.always = not self._classes.isdisjoint(("policy", "protocol"))
        self._threshold = min(p.number("smtpd_history_flush_threshold"), LINES // 2)
        self._postmaster = Postmaster(p)
        self._bounces_to = p["bounce_notice_recipient"]

    @classmethod
    def build(cls, p: Parameters, service: SmtpdService) -> Notices | None:
        """None where nobody is to be told."""
        return cls(p, service) if _CLASSES & frozenset(p.words("notify_classes")) else None

    def begin(self, event: ev.Event | None, reply: Reply) -> History | None:
        """A history for a session that has none, if this answer is a reason for one."""
        return History() if self.always or error_class(event, reply) in self._classes else None

    def heard(self, history: History, client: str, event: ev.Event | None, reply: Reply | None) -> None:
        """Note what was said; tell of a history that has become long."""
        if event is not None and len(history.lines) > self._threshold:
            self.tell(history, client)
        history.exchange(event, reply)

    def tell(self, history: History, client: str, reason: str = "") -> None:
        """Queue the transcript if it is wanted, and forget it.  ``reason``: why the session was aborted."""
        if history.lines and not self._classes.isdisjoint(history.errors):
            message = self._message(history, client, reason)
            drive(self._queue(message), lambda _: None, self._failed)
        history.clear()

    def _failed(self, failure: Failure) -> None:
        if failure.check(MtadError):
            self._service.log.warning(f"postmaster notify: {failure.value}")
        else:
            self._service.report_bug(failure)

    async def _queue(self, message: Message) -> None:
        service = self._service
        if not await service.own_mail.clean(message, NOTIFY):
            return
        await service.store.enqueue(message)
        text = f"{message.queue_id}: message-id={message.attributes['message_id']}"
        service.cleanup_log.info(text)
        service.queued(message)

    def _message(self, history: History, client: str, reason: str) -> Message:
        service = self._service
        return self._postmaster.message(
            service.ids.next(),
            service.now(),
            "SMTP server",
            client,
            history,
            closing=(f"Session aborted, reason: {reason}", "") if reason else ("",),
            to=self._bounces_to if "bounce" in history.errors else "",
        )
