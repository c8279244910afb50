"""XCLIENT, XFORWARD, filtered commands: the engine's part."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_shell import BASE, EHLO, MAIL, MAIL_OK, RCPT, SYNC, Dialogue

from mtad.wire import events as ev
from mtad.wire.xclient import xclient, xforward

TRUSTED = dataclasses.replace(BASE, xclient=True, xforward=True)
LINES = st.one_of(
    st.binary(max_size=60),
    st.lists(
        st.tuples(
            st.sampled_from(
                b"NAME ADDR PORT HELO PROTO LOGIN IDENT SOURCE DESTADDR DESTPORT REVERSE_NAME".split()
            ),
            st.one_of(
                st.binary(min_size=1, max_size=20),
                st.sampled_from(
                    (b"[UNAVAILABLE]", b"[TEMPUNAVAIL]", b"192.0.2.1", b"IPv6:2001:db8::1", b"a+3Cb+0A")
                ),
            ),
        ),
        max_size=4,
    ).map(lambda pairs: b" ".join(name + b"=" + value for name, value in pairs)),
)


@given(LINES)
def test_what_comes_out_can_be_logged_and_put_into_headers(rest: bytes) -> None:
    for event in (
        xclient(TRUSTED, b"XCLIENT", rest, busy=False),
        xforward(TRUSTED, b"XFORWARD", rest, busy=False),
    ):
        if isinstance(event, ev.Refused):
            assert event.reply.code == 501
            continue
        assert isinstance(event, ev.Xclient | ev.Xforward)
        for key, value in event.values.items():
            assert value is None or value.isprintable() or not value.isascii()
            assert value is None or "\n" not in value
            assert key in ("LOGIN",) or value is None or not set(value) & set(' <>()\\";@')


@pytest.mark.parametrize(
    ("said", "values"),
    [
        (b"NAME=a.example ADDR=192.0.2.1", {"NAME": "a.example", "ADDR": "192.0.2.1"}),
        (b"name=[tempunavail]", {"NAME": "[TEMPUNAVAIL]"}),
        (b"ADDR=01.002.3.4", {"ADDR": "1.2.3.4"}),
        (b"ADDR=IPv6:2001:DB8:0::1", {"ADDR": "2001:db8::1"}),
        (b"ADDR=ipv6:::ffff:192.0.2.1", {"ADDR": "192.0.2.1"}),
        (b"HELO=a+20b+28+29", {"HELO": "a?b??"}),
        (b"LOGIN=a+2Bb", {"LOGIN": "a+b"}),
        (b"LOGIN=a+zz", {"LOGIN": "a+zz"}),
        (b"PROTO=esmtp PORT=[UNAVAILABLE]", {"PROTO": "ESMTP", "PORT": None}),
    ],
)
def test_xclient_values(said: bytes, values: dict[str, str | None]) -> None:
    assert xclient(TRUSTED, b"", said, busy=False) == ev.Xclient(values)


@pytest.mark.parametrize("said", [b"ADDR=IPv6:2001:db8::1", b"ADDR=ipv6:fe80::1%eth0"])
def test_addresses_of_unused_families_are_refused(said: bytes) -> None:
    only4 = dataclasses.replace(TRUSTED, ipv6=False)
    assert isinstance(xclient(only4, b"", said, busy=False), ev.Refused)


def test_who_may() -> None:
    for settings in (BASE, dataclasses.replace(BASE, xforward=True)):
        reply = Dialogue(settings).line(b"XCLIENT NAME=a.example")
        assert reply == b"550 5.7.0 Error: insufficient authorization"
    assert Dialogue(TRUSTED).line(b"XFORWARD NAME=a.example") == b"250 2.0.0 Ok"


def test_xclient_begins_again() -> None:
    client = Dialogue(TRUSTED)
    client.line(EHLO)
    assert client.line(b"XCLIENT HELO=x") == b"220 again"
    assert (client.session.helo, client.session.esmtp, client.session.client) == (b"x", False, "other")
    assert client.line(MAIL) == MAIL_OK
    assert client.line(b"XCLIENT HELO=x") == b"503 5.5.1 Error: MAIL transaction in progress"


def test_who_does_not_wait_for_the_second_greeting_is_sent_away() -> None:
    client = Dialogue(dataclasses.replace(SYNC, xclient=True))
    client.line(EHLO)
    assert client.say(b"XCLIENT HELO=x\r\nEHLO y\r\n").startswith(b"554 5.5.0 Error: SMTP protocol sync")
    assert client.session.closed
    assert client.notes == ["improper command pipelining after XCLIENT from other: EHLO y\\r\\n"]


def test_filtered_commands() -> None:
    client = Dialogue(dataclasses.replace(BASE, filter_commands=True))
    client.replaced = {b"HI": b"EHLO me", b"GONE": b" "}
    assert client.line(b"HI").startswith(b"250-mail.example.com")
    assert client.line(b"GONE") == b"500 5.5.2 Error: bad syntax"
    assert client.line(MAIL) == MAIL_OK
    assert [type(event) for event in client.events[::2]] == [ev.CommandLine] * 3


@given(st.integers(min_value=1, max_value=30))
def test_filtered_commands_in_pieces(size: int) -> None:
    client = Dialogue(dataclasses.replace(BASE, filter_commands=True))
    said = EHLO + b"\r\n" + MAIL + b"\r\n" + RCPT + b"\r\nDATA\r\nHI\r\n.\r\nQUIT\r\n"
    heard = b"".join(client.say(said[at : at + size]) for at in range(0, len(said), size))
    assert heard.endswith(b"queued as ID\r\n221 2.0.0 Bye\r\n")
    assert client.bodies == [b"HI\r\n"]
