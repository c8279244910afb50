"""Every back end of saslauthd, Cyrus' and ours, asked by mtad: each against the real thing behind it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from live import kerberos
from live.checking import MISSING, PROGRAMS, WHY_NOT, Logins, running
from live.daemon import wait_until
from live.databases import why_not
from live.load import silent
from live.people import People
from oracle.postfix import free_port

from mtad.auth.authenticator import Granted

pytestmark = pytest.mark.skipif(MISSING, reason=WHY_NOT)

BOTH = pytest.mark.parametrize("program", PROGRAMS, ids=["cyrus", "mtad"])
REFUSED = "535 5.7.8 Error: authentication failed: authentication failure"


def replies(root: Path, mux: Path, *pairs: tuple[bytes, bytes]) -> list[str]:
    """What a client hears for each name and password."""
    logins = Logins(root, mux)
    outcomes = [logins.results(logins.plain(*pair))[0] for pair in pairs]
    return ["granted" if isinstance(each, Granted) else str(each.reply) for each in outcomes]


@BOTH
def test_getpwent(program: str, tmp_path: Path) -> None:
    """Passwords in passwd(5) itself; those elsewhere are none."""
    with running("getpwent", tmp_path, program) as mux:
        said = replies(
            tmp_path,
            mux,
            (b"plain", b"secret"),
            (b"plain", b"x"),
            (b"alice", b"secret"),
            (b"nobody-here", b"x"),
        )
    assert said == ["granted", REFUSED, REFUSED, REFUSED], (tmp_path / "log").read_text()


@BOTH
def test_shadow_ages(program: str, tmp_path: Path) -> None:
    """Accounts and passwords that have expired, or are locked."""
    users = (b"alice", b"expired", b"aged", b"mustchange", b"locked", b"nobody-here")
    with running("shadow", tmp_path, program) as mux:
        said = replies(tmp_path, mux, *((user, b"secret") for user in users))
        assert replies(tmp_path, mux, (b"locked", b"!")) == [REFUSED]
    assert dict(zip(users, said, strict=True)) == {
        b"alice": "granted",
        b"expired": REFUSED,
        b"aged": REFUSED,
        # Cyrus' daemon knows no day 0 on which a password has to be changed
        b"mustchange": REFUSED if "mtad" in program else "granted",
        b"locked": REFUSED,
        b"nobody-here": REFUSED,
    }, (tmp_path / "log").read_text()


def test_ldap(tmp_path: Path) -> None:
    reason = why_not(People, "ldap")
    if reason:
        pytest.skip(reason)
    with People() as people:
        (tmp_path / "ldap.conf").write_text(
            f"ldap_servers: ldap://127.0.0.1:{people.port}/\nldap_search_base: dc=example,dc=com\n"
            "ldap_bind_dn: cn=manager,dc=example,dc=com\nldap_password: managerpw\nldap_filter: uid=%u\n"
            "ldap_auth_method: bind\n"
        )
        with running("ldap", tmp_path, options=f"-O {tmp_path}/ldap.conf") as mux:
            said = replies(
                tmp_path,
                mux,
                (b"alice", b"secret"),
                (b"hash", b"secret"),
                (b"alice", b"x"),
                (b"nobody", b"x"),
            )
    assert said == ["granted", "granted", REFUSED, REFUSED], (tmp_path / "log").read_text()


@pytest.mark.skipif(bool(kerberos.MISSING), reason="needs a KDC (krb5-kdc, krb5-admin-server, krb5-user)")
def test_kerberos5(tmp_path: Path) -> None:
    host = socket.gethostname().lower()
    with kerberos.running([f"host/{host}"]) as realm:
        (tmp_path / "krb5").write_text(f"krb5_keytab: {realm.root}/keytab\n")
        with running(
            "kerberos5", tmp_path, options=f"-O {tmp_path}/krb5", environment=realm.environment
        ) as mux:
            said = replies(tmp_path, mux, (b"alice", b"secret"), (b"alice", b"x"), (b"nobody", b"secret"))
    assert said == ["granted", REFUSED, REFUSED], (tmp_path / "log").read_text()


@contextmanager
def imap_server() -> Iterator[int]:
    """A Dovecot that serves IMAP; its port."""
    root, port = Path(tempfile.mkdtemp(prefix="imap-")), free_port()
    root.chmod(0o755)
    (root / "users").write_text('alice:{PLAIN}secret\nodd:{PLAIN}a "quoted\\word" {5}\n')
    (root / "dovecot.conf").write_text(
        f"base_dir = {root}/run\nstate_dir = {root}/state\nlog_path = {root}/log\nprotocols = imap\n"
        "ssl = no\nauth_mechanisms = plain login\nauth_failure_delay = 0\ndisable_plaintext_auth = no\n"
        f"mail_location = maildir:{root}/mail/%u\nfirst_valid_uid = 1\n"
        f"passdb {{\n  driver = passwd-file\n  args = scheme=PLAIN {root}/users\n}}\n"
        f"userdb {{\n  driver = static\n  args = uid=nobody gid=nogroup home={root}/mail/%u\n}}\n"
        "service anvil {\n  unix_listener anvil-auth-penalty {\n    mode = 0\n  }\n}\n"
        f"service imap-login {{\n  inet_listener imap {{\n    address = 127.0.0.1\n    port = {port}\n  }}\n"
        "  inet_listener imaps {\n    port = 0\n  }\n}\n"
    )
    (root / "mail").mkdir()
    shutil.chown(root / "mail", "nobody")
    process = subprocess.Popen(
        ["dovecot", "-F", "-c", str(root / "dovecot.conf")],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: process.poll() is not None or not silent(port), "Dovecot")
        assert process.poll() is None, (root / "log").read_text()
        yield port
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(root, ignore_errors=True)


@pytest.mark.skipif(
    not os.path.exists("/usr/lib/dovecot/imap-login"), reason="needs Dovecot's IMAP server (dovecot-imapd)"
)
@BOTH
def test_rimap(program: str, tmp_path: Path) -> None:
    with imap_server() as port, running("rimap", tmp_path, program, f"-O 127.0.0.1/{port}") as mux:
        said = replies(
            tmp_path, mux, (b"alice", b"secret"), (b"odd", b'a "quoted\\word" {5}'), (b"alice", b"x"),
            (b"nobody", b"secret"), (b'alice" secret', b"x"), (b"alice", b"secret\r\nC02 LOGIN"),
        )  # fmt: skip
        assert said == ["granted", "granted", *[REFUSED] * 4], (tmp_path / "log").read_text()
    with running("rimap", tmp_path, program, f"-O 127.0.0.1/{port}") as mux:  # whose server is gone
        assert replies(tmp_path, mux, (b"alice", b"secret"))[0] != "granted"
