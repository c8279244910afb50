"""Mail to the postmaster about sessions with errors, from both ends of SMTP (``notify_classes``).

A :class:`Transcript` keeps what was said in a session, so much of it at most; :class:`Postmaster` makes the
message that tells of it.  Nothing is raised.

Postfix counterpart: ``smtpd_chat.c``, ``smtp_chat.c``, ``post_mail(3)``, ``line_wrap(3)``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator

from mtad.config.parameters import Parameters
from mtad.mime.date import mail_date
from mtad.queue.message import Message, Recipient
from mtad.wire.command import orcpt_of

_WIDTH, _INDENT = 78, 4
#: The most that is kept of a session; a line has as much as ``line_length_limit`` by default.
LINES, LENGTH = 1000, 2048
_BLANK = re.compile(r"[ \t]")


class Transcript:
    """What was said in one session, line by line, printable."""

    __slots__ = ("lines",)

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, direction: str, text: str) -> None:
        """``direction`` is what the line begins with."""
        if len(self.lines) < LINES:
            self.lines.append(direction + text[:LENGTH])


class Postmaster:
    """The mails of one configuration."""

    def __init__(self, p: Parameters) -> None:
        self._origin = p["myorigin"]
        self._hostname = p["myhostname"]
        self._mail_name = p["mail_name"]
        self._old_from = p.choice("header_from_format") == "obsolete"
        self._errors_to = p["error_notice_recipient"]
        #: who our own notices are from, and nobody is told of errors with
        self.sender = f"{p['double_bounce_sender']}@{p['myhostname']}".encode()

    def message(
        self,
        queue_id: str,
        now: float,
        program: str,
        peer: str,
        transcript: Transcript,
        *,
        opening: Iterable[str] = (),
        closing: Iterable[str] = (),
        to: str = "",
    ) -> Message:
        """About ``program``'s session with ``peer``; ``opening`` and ``closing`` are lines around what was
        said; ``to`` is who gets it if not ``error_notice_recipient``."""
        name = to or self._errors_to
        whole = self._whole(name).encode()
        stamp = time.strftime("%Y%m%d%H%M%S", time.gmtime(now))
        message_id = f"<{stamp}.{queue_id}@{self._hostname}>"
        lines = [
            *self._headers(queue_id, mail_date(now).decode()),
            f"Subject: {self._mail_name} {program}: errors from {peer}",
            f"Message-Id: {message_id}",
            "",
            *opening,
            "Transcript of session follows.",
            "",
            *(wrapped for line in transcript.lines for wrapped in wrap(line)),
            "",
            *closing,
            "For other details, see the local mail logfile",
            "",
        ]
        content = "\r\n".join(lines).encode("utf-8", "replace")
        return Message(
            queue_id=queue_id,
            sender=self.sender,
            recipients=[Recipient(whole, original=name.encode(), orcpt=orcpt_of(whole, False))],
            arrival=now,
            size=len(content),
            content=content,
            attributes={"message_id": message_id},
        )

    def _headers(self, queue_id: str, when: str) -> Iterator[str]:
        yield f"Received: by {self._hostname} ({self._mail_name})"
        yield f"\tid {queue_id}; {when}"
        yield f"Date: {when}"
        daemon, postmaster = f"MAILER-DAEMON@{self._hostname}", self._whole(self._errors_to)
        if self._old_from:
            yield f"From: {daemon} (Mail Delivery System)"
            yield f"To: {postmaster} (Postmaster)"
        else:
            yield f"From: Mail Delivery System <{daemon}>"
            yield f"To: Postmaster <{postmaster}>"

    def _whole(self, address: str) -> str:
        return address if "@" in address else f"{address}@{self._origin}"


def wrap(text: str) -> Iterator[str]:
    """``text`` folded at blanks, each line behind a blank, all but the first indented."""
    indent = start = word = 0
    while True:
        blank = _BLANK.search(text, word)
        end = blank.start() if blank else len(text)
        if word > start and end - start > _WIDTH - indent:
            yield " " * (1 + indent) + text[start:word].rstrip()
            indent = _INDENT
            start = word = len(text) - len(text[word:].lstrip())
        if blank is None:
            break
        word = end + 1
    yield " " * (1 + indent) + text[start:].rstrip()
