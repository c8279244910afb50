"""The client session: transactions against scripted servers, and the same however their replies are cut."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.wire import client_events as ce
from mtad.wire.client import ClientSession

SETTINGS = ce.ClientSettings(helo_name=b"me.example")
FULL = (
    b"250-server.example Hello\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-DSN\r\n"
    b"250-AUTH PLAIN login\r\n250-AUTH=PLAIN CRAM-MD5\r\n250-STARTTLS\r\n250 SMTPUTF8\r\n"
)
PLAIN = b"250-server.example\r\n250 SIZE\r\n"
TO = tuple(ce.EnvelopeRecipient(address) for address in (b"a@x", b"b@x"))
ENVELOPE = ce.Envelope(b"me@here", TO, size=42)


def ready(offer: bytes = FULL, settings: ce.ClientSettings = SETTINGS) -> ClientSession:
    session = ClientSession(settings)
    session.receive(b"220 server.example ESMTP\r\n")
    assert isinstance(session.next_event(), ce.Greeting)
    assert session.next_event() is None
    session.data_to_send()
    session.receive(offer)
    assert isinstance(session.next_event(), ce.Ready)
    assert session.ready
    return session


def events(session: ClientSession, data: bytes = b"") -> list[ce.ClientEvent]:
    session.receive(data)
    return list(iter(session.next_event, None))


def kinds(session: ClientSession, data: bytes) -> list[type]:
    return [type(event) for event in events(session, data)]


def test_hello_and_what_the_server_offers() -> None:
    session = ClientSession(SETTINGS)
    assert session.stage == "receiving the initial server greeting"
    assert kinds(session, b"220-hello\r\n220 there\r\n") == [ce.Greeting]
    assert session.data_to_send() == b"EHLO me.example\r\n"
    assert session.stage == "performing the EHLO handshake"
    (event,) = events(session, FULL)
    assert isinstance(event, ce.Ready)
    assert event.extended
    assert event.extensions == ce.Extensions(
        pipelining=True,
        size=True,
        size_limit=1000,
        starttls=True,
        login=True,
        auth=(b"PLAIN", b"LOGIN", b"CRAM-MD5"),
        dsn=True,
        eightbitmime=True,
        smtputf8=True,
    )


def test_helo_where_ehlo_is_refused() -> None:
    session = ClientSession(SETTINGS)
    events(session, b"220 x\r\n")
    session.data_to_send()
    assert kinds(session, b"502 what?\r\n") == []
    assert session.data_to_send() == b"HELO me.example\r\n"
    (event,) = events(session, b"250 x\r\n")
    assert isinstance(event, ce.Ready)
    assert not event.extended
    assert event.extensions == ce.Extensions()


@pytest.mark.parametrize(
    ("never", "always", "greeting", "command"),
    [
        (True, True, b"220 x ESMTP\r\n", b"HELO"),
        (False, False, b"220 x ESMTP\r\n", b"EHLO"),
        (False, False, b"220 x\r\n", b"HELO"),
    ],
)
def test_ehlo_or_helo(never: bool, always: bool, greeting: bytes, command: bytes) -> None:
    session = ClientSession(ce.ClientSettings(helo_name=b"me", never_ehlo=never, always_ehlo=always))
    events(session, greeting)
    assert session.data_to_send() == command + b" me\r\n"


def test_servers_that_do_not_want_to_talk() -> None:
    session = ClientSession(SETTINGS)
    (event,) = events(session, b"554 5.7.1 go away\r\n")
    assert isinstance(event, ce.Greeting)
    assert event.reply.dsn == b"5.7.1"
    assert session.data_to_send() == b""
    session.quit()
    session = ClientSession(SETTINGS)
    assert kinds(session, b"220 x\r\n421 no\r\n") == [ce.Greeting, ce.HelloRefused]
    session.quit()
    session = ClientSession(SETTINGS)
    assert kinds(session, b"220 x\r\n500 no\r\n500 no\r\n") == [ce.Greeting, ce.HelloRefused]


def test_discarded_keywords() -> None:
    discard = frozenset({"pipelining", "auth", "size", "starttls", "smtputf8", "8bitmime"})
    session = ready(FULL, ce.ClientSettings(helo_name=b"me", discard=discard))
    assert session.extensions == ce.Extensions(dsn=True)


def test_starttls_forgets_what_came_before() -> None:
    session = ready()
    session.starttls()
    assert session.data_to_send() == b"STARTTLS\r\n"
    (event,) = events(session, b"220 go\r\n250 injected\r\n")
    assert isinstance(event, ce.StartTLSAnswer)
    session.receive(b"250 injected\r\n")
    with pytest.raises(RuntimeError):
        session.quit()
    session.tls_started()
    assert session.extensions == ce.Extensions()
    assert session.data_to_send() == b"EHLO me.example\r\n"
    assert kinds(session, PLAIN) == [ce.Ready]
    assert session.tls


def test_a_refused_starttls() -> None:
    session = ready()
    session.starttls()
    assert kinds(session, b"454 not now\r\n") == [ce.StartTLSAnswer]
    assert session.ready


def test_auth_with_an_initial_response() -> None:
    session = ready()
    session.authenticate(b"PLAIN", b"AGEAYg==")
    assert session.data_to_send() == b"AUTH PLAIN AGEAYg==\r\n"
    (event,) = events(session, b"235 2.7.0 ok\r\n")
    assert isinstance(event, ce.AuthAnswer)
    assert session.authenticated
    assert session.ready


def test_auth_by_challenges() -> None:
    session = ready()
    session.authenticate(b"LOGIN")
    assert session.data_to_send() == b"AUTH LOGIN\r\n"
    assert events(session, b"334 VXNlcm5hbWU6\r\n") == [ce.Challenge(b"VXNlcm5hbWU6")]
    session.auth_response(b"YQ==")
    assert events(session, b"334 \r\n") == [ce.Challenge(b"")]
    session.auth_response(b"Yg==")
    assert session.data_to_send() == b"YQ==\r\nYg==\r\n"
    (event,) = events(session, b"535 5.7.8 no\r\n")
    assert isinstance(event, ce.AuthAnswer)
    assert not session.authenticated
    session.authenticate(b"LOGIN", b"")
    assert session.data_to_send() == b"AUTH LOGIN =\r\n"
    events(session, b"334 x\r\n")
    session.abort_auth()
    assert session.data_to_send() == b"*\r\n"
    assert kinds(session, b"501 aborted\r\n") == [ce.AuthAnswer]


def test_a_long_challenge() -> None:
    session = ready()
    session.authenticate(b"GSSAPI")
    assert events(session, b"334 " + b"x" * 12288 + b"\r\n") == [ce.Challenge(b"x" * 12288)]


def test_a_pipelined_transaction() -> None:
    session = ready()
    session.send(ENVELOPE)
    assert session.data_to_send() == (
        b"MAIL FROM:<me@here> SIZE=42\r\nRCPT TO:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n"
    )
    got = events(session, b"250 ok\r\n550 5.1.1 no such user\r\n250 ok\r\n354 go\r\n")
    assert [type(event) for event in got] == [ce.MailAnswer, ce.RcptAnswer, ce.RcptAnswer, ce.SendBody]
    assert isinstance(got[1], ce.RcptAnswer)
    assert got[1].index == 0
    said = got[1].reply.said("x[192.0.2.1]", "RCPT TO command")
    assert said == "host x[192.0.2.1] said: 550 5.1.1 no such user (in reply to RCPT TO command)"
    session.send_body(b".dot\r\nx")
    session.send_body(b"\r\n")
    session.end_body()
    session.quit()
    assert session.data_to_send() == b"..dot\r\nx\r\n.\r\nQUIT\r\n"
    assert session.stage == "sending end of data -- message may be sent more than once"
    assert kinds(session, b"250 2.0.0 queued\r\n221 bye\r\n") == [ce.MessageAnswer, ce.QuitAnswer]
    assert session.closed


def test_one_command_at_a_time() -> None:
    session = ready(PLAIN)
    session.send(ENVELOPE)
    for command, reply, kind in (
        (b"MAIL FROM:<me@here> SIZE=42\r\n", b"250 ok\r\n", [ce.MailAnswer]),
        (b"RCPT TO:<a@x>\r\n", b"250 ok\r\n", [ce.RcptAnswer]),
        (b"RCPT TO:<b@x>\r\n", b"450 later\r\n", [ce.RcptAnswer]),
        (b"DATA\r\n", b"354 go\r\n", [ce.SendBody]),
    ):
        assert session.data_to_send() == command
        assert kinds(session, reply) == kind
    session.end_body()
    assert session.data_to_send() == b".\r\n"
    assert kinds(session, b"250 ok\r\n") == [ce.MessageAnswer]
    session.send(ENVELOPE)  # and another one
    assert session.data_to_send() == b"MAIL FROM:<me@here> SIZE=42\r\n"


@pytest.mark.parametrize(
    ("offer", "replies", "sent", "expected"),
    [
        # nobody accepted, and DATA refused: RSET
        (
            FULL,
            b"250 k\r\n550 n\r\n550 n\r\n554 n\r\n",
            b"RSET\r\n",
            [ce.MailAnswer, ce.RcptAnswer, ce.RcptAnswer],
        ),
        # nobody accepted, but the server waits for a message: a lone dot
        (
            FULL,
            b"250 k\r\n550 n\r\n550 n\r\n354 g\r\n",
            b".\r\n",
            [ce.MailAnswer, ce.RcptAnswer, ce.RcptAnswer],
        ),
        # 3xx is 3xx; 250 is none
        (FULL, b"250 k\r\n550 n\r\n550 n\r\n351 g\r\n", b".\r\n", [ce.MailAnswer, *[ce.RcptAnswer] * 2]),
        (
            FULL,
            b"250 k\r\n250 k\r\n250 k\r\n250 n\r\n",
            b"RSET\r\n",
            [ce.MailAnswer, ce.RcptAnswer, ce.RcptAnswer, ce.DataRefused],
        ),
        # the sender refused: the other replies do not matter
        (FULL, b"550 n\r\n503 n\r\n503 n\r\n503 n\r\n", b"RSET\r\n", [ce.MailAnswer]),
        (FULL, b"550 n\r\n250 k\r\n250 k\r\n354 g\r\n", b".\r\n", [ce.MailAnswer]),
        # DATA refused
        (
            FULL,
            b"250 k\r\n250 k\r\n250 k\r\n451 n\r\n",
            b"RSET\r\n",
            [ce.MailAnswer, ce.RcptAnswer, ce.RcptAnswer, ce.DataRefused],
        ),
        (PLAIN, b"550 n\r\n", b"RSET\r\n", [ce.MailAnswer]),
    ],
)
def test_transactions_that_fail(offer: bytes, replies: bytes, sent: bytes, expected: list[type]) -> None:
    session = ready(offer)
    session.send(ENVELOPE)
    session.data_to_send()
    assert kinds(session, replies) == expected
    assert session.data_to_send() == sent
    assert not session.ready
    assert events(session, b"250 ok\r\n") == [ce.TransactionDropped(True)]
    assert session.ready


def test_all_recipients_refused_one_by_one() -> None:
    session = ready(PLAIN)
    session.send(ENVELOPE)
    for reply in (b"250 k\r\n", b"550 n\r\n", b"550 n\r\n"):
        session.data_to_send()
        events(session, reply)
    assert session.data_to_send() == b"RSET\r\n"
    assert events(session, b"500 no\r\n") == [ce.TransactionDropped(False)]
    assert not session.ready


@pytest.mark.parametrize("offer", [FULL, PLAIN])
def test_a_421_is_a_refusal_like_others(offer: bytes) -> None:
    session = ready(offer)
    session.send(ENVELOPE)
    session.data_to_send()
    assert kinds(session, b"250 k\r\n") == [ce.MailAnswer]
    session.data_to_send()
    assert kinds(session, b"421 4.3.2 too many\r\n") == [ce.RcptAnswer]
    session.data_to_send()
    assert kinds(session, b"250 k\r\n") == [ce.RcptAnswer]
    assert offer is FULL or session.data_to_send() == b"DATA\r\n"
    assert kinds(session, b"354 go\r\n") == [ce.SendBody]
    session.end_body()
    assert kinds(session, b"250 k\r\n") == [ce.MessageAnswer]
    assert session.ready


def test_a_refusal_before_the_end_of_the_message() -> None:
    session = ready()
    session.send(ENVELOPE)
    events(session, b"250 k\r\n250 k\r\n250 k\r\n354 g\r\n")
    session.send_body(b"x\r\n")
    (event,) = events(session, b"552 5.3.4 too big\r\n")
    assert isinstance(event, ce.MessageAnswer)
    assert event.early
    assert session.closed
    with pytest.raises(RuntimeError):
        session.end_body()


@pytest.mark.parametrize("reply", [b"250 queued, trust me\r\n", b"354 more\r\n"])
def test_an_acceptance_before_the_end_of_the_message_is_not_believed(reply: bytes) -> None:
    session = ready()
    session.send(ENVELOPE)
    assert kinds(session, b"250 k\r\n250 k\r\n250 k\r\n354 g\r\n" + reply)[-1] is ce.ProtocolError
    assert session.closed


def test_envelope_parameters() -> None:
    session = ready()
    recipients = (
        ce.EnvelopeRecipient(b"a b@x", frozenset({b"SUCCESS", b"DELAY"}), b"rfc822;A+2Bb@x"),
        ce.EnvelopeRecipient(b"c@x", original=b"d+e@x"),
        ce.EnvelopeRecipient(b"c@x", original="ä@x".encode()),
    )
    session.send(ce.Envelope(b"", recipients, 7, b"8BITMIME", True, b"HDRS", b"id+3D"))
    assert session.data_to_send() == (
        b"MAIL FROM:<> SIZE=7 BODY=8BITMIME ENVID=id+3D RET=HDRS SMTPUTF8\r\n"
        b'RCPT TO:<"a b"@x> ORCPT=rfc822;A+2Bb@x NOTIFY=SUCCESS,DELAY\r\n'
        b"RCPT TO:<c@x> ORCPT=rfc822;d+2Be@x\r\n"
        b"RCPT TO:<c@x> ORCPT=utf-8;\\x{E4}@x\r\n"
        b"DATA\r\n"
    )


def test_nothing_is_asked_for_that_is_not_offered() -> None:
    session = ready(b"250 server.example\r\n")
    to = (ce.EnvelopeRecipient(b"a@x", frozenset({b"NEVER"}), b"rfc822;a@x"),)
    session.send(ce.Envelope(b"m@h", to, 7, b"8BITMIME", True, b"FULL", b"id"))
    assert session.data_to_send() == b"MAIL FROM:<m@h>\r\n"
    events(session, b"250 k\r\n")
    assert session.data_to_send() == b"RCPT TO:<a@x>\r\n"


def test_dummy_auth() -> None:
    session = ready(FULL, ce.ClientSettings(helo_name=b"me", dummy_mail_auth=True))
    session.authenticate(b"PLAIN", b"AGEAYg==")
    events(session, b"235 2.7.0 ok\r\n")
    session.data_to_send()
    session.send(ENVELOPE)
    assert session.data_to_send().startswith(b"MAIL FROM:<me@here> SIZE=42 AUTH=<>\r\n")


@pytest.mark.parametrize(
    "address", [b"a\r\nQUIT@x", b"a\n@x", b"a\0@x", b"a@x> SIZE=1", b"a@x y", b"a@x\r\nDATA"]
)
def test_an_address_cannot_smuggle_a_command(address: bytes) -> None:
    session = ready()
    for envelope in (ce.Envelope(address, TO), ce.Envelope(b"", (ce.EnvelopeRecipient(address),))):
        with pytest.raises(ValueError, match="cannot hold"):
            session.send(envelope)
    assert session.data_to_send() == b""
    assert session.ready
    with pytest.raises(ValueError, match="no recipients"):
        session.send(ce.Envelope(b"", ()))


def test_calls_out_of_turn() -> None:
    session = ClientSession(SETTINGS)
    calls: list[Callable[[], None]] = [
        session.starttls,
        session.tls_started,
        session.end_body,
        lambda: session.send(ENVELOPE),
        lambda: session.send_body(b"x"),
        lambda: session.authenticate(b"PLAIN"),
        lambda: session.auth_response(b"x"),
    ]
    for call in calls:
        with pytest.raises(RuntimeError):
            call()
    session = ready()
    session.send(ENVELOPE)
    with pytest.raises(RuntimeError):
        session.quit()


def test_quit() -> None:
    session = ready()
    session.quit()
    assert kinds(session, b"221 bye\r\n") == [ce.QuitAnswer]
    assert session.closed


def test_a_reply_to_no_command_is_an_error() -> None:
    session = ready()
    (event,) = events(session, b"421 4.4.2 idle too long\r\n")
    assert isinstance(event, ce.ProtocolError)
    assert event.reply is not None
    assert event.reply.code == 421
    assert session.closed


SAID = [
    b"220 x ESMTP\r\n",
    FULL,
    PLAIN,
    b"250 ok\r\n",
    b"550 5.1.1 no\r\n",
    b"354 go\r\n",
    b"334 eA==\r\n",
    b"421 x\r\n",
]
SAID += [b"235 ok\r\n", b"garbage\r\n", b"250-long " + b"x" * 2100 + b"\r\n", b"454 x\r\n"]


def act(session: ClientSession, event: ce.ClientEvent, tried: list[str]) -> None:
    """A shell that logs in, sends one message and quits."""
    match event:
        case ce.Ready():
            session.authenticate(b"LOGIN")
        case ce.Challenge():
            session.auth_response(b"eA==")
        case ce.AuthAnswer() | ce.TransactionDropped() | ce.MessageAnswer() if session.ready:
            if len(tried) < 2:
                tried.append("x")
                session.send(ENVELOPE)
            else:
                session.quit()
        case ce.SendBody():
            session.send_body(b".x\r\n")
            session.end_body()


@given(st.lists(st.sampled_from(SAID), max_size=20), st.lists(st.integers(0, 400), max_size=8))
def test_it_does_not_matter_how_the_replies_are_cut(said: list[bytes], where: list[int]) -> None:
    data = b"".join(SAID[:2] + said)
    marks = sorted({min(mark, len(data)) for mark in where} | {0, len(data)})
    results = []
    for parts in (
        [data],
        [data[a:b] for a, b in itertools.pairwise(marks)],
        [data[i : i + 1] for i in range(len(data))],
    ):
        session = ClientSession(SETTINGS)
        seen: list[ce.ClientEvent] = []
        tried: list[str] = []
        sent = b""
        for part in parts:
            session.receive(part)
            while (event := session.next_event()) is not None:
                seen.append(event)
                act(session, event, tried)
            sent += session.data_to_send()
        results.append((seen, sent, session.closed, session.stage))
    assert results[0] == results[1] == results[2]


def test_long_lines_are_broken_on_the_way_out() -> None:
    session = ready()
    session.send(ENVELOPE)
    events(session, b"250 k\r\n250 k\r\n250 k\r\n354 g\r\n")
    session.data_to_send()
    session.send_body(b"x" * 998 + b"\r\n" + b"y" * 999 + b"\r\n")
    session.end_body()
    assert session.data_to_send() == b"x" * 998 + b"\r\n" + b"y" * 998 + b"\r\n y\r\n.\r\n"
    assert session.broke_lines
