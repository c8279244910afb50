"""What a process does: receive mail (:class:`SmtpdRole`), or deliver it (:class:`QmgrRole`).

A role lives in a reactor.  ``start`` makes its objects while the process still has its rights (tables and
key files that only root may read); ``serve`` goes to work after they were given up and the store was opened,
and its Deferred fires when it does; ``drain`` ends it without cutting anything short, ``stop`` ends it soon.
Both end in the Deferred ``ended``.  The master runs each role in processes of its own; ``start-fg --single``
runs both in one.

Postfix counterpart: ``smtpd(8)`` and ``qmgr(8)`` as ``master(8)`` runs them.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, succeed

from mtad.daemon.control import ControlServer
from mtad.daemon.gauge import Gauge
from mtad.daemon.paths import Paths
from mtad.daemon.plan import Plan
from mtad.daemon.readers import Acceptor, DatagramReader
from mtad.daemon.recovery import Recovery
from mtad.daemon.sockets import Channels
from mtad.daemon.statistics import Statistics
from mtad.deliver.qmgr import QueueManager
from mtad.deliver.route import Route, Router
from mtad.deliver.verify import VerifyServer
from mtad.maillog import MailLog, Sink
from mtad.net.dns import Resolver
from mtad.net.eager import adopt
from mtad.policy.anvil import Anvil
from mtad.queue.ids import QueueIds
from mtad.queue.message import Message
from mtad.queue.pressure import Pressure
from mtad.queue.sqlite import SQLiteStore
from mtad.rewrite.classes import AddressClasses
from mtad.smtpd.internal import InternalMail
from mtad.smtpd.service import SmtpdService
from mtad.smtpd.verify_client import VerifyClient

#: Seconds that ``stop`` waits for what is in hand.
PATIENCE = 5.0
#: Seconds between attempts to get the queue from the manager before us.
_STEP = 0.02
#: Seconds between looks at what managers before us still have in hand, beside their own word.
_LOOK = 1.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every role is given."""

    plan: Plan
    paths: Paths
    sink: Sink
    reactor: Any
    anvil: Anvil
    pressure: Pressure

    @property
    def log(self) -> MailLog:
        p = self.plan.p
        return MailLog(self.sink, p["syslog_name"], p.choice("info_log_address_format") == "internal")

    def ids(self) -> QueueIds:
        """A source of queue ids, long or short by the configuration."""
        return QueueIds(long=self.plan.p.flag("enable_long_queue_ids"))


class SmtpdRole:
    """Serves the smtpd services on listening sockets; ``sockets``: by the service's place in the plan."""

    def __init__(
        self, around: Surroundings, store: SQLiteStore, sockets: Mapping[int, Sequence[socket.socket]]
    ) -> None:
        self._around = around
        self._store = store
        self._sockets = sockets
        self._services: list[SmtpdService] = []
        self._router: Router | None = None
        self._ports: list[Any] = []
        self._waking = False
        self._ending = False
        self.ended: Deferred[None] = Deferred()

    def start(self) -> None:
        """Make the services: whatever must be opened with the rights we started with."""
        around = self._around
        resolver = Resolver(around.reactor)
        ids = around.ids()
        self._wakeup = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        verifier = VerifyClient(around.paths.verify, around.reactor)
        for plan in around.plan.smtpd:
            self._services.append(
                SmtpdService(
                    plan,
                    reactor=around.reactor,
                    store=self._store,
                    log=around.log,
                    resolver=resolver,
                    ids=ids,
                    spool_directory=around.paths.spool,
                    main=around.plan.p,
                    queued=self._queued,
                    now=time.time,
                    route=self._route,
                    verify=verifier.query,
                    control=around.paths.control,
                    anvil=around.anvil,
                    pressure=around.pressure,
                )
            )
            service = self._services[-1]
            if self._router is None and (service.milters is not None or service.evaluator.asks_routes):
                # what is told to milters of a recipient's way, and which addresses have none
                self._router = Router(around.plan.p, AddressClasses(around.plan.p))

    def serve(self) -> Deferred[None]:
        """Accept connections."""
        around = self._around
        for place, service in enumerate(self._services):
            for listener in self._sockets.get(place, ()):
                self._ports.append(adopt(around.reactor, listener, service))
        # the ports have descriptors of their own: when they are closed, nobody here listens any more
        for listeners in self._sockets.values():
            for listener in listeners:
                listener.close()
        return succeed(None)

    async def _route(self, sender: bytes, recipient: bytes) -> Route:
        assert self._router is not None
        return await self._router.resolve(sender, recipient)

    def _queued(self, message: Message) -> None:
        if not self._waking:
            self._waking = True
            self._around.reactor.callLater(0, self._wake)

    def _wake(self) -> None:
        """Tell qmgr.  A datagram that is lost costs it a poll."""
        self._waking = False
        try:
            self._wakeup.sendto(b"I", self._around.paths.wakeup)
        except OSError:
            pass

    def drain(self) -> None:
        """Accept nothing more, let every session come to its end."""
        self._stop_listening()
        self._await_end(None)

    def stop(self) -> None:
        """Accept nothing more, end the sessions."""
        self._stop_listening()
        for service in self._services:
            service.shut_down()
        self._await_end(self._around.reactor.seconds() + PATIENCE)

    def _stop_listening(self) -> None:
        ports, self._ports = self._ports, []
        for port in ports:
            port.stopListening()

    def _await_end(self, deadline: float | None) -> None:
        if self._ending:
            return
        reactor = self._around.reactor
        if any(service.sessions for service in self._services) and (
            deadline is None or reactor.seconds() < deadline
        ):
            reactor.callLater(0.05, self._await_end, deadline)
            return
        self._ending = True
        self._wakeup.close()
        self.ended.callback(None)


class QmgrRole:
    """Delivers the mail and answers the commands that ask about the queue."""

    def __init__(self, around: Surroundings, store: SQLiteStore, channels: Channels) -> None:
        self._around = around
        self._store = store
        self._channels = channels
        self._serving: Deferred[None] = Deferred()
        self._readers: list[Acceptor | DatagramReader] = []
        self._call: Any = None
        self._has_queue = False
        self._passed_on = False
        self._ending = False
        self.scanned: Callable[[], object] = lambda: None  # called when commands have changed the queue
        self.ended: Deferred[None] = Deferred()

    def start(self) -> None:
        """Make what delivers, and open its sockets: before rights are dropped."""
        around = self._around
        log = around.log.named(f"{around.plan.p['syslog_name']}/qmgr")
        self._recovery = Recovery(self._store, around.reactor, log)
        self.own_mail = InternalMail.of_bounces(
            around.plan.p, around.plan.services, around.log, around.reactor, around.paths.spool
        )
        self._manager = QueueManager(
            around.plan.p,
            self._store,
            around.reactor,
            around.log,
            Resolver(around.reactor),
            new_id=around.ids().next,
            services=around.plan.services,
            clock=time.time,
            let_go=self._let_go,
            clean=self.clean,
        )
        self._gauge = Gauge(self._manager.behind, self._store.newest, around.pressure, around.reactor)
        log = around.log.named(f"{around.plan.p['syslog_name']}/anvil")
        self._statistics = Statistics(around.plan.p, around.anvil, log, around.reactor)

    def serve(self) -> Deferred[None]:
        """Begin to deliver; fires when that is under way."""
        self._claims = self._store.claims
        self._begin()
        return self._serving

    def _begin(self) -> None:
        """Go to work, once the manager before us has let go of the queue."""
        if self._ending:
            return
        if not self._claims.take():
            self._call = self._around.reactor.callLater(_STEP, self._begin)
            return
        self._has_queue = True
        self._recovery.run().addCallback(lambda _: self._go_to_work())

    def _go_to_work(self) -> None:
        if self._ending:
            return
        reactor = self._around.reactor
        self._look()
        control = ControlServer(self._around.plan.p, self._manager, self._store, self.scanned)
        self._readers = [
            DatagramReader(reactor, self._channels.wakeup, self._woken),
            Acceptor(reactor, self._channels.control, control),
            Acceptor(reactor, self._channels.verify, VerifyServer(self._manager.verifier)),
        ]
        self._gauge.start()
        self._manager.start()
        self._statistics.start()
        self._serving.callback(None)

    def _look(self) -> None:
        """See what managers before us still have in hand."""
        if self._ending:
            return
        kept = self._claims.kept_by_others()
        if self._manager.left_to_others - kept:  # they may have been killed
            self._recovery.run().addCallback(lambda _: self._manager.leave_to_others(kept))
        else:
            self._manager.leave_to_others(kept)
        if kept and (self._call is None or not self._call.active()):
            self._call = self._around.reactor.callLater(_LOOK, self._look)

    def _woken(self) -> None:
        if self._manager.left_to_others:
            self._look()
        self._manager.wake()
        self._gauge.look()

    def _let_go(self, seq: int) -> None:
        """The manager, in its last hour, is done with a message: the next one may have it."""
        if not self._passed_on:
            return
        self._claims.release(seq)
        tell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        with tell:
            try:
                tell.sendto(b"I", self._around.paths.wakeup)
            except OSError:
                pass  # it looks of itself, too

    async def clean(self, message: Message, source: str) -> bool:
        """Clean mail that is made here: see :class:`~mtad.smtpd.internal.InternalMail`."""
        return await self.own_mail.clean(message, source)

    def busy(self) -> frozenset[int]:
        """The messages that are being delivered, by us and by managers before us."""
        return self._manager.left_to_others.union(self._manager.in_hand())

    def drain(self) -> None:
        """Leave the queue to the next manager; finish the deliveries in hand."""
        self._end(None)

    def stop(self) -> None:
        """Finish what can be finished soon."""
        self._end(PATIENCE)

    def _end(self, limit: float | None) -> None:
        first, self._ending = not self._ending, True
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._recovery.stop()
        if not self._has_queue:
            if first:
                self.ended.callback(None)
            return
        for reader in self._readers:
            reader.close()
        self._readers.clear()
        self._statistics.stop()
        self._gauge.stop()
        ended = self._manager.stop(limit)
        if first:
            self._passed_on = True
            self._claims.pass_on(self._manager.in_hand())
            ended.addBoth(self._stopped)

    def _stopped(self, _: object) -> None:
        self.ended.callback(None)
