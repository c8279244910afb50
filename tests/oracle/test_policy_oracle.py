"""The installed Postfix's smtpd(8) and our evaluator, asked the same questions (see ``policy_cases.py``)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from oracle.policy_cases import Case, compare, running
from oracle.postfix import Postfix

MAIN = {
    "compatibility_level": "3.6",
    "myhostname": "mail.example.com",
    "mydestination": "local.example, localhost",
    "local_recipient_maps": "inline:{{known=x}}",
    "virtual_alias_domains": "alias.example",
    "virtual_alias_maps": "inline:{{there@alias.example=x}}",
    "virtual_mailbox_domains": "box.example",
    "virtual_mailbox_maps": "inline:{{user@box.example=x}}",
    "relay_domains": "relay.example",
    "relay_recipient_maps": "inline:{{user@relay.example=x}}",
    "transport_maps": "inline:{{shut@local.example=error:5.1.1 no such}, {shut.example=error:closed}, "
    "{late.example=retry:4.3.2 later}, {user@relay.example=error:}, {.sub.example=error:5.2.1 sub}, "
    "{alias.example=smtp:}}",
    "mynetworks": "10.0.0.0/8",
    "inet_interfaces": "127.0.0.1",
    "smtpd_authorized_xclient_hosts": "127.0.0.1",
    "smtpd_sasl_auth_enable": "yes",
    "recipient_delimiter": "+",
    "smtpd_recipient_restrictions": "reject_unauth_destination",
    "smtpd_peername_lookup": "no",
    "smtpd_error_sleep_time": "0",
    "smtpd_delay_open_until_valid_rcpt": "yes",
    "in_class": "check_sender_access inline:{{bad@s.example=REJECT by class}}",
    "smtpd_restriction_classes": "in_class",
    "smtpd_sender_login_maps": "inline:{{alice@local.example=alice}, {bob@s.example=bob, alice2}, "
    "{@owned.example=alice}}",
}

ACCESS = (
    "inline:{{reject.example=REJECT}, {why.example=REJECT 5.1.8 not you}, {c550.example=550 5.2.1 No such}, "
    "{c521.example=521 gone}, {c450.example=450 later}, {c299.example=299 what}, {c550e.example=550}, "
    "{defer.example=DEFER}, {ok.example=OK}, {dunno.example=DUNNO}, "
    "{dip.example=DEFER_IF_PERMIT 4.7.9 maybe}, {dir.example=DEFER_IF_REJECT}, "
    "{list.example=reject_non_fqdn_sender, reject}, {num.example=1234}, "
    "{class.example=in_class}, {map.example=hash:/x}, {unk.example=no_such_thing}, {warn.example=WARN look}, "
    "{info.example=INFO here}, {full@u.example=REJECT full}, {user@=REJECT local part}, "
    "{u.example=REJECT domain}, {x512.example=550 5.1.2 a}, "
    "{wdip.example=warn_if_reject defer_if_permit}, {deep.example=check}, {<>=REJECT null}}"
)


def rcpt(name: str, text: str, *recipients: str, **more: Any) -> Case:
    settings = {
        "smtpd_relay_restrictions": "check_client_access static:OK, reject",
        "smtpd_recipient_restrictions": text,
    }
    settings |= more.pop("settings", {})
    return Case(name, settings, recipients=recipients or ("<r@remote.example>",), **more)


ALICE = {"NAME": "client.example.net", "ADDR": "192.0.2.9", "LOGIN": "alice"}
INSIDE = {"NAME": "inside.example.net", "ADDR": "10.1.2.3"}
EVERYWHERE = ("<known@local.example>", "<nobody@local.example>", "<there@alias.example>",
              "<no@alias.example>",
              "<user@box.example>", "<USER+x@Box.example>", "<no@box.example>", "<user@relay.example>",
              "<no@relay.example>", "<x@remote.example>", "<x%remote.example@local.example>",
              "<postmaster>", "<known>", "<@a,@b:x@remote.example>", '<"x@remote.example"@relay.example>',
              "<x!y@relay.example>", "<postmaster@local.example>", "<root@[127.0.0.1]>")  # fmt: skip
ACCESS_DOMAINS = re.findall(r"[{ ]([a-z0-9]+\.example)=", ACCESS)
LOGIN = "reject_sender_login_mismatch, reject_unauth_destination"

CASES = [
    rcpt("auth_destination", "reject_unauth_destination", *EVERYWHERE),
    rcpt("defer_destination", "defer_unauth_destination", *EVERYWHERE[:10]),
    rcpt("permit_destination", "permit_auth_destination, reject", *EVERYWHERE[:12]),
    rcpt("codes", "reject_unauth_destination", settings={"relay_domains_reject_code": "521"}),
    rcpt("bad_code", "reject_unauth_destination", settings={"relay_domains_reject_code": "299"}),
    rcpt("soft", "reject_unauth_destination", settings={"soft_bounce": "yes"}),
    rcpt("order", "reject", settings={"smtpd_relay_restrictions": "defer_unauth_destination"}),
    rcpt("order_back", "reject", settings={"smtpd_relay_restrictions": "defer_unauth_destination",
                                           "smtpd_relay_before_recipient_restrictions": "no"}),
    rcpt("networks", "permit_mynetworks, reject", client=INSIDE),
    rcpt("networks_not", "permit_mynetworks, reject"),
    rcpt("sasl", "permit_sasl_authenticated, reject", client=ALICE),
    rcpt("defer", "defer, permit"),
    rcpt("defer_if_permit", "defer_if_permit, permit_mynetworks, reject", client=INSIDE),
    rcpt("defer_if_permit_not", "defer_if_permit, reject"),
    rcpt("defer_if_reject", "defer_if_reject, reject"),
    rcpt("both", "defer_if_reject, defer_if_permit, reject, permit"),
    rcpt("warn", "warn_if_reject reject, warn_if_reject reject_unauth_destination, defer"),
    rcpt("warn_class", "warn_if_reject in_class, reject_unauth_destination", sender="<bad@s.example>"),
    rcpt("class", "in_class, reject", sender="<bad@s.example>"),
    rcpt("warn_defer", "warn_if_reject defer_if_permit, reject"),
    rcpt("unknown", "no_such_restriction, reject"),
    rcpt("no_argument", "check_sender_access, reject"),
    rcpt("warn_unknown", "warn_if_reject no_such_restriction, reject"),
    rcpt("plaintext", "reject_plaintext_session, reject"),
    rcpt("fqdn_rcpt", "reject_non_fqdn_recipient, reject", "<x@host>", "<x>", "<x@a.b.>", "<x@[1.2.3.4]>"),
    rcpt("fqdn_sender", "reject_non_fqdn_sender, reject", sender="<x@host>"),
    rcpt("fqdn_null", "reject_non_fqdn_sender, reject", sender="<>"),
    rcpt("unlisted_sender", "reject_unlisted_sender, permit", sender="<no@local.example>"),
    rcpt("unlisted_sender_auto", "permit", sender="<no@alias.example>",
         settings={"smtpd_reject_unlisted_sender": "yes"}),
    rcpt("transports", "permit", "<shut@local.example>", "<r@shut.example>", "<r@late.example>",
         "<user@relay.example>", "<r@x.sub.example>", "<r@sub.example>", "<no@alias.example>",
         "<known@local.example>", "<SHUT+ext@Local.example>"),
    rcpt("transports_of_senders", "permit", sender="<r@shut.example>",
         settings={"smtpd_reject_unlisted_sender": "yes"}),
    rcpt("transports_later", "permit", sender="<r@late.example>",
         settings={"smtpd_reject_unlisted_sender": "yes"}),
    rcpt("unlisted_off", "permit", *EVERYWHERE[:4], settings={"smtpd_reject_unlisted_recipient": "no"}),
    rcpt("unlisted_hidden", "permit", *EVERYWHERE[:9], settings={"show_user_unknown_table_name": "no"}),
    rcpt("unlisted_error", "permit", "<x@local.example>", "<x@relay.example>", "<x@remote.example>",
         settings={"local_transport": "error:5.7.0 local mail is off", "relay_transport": "retry:not now",
                   "default_transport": "error:no way"}),
    rcpt("override", "permit", *EVERYWHERE[:4],
         settings={"receive_override_options": "no_unknown_recipient_checks"}),
    *(rcpt(f"rcpt_access_{n}", f"check_recipient_access {ACCESS}, permit", f"<u@{d}>", f"<u@sub.{d}>")
      for n, d in enumerate(ACCESS_DOMAINS)),
    *(Case(f"from_access_{n}", {"smtpd_sender_restrictions": f"check_sender_access {ACCESS}"},
           sender=f"<u@{d}>", recipients=("<known@local.example>",)) for n, d in enumerate(ACCESS_DOMAINS)),
    *(Case(f"helo_access_{n}", {"smtpd_helo_restrictions": ACCESS}, helo=f"h.{d}",
           recipients=("<known@local.example>",)) for n, d in enumerate(ACCESS_DOMAINS)),
    *(Case(f"client_access_{n}", {"smtpd_client_restrictions": ACCESS},
           client={"NAME": f"h.{d}", "ADDR": "192.0.2.9"}, recipients=("<known@local.example>",))
      for n, d in enumerate(ACCESS_DOMAINS)),
    rcpt("access_keys", f"check_recipient_access {ACCESS}, permit", "<full@u.example>", "<full+x@u.example>",
         "<other@u.example>", "<user@remote.example>", "<user+x@remote.example>", "<User+x@x.u.example>"),
    Case("access_null", {"smtpd_sender_restrictions": f"check_sender_access {ACCESS}"}, sender="<>"),
    Case("access_address", {"smtpd_client_restrictions": "check_client_access inline:{{192.0=REJECT net}}"}),
    Case("access_sasl", {"smtpd_client_restrictions": "check_sasl_access inline:{{alice=REJECT 5.1.1 go}}"},
         client=ALICE),
    Case("access_broken", {"smtpd_sender_restrictions": "check_sender_access fail:1.2.3.4"}),
    Case("access_broken_warn", {"smtpd_sender_restrictions": "warn_if_reject check_sender_access fail:x"}),
    Case("networks_broken", {"mynetworks": "fail:x",
                             "smtpd_relay_restrictions": "permit_mynetworks, reject"}),
    Case("login_broken", {"smtpd_sender_login_maps": "fail:x", "smtpd_relay_restrictions": LOGIN},
         client=ALICE),
    Case("listed_broken", {"virtual_alias_maps": "fail:x"}, recipients=("<known@local.example>",)),
    *(Case(f"login_{n}_{who}", {"smtpd_sender_restrictions": text}, sender=sender,
           recipients=("<known@local.example>",), client=client)
      for who, client in (("in", ALICE), ("out", INSIDE))
      for n, (text, sender) in enumerate(
          (t, s)
          for t in ("reject_sender_login_mismatch", "reject_known_sender_login_mismatch",
                    "reject_authenticated_sender_login_mismatch",
                    "reject_unauthenticated_sender_login_mismatch")
          for s in ("<alice@local.example>", "<ALICE+x@Local.example>", "<bob@s.example>",
                    "<x@owned.example>", "<nobody@s.example>", "<>", "<alice>"))),
    Case("login_empty", {"smtpd_sender_restrictions": LOGIN, "smtpd_sender_login_maps": ""}, client=ALICE),
    *(Case(f"helo_{n}",
           {"smtpd_helo_restrictions": "reject_invalid_helo_hostname, reject_non_fqdn_helo_hostname"},
           helo=helo, recipients=("<known@local.example>",))
      for n, helo in enumerate(("a_b.c", "host", "a.b.", "-a.b", "[1.2.3.4]", "[1.2.3]", "1.2.3.4", "a..b",
                                "[IPv6:::1]", "a@b.c", "[1.2.3.4", "x" * 64 + ".com"))),
    *(Case(f"codes_helo_{n}",
           {"smtpd_helo_restrictions": "reject_invalid_helo_hostname, reject_non_fqdn_helo_hostname",
            "invalid_hostname_reject_code": "555", "non_fqdn_reject_code": "421"},
           helo=helo, recipients=("<known@local.example>",))
      for n, helo in enumerate(("a..b", "host", "[1]"))),
    Case("codes_client", {"smtpd_client_restrictions": "reject_unknown_client_hostname",
                          "unknown_client_reject_code": "553"},
         client={"NAME": "[UNAVAILABLE]", "ADDR": "192.0.2.9"}, recipients=("<known@local.example>",)),
    Case("codes_reverse", {"smtpd_client_restrictions": "reject_unknown_reverse_client_hostname",
                           "unknown_client_reject_code": "553"},
         client={"NAME": "[UNAVAILABLE]", "REVERSE_NAME": "[UNAVAILABLE]", "ADDR": "192.0.2.9"},
         recipients=("<known@local.example>",)),
    rcpt("codes_unlisted", "permit", *EVERYWHERE[:10],
         settings={"unknown_local_recipient_reject_code": "450",
                   "unknown_virtual_alias_reject_code": "551",
                   "unknown_virtual_mailbox_reject_code": "552",
                   "unknown_relay_recipient_reject_code": "553"}),
    rcpt("codes_plaintext", "reject_plaintext_session", settings={"plaintext_reject_code": "530"}),
    rcpt("codes_defer", "defer", settings={"defer_code": "451"}),
    rcpt("codes_reject", "reject", settings={"reject_code": "521"}),
    rcpt("codes_soft", "reject", settings={"reject_code": "521", "soft_bounce": "yes"}),
    rcpt("codes_access", f"check_recipient_access {ACCESS}", "<x@reject.example>", "<x@defer.example>",
         "<x@dip.example>", settings={"access_map_reject_code": "571", "access_map_defer_code": "471"}),
    Case("codes_bounce", {"smtpd_data_restrictions": "reject_multi_recipient_bounce",
                          "multi_recipient_bounce_reject_code": "450"}, sender="<>",
         recipients=("<known@local.example>", "<user@box.example>")),
    Case("delayed", {"smtpd_client_restrictions": "reject"}),
    Case("delayed_helo", {"smtpd_helo_restrictions": "defer"}),
    Case("at_mail", {"smtpd_sender_restrictions": "reject", "smtpd_delay_reject": "no"}),
    Case("carried", {"smtpd_client_restrictions": "defer_if_permit", "smtpd_delay_reject": "no",
                     "smtpd_relay_restrictions": "check_client_access static:OK, reject",
                     "smtpd_recipient_restrictions": "defer_if_reject, permit"}),
    Case("data", {"smtpd_data_restrictions": "reject"}, recipients=("<known@local.example>",)),
    Case("data_many", {"smtpd_data_restrictions": "warn_if_reject reject, defer_if_permit"},
         recipients=("<known@local.example>", "<user@box.example>")),
    Case("data_table", {"smtpd_data_restrictions": "inline:{{x=y}}"}, recipients=("<known@local.example>",)),
    Case("bounce", {"smtpd_data_restrictions": "reject_multi_recipient_bounce"}, sender="<>",
         recipients=("<known@local.example>", "<user@box.example>")),
    Case("permits", {"smtpd_log_access_permit_actions": "permit_mynetworks, ok, permit_auth_destination",
                     "smtpd_relay_restrictions": "permit_mynetworks, reject",
                     "smtpd_recipient_restrictions": "check_recipient_access inline:{{remote.example=OK}}"},
         client=INSIDE),
    Case("ignored", {"smtpd_relay_restrictions": "permit_mynetworks, reject, permit",
                     "smtpd_client_restrictions": "permit, reject"}),
]  # fmt: skip


WORTH = re.compile(r"NOQUEUE: |warning: (unknown|restriction|access|do not|define|SMTP|DSN|specify)|mapping")


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    with running(MAIN, CASES) as postfix:
        yield postfix


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_same(postfix: Postfix, case: Case) -> None:
    compare(postfix, MAIN, case, WORTH)
