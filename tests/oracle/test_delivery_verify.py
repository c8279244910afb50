"""Addresses verified by probes: the replies of Debian's Postfix and of mtad, and what the next hop hears."""

from __future__ import annotations

import smtplib
import time
from collections.abc import Iterator

import pytest
from live.daemon import Mtad
from oracle.postfix import Postfix
from oracle.upstream import Upstream

from mtad.config.parameters import Parameters
from mtad.rewrite.address import Rewriter
from mtad.rewrite.probe_sender import ProbeSender

RECIPIENT = "smtpd_recipient_restrictions"
PROBED = "reject_unverified_recipient, permit"
GOOD, BAD, LATER = "good@x.example", "bad@x.example", "later@x.example"
SERVICES = (
    ("recipient", {RECIPIENT: PROBED}),
    (
        "coded",
        {
            RECIPIENT: PROBED,
            "unverified_recipient_reject_code": "550",
            "unverified_recipient_defer_code": "451",
        },
    ),
    (
        "worded",
        {
            RECIPIENT: PROBED,
            "unverified_recipient_reject_code": "550",
            "unverified_recipient_reject_reason": "Address lookup failed",
        },
    ),
    (
        "lenient",
        {RECIPIENT: PROBED, "unverified_recipient_reject_code": "250"},
    ),
    (
        "sender",
        {"smtpd_sender_restrictions": "reject_unverified_sender", "unverified_sender_reject_code": "550"},
    ),
    ("impatient", {RECIPIENT: PROBED, "address_verify_poll_count": "1"}),
    ("closed", {RECIPIENT: "reject"}),
    ("closed for good", {RECIPIENT: "reject", "address_verify_sender_ttl": "0"}),
    ("closed to nobody", {RECIPIENT: "reject", "address_verify_sender": "<>"}),
)
#: A service whose probes go on until the server waits for a message.
DATA = "data unix - - n - - smtp -o smtp_address_verify_target=data\n"
#: Of the probes' sender.
DAYS = 30
RULES = {
    "rcpt:bad@x.example": b"550 5.1.1 no such user",
    "rcpt:later@x.example": b"450 4.2.1 come back",
    "rcpt:bad@data.example": b"550 5.1.1 no such user",
    "rcpt:badsender@y.example": b"550 5.1.1 no such sender",
}
ASKED = [
    (
        "recipient",
        "alice@example.com",
        (GOOD, BAD, LATER, GOOD),
    ),
    ("coded", "alice@example.com", (GOOD, BAD, LATER)),
    ("worded", "alice@example.com", (BAD, LATER)),
    ("lenient", "alice@example.com", (BAD,)),
    ("recipient", "alice@example.com", ("a@lost.example", "b@discarded.example")),
    ("recipient", "alice@example.com", ("good@data.example", "bad@data.example")),
    ("sender", "badsender@y.example", ("x@y.example",)),
    ("sender", "goodsender@y.example", ("x@y.example",)),
    ("sender", "", ("x@y.example",)),
    ("impatient", "alice@example.com", ("fresh@x.example",)),
]


def stamped(slots: int = 0) -> str:
    """The sender of probes, so many slots from now."""
    values = {"myorigin": "example.com", "address_verify_sender_ttl": f"{DAYS}d"}
    p = Parameters.from_mapping(values)
    return ProbeSender(p, Rewriter(p)).address(time.time() + slots * DAYS * 86400).decode()


LASTING = "double-bounce@example.com"
SENDERS = (
    LASTING,
    "Double-Bounce@EXAMPLE.com",
    "double-bounce",
    "double-bounce@x.example",
    "bob@example.com",
)
STAMPED = (*SENDERS, stamped(), stamped(1), stamped(-1), stamped(2), stamped(-2), stamped().lower())
ASKED += [
    ("closed", "", STAMPED),
    ("closed", stamped(), (stamped(), BAD)),
    ("closed", LASTING, (stamped(),)),
    ("closed for good", "", STAMPED),
    ("closed to nobody", "", STAMPED),
]


def main_cf(port: int) -> dict[str, str]:
    return {
        "mynetworks": "127.0.0.0/8",
        "myorigin": "example.com",
        "relayhost": f"[127.0.0.1]:{port}",
        "smtpd_relay_restrictions": "permit_mynetworks, reject",
        "smtpd_delay_reject": "yes",
        "address_verify_poll_delay": "1s",
        "address_verify_sender_ttl": f"{DAYS}d",
        "transport_maps": "inline:{ {lost.example=error:5.7.3 get lost}, discarded.example=discard:, "
        f"{{data.example=data:[127.0.0.1]:{port}}} }}",
        "smtpd_error_sleep_time": "0s",
        "notify_classes": "",
        "smtp_connection_cache_on_demand": "no",
    }


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        running.rules = RULES
        yield running


@pytest.fixture(scope="module")
def postfix(upstream: Upstream) -> Iterator[Postfix]:
    with Postfix(main_cf(upstream.port), SERVICES, master_extra=DATA) as running:
        yield running


@pytest.fixture(scope="module")
def mtad(upstream: Upstream) -> Iterator[Mtad]:
    with Mtad(main_cf(upstream.port), SERVICES, master_extra=DATA) as running:
        yield running


def replies(side: Postfix | Mtad, service: str, sender: str, recipients: tuple[str, ...]) -> list[str]:
    with smtplib.SMTP("127.0.0.1", side.ports[service], timeout=60) as client:
        client.ehlo("client.example")
        said = [client.mail(sender), *(client.rcpt(recipient) for recipient in recipients)]
    return [f"{code} {text.decode()}" for code, text in said]


@pytest.mark.parametrize(("service", "sender", "recipients"), ASKED)
def test_replies(
    postfix: Postfix, mtad: Mtad, service: str, sender: str, recipients: tuple[str, ...]
) -> None:
    assert replies(mtad, service, sender, recipients) == replies(postfix, service, sender, recipients)


def test_the_next_hop_hears_the_same(postfix: Postfix, mtad: Mtad, upstream: Upstream) -> None:
    heard: list[list[bytes]] = []
    for side in (postfix, mtad):
        before = len(upstream.sessions)
        replies(side, "recipient", "alice@example.com", ("another@x.example",))
        (session,) = [one for one in upstream.sessions[before:] if b"another@" in b"".join(one.lines)]
        heard.append([line for line in session.lines if line != b"QUIT"])
    assert [b" ".join(line.split()[:2]) for line in heard[1]] == [
        b" ".join(line.split()[:2]) for line in heard[0]
    ]
    assert heard[0][1].startswith(f"MAIL FROM:<{stamped()}>".encode())
    assert heard[0][-1] == b"RSET"


def test_what_was_found_is_kept_and_nothing_is_queued(mtad: Mtad) -> None:
    answers = replies(mtad, "coded", "alice@example.com", (BAD,))
    probes = mtad.log().count("to=<bad@x.example>, relay=")
    assert mtad.command("reload").returncode == 0
    assert replies(mtad, "coded", "alice@example.com", (BAD,)) == answers
    assert mtad.log().count("to=<bad@x.example>, relay=") == probes
    assert "Mail queue is empty" in mtad.command("postqueue", "-p").stdout


def test_probes_may_go_on_to_data(postfix: Postfix, mtad: Mtad) -> None:
    words = "dsn=2.0.0, status=deliverable (354 Go on)"
    for side in (postfix, mtad):
        line = next(line for line in side.log().splitlines() if "to=<good@data.example>" in line)
        assert line.endswith(words)
