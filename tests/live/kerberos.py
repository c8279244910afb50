"""A KDC for tests: a realm of its own, with a user ``alice`` who has a ticket, and services with keys.

``with running(...) as realm``; ``realm.environment`` is what its clients and servers need.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from live.daemon import mail_owner
from oracle.postfix import free_port, wait_for_port

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin"
PROGRAMS = ("krb5kdc", "kdb5_util", "kadmin.local", "kinit")
MISSING = [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]

REALM, HOST = "EXAMPLE.TEST", "localhost"


@dataclass
class Realm:
    """A KDC of its own; ``environment`` is what its clients need."""

    root: Path
    environment: dict[str, str]

    def run(self, *words: str, text: str = "") -> str:
        done = subprocess.run(
            words, input=text, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@contextmanager
def running(services: Sequence[str] = (f"smtp/{HOST}",)) -> Iterator[Realm]:
    """A KDC and alice's ticket; ``keytab`` has the keys of the services, and is for ``mail_owner``."""
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
        "PATH": PATH,
        "KRB5_CONFIG": str(root / "krb5.conf"),
        "KRB5_KDC_PROFILE": str(root / "kdc.conf"),
        "KRB5CCNAME": f"FILE:{root}/tickets",
        "KRB5RCACHETYPE": "none",
    }
    made = Realm(root, environment)
    made.run("kdb5_util", "create", "-s", "-r", REALM, "-P", "master")
    queries = ["addprinc -pw secret alice"]
    for service in services:
        queries += [f"addprinc -randkey {service}", f"ktadd -k {root}/keytab {service}"]
    for query in queries:
        made.run("kadmin.local", "-r", REALM, "-q", query)
    shutil.chown(root / "keytab", mail_owner())
    kdc = subprocess.Popen(["krb5kdc", "-n", "-r", REALM], env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        made.run("kinit", "alice", text="secret\n")
        yield made
    finally:
        kdc.terminate()
        kdc.wait(60)
        shutil.rmtree(root, ignore_errors=True)
