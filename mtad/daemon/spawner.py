"""The process that runs commands for those who connect: ``spawn`` services of type ``unix`` in master.cf.

A policy service is often such a command, and not a daemon: ``policy unix - n n - 0 spawn user=nobody
argv=/usr/bin/policyd``. For each connection to ``private/policy`` (or ``public/policy``) it is run with the
connection as its input and output, as the user that the entry names, who is neither root nor
``mail_owner``, with the environment of ``export_environment`` alone, and is killed after
``policy_time_limit``. At most as many run at a time as the entry allows.

It keeps root's rights, which it needs to become those users, and looks at nothing that it is sent. Commands
end with their connections. An entry that can't be run is logged, and its socket is not there.

Postfix counterpart: ``spawn(8)``.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mtad.config.lines import unbraced
from mtad.config.lint import WARNING, Finding
from mtad.config.master_cf import Service
from mtad.config.parameters import Parameters
from mtad.daemon.forking import ForkingServer
from mtad.daemon.paths import Owner
from mtad.maillog import MailLog

_BACKLOG = 64
_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class Command:
    """What is run for a service."""

    name: str
    path: str  # of its socket
    uid: int
    gid: int
    argv: tuple[str, ...]
    time_limit: int
    limit: int  # how many at a time; 0: any number


def spawns(services: Sequence[Service]) -> list[Service]:
    """The entries of master.cf that we serve."""
    return [each for each in services if each.type == "unix" and os.path.basename(each.command) == "spawn"]


def read_command(p: Parameters, service: Service, owner: Owner) -> Command:
    """What ``service`` runs.  Raises ValueError with Postfix's words."""
    user = ""
    argv: tuple[str, ...] = ()
    for at, word in enumerate(service.args):
        name, _, value = word.partition("=")
        if name.lower() == "argv":
            argv = tuple(_word(each) for each in (value, *service.args[at + 1 :]) if each)
            break
        if name.lower() != "user":
            raise ValueError(f"unknown attribute name: {word}")
        user = value
    if not user:
        raise ValueError("missing user= attribute")
    if not argv:
        raise ValueError("missing argv= attribute")
    uid, gid = _user(user)
    if os.geteuid() == 0:
        if uid == 0:
            raise ValueError("request to deliver as root")
        if uid == owner.uid:
            raise ValueError("request to deliver as mail system owner")
        if gid == 0:
            raise ValueError("request to use privileged group id 0")
        if gid == owner.gid:
            raise ValueError(f"request to use mail system owner group id {gid}")
    elif uid != os.geteuid():
        raise ValueError(f"cannot run a command as {user}: not started by root")
    limit = p.number("default_process_limit") if service.maxproc is None else service.maxproc
    place = "private" if service.private else "public"
    path = os.path.join(p["queue_directory"], place, service.name)
    return Command(service.name, path, uid, gid, argv, p.seconds(f"{service.name}_time_limit"), limit)


def findings(p: Parameters, services: Sequence[Service], owner: Owner) -> list[Finding]:
    """The entries that can't be run."""
    found = []
    for service in spawns(services):
        try:
            read_command(p.for_service(service), service, owner)
        except ValueError as problem:
            text = f"service {service.name} will not run: {problem}"
            found.append(Finding(WARNING, f"{p.directory}/master.cf", service.line, "", text))
    return found


def _word(text: str) -> str:
    return unbraced(text) if text.startswith("{") else text


def _user(text: str) -> tuple[int, int]:
    user, _, group = text.partition(":")
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise ValueError(f"unknown user name: {user}") from None
    if not group:
        return account.pw_uid, account.pw_gid
    try:
        return account.pw_uid, grp.getgrnam(group).gr_gid
    except KeyError:
        raise ValueError(f"unknown group name: {group}") from None


class Spawner(ForkingServer):
    """Serves all of them."""

    def __init__(
        self,
        p: Parameters,
        services: Sequence[Service],
        owner: Owner,
        log: MailLog,
        say: Callable[[bytes], None],
        beat: float,
    ) -> None:
        super().__init__(say, beat)
        self._log = log
        self._owner = owner
        self._directory = p["queue_directory"]
        self._environment = _environment(p)
        self._commands: list[Command] = []
        for service in spawns(services):
            try:
                self._commands.append(read_command(p.for_service(service), service, owner))
            except ValueError as problem:
                log.fatal(f"service {service.name}: {problem}")
        self._listeners: dict[int, tuple[socket.socket, Command]] = {}
        self._running: dict[int, tuple[Command, float]] = {}  # by process, with the time of its end
        self._leaving = False

    def _open(self) -> Sequence[int]:
        return [fd for fd, (_, each) in self._listeners.items() if self._may(each)]

    def _leave(self) -> None:
        # who has connected to the sockets that were ours, and waited: nobody else knows of them
        self._leaving = True
        self._accept(list(self._listeners))

    def _patience(self) -> float | None:
        ends = [end - time.monotonic() for _, end in self._running.values()]
        waits = [*ends, *([self._beat] if self._beat else [])]
        return max(min(waits), 0.0) if waits else None

    def _may(self, command: Command) -> bool:
        """Whether one more may run."""
        if self._leaving:
            return True
        count = sum(1 for each, _ in self._running.values() if each == command)
        return not command.limit or count < command.limit

    # -- sockets

    def _listen(self) -> None:
        """Take the places of those who listened there before, without a moment when nobody does."""
        for command in self._commands:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            fresh = f"{command.path}.mtad"
            try:
                directory = os.path.dirname(command.path)
                if not os.path.isdir(directory):
                    os.mkdir(directory, 0o700)
                    os.chown(directory, self._owner.uid, self._owner.gid)
                with self._owner.acting():
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(fresh)
                    listener.bind(fresh)
                    os.chmod(fresh, 0o600)
                    listener.listen(_BACKLOG)
                    os.rename(fresh, command.path)
            except OSError as problem:
                listener.close()
                self._log.fatal(f"service {command.name}: {command.path}: {problem.strerror or problem}")
                continue
            self._listeners[listener.fileno()] = (listener, command)

    def _accept(self, ready: Sequence[int]) -> None:
        for fd in ready:
            listener, command = self._listeners.get(fd, (None, None))
            while listener is not None and command is not None and self._may(command):
                try:
                    connection, _ = listener.accept()
                except OSError:
                    break
                with connection:
                    self._start(command, connection)

    # -- commands

    def _start(self, command: Command, connection: socket.socket) -> None:
        try:
            pid = os.fork()
        except OSError as problem:
            self._log.warning(f"cannot run {command.argv[0]}: {problem.strerror}")
            return
        if pid == 0:
            try:
                self._become(command, connection)
            except OSError as problem:
                self._log.fatal(f"{command.argv[0]}: {problem.strerror}")
            finally:
                os._exit(1)
        self._running[pid] = (command, time.monotonic() + command.time_limit)

    def _become(self, command: Command, connection: socket.socket) -> None:
        """In a new process: be the command."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        if os.geteuid() == 0:
            os.setgroups([command.gid])
            os.setresgid(command.gid, command.gid, command.gid)
            os.setresuid(command.uid, command.uid, command.uid)
        connection.setblocking(True)
        for fd in range(3):
            os.dup2(connection.fileno(), fd)
        os.chdir(self._directory)
        os.umask(0o077)
        # all other descriptors close by themselves
        os.execvpe(command.argv[0], command.argv, self._environment)

    def _reap(self) -> None:
        """See who has ended, and end those whose time is up."""
        now = time.monotonic()
        for pid, (_, end) in self._running.items():
            if end <= now:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
        super()._reap()

    def _ended(self, pid: int, status: int) -> None:
        ended = self._running.pop(pid, None)
        if ended is not None and status:
            code = os.waitstatus_to_exitcode(status)
            how = f"exit status {code}" if code > 0 else f"killed by signal {-code}"
            self._log.warning(f"command {ended[0].argv[0]} {how}")


def _environment(p: Parameters) -> dict[str, str]:
    """What commands know of ours: ``export_environment``, and a PATH."""
    found = {"PATH": _PATH}
    for word in p.words("export_environment"):
        name, equals, value = word.partition("=")
        if equals:
            found[name.strip()] = value.strip()
        elif name in os.environ:
            found[name] = os.environ[name]
    return found
