"""What the tests of authentication share besides fixtures."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor

from mtad.auth.authenticator import Authenticator, AuthSession

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
