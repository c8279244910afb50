"""The role that takes mail out of the maildrop; it lives in the queue manager's process.

It looks when the directory changes, as the system tells, and once a minute.  A file of which nothing can be
made is logged and moved to ``corrupt``, where the queue's owner may look at it; one that can't be taken now
is left alone for a minute.  Neither holds up the others.

Postfix counterpart: ``pickup(8)`` as ``master(8)`` runs it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet import inotify
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.python.filepath import FilePath

from mtad.config.parameters import Parameters
from mtad.daemon.authorized import refused, sender_problem
from mtad.daemon.roles import Surroundings
from mtad.deliver.bounce import Bouncer
from mtad.deliver.job import Clean, as_it_is
from mtad.deliver.report import Stamps, log_outcomes
from mtad.errors import MtadError, QueueError
from mtad.maillog import printable
from mtad.net.drive import drive
from mtad.queue.message import Outcome
from mtad.queue.postfix.files import CORRUPT, MAILDROP, QueueDirectory, ready
from mtad.queue.sqlite import SQLiteStore
from mtad.smtpd.internal import BOUNCE
from mtad.smtpd.pickup import Keep, Pickup, Refusal, Unfit

#: Seconds between looks at the directory.
_INTERVAL = 60.0
#: Seconds after which a file is tried again that could not be taken.
_PATIENCE = 60.0
#: Seconds after a failure of the queue until the next attempt.
_RETRY = 5.0
#: Messages of the queue that are read at a time.
_SOME = 100
_EVENTS = inotify.IN_ATTRIB | inotify.IN_MOVED_TO | inotify.IN_CLOSE_WRITE


class PickupRole:
    """See the module."""

    def __init__(
        self,
        around: Surroundings,
        store: SQLiteStore,
        busy: Callable[[], frozenset[int]],
        clean: Clean = as_it_is,
    ) -> None:
        """``busy``: the messages (``seq``) that are being delivered.  ``clean``: for notifications."""
        self._clean = clean
        self._busy = busy
        self._around = around
        self._store = store
        name = around.plan.p["syslog_name"]
        self._log = around.log.named(f"{name}/pickup")
        self._cleanup_log = around.log.named(f"{name}/cleanup")
        self._digits = around.plan.p.number("delay_logging_resolution_limit")
        self._maildrop = QueueDirectory.of(around.plan.p)
        self._watch: Any = None
        self._call: Any = None
        self._looking = False
        self._again = False
        self._later: dict[str, float] = {}  # what could not be taken, and when to try again
        self._stopping = False
        self.ended: Deferred[None] = Deferred()

    def start(self) -> None:
        """Make what must be made with the rights we started with."""
        around = self._around
        p = around.plan.p
        ids = around.ids()
        self._bouncer = Bouncer(p, self._store, around.log, ids.next, time.time)
        self._wakeup = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._pickup = Pickup(
            p,
            around.plan.services,
            self._store,
            around.log,
            ids,
            around.paths.spool,
            may_not_submit=partial(_may_not_submit, p),
            reactor=around.reactor,
            pause=lambda: deferLater(around.reactor, 0.0),
            refused=self._return,
        )

    def serve(self) -> Deferred[None]:
        """Take what is there, and what comes."""
        reactor = self._around.reactor
        try:
            self._watch = inotify.INotify(reactor)
            self._watch.startReading()
            path = FilePath(os.fsencode(os.path.join(self._maildrop.path, MAILDROP)))
            self._watch.watch(path, mask=_EVENTS, callbacks=[lambda *_: self._look()])
        except (OSError, inotify.INotifyError) as problem:
            self._log.warning(f"cannot watch the maildrop, will look once a minute: {problem}")
        self._tick()
        return succeed(None)

    def drain(self) -> None:
        """Take no more."""
        self.stop()

    def stop(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        if self._call is not None and self._call.active():
            self._call.cancel()
        if self._watch is not None:
            self._watch.loseConnection()
        if not self._looking:
            self._end()

    def _end(self) -> None:
        self._wakeup.close()
        self.ended.callback(None)

    def _tick(self) -> None:
        self._schedule(_INTERVAL)
        self._look()

    def _schedule(self, delay: float) -> None:
        if self._call is not None and self._call.active():
            self._call.reset(delay)
        elif not self._stopping:
            self._call = self._around.reactor.callLater(delay, self._tick)

    def look(self) -> None:
        """The queue was changed: messages may be there to go through intake once more."""
        self._look()

    def _look(self) -> None:
        """Take everything that is whole."""
        if self._looking:
            self._again = True
        elif not self._stopping:
            self._looking = True
            drive(self._take_all(), self._looked, self._failed)

    async def _take_all(self) -> None:
        self._again = True
        while self._again:
            self._again = False
            taken = False
            now = self._around.reactor.seconds()
            self._later = {path: until for path, until in self._later.items() if until > now}
            for entry in list(self._maildrop.files(MAILDROP)):
                if self._stopping:
                    return
                if entry.path not in self._later:
                    taken |= await self._take(entry.path)
            taken |= await self._resubmit_all()
            if taken:
                self._tell_manager()

    async def _resubmit_all(self) -> bool:
        """Messages of the queue that are to go through intake once more; whether there were some."""
        found = False
        tried = {int(key) for key in self._later if key.isdecimal()}
        while messages := self._store.requeued(_SOME, self._busy().union(tried)):
            for message in messages:
                if self._stopping:
                    return found
                tried.add(message.seq)
                try:
                    await self._pickup.resubmit(message)
                    found = True
                except QueueError:
                    raise
                except MtadError as problem:
                    self._log.warning(f"{message.queue_id}: {printable(str(problem))}; will try again")
                    self._leave(str(message.seq))
                except Exception as problem:
                    self._log.error(printable(Failure(problem).getTraceback()))
                    self._leave(str(message.seq))
        if self._store.requeued(1, frozenset(tried)):
            self._schedule(1.0)  # they are being delivered
        return found

    async def _take(self, path: str) -> bool:
        try:
            return ready(os.lstat(path).st_mode) and await self._pickup.take(path)
        except FileNotFoundError:
            return False
        except Unfit as problem:
            self._log.warning(f"{problem} -- message moved to {CORRUPT}")
            self._set_aside(path)
        except QueueError:
            raise  # no other file could be taken either
        except MtadError as problem:
            self._log.warning(f"{path}: {printable(str(problem))}; will try again")
            self._leave(path)
        except Exception as problem:
            self._log.error(printable(Failure(problem).getTraceback()))
            self._leave(path)
        return False

    def _leave(self, what: str) -> None:
        """Look at the others; this file, or message (its ``seq``), is tried again later."""
        self._later[what] = self._around.reactor.seconds() + _PATIENCE

    def _set_aside(self, path: str) -> None:
        directory = os.path.join(self._maildrop.path, CORRUPT)
        try:
            if not os.path.isdir(directory):
                os.mkdir(directory, 0o700)
            os.rename(path, os.path.join(directory, os.path.basename(path)))
        except OSError:
            # the directory is root's, and there is no other place for it
            try:
                os.unlink(path)
            except OSError as problem:
                self._log.warning(f"remove {path}: {problem.strerror}")
                self._leave(path)

    async def _return(self, refusal: Refusal, keep: Keep) -> None:
        """Have a message that intake would not have returned to its sender."""
        message, reply = refusal.message, refusal.reply
        reason = printable(reply.text)
        dsn = reply.dsn.decode() or "5.0.0"
        outcomes = [Outcome(recipient, "bounced", dsn, reason) for recipient in message.recipients]
        now = time.time()
        stamps = Stamps(min(message.arrival, now), now, done=now)
        log_outcomes(self._cleanup_log, message.queue_id, outcomes, stamps, self._digits)
        notices = self._bouncer.failed(message, outcomes)
        kept = [notice.message for notice in notices if await self._clean(notice.message, BOUNCE)]
        await keep(kept)
        self._bouncer.announce(notices)

    def _tell_manager(self) -> None:
        try:
            self._wakeup.sendto(b"I", self._around.paths.wakeup)
        except OSError:
            pass  # it looks of itself, too

    def _looked(self, _: None) -> None:
        self._looking = False
        if self._stopping:
            self._end()

    def _failed(self, failure: Failure) -> None:
        self._log.warning(f"maildrop: {printable(failure.getErrorMessage())}; will try again")
        if not failure.check(MtadError, OSError):
            self._log.error(printable(failure.getTraceback()))
        self._schedule(_RETRY)
        self._looked(None)


def _may_not_submit(p: Parameters, uid: int, sender: bytes) -> str:
    """Why this user may not submit mail from that sender; empty: they may."""
    if uid in (0, os.getuid()):
        return ""
    if user := refused(p, "authorized_submit_users", uid):
        return f"User {user}({uid}) is not allowed to submit mail"
    reason = sender_problem(p, uid, sender)
    return reason and f"uid={uid}: {reason}"
