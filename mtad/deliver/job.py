"""What passes between the queue manager and those who deliver.

Plain values; a :class:`Job` is one delivery: some recipients of one message that share a route.

Postfix counterpart: ``deliver_request(3)``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from mtad.deliver.report import Stamps
from mtad.deliver.route import Route
from mtad.queue.message import Message, Outcome, Recipient

#: Has a message of ours cleaned, in its place, before it is queued or tried; False: it is to be forgotten.
#: What may not be sent, or can't be cleaned now, raises MtadError.  The text is where it comes from:
#: ``bounce``, ``notify``, ``forward``, ``verify``.
Clean = Callable[[Message, str], Awaitable[bool]]


async def as_it_is(message: Message, source: str) -> bool:
    """A :data:`Clean` that changes nothing."""
    return True


@dataclass(slots=True, eq=False)
class Job:
    """One delivery to make."""

    message: Message
    recipients: list[Recipient]
    route: Route
    stamps: Stamps
    busy: bool = False  # more deliveries to this destination are at hand: keep the session


@dataclass(slots=True)
class Result:
    """What a delivery came to: an outcome for each recipient that was not passed on.

    ``unreached`` is the status and reason when the destination itself could not be reached;
    ``traced`` are outcomes that the sender may want to hear of, since no other server will tell of them;
    ``forwards`` are messages that take the place of recipients; ``passed`` go on by other transports.
    ``told``: what is reported in place of outcomes, where there is anything.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    unreached: tuple[str, str] | None = None
    traced: list[Outcome] = field(default_factory=list)
    forwards: list[Message] = field(default_factory=list)
    passed: dict[str, list[Recipient]] = field(default_factory=dict)
    told: list[Outcome] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Active:
    """A message in hand."""

    message: Message
    begun: float
    flushed: bool = False  # the operator asked for this attempt
    since: float = 0.0  # when we took it in hand, on a clock that never goes back
    priority: int = 0
    held: int = 0  # bytes of content that count against the budget
    jobs: int = 0  # deliveries not over yet
    read: int = 0  # recipients that were read, done ones too
    open: int = 0  # recipients in hand that have no outcome yet
    reading: bool = False  # more recipients are being read
    broken: bool = False  # some recipients have no outcome, by no fault of theirs
    writing: bool = False  # what came of some is being recorded
    outcomes: list[Outcome] = field(default_factory=list)  # not recorded yet
    traced: list[Outcome] = field(default_factory=list)  # as in Result
    cleared: list[Outcome] = field(default_factory=list)  # delivered after the sender heard of the delay
    told: list[Outcome] = field(default_factory=list)  # all, where the sender wants to hear of them
    forwards: list[Message] = field(default_factory=list)  # as in Result, not recorded yet

    @property
    def unread(self) -> int:
        """How many recipients were not read yet."""
        return self.message.recipient_count - self.read
