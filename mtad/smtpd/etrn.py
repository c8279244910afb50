"""ETRN: has the queue manager try what waits for a domain of ``fast_flush_domains``.

:meth:`Etrn.queue` gives the reply; it asks over the control socket and raises nothing.

RFC 1985.  Postfix counterpart: ``flush_clnt(3)``, ``flush(8)``, ETRN_README.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from mtad.config.endpoint import Endpoint
from mtad.config.parameters import Parameters
from mtad.errors import MtadError
from mtad.maillog import MailLog
from mtad.net.connect import connect
from mtad.tables import DomainList
from mtad.wire.reply import Reply

_PATIENCE = 60
_ANSWER_LIMIT = 4096
_NOT_NOW = Reply(458, b"Unable to queue messages")


class _Question(Protocol):
    transport: Any

    def __init__(self, line: bytes) -> None:
        self._line = line
        self._answer = b""
        self.done: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(self._line)

    def dataReceived(self, data: bytes) -> None:
        self._answer = (self._answer + data)[:_ANSWER_LIMIT]
        if b"\n" in self._answer:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.done.called:
            self.done.callback(self._answer)


class Etrn:
    """See the module.  ``path`` is the control socket's."""

    def __init__(self, p: Parameters, log: MailLog, path: str, reactor: Any) -> None:
        name = "fast_flush_domains"
        parents = name in p.words("parent_domain_matches_subdomains")
        self._domains = DomainList(name, p[name], p.directory, parent_matches=parents, warn=log.warning)
        self._log = log
        self._path = path
        self._reactor = reactor

    async def serves(self, domain: bytes) -> bool:
        """Whether mail for ``domain`` may be asked for."""
        try:
            return await self._domains.matches(domain)
        except MtadError as error:
            self._log.warning(str(error))
            return False

    async def queue(self, domain: bytes) -> Reply:
        """Have what waits for ``domain`` tried."""
        request = {"command": "flush-site", "site": domain.decode("utf-8", "replace").lower()}
        question = _Question(json.dumps(request).encode() + b"\n")
        try:
            await connect(self._reactor, Endpoint(self._path), question, _PATIENCE)
            answer = question.done.addTimeout(_PATIENCE, self._reactor, lambda _result, _timeout: b"")
            if json.loads(await answer).get("ok") is True:
                return Reply(250, b"Queuing started")
        except (OSError, ValueError, AttributeError):
            pass
        self._log.warning("unable to talk to fast flush service")
        return _NOT_NOW
