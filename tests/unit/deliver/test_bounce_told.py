"""Who is told: by NOTIFY, notify_classes, and who the mail is from."""

from __future__ import annotations

from typing import Any

import pytest
from delivery_world import MemoryStore

from mtad.config.parameters import Parameters
from mtad.deliver.bounce import Bouncer, late_no_more
from mtad.deliver.job import Result
from mtad.maillog import ListSink, MailLog
from mtad.queue.message import Message, Outcome, Recipient

CONTENT = b"Subject: x\r\n\r\nbody\r\n"
WORDS = (b"SUCCESS", b"FAILURE", b"DELAY")
NOTIFY = [
    frozenset(),
    frozenset((b"NEVER",)),
    *(frozenset(word for n, word in enumerate(WORDS) if bits >> n & 1) for bits in range(1, 8)),
]


class World:
    def __init__(self, classes: str = "", **values: str) -> None:
        store: Any = MemoryStore()
        values |= {"myhostname": "mail.example.com", "myorigin": "example.com", "notify_classes": classes}
        self.sink = ListSink()
        self.ids = iter(f"N{n}" for n in range(100))
        log = MailLog(self.sink, "x")
        p = Parameters.from_mapping(values)
        self.bouncer = Bouncer(p, store, log, lambda: next(self.ids), lambda: 0.0)

    def told(self, kind: str, outcome: Outcome, sender: bytes = b"a@example.com") -> list[bytes]:
        """The recipients of the notices."""
        message = Message("Q1", sender, [outcome.recipient], 0.0, len(CONTENT), CONTENT)
        notices = getattr(self.bouncer, kind)(message, [outcome])
        self.bouncer.announce(notices)
        return [notice.message.recipients[0].address for notice in notices]

    def log(self) -> list[str]:
        return [f"{ident}: {text}" for _, ident, text in self.sink.lines]


def outcome(notify: frozenset[bytes] = frozenset(), status: str = "bounced") -> Outcome:
    return Outcome(Recipient(b"b@example.net", notify=notify), status, "5.1.1", "no")


@pytest.mark.parametrize("notify", NOTIFY, ids=lambda words: b",".join(sorted(words)).decode() or "none")
def test_each_word_for_its_kind(notify: frozenset[bytes]) -> None:
    world = World()
    for kind, word, default in (
        ("failed", b"FAILURE", True), ("delayed", b"DELAY", True), ("relayed", b"SUCCESS", False),
    ):  # fmt: skip
        wanted = word in notify if notify else default
        assert world.told(kind, outcome(notify)) == ([b"a@example.com"] if wanted else [])


@pytest.mark.parametrize(
    ("kind", "sender", "classes", "told"),
    [
        ("failed", b"a@example.com", "bounce", [b"a@example.com", b"one@example.com"]),
        ("failed", b"a@example.com", "2bounce, delay", [b"a@example.com"]),
        ("failed", b"", "2bounce", [b"two@example.net"]),
        ("failed", b"", "bounce", [b"two@example.net"]),
        ("failed", b"", "delay, resource, software, protocol, policy, data", []),
        ("delayed", b"a@example.com", "delay", [b"a@example.com", b"late@example.com"]),
        ("delayed", b"a@example.com", "bounce, 2bounce", [b"a@example.com"]),
        ("delayed", b"", "delay, bounce, 2bounce", []),
        ("failed", b"double-bounce@mail.example.com", "bounce, 2bounce, delay", []),
        ("delayed", b"Double-Bounce@mail.example.COM", "bounce, 2bounce, delay", []),
    ],
)
def test_postmasters(kind: str, sender: bytes, classes: str, told: list[bytes]) -> None:
    world = World(
        classes,
        bounce_notice_recipient="one",
        **{"2bounce_notice_recipient": "two@example.net", "delay_notice_recipient": "late"},
    )
    assert world.told(kind, outcome(), sender) == told
    dropped = [line for line in world.log() if "undeliverable postmaster notification discarded" in line]
    assert bool(dropped) == (sender.lower().startswith(b"double-bounce"))


def test_a_notice_that_nobody_wants_is_begun_and_canceled() -> None:
    world = World("bounce")
    never = outcome(frozenset((b"NEVER",)))
    assert world.told("failed", never) == [b"postmaster@example.com"]  # who hears of all
    assert [line.replace("19700101000000.", "") for line in world.log()] == [
        "postfix/bounce: Q1: sender non-delivery notification: N0",
        "postfix/cleanup: N0: message-id=<N0@mail.example.com>",
        "postfix/cleanup: N0: removed (canceled)",
        "postfix/cleanup: N1: message-id=<N1@mail.example.com>",
        "postfix/bounce: Q1: postmaster non-delivery notification: N1",
    ]


@pytest.mark.parametrize(
    ("notify", "traced", "told"),
    [
        ((), False, True),
        ((b"DELAY",), False, True),
        ((b"DELAY", b"SUCCESS"), True, True),
        ((b"FAILURE",), False, False),
        ((b"NEVER",), False, False),
        ((b"SUCCESS",), True, False),
        ((b"SUCCESS",), False, True),
        ((b"SUCCESS", b"FAILURE"), False, False),
    ],
)
def test_late_no_more(notify: tuple[bytes, ...], traced: bool, told: bool) -> None:
    """``traced``: the next server won't tell of success."""
    sent = outcome(frozenset(notify), "sent")
    found = late_no_more(Result([sent, outcome()], traced=[sent] if traced else []))
    assert found == ([sent] if told else [])
