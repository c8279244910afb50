"""smtpd_client_*_limit, without a client."""

from __future__ import annotations

import pytest
from policy_support import BASE, drive

from mtad.config.parameters import Parameters
from mtad.maillog import ListSink, MailLog
from mtad.policy.anvil import Anvil
from mtad.policy.client_limits import ClientCounts, ClientLimits, client_range
from mtad.policy.request import Request
from mtad.wire.reply import Reply


@pytest.mark.parametrize(
    ("address", "ipv4", "ipv6", "expected"),
    [
        ("192.0.2.77", 32, 84, "192.0.2.77"),
        ("192.0.2.77", 28, 84, "192.0.2.64/28"),
        ("192.0.2.77", 0, 84, "0.0.0.0/0"),
        ("2001:db8:1:2:3:4:5:6", 32, 84, "2001:db8:1:2:3::/84"),
        ("2001:db8:1:2:3:4:5:6", 32, 128, "2001:db8:1:2:3:4:5:6"),
        ("fe80::1%eth0", 32, 64, "fe80::/64"),
        ("unknown", 32, 84, "unknown"),
    ],
)
def test_range(address: str, ipv4: int, ipv6: int, expected: str) -> None:
    assert client_range(address, ipv4, ipv6) == expected


class Bench:
    def __init__(self, **settings: str) -> None:
        self.sink = ListSink()
        p = Parameters.from_mapping({**BASE, "smtpd_client_connection_count_limit": "0", **settings})
        self.anvil = Anvil(pairs=64, sessions=512)
        self.limits = ClientLimits(p, "submission", self.anvil, MailLog(self.sink, "postfix/smtpd"))

    def client(self, address: str = "192.0.2.9", name: str = "c.example.net") -> ClientCounts | None:
        request = Request(name, address)
        return drive(self.limits.of(request, request.client))  # type: ignore[no-any-return]

    def counted(self, address: str = "192.0.2.9") -> ClientCounts:
        counts = self.client(address)
        assert counts is not None
        return counts

    @property
    def log(self) -> list[str]:
        return [text for _, _, text in self.sink.lines]


def test_nobody_is_counted_without_limits() -> None:
    assert Bench().client() is None


def test_exceptions() -> None:
    bench = Bench(smtpd_client_message_rate_limit="1", smtpd_authorized_xclient_hosts="192.0.2.1")
    assert bench.client("10.1.2.3") is None  # mynetworks
    assert bench.client("192.0.2.1") is None
    assert bench.client() is not None
    bench = Bench(smtpd_client_message_rate_limit="1", smtpd_client_event_limit_exceptions="c.example.net")
    assert bench.client() is None


def test_a_broken_list_spares_nobody() -> None:
    bench = Bench(smtpd_client_message_rate_limit="1", smtpd_client_event_limit_exceptions="192.0.2.1/24")
    assert bench.client() is not None
    assert any("192.0.2.1/24" in line for line in bench.log)


def test_sessions_at_once() -> None:
    bench = Bench(smtpd_client_connection_count_limit="1")
    first, second, third = (bench.counted() for _ in range(3))
    assert first.connect() is None
    refusal = Reply(421, b"mx.example.com Error: too many connections from 192.0.2.9", b"4.7.0")
    assert second.connect() == refusal
    second.disconnect()
    first.disconnect()
    first.disconnect()
    assert third.connect() is None
    assert bench.log == [
        "warning: Connection concurrency limit exceeded: 2 from "
        "c.example.net[192.0.2.9] for service submission"
    ]


def test_networks_share_their_counts() -> None:
    bench = Bench(smtpd_client_recipient_rate_limit="1", smtpd_client_ipv4_prefix_length="24")
    assert bench.counted("192.0.2.9").recipient() is None
    assert bench.counted("192.0.3.9").recipient() is None
    refusal = bench.counted("192.0.2.8").recipient()
    assert refusal == Reply(450, b"Error: too many recipients from 192.0.2.8", b"4.7.1")


def test_without_room_everyone_may_come() -> None:
    bench = Bench(smtpd_client_connection_count_limit="1")
    others = [bench.anvil.connect(str(number), 60) for number in range(600)]
    assert None in others
    counts = [bench.counted() for _ in range(2)]
    assert [each.connect() for each in counts] == [None, None]
    for each in counts:
        each.disconnect()


def test_what_is_refused_early_counts_nothing() -> None:
    bench = Bench(smtpd_client_message_rate_limit="1", smtpd_client_auth_rate_limit="1")
    counts = bench.counted()
    early = [
        (b"MAIL", Reply(503, b"Error: nested MAIL command", b"5.5.1")),
        (b"MAIL", Reply(501, b"Syntax: MAIL FROM:<address>", b"5.5.4")),
        (b"AUTH", Reply(530, b"Must issue a STARTTLS command first", b"5.7.0")),
        (b"NOOP", Reply(501, b"Syntax: NOOP")),
    ]
    assert [counts.refused(*each) for each in early * 2] == [None] * 8
    late = (b"MAIL", Reply(501, b"Bad sender address syntax", b"5.1.7"))
    assert counts.refused(*late) is None
    assert str(counts.refused(*late)) == "450 4.7.1 Error: too much mail from 192.0.2.9"
    again = (b"AUTH", Reply(503, b"Error: already authenticated", b"5.5.1"))
    assert counts.refused(*again) is None
    assert str(counts.refused(*again)) == "450 4.7.1 Error: too many AUTH commands from 192.0.2.9"
