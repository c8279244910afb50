# ruff: noqa: E501  (tables of dialogues are clearer with whole lines)
"""A filter before the queue: what it hears, and what the client is told."""

from __future__ import annotations

import socket

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
    Hang,
    Houses,
    Send,
    at,
    each,
    plain,
)
from oracle.upstream import DROP, OFFERS

CAROL = "RCPT TO:<carol@example.net>"
TWO = (HELLO, MAIL, RCPT, CAROL, "DATA")
FORWARD = "XFORWARD NAME=one.example ADDR=192.0.2.1 HELO=one.example PROTO=ESMTP"
FILTER = {"smtpd_proxy_filter": "127.0.0.1:{port}"}


def _closed() -> int:
    """A port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


PROXIED = Config(
    "proxied",
    {
        "smtpd_client_restrictions": "permit_mynetworks",
        "smtpd_recipient_restrictions": "check_recipient_access texthash:{dir}/access, permit",
        "smtpd_proxy_timeout": "3s",
        "message_size_limit": "5000",
        "smtpd_authorized_xforward_hosts": "127.0.0.1",
        "smtpd_sasl_local_domain": "example.com",
        "smtpd_proxy_ehlo": "filtered.example",
    },
    services=(
        ("submission", FILTER),
        ("adjusted", {**FILTER, "smtpd_proxy_options": "speed_adjust"}),
        ("early", {**FILTER, "smtpd_delay_open_until_valid_rcpt": "no"}),
        ("inet", {"smtpd_proxy_filter": "inet:localhost:{port}", "smtpd_sasl_auth_enable": "yes"}),
        ("nobody", {"smtpd_proxy_filter": f"127.0.0.1:{_closed()}"}),
        ("missing", {"smtpd_proxy_filter": "unix:no/such/socket"}),
        (
            "foreign",
            {**FILTER, "local_header_rewrite_clients": "", "smtpd_end_of_data_restrictions": "reject"},
        ),
    ),
    files={
        "access": "held@example.net HOLD\nbent@example.net REDIRECT x@example.net\n"
        "marked@example.net PREPEND X-Mark: yes\nno@example.net REJECT\n"
    },
    users={"alice@example.com": "secret"},
    offers=(*OFFERS, "XFORWARD NAME ADDR PROTO HELO IDENT SOURCE"),
)
BARE = Config("proxied, no forwarding", {}, services=(("submission", FILTER),))

BOTH = [
    Dialogue("usual", [*START, Body(TEXT)]),
    Dialogue("two recipients", [*TWO, Body(TEXT)]),
    Dialogue("two mails", [*START, Body(TEXT), MAIL, RCPT, "DATA", Body(TEXT)]),
    Dialogue("helo", ["HELO client.example", *START[1:], Body(TEXT)]),
    Dialogue(
        "parameters",
        [
            HELLO,
            f"{MAIL} SIZE=100 BODY=8BITMIME RET=HDRS ENVID=a+20b",
            f"{RCPT} NOTIFY=SUCCESS ORCPT=rfc822;x@y.example",
            "DATA",
            Body(TEXT),
        ],
    ),
    Dialogue(
        "odd spelling",
        [HELLO, "mail  from: <alice@example.com>", "Rcpt To:bob@example.net", "DATA", Body(TEXT)],
    ),
    Dialogue("dots", [*START, Body(TEXT + ".\n..\n...a\n. b\n")]),
    Dialogue("bare newlines", [*START, Send(b"Subject: x\ny\n\nbody\n.\nmore\r\n.\r\n", 1)]),
    Dialogue("nothing", [*START, Body("")]),
    Dialogue("begins with a blank", [*START, Body(" x\n\ny\n")]),
    Dialogue("mbox", [*START, Body("From me now\n" + TEXT)]),
    Dialogue("rset", [*START[:3], "RSET", *START[1:], Body(TEXT)]),
    Dialogue("quit in the middle", [*START[:3]]),
    Dialogue("refused here", [HELLO, MAIL, "RCPT TO:<no@example.net>", RCPT, "DATA", Body(TEXT)]),
    Dialogue("nobody accepted", [HELLO, MAIL, "RCPT TO:<no@example.net>", "DATA"]),
    Dialogue("prepend", [HELLO, MAIL, "RCPT TO:<marked@example.net>", "DATA", Body(TEXT)]),
    Dialogue("hold", [HELLO, MAIL, "RCPT TO:<held@example.net>", "DATA", Body(TEXT)]),
    Dialogue("redirect", [HELLO, MAIL, "RCPT TO:<bent@example.net>", "DATA", Body(TEXT)]),
    Dialogue("told of another", [HELLO, FORWARD, "XFORWARD IDENT=abc SOURCE=REMOTE", *START[1:], Body(TEXT)]),
    Dialogue(
        "told of another, in part",
        [HELLO, "XFORWARD NAME=[UNAVAILABLE] HELO=x.example", *START[1:], Body(TEXT)],
    ),
    Dialogue(
        "one recipient is refused",
        [*TWO, Body(TEXT)],
        {"rcpt:bob@example.net": b"450-4.2.1 in\n450 4.2.1 two lines"},
    ),
    Dialogue("the mail is refused", [*START, Body(TEXT)], {"dot": b"550 5.7.1 spam"}),
    Dialogue(
        "the mail is refused for now",
        [*START, Body(TEXT), *START[1:], Body(TEXT)],
        {"dot": b"450-4.7.1 one\n450 4.7.1 two"},
    ),
    Dialogue("421 at the end", [*START, Body(TEXT), End()], {"dot": b"421 4.7.1 closing"}),
    Dialogue("a long answer", [*START, Body(TEXT)], {"dot": b"250 " + b"x" * 1500}),
    Dialogue("hangs up at the end", [*START, Body(TEXT), *START[1:], Body(TEXT)], {"dot": DROP}),
    Dialogue(
        "chunks",
        [
            HELLO,
            MAIL,
            RCPT,
            Send(b"BDAT 12\r\nSubject: x\r\n", 1),
            Send(b"BDAT 14 LAST\r\n\r\n.dot\r\nlast..", 1),
        ],
    ),
    Dialogue(
        "a chunk with an envelope of mbox", [HELLO, MAIL, RCPT, Send(b"BDAT 12 LAST\r\nFrom x\r\n\r\nyz", 1)]
    ),
]
#: Refusals that come at once, or with speed_adjust at the end.
NOW = [
    Dialogue("the recipient is refused", [*START, "QUIT", End()], {"rcpt": b"550 5.1.1 not here"}),
    Dialogue("data is refused", [*START], {"data": b"451 4.3.0 busy"}),
    Dialogue("success where none is wanted", [*START], {"data": b"250 2.0.0 what"}),
    Dialogue("the sender is refused", [HELLO, MAIL, RCPT, RCPT, "DATA"], {"mail": b"553 5.1.8 no such sender"}),
    Dialogue("the greeting is a refusal", [HELLO, MAIL, RCPT, "DATA"], {"connect": b"554 no"}),
    Dialogue("no greeting", [HELLO, MAIL, RCPT], {"connect": DROP}),
    Dialogue("EHLO is refused", [HELLO, MAIL, RCPT], {"ehlo": b"502 what"}),
    Dialogue("XFORWARD is refused", [HELLO, MAIL, RCPT], {"xforward": b"550 5.7.0 not you"}),
    Dialogue("hangs up at RCPT", [HELLO, MAIL, RCPT, CAROL, "DATA"], {"rcpt": DROP}),
    Dialogue("hangs up at DATA", [*START, "DATA"], {"data": DROP}),
    Dialogue("chunks, refused", [HELLO, MAIL, RCPT, Send(b"BDAT 4\r\na:b\r", 1)], {"data": b"451 4.3.0 busy"}),
]  # fmt: skip
REFUSALS: dict[str, bytes] = {
    "connect": b"554 no", "ehlo": b"502 what", "xforward": b"550 5.7.0 not you", "mail": b"553 5.1.8 no",
    "rcpt": b"550 5.1.1 no", "data": b"451 4.3.0 busy", "dot": b"554 5.7.1 spam",
}  # fmt: skip
LATER = [
    Dialogue(f"{stage}: {what.decode()}", [*TWO, Body(TEXT)], {stage: what}, service="adjusted")
    for stage, refusal in REFUSALS.items()
    for what in (refusal, DROP)
    if what != DROP or stage != "ehlo"
]
CASES = {
    PROXIED: [
        *BOTH,
        *NOW,
        *LATER,
        *at("adjusted", *BOTH),
        *at("early", *BOTH[:2], *(one for one in BOTH if one.name in ("rset", "nobody accepted"))),
        Dialogue("early, the sender is refused", [HELLO, MAIL, RCPT], {"mail": b"553 5.1.8 no"}, service="early"),
        *at("nobody", BOTH[0], Dialogue("again", [HELLO, MAIL, RCPT, RCPT, "RSET", MAIL, RCPT])),
        *at("missing", BOTH[0]),
        *at("foreign", Dialogue("told where it is from", [HELLO, "XFORWARD SOURCE=LOCAL", MAIL, RCPT])),
        Dialogue("with a login", [HELLO, plain("alice@example.com", "secret"), f"{MAIL} AUTH=<>", *START[2:], Body(TEXT)], service="inet"),
        Dialogue("hang up", [*START[:3], Hang()]),
    ],
    BARE: BOTH[:2],
}  # fmt: skip


@each(CASES)
def test_dialogue(houses: Houses, config: Config, dialogue: Dialogue) -> None:
    houses.of(config).compare(dialogue)
