"""Notifications of many recipients, each of which has one of its own."""

from __future__ import annotations

from typing import Any

import pytest
from delivery_world import MemoryStore

from mtad.config.parameters import Parameters
from mtad.deliver.bounce import Bouncer
from mtad.maillog import ListSink, MailLog
from mtad.queue.message import Message, Outcome, Recipient


@pytest.mark.parametrize(("count", "whole"), [(3, True), (500, False)])
def test_memory(count: int, whole: bool) -> None:
    """A large message to many wrong addresses is not multiplied by their number."""
    store: Any = MemoryStore()
    p = Parameters.from_mapping({"myhostname": "mail.example.com", "myorigin": "example.com"})
    bouncer = Bouncer(p, store, MailLog(ListSink(), "x"), lambda: "B1", lambda: 0.0)
    content = b"Subject: x\r\n" + b"X: y\r\n" * 2000 + b"\r\n" + b"z" * 30_000 + b"\r\n"
    message = Message(
        "Q1", b"list@example.com", [], 0.0, len(content), content, attributes={"verp_delimiters": "+="}
    )
    outcomes = [
        Outcome(Recipient(b"u%d@example.net" % n), "bounced", "5.1.1", "no such user") for n in range(count)
    ]
    notices = [notice.message for notice in bouncer.failed(message, outcomes)]
    assert len(notices) == count
    assert notices[1].recipients[0].address == b"list+u1=example.net@example.com"
    for notice in notices:
        assert notice.content is not None
        assert b"\r\nSubject: x\r\nX: y\r\n" in notice.content
        assert (b"zzz" in notice.content) == whole
        assert whole or len(notice.content) < 8000
