"""access(5) results and keys, login maps, and tables of valid users."""

from __future__ import annotations

from pathlib import Path

import pytest
from policy_support import OPEN, Bench

from mtad.policy.check import HANG_UP


def inline(key: str, value: str) -> str:
    return f"inline:{{{{{key}={value}}}}}"


def sender_access(
    value: str, *, sender: str = "s@example.org", actions: tuple[str, ...] | None = None
) -> Bench:
    table = inline("example.org", value)
    more = {} if actions is None else {"actions": actions}
    return Bench(smtpd_sender_restrictions=f"check_sender_access {table}", **more).sender(sender)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "reply"),
    [
        ("OK", None),
        ("relay trailing", None),
        ("DUNNO what", None),
        ("1234567", None),
        ("reject", "554 5.7.1 <s@example.org>: Sender address rejected: Access denied"),
        ("REJECT no", "554 5.7.1 <s@example.org>: Sender address rejected: no"),
        ("REJECT 5.1.1 no", "554 5.1.7 <s@example.org>: Sender address rejected: no"),
        ("REJECT 5.1.2", "554 5.1.8 <s@example.org>: Sender address rejected: Access denied"),
        ("REJECT 4.1.5 x", "554 5.1.0 <s@example.org>: Sender address rejected: x"),
        ("DEFER", "450 4.7.1 <s@example.org>: Sender address rejected: Access denied"),
        ("421 bye", "421 4.7.1 <s@example.org>: Sender address rejected: bye"),
        ("550 5.2.1 gone", "550 5.2.1 <s@example.org>: Sender address rejected: gone"),
        ("450 5.2.1 gone", "450 4.2.1 <s@example.org>: Sender address rejected: gone"),
        ("550", None),  # all digits: a time stamp
        ("699 x", "451 4.3.5 Server configuration error"),
        ("DEFER_IF_PERMIT", "450 4.7.1 <s@example.org>: Sender address rejected: Service unavailable"),
        ("DEFER_IF_REJECT", None),
        ("permit", None),
        (
            "warn_if_reject reject, defer",
            "450 4.3.2 <s@example.org>: Sender address rejected: Try again later",
        ),
        ("hash:/x", "451 4.3.5 Server configuration error"),
        ("INFO x", None),
    ],
)
def test_result(value: str, reply: str | None) -> None:
    assert sender_access(value).rcpt("known@local.example") == reply


def test_hangup_has_no_reply() -> None:
    bench = sender_access("HANGUP for good")
    assert bench.rcpt("known@local.example") == str(HANG_UP)
    assert bench.log[0].startswith("NOQUEUE: hangup: RCPT from ")


def test_dsn_of_other_classes() -> None:
    bench = Bench(smtpd_helo_restrictions="inline:{{c.example.net=REJECT 5.1.1 no}}")
    assert bench.rcpt() == "554 5.0.0 <c.example.net>: Helo command rejected: no"
    assert bench.log[0] == "mapping DSN status 5.1.1 into Helo command status 5.0.0"
    bench = Bench(smtpd_recipient_restrictions="inline:{{local.example=REJECT 5.1.7 no}}")
    assert bench.rcpt() == "554 5.1.3 <r@local.example>: Recipient address rejected: no"


@pytest.mark.parametrize(
    ("value", "what", "said"),
    [
        ("HOLD", "hold", "<s@example.org>: Sender address triggers HOLD action"),
        ("FILTER x:y", "filter", "<s@example.org>: Sender address triggers FILTER x:y"),
        ("REDIRECT a@b", "redirect", "<s@example.org>: Sender address triggers REDIRECT a@b"),
        ("BCC a@b", "bcc", "<s@example.org>: Sender address triggers BCC a@b"),
        ("DISCARD gone", "discard", "<s@example.org>: Sender address gone"),
        ("WARN look", "warn", "look"),
    ],
)
def test_actions_are_logged(value: str, what: str, said: str) -> None:
    bench = sender_access(value)
    assert bench.rcpt("known@local.example") is None
    assert bench.log[0].partition("; ")[0] == f"NOQUEUE: {what}: RCPT from c.example.net[192.0.2.9]: {said}"


def test_actions_are_noted() -> None:
    bench = sender_access("PREPEND X-Seen: yes")
    bench.rcpt("known@local.example")
    bench.rcpt("known@local.example")
    assert bench.request.actions.prepend == [b"X-Seen: yes"] * 2
    bench = sender_access("DISCARD")
    assert bench.rcpt("anything@remote.example") is None
    assert bench.request.actions.discard


@pytest.mark.parametrize("value", ["FILTER x", "FILTER", "REDIRECT x", "BCC x", "PREPEND no header"])
def test_actions_with_bad_arguments_are_skipped(value: str) -> None:
    bench = sender_access(value)
    assert bench.rcpt("known@local.example") is None
    assert bench.log[0].startswith("warning: access table inline:")


def test_actions_that_nobody_carries_out_are_refused() -> None:
    bench = sender_access("HOLD", actions=("DISCARD",))
    assert bench.rcpt("known@local.example") == "451 4.3.5 Server configuration error"


def test_actions_need_a_sender() -> None:
    bench = Bench(smtpd_delay_reject="no", smtpd_client_restrictions="check_client_access static:HOLD")
    assert bench.ask(bench.evaluator.connect(bench.request)) is None
    assert bench.log[0].startswith(
        "warning: access table static:HOLD: with smtpd_delay_reject=no, action HOLD"
    )
    assert not bench.request.actions.hold


@pytest.mark.parametrize(
    ("key", "address", "found"),
    [
        ("u+x@d.example", "u+x@d.example", True),
        ("u@d.example", "u+x@d.example", True),
        ("d.example", "u@d.example", True),
        ("d.example", "u@sub.d.example", True),
        ("example", "u@sub.d.example", True),
        ("u+x@", "u+x@d.example", True),
        ("u@", "U+x@d.example", True),
        ("@d.example", "u@d.example", False),
        (".d.example", "u@sub.d.example", False),
        ("u", "u@d.example", False),
    ],
)
def test_mail_keys(key: str, address: str, found: bool) -> None:
    bench = Bench(smtpd_sender_restrictions=f"check_sender_access {inline(key, 'REJECT')}").sender(address)
    assert (bench.rcpt("known@local.example") is not None) is found


def test_parent_domains_by_dots() -> None:
    bench = Bench(
        smtpd_sender_restrictions="check_sender_access inline:{{.d.example=REJECT}}",
        parent_domain_matches_subdomains="",
    ).sender("u@sub.d.example")
    assert bench.rcpt("known@local.example") is not None


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("a.b.example", True), ("b.example", True), ("example", True), ("192.0.2.9", True), ("192.0.2", True),
        ("192", True), ("192.0.2.", False), (".b.example", False),
    ],
)  # fmt: skip
def test_client_keys(key: str, found: bool) -> None:
    bench = Bench(smtpd_client_restrictions=inline(key, "REJECT"))
    bench.request.client_name = "a.b.example"
    assert (bench.rcpt("known@local.example") is not None) is found


def test_the_first_key_found_ends_the_search() -> None:
    bench = Bench(
        smtpd_client_restrictions="inline:{{a.example=DUNNO}, {example=REJECT}, {192.0.2.9=REJECT}}"
    )
    bench.request.client_name = "a.example"
    assert bench.rcpt("known@local.example") is None


def test_tables_of_patterns_see_the_whole_only() -> None:
    bench = Bench(smtpd_client_restrictions="check_client_access static:REJECT")
    assert bench.rcpt("known@local.example") is not None


def test_other_check_access() -> None:
    bench = Bench(smtpd_sender_restrictions="check_sender_access inline:{{<>=REJECT}}").sender("")
    assert bench.rcpt() == "554 5.7.1 <>: Sender address rejected: Access denied"
    bench = Bench(smtpd_client_restrictions="check_sasl_access inline:{{alice=REJECT}}")
    assert bench.rcpt("known@local.example") is None
    assert bench.login("alice").rcpt() == "554 5.7.1 <alice>: SASL login name rejected: Access denied"
    bench = Bench(
        smtpd_client_restrictions="check_ccert_access inline:{{AB=REJECT}}", smtpd_tls_ask_ccert="yes"
    )
    assert bench.rcpt("known@local.example") is None
    bench.request.cert_fingerprint, bench.request.cert_name = "AB", "cn"
    assert bench.rcpt() == "554 5.7.1 <cn>: Client certificate rejected: Access denied"
    table = "{inline:{{AB=REJECT}}, search_order=pubkey_fingerprint}"
    bench = Bench(smtpd_client_restrictions=f"check_ccert_access {table}", smtpd_tls_ask_ccert="yes")
    bench.request.cert_fingerprint = "AB"
    assert bench.rcpt("known@local.example") is None
    bench = Bench(smtpd_etrn_restrictions="inline:{{d.example=REJECT}}")
    bench.request.etrn_domain = b"x.d.example"
    assert bench.ask(bench.evaluator.etrn(bench.request)) == (
        "554 5.7.1 <x.d.example>: Etrn command rejected: Access denied"
    )


REFUSED = "554 5.7.1 <cn>: Client certificate rejected: "
WRONG = "451 4.3.5 Server configuration error"


@pytest.mark.parametrize(
    ("attributes", "reply"),
    [
        (", { search_order = cert_fingerprint, pubkey_fingerprint }", f"{REFUSED}certificate"),
        (" { search_order = pubkey_fingerprint cert_fingerprint }", f"{REFUSED}key"),
        (" {Search_Order=PUBKEY_fingerprint}", f"{REFUSED}key"),
        (" search_order=pubkey_fingerprint", f"{REFUSED}key"),
        (", { search_order = }", None),
        ("", f"{REFUSED}certificate"),
        (" { search_order = fingerprint }", WRONG),
        (" { order = cert_fingerprint }", WRONG),
        (" search_order = cert_fingerprint", WRONG),
    ],
)
def test_search_orders(attributes: str, reply: str | None) -> None:
    """Commas and braces as the manual has them, names in any case; 451 for what is none."""
    table = "{ inline:{{AB=REJECT certificate},{CD=REJECT key}}" + attributes + " }"
    bench = Bench(smtpd_client_restrictions=f"check_ccert_access {table}", smtpd_tls_ask_ccert="yes")
    bench.request.cert_fingerprint, bench.request.pubkey_fingerprint = "AB", "CD"
    bench.request.cert_name = "cn"
    assert bench.rcpt("known@local.example") == reply


@pytest.mark.parametrize(
    ("entries", "subject", "trusted", "reply"),
    [
        ("CERTISSUER:/CN=A+20CA=RELAY", "/CN=x", True, None),
        ("certissuer:/cn=a+20ca=relay", "/CN=x", True, None),
        ("CERTISSUER:/CN=A+20CA=RELAY", "/CN=x", False, "554 5.7.1"),
        ("CERTISSUER:/CN=A+20CA=SUBJECT, CERTSUBJECT:/CN=x=RELAY", "/CN=x", True, None),
        ("CERTISSUER:/CN=A+20CA=SUBJECT, CERTSUBJECT:/CN=x=RELAY", "/CN=y", True, "554 5.7.1"),
        ("CERTSUBJECT:/CN=x=RELAY", "/CN=x", True, "554 5.7.1"),
        ("CERTISSUER:/CN=A+20CA=REJECT, AB=OK", "/CN=x", True, None),
        ("CERTISSUER:/CN=A+20CA=451 later", "/CN=x", True, "451"),
    ],
)
def test_sendmails_certificate_keys(
    entries: str, subject: str, trusted: bool, reply: str | None, tmp_path: Path
) -> None:
    lines = "".join(" ".join(entry.rsplit("=", 1)) + "\n" for entry in entries.split(", "))
    (tmp_path / "access").write_text(lines)
    bench = Bench(
        smtpd_relay_restrictions=f"check_ccert_access texthash:{tmp_path}/access, reject",
        smtpd_tls_ask_ccert="yes",
    )
    request = bench.request
    request.cert_fingerprint, request.cert_name, request.cert_trusted = "AB", "cn", trusted
    request.cert_issuer, request.cert_subject = "/CN=A+20CA", subject
    said = bench.rcpt("known@local.example")
    assert said is None if reply is None else str(said).startswith(reply)


def test_reverse_names_may_not_permit() -> None:
    bench = Bench(smtpd_client_restrictions="check_reverse_client_hostname_access static:OK")
    assert bench.rcpt() == "451 4.3.5 Server configuration error"
    assert len([line for line in bench.log if line.startswith("warning: ")]) == 3


def test_failing_tables() -> None:
    bench = Bench(smtpd_sender_restrictions="check_sender_access fail:x").sender("a@b.c")
    assert bench.rcpt() == "451 4.3.5 <a@b.c>: Sender address rejected: Server configuration error"
    bench = Bench(mydestination="fail:x")
    assert bench.rcpt() == "451 4.3.0 <r@local.example>: Temporary lookup failure"
    bench = Bench(smtpd_sender_login_maps="fail:x", smtpd_sender_restrictions="reject_sender_login_mismatch")
    assert bench.login("a").rcpt() == "451 4.3.0 <s@example.org>: Temporary lookup failure"


OWNERS = "inline:{{alice@local.example=alice}, {bob@x.example=bob, Alice2}, {@owned.example=alice}}"


@pytest.mark.parametrize(
    ("restriction", "login", "sender", "text"),
    [
        ("authenticated", "alice", "alice@local.example", ""),
        ("authenticated", "ALICE", "Alice+x@LOCAL.example", ""),
        ("authenticated", "alice2", "bob@x.example", ""),
        ("authenticated", "alice", "x@owned.example", ""),
        ("authenticated", "alice", "bob@x.example", "not owned by user alice"),
        ("authenticated", "alice", "no@x.example", "not owned by user alice"),
        ("authenticated", "alice", "", ""),
        ("authenticated", "", "bob@x.example", ""),
        ("known", "alice", "no@x.example", ""),
        ("known", "alice", "bob@x.example", "not owned by user alice"),
        ("known", "", "bob@x.example", "not logged in"),
        ("known", "", "no@x.example", ""),
        ("unauthenticated", "", "bob@x.example", "not logged in"),
        ("unauthenticated", "alice", "bob@x.example", ""),
    ],
)
def test_login_mismatch(restriction: str, login: str, sender: str, text: str) -> None:
    bench = Bench(
        smtpd_sender_restrictions=f"reject_{restriction}_sender_login_mismatch",
        smtpd_sender_login_maps=OWNERS,
    ).sender(sender)
    if login:
        bench.login(login)
    expected = f"553 5.7.1 <{sender}>: Sender address rejected: {text}" if text else None
    assert bench.rcpt("known@local.example") == expected


def test_login_key_is_the_resolved_sender() -> None:
    bench = Bench(
        myorigin="local.example",
        smtpd_sender_restrictions="reject_sender_login_mismatch",
        smtpd_sender_login_maps=OWNERS,
    ).sender("alice")
    assert bench.login("alice").rcpt("known@local.example") is None


def test_login_without_maps_or_sasl() -> None:
    bench = Bench(smtpd_sender_restrictions="reject_sender_login_mismatch").login("alice")
    assert bench.rcpt() == "553 5.7.1 <s@example.org>: Sender address rejected: not owned by user alice"
    bench = Bench(smtpd_sender_restrictions="reject_known_sender_login_mismatch").login("alice")
    assert bench.rcpt("known@local.example") is None
    bench = Bench(smtpd_sender_restrictions="reject_sender_login_mismatch", smtpd_sasl_auth_enable="no")
    assert bench.rcpt("known@local.example") is None
    assert bench.log[0].endswith("`reject_authenticated_sender_login_mismatch' ignored: no SASL support")


LISTED = {
    "smtpd_relay_restrictions": OPEN,
    "virtual_alias_domains": "alias.example",
    "virtual_alias_maps": "inline:{{there@alias.example=x}, {new@local.example=x}}",
    "virtual_mailbox_domains": "box.example",
    "virtual_mailbox_maps": "inline:{{user@box.example=x}}",
    "relay_domains": "relay.example, all.example",
    "relay_recipient_maps": "inline:{{user@relay.example=x}, {@all.example=x}}",
}


@pytest.mark.parametrize(
    ("recipient", "table"),
    [
        ("known@local.example", ""),
        ("known+x@local.example", ""),
        ("new@local.example", ""),
        ("Postmaster@local.example", ""),
        ("mailer-daemon@local.example", ""),
        ("double-bounce@local.example", ""),
        ("no@local.example", "local recipient"),
        ("there@alias.example", ""),
        ("no@alias.example", "virtual alias"),
        ("User@box.example", ""),
        ("no@box.example", "virtual mailbox"),
        ("user@relay.example", ""),
        ("x@all.example", ""),
        ("no@relay.example", "relay recipient"),
        ("any@remote.example", ""),
    ],
)
def test_unlisted(recipient: str, table: str) -> None:
    said = f"550 5.1.1 <{recipient}>: Recipient address rejected: User unknown in {table} table"
    assert Bench(**LISTED).rcpt(recipient) == (said if table else None)
    assert Bench(**LISTED, receive_override_options="no_unknown_recipient_checks").rcpt(recipient) is None
    assert Bench(**LISTED, smtpd_reject_unlisted_recipient="no").rcpt(recipient) is None
    detail = "1.7" if table == "virtual alias" else "1.0"
    said = f"550 5.{detail} <{recipient}>: Sender address rejected: User unknown in {table} table"
    settings = {**LISTED, "smtpd_reject_unlisted_sender": "yes"}
    assert Bench(**settings).rcpt("any@remote.example", recipient) == (said if table else None)


def test_unlisted_by_transport_and_relocated() -> None:
    settings = {**LISTED, "local_transport": "error:5.7.0 off", "relay_transport": "retry:later"}
    assert Bench(**settings).rcpt("known@local.example") == (
        "550 5.7.0 <known@local.example>: Recipient address rejected: off"
    )
    assert Bench(**settings).rcpt("user@relay.example") == (
        "450 4.1.1 <user@relay.example>: Recipient address rejected: later"
    )
    moved = "inline:{{old@local.example=new@e.org}}"
    assert Bench(relocated_maps=moved).rcpt("old@local.example") == (
        "550 5.1.6 <old@local.example>: Recipient address rejected: User has moved to new@e.org"
    )


def test_unlisted_is_asked_once() -> None:
    bench = Bench(smtpd_recipient_restrictions="warn_if_reject reject_unlisted_recipient")
    assert bench.rcpt("no@local.example") is not None
    assert [line.split()[1] for line in bench.log] == ["reject_warning:", "reject:"]
