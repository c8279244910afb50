"""Content made to keep us busy: what it costs grows with its size only, whatever it is made of."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

import pytest

from mtad.deliver.delivered import was_delivered_to
from mtad.mime.binary import BinaryConverter
from mtad.mime.events import MimeLimits, MimeOptions, Wants
from mtad.mime.parameters import fields
from mtad.mime.state import MimeState
from mtad.queue.message import Message
from mtad.queue.store import QueueStore

#: No machine needs so many seconds for any of these, unless it does a thing for each pair of bytes.
_MUCH = 5.0


def _seconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def _parse(content: bytes) -> None:
    state = MimeState(MimeOptions(Wants(0), MimeLimits()))
    for at in range(0, len(content), 65536):
        state.feed(content[at : at + 65536])
    state.finish()


def test_delivered_to_with_blanks() -> None:
    def found(headers: bytes) -> bool:
        message = Message("ID", b"", [], 0.0, content=headers)
        return was_delivered_to(cast(QueueStore, None), message, b"a@b")

    header = b"Delivered-To: a" + b" " * 100_000 + b"x\r\n"
    assert _seconds(lambda: found(header)) < _MUCH
    assert found(b"Subject: x\r\nDelivered-To: \tA@b\r\n\r\n")
    assert not found(b"X: x\r\nDelivered-To: a@b c\r\n\r\n")
    assert not found(b"X: x\r\nDelivered-To: a@b\rc\r\n\r\n")


def test_boundary_of_blanks() -> None:
    value = b' multipart/mixed; boundary="' + b" " * 100_000 + b'"'
    assert _seconds(lambda: list(fields(value))) < _MUCH
    folded = list(fields(b' x; a="b \t\n\t \n c "'))[1]
    assert folded[2][1] == b"b c "


@pytest.mark.parametrize("line", [b"--\r\n", b"--b\r\n"])
def test_dashes_within_many_boundaries(line: bytes) -> None:
    nested = b"".join(
        b'Content-Type: multipart/mixed; boundary="b%03d"\r\n\r\n--b%03d\r\n' % (n, n) for n in range(100)
    )
    assert _seconds(lambda: _parse(nested + b"\r\n" + line * (1 << 18))) < _MUCH


def test_headers_byte_by_byte() -> None:
    """Each byte may come alone; the headers before it are not looked at again."""
    converter = BinaryConverter()

    def feed() -> None:
        for _ in range(60_000):
            converter.feed(b"a")

    assert _seconds(feed) < _MUCH
