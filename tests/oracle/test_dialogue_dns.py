"""The running daemon and its own resolver, beside Postfix, with a name server of the test.

Clients come from addresses that the name server has names for, or not.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator, Sequence

import pytest
from oracle.dialogue import (
    MAIL,
    RCPT,
    TEXT,
    Body,
    Config,
    Dialogue,
    Houses,
    Step,
    at,
    each,
)
from oracle.names import Names

ZONE = """
192.0.2.9               PTR   client.example.net
client.example.net      A     192.0.2.9
192.0.2.10              PTR   forged.example.net
forged.example.net      A     192.0.2.99
192.0.2.11              PTR   nowhere.example.net
198.51.100.1            SERVFAIL
198.51.100.2            PTR   broken.example.net
broken.example.net      SERVFAIL
2.100.51.198.bl.example A     127.0.0.2
9.2.0.192.bl.example    A     127.0.0.3
9.2.0.192.bl.example    TXT   "because of this"
client.example.net.rhs.example A 127.0.0.2
good.example            MX    10 mx.good.example
good.example            NS    ns.good.example
mx.good.example         A     192.0.2.25
ns.good.example         A     192.0.2.53
large.example           MX    10 mx.good.example
large.example           TRUNCATED
null.example            MX    0 .
failing.example         SERVFAIL
silent.example          SILENT
refused.example         REFUSED
garbage.example         GARBAGE MX
alias.example           CNAME good.example
loop.example            CNAME loop2.example
loop2.example           CNAME loop.example
"""

LOCAL = "RCPT TO:<r@local.example>"


def hello(name: str = "client.example.net") -> str:
    return f"EHLO {name}"


def mail(sender: str = "s@good.example") -> str:
    return f"MAIL FROM:<{sender}>"


def rcpt(domain: str) -> str:
    return f"RCPT TO:<r@{domain}>"


def talk(name: str, *steps: Step, source: str = "192.0.2.9", **more: object) -> Dialogue:
    return Dialogue(name, steps, source=source, **more)  # type: ignore[arg-type]


def domains(*found: str) -> list[Dialogue]:
    """A session each about sender and recipient in a domain."""
    return [
        talk(
            domain,
            hello(),
            mail(f"s@{domain}"),
            rcpt("good.example"),
            rcpt(domain),
            "RSET",
            mail(),
            rcpt(domain),
        )
        for domain in found
    ]


SERVERS = "inline:{ {192.0.2.25=REJECT bad mail server} {ns.good.example=450 4.7.1 bad name server} }"
MAIN = {
    "mynetworks": "127.0.0.0/8",
    "mydestination": "local.example",
    "local_recipient_maps": "",
    "smtpd_relay_restrictions": "",
    "smtpd_recipient_restrictions": "check_sender_access static:DUNNO, permit_mynetworks, "
    "check_client_access static:OK, reject",
}
CONFIG = Config(
    "dns",
    MAIN,
    services=(
        ("submission", {}),
        ("client", {"smtpd_client_restrictions": "reject_unknown_client_hostname"}),
        ("reverse", {"smtpd_client_restrictions": "reject_unknown_reverse_client_hostname"}),
        ("at once", {"smtpd_client_restrictions": "reject_unknown_client_hostname",
                     "smtpd_delay_reject": "no"}),
        ("helo", {"smtpd_helo_restrictions": "reject_unknown_helo_hostname", "smtpd_delay_reject": "no"}),
        ("domains", {"smtpd_sender_restrictions": "reject_unknown_sender_domain",
                     "smtpd_recipient_restrictions": "reject_unknown_recipient_domain, permit_mynetworks, "
                                                     "check_client_access static:OK, reject"}),
        ("servers", {"smtpd_sender_restrictions": f"check_sender_mx_access {SERVERS}",
                     "smtpd_client_restrictions": f"check_client_ns_access {SERVERS}"}),
        ("rbl", {"smtpd_client_restrictions": "reject_rbl_client bl.example=127.0.0.3, "
                                              "reject_rhsbl_reverse_client rhs.example"}),
        ("rbl footer", {"smtpd_client_restrictions": "reject_rbl_client bl.example",
                        "smtpd_reject_footer": "\\c; ask $client_address at $server_name"}),
        ("white", {"smtpd_client_restrictions": "permit_dnswl_client bl.example, reject"}),
        ("filter", {"smtpd_dns_reply_filter": "regexp:{dir}/filter",
                    "smtpd_sender_restrictions": "reject_unknown_sender_domain"}),
    ),
    files={"filter": "/ IN MX 10 mx.good/ IGNORE\n"},
)  # fmt: skip

SOURCES = ("192.0.2.9", "192.0.2.10", "192.0.2.11", "192.0.2.12", "198.51.100.1", "198.51.100.2")


def from_each(*steps: Step, final: bool = False) -> list[Dialogue]:
    return [talk(source, *steps, source=source, final=final) for source in SOURCES]


CASES: dict[Config, Sequence[Dialogue]] = {
    CONFIG: [
        *from_each(hello(), mail(), LOCAL, "RSET"),
        talk("delivered", hello(), MAIL, RCPT, "DATA", Body(TEXT), final=True),
        *at("client", *from_each(hello(), mail(), LOCAL, LOCAL)),
        *at("reverse", *from_each(hello(), mail(), LOCAL)),
        *at("at once", *from_each(hello(), mail(), LOCAL)),
        *at("helo", *(talk(n, hello(n), mail(), LOCAL) for n in (
            "client.example.net", "nowhere.example.net", "failing.example", "good.example", "[192.0.2.1]",
            "alias.example", "large.example"))),
        *at("domains", *domains("good.example", "null.example", "failing.example", "nowhere.example",
                                "refused.example", "large.example", "alias.example", "loop.example")),
        *at("servers", talk("good", hello(), mail(), LOCAL), talk("none", hello(), mail("s@null.example"),
            LOCAL), talk("failing", hello(), mail("s@failing.example"), LOCAL)),
        *at("rbl", *from_each(hello(), mail(), LOCAL, LOCAL)),
        *at("rbl footer", talk("listed", hello(), mail(), LOCAL)),
        *at("white", *from_each(hello(), mail(), LOCAL)),
        *at("filter", talk("good", hello(), mail(), LOCAL)),
    ]
}  # fmt: skip


@pytest.fixture(scope="module")
def houses(certificate: tuple[str, str]) -> Iterator[Houses]:
    with Names(ZONE), Houses(certificate) as houses:
        yield houses


@each(CASES)
def test_same(houses: Houses, config: Config, dialogue: Dialogue) -> None:
    houses.of(config).compare(dialogue)


def test_a_silent_name_server_holds_up_nobody_else(houses: Houses) -> None:
    port = houses.of(CONFIG).mtad.ports["domains"]
    with _Talk(port) as waiting:
        waiting.say(hello(), mail("s@silent.example"))
        waiting.send(LOCAL)
        begun = time.monotonic()
        for _ in range(8):  # all workers are asked
            with _Talk(port) as other:
                assert other.say(hello(), mail(), rcpt("good.example"))[-1].startswith("250")
        assert not waiting.has_answer()
        assert waiting.hear() == ("450 4.1.8 <s@silent.example>: Sender address rejected: Domain not found")
        assert time.monotonic() - begun > 0.9


class _Talk:
    """A session with mtad."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 20, ("192.0.2.9", 0))
        self._file = self._socket.makefile("rb")
        self.hear()

    def __enter__(self) -> _Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def send(self, line: str) -> None:
        self._socket.sendall(line.encode() + b"\r\n")

    def hear(self) -> str:
        while True:
            line = self._file.readline().decode().rstrip("\r\n")
            if line[3:4] != "-":
                return line

    def say(self, *lines: str) -> list[str]:
        replies = []
        for line in lines:
            self.send(line)
            replies.append(self.hear())
        return replies

    def has_answer(self) -> bool:
        return bool(select.select([self._socket], [], [], 0)[0])
