"""A policy service of the operator's, asked by Postfix and by mtad: the same questions, the same outcomes.

Which side has asked is told by ``server_port``.  What the installed Postfix does not send yet is in
:data:`LATER`.
"""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pytest
from oracle.dialogue import (
    HELLO,
    MAIL,
    RCPT,
    START,
    TEXT,
    Body,
    Config,
    Dialogue,
    House,
    Send,
    Tls,
    plain,
)
from oracle.postfix import free_port

from mtad import POSTFIX_VERSION

Request = dict[str, str]

#: Attributes that releases after the installed one (3.8) send besides.
LATER = {"compatibility_level": "3.6", "mail_version": POSTFIX_VERSION}

#: What the server says, by the local part of the recipient; HANG UP and the like are deeds.
ANSWERS: Mapping[str, bytes] = {
    "reject": b"action=REJECT not you\n\n",
    "number": b"action=450 4.7.7 later\n\n",
    "ok": b"action=OK\n\n",
    "permit": b"action=permit\n\n",
    "lower": b"action=dunno with a text\n\n",
    "defer": b"action=DEFER_IF_PERMIT wait for it\n\n",
    "prepend": b"action=PREPEND X-Policy: seen\n\n",
    "hold": b"action=HOLD for a look\n\n",
    "class": b"action=check_recipient_access inline:{{class@example.net=REJECT by_class}}\n\n",
    "unknown": b"action=frobnicate\n\n",
    "empty": b"action=\n\n",
    "more": b"comment=first\naction=REJECT one\naction=REJECT two\nrest\n\n",
    "none": b"comment=nothing else\n\n",
    "bare": b"action\n\n",
    "latin": b"action=REJECT caf\xe9\n\n",
    "partial": b"action=REJECT and no end\n",
    "nothing": b"",
    "slow": b"",
    "trailing": b"action=REJECT extra\n\nmore\n",
}


#: Those that come to nothing, to be tried once only (but for one: :data:`ANSWERS` has "none", too).
TROUBLE = ("bare", "partial", "nothing", "slow")


@dataclass
class PolicyServer:
    """Answers on a TCP port, and notes what it was asked, and how many connections there were."""

    requests: list[Request] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                outer.connections += 1
                with contextlib.suppress(OSError):
                    while outer.answer(self):
                        pass

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, stream: socketserver.StreamRequestHandler) -> bool:
        """Answer one request; False: the end."""
        lines = []
        while (line := stream.rfile.readline()) not in (b"", b"\n"):
            lines.append(line.rstrip(b"\n").decode("latin-1"))
        if not lines:
            return False
        request = dict(line.split("=", 1) for line in lines)
        assert len(request) == len(lines)
        self.requests.append(request)
        name = request["recipient"].partition("@")[0]
        if name == "slow":
            stream.rfile.readline()  # until the other side has had enough
        said = ANSWERS.get(name, b"action=DUNNO\n\n")
        stream.wfile.write(said)
        return said.endswith(b"\n\n")

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


SASL = {"smtpd_sasl_auth_enable": "yes", "smtpd_sasl_path": "smtpd", "cyrus_sasl_config_path": "{dir}/sasl"}


def services(server: PolicyServer, dead: int) -> list[tuple[str, dict[str, str]]]:
    ask = f"check_policy_service inet:127.0.0.1:{server.port}"

    def braces(options: str, endpoint: str = f"inet:127.0.0.1:{server.port}") -> str:
        return f"check_policy_service {{ {endpoint}, {options} }}"

    early = {
        f"smtpd_{stage}_restrictions": ask
        for stage in ("client", "helo", "sender", "recipient", "data", "end_of_data", "etrn")
    }
    lost = f"inet:127.0.0.1:{dead}"
    return [
        ("late", {**early}),
        ("early", {**early, "smtpd_delay_reject": "no"}),
        ("rcpt", {"smtpd_recipient_restrictions": ask, "smtpd_policy_service_retry_delay": "1s"}),
        ("once", {"smtpd_recipient_restrictions": braces("try_limit=1 timeout=1s")}),
        (
            "context",
            {
                "smtpd_client_restrictions": ask,
                "smtpd_recipient_restrictions": braces("{ policy_context = of its own }"),
                "smtpd_data_restrictions": braces("{ policy_context = with, comma }"),
                "smtpd_policy_service_policy_context": "for all",
            },
        ),
        ("named", {"smtpd_recipient_restrictions": f"check_policy_service inet:localhost:{server.port}"}),
        ("limit", {"smtpd_recipient_restrictions": ask, "smtpd_policy_service_request_limit": "1"}),
        ("tls", {**early, "smtpd_tls_security_level": "may", "smtpd_tls_ask_ccert": "yes"}),
        ("login", {**early, **SASL}),
        ("dead", {"smtpd_recipient_restrictions": braces("retry_delay=1s", lost)}),
        ("spared", {"smtpd_recipient_restrictions": braces("try_limit=1, default_action=DUNNO", lost)}),
        (
            "stated",
            {
                "smtpd_recipient_restrictions": braces(
                    "try_limit=1, { default_action = 450 4.7.9 no answer }", "unix:private/absent"
                )
            },
        ),
        (
            "nested",
            {
                "smtpd_recipient_restrictions": f"check_policy_service {lost}, reject",
                "smtpd_policy_service_try_limit": "1",
                "smtpd_policy_service_default_action": "permit_mynetworks",
            },
        ),
    ]


@pytest.fixture(scope="module")
def asked(certificate: tuple[str, str]) -> Iterator[tuple[House, PolicyServer]]:
    server = PolicyServer()
    main = {"smtpd_relay_restrictions": "permit_mynetworks, reject", "smtpd_tls_CAfile": certificate[0]}
    config = Config(
        "policy service",
        main,
        services(server, free_port()),
        users={"alice@example.com": "secret"},
    )
    try:
        with House(config, certificate) as house:
            yield house, server
    finally:
        server.close()


DIALOGUES = [
    Dialogue("a whole message", [*START, Body(TEXT)], service="late"),
    Dialogue("a whole message, asked early", [*START, Body(TEXT)], service="early"),
    Dialogue(
        "two recipients, SIZE, DSN",
        [HELLO, MAIL + " SIZE=123", RCPT, "RCPT TO:<carol@example.net>", "DATA", Body(TEXT)],
        service="early",
    ),
    Dialogue("BDAT", [HELLO, MAIL, RCPT, Send(b"BDAT 14 LAST\r\nSubject: x\r\n\r\n", 1)], service="early"),
    Dialogue("HELO", ["HELO client", "MAIL FROM:<>", 'RCPT TO:<"a b"@example.net>', "RSET"], service="late"),
    Dialogue("VRFY, ETRN", [HELLO, "VRFY bob@example.net", "ETRN example.net"], service="late"),
    Dialogue("VRFY, ETRN, early", [HELLO, "VRFY bob@example.net", "ETRN example.net"], service="early"),
    Dialogue("two messages", [*START, Body(TEXT), MAIL, RCPT, "DATA", Body(TEXT)], service="early"),
    Dialogue(
        "UTF-8", [HELLO, "MAIL FROM:<ä@example.com> SMTPUTF8", "RCPT TO:<ö@example.net>"], service="late"
    ),
    Dialogue(
        "TLS with a certificate",
        [HELLO, "STARTTLS", Tls(certificate=True), HELLO, MAIL, RCPT, "RSET"],
        service="tls",
    ),
    Dialogue("TLS without", [HELLO, "STARTTLS", Tls(), HELLO, MAIL, RCPT], service="tls"),
    Dialogue(
        "a login",
        [
            HELLO,
            plain("alice@example.com", "secret"),
            MAIL + " AUTH=a+2Bb@example.com",
            RCPT,
            "DATA",
            Body(TEXT),
        ],
        service="login",
        login="sasl_method=PLAIN, sasl_username=alice@example.com",
    ),
    Dialogue("by name", [HELLO, MAIL, RCPT, "RSET"], service="named"),
    Dialogue("contexts", [*START, Body(TEXT)], service="context"),
    Dialogue("one request a connection", [HELLO, MAIL, RCPT, RCPT, RCPT], service="limit"),
    *[
        Dialogue(
            f"the answer {name}",
            [HELLO, MAIL, f"RCPT TO:<{name}@example.net>", "RSET"],
            service="once" if name in TROUBLE else "rcpt",
        )
        for name in ANSWERS
        if name != "hold"
    ],
    Dialogue(
        "the answer hold", [HELLO, MAIL, "RCPT TO:<hold@example.net>", "DATA", Body(TEXT)], service="rcpt"
    ),
    Dialogue(
        "a prepended header",
        [HELLO, MAIL, "RCPT TO:<prepend@example.net>", "DATA", Body(TEXT)],
        service="rcpt",
    ),
    *[
        Dialogue(f"the service {name}", [HELLO, MAIL, RCPT, "RSET"], service=name)
        for name in ("dead", "spared", "stated", "nested")
    ],
]


def _masked(requests: list[Request]) -> list[Request]:
    """Without what differs by nature; an ``instance`` becomes its number."""
    instances: dict[str, str] = {"": ""}
    for request in requests:
        request["server_port"] = "PORT"
        request["client_port"] = "PORT"
        request["instance"] = instances.setdefault(request["instance"], f"I{len(instances)}")
        request["queue_id"] = "ID" if request["queue_id"] else ""
    return requests


@pytest.mark.parametrize("dialogue", DIALOGUES, ids=lambda dialogue: dialogue.name)
def test_dialogue(asked: tuple[House, PolicyServer], dialogue: Dialogue) -> None:
    house, server = asked
    server.requests.clear()
    house.compare(dialogue)
    ports = {side: str(side.ports[dialogue.service]) for side in house.sides}
    theirs, ours = (
        _masked([each for each in server.requests if each["server_port"] == ports[side]])
        for side in house.sides
    )
    assert bool(ours) == (dialogue.service not in ("dead", "spared", "stated", "nested"))
    for request in ours:
        assert {name: request.pop(name) for name in LATER} == LATER
    assert ours == [{name: value for name, value in each.items() if name not in LATER} for each in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert [name for name in other if name not in LATER] == list(one)  # in the same order
