"""The smtpd side of address verification: asks the queue manager's verify service.

:class:`VerifyClient` has one connection for all sessions of a process, with its questions in order; it is
made anew where it broke.  :meth:`VerifyClient.query` raises :class:`~mtad.errors.TableError` when nobody
answers.

Postfix counterpart: ``verify_clnt(3)``.
"""

from __future__ import annotations

import base64
import json
from collections import deque
from typing import Any

from twisted.internet.defer import Deferred
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from mtad.config.endpoint import Endpoint
from mtad.errors import TableError
from mtad.net.connect import connect
from mtad.policy.verify import Known

#: Seconds to wait for an answer, which is given at once.
_PATIENCE = 30


class _Link(LineOnlyReceiver):
    transport: Any
    delimiter = b"\n"
    MAX_LENGTH = 16384

    def __init__(self) -> None:
        self.waiting: deque[Deferred[bytes]] = deque()
        self.gone = False

    def ask(self, line: bytes) -> Deferred[bytes]:
        answer: Deferred[bytes] = Deferred()
        self.waiting.append(answer)
        self.transport.write(line + b"\n")
        return answer

    def lineReceived(self, line: bytes) -> None:
        if self.waiting:
            self.waiting.popleft().callback(line)

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.gone = True
        while self.waiting:
            self.waiting.popleft().callback(b"")


class VerifyClient:
    """See the module.  ``path`` is the socket's."""

    def __init__(self, path: str, reactor: Any) -> None:
        self._path = path
        self._reactor = reactor
        self._link: _Link | None = None

    async def query(self, address: bytes) -> tuple[Known, str]:
        """What is known of ``address``, and the words."""
        line = base64.b64encode(address)
        for _ in range(2):  # a server that has just been replaced hangs up
            try:
                link = await self._connected()
            except OSError:
                break
            question = link.ask(line)
            question.addTimeout(_PATIENCE, self._reactor, lambda _result, _timeout: b"")
            answer = await question
            if answer:
                status, text = json.loads(answer)
                return Known(status), str(text)
            self._link = None
            link.transport.loseConnection()
        raise TableError("the verify service does not answer")

    async def _connected(self) -> _Link:
        if self._link is None or self._link.gone:
            self._link = await connect(self._reactor, Endpoint(self._path), _Link(), _PATIENCE)
        return self._link

    def close(self) -> None:
        """Hang up."""
        if self._link is not None and not self._link.gone:
            self._link.transport.loseConnection()
