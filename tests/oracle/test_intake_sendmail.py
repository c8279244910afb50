"""What becomes of mail from sendmail(1) on its way in, and what its sender hears if it is refused."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator

import pytest
from live.daemon import MTAD, Mtad, wait_until
from oracle.dialogue import Config, House, mask
from oracle.postfix import Postfix

CONFIG = Config(
    "sendmail",
    {
        "mydomain": "example.com",
        "canonical_maps": "inline:{alice@example.com=alice.a@example.com}",
        "virtual_alias_maps": "inline:{{list@example.net=one@example.net, two@example.net}}",
        "always_bcc": "all@example.net",
        "header_checks": "pcre:{dir}/header",
        "body_checks": "pcre:{dir}/body",
        "message_reject_characters": "\\7",
        "message_drop_headers": "bcc, x-drop",
        "notify_classes": "",
    },
    files={
        "header": "/^X-Warn:/ WARN here\n/^X-Reject:/ REJECT 5.7.9 no\n/^X-Prepend:/ PREPEND X-New: y\n",
        "body": "/^warn/ WARN there\n/^reject/ REJECT no\n",
    },
)
TO = ("bob@example.net", "list@example.net")
MAILS = {
    "taken": (TO, "X-Warn: x\nX-Prepend: x\nX-Drop: x\nTo: bob\n\nwarn\n"),
    "taken, recipients within": (("-t",), "To: bob@example.net\nBcc: list@example.net\n\nwarn\n"),
    "stray returns": (TO, "X-Warn: a\rb\r\r\nX-A: b\r\n\rTo: bob\r\n\r\nwarn\r\rx\n\rwarn\r\n.\r.\n"),
    "returns alone": (TO, "X-Warn: x\n\r\nTo: bob\r\r\n\n\r\n\r\r\r\nx\r"),
    "refused for its body": (TO, "X-Drop: x\nSubject: x\nTo: bob\n\nwarn\nreject\nmore\n"),
    "refused for a character": (TO, "Subject: x\nX-Bell: \7\nTo: bob\n\nbody\n"),
    "refused for a header": (("carol@example.net",), "Subject: x\nX-Reject: y\nTo: bob\n\nbody\n"),
}


@pytest.fixture(scope="module")
def house(certificate: tuple[str, str]) -> Iterator[House]:
    with House(CONFIG, certificate) as house:
        yield house


def outcome(house: House, side: Postfix | Mtad, words: tuple[str, ...], text: str) -> list[str]:
    """The lines of cleanup(8), and what came upstream."""
    begun, heard = len(side.log()), len(house.upstream.sessions)
    program = ["sendmail"] if isinstance(side, Postfix) else [*MTAD, "sendmail"]
    command = [*program, "-i", "-f", "alice@example.com", "-F", "A. Example", *words]
    environment = {**os.environ, "MAIL_CONFIG": str(side.directory)}
    subprocess.run(command, input=text.encode(), env=environment, check=True)

    def ids() -> list[str]:
        log = side.log()[begun:]
        return re.findall(r"pickup\[\d+\]: (\w+): uid=", log) + re.findall(
            r"notification: (\w+)$", log, re.MULTILINE
        )

    def log() -> str:
        return mask(side.log()[begun:], ids(), str(side.root))

    wait_until(lambda: re.search(r"ID1: removed$", log(), re.MULTILINE) or "ID2: removed" in log(), "its end")
    wait_until(lambda: all(one.over for one in house.upstream.sessions[heard:]), "the ends of sessions")
    lines = [
        line.partition("]: ")[2] for line in log().splitlines() if re.search(r"/cleanup\[.*: ID1: ", line)
    ]
    for session in house.upstream.sessions[heard:]:
        content = [line.decode() for line in session.lines if not line.startswith(b"RCPT")]
        envelope = sorted(line.decode() for line in session.lines if line.startswith(b"RCPT"))
        lines += mask("\n".join([*envelope, *content]), ids(), str(side.root)).split("\n")
    return [line for line in lines if "removed (" not in line]


@pytest.mark.parametrize("name", MAILS)
def test_mail_of_programs(house: House, name: str) -> None:
    theirs, ours = (outcome(house, side, *MAILS[name]) for side in house.sides)
    assert any("RCPT TO:" in line for line in theirs)
    assert ours == theirs
