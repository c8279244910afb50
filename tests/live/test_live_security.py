"""What an unkind client or server can do, and cannot: injection, smuggling, memory, patience, the log."""

from __future__ import annotations

import base64
import itertools
import os
import re
import select
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from live.daemon import Mtad, wait_until
from live.peers import Client, Peer, Talk, submit
from oracle import postfix
from oracle.postfix import Postfix

from mtad.net.certificates import make_self_signed
from mtad.tables.sasldb import SaslDb

MIB = 1024 * 1024
#: What a worker may grow by, whatever a client does: Python's own arenas, a few buffers.
ROOM = 12 * MIB
USER, PASSWORD = "alice@example.com", "not for the log: 7"


class House:
    """mtad with a login, TLS, small time-outs, and a smarthost that records what it gets."""

    def __init__(self, mtad: Mtad, peer: Peer) -> None:
        self.mtad = mtad
        self.peer = peer

    def client(self, service: str = "submission", **options: bool) -> Client:
        return Client(self.mtad.ports[service], **options)

    def memory(self) -> int:
        """The resident memory of all children, in bytes."""
        total = 0
        for pid in self.mtad.children():
            status = Path(f"/proc/{pid}/status").read_text()
            total += int(status.partition("VmRSS:")[2].split()[0]) * 1024
        return total

    def relayed(self, subject: bytes, count: int = 1) -> list[bytes]:
        """The contents, as they were on the wire, of the mails with this subject."""

        def found() -> list[bytes]:
            return [body for body in self.peer.bodies() if b"\r\nSubject: " + subject + b"\r\n" in body]

        wait_until(lambda: len(found()) >= count, f"mail {subject!r}:\n{self.mtad.log()[-2000:]}")
        return found()


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with Peer() as peer:
        hasty = {"smtpd_timeout": "2", "smtpd_starttls_timeout": "2"}
        mtad = Mtad(
            {
                "mynetworks": "127.0.0.0/8",
                "relayhost": f"[127.0.0.1]:{peer.port}",
                "smtpd_tls_chain_files": "{dir}/key.pem, {dir}/cert.pem",
                "smtpd_tls_security_level": "may",
                "smtpd_sasl_auth_enable": "yes",
                "smtpd_sasl_local_domain": "example.com",
                "smtpd_timeout": "60",
                "smtpd_error_sleep_time": "0",
                "smtpd_soft_error_limit": "3",
                "smtpd_hard_error_limit": "4",
                "smtpd_forbid_bare_newline_exclusions": "",
            },
            services=[
                ("submission", {}),
                ("hasty", hasty),
                ("wrapped", {**hasty, "smtpd_tls_wrappermode": "yes"}),
                ("naive", {"smtpd_forbid_unauth_pipelining": "no"}),
                ("no", {"smtpd_forbid_bare_newline": "no"}),
                ("note", {"smtpd_forbid_bare_newline": "note"}),
                ("reject", {"smtpd_forbid_bare_newline": "reject"}),
                (
                    "boundless",
                    {
                        "smtpd_junk_command_limit": "100000000",
                        "smtpd_soft_error_limit": "100000000",
                        "smtpd_hard_error_limit": "100000000",
                    },
                ),
            ],
            files={
                "sasl/smtpd.conf": "pwcheck_method: auxprop\nauxprop_plugin: sasldb\n"
                "sasldb_path: {dir}/sasldb2\nmech_list: PLAIN LOGIN\n"
            },
        )
        make_self_signed("localhost", str(mtad.directory / "cert.pem"), str(mtad.directory / "key.pem"))
        SaslDb(str(mtad.directory / "sasldb2")).set("alice", "example.com", PASSWORD.encode())
        if os.geteuid() == 0:
            os.chmod(mtad.directory / "sasldb2", 0o644)
        with mtad:
            yield House(mtad, peer)


# -- STARTTLS


@pytest.mark.parametrize("service", ["submission", "naive"])
def test_commands_behind_starttls_are_not_executed(house: House, service: str) -> None:
    """What a client has said behind STARTTLS is thrown away."""
    subject = f"after starttls {service}"
    with house.client(service) as client:
        client.say(b"EHLO client.example")
        client.send(b"STARTTLS\r\nEHLO evil.example\r\nMAIL FROM:<evil@example.com>\r\nRSET\r\n")
        assert client.reply() == b"220 2.0.0 Ready to start TLS\r\n"
        client.start_tls()
        assert client.say(b"NOOP") == b"250 2.0.0 Ok\r\n"
        assert client.say(b"RCPT TO:<b@example.net>") == b"503 5.5.1 Error: need MAIL command\r\n"
        assert b"250-" in client.say(b"EHLO client.example")
        assert client.submit(subject).startswith(b"250 2.0.0 Ok: queued")
    (body,) = house.relayed(subject.encode())
    assert b"evil" not in body


def test_plain_text_instead_of_the_handshake_is_not_executed(house: House) -> None:
    with house.client() as client:
        client.say(b"EHLO client.example")
        assert client.say(b"STARTTLS").startswith(b"220")
        client.send(b"NOOP\r\nMAIL FROM:<evil@example.com>\r\n")
        assert b"250" not in client.rest()
    house.mtad.wait_for_log("SSL_accept error from localhost[127.0.0.1]")


def test_a_login_before_starttls_does_not_count_after_it(house: House) -> None:
    login = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode())
    with house.client() as client:
        client.say(b"EHLO client.example")
        assert client.say(b"AUTH PLAIN " + login).startswith(b"235")
        assert client.say(b"STARTTLS").startswith(b"220")
        client.start_tls()
        client.say(b"EHLO client.example")
        assert client.say(b"AUTH PLAIN " + login).startswith(b"235")  # not "already authenticated"


def test_replies_injected_before_tls_are_ignored() -> None:
    """A server's plain text behind its 220 to STARTTLS is no answer to anything said within TLS."""
    injected = b"220 go\r\n250-evil.example\r\n250 AUTH PLAIN\r\n550 no sender\r\n550 no recipient\r\n"
    lies = {"starttls": lambda talk: injected}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    mtad = Mtad({"mynetworks": "127.0.0.0/8", "smtp_tls_security_level": "encrypt"})
    cert, key = str(mtad.directory / "cert.pem"), str(mtad.directory / "key.pem")
    make_self_signed("peer.example", cert, key)
    context.load_cert_chain(cert, key)
    with Peer(lies, context) as peer:
        mtad.write_main_cf(relayhost=f"[127.0.0.1]:{peer.port}")
        with mtad:
            assert submit(mtad.ports["submission"], "safe").startswith(b"250")
            mtad.wait_for_log("status=sent (250 kept)")
        (talk,) = peer.talks
        assert [line.split(b" ")[0] for line in talk.lines][:6] == [
            b"EHLO", b"STARTTLS", b"EHLO", b"MAIL", b"RCPT", b"DATA"
        ]  # fmt: skip
        assert talk.tls


# -- smuggling

ENDS = (b"\n", b"\r", b"\r\n", b"\0\n", b"\r\0\n", b"\r\n\0", b"\n\r", b"\r\r\n")
SEQUENCES = [(a, b) for a, b in itertools.product(ENDS, ENDS) if b"\r\n.\r\n" not in a + b"." + b]
#: A bare CR or LF, which some server may take for the end of a line.
BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)")


def smuggle(before: bytes, after: bytes, name: bytes) -> bytes:
    """A message with a second transaction behind something like an end of data."""
    return (
        b"Subject: %b\r\n\r\nharmless%b.%bMAIL FROM:<evil@example.com>\r\nRCPT TO:<victim@example.net>\r\n"
        b"DATA\r\nSubject: smuggled\r\n\r\nsmuggled\r\n.\r\n" % (name, before, after)
    )


@pytest.mark.parametrize("service", ["submission", "no", "note"])
def test_only_crlf_dot_crlf_ends_a_message(house: House, service: str) -> None:
    with house.client(service) as client:
        client.say(b"EHLO client.example")
        for number, (before, after) in enumerate(SEQUENCES):
            name = b"%b %d" % (service.encode(), number)
            client.begin()
            client.send(smuggle(before, after, name))
            assert client.reply().startswith(b"250 2.0.0 Ok: queued as"), (before, after)
            assert client.say(b"NOOP") == b"250 2.0.0 Ok\r\n", (before, after)
            (body,) = house.relayed(name)
            # one message, with the rest as text
            assert b"\r\nsmuggled\r\n" in body, (before, after)
            # and nothing in it that another server takes for its end
            assert BARE.search(body) is None, (before, after, body)
            assert b"\r\n.\r\n" not in body
    assert not [line for talk in house.peer.talks for line in talk.lines if b"victim" in line]


def test_bare_newlines_are_refused_where_that_is_asked_for(house: House) -> None:
    for number, before in enumerate((b"\n", b"\0\n", b"\n\r")):
        with house.client("reject") as client:
            client.say(b"EHLO client.example")
            client.begin()
            client.send(smuggle(before, b"\r\n", b"refused %d" % number))
            assert client.reply() == b"550 5.5.2 mail.example.com Error: bare <LF> received\r\n"
    assert not [body for body in house.peer.bodies() if b"Subject: refused" in body]


def test_a_smuggler_by_chunks(house: House) -> None:
    """BDAT knows no end of data: what looks like one must be stuffed on the way out."""
    with house.client() as client:
        client.say(b"EHLO client.example")
        for number, (before, after) in enumerate([*SEQUENCES, (b"\r\n", b"\r\n")]):
            name = b"chunks %d" % number
            message = smuggle(before, after, name)
            half = message.index(before + b"." + after) + len(before)
            assert client.say(b"MAIL FROM:<a@example.com>").startswith(b"250")
            assert client.say(b"RCPT TO:<b@example.net>").startswith(b"250")
            client.send(b"BDAT %d\r\n" % half + message[:half])
            assert client.reply().startswith(b"250")
            client.send(b"BDAT %d LAST\r\n" % (len(message) - half) + message[half:])
            assert client.reply().startswith(b"250 2.0.0 Ok: ")
            (body,) = house.relayed(name)
            assert b"\r\nsmuggled\r\n" in body
            assert BARE.search(body) is None
            assert b"\r\n.\r\n" not in body
    assert not [line for talk in house.peer.talks for line in talk.lines if b"victim" in line]


@pytest.mark.parametrize("shift", range(4))
def test_dots_on_the_edges_of_buffers(house: House, shift: int) -> None:
    """200 KiB of nothing but lines of dots: an edge of every buffer falls on each place in them."""
    name = b"dots %d" % shift
    lines = [b".", b"..", b".x", b"x", b""]
    text = b"".join(lines[n % 5 if n % 7 else 0] + b"\r\n" for n in range(60_000))
    head = b"From: a@example.com\r\nSubject: %b\r\n\r\n%b\r\n" % (name, b"-" * shift)
    with house.client() as client:
        client.say(b"EHLO client.example")
        client.begin()
        client.send(head + re.sub(rb"(?m)^\.", b"..", text) + b".\r\n")
        assert client.reply().startswith(b"250")
    (body,) = house.relayed(name)
    sent = body.partition(b"\r\n\r\n")[2]
    assert re.sub(rb"(?m)^\.", b"", sent) == b"-" * shift + b"\r\n" + text
    assert b"\r\n.\r\n" not in body


def test_a_message_byte_by_byte(house: House) -> None:
    """However the segments are cut, the message is the same."""
    name = b"bytes"
    text = b".\r\n..\r\na\n.\nb\r.\rc\r\n.\n.\r\r\n..\n\r\n.\r.\n.x\r\n"
    message = b"Subject: %b\r\n\r\n" % name + b".".join([b"", text]) + b"\r\n.\r\n"
    with house.client() as whole, house.client() as cut:
        for client in (whole, cut):
            client.say(b"EHLO client.example")
            client.begin()
        whole.send(message)
        assert whole.reply().startswith(b"250")
        cut.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in message:
            cut.send(bytes([byte]))
        assert cut.reply().startswith(b"250")
    one, two = (body.partition(b"\r\n\r\n")[2] for body in house.relayed(name, 2))
    assert one == two
    assert BARE.search(one) is None and b"\r\n.\r\n" not in one


@pytest.mark.skipif(not postfix.AVAILABLE, reason=postfix.WHY_NOT)
def test_nul_bytes_as_postfix_has_them(house: House) -> None:
    message = b"Subject: nul\r\nX-Nul: a\0b\r\n\r\none\0two\r\n\0\r\n\0.\r\nend\r\n"
    bodies = []
    with (
        Peer() as peer,
        Postfix({"mynetworks": "127.0.0.0/8", "relayhost": f"[127.0.0.1]:{peer.port}"}) as it,
    ):
        for port, at in ((it.ports["submission"], peer), (house.mtad.ports["submission"], house.peer)):
            with Client(port) as client:
                client.say(b"EHLO client.example")
                client.begin()
                client.send(message + b".\r\n")
                assert client.reply().startswith(b"250")
            wait_until(lambda: any(b"Subject: nul" in body for body in at.bodies()), "the mail")  # noqa: B023
            (body,) = [body for body in at.bodies() if b"Subject: nul" in body]
            bodies.append(body)
    theirs, ours = bodies
    assert ours.partition(b"\r\n\r\n")[2] == theirs.partition(b"\r\n\r\n")[2]
    assert re.findall(rb"X-Nul: .*\r\n", ours) == re.findall(rb"X-Nul: .*\r\n", theirs)


# -- memory


def flood(connection: socket.socket, data: bytes, seconds: float, limit: int) -> int:
    """Send ``data`` again and again until nobody takes it any more; gives how many bytes were taken."""
    connection.setblocking(False)
    writable = select.poll()
    writable.register(connection, select.POLLOUT)
    taken = 0
    rest = memoryview(data)
    end = time.monotonic() + seconds
    while taken < limit and time.monotonic() < end:
        try:
            sent = connection.send(rest)
            taken += sent
            rest = rest[sent:] or memoryview(data)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            if not writable.poll(700):
                break  # not a byte for a while
        except OSError:
            break  # it hung up
    connection.setblocking(True)
    return taken


@pytest.mark.parametrize("tls", [False, True])
def test_a_client_that_never_reads(house: House, tls: bool) -> None:
    """It is not read from any more, either."""
    with house.client("boundless") as client:
        client.say(b"EHLO client.example")
        if tls:
            assert client.say(b"STARTTLS").startswith(b"220")
            client.start_tls()
            client.say(b"EHLO client.example")
        before = house.memory()
        taken = flood(client.socket, b"RSET\r\n" * 5000, 20, 200 * MIB)
        grown = house.memory() - before
        print(f"{taken / MIB:.1f} MiB taken, grown by {grown / MIB:.1f} MiB")
        # the kernel's buffers of both sides, and ours
        assert taken < 30 * MIB
        assert grown < ROOM
    with house.client() as other:
        assert other.say(b"NOOP") == b"250 2.0.0 Ok\r\n"


def test_a_line_without_end(house: House) -> None:
    before = house.memory()
    with house.client("boundless") as client:
        flood(client.socket, b"x" * 65536, 10, 64 * MIB)
        assert client.rest().startswith(b"500 5.5.2 Error: command not recognized")
    assert house.memory() - before < ROOM


def test_a_header_without_end(house: House) -> None:
    before = house.memory()
    with house.client() as client:
        client.say(b"EHLO client.example")
        client.begin()
        client.send(b"Subject: endless header\r\nX-Long: ")
        piece = b"y" * 65536
        for _ in range(140):
            client.send(piece)
        peak = house.memory()
        client.send(b"\r\n\r\nbody\r\n.\r\n")
        assert client.reply().startswith(b"250")
    assert peak - before < ROOM
    (body,) = house.relayed(b"endless header")
    assert body.endswith(b"\r\n\r\nbody\r\n")
    assert len(body) < 110_000  # header_size_limit


def test_a_body_line_without_end(house: House) -> None:
    """A line of 9 MiB: folded on the way out, never whole in memory."""
    with house.client() as client:
        client.say(b"EHLO client.example")
        client.begin()
        before = house.memory()
        client.send(b"Subject: endless line\r\n\r\n")
        for _ in range(140):
            client.send(b"y" * 65536)
        peak = house.memory()
        client.send(b"\r\n.\r\n")
        assert client.reply().startswith(b"250")
        (body,) = house.relayed(b"endless line")
        assert max(map(len, body.split(b"\r\n"))) <= 998
        assert peak - before < ROOM
        assert house.memory() - before < ROOM


def test_too_big_a_message_is_not_kept(house: House) -> None:
    before = house.memory()
    with house.client() as client:
        client.say(b"EHLO client.example")
        client.begin()
        client.send(b"Subject: too big\r\n\r\n")
        for _ in range(30 * 16):
            client.send(b"y" * 65534 + b"\r\n")
        client.send(b".\r\n")
        assert client.reply() == b"552 5.3.4 Error: message file too big\r\n"
        assert client.say(b"NOOP") == b"250 2.0.0 Ok\r\n"
    assert house.memory() - before < ROOM


def test_a_hundred_thousand_recipients(house: House) -> None:
    before = house.memory()
    with house.client("boundless") as client:
        client.say(b"EHLO client.example")
        assert client.say(b"MAIL FROM:<a@example.com>").startswith(b"250")
        answers: dict[bytes, int] = {}
        for start in range(0, 100_000, 1000):
            client.send(b"".join(b"RCPT TO:<b%d@example.net>\r\n" % n for n in range(start, start + 1000)))
            for _ in range(1000):
                reply = client.reply()
                answers[reply] = answers.get(reply, 0) + 1
        assert answers == {
            b"250 2.1.5 Ok\r\n": 1000,
            b"452 4.5.3 Error: too many recipients\r\n": 99_000,
        }
        peak = house.memory()
    print(f"grown by {(peak - before) / MIB:.1f} MiB")
    assert peak - before < ROOM


def test_too_many_recipients_end_the_session(house: House) -> None:
    """Beyond smtpd_recipient_overshoot_limit they are errors."""
    with house.client() as client:
        client.say(b"EHLO client.example")
        assert client.say(b"MAIL FROM:<a@example.com>").startswith(b"250")
        lines = [b"RCPT TO:<b%d@example.net>\r\n" % n for n in range(2100)]
        client.send(b"".join(lines))
        replies = client.rest().splitlines()
    assert replies.count(b"250 2.1.5 Ok") == 1000
    assert replies[-1] == b"421 4.7.0 mail.example.com Error: too many errors"
    assert 1000 <= replies.count(b"452 4.5.3 Error: too many recipients") <= 1004


def test_huge_responses_to_challenges(house: House) -> None:
    with house.client("boundless") as client:
        client.say(b"EHLO client.example")
        for _ in range(3):
            assert client.say(b"AUTH LOGIN").startswith(b"334")
            assert client.say(b"A" * 20_000) == b"500 5.5.6 SASL response limit exceeded\r\n"
        assert client.say(b"AUTH PLAIN").startswith(b"334")
        assert client.say(b"A" * 12_000).startswith((b"535 5.7.8", b"501 5.5.4"))
        assert client.say(b"NOOP") == b"250 2.0.0 Ok\r\n"
        before = house.memory()
        assert client.say(b"AUTH LOGIN").startswith(b"334")
        flood(client.socket, b"A" * 65536, 10, 32 * MIB)
        assert client.rest().startswith(b"500 5.5.6 SASL response limit exceeded\r\n")
        assert house.memory() - before < ROOM


# -- patience


def ends_after(client: Client) -> tuple[bytes, float]:
    start = time.monotonic()
    return client.rest(), time.monotonic() - start


@pytest.mark.parametrize(
    ("lines", "half", "where"),
    [
        ([], b"", "CONNECT"),
        ([], b"EHL", "CONNECT"),
        ([b"EHLO client.example"], b"", "EHLO"),
        ([b"EHLO client.example", b"MAIL FROM:<a@example.com>"], b"RCPT", "MAIL"),
        ([b"EHLO client.example", b"AUTH LOGIN"], b"YWxp", "AUTH"),
    ],
)
def test_a_silent_client_is_sent_away(house: House, lines: list[bytes], half: bytes, where: str) -> None:
    with house.client("hasty") as client:
        for line in lines:
            client.say(line)
        client.send(half)
        said, seconds = ends_after(client)
        assert said == b"421 4.4.2 mail.example.com Error: timeout exceeded\r\n"
        assert 1 < seconds < 30
    house.mtad.wait_for_log(f"timeout after {where} from localhost[127.0.0.1]")


def test_a_message_that_does_not_come_is_not_awaited(house: House) -> None:
    with house.client("hasty") as client:
        client.say(b"EHLO client.example")
        client.begin()
        client.send(b"Subject: never\r\n\r\nnever\r\n")
        said, _ = ends_after(client)
        assert said == b"421 4.4.2 mail.example.com Error: timeout exceeded\r\n"
    house.mtad.wait_for_log("timeout after DATA (")
    assert not [body for body in house.peer.bodies() if b"Subject: never" in body]


def test_a_handshake_that_does_not_come_is_not_awaited(house: House) -> None:
    with house.client("hasty") as client:
        client.say(b"EHLO client.example")
        assert client.say(b"STARTTLS").startswith(b"220")
        client.send(b"\x16\x03")
        said, seconds = ends_after(client)
        assert (said, 1 < seconds < 30) == (b"", True)
    with house.client("wrapped", greeted=False) as client:
        said, seconds = ends_after(client)
        assert (said, 1 < seconds < 30) == (b"", True)


def test_an_idle_client_costs_the_others_nothing(house: House) -> None:
    idle = [house.client() for _ in range(200)]
    assert submit(house.mtad.ports["submission"], "beside the idle").startswith(b"250")
    for client in idle:
        client.socket.close()
    house.relayed(b"beside the idle")


def test_a_client_that_speaks_first_is_sent_away(house: House) -> None:
    """Its connection is made, and used, before mtad can have greeted it."""
    workers = house.mtad.children()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        client = Client(house.mtad.ports["submission"], greeted=False)
        client.send(b"EHLO client.example\r\nMAIL FROM:<a@example.com>\r\n")
        time.sleep(0.05)
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
    with client:
        assert client.rest() == b"554 5.5.0 Error: SMTP protocol synchronization\r\n"
    house.mtad.wait_for_log("improper command pipelining after CONNECT from localhost[127.0.0.1]")


def test_guessing_passwords_has_an_end(house: House) -> None:
    with house.client() as client:
        client.say(b"EHLO client.example")
        guess = base64.b64encode(f"\0{USER}\0guess".encode())
        for _ in range(3):
            assert client.say(b"AUTH PLAIN " + guess).startswith(b"535 5.7.8 Error: authentication failed")
        client.send(b"AUTH PLAIN " + guess + b"\r\n")
        assert client.rest().splitlines()[-1] == b"421 4.7.0 mail.example.com Error: too many errors"
    log = house.mtad.wait_for_log("too many errors after AUTH from localhost[127.0.0.1]")
    failed = f"SASL PLAIN authentication failed: authentication failure, sasl_username={USER}"
    assert log.count(f"warning: localhost[127.0.0.1]: {failed}") >= 4


# -- the log

LINE = re.compile(rb"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d mail postfix/[a-z/-]+\[\d+\]: [^\x00-\x1f\x7f]*")
EVIL = b"\x1b[31m\x07\x08\x7f\x00\r\x85evil"


def test_nothing_from_a_client_is_in_the_log_as_it_came(house: House) -> None:
    fake = "Jan  1 00:00:00 mail postfix/smtpd[1]: 123: client=forged[192.0.2.1]"
    names = [f"\0eve\n{fake}\0x", "\0\x1b]0;eve\x07\0x", "\0\u2028eve\u2029\0x", "eve\r\n\0eve\0x"]
    for name in names:
        with house.client() as client:
            client.say(b"EHLO client.example")
            assert client.say(b"AUTH PLAIN " + base64.b64encode(name.encode())).startswith(b"535")
            assert client.say(b"AUTH LOGIN").startswith(b"334")
            assert client.say(base64.b64encode(name.strip("\0").encode())).startswith(b"334")
            assert client.say(base64.b64encode(b"x")).startswith(b"535")
    for line in (
        b"EHLO " + EVIL, b"HELO \xff\xfe", EVIL, b"MAIL FROM:<" + EVIL + b"@example.com>",
        b'MAIL FROM:<"\x1b[31m"@example.com>', b"MAIL FROM:<a@example.com> AUTH=+1B+0Aevil",
        b"RCPT TO:<" + EVIL + b">", b"GET / HTTP/1.1 \x1b[0m",
    ):  # fmt: skip
        with house.client("boundless") as client:
            if not line.startswith((b"EHLO", b"HELO")):
                client.say(b"EHLO client.example")
            if line.startswith(b"RCPT"):
                client.say(b"MAIL FROM:<a@example.com>")
            client.send(line + b"\r\nQUIT\r\n")
            client.rest()
    with house.client() as client:
        client.say(b"EHLO " + b"\x1b[1mclient\x07.example")
        client.begin()
        client.send(b"Subject: log\r\nMessage-ID: <\x1b[31m\x00\x07evil@x>\r\n\r\nx\r\n.\r\n")
        assert client.reply().startswith(b"250")
    house.relayed(b"log")
    with house.client() as client:
        client.say(b"EHLO client.example")
        client.send(b"\x1b[2J\r\n" * 3 + b"QUIT\r\n")
        client.rest()
    house.mtad.wait_for_log("disconnect from")
    for text in house.mtad.maillog.read_bytes().split(b"\n")[:-1]:
        assert LINE.fullmatch(text), text
        assert not text.startswith(fake.encode())


def test_a_server_cannot_write_the_log_either() -> None:
    def evil(talk: Talk) -> bytes:
        return b"550 5.1.1 \x1b[31mno\x07\x00\x85 such\xff user\r\n"

    with Peer({"rcpt": evil}) as peer:
        settings = {"mynetworks": "127.0.0.0/8", "relayhost": f"[127.0.0.1]:{peer.port}"}
        with Mtad(settings) as mtad:
            submit(mtad.ports["submission"], "refused")
            mtad.wait_for_log("status=bounced (host 127.0.0.1[127.0.0.1] said: 550 5.1.1 ?[31mno")
            for text in mtad.maillog.read_bytes().split(b"\n")[:-1]:
                assert LINE.fullmatch(text), text


def test_secrets_are_not_in_the_log(house: House) -> None:
    with house.client("boundless") as client:
        client.say(b"EHLO client.example")
        word = base64.b64encode(PASSWORD.encode())
        client.say(b"AUTH PLAIN " + word)  # malformed, and all password
        client.say(b"AUTH LOGIN")
        client.say(base64.b64encode(USER.encode()))
        client.say(word[:-2])
        client.say(base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()))
        assert client.say(b"AUTH PLAIN " + base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()))
        client.say(b"QUIT")
    log = house.mtad.log()
    assert PASSWORD not in log
    assert "Traceback" not in log
    for start in range(3):  # base64 of it at any place in a response
        inner = base64.b64encode(b"\0" * start + PASSWORD.encode()).decode()[4:-4]
        assert inner not in log
