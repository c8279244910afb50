"""Binary content made fit for lines."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage, Message

from hypothesis import given
from hypothesis import strategies as st

from mtad.mime.binary import BinaryConverter

PART = b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary\r\n\r\n%b"
MIXED = (
    b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: binary\r\n"
    b'Content-Type: multipart/mixed; boundary="=_b"\r\n\r\npreamble\r\n'
    b"--=_b\r\nContent-Type: text/plain\r\n\r\nsome text\r\n--=_b\r\n%b\r\n--=_b--\r\nepilogue\r\n"
)


def converted(data: bytes, *sizes: int, keep_cr: bool = False) -> bytes:
    converter, out, at = BinaryConverter(keep_cr), [], 0
    for size in (*sizes, len(data)):
        out.append(converter.feed(data[at : at + size]))
        at += size
    return b"".join(out) + converter.finish()


def parsed(data: bytes) -> Message:
    return message_from_bytes(data, policy=policy.default)


def clean(data: bytes) -> bool:
    return data.count(b"\r") == data.count(b"\n") == data.count(b"\r\n") and b"\0" not in data


@given(st.binary(max_size=300), st.lists(st.integers(1, 90), max_size=30))
def test_a_binary_message(content: bytes, sizes: list[int]) -> None:
    data = b"Subject: x\r\n" + PART % content
    out = converted(data, *sizes)
    assert out == converted(data)
    assert clean(out)
    message = parsed(out)
    assert message["Content-Transfer-Encoding"] == "base64"
    assert message.get_payload(decode=True) == content


@given(st.binary(max_size=300), st.lists(st.integers(1, 90), max_size=30))
def test_a_part(content: bytes, sizes: list[int]) -> None:
    if b"--=_b" in content:
        return
    data = MIXED % (PART % content)
    out = converted(data, *sizes)
    assert out == converted(data)
    assert clean(out)
    message = parsed(out)
    assert isinstance(message, EmailMessage)
    assert message["Content-Transfer-Encoding"] == "8bit"
    text, binary = message.iter_parts()
    assert text.get_content() == "some text"
    assert binary.get_payload(decode=True) == content
    assert out.endswith(b"\r\n--=_b--\r\nepilogue\r\n")


def test_multiparts_within_messages_within_multiparts() -> None:
    inner = MIXED.replace(b"=_b", b"inner") % (PART % b"\0\r\n--x\xff")
    outer = b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: binary\r\n\r\n" + inner
    out = converted(MIXED % outer)
    assert clean(out)
    message = parsed(out)
    assert isinstance(message, EmailMessage)
    attached = list(message.iter_parts())[1]
    assert attached["Content-Transfer-Encoding"] == "8bit"
    parts = next(iter(attached.iter_parts()))
    assert isinstance(parts, EmailMessage)
    assert list(parts.iter_parts())[1].get_payload(decode=True) == b"\0\r\n--x\xff"


def test_text_stays_but_for_its_line_ends() -> None:
    data = b"Subject: x\r\n\r\nline\r\nanother\r\n"
    assert converted(data) == data
    assert converted(b"Subject: x\n\na\nb\rc") == b"Subject: x\r\n\r\na\r\nb c\r\n"


@given(st.lists(st.integers(1, 30), max_size=30))
def test_stray_returns_are_kept(sizes: list[int]) -> None:
    head = b"Content-Type: multipart/x; boundary=b\r\nSubject: a\rb\r\r\n\r\n\rc\r\r\n--b\r\n"
    binary = b"Content-Transfer-Encoding: binary\r\n\r\nA\rB\r\r\n--b\r\n"
    out = converted(head + binary + b"X: d\r\n\r\ne\rf\r\r\n--b--\r\n\rg\r", *sizes, keep_cr=True)
    encoded = b"Content-Transfer-Encoding: base64\r\n\r\nQQ1CDQ==\r\n--b\r\n"
    assert out == head + encoded + b"X: d\r\n\r\ne\rf\r\r\n--b--\r\n\rg\r\r\n"


def test_parts_that_end_early() -> None:
    for data in (b"", b"Subject: x", MIXED.partition(b"%b")[0], MIXED.partition(b"--=_b")[0]):
        assert clean(converted(data))


def test_long_lines_and_headers_are_bounded() -> None:
    converter = BinaryConverter()
    total = sum(len(converter.feed(b"x" * 10000)) for _ in range(100))
    assert total > 800000
    assert converter.finish() == b"\r\n"


@given(st.binary(max_size=200), st.lists(st.integers(1, 20), max_size=30))
def test_any_bytes(data: bytes, sizes: list[int]) -> None:
    head = b"Content-Type: multipart/x; boundary=b\r\n\r\n--b\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    for given_ in (data, head + data):
        out = converted(given_, *sizes)
        assert out == converted(given_)
        assert out.count(b"\n") == out.count(b"\r\n")
