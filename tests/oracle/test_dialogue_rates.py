"""How often clients may come: the limits of anvil(8), in words and numbers.

Each service begins with the connection by which its port was tried; the time unit is longer than the test,
so that nothing depends on the clock.  The dialogues of a service build upon each other.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest
from live.daemon import wait_until
from oracle.dialogue import (
    HELLO,
    MAIL,
    RCPT,
    START,
    TEXT,
    Body,
    Config,
    Dialogue,
    End,
    House,
    Send,
    Tls,
    plain,
)

SASL = {"smtpd_sasl_auth_enable": "yes", "smtpd_sasl_path": "smtpd", "cyrus_sasl_config_path": "{dir}/sasl"}
TLS = {"smtpd_tls_security_level": "may", "smtpd_client_new_tls_session_rate_limit": "2"}

CONFIG = Config(
    "rates",
    {
        "smtpd_client_event_limit_exceptions": "",
        "smtpd_relay_restrictions": "permit_mynetworks, reject",
        "anvil_rate_time_unit": "1h",
        "anvil_status_update_time": "1s",
        "tls_ssl_options": "no_ticket",
    },
    services=(
        ("connections", {"smtpd_client_connection_rate_limit": "2"}),
        ("sessions", {"smtpd_client_connection_count_limit": "1"}),
        ("messages", {"smtpd_client_message_rate_limit": "3"}),
        ("recipients", {"smtpd_client_recipient_rate_limit": "4"}),
        ("refused", {"smtpd_client_recipient_rate_limit": "2", "strict_rfc821_envelopes": "yes"}),
        ("no VRFY", {"smtpd_client_recipient_rate_limit": "1", "disable_vrfy_command": "yes"}),
        ("auth", {**SASL, "smtpd_client_auth_rate_limit": "3"}),
        ("tls", TLS),
        ("wrapper", {**TLS, "smtpd_tls_wrappermode": "yes"}),
        (
            "spared",
            {
                "smtpd_client_event_limit_exceptions": "$mynetworks",
                "smtpd_client_message_rate_limit": "1",
                "smtpd_client_connection_rate_limit": "1",
            },
        ),
        (
            "statistics",
            {
                **SASL,
                "smtpd_client_message_rate_limit": "100",
                "smtpd_client_recipient_rate_limit": "100",
                "smtpd_client_auth_rate_limit": "100",
            },
        ),
    ),
    users={"alice@example.com": "secret"},
)

LOGIN = plain("alice@example.com", "secret")
LOGGED = "sasl_method=PLAIN, sasl_username=alice@example.com"

DIALOGUES = [
    Dialogue("the second connection", [HELLO, MAIL], service="connections"),
    Dialogue("the third connection", [End()], service="connections"),
    Dialogue("the fourth connection", [End()], service="connections"),
    Dialogue("two messages", [*START, Body(TEXT), MAIL, RCPT, "DATA", Body(TEXT)], service="messages"),
    Dialogue("no syntax, no message", ["MAIL", HELLO, "MAIL", "MAIL FROM:", "RSET"], service="messages"),
    Dialogue("bad address, one more", [HELLO, "MAIL FROM:<a@b", MAIL, RCPT, "RSET"], service="messages"),
    Dialogue(
        "too much mail",
        [HELLO, MAIL, RCPT, "MAIL FROM:<a@b", "MAIL FROM:<x@y> FOO=BAR", "MAIL"],
        service="messages",
    ),
    Dialogue("in one go", [HELLO, Send(b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n", 3)], service="messages"),
    Dialogue(
        "recipients",
        [HELLO, "RCPT TO:<x@y>", MAIL, RCPT, "RCPT TO:<a@b", "RCPT", "VRFY bob@example.net", RCPT, RCPT],
        service="recipients",
    ),
    Dialogue(
        "VRFY and too many", [HELLO, "VRFY bob@example.net", "VRFY", MAIL, RCPT, "DATA"], service="recipients"
    ),
    Dialogue(
        "bad addresses count",
        [HELLO, "VRFY <a@b", "VRFY a b", MAIL, "RCPT TO:<a@b", "RCPT TO: <c@d>", "RCPT TO:<e@f> X=Y", RCPT],
        service="refused",
    ),
    Dialogue(
        "what is disabled does not", [HELLO, "VRFY a@b", "VRFY", "VRFY c@d", MAIL, RCPT], service="no VRFY"
    ),
    Dialogue(
        "logins",
        [HELLO, "AUTH", "AUTH NONE", LOGIN, LOGIN, MAIL, RCPT, "RSET"],
        service="auth",
        login=LOGGED,
    ),
    Dialogue("a login too many", [HELLO, LOGIN, "AUTH PLAIN", "AUTH"], service="auth"),
    Dialogue("the first handshake", ["STARTTLS", Tls(), HELLO], service="tls"),
    Dialogue("the second handshake", ["STARTTLS", Tls(), HELLO], service="tls"),
    Dialogue("the third handshake", ["STARTTLS", Tls(), End()], service="tls"),
    Dialogue("the fourth handshake", ["STARTTLS", "STARTTLS", HELLO, MAIL], service="tls"),
    Dialogue("spared", [HELLO, MAIL, "RSET", MAIL, "RSET", MAIL], service="spared"),
    Dialogue("TLS at once", [HELLO], service="wrapper", wrapper=True),
    Dialogue("TLS at once, too often", [End()], service="wrapper", wrapper=True),
]


@pytest.fixture(scope="module")
def house(certificate: tuple[str, str]) -> Iterator[House]:
    with House(CONFIG, certificate) as house:
        yield house


@pytest.mark.parametrize("dialogue", DIALOGUES, ids=lambda dialogue: f"{dialogue.service}: {dialogue.name}")
def test_dialogue(house: House, dialogue: Dialogue) -> None:
    house.compare(dialogue)


def test_two_at_once(house: House) -> None:
    held = []
    for side in house.sides:
        client = socket.create_connection(("127.0.0.1", side.ports["sessions"]), timeout=60)
        assert client.recv(1000).startswith(b"220 ")
        held.append(client)
    house.compare(Dialogue("one too many", [End()], service="sessions"))
    for side, client in zip(house.sides, held, strict=True):
        ends = side.log().count("]: disconnect from ")
        client.close()
        wait_until(lambda side=side, ends=ends: side.log().count("]: disconnect from ") > ends, "its end")
    house.compare(Dialogue("one again", [HELLO], service="sessions"))


PEAK = re.compile(
    r"/anvil\[\d+\]: statistics: max (.*?) (\d+(?:/\d+s)?) for \(127\.0\.0\.1:(\d+):(.*)\) at (.*)"
)


def peaks(house: House, log: str, port: int) -> dict[str, tuple[int, str, str]]:
    """The largest rate of each kind of command that was logged for a service."""
    found: dict[str, tuple[int, str, str]] = {}
    for what, value, at, client, when in PEAK.findall(log):
        if int(at) == port and what.partition(" ")[0] != "connection":
            assert re.fullmatch(r"\w{3} [ \d]\d \d\d:\d\d:\d\d", when)
            number, slash, unit = value.partition("/")
            found[what] = max(found.get(what, (0, "", "")), (int(number), slash + unit, client))
    return found


def test_statistics(house: House) -> None:
    wanted = {
        "message rate": (11, "/3600s", "127.0.0.1"),
        "recipient rate": (12, "/3600s", "127.0.0.1"),
        "auth rate": (9, "/3600s", "127.0.0.1"),
    }
    # more than anywhere else
    steps = [HELLO, *[LOGIN] * 9, *[MAIL, "RSET"] * 10, MAIL, *[RCPT] * 12, "RSET"]
    house.compare(Dialogue("counted", steps, service="statistics", login=LOGGED))
    for side in house.sides:
        port = side.ports["statistics"]
        wait_until(
            lambda side=side, port=port: peaks(house, side.log(), port) == wanted,
            lambda side=side, port=port: f"the statistics, not {peaks(house, side.log(), port)}",
        )
        wait_until(lambda side=side: "statistics: max cache size" in side.log(), "the size")
