"""What is known of a message while it is taken in, and what went wrong with it.

One :class:`MessageState` goes from the envelope through headers and body to the queue.  Errors are gathered
as they are met; from the first one on nothing more is looked at (``going_on``), and ``refusal`` is what the
client is told: the worst of them.

Postfix counterpart: ``CLEANUP_STATE``, ``cleanup_act()``, ``cleanup_strerror(3)``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntFlag

from mtad.errors import MtadError
from mtad.maillog import MailLog, printable
from mtad.rewrite.mapping import AGAIN
from mtad.wire.logtext import logged
from mtad.wire.reply import Reply

_BLANK = bytes(32 if code < 32 or code == 127 else code for code in range(256))
_STATUS = re.compile(rb"([245])\.[0-9]{1,3}\.[0-9]{1,3}(?=[ \t]|\Z)")


class Error(IntFlag):
    """What can go wrong, in the order in which clients are told."""

    DEFER = 1
    BAD = 2
    SIZE = 4
    HOPS = 8
    CONTENT = 16
    WRITE = 32


_NO_ERROR = Error(0)
#: Where these happened, there is nothing to be returned to a sender.
_INCOMPLETE = Error.DEFER | Error.BAD | Error.SIZE | Error.WRITE
_REPLIES = {
    Error.DEFER: Reply(451, b"Error: service unavailable", b"4.7.1"),
    Error.BAD: Reply(451, b"Error: internal error", b"4.3.0"),
    Error.SIZE: Reply(552, b"Error: message file too big", b"5.3.4"),
    Error.HOPS: Reply(554, b"Error: too many hops", b"5.4.0"),
    Error.CONTENT: Reply(550, b"Error: message content rejected", b"5.7.1"),
    Error.WRITE: Reply(451, b"Error: queue file write error", b"4.3.0"),
}
FILE_TOO_BIG = _REPLIES[Error.SIZE]

#: Those whose reason takes the place of the words.
_REASONED = (Error.DEFER, Error.CONTENT)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a message comes from, for log lines."""

    client: str = "unknown"
    protocol: str = ""
    helo: str = ""


class MessageState:
    """See the module.

    ``filtering``: headers and body are checked; ``mapping``: addresses are looked up; ``copying``: copies are
    sent.  ``recipient`` is the last one of the envelope.  It is the
    :class:`~mtad.rewrite.mapping.Trouble` of lookups and the :class:`~mtad.mime.checks.Actor` of checks.
    """

    __slots__ = (
        "announced", "copies", "copying", "detect_utf8", "discarded", "eight_bit", "errors", "filter",
        "filtering", "held", "log", "mapping", "message_id", "origin", "queue_id", "reason", "recipient",
        "redirect", "returning", "sender", "smtputf8", "wishes",
    )  # fmt: skip

    def __init__(self, queue_id: str, log: MailLog, origin: Origin, *, overrides: frozenset[str]) -> None:
        """``overrides``: the words of ``receive_override_options``."""
        self.queue_id = queue_id
        self.log = log
        self.origin = origin
        self.filtering = "no_header_body_checks" not in overrides
        self.mapping = self.copying = "no_address_mappings" not in overrides
        self.detect_utf8 = False
        self.sender = b""
        self.recipient: bytes | None = None
        self.errors = _NO_ERROR
        self.reason = b""
        self.discarded = False
        self.held = False
        self.filter = b""
        self.redirect = b""
        self.copies: list[bytes] = []
        self.message_id = b""
        self.returning = False  # a message that is refused is returned to its sender, as whole as it may be
        self.announced = False  # somebody else logs its Message-Id
        self.smtputf8 = False
        self.eight_bit = False
        #: attributes of the message that its headers make (see mtad.queue.message), or REQUIRETLS has made
        self.wishes: dict[str, str] = {}

    @property
    def going_on(self) -> bool:
        """Whether there is a reason to look at more."""
        if self.discarded:
            return False
        return not self.errors or (self.returning and not self.errors & _INCOMPLETE)

    @property
    def refusal(self) -> Reply | None:
        """What the client is told, if the message can't be taken."""
        if not self.errors or self.discarded:
            return None
        error = next(each for each in Error if self.errors & each)
        usual = _REPLIES[error]
        if not self.reason or error not in _REASONED:
            return usual
        status, _, text = self.reason.partition(b" ")
        return Reply(usual.code, _one_line(text), status)

    # -- troubles with tables

    def odd(self, text: str) -> None:
        self.log.warning(f"{self.queue_id}: {text}")

    def lookup_failed(self, error: MtadError, text: str) -> None:
        self._table_failed(error)
        self.odd(text)
        self.errors |= Error.WRITE

    def expansion_failed(self, text: str, error: MtadError | None = None) -> None:
        if error is not None:
            self._table_failed(error)
        self.odd(f"{text} -- {AGAIN}")
        self.errors |= Error.DEFER if error is None else Error.WRITE
        self.reason = b"4.6.0 Alias expansion error"

    def _table_failed(self, error: MtadError) -> None:
        for text in (str(error), *getattr(error, "__notes__", ())):
            self.log.warning(text)

    # -- what checks ask for

    def warn(self, text: str) -> None:
        self.log.warning(text)

    def note(self, action: str, where: str, text: bytes, argument: bytes) -> None:
        origin = self.origin
        text = text.partition(b"\0")[0]
        line = f"{self.queue_id}: {action}: {where} {_shown(text[:200])} from {origin.client};"
        line += f" from=<{logged(self.sender, self.log)}>"
        if self.recipient is not None:
            line += f" to=<{logged(self.recipient, self.log)}>"
        if origin.protocol:
            line += f" proto={origin.protocol}"
        if origin.helo:
            line += f" helo=<{origin.helo}>"
        if argument:
            line += f": {_shown(argument)}"
        self.log.info(line)

    def act(self, action: bytes, argument: bytes, where: str, text: bytes, table: str) -> bool:
        match action:
            case b"REJECT":
                self._reject(argument, where, text)
            case b"FILTER":
                self._filter(argument, where, text, table)
            case b"PASS":
                self.note("pass", where, text, argument)
                self.filtering = False
            case b"DISCARD":
                self.note("discard", where, text, argument)
                self.discarded = True
                self.filtering = False
            case b"HOLD":
                if not self.held and not self.discarded:
                    self.note("hold", where, text, argument)
                    self.held = True
            case b"REDIRECT":
                if self._address(argument, "REDIRECT target", table):
                    self.redirect = argument
                    self.note("redirect", where, text, argument)
                    self.filtering = False
            case b"BCC":
                if self._address(argument, "BCC address", table):
                    self.copies.append(argument)
                    self.note("bcc", where, text, argument)
            case _:
                return False
        return True

    def reject_line(self, text: bytes, why: bytes) -> None:
        """Refuse the message for what stands in a line of it."""
        self._reject(why, "content", text)

    def _reject(self, argument: bytes, where: str, text: bytes) -> None:
        argument = argument or b"message content rejected"
        found = _STATUS.match(argument)
        status = found[0] if found else b"5.7.1"
        reason = status + b" " + (argument[found.end() :].lstrip() if found else argument)
        if reason[:1] == b"2":
            self.log.warning(f"bad DSN action in {_shown(argument)} -- need 4.x.x or 5.x.x")
            reason = b"4" + reason[1:]
        self.reason = reason
        self.errors |= Error.DEFER if reason[:1] == b"4" else Error.CONTENT
        self.filtering = False
        self.note("reject", where, text, reason)

    def _filter(self, argument: bytes, where: str, text: bytes, table: str) -> None:
        if not argument:
            self.log.warning(f"missing FILTER command argument in {table} map")
        elif b":" not in argument:
            self.log.warning(
                f"bad FILTER command {_shown(argument)} in {table} -- need transport:destination"
            )
        else:
            self.filter = argument
            self.note("filter", where, text, argument)

    def _address(self, argument: bytes, what: str, table: str) -> bool:
        if b"@" in argument:
            return True
        self.log.warning(f'bad {what} "{_shown(argument)}" in {table} map -- need user@domain')
        return False

    def mime_report(self, words: str, text: bytes) -> None:
        """Log something improper about the content."""
        recipient = "unknown" if self.recipient is None else logged(self.recipient, self.log)
        shown = _shown(text.partition(b"\0")[0])
        self.log.info(
            f"{self.queue_id}: reject: mime-error {words}: {shown} from {self.origin.client};"
            f" from=<{logged(self.sender, self.log)}> to=<{recipient}>"
        )


def _shown(data: bytes) -> str:
    return printable(data)


def _one_line(text: bytes) -> bytes:
    return text.translate(_BLANK)
