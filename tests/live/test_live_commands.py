"""The commands as a postmaster uses them: by their names, in pipes, with files closed, with mistakes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from live.daemon import MTAD, Mtad, wait_until


@pytest.fixture(scope="module")
def mtad() -> Iterator[Mtad]:
    with Mtad({"defer_transports": "smtp"}) as running:
        yield running


def shell(mtad: Mtad, line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a shell makes of ``line``, in which ``mtad`` is ours."""
    script = f'mtad() {{ "$PYTHON" -m mtad.cli.main -c "$DIRECTORY" "$@"; }}\n{line}'
    known = {**os.environ, "PYTHON": sys.executable, "DIRECTORY": str(mtad.directory), **environment}
    return subprocess.run(
        ["bash", "-c", script],
        env=known,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("command", ["postconf -n", "postqueue -p", "mailq", "qshape", "status"])
def test_standard_files_may_be_closed(mtad: Mtad, command: str) -> None:
    done = shell(mtad, f"mtad {command} <&- >&-")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)


def test_it_starts_in_odd_surroundings(mtad: Mtad) -> None:
    """Standard files closed, a file mode mask that allows nothing, and what became of the last reload before
    the host's clock began anew."""
    assert mtad.command("stop").returncode == 0
    mtad.maillog.unlink()
    (mtad.queue / "pid/mtad.reload").write_text(f"{1 << 60}\nan old problem")
    assert shell(mtad, "umask 0777; mtad start <&- >&- 2>&-").returncode == 0
    for fd in range(3):
        assert os.readlink(f"/proc/{mtad.pid}/fd/{fd}") == "/dev/null"
    modes = [path.stat().st_mode & 0o777 for path in (mtad.queue / "pid/master.pid", mtad.maillog)]
    assert modes == [0o644, 0o600]
    done = mtad.command("reload")
    assert (done.returncode, "old problem" in done.stderr) == (0, False)


@pytest.mark.parametrize(
    ("command", "status"),
    [("postmap -s texthash:big", 141), ("postcat queuefile", 141), ("postconf", 0), ("postqueue -p", 0)],
)
def test_a_pipe_that_nobody_reads_any_more(mtad: Mtad, command: str, status: int) -> None:
    (mtad.directory / "big").write_text("".join(f"key{number} value\n" for number in range(30000)))
    (mtad.directory / "queuefile").write_bytes(b"M\x00" + b"N\x0ba few letters"[:13] * 30000)
    done = shell(mtad, f'cd "$DIRECTORY"; mtad {command} | head -1 >/dev/null; exit ${{PIPESTATUS[0]}}')
    assert (done.returncode, "Traceback" in done.stderr) == (status, False)


@pytest.mark.parametrize(
    ("command", "status", "wanted"),
    [
        ("postconf", 1, "fatal: No space left on device"),
        ("postqueue -p", 69, "postqueue: fatal: output write error: No space left on device"),
        ("qshape", 1, "fatal: No space left on device"),
    ],
)
def test_an_output_without_room(mtad: Mtad, command: str, status: int, wanted: str) -> None:
    done = shell(mtad, f"mtad {command} >/dev/full")
    assert (done.returncode, done.stderr.count("\n")) == (status, 1)
    assert wanted in done.stderr


def test_options_of_other_tools_are_theirs(mtad: Mtad) -> None:
    """``mtad -c DIR`` is no option of theirs: to pluginviewer, ``-c`` means the client's plug-ins."""
    assert mtad.command("pluginviewer", "-s").returncode == 0
    assert mtad.command("pluginviewer").stdout.count("side) mechanisms are") == 2
    mtad.write("sasl/smtpd.conf", f"sasldb_path: {mtad.root}/sasldb2\n")
    mtad.write_main_cf(cyrus_sasl_config_path=str(mtad.directory / "sasl"))
    assert mtad.command("saslpasswd", "-c", "-u", "here", "alice", text_input="secret\n").returncode == 0
    assert mtad.command("sasldblistusers").stdout == "alice@here: userPassword\n"


def test_started_by_the_name_of_postfix(mtad: Mtad) -> None:
    """... it is known for what it is."""
    link = mtad.root / "postfix"
    link.write_text(f"#!{sys.executable}\nfrom mtad.cli.main import main\nraise SystemExit(main())\n")
    link.chmod(0o755)
    words = [str(link), "-c", str(mtad.directory)]
    assert mtad.command("stop").returncode == 0
    assert subprocess.run([*words, "start"], timeout=60).returncode == 0
    assert Path(f"/proc/{mtad.pid}/cmdline").read_bytes().split(b"\0")[1] == bytes(link)
    for command in ("status", "reload", "flush"):
        done = subprocess.run([*MTAD, *words[1:], command], capture_output=True, text=True, timeout=60)
        assert (done.returncode, "fatal" in done.stderr) == (0, False)


def test_reload_and_start_name_every_mistake(mtad: Mtad) -> None:
    main_cf = mtad.directory / "main.cf"
    good = main_cf.read_text()
    main_cf.write_text(f"{good}message_size_limit = big\nmaillog_file = /srv/x\nmail_owner = nobody-here\n")
    for command in ("reload", "start"):
        done = mtad.command(command)
        assert done.returncode == 1
        for name in ("message_size_limit: bad", "maillog_file: ", "mail_owner: unknown"):
            assert name in done.stderr
    main_cf.write_text(good)
    assert mtad.command("reload").returncode == 0


def test_a_mistake_that_is_no_text_is_refused_and_survived(mtad: Mtad) -> None:
    main_cf = mtad.directory / "main.cf"
    good = main_cf.read_bytes()
    master = mtad.pid
    main_cf.write_bytes(good + b"smtpd_tls_security_level = \xff\n")
    os.kill(master, signal.SIGHUP)
    outcome = mtad.queue / "pid/mtad.reload"
    wait_until(lambda: "smtpd_tls_security_level" in outcome.read_text(), "the refusal")
    done = mtad.command("reload")
    assert done.returncode == 1
    assert "smtpd_tls_security_level" in done.stderr
    main_cf.write_bytes(good)
    assert mtad.command("reload").returncode == 0
    assert mtad.pid == master


def test_status_and_stop_need_no_log(mtad: Mtad) -> None:
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    words = [*user, sys.executable, "-m", "mtad.cli.main", "-c", str(mtad.directory), "status"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    said = f"mtad: the Postfix mail system is running: PID: {mtad.pid}\n"
    assert (done.returncode, done.stderr) == (0, said)
    with open(mtad.directory / "master.cf", "a") as out:
        out.write("nonsense\n")
    done = mtad.command("status")
    assert (done.returncode, said in done.stderr, "master.cf, line " in done.stderr) == (0, True, True)
    mtad.write_master_cf([("submission", {})])
    main_cf = mtad.directory / "main.cf"
    good = main_cf.read_text()
    main_cf.write_text(f"{good}maillog_file = /srv/elsewhere\n")
    done = mtad.command("stop")
    assert (done.returncode, "mtad: warning: " in done.stderr) == (0, True)
    main_cf.write_text(good)
    mtad.start()


def test_an_argument_that_a_command_does_not_have(mtad: Mtad) -> None:
    for words in (("check", "--jsn"), ("stop", "now"), ("reload", "--single")):
        done = mtad.command(*words)
        said = f"mtad: fatal: {words[0]}: unknown argument {words[1]}\n"
        assert (done.returncode, done.stderr) == (1, said)


def test_whatever_the_locale(mtad: Mtad) -> None:
    """Text is UTF-8, and bytes that are none stay as they are."""
    old = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = shell(mtad, "printf 'Gr\\xfc\\xdfe\nGrüße\n' | mtad postlog", **old)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line[-7:] for line in mtad.log().splitlines()[-2:]] == [": Gr??e", ": Grüße"]
    line = "mtad postsuper -d ALL; mtad sendmail jürgen@example.com </dev/null && mtad mailq"
    done = shell(mtad, line, **old)
    assert (done.returncode, "jürgen@example.com" in done.stdout) == (0, True)


@pytest.mark.parametrize(
    ("options", "text"),
    [("-f me a@example.com", ""), ("-bs", "HELO x\nMAIL FROM:<>\nRCPT TO:<a@example.com>\nDATA\n")],
)
def test_sendmail_that_is_ended_leaves_nothing(mtad: Mtad, options: str, text: str) -> None:
    words = [*MTAD, "-c", str(mtad.directory), "sendmail", *options.split()]
    maildrop = mtad.queue / "maildrop"
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as sendmail:
        assert sendmail.stdin is not None
        sendmail.stdin.write(text + "many words\n" * 20000)
        sendmail.stdin.flush()
        wait_until(lambda: any(path.stat().st_size for path in maildrop.iterdir()), "a part of the message")
        sendmail.terminate()
        assert sendmail.wait(60) == 75
    assert list(maildrop.iterdir()) == []
