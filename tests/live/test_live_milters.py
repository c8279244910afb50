"""Real mail filters, hostile ones, and mail that filters change on its way."""

from __future__ import annotations

import contextlib
import email
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from live.daemon import Mtad, Sink, wait_until
from live.milter import CONTINUE, Conversation, FakeMilter, negotiate
from live.peers import Client, submit
from oracle.postfix import free_port, wait_for_port

from mtad.smtpd.milter import wire
from mtad.smtpd.milter.wire import packet
from mtad.tables.sasldb import SaslDb

RELAY = {"mynetworks": "127.0.0.0/8", "maximal_backoff_time": "600s"}
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"


def relay(sink: Sink, filters: str, **settings: str) -> dict[str, str]:
    return {**RELAY, "relayhost": f"[127.0.0.1]:{sink.port}", "smtpd_milters": filters, **settings}


@contextlib.contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[None]:
    """A daemon in the foreground that listens on ``port``."""
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            wait_for_port(port)
            yield
        finally:
            process.terminate()


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="live-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


# -- real ones


@pytest.mark.skipif(shutil.which("opendkim") is None, reason="needs opendkim")
def test_opendkim_signs_what_is_sent(directory: Path) -> None:
    dkim = pytest.importorskip("dkim")
    key = rsa.generate_private_key(65537, 2048)
    private = directory / "key.pem"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    private.chmod(0o600)
    port = free_port()
    settings = directory / "opendkim.conf"
    settings.write_text(
        f"Socket inet:{port}@127.0.0.1\nDomain example.com\nSelector sel\nKeyFile {private}\nMode s\n"
        "Canonicalization relaxed/simple\nBackground no\nSyslog no\nInternalHosts 127.0.0.1\n"
        "OversignHeaders From\nRequireSafeKeys no\n"
    )
    opendkim = ["opendkim", "-f", "-x", str(settings)]
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    record = b"v=DKIM1; k=rsa; p=" + b"".join(public.splitlines()[1:-1])
    with Sink() as sink, running(opendkim, port, directory / "log"):
        with Mtad(relay(sink, f"inet:127.0.0.1:{port}")) as mtad:
            with Client(mtad.ports["submission"]) as client:
                client.say(b"EHLO client.example")
                client.say(b"MAIL FROM:<alice@example.com>")
                client.say(b"RCPT TO:<bob@example.net>")
                client.say(b"DATA")
                body = b"Hello,\r\n\r\n" + b"a line of some length\r\n" * 5000 + b"..dots\r\n\r\n\r\n"
                text = b"From: A <alice@example.com>\r\nTo: bob@example.net\r\nSubject: a\r\n folded\r\n\r\n"
                assert client.say(text + body + b".").startswith(b"250 ")
            wait_until(sink.raw, "the mail")
            mail = sink.raw()[0]
        assert b"\nDKIM-Signature: v=1; a=rsa-sha256; c=relaxed/simple; d=example.com" in mail, mtad.log()
        crlf = mail.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        assert dkim.verify(crlf, dnsfunc=lambda name, timeout=5: record)


@pytest.mark.skipif(shutil.which("rspamd") is None, reason="needs rspamd")
def test_rspamd_refuses_spam_and_lets_mail_pass(directory: Path) -> None:
    port = free_port()
    settings = directory / "rspamd.conf"
    settings.write_text(
        f"""
options {{
  pidfile = "{directory}/pid"; filters = ""; cache_file = "{directory}/cache"; hs_cache_dir = "{directory}";
  history_file = "{directory}/history"; stats_file = "{directory}/stats"; rrd = "{directory}/rrd";
  control_socket = "{directory}/control mode=0600"; gtube_patterns = "all";
  dns {{ nameserver = ["127.0.0.1:1"]; timeout = 0.1s; retransmits = 1; }}
}}
logging {{ type = "console"; level = "warning"; }}
worker "rspamd_proxy" {{
  bind_socket = "127.0.0.1:{port}"; milter = yes; timeout = 10s; count = 1;
  upstream "local" {{ default = yes; self_scan = yes; }}
}}
actions {{ reject = 15; add_header = 6; greylist = 4; }}
"""
    )
    rspamd = ["rspamd", "-f", "-i", "-c", str(settings)]
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(Sink())
        stack.enter_context(running(rspamd, port, directory / "log"))
        with Mtad(relay(sink, f"inet:127.0.0.1:{port}")) as mtad:
            assert submit(mtad.ports["submission"], "ham").startswith(b"250 ")
            with Client(mtad.ports["submission"]) as client:
                client.say(b"EHLO client.example")
                client.say(b"MAIL FROM:<alice@example.com>")
                client.say(b"RCPT TO:<bob@example.net>")
                client.say(b"DATA")
                reply = client.say(f"From: alice@example.com\r\nSubject: x\r\n\r\n{GTUBE}\r\n.".encode())
                assert reply.startswith((b"550 5.7.1 Gtube", b"554 5.7.1 Gtube")), reply
            wait_until(sink.raw, "the mail")
            assert len(sink.raw()) == 1
            assert "milter-reject: END-OF-MESSAGE from localhost[127.0.0.1]: 5.7.1 Gtube" in mtad.log()


# -- made ones


def test_all_changes_reach_the_mail() -> None:
    changes = [
        packet(b"e", b"<other@example.org>\0"),
        packet(b"-", b"<bob@example.net>\0"),
        packet(b"+", b"<carol@example.net>\0"),
        packet(b"i", b"\0\0\0\1X-Second\0two\0"),
        packet(b"m", b"\0\0\0\1Subject\0changed\0"),
        packet(b"b", b"new\n"),
        packet(b"b", b"body\n"),
    ]
    with Sink() as sink, FakeMilter({wire.EOM.code: [*changes, CONTINUE]}) as milter:
        with Mtad(relay(sink, milter.name)) as mtad:
            assert submit(mtad.ports["submission"], "old").startswith(b"250 ")
            wait_until(sink.raw, "the mail")
            mail = email.message_from_bytes(sink.raw()[0])
            assert (mail["X-Second"], mail["Subject"]) == ("two", "changed")
            assert str(mail.get_payload()).split() == ["new", "body"]
            log = mtad.log()
        assert "from=<other@example.org>" in log
        assert "to=<carol@example.net>" in log
        assert "to=<bob@example.net>, relay" not in log


def test_mail_in_quarantine_is_held() -> None:
    answers = {wire.EOM.code: [packet(b"q", b"odd\nthing\0"), CONTINUE]}
    with Sink() as sink, FakeMilter(answers) as milter, Mtad(relay(sink, milter.name)) as mtad:
        assert submit(mtad.ports["submission"], "held").startswith(b"250 ")
        assert ": milter-hold: END-OF-MESSAGE from localhost[127.0.0.1]: odd?thing; from=<" in mtad.log()
        assert "!" in mtad.command("postqueue", "-p").stdout


@pytest.mark.parametrize(
    ("action", "reply"),
    [
        ("accept", b"250 2.1.0 Ok"),
        ("reject", b"550 5.5.0 Service unavailable"),
        ("tempfail", b"451 4.7.1 Service unavailable - try again later"),
        ("shutdown", b"421 mail.example.com Service unavailable - try again later"),
        ("quarantine", b"250 2.1.0 Ok"),
    ],
)
def test_a_filter_that_is_not_there(action: str, reply: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with Sink() as sink, Mtad(relay(sink, f"inet:127.0.0.1:{port}", milter_default_action=action)) as mtad:
        with Client(mtad.ports["submission"]) as client:
            if action == "shutdown":
                assert client.greeting == reply + b"\r\n"
            else:
                client.say(b"EHLO client.example")
                assert client.say(b"MAIL FROM:<alice@example.com>") == reply + b"\r\n"
        log = mtad.log()
        assert f"warning: connect to Milter service inet:127.0.0.1:{port}: Connection refused" in log
        if action == "quarantine":
            assert "milter-hold: CONNECT from localhost[127.0.0.1]: default_action" in log


def never(talk: Conversation, data: bytes) -> None:
    """No answer at all."""


def trickle(talk: Conversation, data: bytes) -> None:
    """An answer that comes byte by byte and does not end."""
    with contextlib.suppress(OSError):
        talk.connection.sendall(b"\0\0\1\0")
        while not talk.ended.wait(0.05):
            talk.connection.sendall(b"x")


def flood(talk: Conversation, data: bytes) -> None:
    """Changes without end."""
    more = packet(b"h", b"X-Flood\0" + b"x" * 60000 + b"\0") * 16
    with contextlib.suppress(OSError):
        while True:
            talk.connection.sendall(more)


HOSTILE = {
    "silent at connect": ({wire.CONNECT.code: never}, None),
    "silent at the end": ({wire.EOM.code: never}, None),
    "trickling": ({wire.MAIL.code: trickle}, None),
    "flooding": ({wire.EOM.code: flood}, None),
    "a packet of 2 GiB": ({wire.RCPT.code: b"\x7f\xff\xff\xffh"}, None),
    "a packet of nothing": ({wire.RCPT.code: b"\0\0\0\0"}, None),
    "garbage": ({wire.HEADER.code: os.urandom(100)}, None),
    "two answers": ({wire.HELO.code: CONTINUE * 2}, None),
    "answers not asked for": ({wire.HELO.code: CONTINUE * 100000}, None),
    "version 99": ({}, negotiate(version=99)),
    "macros without end": ({}, negotiate(extra=b"\0\0\0\1" + b"a " * 10000)),
    "an index beyond all": (
        {wire.EOM.code: [packet(b"i", b"\xff\xff\xff\xffX\0y\0"), CONTINUE]}, None
    ),
    "header names with line ends": (
        {wire.EOM.code: [packet(b"h", b"X\r\n\r\nbody\0y\r\n.\r\nMAIL FROM:<x@y>\0"), CONTINUE]}, None
    ),
    "recipients with line ends": ({wire.EOM.code: [packet(b"+", b"<a@b>\r\nDATA\r\n\0"), CONTINUE]}, None),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(HOSTILE))
def test_hostile_filters_hurt_only_their_own_session(kind: str) -> None:
    answers, negotiation = HOSTILE[kind]
    with Sink() as sink, FakeMilter(answers, negotiation) as milter:
        settings = relay(
            sink,
            milter.name,
            milter_command_timeout="3s",
            milter_connect_timeout="3s",
            milter_content_timeout="2s",
            milter_default_action="tempfail",
            message_size_limit="200000",
        )
        with Mtad(settings, services=(("submission", {}), ("other", {"smtpd_milters": ""}))) as mtad:
            began = time.monotonic()
            with Client(mtad.ports["submission"]) as victim:
                victim.say(b"EHLO client.example")
                victim.send(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n")
                with Client(mtad.ports["other"]) as other:  # meanwhile
                    start = time.monotonic()
                    assert other.submit("meanwhile").startswith(b"250 ")
                    assert time.monotonic() - start < 3
                replies = [victim.reply() for _ in range(3)]
                if replies[-1].startswith(b"354"):
                    victim.send(b"Subject: victim\r\n\r\nbody\r\n.\r\n")
                    replies.append(victim.reply())
                last = victim.say(b"NOOP")
            assert time.monotonic() - began < 30
            assert last.startswith((b"250 2.0.0", b"421")), replies
            log = mtad.log()
            assert "Traceback" not in log, log
            wait_until(sink.raw, "the other's mail")
            for mail in sink.raw():
                assert b"\nMAIL FROM" not in mail
                assert mail.count(b"\r\n.\r\n") == 0


def test_a_filter_that_stops_reading_does_not_fill_memory() -> None:
    """It takes no more of a body that it does not answer: the session ends in time, with little kept."""

    def stop_reading(talk: Conversation, data: bytes) -> None:
        talk.ended.wait(60)

    answers = {wire.BODY.code: stop_reading}
    with Sink() as sink, FakeMilter(answers, negotiate(unwanted=wire.UNANSWERED_BODY)) as milter:
        settings = relay(
            sink, milter.name, milter_content_timeout="2s", milter_default_action="tempfail",
            message_size_limit="50000000",
        )  # fmt: skip
        with Mtad(settings) as mtad, Client(mtad.ports["submission"]) as client:
            client.say(b"EHLO client.example")
            client.say(b"MAIL FROM:<alice@example.com>")
            client.say(b"RCPT TO:<bob@example.net>")
            client.say(b"DATA")
            client.send(b"Subject: large\r\n\r\n" + (b"x" * 998 + b"\r\n") * 30000 + b".\r\n")
            assert client.reply() == b"451 4.7.1 Service unavailable - try again later\r\n"
            peak = max(
                int(line.split()[1])
                for pid in mtad.children()
                for line in Path(f"/proc/{pid}/status").read_text().splitlines()
                if line.startswith("VmHWM")
            )
            assert peak < 120_000  # KiB; the message alone has 30,000
            milter.talks[-1].ended.set()


def test_a_login_is_told_to_filters() -> None:
    """The macros by which filters decide who may have mail signed."""
    seen: dict[bytes, bytes] = {}

    def mail(talk: Conversation, data: bytes) -> bytes:
        seen.update(talk.macros[wire.MAIL.code])
        return CONTINUE

    conf = "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: {dir}/sasldb2\nmech_list: PLAIN\n"
    with Sink() as sink, FakeMilter({wire.MAIL.code: mail}) as milter:
        mtad = Mtad(relay(sink, milter.name, smtpd_sasl_auth_enable="yes"), files={"sasl/smtpd.conf": conf})
        database = mtad.directory / "sasldb2"
        SaslDb(str(database)).set("alice", "mail.example.com", b"secret")
        database.chmod(0o644)
        with mtad, Client(mtad.ports["submission"]) as client:
            client.say(b"EHLO client.example")
            assert client.say(b"AUTH PLAIN AGFsaWNlAHNlY3JldA==").startswith(b"235")
            assert client.say(b"MAIL FROM:<alice@example.com>").startswith(b"250")
    assert seen[b"{auth_type}"] == b"PLAIN"
    assert seen[b"{auth_authen}"].startswith(b"alice")
    assert seen[b"{mail_addr}"] == b"alice@example.com"


def test_who_has_filters_by_table() -> None:
    with Sink() as sink, FakeMilter() as milter:
        settings = relay(sink, milter.name, smtpd_milter_maps="inline:{127.0.0.1=DISABLE}")
        with Mtad(settings) as mtad:
            assert submit(mtad.ports["submission"], "unseen").startswith(b"250 ")
        assert not milter.talks


def send_locally(mtad: Mtad) -> None:
    words = ("sendmail", "-f", "alice@example.com", "bob@example.net")
    done = mtad.command(*words, text_input="Subject: local\n\nbody\n")
    assert done.returncode == 0, done.stderr


def test_mail_of_the_host_itself_has_filters_of_its_own() -> None:
    """non_smtpd_milters: the session that there was not is told of, and changes are made."""
    changes = [packet(b"h", b"X-Local\0seen\0"), CONTINUE]
    with Sink() as sink, FakeMilter({wire.EOM.code: changes}) as milter:
        with Mtad(relay(sink, "", non_smtpd_milters=milter.name)) as mtad:
            send_locally(mtad)
            wait_until(sink.raw, "the mail")
            assert email.message_from_bytes(sink.raw()[0])["X-Local"] == "seen"
            log = mtad.log()
        talk = milter.talks[0]
        assert talk.ended.wait(60)
        assert talk.letters.startswith(b"CHMRT")
        assert talk.data(b"C") == [b"localhost\x004\0\x00127.0.0.1\0"]
        assert talk.data(b"R") == [b"bob@example.net\0"]
        assert talk.macros[b"M"][b"{mail_addr}"] == b"alice@example.com"
    assert "Traceback" not in log


def test_a_message_of_the_host_itself_that_filters_refuse_comes_back() -> None:
    answers = {wire.EOM.code: packet(b"y", b"550 5.7.9 not here\0")}
    with contextlib.ExitStack() as stack:
        sink, milter = stack.enter_context(Sink()), stack.enter_context(FakeMilter(answers))
        with Mtad(relay(sink, "", non_smtpd_milters=milter.name)) as mtad:
            send_locally(mtad)
            wait_until(sink.raw, "the mail that says so")
            assert b"not here" in sink.raw()[0]
            assert "milter-reject: END-OF-MESSAGE from localhost[127.0.0.1]: 5.7.9 not here;" in mtad.log()


def test_what_filters_add_is_checked() -> None:
    """milter_header_checks."""
    changes = [packet(b"h", b"X-Spam\0yes\0"), packet(b"h", b"X-Secret\0password\0"), CONTINUE]
    files = {"checks": "/^X-Spam: (.*)/ REPLACE X-Junk: $1\n/^X-Secret:/ IGNORE\n"}
    with Sink() as sink, FakeMilter({wire.EOM.code: changes}) as milter:
        settings = relay(sink, milter.name, milter_header_checks="regexp:$config_directory/checks")
        with Mtad(settings, files=files) as mtad:
            assert submit(mtad.ports["submission"], "checked").startswith(b"250 ")
            wait_until(sink.raw, "the mail")
            mail = email.message_from_bytes(sink.raw()[0])
            assert (mail["X-Junk"], mail["X-Spam"], mail["X-Secret"]) == ("yes", None, None)
            assert ": replace: header X-Spam: yes from localhost[127.0.0.1];" in mtad.log()
