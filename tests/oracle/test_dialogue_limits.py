"""Strict servers, limits of all kinds, lone line feeds."""

from __future__ import annotations

from oracle.dialogue import (
    GROUP,
    HELLO,
    MAIL,
    RCPT,
    START,
    TEXT,
    WIRE,
    Body,
    Config,
    Dialogue,
    End,
    Houses,
    Send,
    at,
    each,
)

KINDS = Config(
    "kinds",
    {},
    services=(
        (
            "strict",
            {
                "smtpd_helo_required": "yes",
                "strict_rfc821_envelopes": "yes",
                "disable_vrfy_command": "yes",
                "smtpd_discard_ehlo_keywords": "etrn, chunking, dsn, smtputf8",
                "strict_smtputf8": "yes",
            },
        ),
        ("no lone LF", {"smtpd_forbid_bare_newline": "reject", "smtpd_forbid_unauth_pipelining": "no"}),
        ("any LF", {"smtpd_forbid_bare_newline": "no"}),
    ),
)
LIMITS = Config(
    "limits",
    {
        "message_size_limit": "3000",
        "hopcount_limit": "3",
        "smtpd_recipient_limit": "2",
        "smtpd_recipient_overshoot_limit": "1",
        "smtpd_soft_error_limit": "2",
        "smtpd_hard_error_limit": "4",
        "smtpd_junk_command_limit": "2",
        "line_length_limit": "512",
        "smtpd_noop_commands": "XNOTHING",
        "smtpd_forbidden_commands": "CONNECT, TRACE",
    },
)
CASES = {
    KINDS: [
        *at(
            "strict",
            Dialogue("hello first", [MAIL, "AUTH PLAIN x", "ETRN x", "VRFY x", RCPT, "DATA", HELLO, MAIL]),
            Dialogue("usual", [*START, Body(TEXT)]),
            Dialogue(
                "senders",
                [
                    HELLO,
                    "MAIL FROM:a@b.example",
                    "MAIL FROM:<a@b.example> x",
                    "MAIL FROM:<a@b.example (c)>",
                    "MAIL FROM: <a@b.example>",
                    "RCPT TO:a@b.example",
                    "RCPT TO:<@b.example>",
                    "RCPT TO:<b@c.example>",
                ],
            ),
            Dialogue("discarded", [HELLO, "ETRN x", "BDAT 3", End()]),
            Dialogue(
                "no dsn",
                [
                    HELLO,
                    "MAIL FROM:<a@b.example> RET=FULL",
                    "MAIL FROM:<a@b.example> ENVID=x",
                    MAIL,
                    "RCPT TO:<a@b.example> NOTIFY=NEVER",
                    "RCPT TO:<a@b.example> ORCPT=rfc822;x",
                ],
            ),
            Dialogue(
                "no utf8",
                [
                    HELLO,
                    "MAIL FROM:<a@b.example> SMTPUTF8",
                    "MAIL FROM:<ä@b.example>",
                    MAIL,
                    "RCPT TO:<ä@b.example>",
                    "RCPT TO:<a@ä.example>",
                ],
            ),
        ),
        *at(
            "no lone LF",
            Dialogue("usual", [*START, Body(TEXT)]),
            Dialogue("in a command", [HELLO, Send(b"NOOP\n", 1), End()]),
            Dialogue("in text", [*START, Send(b"Subject: x\r\n\r\na\nb\r\n.\r\n", 1), "NOOP"]),
            Dialogue(
                "in a chunk", [HELLO, MAIL, RCPT, Send(b"BDAT 17 LAST\r\nA: b\nC: d\r\nE: f\r\n", 1), "NOOP"]
            ),
            Dialogue("all in one", [Send(b"".join(GROUP) + b"DATA\r\n" + WIRE + b".\r\nQUIT\r\n", 6), End()]),
        ),
        *at(
            "any LF",
            Dialogue("in text", [*START, Send(b"Subject: x\n\na\n.b\n..c\r\n.\r\n", 1)]),
            Dialogue("usual", [*START, Body(TEXT)]),
        ),
    ],
    LIMITS: [
        Dialogue(
            "size",
            [
                HELLO,
                "MAIL FROM:<a@b.example> SIZE=3001",
                MAIL,
                "RSET",
                MAIL,
                RCPT,
                "DATA",
                Body(TEXT + "x" * 70 + ("\n" + "x" * 70) * 50),
                "NOOP",
            ],
        ),
        Dialogue(
            "size in headers", [*START, Body("A: " + "x" * 90 + ("\nA: " + "x" * 90) * 40 + "\n\nx"), MAIL]
        ),
        Dialogue("just fits", [*START, Body("Subject: x\n\n" + ("y" * 98 + "\n") * 8)]),
        Dialogue(
            "size by bdat",
            [
                HELLO,
                MAIL,
                RCPT,
                Send(b"BDAT 2900\r\n" + (b"x" * 98 + b"\r\n") * 29, 1),
                Send(b"BDAT 200\r\n" + b"x" * 200, 1),
                Send(b"BDAT 2 LAST\r\nxx", 1),
                MAIL,
            ],
        ),
        Dialogue(
            "hops",
            [*START, Body("Received: a\n" * 3 + TEXT), MAIL, RCPT, "DATA", Body("Received: a\n" + TEXT)],
        ),
        Dialogue(
            "recipients",
            [
                HELLO,
                MAIL,
                RCPT,
                "RCPT TO:<c@d.example>",
                "RCPT TO:<e@f.example>",
                "RCPT TO:<g@h.example>",
                "RCPT TO:<i@j.example>",
                "DATA",
                Body(TEXT),
            ],
        ),
        Dialogue("errors", ["FOO", "FOO", "FOO", "FOO", End()]),
        Dialogue(
            "errors forgotten", ["FOO", "FOO", "FOO", *START, Body(TEXT), "FOO", "FOO", "FOO", "FOO", End()]
        ),
        Dialogue("junk", ["NOOP", "RSET", HELLO, "NOOP", "NOOP", "RSET", "VRFY x@y.example", "NOOP", End()]),
        Dialogue(
            "junk forgotten", ["NOOP", "NOOP", "NOOP", "NOOP", *START, Body(TEXT), "NOOP", "NOOP", "NOOP"]
        ),
        Dialogue("commands of one's own", ["XNOTHING", "XNOTHING x", "GET /", "TRACE x", End()]),
        Dialogue("long line", ["NOOP " + "x" * 500, "NOOP " + "x" * 507, "NOOP " + "x" * 520]),
        Dialogue("long lines of text", [*START, Body("A: " + "b" * 550 + "\n\n" + "c" * 550 + "\n")]),
    ],
}


@each(CASES)
def test_dialogue(houses: Houses, config: Config, dialogue: Dialogue) -> None:
    houses.of(config).compare(dialogue)
