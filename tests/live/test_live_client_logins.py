"""mtad's client logs in at Debian's Postfix with Cyrus by each mechanism, and by Kerberos at mtad, too.

What Cyrus' server does not have (-PLUS, EXTERNAL, tokens) is tried against mtad itself:
``test_live_mechanisms``, ``test_live_oauth``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import smtplib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from live import kerberos
from live.daemon import Mtad, mail_owner, wait_until
from oracle.postfix import Postfix, free_port

from mtad.tables.sasldb import SaslDb

MECHANISMS = (
    "PLAIN",
    "LOGIN",
    "CRAM-MD5",
    "DIGEST-MD5",
    *(f"SCRAM-SHA-{n}" for n in (1, 224, 256, 384, 512)),
)
KERBEROS = not kerberos.MISSING and importlib.util.find_spec("gssapi") is not None
TRANSPORTS = (*MECHANISMS, *(("GSSAPI", "AT-MTAD") if KERBEROS else ()))
#: What Postfix itself needs, and Kerberos.
ENVIRONMENT = "MAIL_CONFIG MAIL_DEBUG MAIL_LOGTAG TZ LANG=C POSTLOG_SERVICE POSTLOG_HOSTNAME "
ENVIRONMENT += "KRB5_CONFIG KRB5CCNAME KRB5RCACHETYPE"


@dataclass
class House:
    client: Mtad
    postfix: Postfix
    server: Mtad | None


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        users = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="users-")))
        users.chmod(0o755)
        SaslDb(str(users / "sasldb2")).set("alice", "localhost", b"secret")
        (users / "sasldb2").chmod(0o644)
        conf = f"pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: {users}/sasldb2\n"
        conf += f"mech_list: gssapi {' '.join(MECHANISMS).lower()}\n"
        if KERBEROS:
            realm = stack.enter_context(kerberos.running())
            shutil.chown(realm.root / "tickets", mail_owner())
            for name in ("KRB5_CONFIG", "KRB5CCNAME", "KRB5RCACHETYPE"):
                patch.setenv(name, realm.environment[name])
            conf += f"keytab: {realm.root}/keytab\n"
        common = {
            "myhostname": "localhost",
            "smtpd_sasl_auth_enable": "yes",
            "smtpd_sasl_security_options": "noanonymous",
            "smtpd_relay_restrictions": "permit_sasl_authenticated, reject",
            "cyrus_sasl_config_path": "{dir}/sasl",
            "default_transport": "discard",
            "import_environment": ENVIRONMENT,
        }
        postfix = stack.enter_context(Postfix(common, files={"sasl/smtpd.conf": conf}))
        server = stack.enter_context(Mtad(common, files={"sasl/smtpd.conf": conf})) if KERBEROS else None
        yield House(stack.enter_context(client(postfix, server)), postfix, server)


def client(postfix: Postfix, server: Mtad | None) -> Mtad:
    """One that has a transport for each mechanism, and a domain for each transport."""
    routes, services = [], []
    for name in (*TRANSPORTS, "wrong"):
        port = (server if name == "AT-MTAD" and server is not None else postfix).ports["submission"]
        mechanism = {"AT-MTAD": "gssapi", "wrong": "plain"}.get(name, name.lower())
        routes.append(f"{name.lower()}.test {name.lower()}:[localhost]:{port}")
        password = "wrong" if name == "wrong" else "secret"
        services.append(
            f"{name.lower()} unix - - n - - smtp\n  -o smtp_sasl_mechanism_filter={mechanism}\n"
            f"  -o smtp_sasl_password_maps=static:alice:{password}\n"
        )
    return Mtad(
        {
            "mynetworks": "127.0.0.0/8",
            "smtpd_relay_restrictions": "permit_mynetworks, reject",
            "transport_maps": "texthash:{dir}/transport",
            "smtp_sasl_auth_enable": "yes",
            "smtp_sasl_password_maps": "static:alice:secret",
            "smtp_sasl_security_options": "noanonymous",
            "smtp_tls_security_level": "none",
            "smtp_host_lookup": "dns, native",
            "import_environment": ENVIRONMENT,
        },
        files={"transport": "".join(f"{route}\n" for route in routes)},
        ports={"submission": free_port()},
        master_extra="".join(services),
    )


def send(house: House, name: str) -> str:
    """The log line of a delivery to that domain."""
    recipient = f"to=<bob@{name.lower()}.test>"
    with smtplib.SMTP("127.0.0.1", house.client.ports["submission"]) as session:
        session.sendmail(
            "alice@example.com", [f"bob@{name.lower()}.test"], "Subject: hello\r\n\r\nHello.\r\n"
        )

    def found() -> list[str]:
        return [line for line in house.client.log().splitlines() if recipient in line and "status=" in line]

    wait_until(found, f"the delivery by {name}: {house.client.log()}")
    return found()[-1]


@pytest.mark.parametrize("mechanism", [*MECHANISMS, "GSSAPI"])
def test_at_postfix(house: House, mechanism: str) -> None:
    if mechanism not in TRANSPORTS:
        pytest.skip("needs a KDC and the package gssapi")
    line = send(house, mechanism)
    assert "status=sent" in line, line
    told = f"sasl_method={mechanism}, sasl_username=alice"
    wait_until(lambda: told in house.postfix.maillog.read_text(), told)


@pytest.mark.skipif(not KERBEROS, reason="needs a KDC and the package gssapi")
def test_by_ticket_at_mtad(house: House) -> None:
    line = send(house, "AT-MTAD")
    assert "status=sent" in line, line
    assert house.server is not None
    house.server.wait_for_log("sasl_method=GSSAPI, sasl_username=alice")


def test_a_wrong_password_waits(house: House) -> None:
    line = send(house, "wrong")
    assert "status=deferred (SASL authentication failed; server localhost[127.0.0.1] said: 535 5.7.8 " in line
