"""Can mail be delivered to an address?  Probes, and what was found by them.

:class:`Verifier` answers at once from its cache, and has an address that is not known well enough probed: a
delivery by the real transports that ends before there is content.  A probe is never in the queue; one that
a crash cuts short is made again.  :class:`VerifyServer` answers the smtpd workers over a UNIX socket: a line
with the address in base64, and a line of JSON back, ``[status, text]``.

The cache is a SQLite file beside the queue, named for no table type of Postfix's; ``address_verify_map``
empty keeps it in memory.  An error of the cache is an answer of its own; nothing is raised.

Postfix counterpart: ``verify(8)``, ``verify_clnt(3)``.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import sqlite3
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from mtad.config.parameters import Parameters
from mtad.maillog import MailLog, printable
from mtad.net.drive import drive
from mtad.policy.verify import Known
from mtad.queue.message import Outcome
from mtad.rewrite.address import Rewriter
from mtad.rewrite.probe_sender import ProbeSender

_STATUS = {"sent": Known.OK, "deferred": Known.DEFER, "bounced": Known.BOUNCE}
#: Seconds after which a probe that gave no answer is lost.
_PROBE_LIFE = 1000
_IN_PROGRESS = "Address verification in progress"
_UNAVAILABLE = "Address verification status unavailable"
_SCHEMA = """CREATE TABLE IF NOT EXISTS address (
    address BLOB PRIMARY KEY, status INTEGER NOT NULL, probed REAL NOT NULL, updated REAL NOT NULL,
    reason TEXT NOT NULL) WITHOUT ROWID"""

#: Makes a delivery attempt without content; the outcome.
Probe = Callable[[bytes, bytes], Coroutine[Any, Any, Outcome]]


def verify_socket(p: Parameters) -> str:
    """Where the server listens."""
    return os.path.join(p["mtad_queue_directory"], "verify")


class Verifier:
    """See the module.  ``probe`` is given a sender and an address; ``clock`` tells the time."""

    def __init__(self, p: Parameters, log: MailLog, probe: Probe, clock: Callable[[], float]) -> None:
        self._log = log
        self._probe = probe
        self._clock = clock
        self._sender = ProbeSender(p, Rewriter(p))
        self._path = ":memory:"
        if p["address_verify_map"]:
            self._path = os.path.join(p["mtad_queue_directory"], "verify.db")
        self._keeps_negative = p.flag("address_verify_negative_cache")
        kinds = ("positive", "negative")
        self._expire = [p.seconds(f"address_verify_{kind}_expire_time") for kind in kinds]
        self._refresh = [p.seconds(f"address_verify_{kind}_refresh_time") for kind in kinds]
        self._cleanup = p.seconds("address_verify_cache_cleanup_interval")
        self._limit = p.number("address_verify_pending_request_limit")
        self._pending: set[bytes] = set()
        self._db: sqlite3.Connection | None = None
        self._cleaned = 0.0

    def query(self, address: bytes) -> tuple[Known, str]:
        """What is known; a probe is begun where it is not enough."""
        try:
            return self._query(address)
        except sqlite3.Error as error:
            self._log.warning(f"{self._path}: {error}")
            self.close()
            return Known.DEFER, _UNAVAILABLE

    def close(self) -> None:
        """Let go of the cache."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _query(self, address: bytes) -> tuple[Known, str]:
        now = self._clock()
        status, probed, updated, text = self._lookup(address) or (Known.TODO, 0.0, 0.0, _IN_PROGRESS)
        kind = status is not Known.OK
        if now - probed > _PROBE_LIFE:
            if updated + self._expire[kind] < now:
                if probed and not self._keeps_negative:
                    self._write("DELETE FROM address WHERE address = ?", (address,))
                status, updated, text = Known.TODO, 0.0, _IN_PROGRESS
            if updated + self._refresh[kind] < now:
                self._begin(address, status, updated, text)
        return status, text

    def _begin(self, address: bytes, status: Known, updated: float, text: str) -> None:
        """Have the address probed."""
        if address in self._pending or len(self._pending) >= self._limit:
            return
        if updated or self._keeps_negative:
            self._put(address, status, self._clock(), updated, text)
        self._pending.add(address)
        work = self._probe(self._sender.address(self._clock()), address)
        drive(work, partial(self._probed, address), partial(self._broken, address))

    def _probed(self, address: bytes, outcome: Outcome) -> None:
        self._pending.discard(address)
        status = _STATUS.get(outcome.status, Known.DEFER)
        try:
            known = self._lookup(address)
            # a failed probe is no reason to forget a good address before its time
            if status is Known.OK or known is None or known[0] is not Known.OK:
                self._put(address, status, 0.0, self._clock(), printable(outcome.reason))
        except sqlite3.Error as error:
            self._log.warning(f"{self._path}: {error}")
            self.close()

    def _broken(self, address: bytes, failure: Failure) -> None:
        self._pending.discard(address)
        self._log.error(printable(failure.getTraceback()))

    # -- the cache

    def _lookup(self, address: bytes) -> tuple[Known, float, float, str] | None:
        sql = "SELECT status, probed, updated, reason FROM address WHERE address = ?"
        found = self._open().execute(sql, (address,)).fetchone()
        return (Known(found[0]), *found[1:]) if found else None

    def _put(self, address: bytes, status: Known, probed: float, updated: float, text: str) -> None:
        row = (address, status, probed, updated, text[:1000])
        self._write("INSERT OR REPLACE INTO address VALUES (?, ?, ?, ?, ?)", row)
        now = self._clock()
        if self._cleanup and now - self._cleaned > self._cleanup:
            self._cleaned = now
            good, bad = (now - seconds for seconds in self._expire)
            sql = "DELETE FROM address WHERE max(probed, updated) < CASE status WHEN 0 THEN ? ELSE ? END"
            self._write(sql, (good, bad))

    def _write(self, sql: str, values: tuple[object, ...]) -> None:
        self._open().execute(sql, values)

    def _open(self) -> sqlite3.Connection:
        """The cache, made where it is missing.  It is no loss: nothing waits for the disk."""
        if self._db is None:
            db = sqlite3.connect(self._path, isolation_level=None, timeout=1.0)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = OFF")
            db.execute(_SCHEMA)
            self._db = db
        return self._db


class _Conversation(LineOnlyReceiver):
    transport: Any
    delimiter = b"\n"
    MAX_LENGTH = 4096

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier

    def lineReceived(self, line: bytes) -> None:
        try:
            address = base64.b64decode(line, validate=True)
        except binascii.Error:
            self.transport.loseConnection()
            return
        self.transport.write(json.dumps(self._verifier.query(address)).encode() + b"\n")


class VerifyServer(Factory):
    """Serves the socket."""

    noisy = False

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier

    def buildProtocol(self, addr: object) -> _Conversation:
        return _Conversation(self._verifier)
