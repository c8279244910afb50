"""What processes that were killed while they delivered have left: settled before anybody delivers.

What they had delivered is done, as :mod:`mtad.queue.journal` tells; each recipient of whom nobody knows
whether the server took the message is named in the log, since it may come twice.  A queue that fails is
asked again until it does not, or :meth:`Recovery.stop` is called.

Postfix counterpart: none; there a recipient is marked in the queue file before the log line is written.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.python.failure import Failure

from mtad.errors import QueueError
from mtad.maillog import MailLog
from mtad.queue.journal import doubt, remove
from mtad.queue.sqlite import Recovered, SQLiteStore

_RETRY = 5.0


class Recovery:
    """See the module; ``log`` is qmgr's."""

    def __init__(self, store: SQLiteStore, reactor: Any, log: MailLog) -> None:
        self._store = store
        self._reactor = reactor
        self._log = log
        self._call: Any = None

    def run(self) -> Deferred[None]:
        """Settle what there is; fires when that is done."""
        if exported := self._store.exported():
            self._log.warning(
                f"{exported} messages are half exported and wait; stop the mail system and run:"
                " mtad queue export, or: mtad queue import"
            )
        done: Deferred[None] = Deferred()
        self._attempt(done)
        return done

    def stop(self) -> None:
        """Try no more."""
        if self._call is not None and self._call.active():
            self._call.cancel()

    def _attempt(self, done: Deferred[None]) -> None:
        try:
            waiting = self._store.recover()
        except QueueError as error:
            self._failed(Failure(error), done)
            return
        settled: Deferred[list[Recovered]] = (
            gatherResults(waiting, consumeErrors=True) if waiting else succeed([])
        )
        settled.addCallbacks(self._settled, self._failed, (done,), {}, (done,), {})

    def _settled(self, found: list[Recovered], done: Deferred[None]) -> None:
        for gone, doubtful, journal in found:
            for name, address in doubtful:
                self._log.warning(doubt(name, address))
            for name in gone:
                self._log.info(f"{name}: removed")
            try:
                remove(journal)  # not before: what is told must be told though we are killed now
            except QueueError as error:
                self._log.warning(str(error))
        done.callback(None)

    def _failed(self, failure: Failure, done: Deferred[None]) -> None:
        error = failure.value
        if isinstance(error, Exception) and (cause := getattr(error, "subFailure", None)) is not None:
            error = cause.value
        self._log.warning(f"can't settle what a process has left: {error}; will try again")
        self._call = self._reactor.callLater(_RETRY, self._attempt, done)
