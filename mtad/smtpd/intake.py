"""Intake: what is done to a message between DATA and the queue.

Puts the Received header on top, completes and cleans the header section, guards size and loops, and
keeps the content: in memory while it is small, in an unlinked spool file beyond that.  No Python code
looks at the lines of a body.

Postfix counterpart: ``cleanup(8)``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from mtad.maillog import MailLog, printable
from mtad.queue.spool import queue_error
from mtad.smtpd.headers import HeaderScanner
from mtad.smtpd.received import mail_date
from mtad.wire.reply import Reply

#: Content up to this size stays in memory.
SMALL = 65536

TOO_BIG = Reply(552, b"Error: message file too big", b"5.3.4")
TOO_MANY_HOPS = Reply(554, b"Error: too many hops", b"5.4.0")


@dataclass(frozen=True, slots=True)
class IntakeRules:
    """The parameters that intake goes by; sizes in bytes."""

    myhostname: str
    message_size_limit: int  # 0: none
    header_size_limit: int
    hopcount_limit: int
    drop_headers: frozenset[bytes]  # message_drop_headers, lower case
    long_queue_ids: bool
    undisclosed: bytes  # undisclosed_recipients_header, may be empty


class Intake:
    """One message.  ``feed`` its chunks, then ``finish``; or ``discard`` it.

    ``refusal`` is set as soon as the message cannot be taken; the rest is then read and dropped.
    """

    def __init__(
        self,
        rules: IntakeRules,
        log: MailLog,
        *,
        queue_id: str,
        created: float,
        arrival: float,
        sender: bytes,
        received: bytes,
        complete: bool,
        silent: bool = False,
        spool: Callable[[], BinaryIO],
    ) -> None:
        """``sender``: quoted form, for a missing From; ``received``: our own header; ``complete``: add
        missing headers (Postfix: the client is in the local rewriting context); ``silent``: nobody will get
        it; ``log``: cleanup's."""
        self._rules = rules
        self._log = log
        self._queue_id = queue_id
        self._created = created
        self._arrival = arrival
        self._sender = sender
        self._complete = complete
        self._silent = silent
        self._open_spool = spool
        self._headers = HeaderScanner(rules.drop_headers, rules.header_size_limit, self._missing)
        self._parts: list[bytes] = [received]
        self.taken = 0  # bytes from the client
        self.size = len(received)
        self.spool: BinaryIO | None = None
        self.refusal: Reply | None = None

    def feed(self, data: bytes) -> None:
        """Take a chunk of the message as the client sent it (unstuffed)."""
        if self.refusal is not None:
            return
        limit = self._rules.message_size_limit
        room = limit - self.taken
        self.taken += len(data)
        if limit and self.taken > limit:
            if not self._headers.ended:  # what it says of itself is logged all the same
                self._keep(self._headers.feed(data[:room]))
            if self.refusal is None:
                self._refuse(TOO_BIG)
            return
        self._keep(data if self._headers.ended else self._headers.feed(data))

    def finish(self) -> bytes | None:
        """The message is complete.  Returns the content, or None when it is in ``spool`` or refused."""
        if self.refusal is None:
            self._keep(self._headers.finish())
        if self.refusal is not None:
            return None
        if self.spool is not None:
            self._flush()
            return None
        return b"".join(self._parts)

    def discard(self) -> None:
        """Forget the content."""
        self._parts = []
        if self.spool is not None:
            self.spool.close()
            self.spool = None

    @property
    def eight_bit(self) -> bool:
        return self._headers.eight_bit

    def _refuse(self, reply: Reply) -> None:
        self.refusal = reply
        self.discard()

    def _keep(self, data: bytes) -> None:
        if not data or self.refusal is not None:
            return
        self._parts.append(data)
        self.size += len(data)
        if self.size > SMALL and (self.spool is None or len(self._parts) > 15):
            self._flush()

    def _flush(self) -> None:
        try:
            if self.spool is None:
                self.spool = self._open_spool()
            for part in self._parts:
                self.spool.write(part)
        except OSError as problem:
            failure = queue_error(problem)
            self._log.warning(f"{self._queue_id}: {failure}")
            self._refuse(Reply(failure.code, failure.text.encode(), failure.dsn.encode()))
            return
        self._parts = []

    def _missing(self, headers: HeaderScanner) -> bytes:
        """Called at the end of the headers: log the message id, refuse loops, give what is lacking."""
        if self._silent:
            return b""
        rules = self._rules
        log = self._log
        for resent, value in headers.message_ids:
            log.info(f"{self._queue_id}: {resent.decode()}message-id={_one_line(value)}")
        if headers.received + 1 >= rules.hopcount_limit:
            log.warning(f"{self._queue_id}: message rejected: hopcount exceeded")
            self._refuse(TOO_MANY_HOPS)
            return b""
        out = b""
        prefix, seen = ("Resent-", b"resent-") if headers.resent else ("", b"")
        if self._complete and seen + b"message-id" not in headers.seen:
            made = f"{self._queue_id}@{rules.myhostname}"
            if not rules.long_queue_ids:
                made = f"{time.strftime('%Y%m%d%H%M%S', time.gmtime(self._created))}.{made}"
            out += f"{prefix}Message-Id: <{made}>\r\n".encode()
            log.info(f"{self._queue_id}: {prefix.lower()}message-id=<{made}>")
            if headers.resent and b"message-id" not in headers.seen:
                log.info(f"{self._queue_id}: message-id=<>")
        elif b"message-id" not in headers.seen:
            log.info(f"{self._queue_id}: message-id=<>")
        if not self._complete:
            return out
        if seen + b"date" not in headers.seen:
            out += b"%bDate: %b\r\n" % (prefix.encode(), mail_date(self._arrival))
        if seen + b"from" not in headers.seen:
            out += b"%bFrom: %b\r\n" % (prefix.encode(), self._sender or b"MAILER-DAEMON")
        if rules.undisclosed and not headers.seen & {b"to", b"cc", b"resent-to", b"resent-cc"}:
            out += rules.undisclosed + b"\r\n"
        return out


def _one_line(value: bytes) -> str:
    return printable(value.replace(b"\r\n", b"\n"))
