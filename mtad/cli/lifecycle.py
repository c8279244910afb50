"""Start, stop, reload, check, status, abort, flush: the commands of ``postfix(1)``.

Each returns an exit status: 0 done, 1 failed (with one ``mtad: fatal:`` line on standard error that says
why).  Warnings about the configuration go to standard error too.

Postfix counterpart: ``postfix(1)``, ``postfix-script``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mtad.cli.directory import config_directory
from mtad.config.lint import ERROR, Finding
from mtad.config.parameters import Parameters
from mtad.daemon.lock import AlreadyRunning, holder, program_of
from mtad.daemon.logs import close_sink, open_sink, program_log
from mtad.daemon.paths import make_directories, paths
from mtad.errors import ConfigError, MtadError
from mtad.maillog import ListSink, MailLog, printable

if TYPE_CHECKING:
    from mtad.auth.failures import Locked
    from mtad.daemon.plan import Plan

#: Seconds that ``stop`` and ``reload`` wait for the master.
_PATIENCE = 30.0
_STEP = 0.02


def run(command: str, given: str | None, arguments: Sequence[str]) -> int:
    """Carry out ``command``; ``given``: the configuration directory, where it is known."""
    directory = os.path.abspath(config_directory(given))
    os.environ["MAIL_CONFIG"] = directory  # commands of ``spawn`` services may have it
    try:
        for word in arguments:
            if word != _OPTIONS.get(command):
                raise ConfigError(f"{command}: unknown argument {word}")
        return _COMMANDS[command](directory, arguments)
    except MtadError as problem:
        return _fatal(str(problem))
    except PermissionError as problem:
        return _fatal(f"{problem.filename or 'the running mail system'}: {problem.strerror}; who are you?")


def _fatal(text: str) -> int:
    sys.stderr.write(f"mtad: fatal: {text}\n")
    return 1


def _tell(findings: Sequence[Finding]) -> None:
    for finding in findings:
        sys.stderr.write(f"mtad: {finding.severity}: {finding}\n")


def _checked(directory: str) -> Plan:
    """The plan, its findings told.  Raises ConfigError."""
    # all that a daemon needs: commands that do not read the configuration whole do without it
    from mtad.daemon.plan import make_plan

    plan = make_plan(directory)
    _tell(plan.findings)
    return plan


def _script_log(p: Parameters, text: str) -> None:
    """Log it; where the log can't be had, the command is carried out all the same."""
    try:
        sink = open_sink(p)
    except ConfigError as problem:
        sys.stderr.write(f"mtad: warning: {problem}\n")
        return
    program_log(p, sink, "postfix-script").info(text)
    close_sink(sink)


def _check(directory: str, arguments: Sequence[str]) -> int:
    from mtad.daemon.plan import inspect

    findings = inspect(directory)
    if "--json" in arguments:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _tell(findings)
    return 1 if any(finding.severity == ERROR for finding in findings) else 0


def _start(directory: str, arguments: Sequence[str]) -> int:
    plan = _checked(directory)
    _refuse_if_running(plan)
    read, write = os.pipe()
    if os.fork():
        os.close(write)
        report = os.read(read, 65536).decode()  # written at once; what the master forks holds the pipe too
        return 0 if report == "ok" else _fatal(report or "the master ended without a word")
    os.close(read)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.chdir("/")

    def started(problem: str) -> None:
        os.write(write, printable(problem).encode() or b"ok")
        os.close(write)

    status = 1
    try:
        status = _serve(directory, "--single" in arguments, started, plan)
    finally:
        os._exit(status)


def _start_fg(directory: str, arguments: Sequence[str]) -> int:
    plan = _checked(directory)
    _refuse_if_running(plan)

    def started(problem: str) -> None:
        if problem:
            _fatal(problem)

    return _serve(directory, "--single" in arguments, started, plan)


def _serve(directory: str, single: bool, started: Callable[[str], None], plan: Plan) -> int:
    from mtad.daemon.master import Master

    try:
        _script_log(plan.p, "starting the Postfix mail system")
        return Master(directory, single=single, started=started).run()
    except (MtadError, OSError) as problem:
        started(str(problem))
        return 1


def _refuse_if_running(plan: Plan) -> None:
    lock = make_directories(plan.p, plan.owner).lock
    pid = holder(lock)
    if pid:
        raise AlreadyRunning(lock, pid, program_of(pid))


def _running(directory: str) -> tuple[Parameters, int]:
    """The parameters and the pid of the mtad that runs on them.  Raises ConfigError."""
    p = Parameters.load(directory)
    pid = holder(paths(p).lock)
    if not pid:
        raise ConfigError("the Postfix mail system is not running")
    program = program_of(pid)
    if program != "mtad":
        raise ConfigError(f"{program} (PID {pid}) runs on this configuration, not mtad")
    return p, pid


def _status(directory: str, arguments: Sequence[str]) -> int:
    p, pid = _running(directory)
    sys.stderr.write(f"mtad: the Postfix mail system is running: PID: {pid}\n")
    try:
        locked = _locked_logins(p)
    except MtadError as problem:  # a mistake in master.cf: what runs, runs
        sys.stderr.write(f"mtad: warning: {problem}\n")
        return 0
    for each in locked:
        until = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.until))
        print(f"login {each.login} from {each.network} is locked until {until} ({each.count} failures)")
    return 0


def _locked_logins(p: Parameters) -> list[Locked]:
    """The logins that are locked now, for the main.cf of ``p`` and each service with limits of its own."""
    from mtad.auth.failures import FailureLimit
    from mtad.config.master_cf import read_master_cf

    path = os.path.join(p.directory, "master.cf")
    services = read_master_cf(path, []) if os.path.exists(path) else []
    log = MailLog(ListSink(), "status")  # whoever asks may neither log nor, perhaps, see the logins
    limits = (FailureLimit(each, log) for each in (p, *(p.for_service(service) for service in services)))
    found = {(each.login, each.network): each for limit in limits for each in limit.now_locked()}
    return sorted(found.values(), key=lambda each: -each.until)


def _stop(directory: str, arguments: Sequence[str]) -> int:
    p, pid = _running(directory)
    _script_log(p, "stopping the Postfix mail system")
    os.kill(pid, signal.SIGTERM)
    lock = paths(p).lock
    return 0 if _wait(lambda: holder(lock) != pid) else _abort(directory, arguments)


def _abort(directory: str, arguments: Sequence[str]) -> int:
    p, pid = _running(directory)
    _script_log(p, "aborting the Postfix mail system")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(pid, signal.SIGKILL)
    for child in children:
        try:
            os.kill(int(child), signal.SIGKILL)
        except ProcessLookupError:
            pass
    lock = paths(p).lock
    return 0 if _wait(lambda: holder(lock) != pid) else _fatal(f"PID {pid} does not end")


def _reload(directory: str, arguments: Sequence[str]) -> int:
    _, pid = _running(directory)
    plan = _checked(directory)
    outcome = paths(plan.p).outcome
    _script_log(plan.p, "refreshing the Postfix mail system")
    asked = time.monotonic_ns()
    os.kill(pid, signal.SIGHUP)
    problem = ""

    def answered() -> bool:
        """The master has read the configuration since we asked, and says what came of it."""
        nonlocal problem
        try:
            read, _, problem = Path(outcome).read_text("utf-8").partition("\n")
        except FileNotFoundError:
            return False
        return int(read) >= asked

    if not _wait(answered):
        return _fatal(f"the master did not answer within {_PATIENCE:.0f} seconds: see the maillog")
    return _fatal(problem) if problem else 0


def _flush(directory: str, arguments: Sequence[str]) -> int:
    from mtad.cli.control import ask

    p, _ = _running(directory)
    answer = ask(paths(p).control, {"command": "flush"}, 10.0)
    return 0 if answer.get("ok") else _fatal(str(answer.get("error")))


def _logrotate(directory: str, arguments: Sequence[str]) -> int:
    from mtad.cli.logrotate import rotate

    return rotate(directory, lambda: _reload(directory, ()))


def _wait(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_STEP)
    return True


#: The option that a command has.
_OPTIONS = {"start": "--single", "start-fg": "--single", "check": "--json"}
_COMMANDS: dict[str, Callable[[str, Sequence[str]], int]] = {
    "start": _start,
    "start-fg": _start_fg,
    "stop": _stop,
    "abort": _abort,
    "reload": _reload,
    "flush": _flush,
    "logrotate": _logrotate,
    "check": _check,
    "status": _status,
}
