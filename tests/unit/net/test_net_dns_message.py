"""DNS messages: what we ask, and what we make of any bytes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mtad.net.dns_message import MessageError, Record, decode, encode_name, encode_query

LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=20)
NAME = st.lists(LABEL, min_size=1, max_size=6).map(".".join)


def answer(name: str, type_: int, *records: bytes, flags: int = 0x8180, authority: int = 0) -> bytes:
    count = len(records) - authority
    head = struct.pack("!6H", 7, flags, 1, count, authority, 0)
    return head + encode_name(name) + struct.pack("!2H", type_, 1) + b"".join(records)


def record(type_: int, data: bytes, ttl: int = 60, owner: bytes = b"\xc0\x0c") -> bytes:
    return owner + struct.pack("!2HIH", type_, 1, ttl, len(data)) + data


@given(st.integers(0, 65535), NAME, st.sampled_from(["A", "AAAA", "MX", "PTR", "TXT", "CNAME"]))
def test_a_query_reads_as_written(identifier: int, name: str, type_: str) -> None:
    message = decode(encode_query(identifier, name, type_))
    assert (message.id, message.name, message.type) == (identifier, name, type_)
    assert not message.is_response


def test_query_bytes() -> None:
    assert encode_query(0x1234, "a.bc", "MX") == bytes.fromhex(
        "123401000001000000000000 0161 026263 00 000f 0001"
    )


@pytest.mark.parametrize("name", ["a..b", ".a", "a" * 64, ".".join(["a" * 60] * 5)])
def test_names_that_do_not_fit(name: str) -> None:
    with pytest.raises(MessageError):
        encode_name(name)


def test_records() -> None:
    message = decode(
        answer(
            "example.com",
            15,
            record(15, struct.pack("!H", 10) + b"\x04mail\xc0\x0c"),
            record(1, b"\xc0\x00\x02\x01"),
            record(28, bytes(15) + b"\x01"),
            record(16, b"\x03abc\x00\x02de"),
            record(5, b"\x01c\xc0\x0c"),
            record(99, b"xyz"),
            record(6, b"\x00\x00" + struct.pack("!5I", 1, 2, 3, 4, 300), ttl=0xFFFFFFFF),
            authority=1,
        )
    )
    assert [one.data for one in message.answers] == [
        (10, "mail.example.com"),
        "192.0.2.1",
        "::1",
        (b"abc", b"", b"de"),
        "c.example.com",
        b"xyz",
    ]
    assert message.answers[5].type == "TYPE99"
    assert message.authority == (Record("example.com", "SOA", 0, 300),)


def test_odd_bytes_in_names_are_escaped() -> None:
    message = decode(answer("a.b", 12, record(12, b'\x04a."\\\x02\xc3\xa9\x00')))
    assert message.answers[0].data == "a\\046\\034\\092.\\195\\169"


def test_null_mx() -> None:
    assert decode(answer("a.b", 15, record(15, b"\x00\x00\x00"))).answers[0].data == (0, "")


@pytest.mark.parametrize(
    "data",
    [
        record(1, b"\x01\x02\x03"),
        record(15, b"\x00"),
        record(12, b"\x01a\x00junk"),
        record(12, b"\xc0\xff"),
        record(16, b"\x05abc"),
        record(6, b"\x00\x00abc"),
        record(1, b"\x01\x02\x03\x04")[:-1],
        record(12, b"\x80abc"),
    ],
)
def test_malformed_records(data: bytes) -> None:
    with pytest.raises(MessageError):
        decode(answer("example.com", 1, data))


def test_a_pointer_cannot_loop() -> None:
    here = len(answer("a.b", 12)) + 12
    with pytest.raises(MessageError):
        decode(answer("a.b", 12, record(12, struct.pack("!H", 0xC000 | here))))


def test_a_long_answer_is_cut() -> None:
    message = decode(answer("a.b", 1, *[record(1, b"\x01\x02\x03\x04")] * 300))
    assert len(message.answers) == 100


def test_truncated() -> None:
    message = decode(answer("a.b", 1, flags=0x8380)[:-4] + struct.pack("!2H", 1, 1) + b"junk")
    assert message.truncated
    assert message.answers == ()


@given(st.binary(max_size=200))
@example(b"")
def test_any_bytes(data: bytes) -> None:
    try:
        decode(data)
    except MessageError:
        pass


@given(st.data())
def test_any_damage(data: st.DataObject) -> None:
    good = bytearray(
        answer("example.com", 15, record(15, b"\x00\x0a\x04mail\xc0\x0c"), record(16, b"\x02ab"))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(good[: data.draw(st.integers(0, len(good)))]))
    except MessageError:
        pass
