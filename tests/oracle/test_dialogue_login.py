"""STARTTLS and AUTH: who may, when, how; who may send as whom."""

from __future__ import annotations

from oracle.dialogue import (
    HELLO,
    MAIL,
    RCPT,
    TEXT,
    Body,
    Config,
    Dialogue,
    End,
    Hang,
    Houses,
    Send,
    Tls,
    at,
    b64,
    cram,
    each,
    plain,
)

USERS = {"alice@example.com": "wonder land:1", "bob@mail.example.com": "builder"}
ALICE = plain("alice@example.com", "wonder land:1")
BOB = plain("bob", "builder")
AS_ALICE = "sasl_method=PLAIN sasl_username=alice@example.com"
STARTTLS = (HELLO, "STARTTLS", Tls())
DELIVER = (MAIL, RCPT, "DATA", Body(TEXT))
OWNERS = (
    "alice@example.com alice@example.com\n"
    "shared@example.com bob, ALICE@Example.COM\n"
    "@owned.example bob@mail.example.com bob\n"
    "list@example.com carol\n"
    "local bob\n"
    "plus@example.com bob\n"
)
MECHANISMS = "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: {dir}/sasldb2\nmech_list: "
CLEAR = {"smtpd_tls_security_level": "none"}
SERVICES = {
    "encrypt": {
        "smtpd_tls_security_level": "encrypt",
        "smtpd_tls_received_header": "yes",
        "smtpd_sasl_authenticated_header": "yes",
        "smtpd_sasl_tls_security_options": "noanonymous",
        "smtpd_tls_loglevel": "1",
        "syslog_name": "postfix/submission",
    },
    "submissions": {
        "smtpd_tls_wrappermode": "yes",
        "smtpd_tls_received_header": "yes",
        "smtpd_tls_loglevel": "1",
        "syslog_name": "postfix/submissions",
    },
    "may": {
        "smtpd_tls_auth_only": "yes",
        "smtpd_tls_received_header": "yes",
        "smtpd_tls_ask_ccert": "yes",
        "smtpd_sasl_local_domain": "example.com",
        "smtpd_client_port_logging": "no",
    },
    "either": {},
    "clear": {
        **CLEAR,
        "smtpd_sasl_path": "cram",
        "broken_sasl_auth_clients": "yes",
        "smtpd_helo_required": "yes",
        "smtpd_sasl_authenticated_header": "yes",
    },
    "no plaintext": {
        **CLEAR,
        "smtpd_sasl_path": "mixed",
        "smtpd_sasl_security_options": "noanonymous, noplaintext",
        "smtpd_sasl_mechanism_filter": "static:rest",
    },
    "down": {**CLEAR, "smtpd_sasl_path": "down"},
}
OWNED = {
    "all": {"smtpd_sender_restrictions": "reject_sender_login_mismatch"},
    "authenticated": {"smtpd_sender_restrictions": "reject_authenticated_sender_login_mismatch"},
    "unauthenticated": {"smtpd_sender_restrictions": "reject_unauthenticated_sender_login_mismatch"},
    "known": {"smtpd_sender_restrictions": "reject_known_sender_login_mismatch"},
    "texthash": {"smtpd_sender_login_maps": "texthash:{dir}/owners"},
    "inline": {"smtpd_sender_login_maps": "inline:{ {bob@example.com = bob}, {alice@example.com = x} }"},
    "none": {"smtpd_sender_login_maps": ""},
}
MISSING = {
    "missing": {"smtpd_sender_login_maps": "hash:{dir}/nothing"},
    "early": {"smtpd_delay_reject": "no"},
}
SENDING = {
    **CLEAR,
    "smtpd_sender_restrictions": "reject_sender_login_mismatch",
    "smtpd_sasl_exceptions_networks": "127.0.0.0/8",
}
LOGIN = Config(
    "login",
    {
        "smtpd_sasl_auth_enable": "yes",
        "smtpd_relay_restrictions": "permit_sasl_authenticated, reject_unauth_destination",
        "mynetworks": "192.0.2.0/24",
        "smtpd_tls_security_level": "may",
        "smtpd_sender_login_maps": "hash:{dir}/owners",
        "recipient_delimiter": "+",
    },
    services=[
        *SERVICES.items(),
        *((name, {**SENDING, **options}) for name, options in {**OWNED, **MISSING}.items()),
    ],
    files={
        "owners": OWNERS,
        "sasl/cram.conf": MECHANISMS + "PLAIN LOGIN CRAM-MD5\n",
        "sasl/mixed.conf": MECHANISMS + "login CRAM-MD5 plain\n",
        "sasl/down.conf": "pwcheck_method: saslauthd\nmech_list: PLAIN LOGIN\nsaslauthd_path: {dir}/no/mux\n",
    },
    hashed=("owners",),
    users=USERS,
)
SENDERS = [
    "alice@example.com",
    "ALICE@example.com",
    "shared@example.com",
    "x@owned.example",
    "eve@example.com",
    "list@example.com",
    "local",
    "local@example.com",
    "plus+tag@example.com",
    "bob@example.com",
]


def senders(name: str, service: str, login: str | None) -> Dialogue:
    """Each sender in turn."""
    steps = [HELLO, *([login] if login else [])]
    for sender in (*SENDERS, ""):
        steps += [f"MAIL FROM:<{sender}>", "RCPT TO:<bob@example.net>", "RSET"]
    names = {ALICE: AS_ALICE, BOB: "sasl_method=PLAIN sasl_username=bob"}
    return Dialogue(name, steps, service=service, login=names[login] if login else "")


CASES = {
    LOGIN: [
        *at(
            "encrypt",
            Dialogue(
                "in the clear",
                [HELLO, ALICE, MAIL, RCPT, "DATA", "RSET", "NOOP", "VRFY x", "FOO", "HELO x", "BDAT 3"],
            ),
            Dialogue("starttls", [*STARTTLS, HELLO, ALICE, *DELIVER]),
            Dialogue("starttls forgets", [*STARTTLS, ALICE, MAIL, "RSET", HELLO, "STARTTLS"]),
            Dialogue("starttls twice", [*STARTTLS, HELLO, "STARTTLS", "STARTTLS x"]),
            Dialogue("starttls x", [HELLO, "STARTTLS x"]),
            Dialogue("starttls first", ["STARTTLS", Tls(), "HELO x", ALICE, *DELIVER]),
            Dialogue(
                "behind starttls",
                [HELLO, Send(b"STARTTLS\r\nMAIL FROM:<a@b.example>\r\nRSET\r\n", 1), Tls(), HELLO],
            ),
            Dialogue("no handshake", [HELLO, "STARTTLS", Hang()]),
            Dialogue("no tls behind it", [HELLO, "STARTTLS", Send(b"EHLO x\r\n"), End()]),
            Dialogue(
                "login",
                [*STARTTLS, HELLO, "AUTH LOGIN", b64("alice@example.com"), b64("wonder land:1"), *DELIVER],
            ),
            Dialogue(
                "login at once", [*STARTTLS, HELLO, f"AUTH LOGIN {b64('bob')}", b64("builder"), *DELIVER]
            ),
            Dialogue("wrong", [*STARTTLS, HELLO, plain("bob", "x"), BOB, *DELIVER]),
            Dialogue("no login", [*STARTTLS, HELLO, MAIL, RCPT]),
            Dialogue("wrapper", [HELLO, "STARTTLS", ALICE, *DELIVER], service="submissions", wrapper=True),
            Dialogue("wrapper, nothing said", [], service="submissions", wrapper=True),
            Dialogue("wrapper, plaintext", [Send(b"EHLO x\r\n"), End()], service="submissions", early=True),
            Dialogue(
                "wrapper, group",
                [Send(b"EHLO c\r\n", 1), Send(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n", 2)],
                service="submissions",
                wrapper=True,
            ),
            Dialogue("reject", [*STARTTLS, HELLO, BOB, MAIL, "RCPT TO:<x@y.example>", "RCPT TO:<@>"]),
        ),
        *at(
            "may",
            Dialogue("in the clear", [HELLO, ALICE, "AUTH PLAIN", "AUTH", MAIL, RCPT]),
            Dialogue("no certificate", [*STARTTLS, HELLO, ALICE, *DELIVER]),
            Dialogue("certificate", [HELLO, "STARTTLS", Tls(certificate=True), HELLO, ALICE, *DELIVER]),
            Dialogue("local domain", [*STARTTLS, HELLO, plain("alice", "wonder land:1"), *DELIVER]),
            Dialogue("wrong realm", [*STARTTLS, HELLO, BOB]),
            Dialogue("lost in auth", [*STARTTLS, HELLO, "AUTH LOGIN", Hang()]),
        ),
        *at(
            "either",
            Dialogue(
                "starttls forgets login and transaction",
                [HELLO, ALICE, MAIL, RCPT, "STARTTLS", Tls(), RCPT, "DATA", HELLO, MAIL, RCPT],
            ),
        ),
        *at(
            "clear",
            Dialogue("plain", [HELLO, ALICE, ALICE, HELLO, *DELIVER]),
            Dialogue("before hello", [ALICE, HELLO, ALICE]),
            Dialogue(
                "syntax",
                [
                    HELLO,
                    "AUTH",
                    "AUTH PLAIN x y",
                    "AUTH FOO",
                    "AUTH PLAIN =",
                    "AUTH PLAIN ====",
                    "AUTH PLAIN x",
                    "AUTH plain " + ALICE.split()[2],
                ],
            ),
            Dialogue("responses", [HELLO, "AUTH PLAIN", ALICE.split()[2], "NOOP"]),
            Dialogue(
                "bad responses",
                [
                    HELLO,
                    "AUTH PLAIN",
                    "!",
                    "AUTH PLAIN",
                    "",
                    "AUTH PLAIN",
                    "=",
                    "AUTH LOGIN",
                    "*",
                    "AUTH PLAIN",
                    "*",
                    "AUTH LOGIN",
                    b64("alice@example.com"),
                    "*",
                    "AUTH LOGIN =",
                    "*",
                ],
            ),
            Dialogue("quit in auth", [HELLO, "AUTH LOGIN", "QUIT", "NOOP"]),
            Dialogue(
                "in a transaction", [HELLO, MAIL, ALICE, "RSET", ALICE, MAIL, "RCPT TO:<bob@example.net>"]
            ),
            Dialogue("authzid", [HELLO, plain("bob", "builder", "bob"), "RSET"]),
            Dialogue("another's authzid", [HELLO, plain("bob", "builder", "alice")]),
            Dialogue("empty", [HELLO, plain("", ""), plain("bob", ""), plain("", "x")]),
            Dialogue(
                "parts",
                [
                    HELLO,
                    "AUTH PLAIN " + b64("bob"),
                    "AUTH PLAIN " + b64("bob\0builder"),
                    "AUTH PLAIN " + b64("\0\0"),
                ],
            ),
            Dialogue("login", [HELLO, "AUTH LOGIN", b64("bob"), b64("builder"), *DELIVER]),
            Dialogue(
                "login wrong",
                [
                    HELLO,
                    "AUTH LOGIN",
                    b64("bob"),
                    b64("x"),
                    "AUTH LOGIN",
                    b64("nobody"),
                    b64("x"),
                    "AUTH LOGIN",
                    "",
                    "",
                    "AUTH LOGIN",
                    "!!",
                    "AUTH LOGIN",
                    b64("bob"),
                    "!!",
                ],
            ),
            Dialogue("cram", [HELLO, "AUTH CRAM-MD5", cram("bob", "builder"), *DELIVER]),
            Dialogue(
                "cram wrong",
                [
                    HELLO,
                    "AUTH CRAM-MD5",
                    cram("bob", "x"),
                    "AUTH CRAM-MD5",
                    cram("nobody", "x"),
                    "AUTH CRAM-MD5",
                    b64("bob"),
                    "AUTH CRAM-MD5 " + b64("x"),
                    "NOOP",
                ],
            ),
            Dialogue(
                "odd users",
                [
                    HELLO,
                    plain("bob@", "builder"),
                    plain("bob@mail.example.com", "builder"),
                    plain("alice@EXAMPLE.com", "wonder land:1"),
                ],
            ),
            Dialogue(
                "user names in logs",
                [HELLO, plain("x y\x01", "z"), plain("ä@b.example", "z"), plain("a" * 60, "z")],
            ),
            Dialogue(
                "sasl sender",
                [HELLO, ALICE, "MAIL FROM:<a@b.example> AUTH=x+2By@z.example", RCPT, "DATA", Body(TEXT)],
            ),
            Dialogue(
                "sasl sender, no login",
                [HELLO, "MAIL FROM:<a@b.example> AUTH=x@z.example", RCPT],
                login="sasl_sender=x@z.example",
            ),
            Dialogue("reject", [HELLO, MAIL, RCPT]),
            Dialogue("login, then lost", [HELLO, ALICE, MAIL, RCPT, Hang()]),
        ),
        *at(
            "no plaintext",
            Dialogue(
                "offered",
                [HELLO, "AUTH LOGIN", "AUTH PLAIN x", "AUTH CRAM-MD5", cram("bob", "builder"), *DELIVER],
            ),
        ),
        *(
            senders(f"{service}, {name}", service, login)
            for service in OWNED
            for name, login in (("nobody", None), ("alice", ALICE), ("bob", BOB))
        ),
        Dialogue(
            "lookup error",
            [HELLO, ALICE, MAIL, "RCPT TO:<bob@example.net>"],
            service="missing",
            login=AS_ALICE,
        ),
        Dialogue(
            "at once",
            [HELLO, ALICE, "MAIL FROM:<eve@example.com>", MAIL, "RCPT TO:<bob@example.net>"],
            service="early",
            login=AS_ALICE,
        ),
        Dialogue("at once, nobody", [HELLO, MAIL, "MAIL FROM:<x@y.example>"], service="early"),
        *at(
            "down",
            Dialogue("plain", [HELLO, plain("alice", "x"), "NOOP"]),
            Dialogue(
                "login", [HELLO, "AUTH LOGIN", b64("alice"), b64("x"), "AUTH LOGIN", b64("a@b@c"), b64("x")]
            ),
            Dialogue("empty", [HELLO, plain("alice", ""), plain("", "x")]),
            Dialogue("cram", [HELLO, "AUTH CRAM-MD5", "AUTH GSSAPI"]),
        ),
    ],
}


@each(CASES)
def test_dialogue(houses: Houses, config: Config, dialogue: Dialogue) -> None:
    houses.of(config).compare(dialogue)
