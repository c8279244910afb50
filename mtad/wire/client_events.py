"""What passes between :class:`mtad.wire.client.ClientSession` and its shell.

Values to set it up (:class:`ClientSettings`, :class:`Envelope`), what the server can do
(:class:`Extensions`), and the events: each ``...Answer`` carries the server's reply.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mtad.wire.server_reply import ServerReply


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """The comments name the ``main.cf`` parameters."""

    helo_name: bytes  # smtp_helo_name
    always_ehlo: bool = True  # smtp_always_send_ehlo
    never_ehlo: bool = False  # smtp_never_send_ehlo
    discard: frozenset[str] = frozenset()  # smtp_discard_ehlo_keywords, lower case
    dummy_mail_auth: bool = False  # smtp_send_dummy_mail_auth
    quote_envelope: bool = True  # smtp_quote_rfc821_envelope
    line_length_limit: int = 998  # smtp_line_length_limit; 0: none
    keep_cr: bool = False  # cleanup_replace_stray_cr_lf = no
    lmtp: bool = False  # LMTP (RFC 2033) in place of SMTP
    pix: frozenset[str] = frozenset()  # smtp_pix_workarounds
    reply_filter: Callable[[bytes], bytes] | None = None  # smtp_reply_filter: each line through it
    ascii_replies: bool = False  # where smtputf8_enable is off, other characters count as "?"


@dataclass(frozen=True, slots=True)
class Extensions:
    """What the server offered in its reply to EHLO, less what we discard."""

    pipelining: bool = False
    size: bool = False
    size_limit: int = 0  # 0: none known
    starttls: bool = False
    login: bool = False  # AUTH, with mechanisms or none
    auth: tuple[bytes, ...] = ()  # its mechanisms, upper case, in the server's order
    dsn: bool = False
    eightbitmime: bool = False
    smtputf8: bool = False
    xforward: frozenset[bytes] = frozenset()  # upper case
    requiretls: bool = False


@dataclass(frozen=True, slots=True)
class EnvelopeRecipient:
    """A recipient: ``address`` and ``original`` in internal form, ``orcpt`` as its client sent it."""

    address: bytes
    notify: frozenset[bytes] = frozenset()
    orcpt: bytes = b""
    original: bytes = b""  # for an ORCPT where the client gave none


@dataclass(frozen=True, slots=True)
class Envelope:
    """A transaction to be; ``sender`` in internal form.  Parameters are sent where the server offers them."""

    sender: bytes
    recipients: tuple[EnvelopeRecipient, ...]
    size: int = 0  # 0: not known
    body: bytes = b""  # b"", b"7BIT" or b"8BITMIME"
    smtputf8: bool = False
    ret: bytes = b""
    envid: bytes = b""
    forward: tuple[tuple[bytes, bytes], ...] = ()  # XFORWARD: names and values, those that may be said
    probe: bool = False  # it ends, by RSET, when the recipients are answered
    requiretls: bool = False


@dataclass(frozen=True, slots=True)
class Greeting:
    """The greeting.  When it is positive the session goes on with EHLO by itself."""

    reply: ServerReply


@dataclass(frozen=True, slots=True)
class Ready:
    """EHLO or HELO was accepted: time for ``starttls``, ``authenticate``, ``send`` or ``quit``."""

    reply: ServerReply
    extensions: Extensions
    extended: bool  # by EHLO


@dataclass(frozen=True, slots=True)
class HelloRefused:
    """Neither EHLO nor HELO was accepted."""

    reply: ServerReply


@dataclass(frozen=True, slots=True)
class StartTLSAnswer:
    """When positive: do the handshake, then call ``tls_started()``."""

    reply: ServerReply


@dataclass(frozen=True, slots=True)
class Challenge:
    """The server's challenge, still base64: answer with ``auth_response`` or ``abort_auth``."""

    data: bytes


@dataclass(frozen=True, slots=True)
class AuthAnswer:
    reply: ServerReply


@dataclass(frozen=True, slots=True)
class MailAnswer:
    reply: ServerReply


@dataclass(frozen=True, slots=True)
class RcptAnswer:
    """``index`` counts in the envelope's recipients.  Not given after a refused MAIL."""

    index: int
    reply: ServerReply


@dataclass(frozen=True, slots=True)
class ForwardAnswer:
    """The reply to XFORWARD, whatever it is; ``what`` it told."""

    reply: ServerReply
    what: str


@dataclass(frozen=True, slots=True)
class DataRefused:
    """DATA was refused though recipients were accepted: it is their reply."""

    reply: ServerReply


@dataclass(frozen=True, slots=True)
class SendBody:
    """Recipients were accepted and the server waits: ``send_body``, then ``end_body``."""

    reply: ServerReply


@dataclass(frozen=True, slots=True)
class MessageAnswer:
    """The reply to the message, for all accepted recipients; the transaction is over.

    ``early``: the server spoke before the end of data; the session is closed.  By LMTP there is one for each
    accepted recipient: ``index`` counts in the envelope's, and the transaction is over with the last.
    """

    reply: ServerReply
    early: bool = False
    index: int = -1


@dataclass(frozen=True, slots=True)
class TransactionDropped:
    """No message was sent (MAIL, all recipients or DATA refused), and the transaction is over.

    ``usable``: the server took the RSET, so another transaction may follow.
    """

    usable: bool


@dataclass(frozen=True, slots=True)
class QuitAnswer:
    reply: ServerReply


@dataclass(frozen=True, slots=True)
class ProtocolError:
    """The server broke the protocol; the session is closed.  ``reply``: one that answers nothing."""

    text: str
    reply: ServerReply | None = field(default=None)


ClientEvent = (
    Greeting
    | Ready
    | HelloRefused
    | StartTLSAnswer
    | Challenge
    | AuthAnswer
    | MailAnswer
    | RcptAnswer
    | ForwardAnswer
    | DataRefused
    | SendBody
    | MessageAnswer
    | TransactionDropped
    | QuitAnswer
    | ProtocolError
)
