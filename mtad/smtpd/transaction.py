"""A mail transaction: envelope, then content, then a message for the queue.

Lives from MAIL to the reply to the last dot (RFC 5321 section 3.3).
"""

from __future__ import annotations

from mtad.maillog import MailLog
from mtad.smtpd.envelope import Envelope
from mtad.smtpd.intake import Intake
from mtad.smtpd.proxy_filter import Filtering
from mtad.wire.events import Mail, Rcpt


class Transaction:
    """``queue_id`` is empty until the first valid recipient (``smtpd_delay_open_until_valid_rcpt``)."""

    __slots__ = (
        "arrival",
        "created",
        "envelope",
        "filtering",
        "intake",
        "mail",
        "queue_id",
        "recipients",
        "settled",
    )

    def __init__(self, mail: Mail, arrival: float) -> None:
        self.mail = mail
        self.arrival = arrival
        self.created = arrival
        self.queue_id = ""
        self.recipients: list[Rcpt] = []
        self.settled = False  # the queue has the message, or it is not wanted
        self.envelope: Envelope | None = None
        self.intake: Intake | None = None
        self.filtering: Filtering | None = None  # in place of intake, where a filter takes the content

    def discard(self, log: MailLog) -> None:
        """The end: drop the content; ``log`` (cleanup's) notes a message that is not to be."""
        if self.filtering is not None:
            self.filtering.discard()
        if self.intake is not None:
            self.intake.discard()
            self.intake = None
        if self.queue_id and not self.settled:
            log.info(f"{self.queue_id}: removed (canceled)")
