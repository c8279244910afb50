"""Notifications about messages with REQUIRETLS: without content, or under the same rule."""

from __future__ import annotations

from typing import Any

from delivery_world import MemoryStore
from unit.net.net_pki import log, parameters

from mtad.deliver.bounce import Bouncer
from mtad.queue.message import Message, Outcome, Recipient


def notice(attributes: dict[str, str], **values: str) -> Message:
    store: Any = MemoryStore()
    bouncer = Bouncer(parameters(**values), store, log()[0], lambda: "B1", lambda: 0.0)
    content = b"Subject: x\r\n\r\nfor your eyes only\r\n"
    message = Message("Q1", b"a@example.com", [], 0.0, len(content), content, attributes=attributes)
    outcome = Outcome(Recipient(b"b@example.net"), "bounced", "5.7.30", "no REQUIRETLS")
    (made,) = bouncer.failed(message, [outcome])
    return made.message


def test_content_is_not_returned() -> None:
    made = notice({"requiretls": "yes", "tls_required_no": "yes"})
    assert made.content is not None
    assert b"Subject: x" in made.content
    assert b"for your eyes only" not in made.content
    assert made.attributes == {}


def test_or_goes_by_the_same_rule() -> None:
    made = notice({"requiretls": "yes"}, requiretls_redact_dsn="no")
    assert made.content is not None
    assert b"for your eyes only" in made.content
    assert made.attributes == {"requiretls": "yes"}


def test_tls_required_no_is_handed_on() -> None:
    assert notice({"tls_required_no": "yes"}).attributes == {"tls_required_no": "yes"}
    assert notice({}).attributes == {}
