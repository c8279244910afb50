"""mtad and Postfix before a server that says what its script tells it to, right or wrong.

The scripts are those of swaks' own test server: every command taken and refused, with and without pipelining,
refusals that cascade, extensions and mechanisms that nobody has heard of, TLS refused and spoilt, logins of
each kind.  (That server is no part of Debian's package, so this is ours.)
"""

from __future__ import annotations

import base64
import re
import smtplib
import ssl
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from live.daemon import Mtad, wait_until
from live.peers import Peer, Stage, Talk
from oracle.postfix import Postfix

from mtad.net.certificates import make_self_signed


@dataclass(frozen=True)
class Script:
    """What the server says at its stages; ``offers``: its extensions; ``policy``: the TLS policy for it;
    ``tls``: STARTTLS is offered, ``spoilt`` without a certificate; ``people``: the recipients."""

    says: Mapping[str, bytes | Stage] = field(default_factory=dict)
    offers: Sequence[bytes] = (b"PIPELINING", b"8BITMIME")
    policy: str = "may"
    tls: str = ""
    people: Sequence[str] = ("you",)


def login(talk: Talk, final: bytes, only_password: bool = False) -> bytes:
    """The dialogue of a login whose first line has come, and what it ends with."""
    words = talk.lines[-1].split()
    mechanism = words[1].upper()
    asks: list[bytes] = []
    if mechanism == b"LOGIN":
        asks = [b"Password:"] if only_password else [b"Username:", b"Password:"]
    elif mechanism == b"CRAM-MD5":
        asks = [b"<457.1607465733@node.example.com>"]
    elif len(words) == 2:
        asks = [b""]
    for ask in asks:
        talk.say(b"334 " + base64.b64encode(ask) + b"\r\n")
        talk.line()
    return final


def good_login(talk: Talk) -> bytes:
    return login(talk, b"235 Authentication succeeded\r\n")


def bad_login(talk: Talk) -> bytes:
    return login(talk, b"535 Incorrect authentication data\r\n")


def some(talk: Talk) -> bytes:
    return b"550 rejected\r\n" if b"<bad" in talk.lines[-1] else b"250 Accepted\r\n"


def gone(talk: Talk) -> bytes:
    talk.close()
    return b""


def garbage(talk: Talk) -> bytes:
    talk.say(b"\x00\xffwhat?\r\n" * 3)
    return gone(talk)


NO = b"550 rejected\r\n"
CASCADE = {"mail": NO, "rcpt": b"503 sender not yet given\r\n"}
TWO_LINES = b"503-something went wrong related to pipelining\r\n503 something went wrong\r\n"
EVERYTHING = (
    b"PIPELINING", b"XCLIENT ADDR NAME PORT PROTO DESTADDR DESTPORT HELO LOGIN REVERSE_NAME", b"PRDR",
    b"AUTH CRAM-MD5", b"AUTH CRAM-SHA1", b"AUTH PLAIN", b"AUTH CUSTOM-PLAIN", b"AUTH LOGIN", b"AUTH NTLM",
    b"AUTH=login", b"HELP",
)  # fmt: skip
STEPWISE = (b"HELP",)
ODD: Mapping[str, bytes | Stage] = {
    "code": b"399 neither this nor that\r\n",
    "garbage": garbage,
    "long": b"250-" + b"x" * 100_000 + b"\r\n250 end\r\n",
}

SCRIPTS = {
    "taken": Script(),
    "taken-stepwise": Script(offers=STEPWISE),
    "banner": Script({"connect": b"220-SERVER ESMTP ready\r\n220-for peer\r\n220 now\r\n"}),
    "mail-no": Script({"mail": NO}),
    "mail-no-stepwise": Script({"mail": NO}, STEPWISE),
    "mail-cascade": Script({**CASCADE, "data": TWO_LINES}),
    "rcpt-no": Script({"rcpt": NO, "data": TWO_LINES}),
    "rcpt-no-stepwise": Script({"rcpt": NO}, STEPWISE),
    "rcpt-no-but-data": Script({"rcpt": NO, "dot": b"250 OK id=fakeemail\r\n"}),
    "rcpt-some": Script({"rcpt": some}, people=("you", "bad", "he", "bad2")),
    "rcpt-some-stepwise": Script({"rcpt": some}, STEPWISE, people=("bad", "you")),
    "data-no": Script({"data": NO}),
    "data-no-stepwise": Script({"data": NO}, STEPWISE),
    "dot-no": Script({"dot": NO}),
    "dot-later": Script({"dot": b"450 later\r\n"}),
    "mail-later": Script({"mail": b"450 4.2.1 later\r\n"}),
    "rcpt-later": Script({"rcpt": b"452 4.5.3 too many\r\n"}),
    "no-quit": Script({"quit": gone}),
    "tls": Script(tls="good"),
    "tls-no": Script({"starttls": b"550 STARTTLS rejected\r\n"}, tls="good"),
    "tls-no-required": Script({"starttls": b"550 STARTTLS rejected\r\n"}, tls="good", policy="encrypt"),
    "tls-spoilt": Script(tls="spoilt", policy="encrypt"),
    "everything": Script({"auth": good_login}, EVERYTHING),
    "plain": Script({"auth": good_login}, (b"AUTH PLAIN",)),
    "plain-no": Script({"auth": bad_login}, (b"AUTH PLAIN",)),
    "login": Script({"auth": good_login}, (b"AUTH LOGIN",)),
    "login-no": Script({"auth": bad_login}, (b"AUTH LOGIN",)),
    "cram": Script({"auth": good_login}, (b"AUTH CRAM-MD5",)),
    "cram-no": Script({"auth": bad_login}, (b"AUTH CRAM-MD5",)),
    "old-syntax": Script({"auth": good_login}, (b"AUTH=LOGIN PLAIN",)),
    **{
        f"{kind}-{stage}": Script({stage: said})
        for stage in ("connect", "helo", "mail", "rcpt", "data", "dot")
        for kind, said in ODD.items()
    },
    "unknown": Script({"auth": good_login}, (b"AUTH CRAM-SHA1 CUSTOM-PLAIN",)),
}  # fmt: skip


def answer(said: bytes | Stage) -> Stage:
    return said if callable(said) else lambda _: said


def peer_of(script: Script, certificate: tuple[str, str]) -> Peer:
    context = None
    if script.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if script.tls == "good":
            context.load_cert_chain(*certificate)

    def greeting(talk: Talk) -> bytes:
        offers = [*script.offers, *([b"STARTTLS"] if context is not None and not talk.tls else [])]
        lines = [b"SERVER Hello", *offers]
        return b"".join(b"250-" + line + b"\r\n" for line in lines[:-1]) + b"250 " + lines[-1] + b"\r\n"

    stages = {"helo": greeting, **{stage: answer(said) for stage, said in script.says.items()}}
    return Peer(stages, context)


def outcomes(daemon: Any) -> dict[str, str]:
    """By recipient: from the relay on, without delays."""
    found = {}
    for line in daemon.log().splitlines():
        match = re.search(r"postfix/smtp\[\d+\]: \w+: to=<([^>]+)>, (relay=.*)", line)
        if match is not None:
            text = re.sub(r"delay=.*?, (conn_use=\d+, )?delays=[^,]*, |tls=[^,]*, ", "", match[2])
            text = re.sub("x{99,}.*", "x...", text)  # a line of the log is not endless
            found[match[1]] = text
    return found


def test_scripts(tmp_path: Path) -> None:
    certificate = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    make_self_signed("localhost", *certificate)
    peers = {name: peer_of(script, certificate) for name, script in SCRIPTS.items()}
    hops = {name: f"[127.0.0.1]:{peer.port}" for name, peer in peers.items()}
    with_login = [name for name, script in SCRIPTS.items() if any(b"AUTH" in each for each in script.offers)]
    files = {
        "transport": "".join(f"{name}.test smtp:{hop}\n" for name, hop in hops.items()),
        "policy": "".join(f"{hops[name]} {script.policy}\n" for name, script in SCRIPTS.items()),
        "passwords": "".join(f"{hops[name]} user:looking glass\n" for name in with_login),
    }
    main = {
        "mynetworks": "127.0.0.0/8",
        "transport_maps": "texthash:{dir}/transport",
        "smtp_tls_policy_maps": "texthash:{dir}/policy",
        "smtp_tls_security_level": "may",
        "smtp_sasl_auth_enable": "yes",
        "smtp_sasl_security_options": "noanonymous",
        "smtp_sasl_password_maps": "texthash:{dir}/passwords",
        "smtp_connection_cache_on_demand": "no",
        "smtp_tls_connection_reuse": "no",
    }
    people = [f"{person}@{name}.test" for name, script in SCRIPTS.items() for person in script.people]
    with ExitStack() as stack:
        for peer in peers.values():
            stack.enter_context(peer)
        results, bodies = [], []
        for kind in (Postfix, Mtad):
            before = {name: len(peer.bodies()) for name, peer in peers.items()}
            with kind(main, files=files) as daemon:
                for name, script in SCRIPTS.items():
                    with smtplib.SMTP("127.0.0.1", daemon.ports["submission"], timeout=60) as client:
                        to = [f"{person}@{name}.test" for person in script.people]
                        client.sendmail("me@example.com", to, f"Subject: {name}\r\n\r\nbody of {name}\r\n")
                wait_until(lambda: set(people) <= set(outcomes(daemon)), "all outcomes")
                results.append(outcomes(daemon))
            heard = {name: peer.bodies()[before[name] :] for name, peer in peers.items()}
            bodies.append(
                {name: [body.partition(b"\r\n\r\n")[2] for body in each] for name, each in heard.items()}
            )
    wrong = [
        f"{who}\n  {results[0][who]}\n  {results[1][who]}"
        for who in people
        if results[0][who] != results[1][who]
    ]
    assert not wrong, "\n".join(wrong)
    assert bodies[0] == bodies[1]
    assert "status=sent (250 OK" not in results[1]["you@rcpt-no-but-data.test"]
