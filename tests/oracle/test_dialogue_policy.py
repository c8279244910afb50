"""Restriction lists in the running daemon, at each of their times; access(5) results; address classes."""

from __future__ import annotations

from oracle.dialogue import (
    HELLO,
    MAIL,
    RCPT,
    START,
    TEXT,
    Body,
    Config,
    Dialogue,
    End,
    Houses,
    Send,
    Tls,
    each,
)

OPEN = {"smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination"}

ACCESS = """\
reject@s.example REJECT
why@s.example REJECT 5.7.9 not you
c550@s.example 550 5.2.1 no such
c450@s.example 450 later
c421@s.example 421 4.3.2 go away
c521@s.example 521 5.3.2 go away
defer@s.example DEFER
dip@s.example DEFER_IF_PERMIT 4.7.9 maybe
dir@s.example DEFER_IF_REJECT not now
ok@s.example OK
dunno@s.example DUNNO
s.example REJECT by domain
hold@t.example HOLD please
discard@t.example DISCARD quietly
redirect@t.example REDIRECT other@t.example
bcc@t.example BCC copy@t.example
prepend@t.example PREPEND X-Mark: yes
warn@t.example WARN look
info@t.example INFO look
filter@t.example FILTER smtp:[127.0.0.1]:{port}
no-filter@t.example FILTER smtp
no-redirect@t.example REDIRECT nobody
no-bcc@t.example BCC
no-prepend@t.example PREPEND nothing of that kind
strict@t.example strict
twice@t.example warn_if_reject, strict
"""

EARLY = Config(
    "no delay",
    {
        **OPEN,
        "smtpd_delay_reject": "no",
        "smtpd_client_restrictions": "permit_mynetworks, reject",
        "smtpd_helo_restrictions": "reject_invalid_helo_hostname, reject_non_fqdn_helo_hostname, "
        "check_helo_access inline:{ {bad.example=REJECT bad name} }",
        "smtpd_sender_restrictions": "reject_non_fqdn_sender, texthash:{dir}/access",
        "smtpd_recipient_restrictions": "reject_non_fqdn_recipient, texthash:{dir}/access",
        "smtpd_data_restrictions": "reject_multi_recipient_bounce",
        "smtpd_reject_unlisted_sender": "yes",
    },
    services=(
        ("submission", {}),
        ("client", {"smtpd_client_restrictions": "reject"}),
        (
            "client450",
            {"smtpd_client_restrictions": "check_client_access inline:{ {127.0.0.1=450 4.7.1 later} }"},
        ),
        (
            "client521",
            {"smtpd_client_restrictions": "check_client_access inline:{ {127.0.0.1=521 5.7.1 never} }"},
        ),
        ("data", {"smtpd_data_restrictions": "reject"}),
        ("end", {"smtpd_end_of_data_restrictions": "reject"}),
        (
            "plaintext",
            {"smtpd_sender_restrictions": "reject_plaintext_session", "smtpd_tls_security_level": "may"},
        ),
        ("etrn", {"smtpd_etrn_restrictions": "reject"}),
    ),
    files={"access": ACCESS},
)
LATE = Config(
    "delay",
    {
        **OPEN,
        "smtpd_restriction_classes": "strict, loose",
        "strict": "reject_non_fqdn_recipient, check_helo_access inline:{ {client.example=REJECT by class} }",
        "loose": "permit",
        "smtpd_helo_restrictions": "reject_non_fqdn_helo_hostname",
        "smtpd_sender_restrictions": "check_sender_access texthash:{dir}/access",
        "smtpd_recipient_restrictions": "check_recipient_access texthash:{dir}/access",
    },
    services=(
        ("submission", {}),
        (
            "warn",
            {
                "smtpd_sender_restrictions": "warn_if_reject reject, "
                "warn_if_reject check_sender_access texthash:{dir}/access"
            },
        ),
        ("defer", {"smtpd_recipient_restrictions": "defer_if_permit"}),
        (
            "defer, reject",
            {"smtpd_client_restrictions": "defer_if_reject", "smtpd_recipient_restrictions": "reject"},
        ),
        ("soft", {"soft_bounce": "yes"}),
        ("unknown", {"smtpd_recipient_restrictions": "no_such_thing"}),
        ("missing", {"smtpd_recipient_restrictions": "check_recipient_access hash:{dir}/nothing"}),
        ("missing for clients", {"smtpd_client_restrictions": "check_client_access hash:{dir}/nothing"}),
        ("client", {"smtpd_client_restrictions": "check_client_access inline:{ {localhost=REJECT you} }"}),
        ("cidr", {"smtpd_client_restrictions": "check_client_access cidr:{dir}/cidr"}),
        ("sender regexp", {"smtpd_sender_restrictions": "check_sender_access regexp:{dir}/regexp"}),
        (
            "codes",
            {
                "access_map_reject_code": "557",
                "reject_code": "556",
                "relay_domains_reject_code": "555",
                "smtpd_relay_restrictions": "reject_unauth_destination",
                "smtpd_client_restrictions": "",
            },
        ),
        (
            "relay last",
            {
                "smtpd_relay_before_recipient_restrictions": "no",
                "smtpd_relay_restrictions": "defer",
                "smtpd_recipient_restrictions": "reject",
            },
        ),
        (
            "data",
            {
                "smtpd_data_restrictions": "check_sender_access texthash:{dir}/access, "
                "reject_unauth_pipelining"
            },
        ),
        (
            "permits",
            {
                "smtpd_log_access_permit_actions": "static:all",
                "smtpd_recipient_restrictions": "check_recipient_access inline:{ {d.example=OK} }",
            },
        ),
    ),
    files={
        "access": ACCESS,
        "cidr": "127.0.0.0/8 REJECT by network\n",
        "regexp": "/^(.*)@s\\.example$/ REJECT no $1 here\n",
    },
)
CLASSES = Config(
    "classes",
    {
        **OPEN,
        "mydestination": "local.example, localhost",
        "local_recipient_maps": "inline:{ {known=x} }",
        "relay_domains": "relay.example",
        "relay_recipient_maps": "inline:{ {user@relay.example=x} }",
        "virtual_alias_domains": "alias.example",
        "virtual_alias_maps": "inline:{ {there@alias.example=there@alias.example} }",
        "virtual_mailbox_domains": "box.example",
        "virtual_mailbox_maps": "inline:{ {user@box.example=x} }",
        "append_at_myorigin": "yes",
        "append_dot_mydomain": "yes",
        "mydomain": "dom.example",
        "myorigin": "origin.example",
        "recipient_delimiter": "+",
        "smtpd_reject_unlisted_sender": "yes",
    },
    services=(
        ("submission", {}),
        ("unlisted", {"smtpd_reject_unlisted_recipient": "no", "smtpd_reject_unlisted_sender": "no"}),
        ("authorized", {"smtpd_relay_restrictions": "reject_unauth_destination"}),
    ),
)
NO_REWRITING = Config(
    "no rewriting",
    {
        **OPEN,
        "append_at_myorigin": "no",
        "append_dot_mydomain": "no",
        "allow_percent_hack": "no",
        "swap_bangpath": "no",
    },
    files={
        "transport": "shut.example error:5.1.1 closed\nlate.example retry:4.3.2 no\n.below.example error:\n"
    },
)

EVERYWHERE = (
    "known@local.example nobody@local.example KNOWN+x@LOCAL.example user@relay.example no@relay.example "
    "there@alias.example no@alias.example user@box.example USER+x@box.example no@box.example "
    "x@remote.example "
    "x%remote.example@local.example known nobody postmaster postmaster@local.example "
    '"x@remote.example"@relay.example x!y@relay.example @relay.example:x@remote.example '
    "root@[127.0.0.1] x@[192.0.2.1]"
)
ODD = "a a@b a%b a%b.example c.example!d c!d@e.example a%b@c.example a%b%c@d.example a@b.example. a@b. a.b@c"


def recipients(words: str) -> list[str]:
    return [f"RCPT TO:<{word}>" for word in words.split()]


def taken(service: str, sender: str, *names: str) -> Dialogue:
    """Mail from ``sender``."""
    to = [f"RCPT TO:<{name}>" for name in names or ("bob@example.net",)]
    return Dialogue(
        f"{service}, {sender}, {' '.join(names)}",
        [HELLO, f"MAIL FROM:<{sender}>", *to, "DATA", Body(TEXT)],
        service=service,
    )


def rewritten() -> list[Dialogue]:
    return [
        Dialogue(name, [HELLO, f"MAIL FROM:<{name}>", f"RCPT TO:<{name}>", "DATA", Body(TEXT)])
        for name in ODD.split()
    ]


NAMES = [line.split()[0] for line in ACCESS.splitlines()]
REFUSALS = [name for name in NAMES if name.endswith("@s.example")]
ACTIONS = [name for name in NAMES if name.endswith("@t.example")]

CASES = {
    EARLY: [
        Dialogue("usual", ["EHLO client.example", MAIL, RCPT, "DATA", Body(TEXT)]),
        *(
            Dialogue(f"hello {name}", [f"EHLO {name}", MAIL, "HELO good.example", MAIL])
            for name in (
                "short",
                "bad.example",
                "x.bad.example",
                "[127.0.0.1]",
                "[1.2.3]",
                "127.0.0.1",
                "-a.example",
                "a_b.example",
                "x..y",
            )
        ),
        *(
            Dialogue(f"sender {name}", ["EHLO client.example", f"MAIL FROM:<{name}>", RCPT])
            for name in ("", "short", "a@short", *REFUSALS, "x@sub.s.example")
        ),
        *(
            Dialogue(
                f"recipient {name}", ["EHLO client.example", MAIL, f"RCPT TO:<{name}>", RCPT, "QUIT", End()]
            )
            for name in ("short", "a@short", *REFUSALS)
        ),
        Dialogue(
            "several recipients of a bounce",
            [
                "EHLO client.example",
                "MAIL FROM:<>",
                RCPT,
                "RCPT TO:<c@d.example>",
                "DATA",
                "RSET",
                "MAIL FROM:<>",
                RCPT,
                "DATA",
                Body(TEXT),
            ],
        ),
        *(
            Dialogue(
                name, [HELLO, "HELO x", MAIL, "AUTH x", "FOO", "STARTTLS", "NOOP", "GET / x"], service=name
            )
            for name in ("client", "client450")
        ),
        Dialogue("client521", [End()], service="client521"),
        Dialogue("data", ["EHLO client.example", MAIL, RCPT, "DATA", "DATA", "RSET"], service="data"),
        Dialogue(
            "data by bdat",
            ["EHLO client.example", MAIL, RCPT, Send(b"BDAT 3\r\nabc", 1), Send(b"BDAT 0 LAST\r\n", 1)],
            service="data",
        ),
        Dialogue("end", ["EHLO client.example", MAIL, RCPT, "DATA", Body(TEXT), "NOOP"], service="end"),
        Dialogue(
            "end by bdat",
            ["EHLO client.example", MAIL, RCPT, Send(b"BDAT 8 LAST\r\nA: b\r\n\r\n", 1), "NOOP"],
            service="end",
        ),
        Dialogue(
            "plaintext",
            ["EHLO client.example", MAIL, "STARTTLS", Tls(), "EHLO client.example", MAIL],
            service="plaintext",
        ),
        Dialogue("etrn", ["EHLO client.example", "ETRN d.example"], service="etrn"),
        Dialogue("vrfy", ["EHLO client.example", "VRFY short", "VRFY reject@s.example", "VRFY a@b.example"]),
    ],
    LATE: [
        Dialogue("usual", [*START, Body(TEXT)]),
        Dialogue(
            "short hello",
            [
                "EHLO short",
                MAIL,
                RCPT,
                "VRFY a@b.example",
                "RCPT TO:<postmaster>",
                "HELO client.example",
                MAIL,
                RCPT,
            ],
        ),
        *(
            Dialogue(
                f"sender {name}", [HELLO, f"MAIL FROM:<{name}>", RCPT, "RCPT TO:<reject@s.example>", "NOOP"]
            )
            for name in REFUSALS
        ),
        *(
            Dialogue(f"recipient {name}", [HELLO, MAIL, f"RCPT TO:<{name}>", RCPT, "RSET"])
            for name in REFUSALS
        ),
        *(taken("submission", name) for name in ACTIONS),
        *(
            taken("submission", "alice@example.com", name, "bob@example.net")
            for name in ACTIONS
            if not name.startswith("redirect")
        ),
        taken("submission", "prepend@t.example", "prepend@t.example", "bcc@t.example", "prepend@t.example"),
        *(
            taken("warn", name)
            for name in (
                "reject@s.example",
                "ok@s.example",
                "c450@s.example",
                "dip@s.example",
                "hold@t.example",
            )
        ),
        *(
            Dialogue(
                service,
                [HELLO, MAIL, RCPT, "RCPT TO:<x@y.example>", "VRFY a@b.example", "ETRN c.example", "RSET"],
                service=service,
            )
            for service in (
                "defer",
                "defer, reject",
                "soft",
                "unknown",
                "missing",
                "missing for clients",
                "client",
                "cidr",
                "sender regexp",
                "codes",
                "relay last",
                "permits",
            )
        ),
        Dialogue(
            "soft refusals", [HELLO, "MAIL FROM:<reject@s.example>", RCPT, "FOO", "AUTH"], service="soft"
        ),
        Dialogue(
            "regexp",
            [HELLO, "MAIL FROM:<a@s.example>", RCPT, "RSET", "MAIL FROM:<a@sub.s.example>", RCPT],
            service="sender regexp",
        ),
        Dialogue("codes of senders", [HELLO, "MAIL FROM:<reject@s.example>", RCPT], service="codes"),
        Dialogue(
            "permits by table", [HELLO, MAIL, "RCPT TO:<x@d.example>", "DATA", Body(TEXT)], service="permits"
        ),
        *(taken("data", name) for name in ("reject@s.example", "alice@example.com")),
    ],
    CLASSES: [
        Dialogue("recipients", [HELLO, MAIL, *recipients(EVERYWHERE)]),
        Dialogue("unlisted recipients", [HELLO, MAIL, *recipients(EVERYWHERE)], service="unlisted"),
        Dialogue("authorized recipients", [HELLO, MAIL, *recipients(EVERYWHERE)], service="authorized"),
        Dialogue(
            "senders",
            [HELLO, *(step for name in EVERYWHERE.split() for step in (f"MAIL FROM:<{name}>", RCPT, "RSET"))],
        ),
        Dialogue("vrfy", [HELLO, *(f"VRFY {name}" for name in EVERYWHERE.split())]),
        *(
            Dialogue(name, [HELLO, MAIL, f"RCPT TO:<{name}>", "DATA", Body(TEXT)])
            for name in ("user@relay.example", "x%remote.example@local.example", "x%relay.example@localhost")
        ),
        *rewritten(),
    ],
    NO_REWRITING: [
        Dialogue(
            "transports",
            [
                HELLO,
                MAIL,
                *recipients("a@shut.example a@late.example a@x.below.example a@below.example"),
                "RSET",
            ],
        ),
        *rewritten(),
    ],
}


@each(CASES)
def test_dialogue(houses: Houses, config: Config, dialogue: Dialogue) -> None:
    houses.of(config).compare(dialogue)
