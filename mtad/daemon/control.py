"""The control socket: commands of the operator to the running queue manager.

A UNIX stream socket, ``control`` in ``mtad_queue_directory``.  A request is one line of JSON, so is the
answer; requests longer than a few kilobytes are cut off.  Commands::

    {"command": "showq"}                          -> {"ok": true, "active": ["QID", ...]}
    {"command": "showq", "listing": true}         -> {"ok": true, "active": [...], "lines": [...]}
    {"command": "showq", "listing": true, "json": true}   the same, with lines of JSON
    {"command": "flush"}                          -> {"ok": true, "count": N}
    {"command": "flush-id", "id": "QID"}          -> {"ok": true, "count": N}
    {"command": "flush-site", "site": "DOMAIN"}   -> {"ok": true, "count": N}

Postfix counterpart: the services ``showq``, ``flush`` and ``qmgr`` below ``public/``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from mtad.config.parameters import Parameters
from mtad.deliver.qmgr import QueueManager
from mtad.errors import MtadError
from mtad.queue.listing import json_listing, text_listing
from mtad.queue.message import DEFERRED
from mtad.queue.sqlite import SQLiteStore


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

    def __init__(self, p: Parameters, manager: QueueManager, store: SQLiteStore) -> None:
        self._long_ids = p.flag("enable_long_queue_ids")
        self._manager = manager
        self._store = store

    def buildProtocol(self, addr: object) -> _Conversation:
        return _Conversation(self)

    def handle(self, request: dict[str, Any], answer: Any) -> None:
        """Carry out ``request`` and call ``answer`` with what came of it."""
        command = request.get("command")
        try:
            if command == "showq":
                answer(self._show(bool(request.get("listing")), bool(request.get("json"))))
            elif command == "flush":
                self._flush(None, answer)
            elif command == "flush-id":
                self._flush([str(request.get("id", ""))], answer)
            elif command == "flush-site":
                self._flush(list(self._bound_for(str(request.get("site", "")))), answer)
            else:
                answer({"ok": False, "error": f"unknown command {command!r}"})
        except MtadError as problem:
            answer({"ok": False, "error": str(problem)})

    def _show(self, listing: bool, as_json: bool) -> dict[str, Any]:
        active = sorted(self._manager.snapshot())
        result: dict[str, Any] = {"ok": True, "active": active}
        if listing and as_json:
            result["lines"] = list(json_listing(self._store.listing(), frozenset(active)))
        elif listing:
            result["lines"] = list(text_listing(self._store.listing(), frozenset(active), self._long_ids))
        return result

    def _bound_for(self, site: str) -> Iterator[str]:
        """The ids of deferred messages with a recipient at ``site``."""
        end = b"@" + site.lower().encode("utf-8", "replace")
        for message in self._store.listing():
            if message.state == DEFERRED and any(
                recipient.address.lower().endswith(end) for recipient in message.recipients
            ):
                yield message.queue_id

    def _flush(self, queue_ids: Sequence[str] | None, answer: Any) -> None:
        def done(count: int) -> None:
            answer({"ok": True, "count": count})

        def failed(failure: Failure) -> None:
            answer({"ok": False, "error": failure.getErrorMessage()})

        self._manager.flush(queue_ids).addCallbacks(done, failed)
