"""What a client said: the events of :class:`mtad.wire.server.ServerSession`.

Each *command event* is answered by exactly one ``session.reply()``; the *body events*
(``BodyChunk``) are not answered.  Bytes are as the client sent them, bounded in length
by the engine.

Postfix counterpart: the ``*_cmd`` functions of ``smtpd(8)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mtad.wire.reply import Reply

if TYPE_CHECKING:
    from mtad.wire.extensions import Wishes


@dataclass(frozen=True, slots=True)
class Address:
    """An envelope address in internal (unquoted) form.

    ``local`` is the dequoted local part, ``domain`` the domain without ``@`` (empty for a bare
    local part; an address literal keeps its brackets).  Both empty: the null address ``<>``.
    ``text`` is ``local@domain`` (or ``local``), the form that tables and logs use
    (Postfix' *internal form*); ``wire`` is the quoted form that may be sent (RFC 5321 4.1.2).
    """

    local: bytes
    domain: bytes
    text: bytes
    wire: bytes


NULL_ADDRESS = Address(b"", b"", b"", b"")


@dataclass(frozen=True, slots=True)
class Refused:
    """A command that the engine itself answers: bad syntax, bad order, not recognised.

    The shell logs it, counts it, and passes ``reply`` to ``session.reply()``.  ``verb`` is the
    upper-cased command name as Postfix counts it in ``disconnect from ... commands=``
    (``b"unknown"`` for no command); ``line`` the command line, for ``reject:`` log lines.
    """

    reply: Reply
    verb: bytes
    line: bytes
    #: text of a warning to log (printable), e.g. ``non-SMTP command from ...``; or empty.
    warning: str = ""
    #: hang up after the reply
    hang_up: bool = False
    #: counts as an error of the client (Postfix: the command's function returned nonzero)
    error: bool = True
    #: a refusal by policy, logged as ``NOQUEUE: reject: VERB from ...``
    reject: bool = False
    #: what that line says, when it is not the reply
    reason: str = ""
    #: the sender it names
    sender: Address | None = None


@dataclass(frozen=True, slots=True)
class Ignored:
    """A command of ``smtpd_noop_commands``: answered 250, whatever it says."""

    line: bytes


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A line that has yet to pass smtpd_command_filter: answered by ``session.command(line)``."""

    line: bytes


@dataclass(frozen=True, slots=True)
class Helo:
    """HELO, or EHLO where ``extended``."""

    name: bytes
    extended: bool  # EHLO


@dataclass(frozen=True, slots=True)
class StartTLS:
    """Reply 220 and then call ``session.tls_started()`` once the handshake is done."""


@dataclass(frozen=True, slots=True)
class Auth:
    """AUTH command.  Responses are still base64, undecoded; ``initial`` None: no initial response."""

    mechanism: bytes
    initial: bytes | None


@dataclass(frozen=True, slots=True)
class AuthResponse:
    """A client's answer to a 334 challenge, still base64; ``b"*"`` never gets here."""

    data: bytes


@dataclass(frozen=True, slots=True)
class AuthAborted:
    """The client sent ``*``; the shell replies ``501 5.7.0 Authentication aborted``."""


@dataclass(frozen=True, slots=True)
class Mail:
    """MAIL FROM.  ``line`` is the command as it came."""

    sender: Address
    size: int = 0  # SIZE=, 0 when absent
    body: bytes = b""  # b"", b"7BIT", b"8BITMIME" or b"BINARYMIME"
    smtputf8: bool = False
    auth: bytes | None = None  # AUTH= as sent (xtext), None when absent or ``<>``
    ret: bytes = b""  # b"", b"FULL", b"HDRS" (RFC 3461)
    envid: bytes = b""  # xtext
    line: bytes = b""
    wishes: Wishes | None = None  # what less common parameters ask for


@dataclass(frozen=True, slots=True)
class Rcpt:
    """RCPT TO.  ``line`` is the command as it came."""

    recipient: Address
    notify: frozenset[bytes] = field(default_factory=frozenset)  # NEVER SUCCESS FAILURE DELAY; empty: absent
    orcpt: bytes = b""  # "rfc822;xtext" as sent
    argument: bytes = b""  # the address as sent, without its "<>"
    line: bytes = b""


@dataclass(frozen=True, slots=True)
class Data:
    """DATA.  A 354 reply opens the body; any other leaves the transaction as it was."""


@dataclass(frozen=True, slots=True)
class Bdat:
    """BDAT ``size`` [LAST] has been accepted in order; its bytes follow as ``BodyChunk``s and are
    ended by ``BdatEnd`` (answered once) or, for LAST, by ``BodyEnd`` (answered once).

    This event itself is answered by ``session.begin_chunk()``, or by ``session.reply()`` with an
    error: then the engine swallows the chunk's bytes first (RFC 3030) and sends the reply after.
    """

    size: int
    last: bool
    first: bool


@dataclass(frozen=True, slots=True)
class BodyChunk:
    """Message bytes, dot-unstuffed, CRLF line ends, at most 64 KiB a piece.  Not answered."""

    data: bytes


@dataclass(frozen=True, slots=True)
class BdatEnd:
    """A BDAT chunk that was not the last is complete: reply ``250 2.0.0 Ok: N bytes``.

    A refusal ends the transaction; the chunks that still come are thrown away.
    """

    size: int
    bare_newline: bool = False  # as in BodyEnd, in this message so far


@dataclass(frozen=True, slots=True)
class BodyEnd:
    """The message is complete; ``size`` bytes came out as chunks.

    ``chunked``: by BDAT LAST.
    ``bare_newline``: lines ended by a lone LF were seen; what that means is policy
    (``smtpd_forbid_bare_newline``).
    """

    size: int
    chunked: bool = False
    bare_newline: bool = False


@dataclass(frozen=True, slots=True)
class Vrfy:
    """VRFY."""

    recipient: Address
    line: bytes = b""
    argument: bytes = b""  # as sent: the text of the 252


@dataclass(frozen=True, slots=True)
class Etrn:
    """ETRN."""

    domain: bytes


@dataclass(frozen=True, slots=True)
class Xclient:
    """Another client from now on.  Call ``session.restart()``, then reply with its greeting.

    ``values``: by attribute (``NAME``, ``ADDR`` ...); None: not available.
    """

    values: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Xforward:
    """What is known of the client behind this one, for the next transaction; ``values`` as in Xclient."""

    values: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Noop:
    """NOOP."""


@dataclass(frozen=True, slots=True)
class Help:
    """HELP."""


@dataclass(frozen=True, slots=True)
class Rset:
    """The engine drops the transaction when the reply is given."""


@dataclass(frozen=True, slots=True)
class Quit:
    """QUIT."""


Event = (
    Refused
    | Ignored
    | CommandLine
    | Helo
    | StartTLS
    | Auth
    | AuthResponse
    | AuthAborted
    | Mail
    | Rcpt
    | Data
    | Bdat
    | BodyChunk
    | BdatEnd
    | BodyEnd
    | Vrfy
    | Etrn
    | Xclient
    | Xforward
    | Noop
    | Help
    | Rset
    | Quit
)
