"""What is known about a client and its mail when a decision is asked for.

One :class:`Request` lives as long as the SMTP session.  The protocol fills it in as the client goes
on, calls :meth:`Request.reset_mail` when a transaction ends or is dropped and
:meth:`Request.reset_session` after STARTTLS, and makes a new one for a new client identity (XCLIENT).
The evaluator keeps its own memory of earlier stages in the fields that begin with an underscore.

:class:`Actions` are what access(5) results ask for beside yes and no; they concern the whole message.

Postfix counterpart: ``SMTPD_STATE``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mtad.policy.trace import Trace
from mtad.wire.events import Address

if TYPE_CHECKING:
    from mtad.policy.dns_lists import Listing

#: The words of log lines and of policy delegation for where a decision was taken.
CONNECT, HELO, EHLO, MAIL, RCPT, DATA = "CONNECT", "HELO", "EHLO", "MAIL", "RCPT", "DATA"
END_OF_MESSAGE, VRFY, ETRN = "END-OF-MESSAGE", "VRFY", "ETRN"


@dataclass(slots=True)
class Actions:
    """Side effects of access(5) results on the message in hand."""

    discard: bool = False  # take the message, then drop it; no more checks
    hold: bool = False
    filter: str = ""  # transport:destination; the last one wins
    redirect: bytes = b""  # user@domain; the last one wins
    bcc: list[bytes] = field(default_factory=list)
    prepend: list[bytes] = field(default_factory=list)  # header lines, without line end


@dataclass(frozen=True, slots=True)
class Reason:
    """A reply kept for later: what ``defer_if_permit`` or ``defer_if_reject`` will say."""

    code: int
    dsn: bytes
    text: bytes


@dataclass(slots=True)
class Request:
    """A client and, from MAIL on, its transaction.

    ``sender`` and ``recipient`` are as the client gave them, not rewritten; None: not given yet.
    During MAIL, RCPT and VRFY the address under decision is set before the evaluator is asked.
    """

    client_name: str = "unknown"  # verified host name
    client_address: str = "unknown"
    client_port: str = "unknown"
    peer_address: str = ""  # of the connection itself, whatever XCLIENT says; empty: as client_address
    port_logged: bool = False  # smtpd_client_port_logging
    internal_addresses: bool = False  # info_log_address_format = internal
    reverse_name: str = "unknown"  # unverified host name
    name_temporary: bool = False  # client_name is unknown because a lookup failed for now
    reverse_temporary: bool = False
    server_address: str = ""
    server_port: str = ""
    helo: bytes = b""  # empty: no HELO yet; of ``<>()\\";@`` and unprintable bytes each one a ``?``
    protocol: str = "SMTP"  # or "ESMTP"
    state: str = CONNECT
    command: str = ""  # what log lines say instead of the state: BDAT is DATA to policy
    tls: bool = False
    tls_protocol: str = ""
    tls_cipher: str = ""
    tls_bits: int = 0
    cert_trusted: bool = False
    cert_name: str = ""  # subject common name of the client's certificate
    cert_issuer_name: str = ""  # common name of its issuer
    cert_fingerprint: str = ""
    pubkey_fingerprint: str = ""
    cert_subject: str = ""  # whole names, as Sendmail's access map has them
    cert_issuer: str = ""
    sasl_method: str = ""
    sasl_username: str = ""
    sasl_sender: str = ""  # xtext
    unauth_pipelining: bool = False
    sender: Address | None = None
    recipient: Address | None = None
    recipient_count: int = 0  # accepted so far
    smtputf8: bool = False
    size: int = 0
    queue_id: str = ""  # empty: NOQUEUE
    instance: str = ""  # the message's name for policy services, from the first question on
    etrn_domain: bytes = b""
    actions: Actions = field(default_factory=Actions)
    trace: Trace | None = field(default=None, repr=False)
    listings: dict[str, Listing] = field(default_factory=dict, repr=False)  # answers of DNS lists

    _defer_client: Reason | None = field(default=None, repr=False)
    _defer_helo: Reason | None = field(default=None, repr=False)
    _defer_sender: Reason | None = field(default=None, repr=False)
    _mynetworks: bool | None = field(default=None, repr=False)

    @property
    def client(self) -> str:
        """``name[address]``, perhaps with the port, as log lines and replies show it."""
        text = f"{self.client_name}[{self.client_address}]"
        return f"{text}:{self.client_port}" if self.port_logged else text

    @property
    def logged_in(self) -> bool:
        """Authenticated, and not as anonymous."""
        return bool(self.sasl_method) and self.sasl_method.lower() != "anonymous"

    def reset_mail(self) -> None:
        """The transaction is over: forget its envelope and what was asked for it."""
        self.sender = None
        self.recipient = None
        self.recipient_count = 0
        self.smtputf8 = False
        self.size = 0
        self.queue_id = self.instance = ""
        self.actions = Actions()

    def reset_session(self) -> None:
        """TLS has begun: forget HELO, login and transaction (RFC 3207 section 4.2)."""
        self.reset_mail()
        self.helo = b""
        self.sasl_method = self.sasl_username = self.sasl_sender = ""
        self._defer_helo = self._defer_sender = None
