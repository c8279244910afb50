"""The postmaster is told of servers that break the protocol: ``notify_classes`` of the SMTP client.

Where its words ask for ``protocol`` or ``data``, each delivery's use of a session keeps a :class:`History`;
otherwise nothing is kept.  :meth:`Notices.of` makes a message of it when there was such an error: it is
queued with what else came of the delivery.  Logins are not in transcripts, and nobody is told of errors with
mail that nobody is told of.  Nothing is raised.

Postfix counterpart: ``smtp_chat_notify()``, and the ``error_mask`` of ``smtp(8)``.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.python.failure import Failure

from mtad.config.parameters import Parameters
from mtad.deliver.job import Clean
from mtad.errors import MtadError
from mtad.maillog import MailLog, printable
from mtad.queue.message import Message
from mtad.queue.postmaster import Postmaster, Transcript

#: The errors that are told of: the server's, and those of our own tables.
PROTOCOL, DATA = frozenset(("protocol",)), frozenset(("data",))


class History(Transcript):
    """What was said in one session, for one message."""

    __slots__ = ("_in_login",)

    def __init__(self) -> None:
        super().__init__()
        self._in_login = False

    def sent(self, line: bytes) -> None:
        """We have said something.  A login is known by its command, and by the challenge before it."""
        words = line.split(b" ", 2)
        if self._in_login and line != b"*":
            line = b"(response)"
        elif words[0] == b"AUTH" and len(words) > 2:
            line = b"AUTH %b (response)" % words[1]
        self._in_login = False
        self.add("Out: ", printable(line))

    def heard(self, line: bytes, replacement: bytes | None = None) -> None:
        """The server has said something, which ``smtp_reply_filter`` may have replaced."""
        self._in_login = (line if replacement is None else replacement)[:3] == b"334"
        self.add("In:  ", "334 (challenge)" if line[:3] == b"334" else printable(line))
        if replacement is not None:
            self.add("Replaced-by: ", "")
            self.add("     ", "334 (challenge)" if self._in_login else printable(replacement))


class Notices:
    """The notices of one transport.  ``new_id`` gives queue ids, ``clock`` the time; ``clean`` has a notice
    cleaned before it is queued."""

    def __init__(
        self,
        p: Parameters,
        log: MailLog,
        new_id: Callable[[], str],
        clock: Callable[[], float],
        clean: Clean,
        lmtp: bool,
    ) -> None:
        self._wanted = (PROTOCOL | DATA) & frozenset(p.words("notify_classes"))
        self._log = log.named(f"{p['syslog_name']}/cleanup")
        self._new_id = new_id
        self._clock = clock
        self._clean = clean
        self._program = "LMTP client" if lmtp else "SMTP client"
        self._postmaster = Postmaster(p)

    def begin(self) -> History | None:
        """A history where somebody wants to know."""
        return History() if self._wanted else None

    async def of(
        self, history: History | None, errors: frozenset[str], server: str, message: Message
    ) -> list[Message]:
        """The message about the ``errors`` while ``message`` went to ``server``, if it is wanted and may be
        sent."""
        if history is None or self._wanted.isdisjoint(errors) or not history.lines:
            return []
        if message.sender in (b"", self._postmaster.sender):
            return []
        opening = (f"Unexpected response from {server}.", "")
        notice = self._postmaster.message(
            self._new_id(), self._clock(), self._program, server, history, opening=opening
        )
        self._log.info(f"{notice.queue_id}: message-id={notice.attributes['message_id']}")
        try:
            return [notice] if await self._clean(notice, "notify") else []
        except MtadError:  # it was logged
            return []
        except Exception:  # a mistake of ours: what came of the delivery counts all the same
            self._log.error(printable(Failure().getTraceback()))
            return []
