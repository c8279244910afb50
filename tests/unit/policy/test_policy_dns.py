"""Restrictions that ask the DNS, where the oracle can't go: limits, traces, odd answers."""

from __future__ import annotations

import pytest
from policy_support import OPEN, Bench
from zone_resolver import ZoneResolver

from mtad.policy.trace import Match, Step

ZONE = "\n".join(
    (
        "good.example MX 10 mx.good.example",
        "mx.good.example A 192.0.2.25",
        "failing.example SERVFAIL",
        "crowd.example MX 10 crowd.example",
        *(f"crowd.example A 192.0.2.{number}" for number in range(1, 60)),
        *(f"crowd.example A 198.51.100.{number}" for number in range(1, 60)),
        *(f"flock.example MX {number} m{number}.example" for number in range(3)),
        *(f"m{number}.example A 203.0.{number}.{host}" for number in range(3) for host in range(1, 41)),
        "odd.example MX 10 bad!name.example",
        "a.b.c.example A 192.0.2.1",
        "c.example NS ns.c.example",
        "ns.c.example A 192.0.2.53",
    )
)


def bench(**settings: str) -> tuple[Bench, ZoneResolver]:
    resolver = ZoneResolver(ZONE)
    return Bench(resolver=resolver, **{"smtpd_relay_restrictions": OPEN, **settings}), resolver


def test_most_addresses_of_servers_that_are_looked_at() -> None:
    there, _ = bench(
        smtpd_recipient_restrictions="check_recipient_mx_access inline:{{203.0.2.40=REJECT}}",
        smtpd_reject_unlisted_recipient="no",
    )
    assert there.rcpt("r@flock.example") is None
    assert there.log == [
        "warning: check_server_access: MX server address count limit (100) exceeded "
        "for Recipient address r@flock.example -- ignoring the remainder"
    ]


def test_name_servers_of_a_parent_domain() -> None:
    there, resolver = bench(
        smtpd_recipient_restrictions="check_recipient_ns_access inline:{{192.0.2.53=REJECT}}"
    )
    assert there.rcpt("r@a.b.c.example") == (
        "554 5.7.1 <r@a.b.c.example>: Recipient address rejected: Access denied"
    )
    asked = [name for name, type_ in resolver.queries if type_ == "NS"]
    assert asked == ["a.b.c.example", "b.c.example", "c.example"]


def test_a_malformed_answer() -> None:
    there, _ = bench(smtpd_recipient_restrictions="reject_unknown_recipient_domain")
    assert there.rcpt("r@odd.example") == (
        "450 4.1.2 <r@odd.example>: Recipient address rejected: Malformed DNS server reply"
    )
    assert there.log[0].startswith(
        "warning: malformed domain name in resource data of MX record for odd.example"
    )


def test_the_trace_has_servers_and_failures() -> None:
    there, _ = bench(
        smtpd_recipient_restrictions="check_recipient_mx_access inline:{{192.0.2.25=REJECT}}",
        smtpd_sender_restrictions="reject_unknown_sender_domain",
    )
    steps: list[Step] = []
    there.request.trace = steps.append
    there.rcpt("r@good.example", sender="s@failing.example")
    assert steps[0].held is not None and steps[0].held.text.endswith(b"Domain not found")
    assert steps[0].matches[0].source == "dns" and b"try again" in steps[0].matches[0].value
    assert steps[-1].matches == (
        Match("dns", b"good.example MX", b"mx.good.example"),
        Match("dns", b"mx.good.example A, AAAA", b"192.0.2.25"),
        Match("inline:{{192.0.2.25=REJECT}}", b"192.0.2.25", b"REJECT"),
    )


def test_a_name_that_is_looked_at_for_its_own_addresses() -> None:
    there, resolver = bench(smtpd_helo_restrictions="check_helo_a_access inline:{{192.0.2.25=REJECT}}")
    there.request.helo = b"mx.good.example"
    assert there.rcpt() == "554 5.7.1 <mx.good.example>: Helo command rejected: Access denied"
    assert {type_ for _, type_ in resolver.queries} <= {"A", "AAAA"}


@pytest.mark.parametrize("action", ["defer", "Defer", "defer_if_permit", "DEFER_IF_PERMIT"])
def test_tempfail_actions(action: str) -> None:
    there, _ = bench(
        smtpd_sender_restrictions="reject_unknown_sender_domain",
        unknown_address_tempfail_action=action,
        smtpd_relay_restrictions="reject",
    )
    reply = there.rcpt(sender="s@failing.example")
    assert reply is not None and reply.startswith("450 4.1.8" if action.lower() == "defer" else "554 5.7.1")
