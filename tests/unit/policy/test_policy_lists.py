"""What single restrictions say, and how lists are walked."""

from __future__ import annotations

import pytest
from policy_support import OPEN, Bench

from mtad.wire.address import from_text

TAIL = "from=<s@example.org> to=<r@local.example> proto=ESMTP helo=<c.example.net>"


def rcpt(
    text: str, recipient: str = "known@local.example", sender: str = "s@example.org", **more: str
) -> str | None:
    bench = Bench(smtpd_recipient_restrictions=text, smtpd_relay_restrictions=OPEN, **more)
    return bench.rcpt(recipient, sender)


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("", None),
        ("permit", None),
        ("PERMIT, reject", None),
        ("reject", "554 5.7.1 <known@local.example>: Recipient address rejected: Access denied"),
        ("Defer", "450 4.3.2 <known@local.example>: Recipient address rejected: Try again later"),
        ("warn_if_reject reject", None),
        ("warn_if_reject warn_if_reject reject, defer_if_permit, permit",
         "450 4.7.0 <known@local.example>: Recipient address rejected: defer_if_permit requested"),
        ("defer_if_permit, permit",
         "450 4.7.0 <known@local.example>: Recipient address rejected: defer_if_permit requested"),
        ("defer_if_permit, reject",
         "554 5.7.1 <known@local.example>: Recipient address rejected: Access denied"),
        ("defer_if_reject, reject",
         "450 4.7.0 <known@local.example>: Recipient address rejected: defer_if_reject requested"),
        ("defer_if_reject, defer",
         "450 4.3.2 <known@local.example>: Recipient address rejected: Try again later"),
        ("warn_if_reject reject_unauth_destination, permit_auth_destination, reject", None),
        ("no_such_thing", "451 4.3.5 Server configuration error"),
        ("warn_if_reject no_such_thing", "451 4.3.5 Server configuration error"),
        ("check_relay_domains", "451 4.3.5 Server configuration error"),
        ("sleep 3, sleep 4", None),
        ("sleep now", "451 4.3.5 Server configuration error"),
        ("check_sender_access", "451 4.3.5 Server configuration error"),
        ("reject_plaintext_session", "450 4.7.1 Session encryption is required"),
        ("reject_unauth_pipelining", None),
        ("permit_inet_interfaces, permit_tls_clientcerts, permit_tls_all_clientcerts", None),
        ("reject_unknown_client_hostname", None),
        ("reject_unknown_reverse_client_hostname",
         "450 4.7.1 Client host rejected: cannot find your reverse hostname, [192.0.2.9]"),
        ("reject_sender_login_mismatch", None),
        ("Reject_Sender_Login_Mismatch", "451 4.3.5 Server configuration error"),
    ],
)  # fmt: skip
def test_reply(text: str, reply: str | None) -> None:
    assert rcpt(text) == reply


def test_relay_access_denied_line() -> None:
    bench = Bench().login("alice")
    bench.request.sasl_sender = "a+40b"
    assert bench.rcpt("r@remote.example") == "554 5.7.1 <r@remote.example>: Relay access denied"
    assert bench.log == [
        "NOQUEUE: reject: RCPT from c.example.net[192.0.2.9]: 554 5.7.1 <r@remote.example>: "
        "Relay access denied; from=<s@example.org> to=<r@remote.example> proto=ESMTP "
        "helo=<c.example.net> sasl_method=PLAIN sasl_username=alice sasl_sender=a+40b"
    ]


def test_queue_id_and_quoted_addresses_in_the_line() -> None:
    bench = Bench()
    bench.request.queue_id = "4XyZ"
    bench.request.helo = b""
    bench.rcpt("a b@remote.example", "x y@example.org")
    assert bench.log[0].startswith("4XyZ: reject: RCPT from c.example.net[192.0.2.9]: 554 5.7.1 <a b@rem")
    assert bench.log[0].endswith('; from=<"x y"@example.org> to=<"a b"@remote.example> proto=ESMTP')


def test_reject_warning_line() -> None:
    bench = Bench(smtpd_recipient_restrictions="warn_if_reject reject")
    assert bench.rcpt("known@local.example") is None
    assert bench.log[0].startswith("NOQUEUE: reject_warning: RCPT from c.example.net[192.0.2.9]: 554 5.7.1 <")


def test_codes_come_from_parameters() -> None:
    assert rcpt("reject", reject_code="521") == (
        "521 5.7.1 <known@local.example>: Recipient address rejected: Access denied"
    )
    assert rcpt("reject", reject_code="421") == (
        "421 4.7.1 <known@local.example>: Recipient address rejected: Access denied"
    )
    assert rcpt("reject", soft_bounce="yes") == (
        "454 4.7.1 <known@local.example>: Recipient address rejected: Access denied"
    )
    bench = Bench(smtpd_recipient_restrictions="reject", reject_code="250")
    assert bench.rcpt() == "450 4.7.1 Service unavailable"
    assert bench.log[0].startswith("warning: SMTP reply code configuration error: 250 5.7.1 <")


def test_long_and_unprintable_text() -> None:
    reply = rcpt("reject", "x" * 600 + "@local.example")
    assert reply is not None
    assert len(reply) == 510
    reply = rcpt("reject", "a\x01b\u2028c@local.example")
    assert reply == "554 5.7.1 <a b c@local.example>: Recipient address rejected: Access denied"


def test_warnings_about_what_is_ignored() -> None:
    bench = Bench(smtpd_recipient_restrictions="permit, reject")
    bench.rcpt("known@local.example")
    assert bench.log == ["warning: restriction `reject' after `permit' is ignored"]
    more = {"smtpd_relay_restrictions": "reject", "smtpd_recipient_restrictions": "permit, reject"}
    (warning,) = Bench(**more).evaluator.warnings
    assert warning.parameter == "smtpd_recipient_restrictions"
    assert warning.reason == "restriction `reject' after `permit' is ignored"


def test_classes() -> None:
    settings = {
        "smtpd_restriction_classes": "inner, outer",
        "inner": "check_sender_access inline:{{bad@example.org=REJECT}}",
        "outer": "inner, check_sender_access inline:{{s@example.org=OK}}",
    }
    assert rcpt("outer, reject", **settings) is None
    assert rcpt("OUTER, reject", **settings) == "451 4.3.5 Server configuration error"
    denied = "554 5.7.1 <bad@example.org>: Sender address rejected: Access denied"
    assert rcpt("outer", sender="bad@example.org", **settings) == denied
    assert rcpt("warn_if_reject outer", sender="bad@example.org", **settings) is None


def test_a_class_within_itself_ends() -> None:
    settings = {"smtpd_restriction_classes": "loop", "loop": "loop"}
    assert rcpt("loop", **settings) == "451 4.3.5 Server configuration error"


@pytest.mark.parametrize(("settings", "permitted"), [({}, False), ({"allow_untrusted_routing": "yes"}, True)])
def test_mail_that_is_routed_on_by_its_local_part_is_not_ours(
    settings: dict[str, str], permitted: bool
) -> None:
    bench = Bench(relay_domains="relay.example", **settings)
    assert bench.rcpt("y@relay.example") is None
    for recipient in ("x!y@relay.example", "y%remote.example@relay.example"):
        assert (bench.rcpt(recipient) is None) == permitted


def test_networks_and_interfaces() -> None:
    bench = Bench(smtpd_relay_restrictions="permit_mynetworks, permit_inet_interfaces, reject")
    for _ in range(3):  # the answer is kept
        assert bench.rcpt("x@remote.example") is not None
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "127.0.0.1"):
        bench = Bench(smtpd_relay_restrictions="permit_mynetworks, permit_inet_interfaces, reject")
        bench.request.client_address = address
        for _ in range(3):
            assert bench.rcpt("x@remote.example") is None


def test_a_bad_network_is_a_temporary_failure() -> None:
    bench = Bench(mynetworks="10.0.0.1/8", smtpd_relay_restrictions="permit_mynetworks, reject")
    assert bench.rcpt() == "451 4.3.0 <r@local.example>: Temporary lookup failure"
    assert bench.evaluator.warnings


def test_authenticated() -> None:
    bench = Bench(smtpd_relay_restrictions="permit_sasl_authenticated, reject")
    assert bench.rcpt("x@remote.example") is not None
    assert bench.login("alice").rcpt("x@remote.example") is None
    bench.request.sasl_method = "ANONYMOUS"
    assert bench.rcpt("x@remote.example") is not None


def test_pipelining_and_unknown_clients() -> None:
    bench = Bench(smtpd_data_restrictions="reject_unauth_pipelining")
    bench.request.unauth_pipelining = True
    expected = "503 5.5.0 <DATA>: Data command rejected: Improper use of SMTP command pipelining"
    assert bench.ask(bench.evaluator.data(bench.request)) == expected
    bench = Bench(
        smtpd_client_restrictions="reject_unknown_client_hostname", unknown_client_reject_code="550"
    )
    bench.request.client_name = "unknown"
    assert bench.rcpt() == "550 5.7.25 Client host rejected: cannot find your hostname, [192.0.2.9]"
    bench.request.name_temporary = True
    assert bench.rcpt() == "450 4.7.25 Client host rejected: cannot find your hostname, [192.0.2.9]"


def test_client_certificates() -> None:
    bench = Bench(
        relay_clientcerts="inline:{{AB:CD=x}}", smtpd_relay_restrictions="permit_tls_clientcerts, reject"
    )
    bench.request.tls = True
    assert bench.rcpt("x@remote.example") is not None
    assert bench.log[0] == 'warning: permit_tls_clientcerts is requested, but "smtpd_tls_ask_ccert = no"'
    bench.request.cert_trusted = True  # which is not enough
    for fingerprint, permitted in (("AB:CE", False), ("AB:CD", True), ("", False)):
        bench.request.cert_fingerprint = fingerprint
        assert (bench.rcpt("x@remote.example") is None) == permitted
    bench = Bench(smtpd_relay_restrictions="permit_tls_all_clientcerts, reject")
    bench.request.tls = bench.request.cert_trusted = True
    assert bench.rcpt("x@remote.example") is None


@pytest.mark.parametrize(
    ("helo", "reply"),
    [
        ("host.example", None),
        ("host.example.", None),
        ("host", "504 5.5.2 <host>: Helo command rejected: need fully-qualified hostname"),
        ("-x.y", "501 5.5.2 <-x.y>: Helo command rejected: Invalid name"),
        ("[1.2.3.4]", None),
        ("[IPv6:::1]", None),
        ("[::1]", "501 5.5.2 <[::1]>: Helo command rejected: invalid ip address"),
        ("1.2.3.4", "504 5.5.2 <1.2.3.4>: Helo command rejected: need fully-qualified hostname"),
    ],
)
def test_helo(helo: str, reply: str | None) -> None:
    bench = Bench(smtpd_helo_restrictions="reject_invalid_hostname, reject_non_fqdn_hostname")
    bench.request.helo = helo.encode()
    assert bench.rcpt("known@local.example") == reply


@pytest.mark.parametrize(
    ("sender", "reply"),
    [
        ("", None),
        ("a@b.c", None),
        ("a@[1.2.3.4]", None),
        ("a", "504 5.5.2 <a>: Sender address rejected: need fully-qualified address"),
        ("a@b", "504 5.5.2 <a@b>: Sender address rejected: need fully-qualified address"),
        ("a@b..c", "504 5.5.2 <a@b..c>: Sender address rejected: need fully-qualified address"),
    ],
)
def test_fqdn(sender: str, reply: str | None) -> None:
    assert rcpt("reject_non_fqdn_sender", sender=sender) == reply


def test_multi_recipient_bounce() -> None:
    bench = Bench(smtpd_data_restrictions="reject_multi_recipient_bounce").sender("")
    bench.request.recipient_count = 1
    assert bench.ask(bench.evaluator.data(bench.request)) is None
    bench.request.recipient_count = 2
    expected = "550 5.5.3 <DATA>: Data command rejected: Multi-recipient bounce"
    assert bench.ask(bench.evaluator.data(bench.request)) == expected
    bench.request.sender = from_text(b"a@b.c")
    assert bench.ask(bench.evaluator.data(bench.request)) is None


def test_permits_are_logged() -> None:
    bench = Bench(
        smtpd_relay_restrictions="permit_sasl_authenticated, reject",
        smtpd_log_access_permit_actions="permit_sasl_authenticated, OK",
        smtpd_recipient_restrictions="check_recipient_access inline:{{local.example=OK}}",
    ).login("alice")
    bench.rcpt("known@local.example")
    assert [line.partition("; ")[0] for line in bench.log] == [
        "NOQUEUE: permit: RCPT from c.example.net[192.0.2.9]: action=permit_sasl_authenticated for "
        "Client host=c.example.net[192.0.2.9] ",
        "NOQUEUE: permit: RCPT from c.example.net[192.0.2.9]: action=OK for "
        "Recipient address=known@local.example from inline:{{local.example=OK}}",
    ]


@pytest.mark.parametrize("word", ["ok", "Relay", "discard", "DISCARD"])
def test_permits_are_logged_in_the_words_of_the_table(word: str) -> None:
    bench = Bench(
        smtpd_log_access_permit_actions="static:all",
        smtpd_recipient_restrictions=f"check_recipient_access static:{word}",
    )
    bench.rcpt("known@local.example")
    said = bench.log[-1].partition("; ")[0]
    assert said.endswith(f"action={word} for Recipient address=known@local.example from static:{word}")
