"""Coroutines run by hand: at once when nothing waits, later when something does."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from mtad.net.drive import drive


def run(coroutine) -> tuple[bool, list[object], list[Failure]]:
    results: list[object] = []
    failures: list[Failure] = []
    return drive(coroutine, results.append, failures.append), results, failures


def test_what_never_waits_ends_at_once() -> None:
    async def work() -> int:
        return 1 + await succeed(1)

    assert run(work()) == (True, [2], [])


def test_what_waits_goes_on_with_the_result_or_the_error() -> None:
    first: Deferred[int] = Deferred()
    second: Deferred[int] = Deferred()

    async def work() -> tuple[str, int]:
        try:
            await first
        except ValueError as problem:
            return str(problem), await second
        return "", 0

    ended, results, failures = run(work())
    assert not ended
    first.errback(ValueError("no"))
    assert not results
    second.callback(5)
    assert results == [("no", 5)]
    assert not failures


def test_an_exception_is_reported() -> None:
    async def work() -> None:
        await succeed(1)
        raise KeyError("x")

    ended, results, failures = run(work())
    assert ended and not results
    assert failures[0].check(KeyError)
