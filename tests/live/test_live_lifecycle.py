"""start, stop, status, check, flush as an operator of postfix(1) knows them; the lock; systemd."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from live.daemon import MTAD, Mtad, Sink, wait_until
from live.load import silent
from live.peers import Client, submit
from oracle import postfix
from oracle.postfix import Postfix

SETTINGS = {"mynetworks": "127.0.0.0/8"}
ROOT = Path(__file__).parents[2]


@pytest.fixture
def mtad() -> Iterator[Mtad]:
    """A configured mtad that does not run yet."""
    made = Mtad({**SETTINGS, "relayhost": "[127.0.0.1]:9"})
    yield made
    made.stop()


def told(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stdout + done.stderr
    for word in words:
        assert word in done.stderr
    assert done.stdout == ""


def alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


# -- the commands


def test_the_commands_of_postfix(mtad: Mtad) -> None:
    for command in ("status", "stop", "abort", "reload", "flush"):
        told(mtad.command(command), 1, "mtad: fatal: the Postfix mail system is not running")
    told(mtad.command("check"), 0)
    told(mtad.command("start"), 0)
    pid, children = mtad.pid, mtad.children()
    with Client(mtad.ports["submission"]) as client:  # serves at once, needs no waiting
        assert client.greeting.startswith(b"220 ")
    told(mtad.command("status"), 0, f"the Postfix mail system is running: PID: {pid}")
    told(
        mtad.command("start"),
        1,
        f"{mtad.queue}/pid/master.pid: the Postfix mail system is already running: mtad, PID {pid}",
    )
    told(mtad.command("start-fg"), 1, f"already running: mtad, PID {pid}")
    assert mtad.pid == pid
    told(mtad.command("flush"), 0)
    told(mtad.command("reload"), 0)
    told(mtad.command("-v", "status"), 0)
    told(mtad.command("-D", "status"), 0)
    told(mtad.command("stop"), 0)
    assert silent(mtad.ports["submission"])
    wait_until(lambda: not any(alive(each) for each in (pid, *children)), "all to end")
    told(mtad.command("status"), 1, "not running")
    log = mtad.log()
    for line in (
        "postfix/postfix-script[", "starting the Postfix mail system", "daemon started -- version 3.",
        "refreshing the Postfix mail system", "reload -- version 3.", "stopping the Postfix mail system",
        "terminating on signal 15",
    ):  # fmt: skip
        assert line in log
    told(mtad.command("start"), 0)
    told(mtad.command("stop"), 0)


def test_abort_ends_everything_at_once(mtad: Mtad) -> None:
    mtad.start()
    pids = [mtad.pid, *mtad.children()]
    told(mtad.command("abort"), 0)
    wait_until(lambda: not any(alive(pid) for pid in pids), "all to end")
    assert "aborting the Postfix mail system" in mtad.log()
    mtad.start()


def test_a_relative_directory_and_mail_config(mtad: Mtad) -> None:
    words = [*MTAD, "-c", mtad.directory.name, "start"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        words, cwd=mtad.directory.parent, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    environment["MAIL_CONFIG"] = str(mtad.directory)
    done = subprocess.run([*MTAD, "status"], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, str(mtad.pid) in done.stderr) == (0, True)
    told(mtad.command("reload"), 0)


def test_usage_is_told(mtad: Mtad) -> None:
    for words in ([], ["-x", "start"], ["launch"]):
        done = subprocess.run([*MTAD, *words], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert "usage: mtad" in done.stderr


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"message_size_limit": "big"}, "message_size_limit"),
        ({"smtpd_relay_restrictions": "permit_mynetworks"}, "smtpd_relay_restrictions"),
        ({"relayhost": "$nothing"}, ""),
        ({"maillog_file": "/srv/elsewhere"}, "maillog_file"),
        ({"smtp_sasl_password_maps": "nosuchtype:/x", "smtp_sasl_auth_enable": "yes"}, "nosuchtype"),
        ({"mail_owner": "nobody-here"}, "nobody-here"),
    ],
)
def test_check(mtad: Mtad, settings: dict[str, str], wanted: str) -> None:
    mtad.write_main_cf(**settings)
    done = mtad.command("check")
    if not wanted:
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode == 1
    assert wanted in done.stderr
    assert f"{mtad.directory}/main.cf, line " in done.stderr
    as_json = mtad.command("check", "--json")
    assert as_json.returncode == 1
    findings = json.loads(as_json.stdout)
    assert any(wanted in f"{each}" and each["severity"] == "error" for each in findings)
    assert mtad.command("start").returncode == 1
    assert mtad.pid == 0


def test_check_without_a_configuration(tmp_path: Path) -> None:
    done = subprocess.run([*MTAD, "-c", str(tmp_path), "check"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"{tmp_path}/main.cf" in done.stderr


def test_check_names_what_mtad_does_not_serve() -> None:
    mtad = Mtad(SETTINGS, master_extra="pickup unix n - n 60 1 pickup\nsmtps inet n - n - - other\n")
    try:
        done = mtad.command("check")
        assert done.returncode == 0
        assert "smtps" in done.stderr
        assert f"{mtad.directory}/master.cf" in done.stderr
    finally:
        mtad.stop()


def test_a_queue_that_cannot_be_opened_fails_the_start(mtad: Mtad) -> None:
    mtad.start()
    told(mtad.command("stop"), 0)
    (mtad.queue / "mtad" / "queue.db").write_bytes(b"no database at all" * 1000)
    told(mtad.command("start"), 1, "file is not a database")
    assert mtad.pid == 0
    assert silent(mtad.ports["submission"])


def test_deferred_mail_is_listed_and_flushed() -> None:
    with Sink() as sink:
        sink.stop()
        settings = {
            "relayhost": f"[127.0.0.1]:{sink.port}",
            "enable_long_queue_ids": "yes",
            "fast_flush_domains": "example.net elsewhere.example",
        }
        with Mtad({**SETTINGS, **settings}) as mtad:
            queue_id = submit(mtad.ports["submission"], "later").decode().split()[-1]
            mtad.wait_for_log(f"{queue_id}: to=<b0@example.net>, relay=none, ")
            wait_until(lambda: f"{queue_id} " in mtad.command("postqueue", "-p").stdout, "the listing")
            listing = mtad.command("postqueue", "-p").stdout
            assert "a@example.com" in listing and "b0@example.net" in listing
            assert f"(connect to 127.0.0.1[127.0.0.1]:{sink.port}: Connection refused)" in listing
            assert "in 1 Request." in listing
            entry = json.loads(mtad.command("postqueue", "-j").stdout)
            assert (entry["queue_name"], entry["queue_id"]) == ("deferred", queue_id)
            assert mtad.command("postqueue", "-s", "elsewhere.example").returncode == 0
            sink.start()
            assert mtad.command("postqueue", "-s", "example.net").returncode == 0
            sink.wait_for(1)
            wait_until(
                lambda: mtad.command("postqueue", "-p").stdout == "Mail queue is empty\n", "an empty queue"
            )
            told(mtad.command("stop"), 0)
            down = mtad.command("postqueue", "-p")
            assert (down.returncode, down.stdout) == (0, "Mail queue is empty\n")
            assert "Mail system is down -- accessing queue directly" in down.stderr
            down = mtad.command("postqueue", "-f")
            assert down.returncode == 69
            assert "Cannot flush mail queue - mail system is down" in down.stderr


# -- the lock that Postfix takes, too


@pytest.mark.skipif(not postfix.AVAILABLE, reason=postfix.WHY_NOT)
def test_postfix_and_mtad_never_run_on_one_queue() -> None:
    theirs = Postfix(SETTINGS)
    words = [*MTAD, "-c", str(theirs.directory)]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*words, *arguments], capture_output=True, text=True, timeout=60)

    try:
        theirs.start()
        pid = int((theirs.queue / "pid" / "master.pid").read_text())
        done = run("start")
        assert done.returncode == 1
        assert f"the Postfix mail system is already running: Postfix, PID {pid}" in done.stderr
        for command in ("status", "stop", "reload", "abort", "flush"):
            done = run(command)
            assert done.returncode == 1
            assert f"Postfix (PID {pid}) runs on this configuration, not mtad" in done.stderr
        assert theirs.command("postfix", "status").returncode == 0
        theirs.command("postfix", "stop", check=True)
        wait_until(lambda: run("start").returncode == 0, "mtad to start")
        try:
            done = theirs.command("postfix", "start")
            assert done.returncode == 1
            assert theirs.command("postfix", "status").returncode == 0  # it, too, sees that the lock is held
            assert "already running" in done.stderr + theirs.log()
            assert run("status").returncode == 0
        finally:
            assert run("stop").returncode == 0
        theirs.command("postfix", "start", check=True)
        assert theirs.command("postfix", "status").returncode == 0
    finally:
        theirs.stop()


# -- without root


def interpreter_for_all() -> list[str]:
    """A Python that any user may run with our packages."""
    site = [path for path in sys.path if path.endswith("site-packages")]
    for python in (sys.executable, "/usr/bin/python3"):
        words = [python, "-m", "mtad.cli.main"]
        with contextlib.suppress(OSError):
            done = subprocess.run(
                [*words, "--version"], user="nobody", group="nogroup", extra_groups=[], cwd="/",
                env={"PYTHONPATH": ":".join([str(ROOT), *site]), "PYTHONDONTWRITEBYTECODE": "1"},
                capture_output=True, timeout=60,
            )  # fmt: skip
            if done.returncode == 0:
                return words
    pytest.skip("no Python here that user nobody may run")


class Nobodys(Mtad):
    """mtad in the hands of user nobody."""

    def __init__(self, **settings: str) -> None:
        super().__init__({**SETTINGS, "relayhost": "[127.0.0.1]:9", **settings})
        self.words = interpreter_for_all()
        self.give(self.root)

    def give(self, root: Path) -> None:
        for path in (root, *root.rglob("*")):
            shutil.chown(path, "nobody", "nogroup")

    def command(self, *arguments: str, text_input: str | None = None) -> subprocess.CompletedProcess[str]:
        site = [path for path in sys.path if path.endswith("site-packages")]
        return subprocess.run(
            [*self.words, "-c", str(self.directory), *arguments],
            user="nobody", group="nogroup", extra_groups=[], cwd="/",
            env={"PYTHONPATH": ":".join([str(ROOT), *site]), "PYTHONDONTWRITEBYTECODE": "1"},
            text=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
        )  # fmt: skip


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become someone else")


@needs_root
def test_without_root_on_high_ports() -> None:
    with Sink() as sink, Nobodys(relayhost=f"[127.0.0.1]:{sink.port}") as mtad:
        assert submit(mtad.ports["submission"], "by nobody").startswith(b"250")
        sink.wait_for(1)
        uid = (mtad.queue / "mtad" / "queue.db").stat().st_uid
        for pid in (mtad.pid, *mtad.children()):
            assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}" in Path(f"/proc/{pid}/status").read_text()
        told(mtad.command("reload"), 0)
        told(mtad.command("status"), 0)
        assert submit(mtad.ports["submission"], "again").startswith(b"250")
        sink.wait_for(2)
        told(mtad.command("stop"), 0)


@needs_root
def test_without_root_the_port_or_path_is_named() -> None:
    mtad = Nobodys()
    try:
        good = (mtad.directory / "master.cf").read_text()
        (mtad.directory / "master.cf").write_text("127.0.0.1:587 inet n - n - - smtpd\n")
        told(mtad.command("start"), 1, "master.cf, line 1", "user nobody may not listen on 127.0.0.1:587")
        (mtad.directory / "master.cf").write_text(good)
        for parameter, path in (
            ("queue_directory", "/var/lib/mtad-spool"),
            ("mtad_queue_directory", "/var/lib/mtad-spool"),
            ("maillog_file", "/var/log/mtad-maillog"),
        ):
            lines = [
                f"{name} = {value}\n"
                for name, value in {**mtad.values, "maillog_file_prefixes": "/", parameter: path}.items()
            ]
            mtad.write("main.cf", "".join(lines))
            told(mtad.command("start"), 1, "main.cf, line ", parameter, path, "Permission denied")
        assert mtad.pid == 0
    finally:
        mtad.stop()


@needs_root
def test_another_user_may_not_stop_it() -> None:
    with Mtad({**SETTINGS, "relayhost": "[127.0.0.1]:9"}) as mtad:
        other = Nobodys()
        other.directory = mtad.directory
        for command in ("stop", "reload", "abort"):
            done = other.command(command)
            assert done.returncode == 1
            assert "Traceback" not in done.stderr and "mtad: fatal: " in done.stderr
        told(mtad.command("status"), 0)
        shutil.rmtree(other.root)


@needs_root
def test_workers_are_the_mail_owner_and_files_are_theirs(mtad: Mtad) -> None:
    mtad.start()
    owner = (mtad.queue / "mtad" / "queue.db").stat()
    assert owner.st_uid != 0
    for pid in mtad.children():
        status = Path(f"/proc/{pid}/status").read_text()
        assert f"Uid:\t{owner.st_uid}\t{owner.st_uid}\t{owner.st_uid}\t{owner.st_uid}" in status
        assert "CapEff:\t0000000000000000" in status
    for path in (mtad.queue / "mtad").iterdir():
        assert path.stat().st_uid == owner.st_uid
        # whoever may ask is told by the kernel, and may not ask for everything
        others = 0o666 if path.name == "control" else 0
        assert path.stat().st_mode & 0o077 == others & 0o077, path
    assert (mtad.queue / "mtad").stat().st_mode & 0o777 == 0o711


@needs_root
def test_a_new_mail_owner_gets_the_queue(mtad: Mtad) -> None:
    mtad.start()
    submit(mtad.ports["submission"], "of the old owner")
    mtad.wait_for_log("status=deferred")
    mtad.write_main_cf(mail_owner="nobody")
    told(mtad.command("reload"), 1, "mail_owner", "stop and start to change it")
    told(mtad.command("stop"), 0)
    told(mtad.command("start"), 0)
    assert "in 1 Request." in mtad.command("postqueue", "-p").stdout
    told(mtad.command("flush"), 0)


# -- processes


def states(master: int) -> list[str]:
    """The states of all descendants of the master."""
    found = []
    parents = {master}
    for entry in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) in parents:
                parents.add(entry)
                found.append(fields[0])
    return found


def test_no_zombies_and_no_leaks(mtad: Mtad) -> None:
    """After children were killed and the configuration reloaded, the master holds what it held."""
    mtad.start()
    count = len(mtad.children())

    def settled() -> bool:
        return len(mtad.children()) == count

    def held() -> int:
        return len(os.listdir(f"/proc/{mtad.pid}/fd"))

    told(mtad.command("reload"), 0)
    wait_until(settled, "the old processes to end")
    before = held()
    for _ in range(3):
        for pid in mtad.children():
            os.kill(pid, signal.SIGKILL)
        told(mtad.command("reload"), 0)
        wait_until(settled, "the processes")
    wait_until(lambda: held() <= before, f"{held()} files to become {before}")
    assert "Z" not in states(mtad.pid)
    with Client(mtad.ports["submission"]) as client:
        assert client.greeting.startswith(b"220")


def test_a_child_that_dies_at_once_is_throttled(mtad: Mtad) -> None:
    mtad.start()
    database = mtad.queue / "mtad" / "queue.db"
    database.rename(mtad.root / "hidden")
    database.write_bytes(b"no database at all" * 1000)
    os.kill(mtad.children()[-1], signal.SIGKILL)
    log = mtad.wait_for_log("bad command startup -- throttling")
    assert "file is not a database" in log
    (mtad.root / "hidden").rename(database)
    wait_until(lambda: len(mtad.children()) == 1 + (os.cpu_count() or 1), "the child's next try")


# -- systemd


class Systemd:
    """The end of $NOTIFY_SOCKET that a service manager has."""

    def __init__(self, mtad: Mtad, watchdog: float = 0.0) -> None:
        self.path = str(mtad.root / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        environment = {**os.environ, "NOTIFY_SOCKET": self.path}
        if watchdog:
            environment["WATCHDOG_USEC"] = str(int(watchdog * 1_000_000))
        self.service = subprocess.Popen(
            [*MTAD, "-c", str(mtad.directory), "start-fg"],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def hear(self, seconds: float = 60.0) -> dict[str, str]:
        """The next word, nothing when there was none in time."""
        self._socket.settimeout(seconds)
        try:
            lines = self._socket.recv(4096).decode().split("\n")
        except TimeoutError:
            return {}
        return dict(line.split("=", 1) for line in lines)

    def hear_until(self, name: str) -> dict[str, str]:
        """The next word with this in it; what comes before may be signs of life only."""
        while name not in (said := self.hear()):
            assert set(said) == {"WATCHDOG"}, said
        return said

    def end(self) -> int:
        self.service.terminate()
        self.service.communicate(timeout=60)
        self._socket.close()
        return self.service.returncode


def test_readiness_is_true(mtad: Mtad) -> None:
    systemd = Systemd(mtad)
    try:
        ready = systemd.hear()
        # at once, with no second try: whoever is told READY may connect
        with Client(mtad.ports["submission"]) as client:
            assert client.greeting.startswith(b"220")
        assert mtad.command("postqueue", "-f").returncode == 0
        assert ready["READY"] == "1"
        assert int(ready["MAINPID"]) == systemd.service.pid == mtad.pid
        before = time.monotonic_ns() // 1000
        mtad.write_main_cf(smtpd_banner="mail.example.com ESMTP reloaded")
        os.kill(mtad.pid, signal.SIGHUP)
        reloading = systemd.hear()
        assert reloading["RELOADING"] == "1"
        assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert systemd.hear()["READY"] == "1"
        with Client(mtad.ports["submission"]) as client:
            assert b"reloaded" in client.greeting
        mtad.write_main_cf(message_size_limit="nonsense")
        os.kill(mtad.pid, signal.SIGHUP)
        assert systemd.hear()["RELOADING"] == "1"
        refused = systemd.hear()
        assert refused["READY"] == "1" and "refused" in refused["STATUS"]
        os.kill(mtad.pid, signal.SIGTERM)
        assert systemd.hear() == {"STOPPING": "1"}
        assert systemd.service.wait(60) == 0
    finally:
        systemd.end()


def test_no_readiness_where_it_cannot_serve(mtad: Mtad) -> None:
    with socket.create_server(("127.0.0.1", mtad.ports["submission"])):
        systemd = Systemd(mtad)
        _, errors = systemd.service.communicate(timeout=60)
        assert systemd.service.returncode == 1
        assert "another program listens on" in errors
        assert systemd.hear(0.1) == {}
    systemd.end()


def test_signs_of_life_are_true(mtad: Mtad) -> None:
    """None while a child hangs or is missing; again when all is well."""
    watchdog = 0.8
    systemd = Systemd(mtad, watchdog)
    try:
        systemd.hear_until("READY")
        begun = time.monotonic()
        for _ in range(4):
            assert systemd.hear() == {"WATCHDOG": "1"}
        assert time.monotonic() - begun < 4 * watchdog
        for hung in mtad.children():
            os.kill(hung, signal.SIGSTOP)
            try:
                wait_until(lambda: systemd.hear(2 * watchdog) == {}, "silence")
            finally:
                os.kill(hung, signal.SIGCONT)
            assert systemd.hear() == {"WATCHDOG": "1"}
        os.kill(mtad.children()[0], signal.SIGKILL)
        mtad.wait_for_log("killed by signal 9")
        for _ in range(4):
            assert systemd.hear() == {"WATCHDOG": "1"}
    finally:
        systemd.end()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_unit_is_sound(tmp_path: Path) -> None:
    unit = tmp_path / "mtad.service"
    program = Path(sys.executable).with_name("mtad")
    text = (ROOT / "systemd" / "mtad.service").read_text()
    unit.write_text(text.replace("/opt/mtad/bin/mtad", str(program)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60
    )
    # systemd before 253 takes Type=notify, which stands before it
    old = "Failed to parse service type, ignoring: notify-reload"
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if "mtad.service" in line]
    assert [line for line in complaints if old not in line] == []
    assert done.returncode == 0


def test_in_one_process() -> None:
    with Sink() as sink:
        mtad = Mtad({**SETTINGS, "relayhost": f"[127.0.0.1]:{sink.port}"})
        words = [*MTAD, "-c", str(mtad.directory), "start-fg", "--single"]
        with subprocess.Popen(words, stdin=subprocess.DEVNULL) as process:
            try:
                wait_until(lambda: not silent(mtad.ports["submission"]), "the port")
                assert submit(mtad.ports["submission"], "single").startswith(b"250")
                sink.wait_for(1)
                assert len(mtad.children()) == 1
                told(mtad.command("reload"), 0)
                assert submit(mtad.ports["submission"], "single").startswith(b"250")
                sink.wait_for(2)
            finally:
                process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        mtad.stop()
