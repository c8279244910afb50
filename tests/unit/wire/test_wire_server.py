"""The server session: events, bounds, STARTTLS, and the same however the input is cut."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_shell import AUTH, BASE, CLIENT, EHLO, MAIL, OK, RCPT, SYNC, Dialogue

from mtad.wire import events as ev
from mtad.wire.reply import Reply
from mtad.wire.server import ServerSession


def test_the_events_of_a_message() -> None:
    dialogue = Dialogue()
    dialogue.line(b"EHLO <me>")
    dialogue.line(b"MAIL FROM:<A@Example.com> SIZE=12 BODY=7bit AUTH=x+3Dy RET=full ENVID=e")
    assert dialogue.session.in_transaction
    dialogue.line(b"RCPT TO:<b@c> NOTIFY=delay,SUCCESS ORCPT=rfc822;B@c")
    assert dialogue.session.recipients == 1
    dialogue.line(b"DATA")
    dialogue.say(b"..x\r\n.\r\n")
    assert not dialogue.session.in_transaction
    helo, mail, rcpt, data, end = dialogue.events
    assert helo == ev.Helo(b"<me>", True)
    assert dialogue.session.helo == b"?me?"
    assert isinstance(mail, ev.Mail)
    assert (mail.sender.text, mail.size, mail.body) == (b"A@Example.com", 12, b"7BIT")
    assert (mail.auth, mail.ret, mail.envid) == (b"x+3Dy", b"FULL", b"e")
    assert isinstance(rcpt, ev.Rcpt)
    assert (rcpt.notify, rcpt.orcpt) == (frozenset({b"DELAY", b"SUCCESS"}), b"rfc822;B@c")
    assert data == ev.Data()
    assert end == ev.BodyEnd(4)
    assert dialogue.bodies == [b".x\r\n"]


def test_what_was_said_before_starttls_is_forgotten() -> None:
    dialogue = Dialogue(dataclasses.replace(AUTH, tls_offered=True))
    dialogue.line(EHLO)
    dialogue.line(b"AUTH PLAIN good")
    dialogue.line(MAIL)
    session = dialogue.session
    assert (
        dialogue.say(b"STARTTLS\r\nRCPT TO:<evil@example.com>\r\nQUIT\r\n")
        == b"220 2.0.0 Ready to start TLS\r\n"
    )
    session.receive(b"NOOP\r\n")  # still no TLS
    assert session.next_event() is None
    session.tls_started()
    assert session.buffered == 0
    assert session.next_event() is None
    assert (session.tls, session.helo, session.authenticated, session.in_transaction) == (
        True,
        b"",
        False,
        False,
    )
    assert dialogue.line(RCPT) == b"503 5.5.1 Error: need MAIL command"
    assert b"STARTTLS" not in dialogue.line(EHLO)
    assert dialogue.line(b"STARTTLS") == b"554 5.5.1 Error: TLS already active"
    assert dialogue.line(b"AUTH PLAIN good") == b"235 2.7.0 Authentication successful"


def test_a_refused_starttls_changes_nothing() -> None:
    session = ServerSession(dataclasses.replace(BASE, tls_offered=True), CLIENT)
    session.greet(OK)
    session.receive(b"STARTTLS\r\nNOOP\r\n")
    assert session.next_event() == ev.StartTLS()
    session.reply(Reply(454, b"TLS not available due to local problem", b"4.7.0"))
    assert session.next_event() == ev.Noop()


def test_auth_is_announced_where_it_is_allowed() -> None:
    session = ServerSession(dataclasses.replace(AUTH, auth_tls_only=True, broken_auth_clients=True), CLIENT)
    assert b"AUTH" not in session.ehlo_reply((b"PLAIN",)).text
    session = ServerSession(session.settings, CLIENT, tls=True)
    assert b"\nAUTH PLAIN LOGIN\nAUTH=PLAIN LOGIN\n" in session.ehlo_reply((b"PLAIN", b"LOGIN")).text


def test_who_speaks_before_the_greeting_is_sent_away() -> None:
    session = ServerSession(SYNC, CLIENT)
    session.receive(b"EHLO x\r\n")
    assert session.next_event() is None
    assert not session.greet(Reply(220, b"hello"))
    assert session.closed
    assert session.data_to_send() == b"554 5.5.0 Error: SMTP protocol synchronization\r\n"
    assert session.notes == [f"improper command pipelining after CONNECT from {CLIENT}: EHLO x\\r\\n"]
    session = ServerSession(SYNC, CLIENT, tls=True)
    session.receive(b"EHLO x\r\n")
    assert session.greet(Reply(220, b"hello"))
    assert isinstance(session.next_event(), ev.Helo)


def test_who_was_refused_at_connect_may_only_quit() -> None:
    session = ServerSession(BASE, CLIENT)
    session.greet(Reply(554, b"mail.example.com ESMTP not accepting connections"))
    session.receive(b"EHLO x\r\nFOO\r\nQUIT\r\n")
    for _ in range(2):
        event = session.next_event()
        assert isinstance(event, ev.Refused)
        assert str(event.reply) == f"503 5.7.0 Error: access denied for {CLIENT}"
        session.reply(event.reply)
    assert session.next_event() == ev.Quit()


def test_improper_pipelining_may_be_forgiven_and_is_noted_once() -> None:
    dialogue = Dialogue()
    dialogue.say(b"NOOP\r\nNOOP\r\nNOOP\r\n")
    assert dialogue.notes == [f"improper command pipelining after NOOP from {CLIENT}: NOOP\\r\\nNOOP\\r\\n"]
    assert dialogue.session.improper_pipelining


def test_long_lines_are_cut_and_noted() -> None:
    dialogue = Dialogue()
    assert dialogue.line(b"NOOP " + b"x" * 3000) == b"250 2.0.0 Ok"
    assert dialogue.notes == [f"warning: {CLIENT}: request longer than 2048: NOOP {'x' * 25}..."]
    assert dialogue.line(b"NOOP") == b"250 2.0.0 Ok"


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_a_line_without_end_costs_little_memory_and_ends_the_session(size: int) -> None:
    dialogue = Dialogue()
    out = b""
    for _ in range(1 + 100000 // size):
        out += dialogue.say(b"x" * size)
        assert dialogue.session.buffered <= 2049
    assert out == b"500 5.5.2 Error: command not recognized\r\n"
    assert dialogue.session.closed
    assert dialogue.notes[0] == f"warning: disabling input from {CLIENT}"


def test_a_refused_chunk_is_swallowed_before_the_reply() -> None:
    session = ServerSession(BASE, CLIENT)
    session.greet(OK)
    session.data_to_send()
    session.receive(MAIL + b"\r\n" + RCPT + b"\r\nBDAT 10 LAST\r\n01234")
    for kind in (ev.Mail, ev.Rcpt):
        assert isinstance(session.next_event(), kind)
        session.reply(OK)
    session.data_to_send()
    assert session.next_event() == ev.Bdat(10, True, True)
    session.reply(Reply(554, b"no", b"5.7.1"))
    assert session.next_event() is None
    assert session.data_to_send() == b""
    session.receive(b"56789NOOP\r\n")
    assert session.next_event() == ev.Noop()
    assert session.data_to_send() == b"554 5.7.1 no\r\n"
    assert not session.in_transaction


def test_a_refused_bdat_end_drops_the_rest() -> None:
    session = ServerSession(BASE, CLIENT)
    session.greet(OK)
    session.receive(MAIL + b"\r\n" + RCPT + b"\r\nBDAT 2\r\na\nBDAT 1 LAST\r\nb")
    for kind in (ev.Mail, ev.Rcpt):
        assert isinstance(session.next_event(), kind)
        session.reply(OK)
    assert session.next_event() == ev.Bdat(2, False, True)
    session.begin_chunk()
    assert session.next_event() == ev.BodyChunk(b"a\r\n")
    assert session.next_event() == ev.BdatEnd(2, True)
    session.reply(Reply(550, b"bare <LF> received", b"5.5.2"))
    refused = session.next_event()
    assert isinstance(refused, ev.Refused)
    assert refused.reply.code == 551


def test_warnings_go_with_the_refusal() -> None:
    dialogue = Dialogue()
    dialogue.line(b"MAIL FROM:<a b@c>")
    dialogue.line(MAIL)
    dialogue.line(b"RCPT TO:<\xc3\xa4@\xc3\xa4>")
    dialogue.line(b"BDAT x\x01")
    warnings = [event.warning for event in dialogue.events if isinstance(event, ev.Refused)]
    assert warnings == [
        f"Illegal address syntax from {CLIENT} in MAIL command: <a b@c>",
        f"Illegal address syntax from {CLIENT} in RCPT command: <ä@ä>",
        f"NOQUEUE: malformed BDAT command syntax from {CLIENT}: BDAT x?",
    ]


def test_where_the_client_was() -> None:
    dialogue = Dialogue()
    assert dialogue.session.where == b"CONNECT"
    for line, where in ((MAIL, b"MAIL"), (b"FOO", b"UNKNOWN"), (RCPT, b"RCPT"), (b"DATA", b"DATA content")):
        dialogue.line(line)
        assert dialogue.session.where == where
    dialogue.say(b".\r\n")
    assert dialogue.session.where == b"END-OF-MESSAGE"


def test_replies_out_of_turn_are_a_fault() -> None:
    session = ServerSession(BASE, CLIENT)
    with pytest.raises(RuntimeError):
        session.reply(OK)
    session.greet(OK)
    for call in (
        lambda: session.greet(OK),
        lambda: session.reply(OK),
        session.begin_chunk,
        session.tls_started,
    ):
        with pytest.raises(RuntimeError):
            call()
    session.receive(b"QUIT\r\n")
    assert session.next_event() == ev.Quit()
    session.reply(OK)
    assert session.closed
    session.receive(b"NOOP\r\n")
    assert session.next_event() is None


def test_a_421_ends_the_session() -> None:
    session = ServerSession(BASE, CLIENT)
    session.greet(OK)
    session.receive(b"NOOP\r\nNOOP\r\n")
    assert session.next_event() == ev.Noop()
    session.reply(Reply(421, b"too many errors", b"4.7.0"))
    assert session.closed
    assert session.next_event() is None


LINES = [
    EHLO,
    b"HELO x",
    MAIL,
    RCPT,
    b"RCPT TO:<reject@x>",
    b"DATA",
    b".",
    b"..",
    b"",
    b"x",
    b"RSET",
    b"NOOP",
]
LINES += [
    b"BDAT 3",
    b"BDAT 4 LAST",
    b"BDAT 0",
    b"VRFY x",
    b"FOO",
    b"QUIT",
    b"\xff",
    b"MAIL FROM:<" + b"y" * 2100,
]
LINES += [b"AUTH LOGIN", b"*", b"Zm9v", b"AUTH PLAIN good"]
ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\r\n", b""])
inputs = st.lists(st.tuples(st.sampled_from(LINES), ENDS), max_size=25).map(
    lambda lines: b"".join(line + end for line, end in lines)
)


@settings(max_examples=200, deadline=None)
@given(
    inputs, st.lists(st.integers(0, 500), max_size=8), st.sampled_from(["no", "normalize", "reject", "note"])
)
def test_it_does_not_matter_how_the_input_is_cut(data: bytes, where: list[int], mode: str) -> None:
    settings_ = dataclasses.replace(AUTH, bare_newline=mode)
    marks = sorted({min(mark, len(data)) for mark in where} | {0, len(data)})
    cut = [data[a:b] for a, b in itertools.pairwise(marks)]
    results = []
    for parts in ([data], cut, [data[i : i + 1] for i in range(len(data))]):
        dialogue = Dialogue(settings_)
        out = b"".join(map(dialogue.say, parts))
        # which input was "more" at a synchronisation point depends on the cuts, the rest does not
        notes = [note for note in dialogue.notes if not note.startswith("improper")]
        session = dialogue.session
        results.append(
            (out, dialogue.events, dialogue.bodies, dialogue.body, notes, session.closed, session.helo)
        )
    assert results[0] == results[1] == results[2]


@given(st.binary(max_size=300))
def test_nothing_breaks_the_session(data: bytes) -> None:
    Dialogue(AUTH).say(data)


def test_a_large_message_passes_in_pieces() -> None:
    dialogue = Dialogue()
    dialogue.say(b"\r\n".join((MAIL, RCPT, b"DATA", b"")))
    line = b"." + b"x" * 70 + b"\r\n"
    dialogue.say(line * 5000)
    dialogue.say(b".\r\n")
    assert dialogue.bodies == [line[1:] * 5000]


def test_nothing_of_a_session_that_is_over_waits_for_the_garbage_collector() -> None:
    session = ServerSession(BASE)
    session.greet(Reply(220, b"mail"))
    session.receive(b"QUIT\r\n")
    assert session.next_event() == ev.Quit()
    session.reply(Reply(221, b"Bye"))
    assert session.closed
    gone = weakref.ref(session)
    gc.disable()
    try:
        del session
        assert gone() is None
    finally:
        gc.enable()
