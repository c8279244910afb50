"""``mtad demo``: the whole program at work in a scratch directory, without root.

Makes a certificate, a ``main.cf``, ``master.cf``, ``sasl/smtpd.conf`` and a user; starts an upstream server
(``mtad sink``) that demands a login and keeps mail in a Maildir; starts mtad on 127.0.0.1:2587 (STARTTLS) and
127.0.0.1:2465 (implicit TLS); prints lines that send a mail, and then the live maillog until Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mtad.cli import postmap
from mtad.net.certificates import make_self_signed
from mtad.tables.sasldb import SaslDb

USER, REALM, PASSWORD = "alice", "example.com", "wonderland"
RELAY_USER, RELAY_PASSWORD = "relay", "looking-glass"
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

MAIN_CF = """\
# A submission host that relays everything to one smarthost.
compatibility_level = 3.11
myhostname = demo.example.com
mydestination =
inet_interfaces = loopback-only
inet_protocols = ipv4
mail_owner = {user}
queue_directory = {base}/spool
data_directory = {base}/data
maillog_file = {base}/maillog
maillog_file_prefixes = {base}

smtpd_tls_chain_files = {base}/key.pem, {base}/cert.pem
smtpd_tls_security_level = may
smtpd_tls_auth_only = yes
smtpd_tls_received_header = yes
smtpd_tls_loglevel = 1
smtpd_sasl_auth_enable = yes
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_sender_login_maps = inline:{{ {{ {user_name}@{realm} = {user_name}@{realm} }} }}
smtpd_sender_restrictions = reject_sender_login_mismatch

relayhost = [127.0.0.1]:{sink}
smtp_sasl_auth_enable = yes
smtp_sasl_password_maps = hash:{etc}/sasl_passwd
smtp_sasl_security_options = noanonymous
smtp_tls_security_level = encrypt
smtp_tls_loglevel = 1
"""

MASTER_CF = """\
127.0.0.1:{submission}  inet  n - n - - smtpd
  -o syslog_name=postfix/submission
  -o smtpd_tls_security_level=encrypt
127.0.0.1:{submissions}  inet  n - n - - smtpd
  -o syslog_name=postfix/submissions
  -o smtpd_tls_wrappermode=yes
"""

SMTPD_CONF = """\
pwcheck_method: auxprop
auxprop_plugin: sasldb
sasldb_path: {base}/sasldb2
mech_list: PLAIN LOGIN
"""


class Demo:
    """The scratch directory ``base`` and what runs on it."""

    def __init__(self, base: Path, submission: int, submissions: int, sink: int) -> None:
        self.base = base
        self.etc = base / "etc"
        self.ports = {"submission": submission, "submissions": submissions, "sink": sink}
        self._processes: list[subprocess.Popen[bytes]] = []

    def prepare(self) -> None:
        """Write every file."""
        (self.etc / "sasl").mkdir(parents=True, exist_ok=True)
        names = {"base": self.base, "etc": self.etc, "user": _mail_owner(), **self.ports}
        self._write("main.cf", MAIN_CF.format(user_name=USER, realm=REALM, **names))
        self._write("master.cf", MASTER_CF.format(**names))
        self._write("sasl/smtpd.conf", SMTPD_CONF.format(**names))
        self._write("sasl_passwd", f"[127.0.0.1]:{self.ports['sink']} {RELAY_USER}:{RELAY_PASSWORD}\n")
        os.chmod(self.etc / "sasl_passwd", 0o600)
        if postmap.main([f"hash:{self.etc}/sasl_passwd"]) != 0:
            raise SystemExit("mtad demo: postmap failed")
        make_self_signed("demo.example.com", str(self.base / "cert.pem"), str(self.base / "key.pem"))
        users = SaslDb(str(self.base / "sasldb2"))
        users.set(USER, REALM, PASSWORD.encode())
        if os.getuid() == 0:  # the workers read it as mail_owner
            shutil.chown(self.base / "sasldb2", _mail_owner())
            self.base.chmod(0o755)
        (self.base / "maillog").touch()

    def _write(self, name: str, text: str) -> None:
        (self.etc / name).write_text(text)

    def start(self) -> None:
        """Start the upstream server and mtad."""
        mtad = [sys.executable, "-m", "mtad.cli.main"]
        tls = f"{self.base}/cert.pem,{self.base}/key.pem"
        sink = [
            "sink",
            "--listen",
            f"127.0.0.1:{self.ports['sink']}",
            "--maildir",
            str(self.base / "Maildir"),
        ]
        self._run([*mtad, *sink, "--auth", f"{RELAY_USER}:{RELAY_PASSWORD}", "--tls", tls, "--quiet"])
        self._run([*mtad, "-c", str(self.etc), "start-fg"])

    def _run(self, words: list[str]) -> None:
        # a group of their own: Ctrl-C is ours, and we end them in order
        self._processes.append(subprocess.Popen(words, start_new_session=True))

    def ended(self) -> bool:
        return any(process.poll() is not None for process in self._processes)

    def stop(self) -> None:
        for process in reversed(self._processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(15)

    def hints(self) -> str:
        """What to paste, and where to look."""
        login = f"{USER}@{REALM}"
        mail = shlex.quote(
            f"From: {login}\\r\\nTo: bob@example.net\\r\\nSubject: hello\\r\\n\\r\\nhello, world\\r\\n"
        )
        curl = (
            f"printf {mail} | curl -sS --ssl-reqd --insecure --user {login}:{PASSWORD} --mail-from {login} "
            f"--mail-rcpt bob@example.net --upload-file - smtp://127.0.0.1:{self.ports['submission']}"
        )
        swaks = (
            f"swaks --server 127.0.0.1:{self.ports['submissions']} --tls-on-connect --auth PLAIN "
            f"--auth-user {login} --auth-password {PASSWORD} --from {login} --to bob@example.net"
        )
        return (
            f"\nSend a mail with curl (STARTTLS on port {self.ports['submission']}):\n\n  {curl}\n"
            f"\nor with swaks (TLS from the start on port {self.ports['submissions']}):\n\n  {swaks}\n"
            f"\nIt arrives, by a login at the upstream server, in {self.base}/Maildir/new\n"
            f"Configuration: {self.etc}.  Ctrl-C ends everything.  The maillog:\n"
        )


def _mail_owner() -> str:
    """The user that the workers run as: root gives way to nobody."""
    import pwd

    return "nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name


def main(argv: list[str]) -> int:
    """Run until Ctrl-C."""
    options = argparse.ArgumentParser(prog="mtad demo", description="mtad at work, in a scratch directory.")
    options.add_argument("--directory", help="where (default: a new one, removed at the end)")
    options.add_argument("--submission", type=int, default=2587)
    options.add_argument("--submissions", type=int, default=2465)
    options.add_argument("--sink", type=int, default=2525)
    chosen = options.parse_args(argv)
    for name, port in (
        ("submission", chosen.submission),
        ("submissions", chosen.submissions),
        ("sink", chosen.sink),
    ):
        if not _is_free(port):
            options.error(
                f"port {port} is taken, perhaps by another demo; end that, or choose one with --{name}"
            )
    base = Path(chosen.directory or tempfile.mkdtemp(prefix="mtad-demo-")).absolute()
    demo = Demo(base, chosen.submission, chosen.submissions, chosen.sink)
    for number in _ENDING:
        signal.signal(number, _end)
    status = 0
    try:
        demo.prepare()
        demo.start()
        with open(base / "maillog", encoding="utf-8", errors="replace") as log:
            _wait_until_it_serves(demo, base)
            print(demo.hints(), flush=True)
            while not demo.ended():
                line = log.readline()
                if line:
                    print(line, end="", flush=True)
                else:
                    time.sleep(0.1)
            status = 1
    except KeyboardInterrupt:
        print()
    finally:
        demo.stop()
        if not chosen.directory:
            shutil.rmtree(base, ignore_errors=True)
    return status


def _end(*_: object) -> None:
    """End everything, once: whoever is impatient leaves nothing behind."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def _wait_until_it_serves(demo: Demo, base: Path) -> None:
    control = base / "spool" / "mtad" / "control"
    while not control.exists() and not demo.ended():
        time.sleep(0.05)
