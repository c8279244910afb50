"""The control socket: commands of the operator to the running queue manager.

A UNIX stream socket, ``control`` in ``mtad_queue_directory``.  A request is one line of JSON, so is the
answer; requests longer than a few kilobytes are cut off.  Anybody may connect; the system tells us who they
are, and ``authorized_mailq_users`` and ``authorized_flush_users`` what they may; whoever is neither root nor
the mail system's user gets one request a connection, and not for long.  Commands::

    {"command": "showq"}                          -> {"ok": true, "active": ["QID", ...]}
    {"command": "listing", "json": false}         -> {"ok": true}, then the listing to the end of the stream
    {"command": "scan"}                           -> {"ok": true}: look at the queue, it was changed
    {"command": "flush"}                          -> {"ok": true, "count": N}
    {"command": "flush-id", "id": "QID"}          -> {"ok": true, "count": N}
    {"command": "flush-site", "site": "DOMAIN"}   -> {"ok": true, "count": N}

Postfix counterpart: the services ``showq``, ``flush`` and ``qmgr`` below ``public/``.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IPullProducer
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from mtad.config.parameters import Parameters
from mtad.daemon.authorized import Users
from mtad.deliver.qmgr import QueueManager
from mtad.errors import MtadError
from mtad.net.drive import drive
from mtad.queue.listing import json_listing, text_listing
from mtad.queue.message import DEFERRED
from mtad.queue.postfix.waiting import waiting
from mtad.queue.sqlite import SQLiteStore

#: struct ucred of unix(7): pid, uid, gid.
_PEER = struct.Struct("3i")
#: Connections of users other than root and the mail system's that are served at a time.
_MOST_GUESTS = 64
#: Seconds for such a user to say something, or to take something.
_PATIENCE = 60.0
#: Lines of a listing that are made at a time, or messages that are looked at.
_LINES = 500


@implementer(IPullProducer)
class _Conversation(LineOnlyReceiver):
    delimiter = b"\n"
    MAX_LENGTH = 4096
    transport: Any

    def __init__(self, server: ControlServer) -> None:
        self._server = server
        self._lines: Iterator[str] = iter(())
        self._clock: IDelayedCall | None = None  # runs for guests
        self._asked = False
        self.uid = -1

    @property
    def trusted(self) -> bool:
        """Root, or who the mail system runs as."""
        return self.uid in (0, os.getuid())

    def connectionMade(self) -> None:
        handle: socket.socket = self.transport.getHandle()
        _, self.uid, _ = _PEER.unpack(handle.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if not self._server.admit(self):
            self.transport.abortConnection()
        elif not self.trusted:
            self._clock = self.transport.reactor.callLater(_PATIENCE, self.transport.abortConnection)

    def connectionLost(self, reason: object = None) -> None:
        if self._clock is not None and self._clock.active():
            self._clock.cancel()
        self._lines = iter(())
        self._server.dismiss(self)

    def stream(self, lines: Iterator[str]) -> None:
        """Send these lines at the speed at which they are read, and hang up."""
        self._lines = lines
        self.transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        try:
            some = list(islice(self._lines, _LINES))
        except MtadError:
            self.transport.abortConnection()
            return
        if some:
            if self._clock is not None:
                self._clock.reset(_PATIENCE)
            self.transport.write("".join([f"{line}\n" for line in some]).encode("utf-8", "replace"))
        else:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def stopProducing(self) -> None:
        self._lines = iter(())

    def lineReceived(self, line: bytes) -> None:
        if self._asked and not self.trusted:
            self.transport.abortConnection()
            return
        self._asked = True
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict):
            self._answer({"ok": False, "error": "not a JSON object"})
            return
        self._server.handle(request, self._answer, self)

    def _answer(self, answer: dict[str, Any]) -> None:
        if self.transport is not None:
            self.transport.write(json.dumps(answer).encode() + b"\n")


class ControlServer(Factory):
    """Serves the socket in qmgr's process."""

    noisy = False

    def __init__(
        self, p: Parameters, manager: QueueManager, store: SQLiteStore, scanned: Callable[[], object]
    ) -> None:
        """``scanned`` is called where ``scan`` was asked for."""
        self._p = p
        self._users = Users(p)
        self._scanned = scanned
        self._long_ids = p.flag("enable_long_queue_ids")
        self._manager = manager
        self._store = store
        self._guests: set[_Conversation] = set()

    def buildProtocol(self, addr: object) -> _Conversation:
        return _Conversation(self)

    def admit(self, conversation: _Conversation) -> bool:
        """Whether there is room for one more."""
        if conversation.trusted:
            return True
        self._guests.add(conversation)
        return len(self._guests) <= _MOST_GUESTS

    def dismiss(self, conversation: _Conversation) -> None:
        self._guests.discard(conversation)

    def handle(self, request: dict[str, Any], answer: Any, conversation: _Conversation) -> None:
        """Carry out ``request`` and call ``answer`` with what came of it."""
        if conversation.trusted:
            self._carry_out(request, answer, conversation)
            return

        def asked(name: str) -> None:
            if name:
                answer({"ok": False, "error": f"User {name}({conversation.uid}) is not allowed to do this"})
            else:
                self._carry_out(request, answer, conversation)

        looks = request.get("command") in ("showq", "listing")
        work = self._users.refused(
            "authorized_mailq_users" if looks else "authorized_flush_users", conversation.uid
        )
        drive(work, asked, lambda failure: _failed(failure, answer))

    def _carry_out(self, request: dict[str, Any], answer: Any, conversation: _Conversation) -> None:
        command = request.get("command")
        try:
            if command == "showq":
                answer({"ok": True, "active": sorted(self._manager.snapshot())})
            elif command == "listing":
                answer({"ok": True})
                conversation.stream(self._listing(bool(request.get("json")), not conversation.trusted))
            elif command == "scan":
                self._manager.scan()
                self._scanned()
                answer({"ok": True})
            elif command == "flush":
                self._flush(None, answer)
            elif command == "flush-id":
                self._flush([str(request.get("id", ""))], answer)
            elif command == "flush-site":
                work = self._bound_for(str(request.get("site", "")), conversation.transport.reactor)
                drive(work, lambda ids: self._flush(ids, answer), lambda failure: _failed(failure, answer))
            else:
                answer({"ok": False, "error": f"unknown command {command!r}"})
        except MtadError as problem:
            answer({"ok": False, "error": str(problem)})

    def _listing(self, as_json: bool, guest: bool) -> Iterator[str]:
        active = frozenset(self._manager.snapshot())
        messages = chain(waiting(self._p, secret=guest), self._store.listing())
        if as_json:
            return json_listing(messages, active)
        return text_listing(messages, active, self._long_ids)

    async def _bound_for(self, site: str, reactor: Any) -> list[str]:
        """The ids of deferred messages with a recipient at ``site``; others have their turns meanwhile."""
        end = b"@" + site.lower().encode("utf-8", "replace")
        found: list[str] = []
        for number, message in enumerate(self._store.listing(), 1):
            if message.state == DEFERRED and any(
                recipient.address.lower().endswith(end) for recipient in message.recipients
            ):
                found.append(message.queue_id)
            if number % _LINES == 0:
                await deferLater(reactor, 0.0)
        return found

    def _flush(self, queue_ids: Sequence[str] | None, answer: Any) -> None:
        def done(count: int) -> None:
            answer({"ok": True, "count": count})

        self._manager.flush(queue_ids).addCallbacks(done, lambda failure: _failed(failure, answer))


def _failed(failure: Failure, answer: Any) -> None:
    answer({"ok": False, "error": failure.getErrorMessage()})
