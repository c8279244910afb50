"""Commands and replies as settings change them: filters, footers, lists of commands, banners, time-outs."""

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
    Slow,
    at,
    each,
)

REFUSE = "check_recipient_access texthash:{dir}/refused, permit"
REFUSED = ["RCPT TO:<five@x.example>", "RCPT TO:<four@x.example>", "RCPT TO:<bye@x.example>"]
EVERY_NAME = (
    "$server_name $client $client_address ${client_name} $(reverse_client_name) [$helo_name] [$sender]"
    " [$sender_name] [$sender_domain] [$recipient] [$recipient_name] [$recipient_domain]"
    " ${sender?{yes}:{no}} ${recipient:none} $$1 [$none_such]"
)
HASTE = {"smtpd_timeout": "1s"}

#: One configuration for all, since an instance takes its time to start: what differs are the services.
COMMANDS = Config(
    "commands",
    {"smtpd_recipient_restrictions": REFUSE, "info_log_address_format": "internal"},
    services=(
        # replies
        ("footer", {"smtpd_reject_footer": r"\c. Ask $client_address"}),
        ("lines", {"smtpd_reject_footer": r"one\ntwo $helo_name\nthree"}),
        ("joined", {"smtpd_reject_footer": r"\c; first\nsecond"}),
        ("names", {"smtpd_reject_footer": EVERY_NAME}),
        ("filtered names", {"smtpd_reject_footer": EVERY_NAME, "smtpd_expansion_filter": "abcdefghij.@"}),
        ("broken", {"smtpd_reject_footer": "x $(client"}),
        ("maps", {"smtpd_reject_footer_maps": "regexp:{dir}/footers", "smtpd_reject_footer": "usual"}),
        ("no map", {"smtpd_reject_footer_maps": "texthash:{dir}/none", "smtpd_reject_footer": "usual"}),
        ("soft", {"soft_bounce": "yes", "smtpd_reject_footer": "softly"}),
        ("hard", {"smtpd_hard_error_limit": "2", "smtpd_reject_footer": "enough"}),
        ("late", {"smtpd_timeout": "1s", "smtpd_reject_footer": "too late"}),
        # commands
        ("filter", {"smtpd_command_filter": "regexp:{dir}/filter"}),
        ("no filter", {"smtpd_command_filter": "texthash:{dir}/none"}),
        (
            "lists",
            {
                "smtpd_noop_commands": "texthash:{dir}/noops, XONE",
                "smtpd_forbidden_commands": "!GET, regexp:{dir}/forbidden, XTWO",
            },
        ),
        ("nothing forbidden", {"smtpd_forbidden_commands": "", "smtpd_noop_commands": "HELP, VRFY, QUIT"}),
        # variants
        ("banner", {"smtpd_banner": "$myhostname ready; $mail_name ESMTP"}),
        ("open at once", {"smtpd_delay_open_until_valid_rcpt": "no"}),
        ("hello first", {"smtpd_helo_required": "yes"}),
        ("any pipelining", {"smtpd_forbid_unauth_pipelining": "no"}),
        ("no names", {"smtpd_peername_lookup": "no"}),
        ("ports", {"smtpd_client_port_logging": "yes"}),
        ("permits", {"smtpd_log_access_permit_actions": "static:all"}),
        ("any size", {"message_size_limit": "0"}),
        ("no room", {"queue_minfree": "8000000000000"}),
        ("one recipient", {"smtpd_recipient_limit": "1", "smtpd_recipient_overshoot_limit": "1"}),
        ("stress", {"stress": "yes"}),
        ("no stress", {"stress": "", "smtpd_hard_error_limit": "${stress?{1}:{2}}"}),
        ("no utf8", {"smtputf8_enable": "no"}),
        ("no vrfy", {"disable_vrfy_command": "yes"}),
        ("few words", {"smtpd_discard_ehlo_keywords": "pipelining size vrfy 8bitmime dsn"}),
        ("fewer", {"smtpd_discard_ehlo_keywords": "smtputf8,chunking, enhancedstatuscodes ETRN"}),
        ("silent", {"smtpd_discard_ehlo_keywords": "silent-discard, pipelining"}),
        ("soft alone", {"soft_bounce": "yes"}),
        (
            "no junk",
            {"smtpd_junk_command_limit": "1", "smtpd_hard_error_limit": "3", "smtpd_noop_commands": "XNOP"},
        ),
        ("no patience", {"smtpd_hard_error_limit": "1"}),
        (
            "no welcome",
            {
                "smtpd_delay_reject": "no",
                "smtpd_client_restrictions": "reject",
                "smtpd_hard_error_limit": "1",
            },
        ),
        ("strict", {"strict_rfc821_envelopes": "yes"}),
        ("strict utf8", {"strict_smtputf8": "yes"}),
        ("short lines", {"line_length_limit": "512"}),
        (
            "reject code",
            {"smtpd_forbid_bare_newline": "reject", "smtpd_forbid_bare_newline_reject_code": "521"},
        ),
        ("any newline", {"smtpd_forbid_bare_newline": "no"}),
        (
            "excluded",
            {"smtpd_forbid_bare_newline": "reject", "smtpd_forbid_bare_newline_exclusions": "$mynetworks"},
        ),
        # haste
        ("hasty", HASTE),
        ("deadline", {**HASTE, "smtpd_per_request_deadline": "yes"}),
        ("rate", {**HASTE, "smtpd_per_request_deadline": "yes", "smtpd_min_data_rate": "100000"}),
    ),
    files={
        "refused": "five@x.example 554 no\nfour@x.example 450 later\nbye@x.example 521 bye\n"
        "no one@x.example 554 no\n"
        "gone@x.example HANGUP for good\n",
        "footers": r"/^554 5\.7\.1/ five only" + "\n" + r"/^4/ \c and later" + "\n",
        "filter": "/^(EHLO|HELO)$/ $1 nameless.example\n/^SEND FROM:(.*)$/ MAIL FROM:$1\n/^SHUT$/ QUIT\n"
        '/^(RCPT TO:<)old(@.*)$/ $1new$2\n/^FAULTY$/ RCPT\n/^NUL/ NOOP\n/^GET/ NOOP\n/^AUTH x/ " "\n',
        "noops": "xnop 1\nexpn 1\n",
        "forbidden": "/^PUT/ x\n/^[0-9]/ x\n",
    },
)
SAID = [HELLO, "FOO", MAIL, *REFUSED, End()]
RETURNS = ["DATA", Send(b"Subject: x\r\r\nA: b\r\r\r\n\r\r\nbody\r\r\nmore\rx\r\n.\r\n", 1)]
RETURNS_IN_CHUNKS = [Send(b"BDAT 17\r\nSubject: x\r\r\n\r\r\na\r", 1), Send(b"BDAT 6 LAST\r\n\r\r\nb\r\n", 1)]
ODD_ENDS = ["host!bob@", "bob@", "bob%host@", "a!b!c@", "@@", "bob@@", "!bob@", "bob!@", "h..t!bob@", "a!b@@"]
QUOTED = ['MAIL FROM:<"a b"@example.com>', 'RCPT TO:<"c d"@example.net>', 'RCPT TO:<"no one"@x.example>']

LINE = b"x" * 70 + b"\r\n"
#: A piece each 0.3 s: a second has passed before the end.
CREEPING_COMMAND = Slow((b"N", b"O", b"O", b"P", b" ", b"x", b"\r\n"), 0.3, 1)
CREEPING_TEXT = Slow((b"A: b\r\n", b"\r\n" + LINE * 10, LINE * 10, LINE * 10, LINE * 10, b".\r\n"), 0.3, 1)
#: Too little, too slowly.
TRICKLE = Slow((b"A: b\r\n\r\n", LINE), 0.6, 1)

CASES = {
    COMMANDS: [
        *[
            one
            for name in (
                "footer",
                "lines",
                "joined",
                "names",
                "filtered names",
                "broken",
                "maps",
                "no map",
                "soft",
            )
            for one in at(
                name,
                Dialogue("refusals", SAID),
                Dialogue(
                    "hello", ["HELO x y", MAIL, RCPT, REFUSED[0], "DATA x", "VRFY", "EHLO", "MAIL x", "RSET"]
                ),
            )
        ],
        *at("hard", Dialogue("too many errors", ["FOO", "FOO", End()])),
        *at("late", Dialogue("time is up", [HELLO, Send(b"", 1), End()], slow=True)),
        *at("late", Dialogue("time is up in data", [*START, Send(b"a: b\r\n", 1), End()], slow=True)),
        *at(
            "filter",
            Dialogue("hello", ["EHLO", MAIL, RCPT, "DATA", Body(TEXT)]),
            Dialogue("mail", ["HELO", "  SEND FROM:<a@b.example> x", "SEND FROM:<a@b.example>", "RSET"]),
            Dialogue(
                "recipients", [HELLO, MAIL, "RCPT TO:<old@b.example>", "DATA", Body(TEXT), "SHUT", End()]
            ),
            Dialogue("odd", ["FAULTY", "AUTH x", "GET /", "NUL\0x", "unknown", "SHUT", End()]),
            Dialogue(
                "pipelined",
                [HELLO, Send(b"SEND FROM:<a@b.example>\r\nRCPT TO:<old@c.example>\r\nRSET\r\n", 3)],
            ),
            Dialogue("text is not filtered", [*START, Body("SHUT\n\nGET\nSEND FROM:<x>\n")]),
        ),
        *at("no filter", Dialogue("fails", ["NOOP", End()])),
        *at(
            "lists",
            Dialogue("noops", ["XNOP", "expn x", "xone", "XTWO x", End()]),
            Dialogue("forbidden", ["GET /", "put /x", End()]),
            Dialogue("digits", ["CONNECT x:1", "1", End()]),
            Dialogue("header", ["Subject: x", End()]),
        ),
        *at("nothing forbidden", Dialogue("get", ["GET /", "1", "VRFY", "HELP x", "QUIT", "Foo: x", End()])),
        *at("banner", Dialogue("hello", [HELLO])),
        *at(
            "open at once",
            Dialogue("no recipients", [HELLO, MAIL, "NOOP", "RSET", MAIL]),
            Dialogue("mail", [*START, Body(TEXT)]),
        ),
        *at(
            "hello first",
            Dialogue("order", [MAIL, RCPT, "DATA", "BDAT 0 LAST", "ETRN x", "HELO x", MAIL, RCPT]),
        ),
        *at(
            "any pipelining",
            Dialogue(
                "all at once",
                [Send(b"EHLO x\r\nNOOP\r\nVRFY a@b.example\r\nHELO y\r\nNOOP\r\nNOOP\r\n", 6)],
            ),
        ),
        *at("no names", Dialogue("mail", [*START, Body(TEXT)])),
        *at(
            "ports",
            Dialogue("mail", [*START, Body(TEXT)]),
            Dialogue("refused", [HELLO, MAIL, REFUSED[0], "x: y", End()]),
        ),
        *at("permits", Dialogue("mail", [*START, Body(TEXT)])),
        *at(
            "any size",
            Dialogue("mail", [HELLO, MAIL + " SIZE=99999999999", RCPT, "DATA", Body(TEXT)]),
            Dialogue("too large", [HELLO, MAIL + " SIZE=99999999999999999999"]),
        ),
        *at(
            "soft alone",
            Dialogue("hung up on", [HELLO, MAIL, "RCPT TO:<gone@x.example>", End()]),
            Dialogue("hung up on with mail", [HELLO, MAIL, RCPT, "RCPT TO:<gone@x.example>", End()]),
        ),
        *at("no room", Dialogue("mail", [HELLO, MAIL, MAIL + " SIZE=1", RCPT])),
        *at(
            "one recipient",
            Dialogue("two", [HELLO, MAIL, RCPT, RCPT, "RCPT TO:<x@y.example>", "DATA", Body(TEXT)]),
        ),
        *at("stress", Dialogue("one error", [HELLO, "FOO", End()]), Dialogue("junk", ["NOOP"] * 3 + [End()])),
        *at("no stress", Dialogue("two errors", [HELLO, "FOO", "FOO", End()])),
        *at(
            "no utf8",
            Dialogue("parameter", [HELLO, MAIL + " SMTPUTF8", "VRFY x SMTPUTF8", "VRFY"]),
            Dialogue(
                "octets", [HELLO, Send(b"NOOP \xff\r\n", 1), Send(b"MAIL FROM:<\xc3\xa4@b.example>\r\n", 1)]
            ),
        ),
        *at(
            "no vrfy",
            Dialogue("vrfy", [HELLO, "VRFY x", "VRFY"]),
            Dialogue("HELO behind EHLO", [HELLO, "HELO x", MAIL, REFUSED[0], RCPT, "DATA", Body(TEXT)]),
            Dialogue("odd ends", [HELLO, MAIL, *(f"RCPT TO:<{each}>" for each in ODD_ENDS)]),
            Dialogue("quoted addresses", [HELLO, *QUOTED, "DATA", Body(TEXT)]),
        ),
        *at(
            "few words",
            Dialogue("hello", [HELLO, MAIL + " SIZE=10 BODY=8BITMIME", "RSET", MAIL + " RET=FULL"]),
        ),
        *at("fewer", Dialogue("hello", [HELLO, MAIL + " SMTPUTF8", "ETRN x.example", "BDAT 1", End()])),
        *at("silent", Dialogue("hello", [HELLO])),
        *at("soft alone", Dialogue("refusals", [HELLO, "FOO", "MAIL x", MAIL, *REFUSED])),
        *at(
            "no junk",
            Dialogue("junk", [HELLO, *["NOOP", "RSET", "VRFY x@y.example"] * 2, End()]),
            Dialogue("ignored", [*["XNOP"] * 6, End()]),
        ),
        *at("no patience", Dialogue("once", [HELLO, "DATA", End()])),
        *at("no welcome", Dialogue("refused", [End()])),
        *at(
            "strict",
            Dialogue(
                "paths", [HELLO, "MAIL FROM:a@b.example", "MAIL FROM:<a@b.example> x", MAIL, "RCPT TO:x"]
            ),
        ),
        *at(
            "strict utf8",
            Dialogue("paths", [HELLO, "MAIL FROM:<ä@b.example>", "MAIL FROM:<ä@b.example> SMTPUTF8"]),
        ),
        *at(
            "short lines",
            Dialogue("long", [HELLO, "NOOP " + "x" * 506, "NOOP " + "x" * 508, "NOOP " + "x" * 900]),
        ),
        *at("reject code", Dialogue("lone LF", [HELLO, Send(b"NOOP\n", 1), End()])),
        *at(
            "any newline",
            Dialogue("lone LF", [Send(b"EHLO x\nNOOP\n", 1), "NOOP", Send(b"NOOP\r\r\n", 1)]),
            Dialogue(
                "returns", [Send(b"EHLO x\r\r\r\n", 1), MAIL, Send(RCPT.encode() + b"\r\r\n", 1), *RETURNS]
            ),
            Dialogue("returns in chunks", [HELLO, MAIL, RCPT, *RETURNS_IN_CHUNKS]),
        ),
        *at(
            "excluded",
            Dialogue("lone LF", [Send(b"EHLO x\n", 1), *START[1:], Send(b"A: b\n\nc\n\r\n.\r\n", 1)]),
        ),
        *at(
            "hasty",
            Dialogue("nothing said", [Send(b"", 1), End()], slow=True),
            Dialogue("half a line", [HELLO, Send(b"NOO", 1), End()], slow=True),
            Dialogue("creeping command", [HELLO, CREEPING_COMMAND], slow=True),
            Dialogue("stops in text", [*START, Send(b"A: b\r\nc", 1), End()], slow=True),
            Dialogue("stops in a login", [HELLO, Send(b"AUTH", 1), End()], slow=True),
        ),
        *at(
            "deadline",
            Dialogue("creeping command", [HELLO, CREEPING_COMMAND, End()], slow=True),
            Dialogue("creeping text", [*START, CREEPING_TEXT, "NOOP"]),
        ),
        *at("rate", Dialogue("trickle", [*START, TRICKLE, End()], slow=True)),
    ],
}


@each(CASES)
def test_dialogue(houses: Houses, config: Config, dialogue: Dialogue) -> None:
    houses.of(config).compare(dialogue)
