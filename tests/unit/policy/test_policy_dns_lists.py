"""Lists in the DNS: patterns, reasons, what is asked again and what isn't."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_support import OPEN, Bench
from zone_resolver import ZoneResolver

from mtad.policy.reply_pattern import matches, parse
from mtad.policy.trace import Match, Step

ZONE = """
9.2.0.192.bl.example    A   127.0.0.2
9.2.0.192.bl.example    TXT "one string" ", another"
9.2.0.192.bl.example    TXT "a second text"
9.2.0.192.long.example  A   127.0.0.2
{long}
9.2.0.192.down.example  SERVFAIL
sender.example.rhs.example A 127.0.0.2
""".replace("{long}", "".join(f'9.2.0.192.long.example TXT "{"x" * 97}{n}"\n' for n in range(8)))


def bench(**settings: str) -> tuple[Bench, ZoneResolver]:
    resolver = ZoneResolver(ZONE)
    settings = {"smtpd_relay_restrictions": OPEN, **settings}
    return Bench(resolver=resolver, **settings), resolver


def test_all_strings_of_a_text_count() -> None:
    """Postfix does so since 3.11; before, the first string of each record."""
    there, _ = bench(smtpd_client_restrictions="reject_rbl_client bl.example")
    assert there.rcpt() == (
        "554 5.7.1 Service unavailable; Client host [192.0.2.9] blocked using bl.example; "
        "one string, another / a second text"
    )


def test_the_reason_is_bounded() -> None:
    there, _ = bench(
        smtpd_client_restrictions="reject_rbl_client long.example", default_rbl_reply="554 $rbl_txt"
    )
    reply = there.rcpt()
    assert reply is not None
    text = reply.removeprefix("554 5.7.1 ")
    assert len(text) == 500
    assert text.count(" / ") == 4


def test_one_question_a_session() -> None:
    there, resolver = bench(
        smtpd_client_restrictions="reject_rbl_client none.example, reject_rbl_client down.example",
        smtpd_sender_restrictions="reject_rbl_client none.example=127.0.0.2",
    )
    there.rcpt("a@local.example")
    asked = list(resolver.queries)
    assert asked == [("9.2.0.192.none.example", "A"), ("9.2.0.192.down.example", "A")]
    there.rcpt("b@local.example")
    assert resolver.queries == asked
    assert sum("RBL lookup error" in line for line in there.log) == 1


def test_many_domains_are_not_all_remembered() -> None:
    there, _ = bench(smtpd_recipient_restrictions="reject_rhsbl_recipient rhs.example")
    for number in range(300):
        there.rcpt(f"r@d{number}.example")
    assert len(there.request.listings) <= 100


def test_the_trace_has_what_was_found() -> None:
    there, _ = bench(smtpd_client_restrictions="reject_rbl_client bl.example=127.0.0.[1..3]")
    steps: list[Step] = []
    there.request.trace = steps.append
    there.rcpt()
    assert steps[0].restriction == "reject_rbl_client"
    assert steps[0].arguments == ("bl.example=127.0.0.[1..3]",)
    assert steps[0].matches == (Match("dns", b"9.2.0.192.bl.example A", b"127.0.0.2"),)


def test_a_broken_pattern_is_told_at_start() -> None:
    there, _ = bench(smtpd_client_restrictions="reject_rbl_client bl.example=127.0.0")
    assert any('RBL reply error: need "." at "127.0.0><"' in str(text) for text in there.evaluator.warnings)
    assert there.rcpt() == "451 4.3.5 Server configuration error"


def test_without_a_list() -> None:
    there, _ = bench(smtpd_client_restrictions="reject_rbl_client")
    assert there.rcpt("known@local.example") is None
    assert there.log == ["warning: restriction reject_rbl_client requires domain name argument"]


def test_without_a_resolver() -> None:
    there = Bench(smtpd_client_restrictions="reject_rbl_client bl.example", smtpd_relay_restrictions=OPEN)
    assert there.rcpt() == "451 4.3.5 Server configuration error"


def test_a_client_without_address() -> None:
    there, resolver = bench(smtpd_client_restrictions="reject_rbl_client bl.example")
    there.request.client_address = "unknown"
    assert there.rcpt("known@local.example") is None
    assert resolver.queries == [("unknown.bl.example", "A")]


def test_a_domain_by_international_name() -> None:
    resolver = ZoneResolver("xn--bcher-kva.example.rhs.example A 127.0.0.2")
    there = Bench(
        resolver=resolver,
        smtpd_relay_restrictions=OPEN,
        smtpd_sender_restrictions="reject_rhsbl_sender rhs.example",
    )
    reply = there.rcpt(sender="x@bücher.example")
    assert reply is not None and reply.startswith("554 5.7.1 Service unavailable; Sender address [x@b")


octet = st.integers(0, 255)
fields = st.lists(st.tuples(octet, octet).map(sorted), min_size=1, max_size=3)


@given(st.lists(fields, min_size=4, max_size=4), st.lists(octet, min_size=4, max_size=4))
def test_patterns_mean_what_they_say(pattern: list[list[list[int]]], address: list[int]) -> None:
    text = ".".join("[" + ";".join(f"{low}..{high}" for low, high in field) + "]" for field in pattern)
    wanted = all(
        any(low <= number <= high for low, high in field)
        for number, field in zip(address, pattern, strict=True)
    )
    assert matches(parse(text), ".".join(map(str, address))) is wanted
    assert matches(parse(f"[{text}]"), ".".join(map(str, address))) is wanted


@given(st.text("0123456789.[];", max_size=20))
def test_patterns_are_right_or_refused(text: str) -> None:
    try:
        fields = parse(text)
    except ValueError:
        return
    assert len(fields) == 4 and all(field and max(field) <= 255 for field in fields)


@pytest.mark.parametrize(
    "text", ["", "1.2.3", "1.2.3.4.5", "1.2.3.256", "1.2.3.[5..4]", "[1.2.3.4", "1.2.3.[]"]
)
def test_broken_patterns(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)
