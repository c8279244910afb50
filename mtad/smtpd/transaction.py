"""A mail transaction: envelope, then content, then a message for the queue.

Lives from MAIL to the reply to the last dot (RFC 5321 section 3.3).  Addresses are completed as
``trivial-rewrite(8)`` would, double recipients dropped as ``cleanup(8)`` would.
"""

from __future__ import annotations

from mtad.maillog import MailLog
from mtad.queue.message import Message, Recipient
from mtad.rewrite.address import Rewriter
from mtad.smtpd.intake import Intake
from mtad.wire.command import xtext_encode
from mtad.wire.events import Mail, Rcpt


class Transaction:
    """``queue_id`` is empty until the first valid recipient (``smtpd_delay_open_until_valid_rcpt``)."""

    __slots__ = (
        "addresses",
        "arrival",
        "created",
        "intake",
        "mail",
        "overshoot",
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
        self.addresses: list[bytes] = []  # of the recipients, as they will be delivered to
        self.overshoot = 0
        self.settled = False  # the queue has the message, or it is not wanted
        self.intake: Intake | None = None

    def message(self, rewriter: Rewriter, duplicate_limit: int) -> Message:
        """The envelope as it goes into the queue."""
        mail = self.mail
        recipients: list[Recipient] = []
        known: set[bytes] = set()
        for rcpt, address in zip(self.recipients, self.addresses, strict=True):
            if len(self.recipients) > 1:
                key = address.lower()
                if key in known:
                    continue
                if len(known) < duplicate_limit:
                    known.add(key)
            orcpt = rcpt.orcpt or b"rfc822;" + xtext_encode(rcpt.argument)
            recipients.append(Recipient(address, rcpt.recipient.text, rcpt.notify, orcpt))
        sender = mail.sender
        return Message(
            queue_id=self.queue_id,
            sender=rewriter.rewrite(sender).text if sender.text else b"",
            recipients=recipients,
            arrival=self.arrival,
            body=mail.body,
            smtputf8=mail.smtputf8,
            ret=mail.ret,
            envid=mail.envid,
        )

    def discard(self, log: MailLog) -> None:
        """The end: drop the content; ``log`` (cleanup's) notes a message that is not to be."""
        if self.intake is not None:
            self.intake.discard()
            self.intake = None
        if self.queue_id and not self.settled:
            log.info(f"{self.queue_id}: removed (canceled)")
