"""What keeps a service from starting, what is only warned of, and that no list ever ends badly."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_support import ALL_ACTIONS, BASE, OPEN, Bench, no_sleep

from mtad.config.parameters import Facts, Parameters
from mtad.errors import ConfigError
from mtad.maillog import ListSink, MailLog
from mtad.policy import registry
from mtad.policy.evaluator import Evaluator
from mtad.policy.report import line, reject_line
from mtad.policy.request import Request
from mtad.rewrite.address import Rewriter
from mtad.rewrite.classes import AddressClasses
from mtad.wire.reply import Reply

MISSING = (
    "in parameter smtpd_relay_restrictions or smtpd_recipient_restrictions, specify at least one working "
    "instance of: reject_unauth_destination, defer_unauth_destination, reject, defer, defer_if_permit or "
    "check_relay_domains"
)


@pytest.mark.parametrize(
    ("relay", "recipient", "good"),
    [
        ("", "", False),
        ("permit_mynetworks", "permit_sasl_authenticated", False),
        ("permit, reject", "", False),
        ("warn_if_reject reject", "", False),
        ("warn_if_reject reject, Defer", "", True),
        ("", "reject_unauth_destination", True),
        ("permit_mynetworks, defer_if_permit", "permit", True),
        ("inner", "", True),
        ("hollow", "", False),
        ("loop", "", False),
    ],
)
def test_something_must_refuse(relay: str, recipient: str, good: bool) -> None:
    lists = {
        "smtpd_relay_restrictions": relay,
        "smtpd_recipient_restrictions": recipient,
        "smtpd_restriction_classes": "inner, hollow, loop",
        "inner": "permit_mynetworks, reject",
        "hollow": "permit",
        "loop": "loop",
    }
    if good:
        Bench(**lists)
        return
    with pytest.raises(ConfigError) as caught:
        Bench(**lists)
    assert caught.value.reason == MISSING


def findings(**settings: str) -> tuple[list[ConfigError], list[str]]:
    p = Parameters.from_mapping({**BASE, **settings})
    evaluator = trial(p)
    return evaluator.errors, [str(warning) for warning in evaluator.warnings]


def trial(p: Parameters, sleep: Any = no_sleep) -> Evaluator:
    log, classes = MailLog(ListSink(), "x"), AddressClasses(p, own=())
    return Evaluator(p, log, Rewriter(p), classes, sleep=sleep, actions=ALL_ACTIONS, trial=True)


def test_every_name_is_in_one_place() -> None:
    names = [*registry.PLAIN, *registry.TABLES, *registry.REMOVED]
    assert len(names) == len(set(names))
    assert all(name == name.lower() for name in names)


def test_findings() -> None:
    errors, warnings = findings(
        smtpd_client_restrictions="no_such, check_helo_access nosuch:x, check_helo_access texthash:/none",
        smtpd_data_restrictions="inline:{{a=b}}, check_client_access inline:{{a=b}}",
        smtpd_restriction_classes="gone",
        local_recipient_maps="nosuch:y",
    )
    assert [(error.parameter, error.reason) for error in errors] == [
        ("smtpd_restriction_classes", "restriction class `gone' needs a definition"),
        ("smtpd_client_restrictions", "unsupported dictionary type: nosuch"),
    ]
    assert (
        len([text for text in warnings if "smtpd_client_restrictions: unknown smtpd restriction" in text])
        == 1
    )
    assert len([text for text in warnings if "smtpd_client_restrictions: open" in text]) == 1
    assert (
        len([text for text in warnings if "smtpd_data_restrictions: no table can stand alone" in text]) == 1
    )
    assert len([text for text in warnings if "local_recipient_maps" in text]) == 1
    assert len(warnings) == 4


def test_no_findings_on_a_good_configuration() -> None:
    assert findings() == ([], [])


def test_sleep_needs_a_clock() -> None:
    p = Parameters.from_mapping({**BASE, "smtpd_client_restrictions": "sleep 1"})
    assert len(trial(p, sleep=None).errors) == 1


def test_bare_table_at_data() -> None:
    bench = Bench(smtpd_data_restrictions="inline:{{a=b}}")
    assert bench.ask(bench.evaluator.data(bench.request)) == "451 4.3.5 Server configuration error"
    assert bench.log[0] == (
        "warning: specify one of (check_client_access, check_reverse_client_hostname_access, "
        "check_helo_access, check_sender_access, check_recipient_access, check_etrn_access) "
        'before Data command restriction "inline:{{a=b}}"'
    )


def test_report_lines() -> None:
    request = Request("c", "1.2.3.4", protocol="SMTP", helo=b"h\r\nx")
    reply = Reply(552, b"Message size exceeds fixed limit", b"5.3.4")
    assert reject_line(request, "MAIL", reply) == (
        "NOQUEUE: reject: MAIL from c[1.2.3.4]: 552 5.3.4 Message size exceeds fixed limit; "
        "proto=SMTP helo=<h??x>"
    )
    assert line(request, "hold", "text").startswith("NOQUEUE: hold: CONNECT from c[1.2.3.4]: text; ")


WORDS = st.sampled_from(
    ["permit", "reject", "defer", "warn_if_reject", "defer_if_permit", "defer_if_reject", "one", "nonsense",
     "reject_unauth_destination", "permit_mynetworks", "reject_non_fqdn_sender", "sleep 1", "sleep",
     "check_sender_access inline:{{a@b.c=one}}", "check_sender_access inline:{{a@b.c=defer_if_permit}}"]
)  # fmt: skip
LISTS = st.lists(WORDS, max_size=8).map(", ".join)


@settings(max_examples=150, deadline=None)
@given(LISTS, LISTS, LISTS, st.booleans())
def test_any_list(client: str, recipient: str, one: str, soft: bool) -> None:
    bench = Bench(
        smtpd_client_restrictions=client,
        smtpd_recipient_restrictions=recipient,
        smtpd_relay_restrictions=OPEN,
        smtpd_restriction_classes="one",
        one=one or "permit",
        soft_bounce="yes" if soft else "no",
    ).sender("a@b.c")
    reply = bench.rcpt("known@local.example")
    if reply is None:
        return
    code, dsn, _ = reply.split(" ", 2)
    assert code[0] == dsn[0]
    assert 400 <= int(code) < (500 if soft else 600)
    assert reply.isprintable()
    assert any(f": reject: RCPT from c.example.net[192.0.2.9]: {reply};" in said for said in bench.log)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from(["reject", "defer", "reject_unauth_destination", "permit_mynetworks"]), max_size=6
    )
)
def test_warned_lists_never_refuse(words: list[str]) -> None:
    text = ", ".join(f"warn_if_reject {word}" for word in words)
    assert Bench(smtpd_recipient_restrictions=text).rcpt("known@local.example") is None


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="REJCTOKDUNerm_if 45.17:,{}@-\té\x01", max_size=30))
def test_any_access_result(value: str) -> None:
    """Whatever a table says, the answer is none or a good reply."""
    bench = Bench(smtpd_sender_restrictions="check_sender_access static:x").sender("a@b.c")
    rule = bench.evaluator._setup.sender[0]
    assert rule.run is not None
    table = rule.run.__closure__[0].cell_contents.maps.tables[0]  # type: ignore[attr-defined]

    async def lookup(key: bytes) -> bytes:
        return value.encode()

    object.__setattr__(table, "lookup", lookup)
    reply = bench.rcpt("known@local.example")
    assert reply is None or (reply.isprintable() and len(reply) <= 510)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="abcrejt_ifwn:{},= !/\t", max_size=40))
def test_any_text_as_a_list(text: str) -> None:
    findings(smtpd_client_restrictions=text)


@pytest.mark.parametrize("level", ["1", "2"])
def test_notes_on_the_defaults_of_level_1(level: str) -> None:
    there = Bench(
        compatibility_level=level,
        mynetworks_style="subnet",
        smtpd_relay_restrictions="reject_unauth_destination",
        smtpd_recipient_restrictions="permit_mynetworks",
    )
    old = "using backwards-compatible default setting"
    assert there.rcpt("x@sub.local.example") == (
        None if level == "1" else "554 5.7.1 <x@sub.local.example>: Relay access denied"
    )
    notes = [line for line in there.log if line.startswith(old)]
    assert notes == (
        [
            f'{old} relay_domains=$mydestination to accept mail for domain "sub.local.example"',
            f'{old} relay_domains=$mydestination to accept mail for address "x@sub.local.example"',
        ]
        if level == "1"
        else []
    )


@pytest.mark.parametrize(("level", "client", "noted"), [("1", "10.0.0.9", True), ("1", "127.0.0.1", False),
                                                       ("2", "10.0.0.9", False)])  # fmt: skip
def test_note_on_networks(level: str, client: str, noted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {key: value for key, value in BASE.items() if key != "mynetworks"}
    monkeypatch.setattr("policy_support.BASE", settings)
    facts = Facts(hostname="mx.example.com", mynetworks=lambda style: "10.0.0.0/8 127.0.0.0/8")
    there = Bench(
        facts=facts, compatibility_level=level, smtpd_relay_restrictions="permit_mynetworks, reject"
    )
    there.request.client_address, there.request.client_name = client, "in.example.com"
    assert there.rcpt("known@local.example") is None
    wanted = f'mynetworks_style=subnet to permit request from client "in.example.com[{client}]"'
    assert any(wanted in line for line in there.log) is noted
