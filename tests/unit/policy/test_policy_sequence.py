"""Which list runs when, and what one stage leaves for the next."""

from __future__ import annotations

import pytest
from policy_support import OPEN, Bench, drive

from mtad.config.parameters import Parameters
from mtad.maillog import ListSink, MailLog
from mtad.policy.evaluator import Evaluator
from mtad.policy.request import Request
from mtad.rewrite.address import Rewriter
from mtad.rewrite.classes import AddressClasses
from mtad.wire.address import from_text

REJECTED = "554 5.7.1 <{}>: {} rejected: Access denied"


@pytest.mark.parametrize(
    ("parameter", "name", "kind"),
    [
        ("smtpd_client_restrictions", "c.example.net[192.0.2.9]", "Client host"),
        ("smtpd_helo_restrictions", "c.example.net", "Helo command"),
        ("smtpd_sender_restrictions", "s@example.org", "Sender address"),
        ("smtpd_relay_restrictions", "r@local.example", "Recipient address"),
        ("smtpd_recipient_restrictions", "r@local.example", "Recipient address"),
    ],
)
def test_delayed_until_rcpt(parameter: str, name: str, kind: str) -> None:
    bench = Bench(**{parameter: "reject"}).sender("s@example.org")
    evaluator, request = bench.evaluator, bench.request
    assert bench.ask(evaluator.connect(request)) is None
    assert bench.ask(evaluator.helo(request)) is None
    assert bench.ask(evaluator.mail(request)) is None
    assert bench.rcpt() == REJECTED.format(name, kind)
    assert bench.log[0].startswith("NOQUEUE: reject: RCPT from ")
    assert bench.rcpt("postmaster") is None
    assert bench.rcpt("PostMaster") is None
    assert bench.rcpt("postmaster@local.example") is not None


def test_at_once_without_delay() -> None:
    settings = {f"smtpd_{stage}_restrictions": "reject" for stage in ("client", "helo", "sender")}
    bench = Bench(smtpd_delay_reject="no", **settings)
    evaluator, request = bench.evaluator, bench.request
    request.helo, request.protocol = b"", "SMTP"
    assert bench.ask(evaluator.connect(request)) == REJECTED.format("c.example.net[192.0.2.9]", "Client host")
    request.helo = b"me"
    assert bench.ask(evaluator.helo(request, False)) == REJECTED.format("me", "Helo command")
    request.protocol = "ESMTP"
    bench.sender("s@example.org")
    assert bench.ask(evaluator.mail(request)) == REJECTED.format("s@example.org", "Sender address")
    assert [line.partition(" from ")[0] for line in bench.log] == [
        "NOQUEUE: reject: CONNECT",
        "NOQUEUE: reject: HELO",
        "NOQUEUE: reject: MAIL",
    ]
    assert bench.log[0].endswith("Access denied; proto=SMTP")
    assert bench.log[2].endswith("Access denied; from=<s@example.org> proto=ESMTP helo=<me>")
    assert bench.rcpt("known@local.example") is None


def test_other_states_in_the_log() -> None:
    bench = Bench(
        smtpd_data_restrictions="reject",
        smtpd_end_of_data_restrictions="reject",
        smtpd_etrn_restrictions="reject",
        smtpd_recipient_restrictions="reject",
    )
    evaluator, request = bench.evaluator, bench.request
    assert bench.ask(evaluator.data(request)) == REJECTED.format("DATA", "Data command")
    assert bench.ask(evaluator.end_of_data(request)) == REJECTED.format("END-OF-MESSAGE", "End-of-data")
    request.etrn_domain = b"d.example"
    assert bench.ask(evaluator.etrn(request)) == REJECTED.format("d.example", "Etrn command")
    bench.rcpt()
    states = [line.split()[2] for line in bench.log]
    assert states == ["DATA", "END-OF-MESSAGE", "ETRN", "RCPT"]


def test_vrfy_is_asked_like_rcpt() -> None:
    bench = Bench()
    bench.request.recipient = from_text(b"x@remote.example")
    assert (
        bench.ask(bench.evaluator.vrfy(bench.request)) == "554 5.7.1 <x@remote.example>: Relay access denied"
    )
    assert bench.log[0].startswith("NOQUEUE: reject: VRFY from ")


def test_relay_before_recipient() -> None:
    lists = {"smtpd_relay_restrictions": "defer", "smtpd_recipient_restrictions": "reject"}
    assert (Bench(**lists).rcpt() or "")[:3] == "450"
    assert (Bench(smtpd_relay_before_recipient_restrictions="no", **lists).rcpt() or "")[:3] == "554"
    old = Bench(compatibility_level="3.5", **lists)
    assert (old.rcpt() or "")[:3] == "554"
    assert old.log[-1] == (
        "using backwards-compatible default setting smtpd_relay_before_recipient_restrictions=no to reject "
        'recipient "r@local.example" from client "c.example.net[192.0.2.9]"'
    )


def test_level_zero_has_no_relay_list() -> None:
    p = Parameters.from_mapping(
        {"smtpd_recipient_restrictions": "check_client_access static:OK, reject", "myhostname": "a.b"}
    )
    sink = ListSink()
    evaluator = Evaluator(p, MailLog(sink, "x"), Rewriter(p), AddressClasses(p, own=[]))
    request = Request("c", "192.0.2.1", sender=from_text(b"s@e.org"), recipient=from_text(b"r@e.net"))
    assert drive(evaluator.rcpt(request)) is None
    assert sink.lines[-1][2] == (
        'using backwards-compatible default setting "smtpd_relay_restrictions = (empty)" to avoid "Relay '
        'access denied" error for recipient "r@e.net" from client "c[192.0.2.1]"'
    )


def test_permit_ends_only_its_list() -> None:
    bench = Bench(smtpd_sender_restrictions="permit", smtpd_relay_restrictions="permit_mynetworks, reject")
    assert bench.rcpt() is not None


def test_defer_if_permit_is_carried_on() -> None:
    settings = {
        "smtpd_client_restrictions": "defer_if_permit",
        "smtpd_sender_restrictions": "defer_if_permit",
        "smtpd_relay_restrictions": OPEN,
    }
    requested = "450 4.7.0 <c.example.net[192.0.2.9]>: Client host rejected: defer_if_permit requested"
    assert Bench(**settings).rcpt("known@local.example") == requested
    bench = Bench(smtpd_delay_reject="no", **settings).sender("s@example.org")
    assert bench.ask(bench.evaluator.connect(bench.request)) is None
    assert bench.ask(bench.evaluator.helo(bench.request)) is None
    assert bench.ask(bench.evaluator.mail(bench.request)) is None
    assert bench.rcpt("known@local.example") == requested
    assert bench.ask(bench.evaluator.data(bench.request)) is None  # forgotten at DATA


def test_defer_if_reject_lasts_from_relay_to_recipient_list() -> None:
    bench = Bench(
        smtpd_relay_restrictions="defer_if_reject, check_client_access static:OK, reject",
        smtpd_recipient_restrictions="reject",
    )
    assert (bench.rcpt() or "").endswith("defer_if_reject requested")
    bench = Bench(smtpd_sender_restrictions="defer_if_reject", smtpd_recipient_restrictions="reject")
    assert (bench.rcpt() or "").endswith("Access denied")


def test_recipient_is_hidden_from_data_with_several() -> None:
    bench = Bench(smtpd_data_restrictions="reject")
    bench.request.recipient = from_text(b"r@local.example")
    bench.request.recipient_count = 2
    bench.ask(bench.evaluator.data(bench.request))
    assert " to=<" not in bench.log[0]
    assert bench.request.recipient is not None
    bench.request.recipient_count = 1
    bench.ask(bench.evaluator.data(bench.request))
    assert " to=<r@local.example>" in bench.log[1]


def test_reset_of_a_request() -> None:
    bench = Bench().login("alice").sender("s@example.org")
    request = bench.request
    request.actions.hold = True
    request.reset_mail()
    assert (request.sender, request.actions.hold, request.sasl_username) == (None, False, "alice")
    request.reset_session()
    assert (request.helo, request.sasl_username) == (b"", "")


def test_acceptable_and_local_headers() -> None:
    bench = Bench(local_header_rewrite_clients="permit_mynetworks, permit_sasl_authenticated, static:fail")
    assert drive(bench.evaluator.acceptable(from_text(b"a@b.c"), False))
    assert not drive(bench.evaluator.acceptable(from_text(b"a@1.2.3.4"), False))
    assert drive(bench.evaluator.local_headers(bench.request)) is True
    bench = Bench(local_header_rewrite_clients="permit_mynetworks, permit_sasl_authenticated, what")
    assert bench.evaluator.warnings
    assert drive(bench.evaluator.local_headers(bench.request)) is False
    assert drive(bench.evaluator.local_headers(bench.login("alice").request)) is True
    bench = Bench(local_header_rewrite_clients="check_address_map fail:x")
    verdict = drive(bench.evaluator.local_headers(bench.request))
    assert str(verdict.reply) == "451 4.3.0 Temporary lookup error"
