"""What Postfix answers to what: each of these was asked of it."""

from __future__ import annotations

import dataclasses

import pytest
from wire_shell import AUTH, BASE, EHLO, GO, MAIL, MAIL_OK, QUEUED, RCPT, RCPT_OK, SYNC, Dialogue

from mtad.wire.server import ServerSettings

OFFER = (
    b"250-mail.example.com\r\n250-PIPELINING\r\n250-SIZE 10240000\r\n250-VRFY\r\n250-ETRN\r\n"
    b"250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n250-DSN\r\n250-SMTPUTF8\r\n250 CHUNKING"
)

Step = tuple[bytes, bytes]

#: settings, and (command, reply) pairs; each was asked of Postfix
TRANSCRIPTS: list[tuple[str, ServerSettings, list[Step]]] = [
    (
        "a message",
        BASE,
        [
            (
                EHLO,
                OFFER,
            ),
            (MAIL, MAIL_OK),
            (RCPT, RCPT_OK),
            (b"DATA", GO),
            (b"S: x\r\n\r\nhi\r\n.", QUEUED),
            (b"DATA", b"503 5.5.1 Error: need RCPT command"),
            (b"QUIT", b"221 2.0.0 Bye"),
        ],
    ),
    (
        "order",
        BASE,
        [
            (b"HELO x", b"250 mail.example.com"),
            (RCPT, b"503 5.5.1 Error: need MAIL command"),
            (MAIL, MAIL_OK),
            (MAIL, b"503 5.5.1 Error: nested MAIL command"),
            (b"DATA", b"554 5.5.1 Error: no valid recipients"),
            (b"RCPT TO:<reject@x>", b"554 5.7.1 Relay access denied"),
            (b"DATA", b"554 5.5.1 Error: no valid recipients"),
            (RCPT, RCPT_OK),
            (b"DATA x", b"501 5.5.4 Syntax: DATA"),
            (b"RSET x", b"501 5.5.4 Syntax: RSET"),
            (b"ETRN x", b"503 Error: MAIL transaction in progress"),
            (b"XCLIENT x", b"503 5.5.1 Error: MAIL transaction in progress"),
            (b"RSET", b"250 2.0.0 Ok"),
            (b"DATA", b"503 5.5.1 Error: need RCPT command"),
            (MAIL, MAIL_OK),
            (
                b"EHLO \xc3\xa4 b",
                OFFER,
            ),
            (RCPT, b"503 5.5.1 Error: need MAIL command"),
        ],
    ),
    (
        "syntax",
        BASE,
        [
            (b"", b"500 5.5.2 Error: bad syntax"),
            (b"  ", b"500 5.5.2 Error: bad syntax"),
            (b"FOO", b"500 5.5.2 Error: command not recognized"),
            (b"\xff", b"500 5.5.2 Error: bad UTF-8 syntax"),
            (b" noop", b"250 2.0.0 Ok"),
            (b"NOOP\0x", b"250 2.0.0 Ok"),
            (b"HELO", b"501 Syntax: HELO hostname"),
            (b"ehlo ", b"501 Syntax: EHLO hostname"),
            (
                b"HELP x",
                b"214 2.0.0 Commands: AUTH BDAT DATA EHLO ETRN HELO HELP MAIL NOOP QUIT RCPT RSET STARTTLS "
                b"VRFY XCLIENT XFORWARD",
            ),
            (b"MAIL", b"501 5.5.4 Syntax: MAIL FROM:<address>"),
            (b"MAIL FROM:", b"501 5.5.4 Syntax: MAIL FROM:<address>"),
            (b"MAIL FROM :<a@b>", b"501 5.5.4 Syntax: MAIL FROM:<address>"),
            (b"MAIL FROM:<a@b", b"501 5.1.7 Bad sender address syntax"),
            (b"MAIL FROM:<a@b..c>", b"501 5.1.7 Bad sender address syntax"),
            (b"MAIL FROM:<a\0@b>", b"501 5.1.7 Bad sender address syntax"),
            (b"mail from: a@b", MAIL_OK),
            (b"RCPT TO:", b"501 5.5.4 Syntax: RCPT TO:<address>"),
            (b"RCPT TO:<>", b"501 5.1.3 Bad recipient address syntax"),
            (b"RCPT TO:<a", b"501 5.1.3 Bad recipient address syntax"),
            (b"RCPT FROM:<a>", b"501 5.5.4 Syntax: RCPT TO:<address>"),
            (b"rcpt to:<@x:a@b>", RCPT_OK),
            (b"AUTH PLAIN", b"503 5.5.1 Error: authentication not enabled"),
            (b"STARTTLS x", b"501 5.5.4 Syntax: STARTTLS"),
            (b"STARTTLS", b"502 5.5.1 Error: command not implemented"),
            (b"XFORWARD", b"503 5.5.1 Error: MAIL transaction in progress"),
            (b"RSET", b"250 2.0.0 Ok"),
            (b"XFORWARD", b"501 5.5.4 Syntax: XFORWARD attribute=value..."),
            (b"XCLIENT a=b", b"550 5.7.0 Error: insufficient authorization"),
            (b"ETRN", b"500 Syntax: ETRN domain"),
            (b"ETRN a..b", b"501 Error: invalid parameter syntax"),
            (b"ETRN #x", b"459 <x>: service unavailable"),
            (b"VRFY", b"501 5.5.4 Syntax: VRFY address [SMTPUTF8]"),
            (b"VRFY <a@b> SMTPUTF8", b"252 2.0.0 <a@b>"),
            (b"VRFY a b", b"501 5.1.3 Bad recipient address syntax"),
        ],
    ),
    (
        "parameters of MAIL",
        BASE,
        [
            (MAIL + b" SIZE=", b"501 5.5.4 Bad message size syntax"),
            (MAIL + b" SIZE=1x", b"501 5.5.4 Bad message size syntax"),
            (
                MAIL + b" SIZE=9223372036854775808",
                b"552 5.3.4 Message size exceeds file system imposed limit",
            ),
            (MAIL + b" SIZE=10240001", b"552 5.3.4 Message size exceeds fixed limit"),
            (MAIL, b"552 5.3.4 Message size exceeds fixed limit"),  # it is remembered
            (b"RSET", b"250 2.0.0 Ok"),
            (MAIL + b" BODY=BINARYMIME", b"555 5.5.4 Unsupported option: BODY=BINARYMIME"),
            (MAIL + b" FOO", b"555 5.5.4 Unsupported option: FOO"),
            (MAIL + b" SMTPUTF8=1", b"555 5.5.4 Unsupported option: SMTPUTF8=1"),
            (MAIL + b" RET=SOME", b"501 5.5.4 Bad RET parameter syntax"),
            (MAIL + b" RET=FULL RET=FULL", b"501 5.5.4 Bad RET parameter syntax"),
            (MAIL + b" ENVID=", b"501 5.5.4 Bad ENVID parameter syntax"),
            (MAIL + b" ENVID=+0a", b"501 5.5.4 Bad ENVID parameter syntax"),
            (MAIL + b" ENVID=a ENVID=b", b"501 5.5.4 Bad ENVID parameter syntax"),
            (MAIL + b" AUTH=a AUTH=b", b"503 5.5.4 Error: multiple AUTH= options"),
            (MAIL + b" AUTH=c", b"503 5.5.4 Error: multiple AUTH= options"),
            (b"RSET", b"250 2.0.0 Ok"),
            (MAIL + b" body=8bitmime SIZE=10 AUTH=<> RET=hdrs ENVID=x+2By SMTPUTF8", MAIL_OK),
            (RCPT + b" NOTIFY=", b"501 5.5.4 Error: Bad NOTIFY parameter syntax"),
            (RCPT + b" NOTIFY=NEVER,DELAY", b"501 5.5.4 Error: Bad NOTIFY parameter syntax"),
            (RCPT + b" NOTIFY=DELAY NOTIFY=DELAY", b"501 5.5.4 Error: Bad NOTIFY parameter syntax"),
            (RCPT + b" ORCPT=a@b", b"501 5.5.4 Error: Bad ORCPT parameter syntax"),
            (RCPT + b" ORCPT=;a@b", b"501 5.5.4 Error: Bad ORCPT parameter syntax"),
            (RCPT + b" ORCPT=rfc822;+z", b"501 5.5.4 Error: Bad ORCPT parameter syntax"),
            (RCPT + b" SIZE=1", b"555 5.5.4 Unsupported option: SIZE=1"),
            (RCPT + b" notify=success,delay ORCPT=utf-8;\\x{41}", RCPT_OK),
        ],
    ),
    (
        "chunks",
        BASE,
        [
            (b"BDAT 1\r\nxNOOP", b"503 5.5.1 Error: need RCPT command\r\n250 2.0.0 Ok"),
            (MAIL, b"503 5.5.1 Error: MAIL after BDAT"),
            (b"BDAT 1 LAST\r\nx" + MAIL, b"551 5.0.0 Discarded 1 bytes after earlier error\r\n" + MAIL_OK),
            (b"BDAT 0 LAST", b"554 5.5.1 Error: no valid recipients"),
            (MAIL, MAIL_OK),
            (RCPT, RCPT_OK),
            (b"BDAT 0", b"551 5.7.1 Null BDAT request"),
            (b"BDAT 2 LAST\r\nab" + MAIL, b"551 5.0.0 Discarded 2 bytes after earlier error\r\n" + MAIL_OK),
            (RCPT, RCPT_OK),
            (b"BDAT 5\r\na\r\n", b"250 2.0.0 Ok: 5 bytes"),
        ],
    ),
    (
        "out of order among chunks",
        BASE,
        [
            (MAIL, MAIL_OK),
            (RCPT, RCPT_OK),
            (b"BDAT 2\r\na" + RCPT[:1] + RCPT, b"250 2.0.0 Ok: 2 bytes\r\n503 5.5.1 Error: RCPT after BDAT"),
            (b"DATA", b"503 5.5.1 Error: DATA after BDAT"),
            (MAIL, b"503 5.5.1 Error: nested MAIL command"),
            (b"BDAT 0 LAST", b"250 2.0.0 Ok: 4 bytes queued as ID"),
        ],
    ),
    ("bad BDAT", BASE, [(b"BDAT x", b"521 5.5.4 Syntax: BDAT count [LAST]")]),
    ("more bad BDAT", BASE, [(b"BDAT 1 LAST x", b"521 5.5.4 Syntax: BDAT count [LAST]")]),
    (
        "a chunk too large",
        dataclasses.replace(BASE, size_limit=10),
        [
            (MAIL, MAIL_OK),
            (RCPT, RCPT_OK),
            (b"BDAT 11\r\n12345678901NOOP", b"552 5.3.4 Chunk exceeds message size limit\r\n250 2.0.0 Ok"),
            (b"BDAT 5", b"551 5.0.0 Discarded 5 bytes after earlier error"),  # too much: no waiting for it
        ],
    ),
    (
        "HELO required",
        dataclasses.replace(AUTH, helo_required=True),
        [
            (MAIL, b"503 5.5.1 Error: send HELO/EHLO first"),
            (b"AUTH PLAIN", b"503 5.5.1 Error: send HELO/EHLO first"),
            (b"ETRN x", b"503 Error: send HELO/EHLO first"),
            (b"VRFY x", b"252 2.0.0 x"),
            (b"HELO x", b"250 mail.example.com"),
            (MAIL, MAIL_OK),
        ],
    ),
    (
        "AUTH",
        AUTH,
        [
            (b"AUTH", b"501 5.5.4 Syntax: AUTH mechanism"),
            (b"AUTH PLAIN a b", b"501 5.5.4 Syntax: AUTH mechanism"),
            (b"AUTH LOGIN", b"334 "),
            (b"*", b"501 5.7.0 Authentication aborted"),
            (b"AUTH LOGIN", b"334 "),
            (b"QUIT", b"535 5.7.8 Error: authentication failed: authentication failure"),
            (b"AUTH LOGIN", b"334 "),
            (b"x" * 12288, b"500 5.5.6 SASL response limit exceeded"),
            (MAIL, MAIL_OK),
            (b"AUTH LOGIN", b"503 5.5.1 Error: MAIL transaction in progress"),
            (b"RSET", b"250 2.0.0 Ok"),
            (b"AUTH PLAIN good", b"235 2.7.0 Authentication successful"),
            (b"AUTH PLAIN good", b"503 5.5.1 Error: already authenticated"),
        ],
    ),
    (
        "TLS required",
        dataclasses.replace(AUTH, tls_offered=True, tls_required=True, auth_tls_only=True),
        [
            (b"AUTH PLAIN", b"530 5.7.0 Must issue a STARTTLS command first"),
            (MAIL, b"530 5.7.0 Must issue a STARTTLS command first"),
            (b"VRFY x", b"530 5.7.0 Must issue a STARTTLS command first"),
            (b"FOO", b"500 5.5.2 Error: command not recognized"),
            (b"NOOP", b"250 2.0.0 Ok"),
            (b"HELO x", b"250 mail.example.com"),
            (b"STARTTLS", b"220 2.0.0 Ready to start TLS"),
        ],
    ),
    (
        "discarded keywords",
        dataclasses.replace(
            BASE, discard=frozenset({"dsn", "smtputf8", "chunking", "etrn", "silent-discard"})
        ),
        [
            (
                EHLO,
                b"250-mail.example.com\r\n250-PIPELINING\r\n250-SIZE 10240000\r\n250-VRFY\r\n"
                b"250-ENHANCEDSTATUSCODES\r\n250 8BITMIME",
            ),
            (MAIL + b" RET=FULL", b"501 5.7.1 DSN support is disabled"),
            (MAIL + b" SMTPUTF8", b"555 5.5.4 Unsupported option: SMTPUTF8"),
            (MAIL, MAIL_OK),
            (RCPT + b" NOTIFY=NEVER", b"501 5.7.1 DSN support is disabled"),
            (b"BDAT 1", b"521 5.5.1 Error: command not implemented"),
        ],
    ),
    (
        "too many recipients",
        dataclasses.replace(BASE, recipient_limit=1, recipient_overshoot_limit=1),
        [
            (MAIL, MAIL_OK),
            (RCPT, RCPT_OK),
            (RCPT, b"452 4.5.3 Error: too many recipients"),
            (RCPT + b" X", b"555 5.5.4 Unsupported option: X"),
            (RCPT, b"452 4.5.3 Error: too many recipients"),
        ],
    ),
    (
        "strict",
        dataclasses.replace(BASE, strict_envelopes=True, strict_smtputf8=True, disable_vrfy=True),
        [
            (b"MAIL FROM:a@b", b"501 5.1.7 Bad sender address syntax"),
            (b"MAIL FROM:<a(c)@b>", b"501 5.1.7 Bad sender address syntax"),
            (b"MAIL FROM:<\xc3\xa4@b>", b"553 5.6.7 Must declare SMTPUTF8 to send unicode address"),
            (b"MAIL FROM:<\xc3\xa4@b> SMTPUTF8", MAIL_OK),
            (b"VRFY x", b"502 5.5.1 VRFY command is disabled"),
        ],
    ),
    ("no SMTP", BASE, [(b"GET / HTTP/1.1", b"221 2.7.0 Error: I can break rules, too. Goodbye.")]),
    ("a header", BASE, [(b"Subject: x", b"221 2.7.0 Error: I can break rules, too. Goodbye.")]),
    ("no letter", BASE, [(b"1 x", b"221 2.7.0 Error: I can break rules, too. Goodbye.")]),
    (
        "bare LF refused",
        dataclasses.replace(BASE, bare_newline="reject"),
        [(b"NOOP\n", b"550 5.5.2 mail.example.com Error: bare <LF> received")],
    ),
    ("greedy", SYNC, [(b"NOOP\r\nNOOP", b"554 5.5.0 Error: SMTP protocol synchronization")]),
    (
        "pipelining without EHLO",
        SYNC,
        [(MAIL + b"\r\n" + RCPT, b"554 5.5.0 Error: SMTP protocol synchronization")],
    ),
    (
        "pipelining",
        SYNC,
        [
            (b"HELO x", b"250 mail.example.com"),
            (
                EHLO,
                OFFER,
            ),
            (b"\r\n".join((MAIL, RCPT, b"DATA")), b"\r\n".join((MAIL_OK, RCPT_OK, GO))),
            (b".\r\nRSET\r\nQUIT", QUEUED + b"\r\n250 2.0.0 Ok\r\n221 2.0.0 Bye"),
        ],
    ),
    (
        "body behind DATA",
        SYNC,
        [
            (EHLO, OFFER),
            (
                b"\r\n".join((MAIL, RCPT, b"DATA", b"x")),
                b"\r\n".join((MAIL_OK, RCPT_OK, b"554 5.5.0 Error: SMTP protocol synchronization")),
            ),
        ],
    ),
]


@pytest.mark.parametrize(
    ("settings_", "steps"), [case[1:] for case in TRANSCRIPTS], ids=[case[0] for case in TRANSCRIPTS]
)
def test_dialogues(settings_: ServerSettings, steps: list[Step]) -> None:
    dialogue = Dialogue(settings_)
    for command, reply in steps:
        assert (command, dialogue.line(command)) == (command, reply)
