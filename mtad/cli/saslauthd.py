"""``mtad saslauthd``: a daemon that checks passwords, in place of Cyrus' own.

``mtad saslauthd -a MECH [-m DIR] [-n N] [-c [-s KB] [-t SECONDS]] [-r] [-V] [-O OPTION] [-d]``.  The socket
is ``DIR/mux``, open to all: the directory's mode and group say who may get there.  ``DIR/saslauthd.pid``
keeps a second one out.  Without ``-d`` it goes to the background once the socket is there, and logs to
syslog (facility auth).

Exit status: 0; 1 for what can't be started, with the reason on standard error.
Counterpart: ``saslauthd(8)``.
"""

from __future__ import annotations

import fcntl
import getopt
import os
import signal
import sys

from mtad import POSTFIX_VERSION, __version__
from mtad.daemon.saslauthd import backends
from mtad.daemon.saslauthd.cache import SIZE, TIMEOUT, Cache
from mtad.daemon.saslauthd.server import Options, Server, listen
from mtad.errors import ConfigError
from mtad.maillog import MailLog, Sink, SyslogSink

DIRECTORY = "/var/run/saslauthd"

USAGE = """\
usage: mtad saslauthd -a MECH [options]
  -a MECH     how passwords are checked: getpwent, pam, rimap, sasldb, shadow
  -m DIR      the directory of the socket "mux" (default /var/run/saslauthd)
  -n N        how many processes check at a time (default 5; 0: one for each request)
  -O OPTION   rimap: the server (host or host/port); sasldb: the file
  -r          put login and realm together: login@realm
  -c          keep credentials that were right
  -s KB       how much of them (default 1711)
  -t SECONDS  for how long (default 28800)
  -V          log successes, too
  -d          stay in the foreground, log to standard error
  -l, -T      taken for compatibility, without effect
  -v          tell version and mechanisms
  -h          this"""


class _StderrSink:
    """Where ``-d`` logs to."""

    def write(self, severity: str, ident: str, text: str) -> None:
        print(f"{ident}[{os.getpid()}]: {text}", file=sys.stderr, flush=True)


class _Problem(Exception):
    pass


def main(argv: list[str]) -> int:
    """Run the command on ``argv`` (without its name); the exit code."""
    try:
        return _run(argv)
    except (_Problem, ConfigError, OSError) as problem:
        print(f"saslauthd: {problem}", file=sys.stderr)
        return 1


def _run(argv: list[str]) -> int:
    try:
        flags, rest = getopt.getopt(argv, "a:cdhH:lm:n:O:rs:t:TvV", ["help"])
    except getopt.GetoptError as error:
        raise _Problem(f"{error}\n{USAGE}") from error
    given = dict(flags)
    if "-h" in given or "--help" in given:
        print(USAGE)
        return 0
    if "-v" in given:
        print(f"saslauthd {__version__} (mtad, Postfix {POSTFIX_VERSION})", file=sys.stderr)
        print(f"authentication mechanisms: {' '.join(backends.NAMES)}", file=sys.stderr)
        return 0
    if rest or "-a" not in given:
        raise _Problem(f"no authentication mechanism: say -a\n{USAGE}")
    mechanism = given["-a"]
    backend = backends.make(mechanism, given.get("-O") or given.get("-H") or "")
    options = Options(mechanism, _number(given, "-n", 5, 0), "-r" in given, "-V" in given or "-d" in given)
    cache = Cache(_number(given, "-s", SIZE, 1), _number(given, "-t", TIMEOUT, 1)) if "-c" in given else None
    directory = given.get("-m", DIRECTORY)
    if not directory.startswith("/") or not os.path.isdir(directory):
        raise _Problem(f"{directory}: not the absolute name of a directory")
    return _serve(directory, backend, cache, options, "-d" in given)


def _number(given: dict[str, str], option: str, default: int, least: int) -> int:
    text = given.get(option, str(default))
    if not text.isdigit() or not least <= int(text) < 1 << 31:
        raise _Problem(f"option {option}: not a number of at least {least}: {text}")
    return int(text)


def _serve(
    directory: str, backend: backends.Backend, cache: Cache | None, options: Options, foreground: bool
) -> int:
    pid_file = os.open(os.path.join(directory, "saslauthd.pid"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    path = os.path.join(directory, "mux")
    try:
        fcntl.lockf(pid_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise _Problem(f"another saslauthd runs with {directory}") from None
    listener = listen(path)
    if not foreground and os.fork():
        # the lock is the process's: the child takes it once this one is gone
        os._exit(0)
    sink: Sink = _StderrSink() if foreground else SyslogSink("auth")
    if not foreground:
        _detach()
    fcntl.lockf(pid_file, fcntl.LOCK_EX)
    os.ftruncate(pid_file, 0)
    os.pwrite(pid_file, b"%d\n" % os.getpid(), 0)
    log = MailLog(sink, "saslauthd")
    server = Server(listener, backend, cache, log, options)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    signal.signal(signal.SIGHUP, lambda *_: server.forget())
    log.info(f"detach_tty      : master pid is: {os.getpid()}")
    log.info(f"ipc_init        : listening on socket: {path}")
    try:
        server.run()
    finally:
        for each in (path, os.path.join(directory, "saslauthd.pid")):
            try:
                os.unlink(each)
            except OSError:
                pass  # somebody was faster
    log.info(f"server_exit     : master exited: {os.getpid()}")
    return 0


def _detach() -> None:
    """Leave the terminal."""
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
