"""A private instance of the installed Postfix, to be asked how it is done.

``Postfix(main_cf, services=[...])`` writes a configuration directory, a queue and a data directory
of its own below a fresh directory, starts it on a free port of 127.0.0.1 and stops it by its own
pid.  Each service is ``(name, {"parameter": "value"})``: an smtpd on its own port with those ``-o``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

AVAILABLE = shutil.which("postfix") is not None and os.geteuid() == 0
WHY_NOT = "needs Debian's postfix package and root"

_MASTER = """
postlog   unix-dgram n  -       n       -       1       postlogd
pickup    unix  n       -       n       60      1       pickup
cleanup   unix  n       -       n       -       0       cleanup
qmgr      unix  n       -       n       300     1       qmgr
tlsmgr    unix  -       -       n       1000?   1       tlsmgr
rewrite   unix  -       -       n       -       -       trivial-rewrite
bounce    unix  -       -       n       -       0       bounce
defer     unix  -       -       n       -       0       bounce
trace     unix  -       -       n       -       0       bounce
verify    unix  -       -       n       -       1       verify
flush     unix  n       -       n       1000?   0       flush
proxymap  unix  -       -       n       -       -       proxymap
proxywrite unix -       -       n       -       1       proxymap
smtp      unix  -       -       n       -       -       smtp
relay     unix  -       -       n       -       -       smtp
showq     unix  n       -       n       -       -       showq
error     unix  -       -       n       -       -       error
retry     unix  -       -       n       -       -       error
discard   unix  -       -       n       -       -       discard
local     unix  -       n       n       -       -       local
virtual   unix  -       n       n       -       -       virtual
lmtp      unix  -       -       n       -       -       lmtp
anvil     unix  -       -       n       -       1       anvil
scache    unix  -       -       n       -       1       scache
"""


_given: set[int] = set()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago, each one given once.

    From below those that the kernel gives to clients, so that no connection takes it meanwhile; each process
    of a test run has a share of its own.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    share = 22000 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    while True:
        port = random.randrange(10000 + worker * share, 10000 + (worker + 1) * share)
        with socket.socket() as probe, contextlib.suppress(OSError):
            if port not in _given:
                probe.bind(("127.0.0.1", port))
                _given.add(port)
                return port


def master_line(name: str, port: int, overrides: Mapping[str, str]) -> str:
    """A master.cf entry of an smtpd on 127.0.0.1:``port``."""
    options = "".join(f"\n  -o {{ {key} = {value} }}" for key, value in overrides.items())
    return f"127.0.0.1:{port} inet n - n - - smtpd{options}\n"


def main_cf_of(root: Path, main_cf: Mapping[str, str]) -> dict[str, str]:
    """``main_cf`` with what every instance sets, whose files are below ``root``."""
    return {
        "compatibility_level": "3.6",
        "myhostname": "mail.example.com",
        "inet_interfaces": "127.0.0.1",
        "inet_protocols": "ipv4",
        "mydestination": "",
        "local_recipient_maps": "",
        "alias_maps": "",
        "alias_database": "",
        "append_dot_mydomain": "no",
        "biff": "no",
        **main_cf,
        "queue_directory": str(root / "spool"),
        "data_directory": str(root / "data"),
        "maillog_file": str(root / "maillog"),
        "maillog_file_prefixes": str(root),
    }


class Postfix:
    """A running Postfix; use it as a context manager."""

    def __init__(
        self,
        main_cf: Mapping[str, str],
        services: Sequence[tuple[str, Mapping[str, str]]] = (("submission", {}),),
        files: Mapping[str, str] | None = None,
        ports: Mapping[str, int] | None = None,
        master_extra: str = "",
    ) -> None:
        """``files``: contents by path relative to the configuration directory (``{dir}`` in texts and in
        parameter values is replaced by that directory).  The test is skipped where there is no Postfix."""
        if not AVAILABLE:
            pytest.skip(WHY_NOT)
        self.root = Path(tempfile.mkdtemp(prefix="oracle-"))
        self.root.chmod(0o755)
        self.directory = self.root / "etc"
        self.queue = self.root / "spool"
        self.maillog = self.root / "maillog"
        for path in (self.directory, self.queue, self.root / "data"):
            path.mkdir()
        shutil.chown(self.root / "data", "postfix")
        for name in ("postfix-files", "dynamicmaps.cf"):
            shutil.copy(f"/etc/postfix/{name}", self.directory)
        for name in ("postfix-files.d", "dynamicmaps.cf.d"):
            shutil.copytree(f"/etc/postfix/{name}", self.directory / name)
        self.ports = {name: (ports or {}).get(name) or free_port() for name, _ in services}
        values = main_cf_of(self.root, main_cf)
        fill = str(self.directory)
        text = "".join(f"{key} = {value}\n" for key, value in values.items()).replace("{dir}", fill)
        (self.directory / "main.cf").write_text(text)
        lines = [master_line(name, self.ports[name], overrides) for name, overrides in services]
        (self.directory / "master.cf").write_text(
            "".join(lines).replace("{dir}", fill) + _MASTER + master_extra.replace("{dir}", fill)
        )
        for relative, content in (files or {}).items():
            target = self.directory / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content.replace("{dir}", fill))

    def __enter__(self) -> Postfix:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._register(True)
        done = self.command("postfix", "start")
        if done.returncode != 0:
            raise AssertionError(f"postfix start: {done.stderr}\n{self.log()[-2000:]}")
        for port in self.ports.values():
            wait_for_port(port)

    def stop(self) -> None:
        """End the instance by its master's pid and remove its files."""
        pid_file = self.queue / "pid" / "master.pid"
        if pid_file.exists():
            pid = int(pid_file.read_text().strip() or 0)
            if pid > 1:
                for signum in (signal.SIGTERM, signal.SIGKILL):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(pid, signum)
                    deadline = time.monotonic() + 5
                    while alive(pid) and time.monotonic() < deadline:
                        time.sleep(0.02)
                    if not alive(pid):
                        break
        self._register(False)
        shutil.rmtree(self.root, ignore_errors=True)

    def command(
        self, name: str, *arguments: str, check: bool = False, text_input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``name -c DIR arguments``."""
        return subprocess.run(
            [name, "-c", str(self.directory), *arguments],
            check=check,
            text=True,
            input=text_input,
            stdin=subprocess.DEVNULL if text_input is None else None,
            capture_output=True,
            timeout=120,
        )

    def log(self) -> str:
        return self.maillog.read_text(errors="replace") if self.maillog.exists() else ""

    def _register(self, add: bool) -> None:
        """Name our directory in (or drop it from) the system's alternate_config_directories."""
        with open("/etc/postfix/main.cf") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = subprocess.run(
                ["postconf", "-h", "alternate_config_directories"],
                text=True, capture_output=True, check=True,
            ).stdout.replace(",", " ").split()  # fmt: skip
            wanted = [d for d in known if d != str(self.directory) and Path(d).is_dir()]
            if add:
                wanted.append(str(self.directory))
            path = Path("/etc/postfix/main.cf")
            before = path.read_text()
            lines = [
                line
                for line in before.splitlines(keepends=True)
                if not line.startswith("alternate_config_directories")
            ]
            if wanted:
                lines.append(f"alternate_config_directories = {', '.join(wanted)}\n")
            text = "".join(lines)
            # in place, so that the lock stays on the file that others open; who reads it between the two
            # steps finds empty lines at its end, nothing else
            with open(path, "r+") as out:
                out.write(text.ljust(len(before), "\n"))
                out.flush()
                out.truncate(len(text.encode()))


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended is not, though its parent may take its time to see that."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for_port(port: int, seconds: float = 60.0, step: float = 0.02) -> None:
    """Wait until something listens on 127.0.0.1:``port``."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(step)
