"""Restriction lists made up at random: the installed Postfix and our evaluator must come to the same.

Not among them: ``permit_inet_interfaces``, which Postfix asks about the proxy after XCLIENT, mtad about the
client; and ``reject_unlisted_sender`` before the sender list, where Postfix forgets it for later
recipients.

What a seed makes stays the same for ever; :data:`SEEDS` are those that are tried.  ``POLICY_SEEDS=100-200``
in the environment tries others."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from random import Random

import pytest
from oracle.names import Names
from oracle.policy_cases import Case, compare, fatal, running
from oracle.postfix import Postfix
from zone_resolver import ZoneResolver

from mtad.errors import ConfigError

ZONE = """
good.example            MX    10 mx.good.example
mx.good.example         A     192.0.2.25
good.example            NS    ns.good.example
ns.good.example         A     192.0.2.53
null.example            MX    0 .
failing.example         SERVFAIL
client.example.net      A     192.0.2.9
client.example.net      MX    10 mx.good.example
9.2.0.192.bl.example    A     127.0.0.2
9.2.0.192.bl.example    TXT   "listed"
9.2.0.192.down.example  SERVFAIL
good.example.rhs.example A    127.0.0.2
"""

RESULTS = (
    "OK", "DUNNO", "REJECT", "REJECT 5.1.1 no", "DEFER", "DEFER_IF_PERMIT later", "DEFER_IF_REJECT not now",
    "450 4.2.1 busy", "550 gone", "521 5.3.2 never", "HOLD", "DISCARD", "WARN look", "INFO see", "one", "two",
    "reject_unauth_destination", "warn_if_reject reject", "permit", "defer_if_reject, defer_if_permit", "123",
    "REDIRECT x@y.example", "PREPEND X: y", "no_such_thing",
)  # fmt: skip
KEYS = (
    "good.example", "null.example", "local.example", "remote.example", "client.example.net", "192.0.2",
    "known@", "s@", "host", "10.0.0", "mx.good.example", "192.0.2.25", "ns.good.example", "<>", "unknown",
)  # fmt: skip
PLAIN = (
    "permit", "reject", "defer", "defer_if_permit", "defer_if_reject", "warn_if_reject", "warn_if_reject",
    "reject_unauth_destination", "defer_unauth_destination", "permit_auth_destination", "permit_mynetworks",
    "permit_sasl_authenticated", "reject_non_fqdn_sender", "reject_non_fqdn_recipient",
    "reject_non_fqdn_helo_hostname", "reject_invalid_helo_hostname", "reject_unknown_sender_domain",
    "reject_unknown_recipient_domain", "reject_unknown_helo_hostname", "reject_unknown_client_hostname",
    "reject_unlisted_recipient", "reject_unlisted_sender", "reject_plaintext_session",
    "reject_multi_recipient_bounce", "reject_sender_login_mismatch",
    "reject_known_sender_login_mismatch",
    "one", "two", "reject_rbl_client bl.example", "reject_rbl_client down.example",
    "reject_rhsbl_sender rhs.example", "permit_dnswl_client bl.example", "permit_dnswl_client down.example",
)  # fmt: skip
TABLES = (
    "check_client_access", "check_helo_access", "check_sender_access", "check_recipient_access",
    "check_sender_mx_access", "check_recipient_ns_access", "check_client_mx_access", "check_sasl_access", "",
)  # fmt: skip
CLIENTS = (
    {"NAME": "client.example.net", "ADDR": "192.0.2.9"},
    {"NAME": "client.example.net", "ADDR": "192.0.2.9", "LOGIN": "alice"},
    {"NAME": "[UNAVAILABLE]", "ADDR": "192.0.2.9"},
    {"NAME": "inside.example.net", "ADDR": "10.0.0.1"},
)
HELOS = ("client.example.net", "host", "failing.example", "[192.0.2.9]", "good.example")
SENDERS = ("<s@good.example>", "<s@null.example>", "<s@failing.example>", "<known@local.example>", "<>",
           "<no@local.example>", "<s@host>")  # fmt: skip
RECIPIENTS = ("<known@local.example>", "<no@local.example>", "<r@remote.example>", "<r@good.example>",
              "<r@failing.example>", "<user@relay.example>", "<r@host>", "<postmaster>")  # fmt: skip

MAIN = {
    "compatibility_level": "3.6",
    "myhostname": "mail.example.com",
    "mydestination": "local.example",
    "local_recipient_maps": "inline:{{known=x}}",
    "relay_domains": "relay.example",
    "mynetworks": "10.0.0.0/8",
    "inet_interfaces": "127.0.0.1",
    "smtpd_authorized_xclient_hosts": "127.0.0.1",
    "smtpd_sasl_auth_enable": "yes",
    "smtpd_peername_lookup": "no",
    "smtpd_error_sleep_time": "0",
    "smtpd_hard_error_limit": "100",
    "smtpd_delay_open_until_valid_rcpt": "yes",
    "smtpd_sender_login_maps": "inline:{{known@local.example=alice}, {s@good.example=bob}}",
    "smtpd_restriction_classes": "one, two",
    "one": "check_sender_access inline:{{good.example=DEFER_IF_PERMIT 4.7.9 one}, "
    "{null.example=REJECT by one}}, warn_if_reject reject_unauth_destination",
    "two": "one, defer_if_reject, check_recipient_access inline:{{remote.example=450 two}, "
    "{local.example=OK}}",
    "smtpd_recipient_restrictions": "reject_unauth_destination",
}

WORTH = re.compile(
    r"[^ ]+: (reject|reject_warning|hold|discard|redirect|warn|info|permit): |mapping|"
    r"warning: (?!connect|hostname"
    r"|.*: RBL lookup error)"  # Postfix says that once a process, mtad once a session
)


def table(random: Random) -> str:
    keys = random.sample(KEYS, random.randint(1, 4))
    return "inline:{" + ", ".join(f"{{{key}={random.choice(RESULTS)}}}" for key in keys) + "}"


def restrictions(random: Random, most: int, bare: bool = True, unlisted: bool = True) -> str:
    words = []
    for _ in range(random.randint(0, most)):
        if random.random() < 0.4:
            name = random.choice(TABLES if bare else TABLES[:-1])
            words.append(f"{name} {table(random)}".strip())
        else:
            words.append(random.choice(PLAIN))
    return ", ".join(word for word in words if unlisted or word != "reject_unlisted_sender")


def made(seed: int) -> list[Case]:
    """A service and three sessions with it."""
    random = Random(seed)
    settings = {
        "smtpd_client_restrictions": restrictions(random, 2, unlisted=False),
        "smtpd_helo_restrictions": restrictions(random, 2, unlisted=False),
        "smtpd_sender_restrictions": restrictions(random, 3),
        "smtpd_relay_restrictions": restrictions(random, 3),
        "smtpd_recipient_restrictions": restrictions(random, 4),
        "smtpd_data_restrictions": restrictions(random, 1, bare=False),
    }
    last = random.choice(("smtpd_relay_restrictions", "smtpd_recipient_restrictions"))
    settings[last] = ", ".join(
        filter(None, (settings[last].replace("permit,", ""), "reject_unauth_destination"))
    )
    for name in ("smtpd_delay_reject", "smtpd_relay_before_recipient_restrictions"):
        if random.random() < 0.3:
            settings[name] = "no"
    if settings.get("smtpd_delay_reject") == "no":
        settings["smtpd_client_restrictions"] = ""  # they would be about our connection, before XCLIENT
    for name in ("soft_bounce", "smtpd_reject_unlisted_sender"):
        if random.random() < 0.2:
            settings[name] = "yes"
    if random.random() < 0.3:
        settings["smtpd_log_access_permit_actions"] = "static:all"
    return [
        Case(
            f"{seed}.{number}",
            settings,
            sender=random.choice(SENDERS),
            recipients=tuple(random.choice(RECIPIENTS) for _ in range(random.randint(1, 3))),
            helo=random.choice(HELOS),
            client=random.choice(CLIENTS),
        )
        for number in range(3)
    ]


first, _, end = os.environ.get("POLICY_SEEDS", "0-24").partition("-")
SEEDS = range(int(first), int(end or first) + 1)
CASES = [case for seed in SEEDS for case in made(seed)]


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    with Names(ZONE), running(MAIN, CASES) as postfix:
        yield postfix


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_same(postfix: Postfix, case: Case) -> None:
    try:
        compare(postfix, MAIN, case, WORTH, ZoneResolver(ZONE))
    except (
        ConfigError
    ) as error:  # no such service is started; Postfix's ends when it is asked for the first time
        assert fatal(postfix, case) == error.reason.partition(" or check_relay")[0]
