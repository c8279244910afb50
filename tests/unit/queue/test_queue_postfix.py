"""Postfix's queue files: records, messages, directories."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.errors import QueueError
from mtad.queue import untold
from mtad.queue.ids import in_base
from mtad.queue.message import Message, Outcome, Recipient
from mtad.queue.postfix import records as rec
from mtad.queue.postfix.envelope import Envelope, QueueFile, content_records, write_message
from mtad.queue.postfix.files import QueueDirectory, open_plain
from mtad.queue.postfix.logs import log_text, read_log
from mtad.queue.postfix.records import BadRecord, Record, attribute, pack, read_records

#: 123456 microseconds are 1E240.
LONG = in_base(1790000000, 52, 6) + in_base(123456, 52, 4) + "z3F"
NOTIFY = [b"SUCCESS", b"FAILURE", b"DELAY"]


def read(data: bytes, raw: bool = False) -> list[Record]:
    return list(read_records(io.BytesIO(data), raw=raw))


@given(st.lists(st.tuples(st.sampled_from(b"TASRNLMX"), st.binary(max_size=20000)), max_size=8))
def test_records_come_back(written: list[tuple[int, bytes]]) -> None:
    data = b"".join(pack(bytes((kind,)), value) for kind, value in written)
    found = read(data)
    assert [(record.kind[0], record.data) for record in found] == written
    assert all(data[record.offset] == record.kind[0] for record in found)


@given(st.binary(max_size=300))
def test_anything_is_records_or_refused(data: bytes) -> None:
    try:
        source = QueueFile(io.BytesIO(data))
        source.read_envelope()
        list(source.content())
        source.read_rest().message("A")
    except BadRecord:
        pass


@pytest.mark.parametrize(
    "data", [b"N", b"N\x05abc", b"N\x80", b"N\xff\xff\xff\xff\xff\x01", b"N\x80\x80\x80\x80\x08"]
)
def test_broken_records(data: bytes) -> None:
    with pytest.raises(BadRecord):
        read(data)


def test_pointers_and_padding() -> None:
    """As a Milter leaves them: the first is jumped over, the second is a place for another."""
    head = pack(b"S", b"a")
    pointer_size = len(pack(b"p", b"%15d" % 0))
    target = len(head) + pointer_size + len(pack(b"R", b"old"))
    data = head + pack(b"p", b"%15d" % target) + pack(b"R", b"old") + pack(b"p", b"%15d" % 0)
    data += pack(b"w", b"padding") + pack(b"R", b"new")
    assert [record.data for record in read(data)] == [b"a", b"new"]
    assert [record.kind for record in read(data, raw=True)] == [b"S", b"p", b"R", b"p", b"w", b"R"]
    with pytest.raises(BadRecord):
        read(pack(b"S", b"a") + pack(b"p", b"%15d" % 3))  # to itself
    with pytest.raises(BadRecord):
        read(pack(b"p", b"there"))


def unpacked(data: bytes) -> bytes:
    source = QueueFile(io.BytesIO(pack(b"S", b"") + pack(b"M", b"") + data + pack(b"X", b"")))
    source.read_envelope()
    return b"".join(source.content())


@given(st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\r\n", b".", b"x" * 3000, b"\0", b" "]), max_size=30),
       st.integers(0, 50))  # fmt: skip
def test_content_comes_back(parts: list[bytes], cut: int) -> None:
    content = b"".join(parts) + b"end\r\n"
    cut = min(cut, len(content))
    assert unpacked(b"".join(content_records([content[:cut], content[cut:]]))) == content


def test_long_lines_are_cut() -> None:
    found = read(b"".join(content_records([b"x" * 5000 + b"\r\nend"])))
    assert [(record.kind, len(record.data)) for record in found] == [
        (b"L", 2048), (b"L", 2048), (b"N", 904), (b"L", 3),
    ]  # fmt: skip


addresses = st.binary(min_size=1, max_size=20).map(lambda local: local + b"@example.net")
attributes = st.dictionaries(
    st.sampled_from(["client_name", "sasl_username", "log_client_name", "sender_fullname", "verp_delimiters",
                     "filter", "content_inspector", "rewrite_context", "message_id"]),
    st.text("abcäöü =;", min_size=1, max_size=10),
)  # fmt: skip


@given(
    st.lists(st.tuples(addresses, addresses, st.sets(st.sampled_from(NOTIFY))), min_size=1, max_size=4),
    attributes,
    st.sampled_from([b"", b"7BIT", b"8BITMIME"]),
    st.sampled_from([b"", b"FULL", b"HDRS"]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 10**15),
)
def test_messages_come_back(
    people: list[tuple[bytes, bytes, set[bytes]]], attributes: dict[str, str], body: bytes, ret: bytes,
    smtputf8: bool, warned: bool, arrival: int,
) -> None:  # fmt: skip
    recipients = [
        Recipient(address, original, frozenset(notify), b"rfc822;a+2Bb@c", id=number)
        for number, (address, original, notify) in enumerate(people, 1)
    ]
    if smtputf8:
        attributes = {**attributes, "requiretls": "yes"}
    message = Message(
        "A", b"s\xc3\xa4@example.com", recipients, (arrival + 1) / 1_000_000, body=body, smtputf8=smtputf8,
        ret=ret, envid=b"a+2Bb", attributes=attributes, warned=warned,
    )  # fmt: skip
    content = b"Subject: x\r\n\r\nbody\r\n"
    file = io.BytesIO()
    offsets = write_message(file, message, [content], created=1.0)
    data = file.getvalue()
    for recipient in recipients:
        (record, *_) = read(data[offsets[recipient.id] :])
        assert record[1:] == (b"R", recipient.address)
    size, offset, count, flags, length, options = map(int, read(data)[0].data.split())
    assert (size, count, length) == (length, len(recipients), size)
    assert data[offset - 2 : offset] == b"M\0"
    assert data[offset + size : offset + size + 2] == b"X\0"
    assert options & 5 == (5 if smtputf8 else 0)  # asked for, and the sender needs it
    assert (flags >> 1 & 4 != 0) == any(b"FAILURE" in one.notify for one in recipients)

    source = QueueFile(io.BytesIO(data))
    source.read_envelope()
    assert b"".join(source.content()) == content
    back = source.read_rest().message("A")
    assert back.attributes.pop("create_time") == "1"
    for name in ("log_client_name", "log_message_origin"):  # made of ours
        if "client_name" in attributes and name not in attributes:
            back.attributes.pop(name, None)
    for name in ("sender", "body", "smtputf8", "ret", "envid", "warned", "attributes"):
        assert getattr(back, name) == getattr(message, name), name
    assert abs(back.arrival - message.arrival) < 0.01
    for got, put in zip(back.recipients, recipients, strict=True):
        assert (got.address, got.original, got.notify, got.orcpt) == (
            put.address, put.original, put.notify, put.orcpt,
        )  # fmt: skip


def test_recipients_that_are_done_do_not_come_back() -> None:
    data = pack(b"S", b"s") + pack(b"A", b"notify_flags=1") + pack(b"O", b"x") + pack(b"D", b"done@a")
    data += pack(b"R", b"todo@a") + pack(b"O", b"y") + pack(b"/", b"gone@a")
    data += pack(b"M", b"") + pack(b"X", b"") + pack(b"R", b"from@header") + pack(b"E", b"")
    source = QueueFile(io.BytesIO(data))
    source.read_envelope()
    list(source.content())
    found = source.read_rest().recipients
    assert [(one.address, one.original, one.notify) for one in found] == [
        (b"todo@a", b"todo@a", frozenset()),
        (b"from@header", b"from@header", frozenset()),
    ]


@pytest.mark.parametrize(
    ("depth", "queue", "queue_id", "path"),
    [
        (1, "deferred", "EFDE723E49E", "deferred/E/EFDE723E49E"),
        (2, "deferred", "EFDE723E49E", "deferred/E/F/EFDE723E49E"),
        (1, "active", "EFDE723E49E", "active/EFDE723E49E"),
        (3, "deferred", "E", "deferred/E/_/_/E"),
        (2, "deferred", LONG, f"deferred/1/E/{LONG}"),
    ],
)
def test_where_files_are(depth: int, queue: str, queue_id: str, path: str) -> None:
    where = QueueDirectory("/q", frozenset(("deferred", "defer")), depth)
    assert where.relative(queue, queue_id) == path


def test_files_are_found_wherever_they_are(tmp_path: Path) -> None:
    where = QueueDirectory(str(tmp_path), frozenset(("deferred",)), 1)
    (tmp_path / "deferred/A/B").mkdir(parents=True)
    (tmp_path / "deferred/alien").mkdir()
    for name in ("deferred/A/AAAAAA", "deferred/A/B/BBBBBB", "deferred/CCCCCC", "deferred/A/not ours"):
        (tmp_path / name).touch()
    (tmp_path / "deferred/link").symlink_to("/etc/passwd")
    assert sorted(entry.name for entry in where.files("deferred")) == ["AAAAAA", "BBBBBB", "CCCCCC"]
    assert list(where.files("hold")) == []


def test_traps_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with open_plain(str(tmp_path / "file")) as file:
        assert file.read() == b"x"
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "one").write_bytes(b"")
    os.link(tmp_path / "one", tmp_path / "two")
    for name in ("fifo", "link", "two"):
        with pytest.raises(OSError):
            open_plain(str(tmp_path / name))


def test_logs(tmp_path: Path) -> None:
    """What is written is read again; and as Postfix writes it, whatever is in a reason."""
    people = [
        Recipient(b"a b@example.net", b"x@y", frozenset((b"NEVER",)), b"rfc822;a+2Bb@c", id=1),
        Recipient(b"", b"", id=2),
        Recipient(b"d@example.net", b"D@example.net", frozenset(NOTIFY)),
    ]
    outcomes = [
        Outcome(people[0], "bounced", "5.1.1", "host x said: 550 5.1.1 a=b", diagnostic="smtp; 550 5.1.1 a=b",
                remote_mta="x", action="failed"),
        Outcome(people[1], "bounced", "5.4.6", "loops back", action="failed"),
        Outcome(people[2], "bounced", "", "because = of\x07 it", action="failed"),
    ]  # fmt: skip
    path = tmp_path / "bounce"
    path.write_bytes(log_text(outcomes, {1: 77}))
    assert path.read_bytes().startswith(
        b'\n<"a b"@example.net>: host x said: 550 5.1.1 a=b\nrecipient="a b"@example.net\n'
        b"original_recipient=x@y\noffset=77\ndsn_orig_rcpt=rfc822;a+b@c\nnotify_flags=1\nstatus=5.1.1\n"
        b"action=failed\ndiag_type=smtp\ndiag_text=550 5.1.1 a=b\nmta_type=dns\nmta_mname=x\n"
        b"reason=host x said: 550 5.1.1 a=b\n\n\n<>: loops back\nrecipient=<>\n"
    )
    first, second, third = read_log(str(path), "bounced")
    assert (first.recipient, second.recipient.address) == (replace(people[0], id=0), b"")
    assert replace(first, recipient=people[0]) == outcomes[0]
    assert (third.dsn, third.reason, third.recipient.notify) == (
        "4.0.0",
        "because = of? it",
        frozenset(NOTIFY),
    )
    assert read_log(str(tmp_path / "none"), "bounced") == []


def test_what_is_untold_comes_back() -> None:
    who = Recipient(b"\xe9@example.net", b"x", frozenset(NOTIFY), b"rfc822;x")
    outcomes = [
        Outcome(who, "bounced", "5.1.1", "no ä", diagnostic="smtp; 550 no", remote_mta="h", action="failed"),
        *untold.expanded([who]),
    ]
    message = Message("A", b"s@example.com", [], 1.0, attributes={untold.ATTRIBUTE: untold.packed(outcomes)})
    back = untold.unpacked(message)
    assert [replace(one, recipient=who) for one in back] == outcomes
    assert [replace(one.recipient, dsn="", reason="") for one in back] == [who, who]
    assert untold.failed(message) == back[:1]
    for text in ("", "[", "[1]", "[[[],[]]]", '{"a":1}', "[[[1,2,3],[]]]"):
        message.attributes[untold.ATTRIBUTE] = text
        assert untold.unpacked(message) == []


@pytest.mark.parametrize(
    ("flags", "attributes"),
    [
        (b"0", {}),
        (b"256", {"probe": "yes"}),
        (b"512", {"trace_flags": "512"}),
        (b"1024", {"trace_flags": "1024"}),
    ],
)
def test_what_is_traced(flags: bytes, attributes: dict[str, str]) -> None:
    """Postfix's own mail has the flags 0, its questions about addresses 256: neither asks for a report."""
    data = pack(b"S", b"s") + pack(b"A", b"trace_flags=" + flags) + pack(b"R", b"r") + pack(b"M", b"")
    message = QueueFile(io.BytesIO(data)).read_envelope().message("A")
    assert message.attributes == attributes
    file = io.BytesIO()
    write_message(file, message, [b""], created=1.0)
    written = [one.data for one in read(file.getvalue()) if one.data.startswith(b"trace_flags")]
    assert written == [b"trace_flags=" + flags] * bool(attributes)
    message.recipients[0].reason = "later"
    write_message(file := io.BytesIO(), message, [b""], created=1.0)
    assert (b"trace_flags" in file.getvalue()) == ("probe" in attributes)


def envelope(before: bytes, behind: bytes = b"") -> Envelope:
    """Of a file with these records before and behind its content."""
    data = pack(b"S", b"s") + before + pack(b"R", b"r") + pack(b"M", b"")
    source = QueueFile(io.BytesIO(data + pack(b"N", b"x") + pack(b"X", b"") + behind + pack(b"E", b"")))
    source.read_envelope()
    list(source.content())
    return source.read_rest()


def test_which_of_several_counts() -> None:
    """main.cf's content filter comes first, then that of an access table, then that of a header check."""
    filters = pack(b"L", b"main:") + pack(b"L", b"access:") + pack(b"V", b"+=") + pack(b"V", b"-=")
    found = envelope(filters).attributes
    assert found == {"filter": "access:", "verp_delimiters": "+="}
    assert envelope(filters, pack(b"L", b"header:")).attributes["filter"] == "header:"


@pytest.mark.parametrize("kind", [b"N", b"z", b"f", b"\0"])
def test_records_that_are_not_known_are_not_overlooked(kind: bytes) -> None:
    """What a later release of Postfix means by them nobody knows."""
    with pytest.raises(BadRecord, match="in the envelope"):
        envelope(pack(kind, b"x"))
    with pytest.raises(BadRecord, match="behind the content"):
        envelope(b"", pack(kind, b"x"))


@pytest.mark.parametrize(
    ("flags", "notify"),
    [(b"1", {b"NEVER"}), (b"14", set(NOTIFY)), (b"3", set()), (b"15", set()), (b"-1", set()), (b"x", set())],
)
def test_who_is_told(flags: bytes, notify: set[bytes]) -> None:
    (recipient,) = envelope(pack(b"A", b"notify_flags=" + flags)).recipients
    assert recipient.notify == notify


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("release", "1790000000", ["soon", "nan", "9" * 400, ""]),
        ("deliver_by", "1790000000;RT", ["1790000000", ";R", "x;R", "1;RR"]),
        ("mt_priority", "-4", ["high", "10", "-", "1\n"]),
        ("untold", "", ["[]", "x"]),
        ("", "", ["x"]),
    ],
)
def test_attributes_of_ours(name: str, good: str, bad: list[str]) -> None:
    """They come back from Postfix as they went; what is none would trouble the queue manager, or Postfix."""
    if good:
        assert envelope(attribute(name, good)).attributes == {name: good}
    for value in bad:
        assert envelope(attribute(name, value)).attributes == {}


def test_any_bytes_are_written() -> None:
    """An access table's FILTER may have any; they are text here."""
    for name in ("filter", "sender_fullname", "log_helo_name"):
        message = Message("A", b"s", [Recipient(b"r")], 1.0, attributes={name: "x:[\udcff]"})
        write_message(file := io.BytesIO(), message, [b""], created=1.0)
        assert b"x:[\xff]" in file.getvalue()


def test_errors_are_those_of_the_queue() -> None:
    assert issubclass(BadRecord, QueueError)
    assert rec.NAMES[b"R"] == "recipient"
