"""The running daemon under guessing and garbage: locked pairs in all workers, one final reply to anything."""

from __future__ import annotations

import pwd
import socket
from base64 import b64encode
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live.daemon import Mtad, mail_owner, wait_until
from live.peers import Client

from mtad.sasl.server import MECHANISMS
from mtad.tables.sasldb import SaslDb

NAMES = [each.name.decode() for each in MECHANISMS]


@pytest.fixture(scope="module")
def mtad() -> Iterator[Mtad]:
    server = Mtad(
        {
            "myhostname": "mail.test",
            "mtad_smtpd_workers": "3",
            "smtpd_sasl_auth_enable": "yes",
            "smtpd_sasl_security_options": "",
            "smtpd_sasl_mechanism_filter": "static:rest",
            "smtpd_error_sleep_time": "0",
            "smtpd_hard_error_limit": "1000",
            "smtpd_relay_restrictions": "permit_sasl_authenticated, reject",
            "cyrus_sasl_config_path": "{dir}/sasl",
            "mtad_sasl_channel_binding": "yes",
            "mtad_external_login_names": "cn",
        },
        services=(
            ("submission", {}),
            ("limited", {"mtad_auth_failure_limit": "4", "mtad_auth_failure_time": "1h"}),
        ),
        files={
            "sasl/smtpd.conf": "auxprop_plugin: sasldb\nsasldb_path: {dir}/sasldb2\n"
            f"mech_list: {' '.join(NAMES)}\n"
        },
    )
    db = str(server.directory / "sasldb2")
    SaslDb(db).set("alice", "mail.test", b"secret")
    (server.directory / "sasldb2").chmod(0o644)
    with server:
        yield server


def login(port: int, password: bytes, source: str = "127.0.0.1") -> bytes:
    """The reply to a login in a session of its own, which some worker has."""
    with socket.create_connection(("127.0.0.1", port), 20, (source, 0)) as raw, raw.makefile("rwb") as wire:
        wire.readline()
        for line in (b"HELO x", b"AUTH PLAIN " + b64encode(b"\0alice\0" + password)):
            wire.write(line + b"\r\n")
            wire.flush()
            reply = wire.readline()
    return reply


def test_a_guesser_is_locked_out_in_all_workers(mtad: Mtad) -> None:
    port = mtad.ports["limited"]
    assert mtad.command("status").stdout == ""
    replies = [login(port, b"guess%d" % number) for number in range(12)]
    assert [reply[:3] for reply in replies] == [b"535"] * 4 + [b"454"] * 8
    assert replies[-1] == (
        b"454 4.7.0 Temporary authentication failure: too many failed logins, try again later\r\n"
    )
    assert {login(port, b"secret")[:3] for _ in range(6)} == {b"454"}  # the right guess tells him nothing
    assert login(port, b"secret", "127.0.0.2").startswith(b"235")  # where the owner is
    assert login(mtad.ports["submission"], b"secret").startswith(b"235")  # which has no such limit
    told = mtad.command("status").stdout
    assert told.startswith("login alice from 127.0.0.1/32 is locked until ")
    assert told.endswith("(4 failures)\n")
    log = mtad.wait_for_log(
        "login alice is locked for clients in 127.0.0.1/32 after 4 failures, for 3600 seconds"
    )
    assert "too many failed logins, try again later, sasl_username=alice" in log
    status = (mtad.queue / "mtad" / "auth-failures").stat()
    assert (status.st_mode & 0o777, status.st_uid) == (0o600, _uid())


def _uid() -> int:
    return pwd.getpwnam(mail_owner()).pw_uid


_PIECES = st.sampled_from(
    [
        b"", b"\0", b"alice", b"secret", b"n,,", b"y,,", b"p=tls-unique,,", b"a=bob,", b"n=alice,", b",",
        b"r=abcdef", b"c=biws,", b"p=AAAA", b'username="alice",', b'nonce="x",', b"nc=00000001,", b"\xff\xfe",
        b"hex:0011", b" ", b"word:A B C", b"\r\n", b"A" * 3000, b'"', b"\\", b"user=alice\1auth=Bearer x\1\1",
    ]
)  # fmt: skip
_SAID = st.one_of(
    st.lists(_PIECES, max_size=8).map(b"".join).map(b64encode),
    st.binary(max_size=60).map(b64encode),
    st.binary(max_size=60).map(lambda data: data.replace(b"\r", b"").replace(b"\n", b"")),
    st.sampled_from([b"", b"=", b"====", b"*", b"A" * 12288, b"A" * 13000, b"AA=A", b"\0", b"\xff"]),
)


def _fits(response: bytes) -> bool:
    """Within a command line: where a longer one goes on for long, the server hears no more at all."""
    return len(response) < 2000


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([*NAMES, "X", ""]),
    st.none() | _SAID.filter(_fits),
    st.lists(_SAID, min_size=6, max_size=6),
)
def test_anything_comes_to_one_final_reply(
    mtad: Mtad, name: str, initial: bytes | None, said: list[bytes]
) -> None:
    with Client(mtad.ports["submission"]) as bystander, Client(mtad.ports["submission"]) as client:
        bystander.say(b"EHLO x")
        client.say(b"EHLO x")
        reply = client.say(b"AUTH " + name.encode() + (b"" if initial is None else b" " + initial))
        for line in said:
            if not reply.startswith(b"334"):
                break
            reply = client.say(line)
        assert reply[:3] in (b"235", b"334", b"454", b"500", b"501", b"503", b"504", b"535"), reply
        if reply.startswith(b"334"):
            assert client.say(b"*").startswith(b"501 5.7.0 Authentication aborted")
        assert client.say(b"NOOP") == b"250 2.0.0 Ok\r\n"
        assert bystander.say(b"AUTH PLAIN " + b64encode(b"\0alice\0secret")).startswith(b"235")


def test_nothing_of_that_was_a_mistake_of_ours(mtad: Mtad) -> None:
    wait_until(lambda: login(mtad.ports["submission"], b"secret").startswith(b"235"), "a login")
    log = mtad.log()
    assert log.count(" connect from ") > 200
    assert "panic" not in log and "Traceback" not in log
    assert "secret" not in log.replace("SASL authentication failure: empty secret", "")
