"""XVERP, REQUIRETLS, BINARYMIME, LIMITS, FUTURERELEASE, DELIVERBY, MT-PRIORITY."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_shell import BASE, EHLO, MAIL, MAIL_OK, RCPT, Dialogue

from mtad.wire import events as ev
from mtad.wire.extensions import BEYOND, Wishes, Wrong, take

ALL = dataclasses.replace(
    BASE, extensions=frozenset(BEYOND), longest_hold=3600, requiretls=True, verp_delimiters=b"+="
)


def wishes(parameters: bytes, tls: bool = False) -> Wishes | bytes:
    """What MAIL with these parameters comes to: wishes, or the reply."""
    client = Dialogue(ALL, tls)
    reply = client.line(MAIL + b" " + parameters)
    event = client.events[-1]
    if isinstance(event, ev.Mail):
        assert event.wishes is not None
        return event.wishes
    return reply


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (b"XVERP", Wishes(verp=b"+=")),
        (b"xverp=-+", Wishes(verp=b"-+")),
        (b"HOLDFOR=60", Wishes(hold_for=60)),
        (b"HOLDUNTIL=1970-01-02T00:00:00Z", Wishes(hold_until=86400.0)),
        (b"holduntil=1970-01-02t01:00:00+01:00", Wishes(hold_until=86400.0)),
        (b"BY=120;R", Wishes(by=120, by_mode="R")),
        (b"BY=-120;nt", Wishes(by=-120, by_mode="NT")),
        (b"BY=+5;RT", Wishes(by=5, by_mode="RT")),
        (b"MT-PRIORITY=3", Wishes(priority=3)),
        (b"MT-PRIORITY=-9 BY=1;N", Wishes(priority=-9, by=1, by_mode="N")),
    ],
)
def test_what_is_asked_for(said: bytes, found: Wishes) -> None:
    assert wishes(said) == found


@pytest.mark.parametrize(
    "said",
    [
        b"HOLDFOR=0", b"HOLDFOR=-1", b"HOLDFOR=x", b"HOLDFOR=1234567890", b"HOLDFOR=",
        b"HOLDUNTIL=tomorrow", b"HOLDUNTIL=2030-13-01T00:00:00Z", b"HOLDUNTIL=2030-01-01", b"HOLDUNTIL=",
        b"HOLDFOR=1 HOLDFOR=2", b"HOLDFOR=1 HOLDUNTIL=2030-01-01T00:00:00Z",
        b"BY=1", b"BY=1;X", b"BY=0;R", b"BY=-1;R", b"BY=1234567890;N", b"BY=1;R BY=1;R", b"BY=;R",
        b"BY=1;RTT",
        b"MT-PRIORITY=10", b"MT-PRIORITY=-10", b"MT-PRIORITY=", b"MT-PRIORITY=+1",
        b"MT-PRIORITY=1 MT-PRIORITY=1",
        b"XVERP=ab",
    ],
)  # fmt: skip
def test_what_is_malformed(said: bytes) -> None:
    reply = wishes(said)
    assert isinstance(reply, bytes)
    assert reply.startswith(b"501 5.5.4 ")


@pytest.mark.parametrize(
    "said", [b"HOLDFOR", b"BY", b"MT-PRIORITY", b"REQUIRETLS=", b"REQUIRETLS", b"XVERPX"]
)
def test_what_is_no_parameter(said: bytes) -> None:
    assert wishes(said) == b"555 5.5.4 Unsupported option: " + said


def test_requiretls_needs_tls() -> None:
    assert wishes(b"REQUIRETLS", tls=True) == Wishes(requiretls=True)
    assert b"250 REQUIRETLS" not in Dialogue(ALL).line(EHLO)
    assert b"REQUIRETLS" in Dialogue(ALL, tls=True).line(EHLO)


def test_what_is_not_offered_is_not_known() -> None:
    for words in (b"HOLDFOR=1", b"BY=1;N", b"MT-PRIORITY=1", b"XVERP", b"BODY=BINARYMIME", b"REQUIRETLS"):
        assert Dialogue(BASE, tls=True).line(MAIL + b" " + words).startswith(b"555 5.5.4 ")
    discarding = dataclasses.replace(ALL, discard=frozenset((*BEYOND, "requiretls")))
    for words in (b"HOLDFOR=1", b"BY=1;N", b"MT-PRIORITY=1", b"BODY=BINARYMIME", b"REQUIRETLS"):
        assert Dialogue(discarding, tls=True).line(MAIL + b" " + words).startswith(b"555 5.5.4 ")


def test_what_is_announced() -> None:
    settings = dataclasses.replace(ALL, recipient_limit=20)
    reply = Dialogue(settings).session.ehlo_reply(latest=b"2030-01-01T00:00:00Z").encode().split(b"\r\n")
    assert reply[-6:] == [
        b"250-BINARYMIME",
        b"250-LIMITS RCPTMAX=20",
        b"250-FUTURERELEASE 3600 2030-01-01T00:00:00Z",
        b"250-DELIVERBY",
        b"250 MT-PRIORITY",
        b"",
    ]
    unlimited = dataclasses.replace(ALL, recipient_limit=0, discard=frozenset(("chunking",)))
    assert not {b"250-LIMITS RCPTMAX=0", b"250-BINARYMIME"} & set(
        Dialogue(unlimited).session.ehlo_reply().encode().split(b"\r\n")
    )


def test_null_senders_have_no_verp() -> None:
    reply = Dialogue(ALL).line(b"MAIL FROM:<> XVERP")
    assert reply == b"503 5.5.4 Error: XVERP requires non-null sender"


@given(st.binary(max_size=300), st.integers(min_value=1, max_value=50))
def test_binary_content_stays_as_it_is(content: bytes, size: int) -> None:
    client = Dialogue(ALL)
    assert client.line(MAIL + b" BODY=BINARYMIME") == MAIL_OK
    client.line(RCPT)
    assert client.line(b"DATA") == b"503 5.5.1 Error: BINARYMIME requires BDAT"
    for at in range(0, len(content), size):
        chunk = content[at : at + size]
        assert client.say(b"BDAT %d\r\n" % len(chunk) + chunk) == b"250 2.0.0 Ok: %d bytes\r\n" % len(chunk)
    assert client.line(b"BDAT 0 LAST").startswith(b"250 2.0.0 Ok: %d bytes queued" % len(content))
    assert client.bodies == [content]


def test_the_next_message_is_text_again() -> None:
    client = Dialogue(ALL)
    client.line(MAIL + b" BODY=BINARYMIME")
    client.line(RCPT)
    client.say(b"BDAT 3 LAST\r\na\nb")
    client.line(MAIL)
    client.line(RCPT)
    client.say(b"BDAT 3 LAST\r\na\nb")
    assert client.bodies == [b"a\nb", b"a\r\nb\r\n"]


@given(st.binary(max_size=40))
def test_nothing_else_is_raised(word: bytes) -> None:
    for key in (b"", b"HOLDFOR=", b"HOLDUNTIL=", b"BY=", b"MT-PRIORITY=", b"XVERP="):
        try:
            take(ALL, True, key + word, Wishes())
        except Wrong as wrong:
            assert wrong.reply.code == 501
