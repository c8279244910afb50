"""What becomes of a message's headers and text on its way; mail in UTF-8."""

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
    Houses,
    Send,
    at,
    each,
)

LOCAL = Config(
    "local headers",
    {},
    services=(("submission", {}), ("remote", {"local_header_rewrite_clients": ""})),
    transports={
        "old": {"smtp_discard_ehlo_keywords": "8bitmime, smtputf8, pipelining"},
        "eight": {"smtp_discard_ehlo_keywords": "smtputf8"},
        "helo": {"smtp_never_send_ehlo": "yes"},
    },
)
ALWAYS = Config(
    "always complete",
    {
        "local_header_rewrite_clients": "",
        "always_add_missing_headers": "yes",
        "message_drop_headers": "subject, x-secret, bcc",
        "undisclosed_recipients_header": "To: undisclosed-recipients:;",
        "enable_long_queue_ids": "yes",
        "header_size_limit": "300",
    },
)
NO_UTF8 = Config("smtputf8 off", {"smtputf8_enable": "no"})

MESSAGES = {
    "nothing": "",
    "empty line": "\n",
    "text alone": "hello\nthere\n",
    "text with a colon": "hello there: you\n\nmore\n",
    "headers alone": "Subject: x\nTo: b@c.example\n",
    "no subject": "To: b@c.example\n\ntext\n",
    "date": "Date: Mon, 1 Jan 2024 00:00:00 +0000\n\ntext\n",
    "message-id": "Message-ID: <a@b>\n\ntext\n",
    "odd message-id": "Message-Id:a b\n\ntext\n",
    "empty message-id": "Message-Id:\n\ntext\n",
    "folded message-id": "Message-Id:\n <a@b>\n\ntext\n",
    "two message-ids": "Message-Id: <a@b>\nMESSAGE-ID: <c@d>\n\ntext\n",
    "from": "From: x@y.example\n\ntext\n",
    "sender": "Sender: x@y.example\nReply-To: z@y.example\n\ntext\n",
    "bcc": "From: a@b.example\nBcc: secret@c.example,\n d@e.example\nTo: f@g.example\n\ntext\n",
    "bcc alone": "Bcc: secret@c.example\n\ntext\n",
    "return-path": "Return-Path: <a@b.example>\nContent-Length: 3\nSubject: x\n\ntext\n",
    "resent": "Resent-To: a@b.example\nSubject: x\n\ntext\n",
    "resent whole": "Resent-From: a@b.example\nResent-Date: Mon, 1 Jan 2024 00:00:00 +0000\n"
    "Resent-Message-Id: <r@s>\nResent-Bcc: x@y.example\nMessage-Id: <a@b>\n\ntext\n",
    "resent bcc": "Resent-Bcc: x@y.example\nFrom: a@b.example\n\ntext\n",
    "folded": "Subject: a\n b\n\tc\n d:e\nX: y\n\ntext\n",
    "begins folded": " Subject: a\nX: y\n\ntext\n",
    "blank line first": "\nSubject: x\n\ntext\n",
    "line of blanks": "Subject: x\n \nX: y\n\ntext\n",
    "mbox": "From a@b.example Mon Jan  1 00:00:00 2024\nSubject: x\n\ntext\n",
    "mbox quoted": ">From a@b.example Mon Jan  1 00:00:00 2024\nSubject: x\n\ntext\n",
    "mbox later": "Subject: x\nFrom a@b.example\nX: y\n\ntext\n",
    "no colon": "Subject: x\nno header\nX: y\n\ntext\n",
    "blank before colon": "Subject : x\nX\t: y\n\ntext\n",
    "no name": ": x\nX: y\n\ntext\n",
    "odd names": "X/Y: z\nX Y: z\n\ntext\n",
    "duplicates": "Subject: x\nSubject: y\nTo: a@b.example\nTo: c@d.example\n\ntext\n",
    "empty values": "Subject:\nTo:\nFrom:\nDate:\n\ntext\n",
    "drop": "Subject: x\nX-Secret: y\n z\nX-Open: z\n\ntext\n",
    "eight bits": "Subject: grün\nContent-Type: text/plain; charset=utf-8\n\ngrün\n",
    "declared 8bit": "Content-Transfer-Encoding: 8bit\nMIME-Version: 1.0\n\ngrün\n",
    "multipart": "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x\n\n--x\n\na\n--x\n"
    "Content-Transfer-Encoding: 8bit\n\ngrün\n--x--\n",
    "long header": "Subject: " + "x" * 1200 + "\n\ntext\n",
    "long folded header": "Subject: x" + "\n x" * 200 + "\n\ntext\n",
    "long lines": "Subject: x\n\n"
    + "a" * 998
    + "\n"
    + "b" * 999
    + "\n"
    + "c" * 1000
    + "\n"
    + "d" * 2500
    + "\n",
    "very long line": "Subject: x\n\n" + "e" * 9000 + "\n",
    "blanks at ends": "Subject: x  \n\ntext  \n\n\n",
    "tabs": "Subject:\tx\nX:\t \ty\n\n\ttext\n",
    "received": "Received: from x by y; Mon, 1 Jan 2024 00:00:00 +0000\nSubject: x\n\ntext\n",
    "delivered-to": "Delivered-To: a@b.example\nSubject: x\n\ntext\n",
    "group": 'To: friends: a@b.example, c@d.example;\nFrom: "A, B" <a@b.example> (c)\n\ntext\n',
}

UTF8 = "MAIL FROM:<alice@example.com> SMTPUTF8"
MAILS = [
    Dialogue("utf8 sender", [HELLO, "MAIL FROM:<älice@example.com> SMTPUTF8", RCPT, "DATA", Body(TEXT)]),
    Dialogue("utf8 recipient", [HELLO, UTF8, "RCPT TO:<böb@example.net>", "DATA", Body(TEXT)]),
    Dialogue("utf8 domain", [HELLO, UTF8, "RCPT TO:<bob@exämple.net>", "DATA", Body(TEXT)]),
    Dialogue("utf8 declared", [HELLO, UTF8, RCPT, "DATA", Body(TEXT)]),
    Dialogue("utf8 headers", [HELLO, UTF8, RCPT, "DATA", Body("Subject: grün\n\ngrün\n")]),
    Dialogue(
        "utf8 not declared",
        [HELLO, "MAIL FROM:<älice@example.com>", "RCPT TO:<böb@example.net>", "DATA", Body(TEXT)],
    ),
    Dialogue("utf8 headers not declared", [*START, Body("Subject: grün\n\ngrün\n")]),
    Dialogue(
        "domain not declared",
        [HELLO, MAIL, "RCPT TO:<bob@exämple.net>", "VRFY böb@exämple.net", "VRFY böb@x.net SMTPUTF8"],
    ),
    Dialogue(
        "body 8bitmime",
        [HELLO, "MAIL FROM:<a@b.example> BODY=8BITMIME", RCPT, "DATA", Body("Subject: x\n\ngrün\n")],
    ),
    Dialogue(
        "body 7bit", [HELLO, "MAIL FROM:<a@b.example> BODY=7BIT", RCPT, "DATA", Body("Subject: x\n\ngrün\n")]
    ),
    Dialogue("body latin-1", [*START, Body("Subject: gr\xfcn\r\n\r\ngr\xfcn\r\n".encode("latin-1"))]),
    Dialogue(
        "orcpt utf-8",
        [HELLO, UTF8, r"RCPT TO:<böb@example.net> ORCPT=utf-8;b\x{F6}b@example.net", "DATA", Body(TEXT)],
    ),
    Dialogue("declared 8bit", [*START, Body(MESSAGES["declared 8bit"])]),
    Dialogue("multipart", [*START, Body(MESSAGES["multipart"])]),
]
#: Not for an upstream without SMTPUTF8: the older Postfix has another text for it.
NEEDS_UTF8 = ("utf8 sender", "utf8 recipient", "utf8 domain", "utf8 headers", "orcpt utf-8")
#: Not for one without 8BITMIME: Postfix converts it.
NEEDS_8BIT = ("declared 8bit", "multipart")


def via(transport: str, *but: str) -> list[Dialogue]:
    """The mails to a domain that goes by ``transport``, ``but`` some."""
    return [
        Dialogue(
            f"{one.name}, {transport}",
            [
                step.replace("example.net", f"{transport}.example") if isinstance(step, str) else step
                for step in one.steps
            ],
        )
        for one in MAILS
        if one.name not in but
    ]


def together() -> list[Dialogue]:
    """All messages, a few to a session."""
    texts = list(MESSAGES.values())
    return [
        Dialogue(
            f"from {first}",
            [
                HELLO,
                *(step for text in texts[first : first + 12] for step in (MAIL, RCPT, "DATA", Body(text))),
            ],
        )
        for first in range(0, len(texts), 12)
    ]


CASES = {
    LOCAL: [
        *(Dialogue(name, [*START, Body(text)]) for name, text in MESSAGES.items()),
        Dialogue("null sender", [HELLO, "MAIL FROM:<>", RCPT, "DATA", Body("Subject: x\n\ny\n")]),
        Dialogue(
            "odd sender", [HELLO, 'MAIL FROM:<"a b"@c.example>', RCPT, "DATA", Body("Subject: x\n\ny\n")]
        ),
        Dialogue(
            "by bdat",
            [
                HELLO,
                MAIL,
                RCPT,
                Send(b"BDAT 8\r\nSubject:", 1),
                Send(b"BDAT 12 LAST\r\n x\r\n y\r\n\r\nz\r\n", 1),
            ],
        ),
        *MAILS,
        *at("remote", *together()),
        *via("old", *NEEDS_UTF8, *NEEDS_8BIT),
        *via("eight", *NEEDS_UTF8),
        *via("helo", *NEEDS_UTF8, *NEEDS_8BIT),
    ],
    ALWAYS: together(),
    NO_UTF8: [each for each in MAILS if "not declared" not in each.name],
}


@each(CASES)
def test_dialogue(houses: Houses, config: Config, dialogue: Dialogue) -> None:
    houses.of(config).compare(dialogue)
