"""AUTH dialogues with Postfix and with our exchanges: the same replies and the same log lines."""

from __future__ import annotations

import re
import shutil
import socket
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live.daemon import wait_until
from oracle import postfix
from twisted.internet.epollreactor import EPollReactor

from mtad.auth.authenticator import Authenticator, AuthSession, Challenge, Denied, Granted
from mtad.config.parameters import Parameters
from mtad.maillog import ListSink, MailLog
from mtad.sasl.client import ClientContext, choose
from mtad.tables.sasldb import SaslDb

SESSION = AuthSession("localhost", "127.0.0.1", "4000", "127.0.0.1", "587", False)


def b(text: bytes) -> str:
    return b64encode(text).decode()


#: service: (main.cf values, smtpd.conf file's name)
SERVICES: dict[str, dict[str, str]] = {
    "auxprop": {"smtpd_sasl_path": "auxprop"},
    "realm": {"smtpd_sasl_path": "auxprop", "smtpd_sasl_local_domain": "example.com"},
    "noplain": {"smtpd_sasl_path": "all", "smtpd_sasl_security_options": "noplaintext, noanonymous"},
    "down": {"smtpd_sasl_path": "down"},
    "strong": {"smtpd_sasl_path": "strong"},
    "any": {"smtpd_sasl_path": "any", "smtpd_sasl_security_options": ""},
    "open": {"smtpd_sasl_path": "strong", "smtpd_sasl_security_options": ""},
    "mutual": {"smtpd_sasl_path": "strong", "smtpd_sasl_security_options": "noanonymous, mutual_auth"},
    "noactive": {"smtpd_sasl_path": "any", "smtpd_sasl_security_options": "noactive, noanonymous"},
    "external": {"smtpd_sasl_path": "external", "smtpd_sasl_mechanism_filter": "static:rest"},
    "filter": {"smtpd_sasl_path": "auxprop", "smtpd_sasl_mechanism_filter": "login"},
}

DIALOGUES: list[tuple[str, list[str]]] = [
    ("auxprop", ["AUTH PLAIN " + b(b"\0alice\0secret")]),
    ("auxprop", ["AUTH PLAIN " + b(b"\0alice\0bad")]),
    ("auxprop", ["AUTH PLAIN " + b(b"alice\0alice\0secret")]),
    ("auxprop", ["AUTH PLAIN " + b(b"bob\0alice\0secret")]),
    ("auxprop", ["AUTH PLAIN " + b(b"\0nobody\0x")]),
    ("auxprop", ["AUTH PLAIN " + b(b"\0alice@mail.example.com\0secret")]),
    ("auxprop", ["AUTH PLAIN " + b(b"\0bob@example.com\0pass word")]),
    ("auxprop", ["AUTH PLAIN " + b(b"\0\0x")]),
    ("auxprop", ["AUTH PLAIN " + b(b"\0alice\0")]),
    ("auxprop", ["AUTH PLAIN " + b(b"alice")]),
    ("auxprop", ["AUTH PLAIN " + b(b"\0alice")]),
    ("auxprop", ["AUTH PLAIN " + b(b"a\0b\0c\0d")]),
    ("auxprop", ["AUTH PLAIN " + b(b"\0al\xffice\0x")]),
    ("auxprop", ["AUTH PLAIN " + b(b"\0al\tice\0x")]),
    ("auxprop", ["AUTH PLAIN " + b(b"\0" + b"u" * 120 + b"\0x")]),
    ("auxprop", ["AUTH PLAIN ="]),
    ("auxprop", ["AUTH PLAIN AGFs=aWNl"]),
    ("auxprop", ["AUTH PLAIN AGFsaWNl*"]),
    ("auxprop", ["AUTH plain " + b(b"\0alice\0secret")]),
    ("auxprop", ["AUTH plain " + b(b"\0alice\0bad")]),
    ("auxprop", ["AUTH PLAIN", b(b"\0alice\0secret")]),
    ("auxprop", ["AUTH PLAIN", b(b"\0alice\0bad")]),
    ("auxprop", ["AUTH PLAIN", ""]),
    ("auxprop", ["AUTH PLAIN", "="]),
    ("auxprop", ["AUTH LOGIN", b(b"alice"), b(b"secret")]),
    ("auxprop", ["AUTH LOGIN", b(b"alice"), b(b"bad")]),
    ("auxprop", ["AUTH LOGIN " + b(b"alice"), b(b"secret")]),
    ("auxprop", ["AUTH LOGIN", "", ""]),
    ("auxprop", ["AUTH LOGIN", "!", ""]),
    ("auxprop", ["AUTH LOGIN", b(b"alice"), b(b"x" * 1100)]),
    ("auxprop", ["AUTH CRAM-MD5 " + b(b"alice")]),
    ("auxprop", ["AUTH EXTERNAL ="]),
    ("auxprop", ["AUTH NOSUCH"]),
    ("auxprop", ["AUTH " + "X" * 150]),
    ("realm", ["AUTH PLAIN " + b(b"\0bob\0pass word")]),
    ("realm", ["AUTH PLAIN " + b(b"\0alice\0secret")]),
    ("realm", ["AUTH LOGIN", b(b"bob"), b(b"bad")]),
    ("noplain", ["AUTH PLAIN " + b(b"\0alice\0secret")]),
    ("noplain", ["AUTH LOGIN"]),
    ("down", ["AUTH PLAIN " + b(b"\0alice\0secret")]),
    ("down", ["AUTH LOGIN", b(b"alice"), b(b"secret")]),
    ("strong", ["AUTH DIGEST-MD5", b(b"username=")]),
    ("strong", ["AUTH DIGEST-MD5", b(b"x")]),
    ("strong", ["AUTH SCRAM-SHA-256", b(b"n,,n=alice")]),
    ("strong", ["AUTH SCRAM-SHA-256 " + b(b"x,,n=alice,r=abcdef")]),
    ("strong", ["AUTH SCRAM-SHA-256 ="]),
    ("strong", ["AUTH SCRAM-SHA-256", "!"]),
    ("strong", ["AUTH ANONYMOUS " + b(b"me@example.net")]),
    ("open", ["AUTH ANONYMOUS " + b(b"me@example.net")]),
    ("open", ["AUTH ANONYMOUS", b(b"me@example.net")]),
    ("mutual", ["AUTH CRAM-MD5"]),
    ("mutual", ["AUTH PLAIN " + b(b"\0alice\0secret")]),
    ("external", ["AUTH EXTERNAL " + b(b"alice")]),
    ("filter", ["AUTH PLAIN " + b(b"\0alice\0secret")]),
]


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[postfix.Postfix]:
    conf = {
        "auxprop": "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nmech_list: plain login\n",
        "all": "auxprop_plugin: sasldb\nmech_list: cram-md5 plain login\n",
        "strong": "auxprop_plugin: sasldb\nmech_list: plain digest-md5 scram-sha-256 anonymous cram-md5 "
        "scram-sha-1 login scram-sha-512\n",
        "any": "auxprop_plugin: sasldb\nmech_list: plain digest-md5 scram-sha-1 cram-md5\n",
        "external": "auxprop_plugin: sasldb\nmech_list: external plain\n",
        "down": "pwcheck_method: saslauthd\nsaslauthd_path: /nonexistent/mux\nmech_list: plain login\n",
    }
    files = {f"sasl/{name}.conf": f"{text}sasldb_path: {{dir}}/sasldb2\n" for name, text in conf.items()}
    main_cf = {
        "smtpd_sasl_auth_enable": "yes",
        "cyrus_sasl_config_path": "{dir}/sasl",
        "smtpd_error_sleep_time": "0",
        "smtpd_hard_error_limit": "1000",
    }
    server = postfix.Postfix(main_cf, list(SERVICES.items()), files)
    db = SaslDb(str(server.directory / "sasldb2"))
    db.set("alice", "mail.example.com", b"secret")
    db.set("bob", "example.com", b"pass word")
    shutil.chown(server.directory / "sasldb2", "postfix")
    with server:
        yield server


class Wire:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 60)
        self.file = self.socket.makefile("rb")

    def reply(self) -> list[str]:
        lines = []
        while not lines or lines[-1][3:4] == "-":
            lines.append(self.file.readline().decode("utf-8", "replace").rstrip("\r\n"))
        return lines

    def command(self, line: str) -> list[str]:
        self.socket.sendall(line.encode() + b"\r\n")
        return self.reply()

    def close(self) -> None:
        self.file.close()
        self.socket.close()


def log_lines(text: str) -> list[str]:
    """The lines about SASL, without time, program and client."""
    found = re.findall(r"warning: (?:localhost\[127\.0\.0\.1\]: |unknown\[127\.0\.0\.1\]: )?(SASL .*)", text)
    # Postfix names the user since 3.9 only
    return [re.sub(r", sasl_username=.*", "", line) for line in found]


def ask_postfix(oracle: postfix.Postfix, service: str, lines: list[str]) -> tuple[list[str], list[str]]:
    before = len(oracle.log())
    wire = Wire(oracle.ports[service])
    try:
        wire.reply()
        wire.command("EHLO client.test")
        replies = []
        for line in lines:
            replies += wire.command(line)
            if not replies[-1].startswith("334"):
                break
        wire.command("QUIT")
    finally:
        wire.close()
    wait_until(lambda: "disconnect from" in oracle.log()[before:], "the end of the session")
    return replies, log_lines(oracle.log()[before:])


def authenticator(oracle: postfix.Postfix, service: str, sink: ListSink) -> Authenticator:
    p = Parameters.load(str(oracle.directory), overrides=SERVICES[service])
    return Authenticator.build(p, EPollReactor(), MailLog(sink, "x"))


def ask_ours(oracle: postfix.Postfix, service: str, lines: list[str]) -> tuple[list[str], list[str]]:
    sink = ListSink()
    _, name, *initial = lines[0].split(" ")
    exchange = authenticator(oracle, service, sink).begin(name.encode(), SESSION)
    replies = []
    for data in [initial[0].encode() if initial else None, *(line.encode() for line in lines[1:])]:
        outcome = _run(exchange.step(data))
        if isinstance(outcome, Challenge):
            replies.append(f"334 {outcome.data.decode()}")
        elif isinstance(outcome, Granted):
            replies.append("235 2.7.0 Authentication successful")
            break
        else:
            assert isinstance(outcome, Denied)
            replies.append(outcome.reply.encode().decode().rstrip("\r\n"))
            MailLog(sink, "x").warning(outcome.log)
            break
    return replies, log_lines("\n".join(text for _, _, text in sink.lines))


def _normal(replies: list[str]) -> list[str]:
    """Challenges without what is random in them."""
    shown = []
    for reply in replies:
        if reply.startswith("334 "):
            text = b64decode(reply[4:]).decode()
            text = re.sub(r'nonce="[^"]*"', "nonce", re.sub(r"^r=.*,i=", "r=,i=", text))
            text = re.sub(r"^<.*@", "<@", text)
            reply = (
                "334 " + text.partition("=")[0]
                if text[:2] == "v=" or text[:8] == "rspauth="
                else "334 " + text
            )
        shown.append(reply)
    return shown


def log_in(mechanism: str, password: bytes, ask: Callable[[str], str]) -> list[str]:
    """The replies to our client, which says what it has to say by ``ask``."""
    client = choose([mechanism.encode()], (), b"alice", password, context=ClientContext(b"mail.example.com"))
    initial = client.initial()
    replies = [ask(f"AUTH {mechanism}" + ("" if initial is None else " " + b(initial)))]
    while replies[-1].startswith("334"):
        replies.append(ask(b(client.step(b64decode(replies[-1][4:])))))
    return _normal(replies)


@pytest.mark.parametrize("password", [b"secret", b"wrong"])
@pytest.mark.parametrize(
    "mechanism", ["DIGEST-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512", "CRAM-MD5", "PLAIN", "LOGIN"]
)
def test_logins(oracle: postfix.Postfix, mechanism: str, password: bytes) -> None:
    wire = Wire(oracle.ports["strong"])
    try:
        wire.reply()
        wire.command("EHLO client.test")
        theirs = log_in(mechanism, password, lambda line: wire.command(line)[-1])
        wire.command("QUIT")
    finally:
        wire.close()
    exchange = authenticator(oracle, "strong", ListSink()).begin(mechanism.encode(), SESSION)

    def ask(line: str) -> str:
        words = line.split(" ")
        data = (words[2] if len(words) > 2 else None) if words[0] == "AUTH" else line
        outcome = _run(exchange.step(None if data is None else data.encode()))
        if isinstance(outcome, Challenge):
            return f"334 {outcome.data.decode()}"
        if isinstance(outcome, Granted):
            return "235 2.7.0 Authentication successful"
        return outcome.reply.encode().decode().rstrip("\r\n")

    assert log_in(mechanism, password, ask) == theirs


def _run(coroutine: Any) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


@pytest.mark.parametrize(("service", "lines"), DIALOGUES)
def test_dialogue(oracle: postfix.Postfix, service: str, lines: list[str]) -> None:
    ours, theirs = ask_ours(oracle, service, lines), ask_postfix(oracle, service, lines)
    assert (_normal(ours[0]), ours[1]) == (_normal(theirs[0]), theirs[1])


@pytest.mark.parametrize("service", SERVICES)
def test_announcement(oracle: postfix.Postfix, service: str) -> None:
    wire = Wire(oracle.ports[service])
    try:
        wire.reply()
        announced = [line[4:] for line in wire.command("EHLO client.test") if line[4:].startswith("AUTH ")]
        wire.command("QUIT")
    finally:
        wire.close()
    names = authenticator(oracle, service, ListSink()).mechanisms(False)
    assert announced == ["AUTH " + b" ".join(names).decode()]


def test_an_unreadable_database_is_a_temporary_failure(oracle: postfix.Postfix) -> None:
    path = Path(oracle.directory / "sasldb2")
    content = path.read_bytes()
    path.write_bytes(b"hello" * 2000)
    try:
        replies, _ = ask_postfix(oracle, "auxprop", ["AUTH PLAIN " + b(b"\0alice\0secret")])
        assert ask_ours(oracle, "auxprop", ["AUTH PLAIN " + b(b"\0alice\0secret")])[0] == replies
    finally:
        path.write_bytes(content)
