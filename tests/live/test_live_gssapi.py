"""GSSAPI with a real KDC, real tickets, and Cyrus' plug-in on either side."""

from __future__ import annotations

import importlib.util
import socket
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from live import kerberos
from live.daemon import Mtad, Sink
from live.kerberos import HOST, MISSING

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)} of krb5-kdc and krb5-user"),
    pytest.mark.skipif(importlib.util.find_spec("gssapi") is None, reason="needs the package gssapi"),
]

Step = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def realm() -> Iterator[kerberos.Realm]:
    with kerberos.running() as made:
        yield made


@dataclass
class House:
    mtad: Mtad
    sink: Sink
    port: int


@pytest.fixture(scope="module")
def house(realm: kerberos.Realm) -> Iterator[House]:
    with pytest.MonkeyPatch.context() as patch, Sink() as sink:
        for name in ("KRB5_CONFIG", "KRB5CCNAME", "KRB5RCACHETYPE"):
            patch.setenv(name, realm.environment[name])
        mtad = Mtad(
            {
                "myhostname": HOST,
                "smtpd_sasl_auth_enable": "yes",
                "smtpd_recipient_restrictions": "permit_sasl_authenticated, reject",
                "cyrus_sasl_config_path": "{dir}/sasl",
                "relayhost": f"[127.0.0.1]:{sink.port}",
                "import_environment": "KRB5_CONFIG KRB5CCNAME KRB5RCACHETYPE",
            },
            files={
                "sasl/smtpd.conf": f"mech_list: gssapi plain\nkeytab: {realm.root}/keytab\n"
                "sasldb_path: {dir}/none\n"
            },
        )
        with mtad:
            yield House(mtad, sink, mtad.ports["submission"])


def dialogue(port: int, step: Step, initial: bytes) -> str:
    """The last reply to a GSSAPI client, which answers by ``step``."""
    with socket.create_connection(("127.0.0.1", port), 60) as raw, raw.makefile("rwb", buffering=0) as stream:

        def ask(line: bytes) -> str:
            if line:
                stream.write(line + b"\r\n")
            reply = stream.readline()
            while reply[3:4] == b"-":
                reply = stream.readline()
            return reply.decode().strip()

        ask(b"")
        ask(b"EHLO client.test")
        reply = ask(b"AUTH GSSAPI " + b64encode(initial))
        while reply.startswith("334"):
            stream.write(b64encode(step(b64decode(reply[4:]))) + b"\r\n")
            reply = ask(b"")
        return reply


def ours(authzid: bytes = b"") -> tuple[Step, bytes]:
    from mtad.auth.gssapi import client_mechanism
    from mtad.sasl.client import ClientContext, choose

    mechanism = client_mechanism()
    assert mechanism is not None
    context = ClientContext(HOST.encode())
    client = choose(
        [b"PLAIN", b"GSSAPI"], ("mutual_auth",), authzid or b"alice", b"", authzid=bool(authzid),
        context=context, further=(mechanism,),
    )  # fmt: skip
    assert client.name == b"GSSAPI" and client.slow
    initial = client.initial()
    if initial is None:  # longer than a command line may be
        initial = client.step(b"")
    return client.step, initial


@pytest.mark.parametrize(("authzid", "code"), [(b"", "235"), (b"alice", "235"), (b"bob", "535")])
def test_a_ticket_is_a_login(house: House, authzid: bytes, code: str) -> None:
    step, initial = ours(authzid)
    assert dialogue(house.port, step, initial).startswith(code), house.mtad.log()


def test_no_ticket_no_login(house: House) -> None:
    step, _ = ours()
    assert dialogue(house.port, step, b"not a token").startswith("535 5.7.8")
    assert "SASL authentication failure: GSSAPI Error: " in house.mtad.log()


def test_it_is_announced(house: House) -> None:
    with socket.create_connection(("127.0.0.1", house.port), 20) as raw, raw.makefile("rwb") as stream:
        stream.readline()
        stream.write(b"EHLO client.test\r\n")
        stream.flush()
        lines = []
        while not lines or lines[-1][3:4] == b"-":
            lines.append(stream.readline())
    assert b"250-AUTH GSSAPI PLAIN\r\n" in lines


def test_cyrus_client(house: House) -> None:
    import libsasl

    if not libsasl.AVAILABLE:
        pytest.skip(libsasl.WHY_NOT)
    peer = libsasl.Client(b"alice", b"", host=HOST)
    try:
        status, initial, name = peer.start("GSSAPI")
        if name != "GSSAPI":
            pytest.skip("needs libsasl2-modules-gssapi-mit")
        assert status == libsasl.CONTINUE, libsasl.lines
        assert initial is not None
        assert dialogue(house.port, lambda challenge: peer.step(challenge)[1], initial).startswith("235")
    finally:
        peer.close()
