"""What passes between the queue manager and those who deliver.

Plain values; a :class:`Job` is one delivery: some recipients of one message that share a route.

Postfix counterpart: ``deliver_request(3)``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mtad.deliver.report import Stamps
from mtad.deliver.route import Route
from mtad.queue.message import Message, Outcome, Recipient


@dataclass(slots=True, eq=False)
class Job:
    """One delivery to make."""

    message: Message
    recipients: list[Recipient]
    route: Route
    stamps: Stamps


@dataclass(slots=True)
class Result:
    """What a delivery came to: an outcome for each recipient.

    ``unreached`` is the status and reason when the destination itself could not be reached;
    ``relayed`` are outcomes of recipients whose server will send no success notification.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    unreached: tuple[str, str] | None = None
    relayed: list[Outcome] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Active:
    """A message in hand."""

    message: Message
    begun: float
    held: int = 0  # bytes of content that count against the budget
    jobs: int = 0  # deliveries not over yet
    writing: bool = False  # what came of some is being recorded
    outcomes: list[Outcome] = field(default_factory=list)  # not recorded yet
    relayed: list[Outcome] = field(default_factory=list)  # as in Result
