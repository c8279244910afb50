"""What servers say, and how strange it may be: replies, garbage between them, and what EHLO offers."""

from __future__ import annotations

import pytest
from test_wire_client import ENVELOPE, FULL, PLAIN, events, ready

from mtad.wire import client_events as ce
from mtad.wire.server_reply import MAX_LINES, MalformedReply, Oddity, ReplyReader, ServerReply, shown


@pytest.mark.parametrize(
    "said", [b"hello", b"25 x", b"250x", b"250\tx", b"2500 x", b" 250 x", b"250-a\r\nb", b"\xff"]
)
@pytest.mark.parametrize("offer", [FULL, PLAIN])
def test_garbage_is_a_part_of_the_reply_behind_it(said: bytes, offer: bytes) -> None:
    session = ready(offer)
    session.oddities.clear()
    session.authenticate(b"X")
    (event,) = events(session, said + b"\r\n550 5.1.1 no\r\n")
    assert isinstance(event, ce.AuthAnswer)
    assert (event.reply.code, event.reply.lines) == (550, (*said.split(b"\r\n"), b"550 5.1.1 no"))
    kind = "danger" if offer is FULL else "garbage"
    assert session.oddities == [Oddity(kind, shown(said.split(b"\r\n")[-1]))]


def test_an_empty_line_before_a_reply_leaves_no_trace() -> None:
    session = ready()
    session.authenticate(b"X")
    (event,) = events(session, b"\r\n\r\n250 ok\r\n")
    assert isinstance(event, ce.AuthAnswer)
    assert event.reply.lines == (b"250 ok",)


def test_a_line_without_end_is_an_error() -> None:
    session = ready()
    session.authenticate(b"X")
    (event,) = events(session, b"x" * (2 << 20))
    assert isinstance(event, ce.ProtocolError)
    assert event.text.startswith("malformed reply: ")
    assert session.closed


def test_who_talks_while_nobody_listens_is_not_heard_for_ever() -> None:
    session = ready()
    session.authenticate(b"X")
    for _ in range(100):
        session.receive(b"250 ok\r\n" * 8192)
    assert len(session._reader.buffer) < 1 << 21
    assert isinstance(session.next_event(), ce.ProtocolError)
    assert session.closed


def test_oddities() -> None:
    session = ready(b"250-x\r\n250-SIZE 1e6\r\n250-AUTH\r\n250 SMTPUTF8\r\n")
    assert session.oddities == [Oddity("auth", ""), Oddity("8bitmime", ""), Oddity("size", "1e6")]
    session.oddities.clear()
    session.send(ENVELOPE)
    events(session, b"250-" + b"x" * 3000 + b"\r\n250-y\r\n250 z\r\n")
    assert [each.kind for each in session.oddities] == ["long", "many"]
    session.oddities.clear()
    (event,) = events(session, b"250-a\0b\r\n250 ok\r\n")
    assert isinstance(event, ce.RcptAnswer)
    assert event.reply.lines == (b"250-a", b"250 ok")
    assert session.oddities == []


@pytest.mark.parametrize(
    ("offer", "expected"),
    [
        (b"250\r\n", ce.Extensions()),
        (b"250-\r\n250-DSN\r\n250 PIPELINING\r\n", ce.Extensions(pipelining=True)),
        (b"250-x\r\n250- =DSN=a\r\n250 8BITMIME\tx\r\n", ce.Extensions(dsn=True)),
        (b"250-x\r\n250-SIZE 5 6\r\n250 size=70\r\n", ce.Extensions(size=True, size_limit=70)),
        (b"250-x\r\n250-SIZE 9" + b"9" * 30 + b"\r\n250 OK\r\n", ce.Extensions(size=True)),
        (b"250-x\r\nwhat DSN\r\n250 OK\r\n", ce.Extensions(dsn=True)),
        (b"250-x\r\n250-AUTH=A\r\n250 AUTH b a\r\n", ce.Extensions(login=True, auth=(b"A", b"B"))),
    ],
)
def test_strange_offers(offer: bytes, expected: ce.Extensions) -> None:
    assert ready(offer).extensions == expected


def test_replies_without_end_cost_little() -> None:
    reader = ReplyReader()
    with pytest.raises(MalformedReply):
        for _ in range(2 * MAX_LINES):
            reader.buffer.add(b"250-" + b"x" * 1000 + b"\r\n")
            assert reader.next() is None
            assert sum(map(len, reader._lines)) < 4096


@pytest.mark.parametrize(
    ("data", "reply"),
    [
        (b"250 2.1.0 Ok\r\n", ServerReply(250, b"2.1.0", (b"250 2.1.0 Ok",))),
        (b"250\r\n", ServerReply(250, b"2.0.0", (b"250",))),
        (b"550 nope\n", ServerReply(550, b"5.0.0", (b"550 nope",))),
        (b"550 4.1.1 liar\r\n", ServerReply(550, b"5.0.0", (b"550 4.1.1 liar",))),
        (b"450 4.1.1234 x\r\n", ServerReply(450, b"4.0.0", (b"450 4.1.1234 x",))),
        (b"354 2.0.0 go\r\n", ServerReply(354, b"5.5.0", (b"354 2.0.0 go",))),
        (b"250-a\r\n550 5.1.1 b\r\n", ServerReply(550, b"5.1.1", (b"250-a", b"550 5.1.1 b"))),
    ],
)
def test_replies(data: bytes, reply: ServerReply) -> None:
    reader = ReplyReader()
    reader.buffer.add(data)
    assert reader.next() == reply


def test_what_a_server_said_is_printable() -> None:
    reply = ServerReply(550, b"5.0.0", (b"550-a\x1b[2J\xff", "550 ü".encode()))
    assert str(reply) == "550-a?[2J? 550 ü"
