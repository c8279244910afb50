"""The control socket: commands of the operator to the running queue manager.

A UNIX stream socket, ``control`` in ``mtad_queue_directory``.  A request is one line of JSON, so is the
answer; requests longer than a few kilobytes are cut off.  Commands::

    {"command": "showq"}                    -> {"ok": true, "active": ["QID", ...]}
    {"command": "showq", "listing": true}   -> {"ok": true, "active": [...], "lines": [...]}
    {"command": "flush"}                    -> {"ok": true, "count": N}
    {"command": "flush-id", "id": "QID"}    -> {"ok": true, "count": N}

Postfix counterpart: the services ``showq``, ``flush`` and ``qmgr`` below ``public/``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from mtad.deliver.qmgr import QueueManager
from mtad.queue.listing import text_listing
from mtad.queue.sqlite import SQLiteStore

if TYPE_CHECKING:
    from mtad.daemon.roles import Surroundings


class _Conversation(LineOnlyReceiver):
    delimiter = b"\n"
    MAX_LENGTH = 4096

    def __init__(self, server: ControlServer) -> None:
        self._server = server

    def lineReceived(self, line: bytes) -> None:
        try:
            request = json.loads(line)
        except ValueError:
            request = None
        if not isinstance(request, dict):
            self._answer({"ok": False, "error": "not a JSON object"})
            return
        self._server.handle(request, self._answer)

    def _answer(self, answer: dict[str, Any]) -> None:
        if self.transport is not None:
            self.transport.write(json.dumps(answer).encode() + b"\n")


class ControlServer(Factory):
    """Serves the socket in qmgr's process."""

    noisy = False

    def __init__(self, around: Surroundings, manager: QueueManager, store: SQLiteStore) -> None:
        self._around = around
        self._manager = manager
        self._store = store
        self._port: Any = None

    def listen(self) -> None:
        self._port = self._around.reactor.listenUNIX(
            self._around.paths.control, self, mode=0o600, wantPID=False
        )

    def close(self) -> None:
        if self._port is not None:
            self._port.stopListening()
            self._port = None

    def buildProtocol(self, addr: object) -> _Conversation:
        return _Conversation(self)

    def handle(self, request: dict[str, Any], answer: Any) -> None:
        """Carry out ``request`` and call ``answer`` with what came of it."""

        def done(count: int) -> None:
            answer({"ok": True, "count": count})

        def failed(failure: Failure) -> None:
            answer({"ok": False, "error": failure.getErrorMessage()})

        command = request.get("command")
        if command == "showq":
            active = sorted(self._manager.snapshot())
            result: dict[str, Any] = {"ok": True, "active": active}
            if request.get("listing"):
                long_ids = self._around.plan.p.flag("enable_long_queue_ids")
                result["lines"] = list(text_listing(self._store.listing(), frozenset(active), long_ids))
            answer(result)
        elif command == "flush":
            self._manager.flush().addCallbacks(done, failed)
        elif command == "flush-id":
            self._manager.flush([str(request.get("id", ""))]).addCallbacks(done, failed)
        else:
            answer({"ok": False, "error": f"unknown command {command!r}"})
