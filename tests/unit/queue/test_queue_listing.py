from __future__ import annotations

import json
import time
import tracemalloc
from collections import deque
from collections.abc import Iterator
from itertools import islice

from mtad.queue.listing import json_listing, text_listing
from mtad.queue.message import DEFERRED, HOLD, Message, Recipient

REFUSED = "connect to 127.0.0.1[127.0.0.1]:25: Connection refused"
ARRIVAL = 1762336800.75


def text(messages: list[Message], active: set[str], long_ids: bool = False) -> list[str]:
    return list(text_listing(messages, active, long_ids, time.gmtime))


def samples() -> list[Message]:
    one = Message("0A1B2C3D4E", b"alice@example.com", [], ARRIVAL, size=1500, state=DEFERRED)
    one.recipients = [
        Recipient(b"new@example.net"),
        Recipient(b"bob@example.net", b"robert@example.net", reason=REFUSED),
        Recipient(b"carol@example.net", reason=REFUSED),
        Recipient(b"dave@example.net"),
    ]
    two = Message("0B", b"", [Recipient(b'we ird"@example.org')], ARRIVAL, size=700, state=HOLD)
    return [one, two]


def test_empty() -> None:
    assert text([], set()) == ["Mail queue is empty"]
    assert list(json_listing([], set())) == []


def test_short() -> None:
    assert text(samples(), {"0A1B2C3D4E"}) == [
        "-Queue ID-  --Size-- ----Arrival Time---- -Sender/Recipient-------",
        "0A1B2C3D4E*    1500 Wed Nov  5 10:00:00  alice@example.com",
        " " * 41 + "new@example.net",
        " " * 22 + f"({REFUSED})",
        " " * 41 + "bob@example.net",
        " " * 41 + "carol@example.net",
        " " * 58 + "(reason unavailable)",
        " " * 41 + "dave@example.net",
        "",
        "0B!             700 Wed Nov  5 10:00:00  MAILER-DAEMON",
        " " * 41 + r'"we ird\""@example.org',
        "",
        "-- 2 Kbytes in 2 Requests.",
    ]


def test_long() -> None:
    message = samples()[1]
    message.queue_id, message.expired = "4cYdLp0000z1", True
    assert text([message], set(), True) == [
        "----Queue ID----- --Size-- ---Arrival Time---- --Sender/Recipient------",
        "4cYdLp0000z1!#         700 Wed Nov  5 10:00:00 MAILER-DAEMON",
        " " * 47 + r'"we ird\""@example.org',
        "",
        "-- 0 Kbytes in 1 Request.",
    ]


def test_long_reason_is_not_cut() -> None:
    message = samples()[1]
    message.recipients[0].reason = "x" * 100
    assert "(" + "x" * 100 + ")" in text([message], set())


def test_json() -> None:
    lines = list(json_listing(samples(), {"0B"}))
    assert lines[1] == (
        '{"queue_name": "active", "queue_id": "0B", "arrival_time": 1762336800, "message_size": 700, '
        '"forced_expire": false, "sender": "MAILER-DAEMON", '
        r'"recipients": [{"orig_address": "\"we ird\\\"\"@example.org", '
        r'"address": "\"we ird\\\"\"@example.org"}]}'
    )
    first = json.loads(lines[0])
    assert first["queue_name"] == "deferred"
    assert first["recipients"][1] == {
        "orig_address": "robert@example.net",
        "address": "bob@example.net",
        "delay_reason": REFUSED,
    }


def test_a_long_queue_begins_at_once() -> None:
    """No message is asked for before those before it are out, and none is kept."""
    read = 0

    def endless() -> Iterator[Message]:
        nonlocal read
        while True:
            read += 1
            yield samples()[0]

    for lines in (text_listing(endless(), set(), False), json_listing(endless(), set())):
        read = 0
        assert len(list(islice(lines, 1))) == 1
        assert read == 1
        tracemalloc.start()
        try:
            deque(islice(lines, 1_500), maxlen=0)
            assert tracemalloc.get_traced_memory()[0] < 20_000
        finally:
            tracemalloc.stop()
