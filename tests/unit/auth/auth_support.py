"""What the tests of authentication share besides fixtures."""

from __future__ import annotations

import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Coroutine
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor

from mtad.auth.authenticator import Authenticator, AuthSession, Challenge, Outcome
from mtad.sasl.client import Client

SESSION = AuthSession("client.test", "192.0.2.1", "4000", "192.0.2.2", "587", False)
TLS_SESSION = AuthSession("client.test", "192.0.2.1", "4000", "192.0.2.2", "587", True)

Build = Callable[..., Authenticator]


def at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that must not wait."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


def converse(authenticator: Authenticator, mine: Client, session: AuthSession = SESSION) -> Outcome:
    """How an exchange ends in which the client ``mine`` answers."""
    exchange = authenticator.begin(mine.name, session)
    initial = mine.initial()
    outcome = at_once(exchange.step(None if initial is None else b64encode(initial)))
    while isinstance(outcome, Challenge):
        outcome = at_once(exchange.step(b64encode(mine.step(b64decode(outcome.data)))))
    return cast(Outcome, outcome)


def turn(reactor: EPollReactor, *deferreds: Deferred[Any], seconds: float = 10.0) -> list[Any]:
    """Turn the reactor until all have fired; their results."""
    results: list[Any] = []
    for each in deferreds:
        each.addBoth(results.append)
    deadline = time.monotonic() + seconds
    while len(results) < len(deferreds):
        assert time.monotonic() < deadline, "it takes too long"
        reactor.iterate(0.05)
    return results
