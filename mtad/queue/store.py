"""``QueueStore``: what every queue driver promises.

Any driver keeps these, and ``tests/unit/queue/conformance.py`` shows it:

* ``enqueue`` resolves only when the message would survive the loss of power.
* What ``finish`` reported as done is never handed out again; what was handed out and not reported
  is handed out again after a crash.
* ``incoming`` gives messages in commit order; a message appears exactly once per qmgr process.
* No message is removed before all its recipients are done.

Awaitables returned here are completed in the thread of the reactor that the driver was opened
with.  Errors raised: :class:`mtad.errors.QueueError` (temporary; nothing was changed).

Postfix counterpart: the queue directories, ``mail_stream(3)``, ``qmgr_active(3)``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Sequence
from typing import Protocol

from mtad.queue.message import Message, Outcome, Recipient


class QueueStore(Protocol):
    """A durable queue.  See the module for what it promises."""

    def enqueue(self, message: Message, taken: str = "") -> Awaitable[None]:
        """Keep ``message``; done when it is durable.  Raises QueueFull, QueueError.

        ``taken`` names the file that it was made of, and that its reader removes next: that it was taken is
        remembered with the message, whatever becomes of it."""

    def export(self, queue_ids: Sequence[str]) -> Awaitable[list[str]]:
        """From now on these are files of another mail system's; returns the ids of those that were not."""

    def rename(self, queue_id: str, name: str) -> Awaitable[object]:
        """A message has to have another queue id."""

    def take_back(self, queue_ids: Sequence[str], state: str) -> Awaitable[list[str]]:
        """They are ours again, in ``state``; returns the ids of those that were exported."""

    def was_taken(self, name: str) -> bool:
        """Whether a message was made of this file already.  Blocking, for a moment."""

    def forget_taken(self, names: Sequence[str]) -> Awaitable[object]:
        """These files are gone."""

    def incoming(self, after: int, limit: int) -> Awaitable[list[Message]]:
        """Up to ``limit`` messages with ``seq > after`` and state ``incoming``, in order of seq, with
        pending recipients and, where small, content."""

    def due(
        self, now: float, limit: int, skip: frozenset[int], after: tuple[float, int] = (float("-inf"), 0)
    ) -> Awaitable[list[Message]]:
        """Deferred messages with ``next_attempt <= now``, the longest due first, except ``skip``; only those
        behind ``after``, the ``next_attempt`` and ``seq`` of one."""

    def recipients(self, message: Message, first: int, count: int) -> Awaitable[list[Recipient]]:
        """Those recipients of a message that are pending, among the ``count`` ones from the ``first`` on.
        ``incoming`` and ``due`` give only those among its first ``Message.recipients_read``."""

    def next_due(self, after: float) -> Awaitable[float | None]:
        """The earliest ``next_attempt`` of a deferred message behind that time."""

    def finish(
        self,
        message: Message,
        outcomes: Sequence[Outcome],
        next_attempt: float,
        bounces: Sequence[Message] = (),
    ) -> Awaitable[bool]:
        """Record an attempt, in one transaction: ``sent`` and ``bounced`` recipients are done, ``deferred``
        ones get their reason and the message ``next_attempt``, and its attributes are written where they
        have ``changed``; ``bounces`` (DSNs that result) are enqueued with it.  True when nothing is pending
        any more and the message was removed."""

    def in_doubt(self, ids: Sequence[int]) -> None:
        """The end of a message is about to be sent for the recipients with these keys.  QueueError where that
        can't be noted: then it must not be sent, or they might get it twice and nobody would know."""

    def answered(self, ids: Sequence[int], delivered: bool) -> None:
        """The server has answered for them: whether it took the message.  That survives the process."""

    def read(self, message: Message) -> Iterator[bytes]:
        """The content in pieces of at most 64 KiB.  Blocking: for a helper thread or small content."""

    def flush(self, queue_ids: Sequence[str] | None = None) -> Awaitable[int]:
        """Make deferred messages due now (all, or those named); returns how many."""

    def hold(self, queue_ids: Sequence[str]) -> Awaitable[list[str]]:
        """Keep messages from being tried; returns the ids of those that it found to do so."""

    def release(self, queue_ids: Sequence[str]) -> Awaitable[list[str]]:
        """Make messages on hold deferred and due; returns their ids."""

    def requeue(self, queue_ids: Sequence[str]) -> Awaitable[list[str]]:
        """Have messages go through intake once more; returns the ids of those that exist."""

    def requeued(self, limit: int, skip: frozenset[int]) -> list[Message]:
        """Those, with their pending recipients and no content, except ``skip``.  Blocking, for a moment."""

    def expire(self, queue_ids: Sequence[str]) -> Awaitable[list[str]]:
        """Have messages given up at their next attempt; returns the ids of those that were not yet."""

    def remove(self, queue_ids: Sequence[str]) -> Awaitable[list[str]]:
        """Remove messages, delivered or not; returns the ids of those that existed."""

    def counts(self) -> dict[str, int]:
        """How many messages are in each state.  Blocking: for commands."""

    def listing(self) -> Iterator[Message]:
        """Every message with its pending recipients and no content, in order of seq.  Blocking: for commands.
        Messages that come or go meanwhile may or may not be in it."""

    def find(self, queue_id: str) -> Message | None:
        """One message with its pending recipients and no content.  Blocking: for commands."""

    def close(self) -> Awaitable[None]:
        """Finish what was begun and let go of the files."""
