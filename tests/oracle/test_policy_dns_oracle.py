"""Restrictions that ask the DNS: the installed Postfix and our evaluator, with the same name server data.

Postfix runs in a network of the test's own (:mod:`oracle.names`); our evaluator gets the same data from
:class:`~zone_resolver.ZoneResolver`.  That the daemon's own resolver finds the same is shown in
``test_dialogue_dns.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from oracle.names import Names
from oracle.policy_cases import Case, compare, running
from oracle.postfix import Postfix
from zone_resolver import ZoneResolver

ZONE = """
good.example            MX    10 mx.good.example
good.example            NS    ns.good.example
mx.good.example         A     192.0.2.25
ns.good.example         A     192.0.2.53
many.example            MX    20 backup.example
many.example            MX    10 mx.good.example
many.example            NS    ns.good.example
backup.example          A     192.0.2.26
backup.example          AAAA  2001:db8::26
host.good.example       A     192.0.2.10
six.good.example        AAAA  2001:db8::10
alias.good.example      CNAME host.good.example
text.good.example       TXT   "no address"
null.example            MX    0 .
null.example            A     192.0.2.11
mixed.example           MX    0 .
mixed.example           MX    10 mx.good.example
odd.example             MX    10 bad!name.example
odd.example             A     192.0.2.12
number.example          MX    10 192.0.2.25
lost.example            MX    10 nowhere.example
lost.example            NS    nowhere.example
failing.example         SERVFAIL
failmx.example          A     192.0.2.13
failmx.example          SERVFAIL MX
faila.example           SERVFAIL A
faila.example           TXT   "there"
refused.example         REFUSED
toserv.example          MX    10 broken.failing.example
broken.failing.example  SERVFAIL
deep.sub.good.example   A     192.0.2.14
9.2.0.192.bl.example    A     127.0.0.2
9.2.0.192.bl.example    TXT   "listed here"
9.2.0.192.multi.example A     127.0.0.4
9.2.0.192.multi.example A     127.0.0.11
9.2.0.192.multi.example TXT   "one"
9.2.0.192.multi.example TXT   "two parts"
9.2.0.192.bare.example  A     127.0.0.2
9.2.0.192.down.example  SERVFAIL
9.2.0.192.notxt.example A     127.0.0.2
9.2.0.192.notxt.example SERVFAIL TXT
9.2.0.192.long.example  A     127.0.0.2
9.2.0.192.long.example  TXT   "{long}"
9.2.0.192.long.example  TXT   "{long}"
9.2.0.192.long.example  TXT   "never seen"
9.2.0.192.odd.bl.example A    127.0.0.2
9.2.0.192.odd.bl.example TXT  "tab\there `quotes` <angle> $dollar"
1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.bl.example A 127.0.0.2
bad.example.rhs.example A     127.0.0.2
bad.example.rhs.example TXT   "bad domain"
good.example.rhs.example A    127.0.0.9
client.example.net.rhs.example A 127.0.0.2
xn--bcher-kva.example.rhs.example A 127.0.0.2
failing.example.rhs.example SERVFAIL
ours.example            MX    10 best.example
ours.example            MX    20 mail.example.com
best.example            A     198.51.100.1
best.example            A     198.51.100.2
byaddress.example       MX    10 best.example
byaddress.example       MX    20 me.example
me.example              A     127.0.0.1
primary.example         MX    10 mail.example.com
primary.example         MX    20 best.example
nobody.example          MX    10 nowhere.example
nobody.example          MX    20 mail.example.com
stale.example           MX    10 broken.failing.example
stale.example           MX    20 mail.example.com
mail.example.com        A     203.0.113.1
client.example.net      A     192.0.2.9
client.example.net      MX    10 mx.good.example
example.net             NS    ns.good.example
""".replace("{long}", "a reason that goes on and on, " * 5)

MAIN = {
    "compatibility_level": "3.6",
    "myhostname": "mail.example.com",
    "mydestination": "local.example, mail.example.com",
    "local_recipient_maps": "",
    "virtual_alias_domains": "alias.example",
    "relay_domains": "relay.example, null.relay.example",
    "mynetworks": "10.0.0.0/8",
    "inet_interfaces": "127.0.0.1",
    "inet_protocols": "all",
    "smtpd_authorized_xclient_hosts": "127.0.0.1",
    "smtpd_sasl_auth_enable": "yes",
    "smtpd_peername_lookup": "no",
    "smtpd_error_sleep_time": "0",
    "smtpd_recipient_restrictions": "reject_unauth_destination",
}

CLIENT = {"NAME": "client.example.net", "ADDR": "192.0.2.9"}
V6 = {"NAME": "six.example.net", "ADDR": "IPV6:2001:db8::1"}
UNKNOWN = {"NAME": "[UNAVAILABLE]", "ADDR": "192.0.2.9"}
LISTED = (
    "inline:{{192.0.2.25=REJECT address}, {ns.good.example=450 4.7.1 name server}, {192.0.2.53=DEFER}, "
    "{192.0.2.26=DUNNO}, {2001:db8=REJECT network}, {192.0.2.10=REJECT host}, "
    "{nowhere.example=REJECT 5.1.2 no}}"
)
OKAY = "inline:{{192.0.2.25=OK}, {192.0.2.53=OK}, {192.0.2.10=OK}}"
DOMAINS = (
    "good", "many", "null", "mixed", "odd", "number", "lost", "failing", "failmx", "faila", "refused",
    "toserv", "nowhere", "deep.sub.good", "text.good", "alias.good", "six.good", "host.good",
)  # fmt: skip


def to(name: str, recipients: str, *addresses: str, **more: Any) -> Case:
    """A case about recipients that may all be relayed to."""
    settings = {
        "smtpd_relay_restrictions": "check_client_access static:OK, reject",
        "smtpd_recipient_restrictions": recipients,
    }
    settings |= more.pop("settings", {})
    more.setdefault("client", CLIENT)
    return Case(name, settings, recipients=addresses or ("<r@remote.example>",), **more)


def patterns(*texts: str) -> list[Case]:
    return [to(f"pattern_{n}", f"reject_rbl_client multi.example={text}") for n, text in enumerate(texts)]


MAPS = "texthash:{dir}/rbl"
FILES = {
    "rbl": """\
bl.example              $rbl_code $rbl_class <$rbl_what> is in $rbl_domain because $rbl_reason / $rbl_txt
multi.example=127.0.0.4 521 5.3.2 by pattern $rbl_domain $client $client_name $client_address $helo_name
multi.example           451 4.7.0 ${rbl_reason?reason}${rbl_none:none} $sender $sender_name $sender_domain
  $recipient $recipient_name $recipient_domain $reverse_client_name $server_name
bare.example            no code at all
notxt.example           $rbl_code $no_such_name
long.example            554
rhs.example             550 5.1.8 $rbl_class $rbl_what
""",
    "filter0": "/ IN MX / IGNORE",
    "filter1": r"/ IN A 192\.0\.2\.10$/ ignore",
    "filter2": "/ IN MX / OOPS",
    "filter3": r"/^good\.example\. [0-9]+ IN MX 10 mx\.good\.example\.$/ IGNORE",
    "filter4": "/ IN NS / IGNORE",
    "filter5": r"/ IN A 127\.0\.0\.2$/ IGNORE",
    "filter6": "/ IN TXT listed here$/ IGNORE",
}
LISTS = ("bl", "multi", "bare", "down", "notxt", "long", "odd.bl", "none")

CASES = [
    to("unknown_recipient", "reject_unknown_recipient_domain", *(f"<r@{d}.example>" for d in DOMAINS)),
    to("unknown_recipient_more", "reject_unknown_recipient_domain", "<r@[192.0.2.1]>", "<r@local.example>",
       "<r@relay.example>", "<r>", "<r@a_b.example>", "<r@alias.example>"),
    *(Case(f"unknown_sender_{n}", {"smtpd_sender_restrictions": "reject_unknown_sender_domain"},
           sender=f"<s@{domain}.example>", recipients=("<r@local.example>",), client=CLIENT)
      for n, domain in enumerate(DOMAINS)),
    *(Case(f"unknown_sender_defer_{n}", {"smtpd_sender_restrictions": "reject_unknown_sender_domain",
                                         "unknown_address_tempfail_action": "defer",
                                         "unknown_address_reject_code": "554"},
           sender=f"<s@{domain}.example>", recipients=("<r@local.example>",), client=CLIENT)
      for n, domain in enumerate(("failing", "nowhere", "null", "odd", "refused"))),
    *(Case(f"unknown_helo_{n}", {"smtpd_helo_restrictions": "reject_unknown_helo_hostname"},
           helo=helo, recipients=("<r@local.example>",), client=CLIENT)
      for n, helo in enumerate((*(f"{d}.example" for d in DOMAINS), "[1.2.3.4]", "[1.2.3]", "1.2.3.4", "a..b",
                                "host"))),
    Case("unknown_helo_defer", {"smtpd_helo_restrictions": "reject_unknown_helo_hostname",
                                "reject_tempfail_action": "defer", "unknown_hostname_reject_code": "550"},
         helo="failing.example", recipients=("<r@local.example>",), client=CLIENT),
    Case("unknown_helo_code", {"smtpd_helo_restrictions": "reject_unknown_helo_hostname",
                               "unknown_hostname_reject_code": "550"},
         helo="nowhere.example", recipients=("<r@local.example>",), client=CLIENT),
    to("tempfail_warn", "warn_if_reject reject_unknown_recipient_domain, permit", "<r@failing.example>",
       "<r@nowhere.example>"),
    to("tempfail_then_reject", "reject_unknown_recipient_domain, reject", "<r@failing.example>"),
    Case("null_address", {"smtpd_sender_restrictions": "reject_unknown_sender_domain, "
                                                       f"check_sender_mx_access {LISTED}"},
         sender="<>", recipients=("<r@local.example>",), client=CLIENT),
    Case("old_names", {"smtpd_sender_restrictions": "reject_unknown_address"}, sender="<s@nowhere.example>",
         recipients=("<r@local.example>",), client=CLIENT),
    Case("old_helo", {"smtpd_helo_restrictions": "reject_unknown_hostname"}, helo="nowhere.example",
         recipients=("<r@local.example>",), client=CLIENT),
    *(to(f"recipient_{record}", f"check_recipient_{record}_access {LISTED}",
         *(f"<r@{d}.example>" for d in DOMAINS), "<r@[192.0.2.25]>", "<r@[192.0.2.9]>",
         "<r@[IPv6:2001:db8::1]>", "<r@example>")
      for record in ("a", "mx", "ns")),
    *(Case(f"helo_{record}_{n}", {"smtpd_helo_restrictions": f"check_helo_{record}_access {LISTED}"},
           helo=helo, recipients=("<r@local.example>",), client=CLIENT)
      for record, (n, helo) in product(("a", "mx", "ns"), enumerate(
          ("good.example", "host.good.example", "nowhere.example", "[192.0.2.25]", "192.0.2.25",
           "toserv.example", "failing.example", "x@good.example", "six.good.example")))),
    *(Case(f"{what}_{record}", {"smtpd_client_restrictions": f"check_{what}_{record}_access {LISTED}"},
           recipients=("<r@local.example>",), client=CLIENT)
      for what, record in product(("client", "reverse_client_hostname"), ("a", "mx", "ns"))),
    Case("client_a_host", {"smtpd_client_restrictions": f"check_client_a_access {LISTED}"},
         recipients=("<r@local.example>",), client={**CLIENT, "NAME": "host.good.example"}),
    Case("sender_mx", {"smtpd_sender_restrictions": f"check_sender_mx_access {LISTED}"},
         sender="<s@good.example>", recipients=("<r@local.example>",), client=CLIENT),
    Case("sender_ns", {"smtpd_sender_restrictions": f"check_sender_ns_access {LISTED}"},
         sender="<s@deep.sub.good.example>", recipients=("<r@local.example>",), client=CLIENT),
    Case("sender_a", {"smtpd_sender_restrictions": f"check_sender_a_access {LISTED}"},
         sender="<s@host.good.example>", recipients=("<r@local.example>",), client=CLIENT),
    to("no_ok_mx", f"check_recipient_mx_access {OKAY}", "<r@good.example>"),
    to("no_ok_ns", f"check_recipient_ns_access {OKAY}", "<r@good.example>"),
    to("no_ok_a", f"check_recipient_a_access {OKAY}", "<r@host.good.example>"),
    to("servers_broken", "check_recipient_mx_access fail:x", "<r@good.example>"),
    # block lists
    to("rbl", ", ".join(f"reject_rbl_client {name}.example" for name in ("none", "down", "bl"))),
    *(to(f"rbl_{name}", f"reject_rbl_client {name}.example") for name in LISTS),
    *(to(f"rbl_maps_{name}", f"reject_rbl_client {name}.example", settings={"rbl_reply_maps": MAPS},
         sender="<s@x.example>") for name in LISTS),
    to("rbl_maps_pattern", "reject_rbl_client multi.example=127.0.0.4", settings={"rbl_reply_maps": MAPS}),
    to("rbl_maps_broken", "reject_rbl_client bl.example", settings={"rbl_reply_maps": "fail:x"}),
    *(to(f"rbl_default_{n}", "reject_rbl_client bl.example", settings={"default_rbl_reply": text})
      for n, text in enumerate(("$rbl_code 5.7.9 go away", "450 $rbl_domain", "250 fine", "x", "554 5.1.1 a",
                                "554", "$rbl_code $rbl_class $rbl_reason;${rbl_txt?yes}"))),
    to("rbl_code", "reject_rbl_client bl.example", settings={"maps_rbl_reject_code": "450"}),
    to("rbl_filter", "reject_rbl_client bl.example", settings={"smtpd_expansion_filter": "abcdefgh"}),
    to("rbl_warn", "warn_if_reject reject_rbl_client bl.example, permit"),
    to("rbl_old_name", "reject_rbl bl.example"),
    to("rbl_none_given", "reject_rbl_client"),
    to("rbl_v6", "reject_rbl_client bl.example", client=V6),
    *patterns("127.0.0.4", "127.0.0.[1..10]", "127.0.0.[5;6;11]", "127.0.0.[12..255]", "[127.0.0.4]",
              "127.[0..1].0.[2;4]", "127.0.0.5"),
    *(to(f"rhsbl_{n}", f"reject_rhsbl_{what} rhs.example", "<r@bad.example>", "<r@x.example>",
         "<r@[1.2.3.4]>", "<r@x.123>", sender="<s@bad.example>", helo="bad.example",
         settings={"rbl_reply_maps": maps})
      for n, (what, maps) in enumerate(product(("client", "reverse_client", "helo", "sender", "recipient"),
                                               ("", MAPS)))),
    to("rhsbl_failing", "reject_rhsbl_sender rhs.example", sender="<s@failing.example>"),
    to("rhsbl_pattern", "reject_rhsbl_sender rhs.example=127.0.0.2", sender="<s@good.example>"),
    to("rhsbl_null", "reject_rhsbl_sender rhs.example", sender="<>"),
    to("rhsbl_unknown", "reject_rhsbl_client rhs.example, reject_rhsbl_reverse_client rhs.example",
       client=UNKNOWN),
    to("dnswl", "permit_dnswl_client bl.example, reject", "<r@local.example>", "<r@remote.example>"),
    to("dnswl_down", "permit_dnswl_client down.example, reject", "<r@local.example>", "<r@remote.example>"),
    to("dnswl_none", "permit_dnswl_client none.example, reject", "<r@local.example>"),
    to("dnswl_pattern", "permit_dnswl_client multi.example=127.0.0.9, permit_dnswl_client "
       "multi.example=127.0.0.11, reject", "<r@local.example>"),
    to("rhswl", "permit_rhswl_client rhs.example, reject", "<r@local.example>", "<r@remote.example>"),
    to("rhswl_unknown", "permit_rhswl_client rhs.example, reject", "<r@local.example>", client=UNKNOWN),
    Case("dnswl_client", {"smtpd_client_restrictions": "permit_dnswl_client bl.example, reject"},
         recipients=("<r@local.example>",), client=CLIENT),
    to("dnswl_logged", "permit_dnswl_client bl.example, reject", "<r@local.example>",
       settings={"smtpd_log_access_permit_actions": "static:all"}),
    # backup servers
    *(Case(f"backup_{n}", {"smtpd_relay_restrictions": "permit_mx_backup, reject_unauth_destination",
                           "smtpd_recipient_restrictions": "", **more},
           recipients=tuple(f"<r@{d}.example>" for d in
                            ("ours", "byaddress", "primary", "nobody", "stale", "failing", "good", "null",
                             "local", "relay", "nowhere", "odd")), client=CLIENT)
      for n, more in enumerate(({}, {"permit_mx_backup_networks": "198.51.100.0/24"},
                                {"permit_mx_backup_networks": "198.51.100.1"},
                                {"permit_mx_backup_networks": "best.example"},
                                {"permit_mx_backup_networks": "fail:x"},
                                {"smtpd_log_access_permit_actions": "static:all"}))),
    # the reply filter
    *(to(f"filter_{n}", restriction, "<r@good.example>", "<r@null.example>", "<r@host.good.example>",
         settings={"smtpd_dns_reply_filter": f"regexp:{{dir}}/filter{which}"})
      for n, (restriction, which) in enumerate((
          ("reject_unknown_recipient_domain", 0),
          ("reject_unknown_recipient_domain", 1),
          ("reject_unknown_recipient_domain", 2),
          (f"check_recipient_mx_access {LISTED}", 3),
          (f"check_recipient_ns_access {LISTED}", 4),
          ("reject_rbl_client bl.example", 5),
          ("reject_rbl_client bl.example", 6),
          ("permit_mx_backup, reject", 0)))),
]  # fmt: skip

WORTH = re.compile(
    r"NOQUEUE: |mapping|ignoring DNS|warning: (?!connect|hostname|valid_hostname"
    r"|Application error$"  # of mtad's: why a table fails
    r"|support for restriction .permit_mx_backup)"  # since 3.9
)


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    with Names(ZONE), running(MAIN, CASES, FILES) as postfix:
        yield postfix


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_same(postfix: Postfix, case: Case) -> None:
    compare(postfix, MAIN, case, WORTH, ZoneResolver(ZONE))
