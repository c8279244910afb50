"""Unlisted addresses where transport_maps has a say."""

from __future__ import annotations

from typing import Any

import pytest
from policy_support import BASE, OPEN, Bench

from mtad.config.parameters import Parameters
from mtad.deliver.route import Router
from mtad.rewrite.classes import AddressClasses

MAPS = (
    "inline:{{none@local.example=error:5.1.1 no such}, {shut.example=error:closed}, "
    "{late.example=retry:4.3.2 later}, {known@local.example=smtp:[192.0.2.1]}, {sub.local.example=error:}}"
)


def bench(**settings: str) -> Bench:
    settings = {"transport_maps": MAPS, "smtpd_relay_restrictions": OPEN, **settings}
    p = Parameters.from_mapping({**BASE, **settings})
    route: Any = Router(p, AddressClasses(p, own=())).resolve
    return Bench(route=route, **settings)


@pytest.mark.parametrize(
    ("recipient", "reply"),
    [
        ("known@local.example", None),
        ("other@local.example", "550 5.1.1 <other@local.example>: Recipient address rejected: "
         "User unknown in local recipient table"),
        ("none@local.example", "550 5.1.1 <none@local.example>: Recipient address rejected: no such"),
        ("x@shut.example", "550 5.1.1 <x@shut.example>: Recipient address rejected: closed"),
        ("x@late.example", "450 4.3.2 <x@late.example>: Recipient address rejected: later"),
        ("x@remote.example", None),
    ],
)  # fmt: skip
def test_recipients(recipient: str, reply: str | None) -> None:
    assert bench().rcpt(recipient) == reply


def test_senders() -> None:
    there = bench(smtpd_reject_unlisted_sender="yes")
    assert there.rcpt("known@local.example", sender="x@shut.example") == (
        "550 5.1.0 <x@shut.example>: Sender address rejected: closed"
    )


def test_no_maps_no_question() -> None:
    async def route(sender: bytes, address: bytes) -> Any:
        raise AssertionError("asked")

    there = Bench(route=route, smtpd_relay_restrictions=OPEN)
    assert there.rcpt("known@local.example") is None
    assert not there.evaluator.asks_routes
    assert bench().evaluator.asks_routes
