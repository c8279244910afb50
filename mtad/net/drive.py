"""Run a coroutine by hand: no Deferred unless it really waits.

Twisted's counterpart is ``ensureDeferred``, which costs several times as much for the common case of a
coroutine that never waits.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


def drive(
    coroutine: Coroutine[Any, Any, T], done: Callable[[T], None], failed: Callable[[Failure], None]
) -> bool:
    """Run ``coroutine`` until it ends or waits.

    When it ends, now or later, ``done(result)`` or ``failed(failure)`` is called.  Returns True when it
    has already ended.  It may await Deferreds only.
    """
    return _advance(coroutine, None, done, failed)


def _advance(
    coroutine: Coroutine[Any, Any, T],
    problem: BaseException | None,
    done: Callable[[T], None],
    failed: Callable[[Failure], None],
) -> bool:
    waiting: Any
    try:
        waiting = coroutine.send(None) if problem is None else coroutine.throw(problem)
    except StopIteration as end:
        done(end.value)
        return True
    except Exception:
        failed(Failure())
        return True

    def resume(result: object) -> None:
        # a good result is still on the Deferred, where the await inside the coroutine finds it
        _advance(coroutine, result.value if isinstance(result, Failure) else None, done, failed)

    deferred: Deferred[Any] = waiting
    deferred.addBoth(resume)
    return False
