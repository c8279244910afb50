"""A running mtad, and a sink for it to relay to, for tests.

``Mtad(main_cf, services, files)`` takes what ``oracle.postfix.Postfix`` takes, so that both can be asked the
same.  ``Sink(...)`` is ``mtad sink`` on a free port; ``sink.mails()`` is what it got.  Both are context
managers and end what they started, by its own pid.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from email.message import Message
from email.parser import BytesParser
from pathlib import Path

from oracle.postfix import free_port, main_cf_of, master_line, wait_for_port

MTAD = [sys.executable, "-m", "mtad.cli.main"]


def mail_owner() -> str:
    """Who the workers run as."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    try:
        return pwd.getpwnam("postfix").pw_name
    except KeyError:
        return "nobody"


def wait_until(
    condition: Callable[[], object], what: str | Callable[[], str], seconds: float = 60.0, step: float = 0.01
) -> None:
    """Wait until ``condition()`` is true, or fail with ``what``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(
                f"waited {seconds} s in vain for {what if isinstance(what, str) else what()}"
            )
        time.sleep(step)


class Mtad:
    """A running mtad; use it as a context manager."""

    def __init__(
        self,
        main_cf: Mapping[str, str],
        services: Sequence[tuple[str, Mapping[str, str]]] = (("submission", {}),),
        files: Mapping[str, str] | None = None,
        ports: Mapping[str, int] | None = None,
        master_extra: str = "",
    ) -> None:
        """``files``: contents by path relative to the configuration directory (``{dir}`` in texts and in
        parameter values is replaced by that directory)."""
        self.root = Path(tempfile.mkdtemp(prefix="live-"))
        self.root.chmod(0o755)
        self.directory = self.root / "etc"
        self.queue = self.root / "spool"
        self.maillog = self.root / "maillog"
        self.directory.mkdir()
        self.ports = {name: (ports or {}).get(name) or free_port() for name, _ in services}
        self.values = main_cf_of(self.root, {"mail_owner": mail_owner(), **main_cf})
        self._services = list(services)
        self._master_extra = master_extra
        self.write_main_cf()
        self.write_master_cf(self._services)
        for relative, content in (files or {}).items():
            self.write(relative, content)

    def write(self, relative: str, content: str) -> Path:
        """Write a file below the configuration directory."""
        target = self.directory / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content.replace("{dir}", str(self.directory)))
        return target

    def write_main_cf(self, **changes: str) -> None:
        self.values.update(changes)
        self.write("main.cf", "".join(f"{key} = {value}\n" for key, value in self.values.items()))

    def write_master_cf(self, services: Sequence[tuple[str, Mapping[str, str]]]) -> None:
        lines = [master_line(name, self.ports[name], overrides) for name, overrides in services]
        self.write("master.cf", "".join(lines) + self._master_extra)

    def __enter__(self) -> Mtad:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        done = self.command("start")
        if done.returncode != 0:
            raise AssertionError(f"mtad start: {done.stderr}\n{self.log()}")
        for port in self.ports.values():
            wait_for_port(port)

    @property
    def pid(self) -> int:
        """The master's pid, 0 when there is none."""
        try:
            return int((self.queue / "pid" / "master.pid").read_text().strip() or 0)
        except (FileNotFoundError, ValueError):
            return 0

    def children(self) -> list[int]:
        pid = self.pid
        with contextlib.suppress(FileNotFoundError):
            return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return []

    def stop(self) -> None:
        """End the instance and remove its files."""
        pids = [pid for pid in [self.pid, *self.children()] if pid > 1]
        if pids:
            self.command("stop")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.root, ignore_errors=True)

    def command(self, *arguments: str, text_input: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run ``mtad -c DIR arguments``."""
        return subprocess.run(
            [*MTAD, "-c", str(self.directory), *arguments],
            text=True,
            input=text_input,
            stdin=subprocess.DEVNULL if text_input is None else None,
            capture_output=True,
            timeout=120,
        )

    def wait_until_deferred(self) -> None:
        """Wait until nothing is being delivered: a flush does not mean what is in hand."""
        path = self.queue / "mtad" / "queue.db"
        in_hand = "SELECT count(*) FROM message WHERE state = 0 OR (state = 1 AND next_attempt <= ?)"

        def none() -> bool:
            with contextlib.closing(sqlite3.connect(path, timeout=60)) as db:
                return db.execute(in_hand, (time.time(),)).fetchone() == (0,)

        wait_until(none, lambda: f"all to be deferred:\n{self.log()[-3000:]}")

    def log(self) -> str:
        return self.maillog.read_text(errors="replace") if self.maillog.exists() else ""

    def wait_for_log(self, text: str, seconds: float = 60.0) -> str:
        """The log, once it has ``text``."""
        wait_until(lambda: text in self.log(), lambda: f"{text!r} in the log:\n{self.log()}", seconds)
        return self.log()


class Sink:
    """A running ``mtad sink``; use it as a context manager."""

    def __init__(self, *options: str, port: int = 0) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="sink-"))
        self.port = port or free_port()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Sink:
        self.start()
        return self

    def start(self) -> None:
        maildir = str(self.root / "Maildir")
        words = [
            "sink",
            "--listen",
            f"127.0.0.1:{self.port}",
            "--maildir",
            maildir,
            "--quiet",
            *self._options,
        ]
        self._process = subprocess.Popen([*MTAD, *words], stdout=subprocess.DEVNULL)
        wait_for_port(self.port)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)

    def raw(self) -> list[bytes]:
        """The messages so far, in the order of their arrival, with the sink's X-Sink headers on top."""
        found = sorted(
            (self.root / "Maildir" / "new").glob("*"), key=lambda path: int(path.name.split(".")[1])
        )
        return [path.read_bytes() for path in found]

    def mails(self) -> list[Message]:
        return [BytesParser().parsebytes(raw) for raw in self.raw()]

    def wait_for(self, count: int, seconds: float = 60.0) -> list[Message]:
        """The mails, once there are at least ``count``."""
        wait_until(lambda: len(self.raw()) >= count, f"{count} mails at the sink", seconds)
        return self.mails()
