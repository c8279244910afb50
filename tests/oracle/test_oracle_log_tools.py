"""Log tools read mtad's log and find what they find in Postfix's log of the same traffic.

fail2ban's ``postfix`` filter in each of its modes (how often each of its expressions matches), pflogsumm and
logwatch (their reports, line by line).  Both logs are given the same times, sizes and delays first.  What
later releases log otherwise (:data:`oracle.dialogue.DIFFERENCES`) is rewritten in Postfix's log where these
tools see it; they are older than ``tls=`` in delivery lines, which a parameter turns off.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

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
    End,
    Hang,
    House,
    Send,
    at,
    plain,
)

REJECTS = "check_recipient_access texthash:{dir}/rejects, reject_unauth_destination"
LOGS = Config(
    "logs",
    {
        "smtpd_sasl_auth_enable": "yes",
        "smtpd_sasl_local_domain": "example.com",
        "smtpd_relay_restrictions": "permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination",
        "message_size_limit": "3000",
        "smtp_log_tls_feature_status": "no",
    },
    services=(
        ("submission", {}),
        ("strangers", {"mynetworks": "192.0.2.0/24", "smtpd_recipient_restrictions": REJECTS}),
        ("restricted", {"smtpd_recipient_restrictions": f"{REJECTS}, permit"}),
        (
            "helo",
            {
                "smtpd_helo_restrictions": "reject_invalid_helo_hostname, reject_non_fqdn_helo_hostname",
                "smtpd_delay_reject": "no",
            },
        ),
        ("client", {"smtpd_client_restrictions": "check_client_access texthash:{dir}/rejects"}),
        ("haste", {"smtpd_timeout": "1s", "smtpd_hard_error_limit": "3"}),
    ),
    files={
        "rejects": "127.0.0.1 REJECT Service unavailable; Client host blocked using list.example\n"
        "nobody@x.example 550 5.1.1 User unknown in local recipient table\n"
        "later@x.example 450 4.2.0 Greylisted\nquota@x.example 552 5.2.2 over quota\n",
    },
    users={"joe@example.com": "secret"},
)
TRAFFIC = [
    Dialogue("mail", [*START, Body(TEXT)], final=True),
    Dialogue("more mail", [*START[:3], "RCPT TO:<carol@example.org>", "DATA", Body(TEXT)], final=True),
    Dialogue("logged in", [HELLO, plain("joe", "secret"), MAIL, RCPT, "DATA", Body(TEXT)], final=True),
    Dialogue("bounced", [*START, Body(TEXT)], rules={"rcpt": b"550 5.1.1 no such user"}, final=True),
    Dialogue("deferred", [*START, Body(TEXT)], rules={"rcpt": b"450 4.2.0 later"}),
    Dialogue("wrong password", [HELLO, plain("joe", "x"), plain("nobody", "x"), "AUTH LOGIN", "*"]),
    Dialogue("no SMTP", ["GET / HTTP/1.0", End()]),
    Dialogue("lost after connect", [Hang()]),
    Dialogue("lost after hello", [HELLO, Hang()]),
    Dialogue("lost after login", [HELLO, plain("joe", "x"), Hang()]),
    Dialogue("lost in data", [*START, Send(b"a: b\r\n"), Hang()]),
    Dialogue("too large", [*START, Body(TEXT + ("x" * 70 + "\n") * 50)]),
    Dialogue("announced too large", [HELLO, MAIL + " SIZE=9999"]),
    Dialogue("too soon", [Send(b"EHLO x\r\nNOOP\r\n", 1), End()]),
    Dialogue("bad syntax", [HELLO, "MAIL FROM:<a b@x>", "RCPT x", "FOO", "BDAT x", End()]),
    *at(
        "strangers",
        Dialogue("relay", [HELLO, MAIL, RCPT, "RCPT TO:<x@y.example>", Hang()]),
        Dialogue("relay again", ["HELO spammer", MAIL, RCPT]),
    ),
    *at(
        "restricted",
        Dialogue("unknown", [HELLO, MAIL, "RCPT TO:<nobody@x.example>", "VRFY nobody@x.example"]),
        Dialogue("greylisted", [HELLO, MAIL, "RCPT TO:<later@x.example>"]),
        Dialogue("over quota", [HELLO, MAIL, "RCPT TO:<quota@x.example>"]),
    ),
    *at(
        "helo", Dialogue("invalid", ["EHLO <", "EHLO a..b"]), Dialogue("not full", ["EHLO spam", "HELO spam"])
    ),
    *at("client", Dialogue("blocked", [HELLO, MAIL, RCPT, Hang()])),
    *at(
        "haste",
        Dialogue("too many errors", [HELLO, "FOO", "FOO", "FOO", End()]),
        Dialogue("time-out", [HELLO, MAIL, RCPT, Send(b"", 1), End()], slow=True),
    ),
]

MASKS = (
    (r"(?m)^\w{3} [ \d]\d [\d:]{8}", "Nov 22 10:00:00"),
    (r"(?m)^.*warning: mail_stream_cleanup: close error\n", ""),  # at the limit of a queue file's size
    (r"\bsize=\d+", "size=1000"),
    (r"delay=[\d.]+, delays=[\d./]+", "delay=1, delays=0/0/0/1"),
    (r"(/smtpd\[\d+\]: )((?:lost connection|timeout|too many errors) after )", r"\1NOQUEUE: \2"),  # 3.10
)


@pytest.fixture(scope="module")
def logs(certificate: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """The maillogs of both, by program."""
    with House(LOGS, certificate) as house:
        starts = {side: len(side.log()) for side in house.sides}
        for dialogue in TRAFFIC:
            house.compare(dataclasses.replace(dialogue, tls=""))
        directory = tmp_path_factory.mktemp("logs")
        found = {}
        for side, name in zip(house.sides, ("Postfix", "mtad"), strict=True):
            text = side.log()[starts[side] :].replace(str(side.root), "/DIR")
            for pattern, substitute in MASKS:
                text = re.sub(pattern, substitute, text)
            found[name] = directory / name
            found[name].write_text(text)
        yield found


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr or done.stdout
    return done.stdout


#: The modes of the filter; whether there is something for it.
MODES = {
    "normal": True, "auth": True, "ddos": True, "extra": True, "aggressive": True, "more": True, "rbl": False,
    "errors": False,
}  # fmt: skip


@pytest.mark.skipif(shutil.which("fail2ban-regex") is None, reason="needs fail2ban")
@pytest.mark.parametrize(("mode", "some"), MODES.items())
def test_fail2ban(logs: dict[str, Path], mode: str, some: bool) -> None:
    found = {}
    for name, path in logs.items():
        report = _run("fail2ban-regex", str(path), f"postfix[mode={mode}]", "--print-all-matched")
        found[name] = [
            re.sub(r"\[\d+\]: (\w+: )?", "[]: ", line) for line in re.findall(r"(?m)^\|  (Nov .*)", report)
        ]
        assert f"{len(found[name])} matched" in report
    assert found["mtad"] == found["Postfix"]
    assert bool(found["mtad"]) == some


@pytest.mark.skipif(shutil.which("pflogsumm") is None, reason="needs pflogsumm")
def test_pflogsumm(logs: dict[str, Path]) -> None:
    postfix, mtad = (_report(_run("pflogsumm", str(path))) for path in logs.values())
    assert mtad == postfix
    assert "4 delivered" in mtad


LOGWATCH = "/usr/share/logwatch/scripts/services/postfix"


@pytest.mark.skipif(not Path(LOGWATCH).exists(), reason="needs logwatch")
def test_logwatch(logs: dict[str, Path]) -> None:
    library = "-I/usr/share/logwatch/lib"
    postfix, mtad = (
        _report(_run("perl", library, LOGWATCH, "--detail", "10", str(path))) for path in logs.values()
    )
    assert mtad == postfix
    assert any(line.startswith("4 Sent via SMTP") for line in mtad)


def _report(text: str) -> list[str]:
    """Its lines, as far as they are about what it understood."""
    text = re.sub(r"\b[0-9A-F]{10,12}\b", "ID", text).partition("**Unmatched Entries**")[0]
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]
