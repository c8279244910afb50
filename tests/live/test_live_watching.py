"""debug_peer_list and mtad_trace_clients: what the log has of clients that are looked at."""

from __future__ import annotations

import base64
import re
import socket

from live.daemon import Mtad, wait_until

SERVICES = (
    ("plain", {}),
    ("traced", {"mtad_trace_clients": "192.0.2.0/24, 127.0.0.0/8"}),
    ("debugged", {"debug_peer_list": "127.0.0.1", "debug_peer_level": "1"}),
    ("both", {"debug_peer_list": "127.0.0.1"}),
    ("others", {"debug_peer_list": "192.0.2.1", "mtad_trace_clients": "192.0.2.1"}),
)
TABLE = "inline:{{bob@example.com=REJECT not him}}"
MAIN = {
    "smtpd_peername_lookup": "no",
    "smtpd_recipient_restrictions": f"check_recipient_access {TABLE}, strict",
    "smtpd_restriction_classes": "strict",
    "strict": "permit_mynetworks, reject",
    "smtpd_sasl_auth_enable": "yes",
    "cyrus_sasl_config_path": "{dir}/sasl",
}
FILES = {"sasl/smtpd.conf": "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nmech_list: PLAIN LOGIN\n"}
SECRET = base64.b64encode(b"\0alice\0secret").decode()
LINES = (
    "EHLO c.example",
    f"AUTH PLAIN {SECRET}",
    "AUTH LOGIN",
    "c2VjcmV0LXVzZXI=",
    "*",
    f"AUTH {SECRET} x y",
    "MAIL FROM:<a@example.com>",
    "RCPT TO:<bob@example.com>",
    "RCPT TO:<carol@example.com>",
    "NOOP",
    "QUIT",
)


def lines_of(mtad: Mtad, service: str) -> list[str]:
    """What a dialogue with that service leaves in the log."""
    before = len(mtad.log())
    with socket.create_connection(("127.0.0.1", mtad.ports[service]), timeout=60) as client:
        client.recv(1000)
        for line in LINES:
            client.sendall(line.encode() + b"\r\n")
            client.recv(4000)
    wait_until(lambda: "disconnect from" in mtad.log()[before:], "the end of the session")
    return re.findall(r"/smtpd\[\d+\]: (.*)", mtad.log()[before:])


def test_what_is_logged() -> None:
    trace = [
        "trace: RCPT from unknown[127.0.0.1]: smtpd_recipient_restrictions: check_recipient_access "
        f"{TABLE}: {TABLE} has bob@example.com = REJECT not him: "
        "554 5.7.1 <bob@example.com>: Recipient address rejected: not him; "
        "from=<a@example.com> to=<bob@example.com> proto=ESMTP helo=<c.example>",
        "trace: RCPT from unknown[127.0.0.1]: strict: permit_mynetworks: OK; "
        "from=<a@example.com> to=<carol@example.com> proto=ESMTP helo=<c.example>",
        "trace: RCPT from unknown[127.0.0.1]: smtpd_recipient_restrictions: strict: OK; "
        "from=<a@example.com> to=<carol@example.com> proto=ESMTP helo=<c.example>",
    ]
    with Mtad(MAIN, SERVICES, FILES) as mtad:
        wait_until(lambda: mtad.log().count("]: disconnect from") == len(SERVICES), "the ports were tried")
        plain = lines_of(mtad, "plain")
        assert not any(line.startswith(("<", ">")) or " trace: " in line for line in plain)
        assert len(lines_of(mtad, "others")) == len(plain)
        traced = lines_of(mtad, "traced")
        assert [line for line in traced if line.removeprefix("NOQUEUE: ") in trace] == [
            f"NOQUEUE: {line}" for line in trace
        ]
        debugged = lines_of(mtad, "debugged")
        assert not any(" trace: " in line for line in debugged)
        said = [line.partition(": ")[2] for line in debugged if line.startswith("< ")]
        assert said == [
            "EHLO c.example",
            "AUTH PLAIN (response)",
            "AUTH LOGIN",
            "(response)",
            "*",
            "AUTH (something)",
            "MAIL FROM:<a@example.com>",
            "RCPT TO:<bob@example.com>",
            "RCPT TO:<carol@example.com>",
            "NOOP",
            "QUIT",
        ]
        replied = [line.partition(": ")[2] for line in debugged if line.startswith("> ")]
        assert replied[0].startswith("220 ") and replied[-1] == "221 2.0.0 Bye"
        assert "554 5.7.1 <bob@example.com>: Recipient address rejected: not him" in replied
        assert "250-PIPELINING" in replied
        both = lines_of(mtad, "both")
        assert any(" trace: " in line for line in both) and any(line.startswith("< ") for line in both)
        log = mtad.log()
    assert SECRET not in log and "c2VjcmV0LXVzZXI=" not in log
