"""The process that writes mail into users' mailboxes: the only one that keeps root's rights.

It does as little as can be: for each connection to its socket, which ``mail_owner`` alone may open, it forks
a child.  That child reads one line of JSON, looks the user up, becomes that user for good, and only then
writes the bytes that follow into a maildir below the user's home directory, under the name that it was given,
so that a mail that comes twice is there once.  Which maildir is the configuration's to say, not the caller's.
It writes for no user id 0.  Nothing that it is sent is run or looked at.

Postfix counterpart: the maildir deliveries of ``local(8)`` and ``virtual(8)``.
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import re
import signal
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mtad.config.parameters import Parameters
from mtad.daemon.forking import ForkingServer

#: Children at a time.
_LIMIT = 50
_HEAD_LIMIT = 4096
_SILENCE = 60.0
_WHOLE = 600
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.,_=-]{0,200}")
_PIECE = 65536


class Refused(Exception):
    """The mail is not written; the arguments are a status and a text."""

    def __init__(self, dsn: str, text: str, unknown: bool = False) -> None:
        self.answer = {"dsn": dsn, "text": text, "unknown": unknown}
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class Rules:
    """Where mail may be written."""

    home_mailbox: str  # below a user's home directory, with a slash at its end; empty: nowhere
    virtual_base: str
    virtual_minimum_uid: int
    client: int  # the user id that may ask
    require_home: bool = False  # a user without home directory has no mail

    @classmethod
    def of(cls, p: Parameters, client: int) -> Rules:
        """The rules of a configuration; ``client``: the user id of ``mail_owner``."""
        home = p["home_mailbox"]
        return cls(
            home_mailbox=home if home.endswith("/") else "",
            virtual_base=p["virtual_mailbox_base"].rstrip("/"),
            virtual_minimum_uid=p.number("virtual_minimum_uid"),
            client=client,
            require_home=p.flag("require_home_directory"),
        )


class Mailman(ForkingServer):
    """Serves ``listener``."""

    def __init__(
        self, rules: Rules, listener: socket.socket, say: Callable[[bytes], None], beat: float
    ) -> None:
        super().__init__(say, beat)
        self._rules = rules
        self._listener = listener
        self._serving = False
        self._children: set[int] = set()

    def _listen(self) -> None:
        self._serving = True

    def _open(self) -> Sequence[int]:
        return (self._listener.fileno(),) if self._serving and len(self._children) < _LIMIT else ()

    def _ended(self, pid: int, status: int) -> None:
        self._children.discard(pid)

    def _leave(self) -> None:
        """Children go on alone."""

    def _accept(self, ready: Sequence[int]) -> None:
        if self._listener.fileno() not in ready:
            return
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        with connection:
            try:
                pid = os.fork()
            except OSError:
                time.sleep(0.1)
                return
            if pid == 0:
                status = 1
                try:
                    serve(connection, self._rules)
                    status = 0
                finally:
                    os._exit(status)
            self._children.add(pid)


def serve(connection: socket.socket, rules: Rules, alone: bool = True) -> None:
    """Take one mail; ``alone``: in a process of its own."""
    if alone:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        signal.alarm(_WHOLE)
    connection.setblocking(True)
    connection.settimeout(_SILENCE)
    answer: dict[str, Any] = {"ok": True}
    try:
        _check_peer(connection, rules.client)
        with connection.makefile("rb") as stream:
            _take(json.loads(stream.readline(_HEAD_LIMIT)), stream, rules)
    except Refused as refused:
        answer = refused.answer
    except OSError as problem:
        answer = Refused(_dsn(problem), f"maildir delivery failed: {problem.strerror}").answer
    except (ValueError, KeyError, TypeError):
        answer = Refused("4.3.0", "malformed request").answer
    connection.sendall(json.dumps(answer).encode() + b"\n")


def _check_peer(connection: socket.socket, client: int) -> None:
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    if uid not in (client, 0):
        raise Refused("4.3.0", "not permitted")


def _take(request: dict[str, Any], stream: Any, rules: Rules) -> None:
    name, size = str(request["name"]), int(request["size"])
    if not _NAME.fullmatch(name) or size < 0:
        raise Refused("4.3.0", "malformed request")
    if "user" in request:
        maildir = _become_user(str(request["user"]), rules)
    else:
        maildir = _become_virtual(str(request["path"]), int(request["uid"]), int(request["gid"]), rules)
    if not request.get("probe"):
        os.umask(0o077)  # this process is of this mail alone
        write_maildir(maildir, name, stream, size)


def _become_user(user: str, rules: Rules) -> str:
    """Be that user from now on; their maildir."""
    try:
        entry = pwd.getpwnam(user)
    except (KeyError, ValueError):
        raise Refused("5.1.1", f'unknown user: "{user}"', unknown=True) from None
    if not rules.home_mailbox:
        raise Refused("4.3.5", "home_mailbox does not end in a slash: mtad writes only maildirs")
    if entry.pw_uid == 0 and os.geteuid() == 0:
        raise Refused("4.3.0", f"no mail is written as root: make {user} an alias of somebody")
    _become(entry.pw_uid, entry.pw_gid, entry.pw_name)
    if rules.require_home:
        try:
            os.stat(entry.pw_dir)
        except OSError as problem:
            why = f"cannot access home directory {entry.pw_dir}: {problem.strerror}"
            raise Refused("4.3.0", why) from problem
    return os.path.join(entry.pw_dir, rules.home_mailbox)


def _become_virtual(path: str, uid: int, gid: int, rules: Rules) -> str:
    """Be the owner of a virtual mailbox; its directory."""
    parts = path.strip("/").split("/")
    if not rules.virtual_base or not path.endswith("/") or any(part in ("", ".", "..") for part in parts):
        raise Refused("4.3.5", "mail system configuration error")
    if uid < max(1, rules.virtual_minimum_uid) or gid < 1:
        raise Refused("4.3.5", "mail system configuration error")
    _become(uid, gid, "")
    return os.path.join(rules.virtual_base, *parts) + "/"


def _become(uid: int, gid: int, name: str) -> None:
    if os.geteuid() != 0:
        if uid != os.geteuid():
            raise Refused("4.3.0", "mtad was not started by root, and can't write others' mail")
        return
    if name:
        os.initgroups(name, gid)
    else:
        os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def write_maildir(maildir: str, name: str, stream: Any, size: int) -> None:
    """Write a file into a maildir, which is made where it is missing; it is on the disk afterwards."""
    temporary = os.path.join(maildir, "tmp", f"{name}.{os.getpid()}")
    final = os.path.join(maildir, "new", name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(temporary, flags, 0o600)
    except FileNotFoundError:
        for part in ("tmp", "new", "cur"):
            os.makedirs(os.path.join(maildir, part), 0o700, exist_ok=True)
        fd = os.open(temporary, flags, 0o600)
    try:
        with open(fd, "wb") as out:
            left = size
            while left:
                piece = stream.read(min(left, _PIECE))
                if not piece:
                    raise Refused("4.3.0", "the mail was cut off")
                out.write(piece)
                left -= len(piece)
            out.flush()
            os.fsync(out.fileno())
        try:
            os.link(temporary, final)
        except FileExistsError:
            pass  # it came before, and we had no time to say so
    finally:
        os.unlink(temporary)
    directory = os.open(os.path.dirname(final), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fsync(directory)
    os.close(directory)


def _dsn(problem: OSError) -> str:
    """The status for an error of the file system."""
    if problem.errno in (errno.EDQUOT, errno.EFBIG):
        return "5.2.2"
    return "4.3.0" if problem.errno == errno.ENOSPC else "4.2.0"
