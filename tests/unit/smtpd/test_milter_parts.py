"""The pieces of the milter client: packets, what main.cf says, changes of a message."""

from __future__ import annotations

import io
from collections.abc import Coroutine

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.config.endpoint import Endpoint
from mtad.config.parameters import Parameters
from mtad.errors import ConfigError
from mtad.smtpd.milter import wire
from mtad.smtpd.milter.changes import Changes
from mtad.smtpd.milter.client import reply_response
from mtad.smtpd.milter.edits import Draft, TooBig
from mtad.smtpd.milter.session import command_words
from mtad.smtpd.milter.specs import Filters, read_filters

HEAD = b"Received: from us\r\n\tby us\r\nFrom: a@b\r\nTo: c@d\r\nto: e@f\r\nSubject: long\r\n line\r\n"
MESSAGE = HEAD + b"\r\nbody\r\nend\r\n"


def draft(content: bytes = MESSAGE, spooled: bool = False, limit: int = 0) -> Draft:
    file = io.BytesIO(content) if spooled else None
    return Draft(
        None if spooled else content, file, io.BytesIO, size_limit=limit, header_limit=102400
    )  # fmt: skip


def run(coroutine: Coroutine[object, None, None]) -> None:
    """Nothing here waits."""
    with pytest.raises(StopIteration):
        coroutine.send(None)


def finished(one: Draft) -> bytes:
    content, spool, size = one.finish()
    if content is None:
        assert spool is not None
        spool.seek(0)
        content = spool.read()
    assert size == len(content)
    return content


def test_checks_of_new_headers_have_the_last_word() -> None:
    async def check(text: bytes) -> list[bytes]:
        if text.startswith(b"X-Gone"):
            return []
        return [b"X-Before: it", text.upper()]

    one = Draft(MESSAGE, None, io.BytesIO, size_limit=0, header_limit=102400, check=check)
    run(one.add_header(b"X-Gone: 1"))
    run(one.change_header(1, b"To", b"X-Gone: 1"))
    assert not one.changed
    run(one.insert_header(2, b"X-New: a\nb"))
    head = finished(one).partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert head[2:6] == [b"X-Before: it", b"X-NEW: A", b"\tB", b"From: a@b"]


# -- packets


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=1), st.binary(max_size=300))), st.data())
def test_packets_come_out_as_they_went_in_however_they_are_cut(
    packets: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    stream = b"".join(wire.packet(code, content) for code, content in packets)
    reader, found = wire.PacketReader(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += reader.receive(stream[:size])
        stream = stream[size:]
    assert found == packets


@pytest.mark.parametrize("size", [0, wire.LONGEST + 1, 0xFFFFFFFF])
def test_bad_lengths_are_refused_before_anything_is_kept(size: int) -> None:
    with pytest.raises(wire.BadPacket):
        list(wire.PacketReader().receive(size.to_bytes(4, "big") + b"c"))


def test_strings() -> None:
    assert wire.strings(b"a\0b\0", 2, 2) == [b"a", b"b"]
    assert wire.strings(b"a\0", 1, 2) == [b"a"]
    for wrong in (b"", b"a", b"a\0b", b"a\0b\0c\0"):
        with pytest.raises(wire.BadPacket):
            wire.strings(wrong, 1, 2)
    assert wire.terminated(b"a\0b") == b"ab\0"


def test_versions_know_what_postfix_says_they_know() -> None:
    assert wire.VERSIONS[2] == 0x7F
    assert wire.VERSIONS[6] == 0x1FFFFF
    assert wire.LEFT_OUT == 0x37F
    assert wire.UNANSWERED == 0xFF080


# -- main.cf


def filters(**values: str) -> Filters:
    found = read_filters(Parameters.from_mapping(values), "smtpd_milters")
    assert found is not None
    return found


def test_filters_of_main_cf() -> None:
    found = filters(
        smtpd_milters="inet:localhost:8891, { unix:opendkim/sock, connect_timeout=3s,"
        " { command_timeout = 2m }, content_timeout=10, default_action=ACCEPT, protocol=4 }"
        " local:/run/x inet:[::1]:99 inet::smtp",
        queue_directory="/var/spool/postfix",
        milter_default_action="tempfail",
        milter_macro_defaults="auth_type=none, {mail_host}=here, { x = a b }",
        milter_data_macros="i, {j}",
    )
    first, second, third, fourth, fifth = found.configured
    assert (first.endpoint, first.default_action) == (Endpoint("localhost", "8891"), "tempfail")
    assert first.version == 6
    assert second.endpoint == Endpoint("/var/spool/postfix/opendkim/sock")
    assert (second.connect_timeout, second.command_timeout, second.content_timeout) == (3, 120, 10)
    assert (second.version, second.events, second.default_action) == (4, wire.VERSIONS[4], "accept")
    assert third.endpoint == Endpoint("/run/x")
    assert fourth.endpoint == Endpoint("::1", "99")
    assert fifth.endpoint == Endpoint("localhost", "smtp")
    assert found.macro_defaults == {"{auth_type}": b"none", "{mail_host}": b"here", "{x}": b"a b"}
    assert found.macros["data"] == ("i", "{j}")
    assert found.macros["mail"][1] == "{auth_type}"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("inet:localhost", "bad port"),
        ("inet:localhost:", "no port"),
        ("inet:localhost:70000", "bad port"),
        ("localhost:99", "invalid transport name"),
        ("/run/sock", "needs transport:endpoint"),
        ("{ inet:h:1, default_action=maybe }", "unrecognized default action"),
        ("{ inet:h:1, protocol=5 }", "bad protocol information"),
        ("{ inet:h:1, colour=red }", "unknown attribute"),
        ("{ inet:h:1, connect_timeout=soon }", "connect_timeout"),
        ("{ }", "empty milter definition"),
        ("{ inet:h:1", "missing '}'"),
    ],
)
def test_wrong_lists_name_the_parameter(value: str, words: str) -> None:
    with pytest.raises(ConfigError, match="smtpd_milters") as caught:
        filters(smtpd_milters=value)
    assert words in str(caught.value)


def test_no_filters() -> None:
    assert read_filters(Parameters.from_mapping({}), "smtpd_milters") is None
    assert filters(smtpd_milters="DISABLE", smtpd_milter_maps="static:x").configured == ()
    assert filters(smtpd_milters="inet:h:1", milter_protocol="3 no_header_reply").defaults.events == 0x1FF


# -- replies


def test_replies() -> None:
    one = reply_response(b"550 5.7.1 no thanks")
    assert one.reply is not None
    assert one.reply.encode() == b"550 5.7.1 no thanks\r\n"
    several = reply_response(b"451-4.7.1 a\r\n451-4.7.1 b\r\n451 4.7.1 c")
    assert several.reply is not None
    assert several.reply.encode() == b"451-4.7.1 a\r\n451-4.7.1 b\r\n451 4.7.1 c\r\n"
    bare = reply_response(b"550 just no")
    assert bare.reply is not None
    assert bare.reply.encode() == b"550 just no\r\n"


def test_words_of_a_command() -> None:
    assert command_words(b'MAIL FROM:<"a b"@c> SIZE=3  BODY=8BITMIME') == [
        b'<"a b"@c>', b"SIZE=3", b"BODY=8BITMIME"
    ]  # fmt: skip
    assert command_words(b"RCPT TO: bob@x NOTIFY=NEVER") == [b"bob@x", b"NOTIFY=NEVER"]
    assert command_words(b"MAIL FROM:<>") == [b"<>"]


# -- changes


@pytest.mark.parametrize("spooled", [False, True])
def test_a_message_without_changes_stays_as_it_is(spooled: bool) -> None:
    one = draft(spooled=spooled)
    assert [header.name for header in one.headers] == [b"Received", b"From", b"To", b"to", b"Subject"]
    assert one.headers[0].hidden
    assert one.headers[4].value == b" long\n line"
    assert b"".join(one.body()) == b"body\r\nend\r\n"
    assert not one.changed
    assert finished(one) == MESSAGE


def test_a_large_message_comes_in_pieces_that_filters_take() -> None:
    body = b"0123456789abcd\r\n" * 20000
    one = draft(b"Subject: x\r\n" + b"X: " + b"y" * 100000 + b"\r\n\r\n" + body, spooled=True)
    pieces = list(one.body())
    assert {len(piece) for piece in pieces[:-1]} == {wire.PIECE}
    assert b"".join(pieces) == body
    assert len(one.headers[1].value) == 100001
    run(one.add_header(b"A: b"))
    assert finished(one).endswith(b"y\r\nA: b\r\n\r\n" + body)


def test_headers_are_counted_without_ours_except_for_insertions() -> None:
    one = draft()
    run(one.change_header(2, b"TO", b"To: other"))
    run(one.change_header(3, b"to", b"To: new"))
    one.delete_header(1, b"from")
    one.delete_header(1, b"received")  # hidden
    run(one.insert_header(1, b"X-First: 1"))
    run(one.insert_header(3, b"X-Third: 3"))
    run(one.insert_header(99, b"X-Last: z\nfolded\n\n\ttwice"))
    assert finished(one).partition(b"\r\n\r\n")[0].split(b"\r\n") == [
        b"X-First: 1", b"Received: from us", b"\tby us", b"X-Third: 3", b"To: c@d", b"To: other",
        b"Subject: long", b" line", b"To: new", b"X-Last: z", b"\tfolded", b"\ttwice",
    ]  # fmt: skip


def test_no_change_ends_the_header_section_or_makes_another_header() -> None:
    one = draft()
    run(one.add_header(b"X: a\r\n\r\nbody?\r\nBcc: all\0\rx"))
    assert finished(one).partition(b"\r\n\r\n")[0].endswith(b"X: a\r\n\tbody?\r\n\tBcc: all x")


@given(st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\r\n", b"line\r\n", b"\r\r\n"])), st.data())
def test_new_bodies_have_proper_line_ends_however_they_come(parts: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(parts)
    one = draft()
    one.begin_body()
    rest = whole
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        one.add_body(rest[:size])
        rest = rest[size:]
    one.end_body()
    body = b"".join(one.body())
    lines = [line.removesuffix(b"\r") for line in whole.split(b"\n")[:-1]]
    last = whole.rpartition(b"\n")[2]
    assert body == b"".join(line + b"\r\n" for line in lines) + (last + b"\r\n" if last else b"")


def test_a_large_new_body_and_one_that_is_too_large() -> None:
    one = draft(limit=300000)
    one.begin_body()
    for _ in range(4):
        one.add_body(b"x" * 65534 + b"\n")
    one.end_body()
    assert finished(one).endswith(b"\r\n\r\n" + (b"x" * 65534 + b"\r\n") * 4)
    with pytest.raises(TooBig):
        one.add_body(b"x" * 65535)
    one.close()


def test_changes_of_a_message_that_becomes_too_large_are_heard_and_not_made() -> None:
    async def changed() -> None:
        one = draft(limit=100000)
        changes = Changes(RuntimeError, one, False)
        for _ in range(3):
            assert await changes.take(wire.REPLACE_BODY, b"x" * 65535)
        assert changes.too_big
        assert await changes.take(wire.ADD_HEADER, b"X-New\0value\0")
        assert not await changes.take(wire.CONTINUE, b"")
        assert not any(header.name == b"X-New" for header in one.headers)
        one.close()

    run(changed())
