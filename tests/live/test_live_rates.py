"""Limits by client, over several workers, reloads and deaths."""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from live.daemon import Mtad, wait_until

from mtad.tables.sasldb import SaslDb

SERVICES = (
    ("count", {"smtpd_client_connection_count_limit": "6"}),
    ("rate", {"smtpd_client_message_rate_limit": "10"}),
)


@pytest.fixture(scope="module")
def mtad() -> Iterator[Mtad]:
    main = {
        "mtad_smtpd_workers": "3",
        "smtpd_client_event_limit_exceptions": "",
        "anvil_rate_time_unit": "1h",
        "smtpd_peername_lookup": "no",
    }
    with Mtad(main, SERVICES) as daemon:
        wait_until(lambda: ended(daemon) == len(SERVICES), "the ends of the sessions that tried the ports")
        yield daemon


def dial(mtad: Mtad, service: str, stack: ExitStack) -> tuple[socket.socket, bytes]:
    """A connection, and its greeting."""
    client = stack.enter_context(socket.create_connection(("127.0.0.1", mtad.ports[service]), timeout=60))
    return client, client.recv(1000)


def say(client: socket.socket, line: str) -> bytes:
    client.sendall(line.encode() + b"\r\n")
    return client.recv(1000)


def fill(mtad: Mtad, stack: ExitStack) -> int:
    """Open connections until one is refused; how many were not."""
    for number in range(100):
        _, greeting = dial(mtad, "count", stack)
        if not greeting.startswith(b"220 "):
            assert greeting == b"421 4.7.0 mail.example.com Error: too many connections from 127.0.0.1\r\n"
            return number
    raise AssertionError("no limit")


def ended(mtad: Mtad) -> int:
    return mtad.log().count("]: disconnect from ")


def workers(mtad: Mtad) -> dict[str, int]:
    """Sessions that have begun and not ended, by the process that has them."""
    found: dict[str, int] = {}
    for pid, what in re.findall(r"/smtpd\[(\d+)\]: (connect|disconnect) from ", mtad.log()):
        found[pid] = found.get(pid, 0) + (1 if what == "connect" else -1)
    return found


def test_the_number_of_sessions_is_exact_and_survives_a_reload_and_a_death(mtad: Mtad) -> None:
    with ExitStack() as stack:
        assert fill(mtad, stack) == 6
        assert mtad.command("reload").returncode == 0
        assert fill(mtad, stack) == 0  # the old workers' sessions count
        wait_until(lambda: sum(workers(mtad).values()) == 6, "the ends of the refused")
        victim, left = max(workers(mtad).items(), key=lambda item: item[1])
        os.kill(int(victim), signal.SIGKILL)
        wait_until(lambda: not os.path.exists(f"/proc/{victim}"), "its end")
        assert fill(mtad, stack) == left

    def all_free() -> bool:
        with ExitStack() as stack:
            return fill(mtad, stack) == 6

    wait_until(all_free, "the ends of all sessions")


def test_a_rate_is_exact_over_all_workers(mtad: Mtad) -> None:
    with ExitStack() as stack:
        clients = [dial(mtad, "rate", stack)[0] for _ in range(15)]
        said = []
        for client in clients:
            say(client, "EHLO c.example")
        for client in clients:
            client.sendall(b"MAIL FROM:<a@example.com>\r\n")
        said = [client.recv(1000) for client in clients]
        assert said.count(b"250 2.1.0 Ok\r\n") == 10
        assert said.count(b"450 4.7.1 Error: too much mail from 127.0.0.1\r\n") == 5
        numbers = re.findall(r"Message delivery request rate limit exceeded: (\d+) from", mtad.log())
        assert sorted(map(int, numbers)) == [11, 12, 13, 14, 15]
        assert len({pid for pid, count in workers(mtad).items() if count}) > 1
    assert mtad.command("reload").returncode == 0
    with ExitStack() as stack:
        client, _ = dial(mtad, "rate", stack)
        say(client, "EHLO c.example")
        assert say(client, "MAIL FROM:<a@example.com>").startswith(b"450 4.7.1 ")
        assert "from unknown[127.0.0.1] for service 127.0.0.1:" in mtad.log()


def test_logins_are_counted_by_all_workers_and_over_restarts() -> None:
    main = {
        "mtad_smtpd_workers": "2",
        "smtpd_sasl_auth_enable": "yes",
        "cyrus_sasl_config_path": "{dir}/sasl",
        "mtad_sasl_message_rate_limit": "4",
        "mtad_sasl_new_recipient_limit": "2",
        "smtpd_peername_lookup": "no",
    }
    files = {
        "sasl/smtpd.conf": "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: {dir}/sasldb2\n"
        "mech_list: PLAIN\n"
    }
    with Mtad(main, files=files) as daemon:
        database = daemon.directory / "sasldb2"
        SaslDb(str(database)).set("alice", "mail.example.com", b"secret")
        database.chmod(0o644)

        def begin(stack: ExitStack) -> socket.socket:
            client, _ = dial(daemon, "submission", stack)
            say(client, "EHLO c.example")
            secret = base64.b64encode(b"\0alice@mail.example.com\0secret").decode()
            assert say(client, f"AUTH PLAIN {secret}").startswith(b"235 ")
            return client

        said = []
        with ExitStack() as stack:
            for client in [begin(stack) for _ in range(3)]:
                said.append(say(client, "MAIL FROM:<a@example.com>"))
            said += [say(client, f"RCPT TO:<{name}@example.com>") for name in ("bob", "carol", "dora", "bob")]
        assert daemon.command("stop").returncode == 0
        daemon.start()
        with ExitStack() as stack:
            client = begin(stack)
            said.append(say(client, "MAIL FROM:<a@example.com>"))
            said += [say(client, f"RCPT TO:<{name}@example.com>") for name in ("carol", "eve")]
            say(client, "RSET")
            said.append(say(client, "MAIL FROM:<a@example.com>"))
    ok, mail = b"250 2.1.5 Ok\r\n", b"250 2.1.0 Ok\r\n"
    strangers = b"450 4.7.1 Error: too many new recipients from alice@mail.example.com\r\n"
    too_much = b"450 4.7.1 Error: too much mail from alice@mail.example.com\r\n"
    assert said == [mail, mail, mail, ok, ok, strangers, ok, mail, ok, strangers, too_much]
