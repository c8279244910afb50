"""What the trace of an evaluation tells."""

from __future__ import annotations

import pytest
from policy_support import Bench

from mtad.policy.trace import Match, Step


def trace(bench: Bench, recipient: str = "r@local.example") -> list[Step]:
    steps: list[Step] = []
    bench.request.trace = steps.append
    bench.rcpt(recipient)
    return steps


def test_each_restriction_in_its_list() -> None:
    table = "inline:{{example.org=mine}}"
    bench = Bench(
        smtpd_restriction_classes="mine",
        mine="warn_if_reject reject, check_client_access cidr:{{192.0.2.0/24 DEFER_IF_PERMIT so}}",
        smtpd_sender_restrictions=f"permit_mynetworks, check_sender_access {table}",
    )
    steps = trace(bench)
    shown = [(s.depth, s.place, s.restriction, s.arguments, s.status) for s in steps]
    assert shown == [
        (1, "smtpd_sender_restrictions", "permit_mynetworks", (), 0),
        (3, "mine", "reject", (), 0),
        (3, "mine", "check_client_access", ("cidr:{{192.0.2.0/24 DEFER_IF_PERMIT so}}",), 0),
        (2, "", "mine", (), 0),
        (1, "smtpd_sender_restrictions", "check_sender_access", (table,), 0),
        (1, "smtpd_relay_restrictions", "reject_unauth_destination", (), 0),
    ]
    assert steps[2].matches == (
        Match("cidr:{{192.0.2.0/24 DEFER_IF_PERMIT so}}", b"192.0.2.9", b"DEFER_IF_PERMIT so"),
    )
    assert steps[2].held is not None and steps[2].held.text.endswith(b"so")
    assert steps[3].matches == ()
    assert steps[4].matches == (Match(table, b"example.org", b"mine"),)


def test_refusals_and_what_they_found() -> None:
    bench = Bench(smtpd_relay_restrictions="check_recipient_access inline:{{known@=REJECT you}}, reject")
    (step,) = trace(bench, "known+more@local.example")
    assert str(step.reply) == "554 5.7.1 <known+more@local.example>: Recipient address rejected: you"
    assert step.matches == (Match("inline:{{known@=REJECT you}}", b"known@", b"REJECT you"),)


@pytest.mark.parametrize(("user", "found"), [("known", True), ("nobody", False)])
def test_users(user: str, found: bool) -> None:
    steps = trace(Bench(), f"{user}@local.example")
    assert [s.place for s in steps] == ["smtpd_relay_restrictions", "smtpd_reject_unlisted_recipient"]
    assert [m.key for m in steps[1].matches] == ([b"known"] if found else [])
    assert (steps[1].reply is None) is found


def test_errors() -> None:
    (step,) = trace(Bench(smtpd_relay_restrictions="no_such_thing, reject"))
    assert (step.restriction, step.status) == ("no_such_thing", 2)
    assert str(step.reply) == "451 4.3.5 Server configuration error"
    (step,) = trace(Bench(smtpd_relay_restrictions="check_client_access fail:x, reject"))
    assert str(step.reply).startswith("451 4.3.5")
    (step,) = trace(
        Bench(
            smtpd_sender_login_maps="fail:x",
            smtpd_relay_restrictions="reject_known_sender_login_mismatch, reject",
        )
    )
    assert str(step.reply) == "451 4.3.0 <s@example.org>: Temporary lookup failure"
