"""Plain relay: commands, their order and their syntax, pipelining, strange clients."""

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
    Hang,
    Houses,
    Send,
    each,
)

RELAY = Config("relay", {})
CASES = {
    RELAY: [
        Dialogue("usual", [*START, Body(TEXT)]),
        Dialogue("helo", ["HELO client.example", MAIL, RCPT, "DATA", Body(TEXT)]),
        Dialogue("no hello", [MAIL, RCPT, "DATA", Body(TEXT)]),
        Dialogue("nothing", []),
        Dialogue("hang up", [Hang()]),
        Dialogue("noop", ["NOOP", "NOOP x y", "RSET", "RSET x", "QUIT x", End()]),
        Dialogue("hello twice", [HELLO, "HELO other", "EHLO", "HELO", "EHLO a b c", 'EHLO <("x")>']),
        Dialogue("odd hello", ["EHLO a b", MAIL, RCPT, "DATA", Body(TEXT)]),
        Dialogue("literal hello", ["EHLO [127.0.0.1]", MAIL, RCPT, "DATA", Body(TEXT)]),
        Dialogue(
            "case", ["ehlo client", "mail from:<a@b.example>", "Rcpt To: <c@d.example>", "data", Body(TEXT)]
        ),
        Dialogue("two mails", [*START, Body(TEXT), MAIL, RCPT, "DATA", Body(TEXT)]),
        Dialogue(
            "several recipients",
            [
                HELLO,
                MAIL,
                RCPT,
                "RCPT TO:<carol@example.net>",
                "RCPT TO:<BOB@example.net>",
                RCPT,
                "RCPT TO:<dave@example.org>",
                "DATA",
                Body(TEXT),
            ],
        ),
        Dialogue("dots", [*START, Body(TEXT + ".\n..\n...a\n. b\n")]),
        Dialogue("empty", [*START, Body("")]),
        Dialogue("reset", [HELLO, MAIL, RCPT, "RSET", RCPT, MAIL, RCPT, "DATA", Body(TEXT)]),
        Dialogue("ehlo resets", [HELLO, MAIL, RCPT, HELLO, "DATA", "RCPT TO:<a@b.example>"]),
        Dialogue(
            "order", ["DATA", "RCPT TO:<x@y.example>", MAIL, MAIL, "DATA", "BDAT 0", "VRFY x", "DATA x"]
        ),
        Dialogue("lost in data", [*START, Send(b"Subject: x\r\n\r\nhalf a line"), Hang()]),
        Dialogue("lost behind a line", [*START, Send(b"Subject: x\r\n\r\na line\r\n"), Hang()]),
        Dialogue("lost after rcpt", [HELLO, MAIL, RCPT, Hang()]),
        Dialogue("lost after mail", [HELLO, MAIL, Hang()]),
        Dialogue("lost behind the end", [*START, Body(TEXT), Hang()]),
        Dialogue("lost in a line", [HELLO, Send(b"MAIL FR"), Hang()]),
        Dialogue("quit with mail", [HELLO, MAIL, RCPT]),
        Dialogue("quit in data", [*START, Send(WIRE + b"QUIT\r\n.\r\n", 1)]),
        Dialogue(
            "mail syntax",
            [
                HELLO,
                "MAIL",
                "MAIL FROM",
                "MAIL FROM:",
                "MAIL FROM: ",
                "MAIL TO:<a@b.example>",
                "MAIL FROM:<a@b.example",
                "MAIL FROM:a@b.example>",
                "MAIL FROM:<a b@c.example>",
                "MAIL FROM:<@>",
                "MAIL FROM:<a@>",
                "MAIL FROM:<a@b@c.example>",
                "MAIL FROM:<a@-b.example>",
            ],
        ),
        *(
            Dialogue(f"sender {each}", [HELLO, f"MAIL FROM:{each}", RCPT, "DATA", Body(TEXT)])
            for each in (
                "<>",
                "a@b.example",
                "<a>",
                "<@c.example:a@b.example>",
                '<"a b"@c.example>',
                "<a@[127.0.0.1]>",
                "<a@B.Example.>",
                "<A.B+c@d.example>",
                '<"a\\"b"@c.example>',
                "<a@b.example> (x)",
                "<a..b@c.example>",
            )
        ),
        *(
            Dialogue(f"recipient {each}", [HELLO, MAIL, f"RCPT TO:{each}", "DATA", Body(TEXT)])
            for each in (
                "<>",
                "b@c.example",
                "<b>",
                "<@x.example,@y.example:b@c.example>",
                '<"b c"@d.example>',
                "<b@[192.0.2.1]>",
                "<b@c.example.>",
                "<b@c.example..>",
                "<b%c.example@d.example>",
                "<c.example!b>",
                "<b@c_d.example>",
                "<-b@c.example>",
                "<b@c@d.example>",
                '<"b@c.example">',
                "<b@1.2.3.4>",
                "<postmaster>",
                "<b@localhost>",
                "<b@[IPv6:::1]>",
                "<b@@c.example>",
            )
        ),
        Dialogue(
            "parameters",
            [
                HELLO,
                "MAIL FROM:<a@b.example> SIZE=100 BODY=8BITMIME",
                "RSET",
                "MAIL FROM:<a@b.example> SIZE=x",
                "MAIL FROM:<a@b.example> SIZE=",
                "MAIL FROM:<a@b.example> SIZE",
                "MAIL FROM:<a@b.example> BODY=BINARYMIME",
                "MAIL FROM:<a@b.example> FOO=1",
                "MAIL FROM:<a@b.example> SIZE=99999999999999999999999",
                "MAIL FROM:<a@b.example> SIZE=20000000",
                "MAIL FROM:<a@b.example> AUTH=<>",
                "RSET",
                "MAIL FROM:<a@b.example> AUTH=x AUTH=y",
                "MAIL FROM:<a@b.example> RET=x",
                "MAIL FROM:<a@b.example> RET=FULL RET=FULL",
                "MAIL FROM:<a@b.example> ENVID=",
                "MAIL FROM:<a@b.example> ENVID=a+zz",
                "MAIL FROM:<a@b.example> SMTPUTF8=1",
                "MAIL FROM:<a@b.example> SMTPUTF8",
            ],
        ),
        Dialogue(
            "rcpt parameters",
            [
                HELLO,
                MAIL,
                "RCPT TO:<c@d.example> NOTIFY=NEVER",
                "RCPT TO:<c@d.example> NOTIFY=NEVER,DELAY",
                "RCPT TO:<c@d.example> NOTIFY=",
                "RCPT TO:<c@d.example> NOTIFY=SUCCESS NOTIFY=DELAY",
                "RCPT TO:<c@d.example> ORCPT=x",
                "RCPT TO:<c@d.example> ORCPT=rfc822;a+2",
                "RCPT TO:<c@d.example> ORCPT=rfc822;a+2Bb@c.example",
                "RCPT TO:<c@d.example> FOO",
                "RCPT TO:<c@d.example> SIZE=3",
            ],
        ),
        Dialogue(
            "dsn relayed",
            [
                HELLO,
                "MAIL FROM:<a@b.example> RET=HDRS ENVID=Id+2B1",
                "RCPT TO:<c@d.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;C@d.example",
                "RCPT TO:<e@f.example> NOTIFY=NEVER",
                "RCPT TO:<g@h.example>",
                "DATA",
                Body(TEXT),
            ],
        ),
        Dialogue(
            "unknown",
            [
                "FOO",
                "FOO bar",
                "XFORWARD NAME=x",
                "XCLIENT NAME=x",
                "XFORWARD",
                "EXPN x",
                "TURN",
                "MAIL",
                "STARTTLS",
                "AUTH PLAIN",
                "ETRN",
                "ETRN a b",
                "ETRN d.example",
            ],
        ),
        Dialogue(
            "vrfy",
            [
                "VRFY",
                "VRFY bob@example.net",
                "VRFY <bob@example.net>",
                "VRFY bob",
                "VRFY a b",
                "VRFY bob@example.net SMTPUTF8",
                "VRFY @",
                HELLO,
                MAIL,
                "VRFY bob@example.net",
            ],
        ),
        Dialogue("bdat", [HELLO, MAIL, RCPT, Send(b"BDAT %d LAST\r\n" % len(WIRE) + WIRE, 1)]),
        Dialogue(
            "bdat chunks",
            [
                HELLO,
                MAIL,
                RCPT,
                Send(b"BDAT 10\r\n" + WIRE[:10], 1),
                Send(b"BDAT %d\r\n" % len(WIRE[10:]) + WIRE[10:], 1),
                "NOOP",
                "BDAT 0 LAST",
            ],
        ),
        Dialogue(
            "bdat pipelined",
            [
                HELLO,
                Send(
                    b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 10\r\n"
                    + WIRE[:10]
                    + b"BDAT %d LAST\r\n" % len(WIRE[10:])
                    + WIRE[10:],
                    4,
                ),
            ],
        ),
        Dialogue(
            "bdat no line end",
            [
                HELLO,
                MAIL,
                RCPT,
                Send(b"BDAT 14 LAST\r\nSubject: x\r\n\r\n", 1),
                MAIL,
                RCPT,
                Send(b"BDAT 9 LAST\r\nA: b\r\n\r\nc", 1),
            ],
        ),
        Dialogue("bdat dots", [HELLO, MAIL, RCPT, Send(b"BDAT 19 LAST\r\nA: b\r\n\r\n.\r\n..\r\n.x\r\n", 1)]),
        Dialogue(
            "bdat order",
            [
                HELLO,
                Send(b"BDAT 3\r\nabc", 1),
                MAIL,
                Send(b"BDAT 3\r\nabc", 1),
                RCPT,
                Send(b"BDAT 3\r\nA: ", 1),
                "DATA",
                RCPT,
                MAIL,
                "RSET",
                "BDAT 0",
                MAIL,
                RCPT,
                "BDAT 0",
            ],
        ),
        *(
            Dialogue(f"bdat {each}", [HELLO, MAIL, RCPT, f"BDAT{each}", End()])
            for each in ("", " x", " 3 x", " -1")
        ),
        Dialogue("lost in bdat", [HELLO, MAIL, RCPT, Send(b"BDAT 100\r\nSubject: x\r\nhalf"), Hang()]),
        Dialogue("lost between chunks", [HELLO, MAIL, RCPT, Send(b"BDAT 4\r\nA: b", 1), Hang()]),
        Dialogue(
            "pipelined",
            [
                Send(GROUP[0], 1),
                Send(GROUP[1] + b"DATA\r\n", 3),
                Send(WIRE + b".\r\nMAIL FROM:<a@b.example>\r\nQUIT\r\n", 3),
                End(),
            ],
        ),
        Dialogue("all in one", [Send(b"".join(GROUP) + b"DATA\r\n" + WIRE + b".\r\nQUIT\r\n", 2), End()]),
        Dialogue(
            "ehlo, then a group", [HELLO, Send(GROUP[1] + b"DATA\r\n" + WIRE + b".\r\nQUIT\r\n", 4), End()]
        ),
        Dialogue("helo, then a group", ["HELO c", Send(GROUP[1], 1), End()]),
        *(
            Dialogue(f"forbidden {each[:12]!r}", [Send(each, 1), End()])
            for each in (
                b"GET / HTTP/1.1\r\n",
                b"CONNECT x:1\r\n",
                b"POST / HTTP/1.0\r\n",
                b"Subject: x\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\n",
                b"123\r\n",
                b"get x\r\n",
            )
        ),
        Dialogue(
            "garbage",
            [
                Send(b"\r\n", 1),
                Send(b" \r\n", 1),
                Send(b" NOOP\r\n", 1),
                Send(b"NOOP\0x\r\n", 1),
                Send(b"A\xffB\r\n", 1),
                Send(b"\x80\x9e\xff\r\n", 1),
                Send(b"EHLO \xe4\r\n", 1),
                Send(b"NOOP\n", 1),
                Send(b"NOOP\tx\r\n", 1),
            ],
        ),
        Dialogue(
            "long line",
            [Send(b"NOOP " + b"x" * 2100 + b"\r\n", 1), Send(b"EHLO " + b"y" * 2040 + b"\r\n", 1)],
        ),
        Dialogue(
            "long addresses",
            [
                HELLO,
                f"MAIL FROM:<{'a' * 300}@b.example>",
                f"RCPT TO:<{'a' * 100}@{'b' * 70}.example>",
                f"RCPT TO:<a@{'b.' * 130}example>",
            ],
        ),
        Dialogue(
            "bare newlines",
            [HELLO, MAIL, RCPT, "DATA", Send(b"Subject: x\n\na\n.\nb\r\n.\nc\n.\r\nd\r\n.\r\n", 1)],
        ),
        Dialogue(
            "bare returns", [HELLO, MAIL, RCPT, "DATA", Send(b"Subject: x\ry\r\n\r\na\rb\r\r\nc\r\n.\r\n", 1)]
        ),
        Dialogue("nul", [HELLO, MAIL, RCPT, "DATA", Send(b"Subject: x\0y\r\n\r\na\0b\r\n.\r\n", 1)]),
        Dialogue("half closed", [HELLO, MAIL, RCPT, Send(b"", half=True), End()]),
    ],
}


@each(CASES)
def test_dialogue(houses: Houses, config: Config, dialogue: Dialogue) -> None:
    houses.of(config).compare(dialogue)
