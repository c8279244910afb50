"""The two mail systems, on the same configuration, in directories of their own.

What both are given, beyond names and ports:

- a login by auxprop from one sasldb2; STARTTLS with one self-made P-256 certificate;
- everything relayed to one sink without TLS (``relayhost``, ``smtp_tls_security_level = none``);
- ``mynetworks`` empty, so that only a login lets mail through; the service ``plain`` for (b) has no TLS and
  no login, and 127.0.0.0/8 in ``mynetworks``;
- ``message_size_limit`` raised for (c);
- no limit of connections a client, since all clients come from 127.0.0.1 (with none, Postfix does not ask
  anvil(8) at all, which is in its favour);
- ``in_flow_delay = 0``: Postfix would otherwise hold new mail back to favour delivery;
- ``maillog_file``, so that Postfix logs by its own postlogd(8) and not by somebody else's process.

All else is as Postfix has it: 100 processes a service, 20 deliveries at a time to the sink, connections to it
reused, ``fsync`` before ``250``.  For the memory of idle connections ``default_process_limit`` is raised to
what they need, and ``smtpd_timeout`` to an hour.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from live.daemon import Mtad, mail_owner
from meters import Tree
from oracle.postfix import AVAILABLE, WHY_NOT, Postfix, free_port

from mtad.net.certificates import make_self_signed
from mtad.tables.sasldb import SaslDb

__all__ = ["System", "free_port", "main_cf", "prepare", "running", "unavailable", "version"]

USER, REALM, PASSWORD = "alice", "example.com", "wonderland"
LOGIN = f"{USER}@{REALM}"

_KINDS: dict[str, type[Postfix] | type[Mtad]] = {"postfix": Postfix, "mtad": Mtad}
_SERVICES = (
    ("submission", {"smtpd_tls_security_level": "encrypt"}),
    (
        "plain",
        {
            "smtpd_tls_security_level": "none",
            "smtpd_sasl_auth_enable": "no",
            "mynetworks": "127.0.0.0/8",
        },
    ),
)


def prepare(directory: Path) -> None:
    """Write the certificate and the users' file that both share."""
    make_self_signed("mail.example.com", str(directory / "cert.pem"), str(directory / "key.pem"))
    users = str(directory / "sasldb2")
    SaslDb(users).set(USER, REALM, PASSWORD.encode())
    with contextlib.suppress(PermissionError):
        shutil.chown(users, mail_owner())
    directory.chmod(0o755)


def main_cf(directory: Path, sink: int) -> dict[str, str]:
    """The configuration of both."""
    return {
        "smtpd_tls_chain_files": f"{directory}/key.pem, {directory}/cert.pem",
        "smtpd_tls_security_level": "may",
        "smtpd_tls_auth_only": "yes",
        "smtpd_sasl_auth_enable": "yes",
        "cyrus_sasl_config_path": "{dir}/sasl",
        "mynetworks": "",
        "smtpd_relay_restrictions": "permit_mynetworks, permit_sasl_authenticated, reject",
        "smtpd_client_connection_count_limit": "0",
        "relayhost": f"[127.0.0.1]:{sink}",
        "smtp_tls_security_level": "none",
        "message_size_limit": "52428800",
        "mailbox_size_limit": "0",
        "in_flow_delay": "0",
    }


@dataclass(frozen=True, slots=True)
class System:
    """A mail system that runs."""

    name: str
    ports: dict[str, int]
    tree: Tree
    log: Path
    instance: Postfix | Mtad

    def complaints(self) -> list[str]:
        """Lines of its log that a good run does not have."""
        words = (" fatal: ", " panic: ", " error: ", "status=deferred", "status=bounced")
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return [line for line in text.splitlines() if any(word in line for word in words)]


def unavailable(name: str) -> str:
    """Why the system can't be measured here; empty if it can."""
    if name == "postfix" and not AVAILABLE:
        return f"{WHY_NOT} (apt-get install postfix libsasl2-modules; or leave it out by --systems mtad)"
    return ""


@contextlib.contextmanager
def running(name: str, configuration: dict[str, str], users: Path, *, start: bool = True) -> Iterator[System]:
    """Start the system, or leave that to the caller, and end it."""
    sasl = f"pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: {users}\nmech_list: PLAIN LOGIN\n"
    instance = _KINDS[name](configuration, _SERVICES, {"sasl/smtpd.conf": sasl})
    tree = Tree(name)
    try:
        if start:
            with tree.births():
                instance.start()
            tree.started(int((instance.queue / "pid" / "master.pid").read_text()))
        yield System(name, instance.ports, tree, instance.maillog, instance)
    finally:
        instance.stop()
        tree.close()


def version(name: str) -> str:
    if name == "mtad":
        return importlib.metadata.version("mtad")
    shown = subprocess.run(["postconf", "-dh", "mail_version"], capture_output=True, text=True, check=True)
    return shown.stdout.strip()
