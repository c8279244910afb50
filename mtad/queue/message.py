"""A queued message, its recipients and what becomes of them.

Plain values, shared by whoever fills the queue (``smtpd``, bounces) and whoever empties it
(``deliver``).  Message content is bytes with CRLF line ends, not dot-stuffed, headers first:
what would be sent.  Times are seconds since the epoch.

What a client asked for beside its addresses is in ``Message.attributes``, as text; each is absent where it
was not asked for:

=================== =============================================================================
verp_delimiters     ``+=``: two characters; each recipient gets a sender of its own (XVERP)
requiretls          ``yes``: only over TLS, to servers that offer REQUIRETLS (RFC 8689)
tls_required_no     ``yes``: the header ``TLS-Required: no``; TLS policy is no reason not to deliver
release             an epoch, ``1790000000``: deliver not before (RFC 4865).  Whoever fills the queue also
                    sets ``next_attempt`` to it
deliver_by          an epoch, ``;``, ``R`` or ``N``, perhaps ``T``, ``1790000000;RT``: return the message
                    (``R``) or tell the sender of the delay (``N``) when it is not delivered by then; ``T``:
                    trace (RFC 2852)
filter              ``transport:nexthop``: all recipients go there, whatever their addresses say
message_id          the message's own ``<id>``, for notifications that belong to its thread
rewrite_context     ``local`` or ``remote``: by whose rules addresses in headers were completed
untold              what came of recipients and is told with the next attempt (:mod:`mtad.queue.untold`)
mt_priority         -9 to 9, ``3``: the higher the sooner (RFC 6710)
trace_flags         ``512`` or ``1024``: the sender is told what came of the first attempt, which with ``512``
                    delivers nothing, and with ``1024`` does (sendmail's ``-bv``, ``-v``)
=================== =============================================================================

Content that a client declared binary (RFC 3030) is converted before it comes here.

Postfix counterpart: the queue file records (``rec_type(3)``) and ``deliver_request(3)``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import BinaryIO

#: Recipient states.  ``DONE`` recipients are kept until their message is removed.
PENDING, DONE = "pending", "done"

#: Message states.  "active" is qmgr's knowledge, not the store's: a crash makes it pending again.
INCOMING, DEFERRED, HOLD = "incoming", "deferred", "hold"
#: A file of another mail system holds it, or will in a moment; nobody here touches it.
EXPORTED = "exported"
#: To go through intake once more, with a new queue id: listed as in the maildrop, as Postfix would have it.
REQUEUED = "maildrop"


@dataclass(slots=True)
class Recipient:
    """One recipient of a message."""

    address: bytes  # internal form, after rewriting
    original: bytes = b""  # as the client gave it, internal form
    notify: frozenset[bytes] = frozenset()  # RFC 3461 NOTIFY, empty: not given
    orcpt: bytes = b""  # RFC 3461 ORCPT as sent ("rfc822;xtext")
    id: int = 0  # the store's key
    state: str = PENDING
    dsn: str = ""  # last status, e.g. "4.4.1"
    reason: str = ""  # last reason, printable
    relay: str = ""  # last "host[addr]:port" or "none"


@dataclass(slots=True)
class Message:
    """A message and its envelope.

    Either ``content`` holds it whole (small) or ``spool`` is a readable, seekable file of
    ``size`` bytes (large, on the way in) or neither (large, in the store: ``QueueStore.read``).
    """

    queue_id: str
    sender: bytes
    recipients: list[Recipient]
    arrival: float  # when the client began the transaction, for delay=
    size: int = 0
    content: bytes | None = None
    spool: BinaryIO | None = None
    state: str = INCOMING
    body: bytes = b""  # b"", b"7BIT", b"8BITMIME"
    smtputf8: bool = False
    ret: bytes = b""  # b"", b"FULL", b"HDRS"
    envid: bytes = b""
    #: named attributes, as Postfix's queue file has them: client_name, client_address, sasl_method,
    #: sasl_username, log_client_name, ... all printable; see above
    attributes: dict[str, str] = field(default_factory=dict)
    seq: int = 0  # the store's key, ascending in commit order
    next_attempt: float = 0.0
    warned: bool = False  # the delay warning went out
    expired: bool = False  # the operator has it returned at the next attempt
    recipient_count: int = 0  # the store's: all recipients, done ones too
    recipients_read: int = 0  # the store's: of so many, the pending ones are among ``recipients``
    changed: bool = False  # the attributes are not those that the store has

    @property
    def probing(self) -> bool:
        """Whether it is only to be seen if it could be delivered."""
        return "probe" in self.attributes or self.attributes.get("trace_flags") == "512"


@dataclass(slots=True)
class Outcome:
    """What one attempt came to for one recipient.

    ``status`` is ``sent``, ``deferred`` or ``bounced`` (Postfix's words); ``reason`` the text of the
    log line's parentheses; ``dsn`` the enhanced code; ``diagnostic`` the ``Diagnostic-Code`` for a
    DSN (``smtp; 550 ...`` or ``x-postfix; ...``); ``remote_mta`` the host that said it, or empty.
    """

    recipient: Recipient
    status: str
    dsn: str
    reason: str
    relay: str = "none"
    diagnostic: str = ""
    remote_mta: str = ""
    action: str = ""  # for a DSN that tells of success: relayed, delivered, expanded
