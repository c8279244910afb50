"""GSSAPI with a real KDC, real tickets, and Cyrus' plug-in on either side."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from live.daemon import Mtad, Sink, mail_owner, wait_until
from oracle.postfix import free_port

_PROGRAMS = ("krb5kdc", "kdb5_util", "kadmin.local", "kinit")
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin"
_MISSING = [program for program in _PROGRAMS if shutil.which(program, path=_PATH) is None]

pytestmark = [
    pytest.mark.skipif(bool(_MISSING), reason=f"needs {', '.join(_MISSING)} of krb5-kdc and krb5-user"),
    pytest.mark.skipif(importlib.util.find_spec("gssapi") is None, reason="needs the package gssapi"),
]

Step = Callable[[bytes], bytes]
REALM, HOST = "EXAMPLE.TEST", "localhost"


@dataclass
class Realm:
    """A KDC of its own; ``environment`` is what its clients need."""

    root: Path
    environment: dict[str, str]

    def run(self, *words: str, text: str = "") -> str:
        done = subprocess.run(
            words, input=text, env=self.environment, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def realm() -> Iterator[Realm]:
    root = Path(tempfile.mkdtemp(prefix="realm-"))
    root.chmod(0o755)
    port = free_port()
    (root / "krb5.conf").write_text(
        f"[libdefaults]\n default_realm = {REALM}\n dns_lookup_kdc = false\n rdns = false\n"
        f" dns_canonicalize_hostname = false\n"
        f"[realms]\n {REALM} = {{\n  kdc = 127.0.0.1:{port}\n }}\n[domain_realm]\n {HOST} = {REALM}\n"
    )
    (root / "kdc.conf").write_text(
        f"[kdcdefaults]\n kdc_listen = 127.0.0.1:{port}\n kdc_tcp_listen = 127.0.0.1:{port}\n"
        f"[realms]\n {REALM} = {{\n  database_name = {root}/principal\n  key_stash_file = {root}/stash\n }}\n"
    )
    environment = {
        **os.environ,
        "PATH": _PATH,
        "KRB5_CONFIG": str(root / "krb5.conf"),
        "KRB5_KDC_PROFILE": str(root / "kdc.conf"),
        "KRB5CCNAME": f"FILE:{root}/tickets",
        "KRB5RCACHETYPE": "none",
    }
    made = Realm(root, environment)
    made.run("kdb5_util", "create", "-s", "-r", REALM, "-P", "master")
    service = f"smtp/{HOST}"
    for query in (
        "addprinc -pw secret alice",
        f"addprinc -randkey {service}",
        f"ktadd -k {root}/keytab {service}",
    ):
        made.run("kadmin.local", "-r", REALM, "-q", query)
    shutil.chown(root / "keytab", mail_owner())
    kdc = subprocess.Popen(["krb5kdc", "-n", "-r", REALM], env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _listens(port), "the KDC")
        made.run("kinit", "alice", text="secret\n")
        yield made
    finally:
        kdc.terminate()
        kdc.wait(10)
        shutil.rmtree(root, ignore_errors=True)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class House:
    mtad: Mtad
    sink: Sink
    port: int


@pytest.fixture(scope="module")
def house(realm: Realm) -> Iterator[House]:
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
    with socket.create_connection(("127.0.0.1", port), 20) as raw, raw.makefile("rwb", buffering=0) as stream:

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
