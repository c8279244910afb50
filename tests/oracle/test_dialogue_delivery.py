"""What is said to the next hop, and what comes of its answers: log lines, bounces, logins, TLS."""

from __future__ import annotations

from oracle.dialogue import (
    HELLO,
    MAIL,
    START,
    TEXT,
    Body,
    Config,
    Dialogue,
    Houses,
    each,
)
from oracle.upstream import DROP

BOB, CAROL, DAVE = "RCPT TO:<bob@example.net>", "RCPT TO:<carol@example.net>", "RCPT TO:<dave@example.org>"
SEND = (*START, Body(TEXT))
ANSWERS = Config(
    "answers",
    {
        "bounce_size_limit": "2000",
        "few_destination_recipient_limit": "2",
        "few_initial_destination_concurrency": "1",
        "few_destination_concurrency_limit": "1",
    },
    transports={
        "soft": {"soft_bounce": "yes"},
        "few": {},
        "no-dsn": {"smtp_discard_ehlo_keywords": "dsn"},
        "no-pipelining": {"smtp_discard_ehlo_keywords": "pipelining"},
        "helo": {"smtp_never_send_ehlo": "yes"},
        "named": {"smtp_helo_name": "me.example", "syslog_name": "postfix/named"},
        **{f"dead{number}": {} for number in range(1, 9)},
        "hard": {"smtp_skip_5xx_greeting": "no"},
    },
)
LIFETIME = Config("no lifetime", {"maximal_queue_lifetime": "0", "bounce_queue_lifetime": "0"})
POSTMASTER = Config(
    "postmaster",
    {
        "notify_classes": "bounce, 2bounce, delay",
        "double_bounce_sender": "twice",
        "bounce_queue_lifetime": "0",
    },
)

GOOD = "relay:looking glass:1"
AUTH = {"smtp_sasl_auth_enable": "yes", "smtp_sasl_security_options": "noanonymous"}


def maps(*lines: str) -> str:
    return "inline:{ " + ", ".join(f"{{ {line} }}" for line in lines) + " }"


HOP = maps(f"[127.0.0.1]:{{port}} = {GOOD}")
LOGIN = Config(
    "login",
    {**AUTH, "smtp_sasl_password_maps": "hash:{dir}/passwords"},
    transports={
        "host": {"smtp_sasl_password_maps": maps(f"127.0.0.1 = {GOOD}", "[127.0.0.1]:{port} = other:wrong")},
        "sender": {
            "smtp_sasl_password_maps": maps(
                "alice@example.com = other:secret", f"@example.org = {GOOD}", "127.0.0.1 = relay:wrong"
            ),
            "smtp_sender_dependent_authentication": "yes",
        },
        "nobody": {"smtp_sasl_password_maps": maps("[192.0.2.1] = x:y")},
        "default": {"smtp_sasl_security_options": "noplaintext, noanonymous"},
        "none-left": {
            "smtp_sasl_security_options": "noplaintext, noanonymous",
            "smtp_sasl_mechanism_filter": "!cram-md5, static:rest",
        },
        "filter": {"smtp_sasl_mechanism_filter": "!plain, !cram-md5, static:rest"},
        "filtered": {"smtp_sasl_mechanism_filter": "gssapi"},
        "bare": {
            "smtp_sasl_password_maps": maps("[127.0.0.1]:{port} = relay"),
            "smtp_sasl_auth_soft_bounce": "no",
        },
        "dummy": {"smtp_send_dummy_mail_auth": "yes", "smtp_sasl_mechanism_filter": "plain"},
        "off": {"smtp_sasl_auth_enable": "no"},
    },
    files={"passwords": f"[127.0.0.1]:{{port}} {GOOD}\n"},
    hashed=("passwords",),
    upstream_users={"relay": "looking glass:1", "other": "secret"},
    upstream_mechanisms="FOO LOGIN PLAIN CRAM-MD5",
)
TLS = Config(
    "tls",
    {**AUTH, "smtp_tls_loglevel": "1", "smtp_tls_security_level": "may", "smtp_sasl_password_maps": HOP},
    transports={
        "encrypt": {"smtp_tls_security_level": "encrypt"},
        "verify": {"smtp_tls_security_level": "verify"},
        "missed": {"smtp_tls_security_level": "encrypt", "smtp_discard_ehlo_keywords": "starttls"},
        "plain": {"smtp_tls_security_level": "none"},
        "quiet": {"smtp_log_tls_feature_status": "no"},
        "safe": {
            "smtp_sasl_security_options": "noplaintext",
            "smtp_sasl_tls_security_options": "noanonymous",
        },
    },
    upstream_users={"relay": "looking glass:1"},
    upstream_mechanisms="PLAIN LOGIN",
    upstream_tls=True,
)


def by(
    transport: str,
    rules: dict[str, bytes] | None = None,
    sender: str = "alice@example.com",
    tls: str = "none",
) -> Dialogue:
    """Mail by ``transport``."""
    steps = [HELLO, f"MAIL FROM:<{sender}>", f"RCPT TO:<bob@{transport}.example>", "DATA", Body(TEXT)]
    name = f"{transport}, {sender}, {' '.join(rules or {})}"
    return Dialogue(name, steps, rules=rules or {}, tls=tls)


GREETINGS = [
    (stage, reply)
    for stage in ("connect", "ehlo")
    for reply in (b"450 4.3.2 busy", b"421 4.3.2 closing", b"554 5.7.1 never", DROP)
]

CASES = {
    ANSWERS: [
        *(
            Dialogue(f"{stage} {reply!r}", SEND, rules={stage: reply})
            for stage in (
                "mail:alice@example.com",
                "rcpt:bob@example.net",
                "data:alice@example.com",
                "dot:alice@example.com",
            )
            for reply in (
                b"550 5.1.1 no such thing",
                b"450 4.2.1 later",
                b"550 no code",
                b"450-4.2.1 first\n450 4.2.1 second line",
                b"552 4.2.2 mixed codes",
                b"421 4.3.2 closing",
            )
        ),
        *(
            Dialogue(f"{stage} drops", SEND, rules={stage: DROP})
            for stage in (
                "mail:alice@example.com",
                "rcpt:bob@example.net",
                "data:alice@example.com",
                "dot:alice@example.com",
            )
        ),
        Dialogue(
            "mixed",
            [HELLO, MAIL, BOB, CAROL, DAVE, "DATA", Body(TEXT)],
            rules={"rcpt:bob@example.net": b"550 5.1.1 no", "rcpt:carol@example.net": b"450 4.2.0 wait"},
        ),
        Dialogue(
            "all refused",
            [HELLO, MAIL, BOB, CAROL, "DATA", Body(TEXT)],
            rules={"rcpt:bob@example.net": b"550 5.1.1 no", "rcpt:carol@example.net": b"554 5.7.1 never"},
        ),
        Dialogue(
            "refused and delivered",
            [HELLO, MAIL, BOB, CAROL, "DATA", Body(TEXT)],
            rules={"rcpt:bob@example.net": b"550 5.1.1 no"},
        ),
        Dialogue(
            "long reply",
            SEND,
            rules={"rcpt:bob@example.net": b"550 5.7.1 " + b"because of this and that " * 20},
        ),
        Dialogue("utf8 reply", SEND, rules={"rcpt:bob@example.net": "550 5.7.1 grün".encode()}),
        Dialogue("bad dsn", SEND, rules={"rcpt:bob@example.net": b"550 5.1 odd"}),
        Dialogue("sent with lines", SEND, rules={"dot:alice@example.com": b"250-2.6.0 one\n250 2.6.0 two"}),
        Dialogue(
            "failure only",
            [
                HELLO,
                "MAIL FROM:<alice@example.com> RET=HDRS ENVID=x+2Byz",
                BOB + " NOTIFY=FAILURE ORCPT=rfc822;Robert+2B@example.net",
                "DATA",
                Body(TEXT),
            ],
            rules={"rcpt:bob@example.net": b"550 5.1.1 no"},
        ),
        Dialogue(
            "full",
            [HELLO, "MAIL FROM:<alice@example.com> RET=FULL", BOB, "DATA", Body(TEXT)],
            rules={"rcpt:bob@example.net": b"550 5.1.1 no"},
        ),
        Dialogue("success", [HELLO, MAIL, BOB + " NOTIFY=SUCCESS", "DATA", Body(TEXT)]),
        Dialogue(
            "null sender",
            [HELLO, "MAIL FROM:<>", BOB, "DATA", Body(TEXT)],
            rules={"rcpt:bob@example.net": b"550 5.1.1 no"},
        ),
        Dialogue("bounce refused", SEND, rules={"rcpt": b"550 5.1.1 no"}),
        Dialogue(
            "large",
            [*START, Body(TEXT + "x" * 78 + ("\n" + "x" * 78) * 40)],
            rules={"rcpt:bob@example.net": b"550 5.1.1 no"},
        ),
        Dialogue(
            "odd addresses",
            [HELLO, 'MAIL FROM:<"al ice"@example.com>', 'RCPT TO:<"b\\"ob"@example.net>', "DATA", Body(TEXT)],
            rules={'rcpt:"b\\"ob"@example.net': b"550 5.1.1 no"},
        ),
        Dialogue(
            "eight bits returned",
            [*START, Body("Subject: grün\n\ngrün\n")],
            rules={"rcpt:bob@example.net": b"550 5.1.1 no"},
        ),
        Dialogue(
            "no headers returned", [*START, Body("\nx\n")], rules={"rcpt:bob@example.net": b"550 5.1.1 no"}
        ),
        Dialogue(
            "dots returned",
            [*START, Body("Subject: x\n\n.\n..\n--x\n")],
            rules={"rcpt:bob@example.net": b"550 5.1.1 no"},
        ),
        Dialogue(
            "utf8 recipient",
            [
                HELLO,
                "MAIL FROM:<alice@example.com> SMTPUTF8",
                "RCPT TO:<böb@example.net>",
                "DATA",
                Body(TEXT),
            ],
            rules={"rcpt:böb@example.net": b"550 5.1.1 no"},
        ),
        *(
            by("soft", {stage: b"550 5.1.1 no"})
            for stage in ("rcpt:bob@soft.example", "dot:alice@example.com")
        ),
        *(
            by(
                f"dead{n}",
                {stage: reply},
                tls="none" if stage == "ehlo" and reply[:3] in (b"450", b"554") else "none?",
            )
            for n, (stage, reply) in enumerate(GREETINGS, 1)
        ),
        by("hard", {"connect": b"554 5.7.1 never"}, tls="none?"),
        Dialogue(
            "five", [HELLO, MAIL, *(f"RCPT TO:<r{n}@few.example>" for n in range(5)), "DATA", Body(TEXT)]
        ),
        Dialogue(
            "success without DSN",
            [
                HELLO,
                MAIL,
                "RCPT TO:<x@no-dsn.example> NOTIFY=SUCCESS",
                "RCPT TO:<y@no-dsn.example>",
                "DATA",
                Body(TEXT),
            ],
        ),
        Dialogue(
            "envelope without DSN",
            [
                HELLO,
                "MAIL FROM:<alice@example.com> RET=HDRS ENVID=x",
                "RCPT TO:<x@no-dsn.example> NOTIFY=NEVER",
                "DATA",
                Body(TEXT),
            ],
        ),
        by("no-pipelining"),
        by("helo"),
        by("named"),
        by("no-pipelining", {"mail:alice@example.com": b"550 5.7.1 no"}),
        by("no-pipelining", {"rcpt:bob@no-pipelining.example": b"550 5.7.1 no"}),
        by("no-pipelining", {"data:alice@example.com": b"450 4.7.1 no"}),
    ],
    LIFETIME: [
        Dialogue("rcpt", SEND, rules={"rcpt:bob@example.net": b"450 4.2.1 later"}, final=True),
    ],
    POSTMASTER: [
        Dialogue("bounce", SEND, rules={"rcpt:bob@example.net": b"550 5.1.1 no"}),
        Dialogue(
            "double bounce",
            SEND,
            rules={"rcpt:bob@example.net": b"550 5.1.1 no", "rcpt:alice@example.com": b"550 5.1.1 no"},
        ),
        Dialogue("all refused", SEND, rules={"rcpt": b"550 5.1.1 no"}, final=True),
        Dialogue("late", SEND, rules={"rcpt:bob@example.net": b"450 4.2.1 later"}),
        Dialogue(
            "null sender, late",
            [HELLO, "MAIL FROM:<>", BOB, "DATA", Body(TEXT)],
            rules={"rcpt:bob@example.net": b"450 4.2.1 later"},
            final=True,
        ),
        Dialogue(
            "for the double-bounce sender", [HELLO, MAIL, "RCPT TO:<twice@mail.example.com>", *SEND[3:]]
        ),
    ],
    LOGIN: [
        Dialogue("usual", SEND),
        Dialogue("refused", SEND, rules={"auth": b"535 5.7.8 no"}),
        Dialogue("refused for now", SEND, rules={"auth": b"454 4.7.0 not now"}),
        *(
            by("sender", sender=sender)
            for sender in ("alice@example.com", "x@example.org", "x@y.example", "")
        ),
        *(
            by(name)
            for name in (
                "host",
                "nobody",
                "default",
                "none-left",
                "filter",
                "filtered",
                "bare",
                "dummy",
                "off",
            )
        ),
    ],
    TLS: [
        Dialogue("usual", SEND, tls="may"),
        by("encrypt", tls="encrypt"),
        by("verify", tls="!verify"),
        by("missed", tls="!encrypt"),
        by("plain"),
        by("quiet", tls=""),
        by("safe", tls="may"),
        Dialogue("refused", SEND, rules={"starttls": b"454 4.7.0 no"}, tls="may:none"),
        by("encrypt", {"starttls": b"454 4.7.0 no"}, tls="!encrypt"),
    ],
}


@each(CASES)
def test_dialogue(houses: Houses, config: Config, dialogue: Dialogue) -> None:
    houses.of(config).compare(dialogue)
