"""When the disk is full, the upstream dead, slow or rude, saslauthd hung: nothing is lost, others go on."""

from __future__ import annotations

import base64
import contextlib
import os
import select
import socket
import sqlite3
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from live.daemon import Mtad, Sink, wait_until
from live.peers import EHLO, Client, Peer, Talk, submit

SETTINGS = {"mynetworks": "127.0.0.0/8"}


def relay(port: int, **settings: str) -> dict[str, str]:
    return {**SETTINGS, "relayhost": f"[127.0.0.1]:{port}", **settings}


def queued(mtad: Mtad) -> int:
    """How many messages there are."""
    with contextlib.closing(sqlite3.connect(mtad.queue / "mtad" / "queue.db")) as db:
        return int(db.execute("SELECT count(*) FROM message").fetchone()[0])


def wait_for_empty_queue(mtad: Mtad) -> None:
    try:
        wait_until(lambda: queued(mtad) == 0, "an empty queue")
    except AssertionError:
        print(mtad.command("postqueue", "-p").stdout, mtad.log()[-3000:])
        raise


def flush(mtad: Mtad) -> None:
    mtad.wait_until_deferred()
    done = mtad.command("flush")
    assert done.returncode == 0, done.stderr


# -- the disk


@pytest.fixture
def small_disk() -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    path = Path(tempfile.mkdtemp(prefix="small-"))  # the mail owner must get there
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m,mode=755", "tmpfs", str(path)],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        path.rmdir()
        pytest.skip(f"cannot mount a small file system: {done.stderr}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
        path.rmdir()


def fill(path: Path, leave: int = 0) -> None:
    """Take all space but ``leave`` bytes."""
    space = os.statvfs(path)
    with contextlib.suppress(OSError), open(path / "ballast", "wb") as out:
        out.write(b"x" * max(0, space.f_bavail * space.f_frsize - leave))


class OnSmallDisk(Mtad):
    """Queue on that disk, all else elsewhere."""

    def __init__(self, disk: Path, main_cf: dict[str, str]) -> None:
        super().__init__(main_cf)
        self.queue = disk / "spool"
        self.write_main_cf(queue_directory=str(self.queue))


def test_a_full_disk_refuses_mail_and_recovers(small_disk: Path) -> None:
    with Sink() as sink:
        sink.stop()  # so that mail stays
        with OnSmallDisk(small_disk, relay(sink.port, message_size_limit="1000000")) as mtad:
            port = mtad.ports["submission"]
            accepted = [f"before {n}" for n in range(20)]
            for subject in accepted:
                assert submit(port, subject).startswith(b"250")
            fill(small_disk)
            with Client(port) as client:
                client.say(b"EHLO client.example")
                assert client.say(b"MAIL FROM:<a@example.com>") == (
                    b"452 4.3.1 Insufficient system storage\r\n"
                )
            (small_disk / "ballast").unlink()
            assert submit(port, "between").startswith(b"250")
            accepted.append("between")
            sink.start()
            flush(mtad)
            wait_for_empty_queue(mtad)
            assert sorted(str(mail["Subject"]) for mail in sink.mails()) == sorted(accepted)
            assert "Traceback" not in mtad.log()


def test_a_disk_that_fills_while_mail_comes_in(small_disk: Path) -> None:
    """Without the check at MAIL: what does not fit is refused at the end of data, small and large; what
    was accepted can be delivered even while the disk is full."""
    with Sink() as sink:
        settings = relay(sink.port, message_size_limit="0", queue_minfree="0")
        with OnSmallDisk(small_disk, settings) as mtad:
            port = mtad.ports["submission"]
            sink.stop()
            accepted: set[str] = set()
            refused: list[bytes] = []
            text = b"0123456789abcdef" * 60 + b"\r\n"
            for number in range(300):
                subject = f"mail {number}"
                # small ones, and large ones that go by a spool file
                reply = submit(port, subject, text * (200 if number % 3 == 0 else 5))
                if reply.startswith(b"250"):
                    accepted.add(subject)
                else:
                    refused.append(reply)
                if len(refused) > 8:
                    break
            assert len(accepted) > 5
            assert len(refused) > 8
            allowed = (b"452 4.3.1 ", b"451 4.3.0 ")
            assert all(reply.startswith(allowed) for reply in refused), refused
            assert mtad.command("postqueue", "-p").returncode == 0
            sink.start()
            flush(mtad)
            wait_until(lambda: len(sink.raw()) > 0, "deliveries from a full disk")
            assert {str(mail["Subject"]) for mail in sink.wait_for(len(accepted))} == accepted
            wait_for_empty_queue(mtad)
            assert submit(port, "after").startswith(b"250")
            sink.wait_for(len(accepted) + 1)
            assert len(sink.raw()) == len(accepted) + 1
            assert "Traceback" not in mtad.log()


# -- the upstream


class House:
    """mtad and an upstream that does as it is told; patient for two seconds."""

    def __init__(self, mtad: Mtad, peer: Peer) -> None:
        self.mtad = mtad
        self.peer = peer
        self._start = 0

    def begin(self) -> None:
        """What was before a test does not count."""
        self._start = len(self.log(0))
        self.peer.talks.clear()
        self.peer.stages.clear()

    def log(self, start: int | None = None) -> str:
        return self.mtad.log()[self._start if start is None else start :]

    def wait_for_log(self, text: str) -> str:
        wait_until(lambda: text in self.log(), f"{text!r} in the log")
        return self.log()

    def submit(self, subject: str, text: bytes = b"text\r\n") -> None:
        assert submit(self.mtad.ports["submission"], subject, text).startswith(b"250")

    def deliver_now(self, stage: str) -> None:
        """The upstream is well again at ``stage``: the queue empties."""
        del self.peer.stages[stage]
        for _ in range(10):  # on a busy host, two seconds may not do for a large message
            flush(self.mtad)
            with contextlib.suppress(AssertionError):
                wait_until(lambda: queued(self.mtad) == 0, "an empty queue", 6)
                break
        wait_for_empty_queue(self.mtad)
        assert "status=sent (250 kept)" in self.log()


@pytest.fixture(scope="module")
def shared() -> Iterator[House]:
    timeouts = dict.fromkeys(
        (f"smtp_{each}_timeout" for each in ("helo", "mail", "rcpt", "data_init", "data_xfer", "data_done")),
        "2s",
    )
    plain = {"smtp_skip_5xx_greeting": "no", "smtp_connection_cache_on_demand": "no"}
    with Peer() as peer, Mtad(relay(peer.port, **timeouts, **plain)) as mtad:
        yield House(mtad, peer)


@pytest.fixture
def house(shared: House) -> Iterator[House]:
    shared.begin()
    yield shared
    shared.peer.stages.clear()
    flush(shared.mtad)
    wait_for_empty_queue(shared.mtad)


def test_a_dead_upstream_comes_back() -> None:
    with Sink() as sink:
        sink.stop()
        with Mtad(relay(sink.port)) as mtad:
            for number in range(5):
                assert submit(mtad.ports["submission"], f"mail {number}").startswith(b"250")
            refused = f"connect to 127.0.0.1[127.0.0.1]:{sink.port}: Connection refused"
            wait_until(lambda: mtad.log().count("status=deferred (") == 5, "five deferrals")
            log = mtad.log()
            assert f"dsn=4.4.1, status=deferred ({refused})" in log
            assert "in 5 Requests." in mtad.command("postqueue", "-p").stdout
            flush(mtad)
            wait_until(lambda: mtad.log().count("status=deferred (") > 5, "another try")
            sink.start()
            flush(mtad)
            wait_for_empty_queue(mtad)
            assert sorted(str(mail["Subject"]) for mail in sink.mails()) == [f"mail {n}" for n in range(5)]


def test_deferred_mail_is_tried_again_of_itself() -> None:
    answers = [b"450 4.2.0 not now\r\n", b"250 kept\r\n"]
    quick = {"minimal_backoff_time": "1s", "queue_run_delay": "1s"}
    with Peer({"dot": lambda talk: answers.pop(0)}) as peer, Mtad(relay(peer.port, **quick)) as mtad:
        assert submit(mtad.ports["submission"], "twice").startswith(b"250")
        mtad.wait_for_log("status=sent (250 kept)")
        wait_for_empty_queue(mtad)
        assert len(peer.bodies()) == 2


STAGES = {
    "connect": "receiving the initial server greeting",
    "helo": "performing the EHLO handshake",
    "mail": "sending MAIL FROM",
    "rcpt": "sending RCPT TO",
    "data": "sending DATA command",
    "dot": "sending end of data -- message may be sent more than once",
}
LARGE = b"x" * 70 * 100 * 1000 + b"\r\n"


@pytest.mark.parametrize("stage", STAGES)
def test_an_upstream_that_never_answers(house: House, stage: str) -> None:
    def never(talk: Talk) -> bytes:
        while talk.more():
            pass
        return b""

    house.peer.stages[stage] = never
    house.submit("late")
    log = house.wait_for_log("status=deferred (")
    reason = f"conversation with 127.0.0.1[127.0.0.1] timed out while {STAGES[stage]}"
    assert f"dsn=4.4.2, status=deferred ({reason})" in log
    house.deliver_now(stage)


def test_an_upstream_that_stops_reading(house: House) -> None:
    """In the middle of a large message."""
    stuck = threading.Event()

    def stop(talk: Talk) -> bytes:
        talk.say(b"354 go on\r\n")
        stuck.wait(60)
        return b""

    house.peer.stages["data"] = stop
    house.submit("large", LARGE)
    house.wait_for_log("timed out while sending message body)")
    stuck.set()
    house.deliver_now("data")
    assert len(house.peer.bodies()) == 1


@pytest.mark.parametrize("stage", STAGES)
def test_an_upstream_that_hangs_up(house: House, stage: str) -> None:
    def hang_up(talk: Talk) -> bytes:
        raise OSError("good bye")

    house.peer.stages[stage] = hang_up
    house.submit("cut")
    log = house.wait_for_log("status=deferred (")
    assert f"status=deferred (lost connection with 127.0.0.1[127.0.0.1] while {STAGES[stage]})" in log
    house.deliver_now(stage)


def test_an_upstream_that_hangs_up_in_the_middle_of_data(house: House) -> None:
    def cut(talk: Talk) -> bytes:
        talk.say(b"354 go on\r\n")
        for _ in range(3):
            talk.more()
        raise OSError("good bye")

    house.peer.stages["data"] = cut
    house.submit("large", LARGE)
    house.wait_for_log("lost connection with 127.0.0.1[127.0.0.1] while sending message body)")
    house.deliver_now("data")
    assert len(house.peer.bodies()) == 1


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("code", [b"451 4.7.1", b"554 5.7.1"])
def test_refusals_at_each_stage(house: House, stage: str, code: bytes) -> None:
    """4xx: tried again, and delivered once; 5xx: the sender has a bounce, once."""
    reply = code + b" not like this\r\n"
    usual = {"connect": b"220 hello\r\n", "helo": EHLO, "data": b"354 go on\r\n"}
    peer = house.peer

    def refuse(talk: Talk) -> bytes:
        return (
            reply if talk is peer.talks[0] else usual.get(stage, b"250 kept\r\n")
        )  # the bounce goes through

    peer.stages[stage] = refuse
    house.submit("unwanted")
    words = "refused to talk to me" if stage in ("connect", "helo") else "said"
    said = f"host 127.0.0.1[127.0.0.1] {words}: {reply.decode().strip()}"
    if code.startswith(b"4"):
        log = house.wait_for_log("status=deferred (")
        assert f"dsn=4.7.1, status=deferred ({said}" in log
        house.deliver_now(stage)
        assert submitted(peer) == (2 if stage == "dot" else 1)
        assert not [body for body in peer.bodies() if b"MAILER-DAEMON" in body]
        return
    log = house.wait_for_log("status=bounced (")
    assert f"dsn=5.7.1, status=bounced ({said}" in log
    wait_for_empty_queue(house.mtad)
    assert submitted(peer) == (1 if stage == "dot" else 0)
    (bounce,) = [body for body in peer.bodies() if b"MAILER-DAEMON" in body]
    assert b"\r\nTo: a@example.com\r\n" in bounce
    assert b"Final-Recipient: rfc822; b0@example.net\r\n" in bounce
    assert b"Action: failed\r\nStatus: 5.7.1\r\n" in bounce
    assert b"Diagnostic-Code: smtp; 554 5.7.1 not like this\r\n" in bounce
    assert b"Subject: unwanted\r\n" in bounce


def submitted(peer: Peer) -> int:
    """How often the message itself was sent."""
    return sum(body.partition(b"\r\n\r\n")[0].count(b"\r\nSubject: unwanted") for body in peer.bodies())


def test_recipients_fail_one_by_one(house: House) -> None:
    """Delivered, refused for good, and refused for now: each once, in one message."""

    def rcpt(talk: Talk) -> bytes:
        line = talk.lines[-1]
        if b"<b1@" in line:
            return b"550 5.1.1 unknown\r\n"
        if b"<b2@" in line and talk is house.peer.talks[0]:
            return b"450 4.2.2 full\r\n"
        return b"250 ok\r\n"

    house.peer.stages["rcpt"] = rcpt
    with Client(house.mtad.ports["submission"]) as client:
        client.say(b"EHLO client.example")
        client.begin(3)
        client.send(b"Subject: three\r\n\r\n.\r\n")
        assert client.reply().startswith(b"250")
    log = house.wait_for_log("to=<a@example.com>")
    for who, what in (("b0", "sent (250 kept"), ("b1", "bounced ("), ("b2", "deferred (")):
        assert [line for line in log.splitlines() if f"to=<{who}@" in line and f"status={what}" in line]
    listing = house.mtad.command("postqueue", "-p").stdout
    assert "b2@example.net" in listing
    assert "b0@" not in listing and "b1@" not in listing
    house.deliver_now("rcpt")
    lines = [line for talk in house.peer.talks for line in talk.lines]
    given = [line.split()[1] for line in lines if line.startswith(b"RCPT TO:<b")]
    assert sorted(given) == [b"TO:<b%d@example.net>" % n for n in (0, 1, 2, 2)]


# -- the end of a message's life


def test_a_message_that_cannot_be_delivered_expires() -> None:
    with (
        Peer({"rcpt": later}) as peer,
        Mtad(
            relay(peer.port, maximal_queue_lifetime="2s", minimal_backoff_time="1s", queue_run_delay="1s")
        ) as mtad,
    ):
        queue_id = submit(mtad.ports["submission"], "short life").decode().split()[-1]
        mtad.wait_for_log(f"{queue_id}: from=<a@example.com>, status=expired, returned to sender")
        mtad.wait_for_log(f"{queue_id}: removed")
        wait_for_empty_queue(mtad)
        assert mtad.log().count("status=deferred") >= 2
        (bounce,) = filter(None, peer.bodies())
        assert b"\r\nTo: a@example.com\r\n" in bounce
        assert b"Action: failed\r\nStatus: 4.2.0\r\n" in bounce
        lines = [line for talk in peer.talks for line in talk.lines]
        assert [line for line in lines if line.startswith(b"MAIL FROM:<>")]


def later(talk: Talk) -> bytes:
    """No for the recipient, yes for whom the bounce goes to."""
    return b"450 4.2.0 later\r\n" if b"<b0@" in talk.lines[-1] else b"250 ok\r\n"


def test_a_bounce_that_cannot_be_delivered_is_dropped_not_bounced() -> None:
    with Peer({"rcpt": lambda talk: b"550 5.1.1 nobody\r\n"}) as peer, Mtad(relay(peer.port)) as mtad:
        assert submit(mtad.ports["submission"], "to nobody").startswith(b"250")
        wait_until(lambda: mtad.log().count(": removed") == 2, "both to be gone")
        wait_for_empty_queue(mtad)
        assert mtad.log().count("non-delivery notification") == 1


def test_a_delay_warning_is_sent_once() -> None:
    quick = {
        "delay_warning_time": "1s", "minimal_backoff_time": "1s", "maximal_backoff_time": "1s",
        "queue_run_delay": "1s",
    }  # fmt: skip

    with Peer({"rcpt": later}) as peer, Mtad(relay(peer.port, **quick)) as mtad:
        assert submit(mtad.ports["submission"], "slow").startswith(b"250")
        mtad.wait_for_log("sender delay notification: ")
        tries = mtad.log().count("status=deferred")
        wait_until(lambda: mtad.log().count("status=deferred") >= tries + 2, "two more tries")
        (warning,) = filter(None, peer.bodies())
        assert b"Action: delayed\r\n" in warning


# -- what this version does not deliver


@pytest.mark.parametrize(
    ("settings", "recipient", "transport"),
    [
        ({"mydestination": "example.org"}, "user@example.org", "local"),
        ({"virtual_mailbox_domains": "example.org"}, "user@example.org", "virtual"),
        ({"transport_maps": "inline:{ { example.org = uucp:host } }"}, "user@example.org", "uucp"),
        ({"transport_maps": "inline:{ { example.org = my-pipe: } }"}, "user@example.org", "my-pipe"),
    ],
)
def test_other_transports_keep_their_mail(settings: dict[str, str], recipient: str, transport: str) -> None:
    quick = {"minimal_backoff_time": "1s", "maximal_backoff_time": "1s", "queue_run_delay": "1s"}
    with Sink() as sink, Mtad(relay(sink.port, **quick, **settings)) as mtad:
        with Client(mtad.ports["submission"]) as client:
            client.say(b"EHLO client.example")
            client.say(b"MAIL FROM:<a@example.com>")
            assert client.say(b"RCPT TO:<" + recipient.encode() + b">").startswith(b"250")
            assert client.say(b"RCPT TO:<b@example.net>").startswith(b"250")
            assert client.say(b"DATA").startswith(b"354")
            client.send(b"Subject: kept\r\n\r\n.\r\n")
            assert client.reply().startswith(b"250")
        reason = f'mail transport "{transport}" is not available in mtad'
        wait_until(
            lambda: mtad.log().count(f"dsn=4.3.0, status=deferred ({reason})") >= 2,
            f"two tries:\n{mtad.log()}",
        )
        assert "bounced" not in mtad.log()
        assert [mail["X-Sink-Recipient"] for mail in sink.mails()] == ["b@example.net"]
        listing = mtad.command("postqueue", "-p").stdout
        assert recipient in listing and reason in listing and "b@example.net" not in listing
        # once the route is changed, it is delivered
        kept = {name: value for name, value in mtad.values.items() if name not in settings}
        kept |= {"mydestination": ""}
        mtad.write("main.cf", "".join(f"{name} = {value}\n" for name, value in kept.items()))
        assert mtad.command("reload").returncode == 0
        flush(mtad)
        sink.wait_for(2)
        assert sorted(str(mail["X-Sink-Recipient"]) for mail in sink.mails()) == sorted(
            [recipient, "b@example.net"]
        )
        wait_for_empty_queue(mtad)


# -- saslauthd


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that the workers' user may enter (pytest closes its own at each start)."""
    with tempfile.TemporaryDirectory(prefix="live-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_saslauthd_that_hangs_holds_nobody_up(open_directory: Path) -> None:
    mux = open_directory / "mux"
    login = b"AUTH PLAIN " + base64.b64encode(b"\0alice\0secret")
    conf = f"pwcheck_method: saslauthd\nmech_list: PLAIN LOGIN\nsaslauthd_path: {mux}\n"
    settings = relay(9, smtpd_sasl_auth_enable="yes")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(mux))
        mux.chmod(0o666)
        listener.listen(64)
        listener.settimeout(60)
        with Mtad(settings, files={"sasl/smtpd.conf": conf}) as mtad:
            port = mtad.ports["submission"]
            hung = [Client(port) for _ in range(5)]
            for client in hung:
                client.say(b"EHLO client.example")
                client.send(login + b"\r\n")
            asked = [listener.accept()[0] for _ in hung]
            for number in range(5):
                assert submit(port, f"meanwhile {number}").startswith(b"250")
            assert not select.select([client.socket for client in hung], [], [], 0)[0]
            # it dies: a temporary failure, not "wrong password"
            listener.close()
            for connection in asked:
                connection.close()
            for client in hung:
                assert client.reply().startswith(b"454 4.7.0 Temporary authentication failure")
                assert client.say(b"NOOP") == b"250 2.0.0 Ok\r\n"
                client.socket.close()


def test_no_saslauthd_is_a_temporary_failure(tmp_path: Path) -> None:
    conf = f"pwcheck_method: saslauthd\nmech_list: PLAIN LOGIN\nsaslauthd_path: {tmp_path}/nowhere\n"
    settings = relay(9, smtpd_sasl_auth_enable="yes")
    with Mtad(settings, files={"sasl/smtpd.conf": conf}) as mtad, Client(mtad.ports["submission"]) as client:
        client.say(b"EHLO client.example")
        reply = client.say(b"AUTH PLAIN " + base64.b64encode(b"\0alice\0secret"))
        assert reply.startswith(b"454 4.7.0 Temporary authentication failure")
        assert client.submit("without login").startswith(b"250")


# -- clients


def test_a_client_that_leaves_in_the_middle_leaves_nothing() -> None:
    with Sink() as sink, Mtad(relay(sink.port)) as mtad:
        port = mtad.ports["submission"]
        for rest in (b"Subject: cut\r\n\r\ncut", b"Subject: cut\r\n\r\n" + b"cut\r\n" * 100_000, b""):
            with Client(port) as client:
                client.say(b"EHLO client.example")
                client.begin()
                client.send(rest)
        wait_until(lambda: mtad.log().count("lost connection after DATA (") == 3, "three losses")
        assert queued(mtad) == 0
        assert not list((mtad.queue / "mtad" / "spool").iterdir())
        assert submit(port, "whole").startswith(b"250")
        assert [mail["Subject"] for mail in sink.wait_for(1)] == ["whole"]


def test_a_client_that_does_not_take_the_reply_to_its_mail() -> None:
    """It reset the connection behind the last dot: the mail may come, whole and once, or not at all."""
    with Sink() as sink, Mtad(relay(sink.port)) as mtad:
        port = mtad.ports["submission"]
        for number in range(20):
            with Client(port) as client:
                client.say(b"EHLO client.example")
                client.begin()
                client.send(b"Subject: reset %d\r\n\r\nx\r\n.\r\n" % number)
                reset = b"\1\0\0\0\0\0\0\0"
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        assert submit(port, "last").startswith(b"250")
        wait_until(lambda: mtad.log().count("disconnect from") >= 21, "all to be gone")
        wait_for_empty_queue(mtad)
        subjects = [str(mail["Subject"]) for mail in sink.mails()]
        assert len(subjects) == len(set(subjects))
        assert "last" in subjects
        assert "Traceback" not in mtad.log()
