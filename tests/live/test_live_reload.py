"""Reload: whole or not at all; no connection refused, no session cut, no mail sent twice."""

from __future__ import annotations

import os
import signal
import ssl
import threading
from collections import Counter
from collections.abc import Iterator

import pytest
from live.daemon import Mtad, Sink, wait_until
from live.load import Load, silent
from live.peers import Client, Peer, Talk, submit, trusting

from mtad.net.certificates import make_self_signed

SETTINGS = {"mynetworks": "127.0.0.0/8"}


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as running:
        yield running


@pytest.fixture
def mtad(sink: Sink) -> Iterator[Mtad]:
    with Mtad({**SETTINGS, "relayhost": f"[127.0.0.1]:{sink.port}"}) as running:
        yield running


def port(mtad: Mtad) -> int:
    return mtad.ports["submission"]


def banner(mtad: Mtad) -> str:
    with Client(port(mtad)) as client:
        return client.greeting.decode()


def reload(mtad: Mtad, **changes: str) -> None:
    mtad.write_main_cf(**changes)
    done = mtad.command("reload")
    assert done.returncode == 0, done.stderr + mtad.log()[-2000:]


def test_under_load_nothing_is_refused_or_cut(mtad: Mtad, sink: Sink) -> None:
    with Load(port(mtad), mails=2) as load:
        for number in range(6):
            wanted = load.sessions + 5
            reload(mtad, smtpd_banner=f"mail.example.com ESMTP number {number}")
            assert f"number {number}" in banner(mtad)
            wait_until(lambda wanted=wanted: load.sessions > wanted, "more sessions")
        load.stop()
        assert load.refused == []
        assert load.cut == []
        wait_until(
            lambda: Counter(str(mail["Subject"]) for mail in sink.mails()) == Counter(load.accepted),
            f"each of {len(load.accepted)} mails exactly once, got {len(sink.raw())}",
        )
    wait_until(lambda: len(mtad.children()) == 1 + (os.cpu_count() or 1), "old processes to end")
    print(f"{load.sessions} sessions, {len(load.accepted)} mails, 6 reloads")


def test_an_open_session_goes_on_with_the_old_configuration(mtad: Mtad, sink: Sink) -> None:
    with Client(port(mtad)) as old, Client(port(mtad)) as halfway:
        assert b"SIZE 10240000" in old.say(b"EHLO client.example")
        halfway.say(b"EHLO client.example")
        halfway.begin()
        halfway.send(b"Subject: halfway\r\n\r\n")
        reload(mtad, message_size_limit="12345678", smtpd_banner="mail.example.com ESMTP new")
        with Client(port(mtad)) as new:
            assert new.greeting == b"220 mail.example.com ESMTP new\r\n"
            assert b"SIZE 12345678" in new.say(b"EHLO client.example")
            assert new.submit("new").startswith(b"250 2.0.0 Ok: queued as")
        halfway.send(b"text\r\n.\r\n")
        assert halfway.reply().startswith(b"250 2.0.0 Ok: queued as")
        assert b"SIZE 10240000" in old.say(b"EHLO client.example")
        assert old.submit("old").startswith(b"250 2.0.0 Ok: queued as")
        sink.wait_for(3)
        assert old.say(b"QUIT") == b"221 2.0.0 Bye\r\n"
        assert halfway.say(b"QUIT") == b"221 2.0.0 Bye\r\n"
    wait_until(lambda: len(mtad.children()) == 1 + (os.cpu_count() or 1), "the old processes to end")


@pytest.mark.parametrize(
    ("file", "text", "wanted"),
    [
        ("main.cf", "message_size_limit = many\n", "bad numerical configuration: message_size_limit = many"),
        ("main.cf", "smtpd_relay_restrictions = permit_mynetworks\n", "smtpd_relay_restrictions"),
        ("main.cf", "smtpd_tls_security_level=may\nsmtpd_tls_cert_file={dir}/nowhere.pem\n", "nowhere.pem"),
        ("master.cf", "127.0.0.1:99999999 inet n - n - - smtpd\n", "99999999"),
        ("master.cf", "nonsense\n", "master.cf, line 2: "),
    ],
)  # fmt: skip
def test_a_broken_configuration_is_refused(mtad: Mtad, file: str, text: str, wanted: str) -> None:
    path = mtad.directory / file
    good = path.read_text()
    before = mtad.children()
    lines = good.count("\n")
    path.write_text(good + text.replace("{dir}", str(mtad.directory)))
    done = mtad.command("reload")
    assert done.returncode == 1
    assert wanted in done.stderr
    assert f"{path}, line {lines + 1}" in done.stderr or f"{path}, line {lines + 2}" in done.stderr
    os.kill(mtad.pid, signal.SIGHUP)
    log = mtad.wait_for_log("reload refused: ")
    refusal = log.partition("reload refused: ")[2]
    assert wanted in refusal and str(path) in refusal
    assert mtad.children() == before
    assert banner(mtad) == "220 mail.example.com ESMTP Postfix\r\n"
    path.write_text(good)
    reload(mtad, smtpd_banner="mail.example.com ESMTP mended")
    assert banner(mtad) == "220 mail.example.com ESMTP mended\r\n"


def test_processes_that_cannot_start_leave_the_old_ones_alone(mtad: Mtad, sink: Sink) -> None:
    """The configuration is good, but the queue cannot be opened: which only the new processes find out."""
    before = mtad.children()
    database = mtad.queue / "mtad" / "queue.db"
    hidden = database.with_name("hidden")
    database.rename(hidden)
    database.write_bytes(b"no database at all" * 1000)
    done = mtad.command("reload")
    assert done.returncode == 1
    assert "file is not a database" in done.stderr
    database.unlink()
    hidden.rename(database)
    wait_until(lambda: mtad.children() == before, "the new processes to end")
    assert submit(port(mtad), "still here").startswith(b"250")
    sink.wait_for(1)
    reload(mtad, smtpd_banner="mail.example.com ESMTP again")
    assert banner(mtad) == "220 mail.example.com ESMTP again\r\n"


def test_sighup_reloads(mtad: Mtad) -> None:
    mtad.write_main_cf(smtpd_banner="mail.example.com ESMTP hup")
    os.kill(mtad.pid, signal.SIGHUP)
    wait_until(lambda: "ESMTP hup" in banner(mtad), "the new banner")


def test_listeners_come_and_go(mtad: Mtad, sink: Sink) -> None:
    """A second port is opened, the first one closed; the session on it lives on."""
    from oracle.postfix import free_port

    mtad.ports["second"] = free_port()
    both = [("submission", {}), ("second", {"smtpd_banner": "mail.example.com ESMTP second"})]
    mtad.write_master_cf(both)
    reload(mtad)
    with Client(mtad.ports["second"]) as client:
        assert b"ESMTP second" in client.greeting
    with Client(port(mtad)) as old:
        assert b"ESMTP Postfix" in old.greeting
        old.say(b"EHLO client.example")
        mtad.write_master_cf(both[1:])
        reload(mtad)
        assert silent(port(mtad))
        assert old.submit("on a closed port").startswith(b"250")
    sink.wait_for(1)
    mtad.write_master_cf(both[:1])
    reload(mtad)
    assert "ESMTP Postfix" in banner(mtad)
    assert silent(mtad.ports["second"])


def test_a_port_in_use_is_refused_by_name(mtad: Mtad, sink: Sink) -> None:
    good = (mtad.directory / "master.cf").read_text()
    (mtad.directory / "master.cf").write_text(good + f"127.0.0.1:{sink.port} inet n - n - - smtpd\n")
    done = mtad.command("reload")
    assert done.returncode == 1
    assert f"another program listens on 127.0.0.1:{sink.port} already" in done.stderr
    assert "master.cf, line 2" in done.stderr
    assert banner(mtad).startswith("220")


def test_other_interfaces_take_a_stop_and_a_start(mtad: Mtad) -> None:
    (mtad.directory / "master.cf").write_text(f"0.0.0.0:{port(mtad)} inet n - n - - smtpd\n")
    done = mtad.command("reload")
    assert done.returncode == 1
    assert f"cannot listen on 0.0.0.0:{port(mtad)} beside 127.0.0.1:{port(mtad)}" in done.stderr
    assert "stop and start" in done.stderr
    assert banner(mtad).startswith("220")
    assert mtad.command("stop").returncode == 0
    mtad.start()
    assert banner(mtad).startswith("220")


def certificate(mtad: Mtad) -> bytes:
    with Client(port(mtad)) as client:
        client.say(b"EHLO client.example")
        assert client.say(b"STARTTLS").startswith(b"220")
        client.start_tls()
        assert isinstance(client.socket, ssl.SSLSocket)
        return client.socket.getpeercert(binary_form=True) or b""


def test_a_changed_certificate_is_shown_to_new_sessions(sink: Sink) -> None:
    mtad = Mtad(
        {
            **SETTINGS,
            "relayhost": f"[127.0.0.1]:{sink.port}",
            "smtpd_tls_security_level": "may",
            "smtpd_tls_chain_files": "{dir}/key.pem, {dir}/cert.pem",
        }
    )
    cert, key = str(mtad.directory / "cert.pem"), str(mtad.directory / "key.pem")
    make_self_signed("localhost", cert, key)
    with mtad:
        first = certificate(mtad)
        assert certificate(mtad) == first
        with Client(port(mtad)) as old:
            old.say(b"EHLO client.example")
            make_self_signed("localhost", cert, key)
            reload(mtad)
            second = certificate(mtad)
            assert second != first
            assert old.say(b"STARTTLS").startswith(b"220")
            old.socket = trusting().wrap_socket(old.socket)
            assert old.socket.getpeercert(binary_form=True) == first
            old.say(b"EHLO client.example")
            assert old.submit("by the old certificate").startswith(b"250")
        sink.wait_for(1)


def test_many_reloads_at_once(mtad: Mtad, sink: Sink) -> None:
    codes: list[int] = []

    def run() -> None:
        codes.append(mtad.command("reload").returncode)

    with Load(port(mtad), clients=2) as load:
        mtad.write_main_cf(smtpd_banner="mail.example.com ESMTP last")
        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            os.kill(mtad.pid, signal.SIGHUP)
        for thread in threads:
            thread.join()
        assert codes == [0, 0, 0, 0]
        assert "ESMTP last" in banner(mtad)
        reload(mtad, smtpd_banner="mail.example.com ESMTP very last")
        assert "ESMTP very last" in banner(mtad)
        load.stop()
    assert (load.refused, load.cut) == ([], [])
    wait_until(lambda: len(sink.raw()) >= len(load.accepted), "all mail")
    assert len(sink.raw()) == len(load.accepted)
    wait_until(lambda: len(mtad.children()) == 1 + (os.cpu_count() or 1), "the old processes to end")
    assert "Traceback" not in mtad.log()


def test_a_slow_delivery_goes_on_through_reloads_and_new_mail_does_not_wait() -> None:
    let_go = threading.Event()

    def slow(talk: Talk) -> bytes:
        if b"Subject: slow" in talk.bodies[-1]:
            let_go.wait(60)
        return b"250 kept\r\n"

    with Peer({"dot": slow}) as peer, Mtad({**SETTINGS, "relayhost": f"[127.0.0.1]:{peer.port}"}) as mtad:
        assert submit(port(mtad), "slow").startswith(b"250")
        wait_until(lambda: len(peer.bodies()) == 1, "the slow delivery")
        for number in range(3):
            reload(mtad, smtpd_banner=f"mail.example.com ESMTP {number}")
            assert submit(port(mtad), f"quick {number}").startswith(b"250")
            wait_until(lambda number=number: len(peer.bodies()) == 2 + number, "the quick delivery")
        listing = mtad.command("postqueue", "-p").stdout
        assert "in 1 Request" in listing
        let_go.set()
        wait_until(
            lambda: mtad.command("postqueue", "-p").stdout == "Mail queue is empty\n", "an empty queue"
        )
        subjects = Counter(body.partition(b"Subject: ")[2].partition(b"\r")[0] for body in peer.bodies())
        assert subjects == {b"slow": 1, b"quick 0": 1, b"quick 1": 1, b"quick 2": 1}
        wait_until(lambda: len(mtad.children()) == 1 + (os.cpu_count() or 1), "the old processes to end")


def test_what_a_killed_old_manager_had_in_hand_is_taken_up() -> None:
    """The old queue manager has a slow delivery and is killed: the new one delivers the message."""
    let_go = threading.Event()

    def slow(talk: Talk) -> bytes:
        if len(peer.talks) == 1:
            let_go.wait(60)
        return b"250 kept\r\n"

    with Peer({"dot": slow}) as peer, Mtad({**SETTINGS, "relayhost": f"[127.0.0.1]:{peer.port}"}) as mtad:
        assert submit(port(mtad), "slow").startswith(b"250")
        wait_until(lambda: len(peer.bodies()) == 1, "the slow delivery")
        before = mtad.children()
        reload(mtad)
        wait_until(lambda: len(set(mtad.children()) & set(before)) == 1, "the other old processes to end")
        (old,) = set(mtad.children()) & set(before)
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: len(peer.bodies()) == 2, "the delivery by the new manager")
        mtad.wait_for_log(": removed")
        let_go.set()
