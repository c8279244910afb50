"""Probes go where mail would go: their address is mapped first."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mtad.deliver.job import Job, Result
from mtad.deliver.probe import Prober
from mtad.deliver.route import Route
from mtad.errors import MtadError
from mtad.maillog import ListSink, MailLog
from mtad.queue.message import Message, Outcome, Recipient


class World:
    """A prober whose only transport takes everything, and whose addresses are mapped to ``to``."""

    def __init__(self, to: list[bytes] | None) -> None:
        self.to = to
        self.tried: list[bytes] = []
        transports = {"smtp": SimpleNamespace(deliver=self._deliver)}
        self.prober = Prober(
            cast(Any, self),
            cast(Any, transports),
            lambda: "ID",
            lambda: 1.0,
            MailLog(ListSink(), "x"),
            self._clean,
        )

    async def sort(self, message: Message, recipients: list[Recipient], flushed: bool) -> list[Any]:
        return [SimpleNamespace(route=Route("smtp", "x.example"))]

    async def _deliver(self, job: Job) -> Result:
        self.tried += [one.address for one in job.recipients]
        return Result([Outcome(job.recipients[0], "sent", "2.1.5", "Ok")])

    async def _clean(self, message: Message, source: str) -> bool:
        assert source == "verify"
        if self.to is None:
            raise MtadError("no table")
        message.recipients = [Recipient(each, b"a@x.example") for each in self.to]
        return True


@pytest.mark.parametrize(
    ("to", "tried", "status", "reason"),
    [
        ([b"b@y.example"], [b"b@y.example"], "sent", "Ok"),
        ([b"b@y.example", b"c@y.example"], [], "sent", "aliased to multiple recipients"),
        (None, [], "deferred", "the address can't be mapped now"),
    ],
)
def test_addresses_are_mapped(to: list[bytes] | None, tried: list[bytes], status: str, reason: str) -> None:
    world = World(to)
    outcome = asyncio.run(world.prober.probe(b"me@x.example", b"a@x.example"))
    assert (world.tried, outcome.status, outcome.reason) == (tried, status, reason)
