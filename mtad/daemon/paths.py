"""The directories that mtad keeps its own things in, made with the right owner and mode.

``$queue_directory/pid`` holds the lock that Postfix has too; ``mtad_queue_directory`` (default
``$queue_directory/mtad``) holds the queue's database and the spool, for ``mail_owner`` alone, and the control
socket, to which anybody may connect; ``$queue_directory/maildrop`` is where the host's programs leave mail.

Postfix counterpart: ``post-install create-missing``, ``set-permissions``.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mtad.config.parameters import Parameters
from mtad.deliver.mailbox import mailman_socket
from mtad.deliver.verify import verify_socket
from mtad.errors import ConfigError
from mtad.oauth.state import state_directory
from mtad.queue.postfix.files import CORRUPT


@dataclass(frozen=True, slots=True)
class Owner:
    """Who the workers run as."""

    name: str
    uid: int
    gid: int

    def become(self) -> None:
        """Give up root for good."""
        if os.getuid() != 0:
            return
        os.initgroups(self.name, self.gid)
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Do something with this user's rights where we are root."""
        if os.geteuid() != 0:
            yield
            return
        os.setegid(self.gid)
        os.seteuid(self.uid)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(0)


def owner(p: Parameters) -> Owner:
    """``mail_owner`` when started by root, else whoever we are.  Raises ConfigError."""
    if os.geteuid() != 0:
        uid = os.geteuid()
        try:
            return Owner(pwd.getpwuid(uid).pw_name, uid, os.getegid())
        except KeyError:
            return Owner(str(uid), uid, os.getegid())
    name = p["mail_owner"]
    where, line = p.where("mail_owner")
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise ConfigError(
            f'unknown user name "{name}"', path=where, line=line, parameter="mail_owner",
            remedy=f"make the account: adduser --system --group {name}",
        ) from None  # fmt: skip
    if entry.pw_uid == 0:
        raise ConfigError(
            "the mail system must not run as root", path=where, line=line, parameter="mail_owner"
        )
    return Owner(name, entry.pw_uid, entry.pw_gid)


@dataclass(frozen=True, slots=True)
class Paths:
    """Where things are."""

    lock: str  # master.pid
    queue: str  # mtad_queue_directory
    control: str
    spool: str
    tokens: str  # of OAuth accounts
    verify: str  # who knows whether mail can be delivered listens here
    mailman: str  # who writes mailboxes listens here
    wakeup: str  # datagrams that tell qmgr of new mail
    outcome: str  # what became of the last reload
    maildrop: str


def paths(p: Parameters) -> Paths:
    """Where the files and sockets of the mail system with parameters ``p`` are."""
    queue = p["mtad_queue_directory"]
    return Paths(
        lock=os.path.join(p["queue_directory"], "pid", "master.pid"),
        queue=queue,
        control=os.path.join(queue, "control"),
        spool=os.path.join(queue, "spool"),
        tokens=state_directory(p),
        verify=verify_socket(p),
        mailman=mailman_socket(p),
        wakeup=os.path.join(queue, "wakeup"),
        outcome=os.path.join(p["queue_directory"], "pid", "mtad.reload"),
        maildrop=os.path.join(p["queue_directory"], "maildrop"),
    )


def make_directories(p: Parameters, who: Owner) -> Paths:
    """Make what is missing and put owner and mode right.  Raises ConfigError."""
    found = paths(p)
    _directory(p, "queue_directory", p["queue_directory"], 0o755, None)
    _directory(p, "queue_directory", os.path.dirname(found.lock), 0o755, None)
    _directory(p, "mtad_queue_directory", found.queue, 0o711, who)
    _maildrop(p, found.maildrop, who)
    corrupt = os.path.join(p["queue_directory"], CORRUPT)
    if not os.path.isdir(corrupt):
        _directory(p, "queue_directory", corrupt, 0o700, who)
    return found


def _maildrop(p: Parameters, path: str, who: Owner) -> None:
    """Make the maildrop where there is none, as Postfix would: for the group ``setgid_group``."""
    if os.path.isdir(path):
        return
    _directory(p, "queue_directory", path, 0o1730, None)
    if os.geteuid() == 0:
        try:
            group = grp.getgrnam(p["setgid_group"]).gr_gid
        except KeyError:
            group = who.gid
        os.chown(path, who.uid, group)
        os.chmod(path, 0o1730)


def hand_over(found: Paths, who: Owner) -> None:
    """Give what is in the queue's directory to ``who``, and make what is missing.  Raises ConfigError.

    The directory is that of a user whom root does not trust: no links of theirs are followed."""
    try:
        _hand_over(found.queue, who)
        _hand_over(found.tokens, who, os.O_NOFOLLOW)
        with who.acting():
            if not os.path.isdir(found.spool):
                os.mkdir(found.spool, 0o700)
            os.chmod(found.spool, 0o700)
    except OSError as problem:
        raise ConfigError(f"{problem.filename}: {problem.strerror}") from problem


def _hand_over(path: str, who: Owner, flags: int = 0) -> None:
    """Give what is in one directory to ``who``."""
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | flags)
    except FileNotFoundError:
        return
    try:
        for entry in os.scandir(directory):
            status = entry.stat(follow_symlinks=False)
            lone = stat.S_ISDIR(status.st_mode) or status.st_nlink == 1
            if os.geteuid() == 0 and lone and (status.st_uid, status.st_gid) != (who.uid, who.gid):
                os.chown(entry.name, who.uid, who.gid, dir_fd=directory, follow_symlinks=False)
    finally:
        os.close(directory)


def _directory(p: Parameters, parameter: str, path: str, mode: int, who: Owner | None) -> None:
    """``who`` None: made where it is missing, and left as it is where it exists."""
    where, line = p.where(parameter)
    try:
        if not os.path.isdir(path):
            os.makedirs(path, mode)
            os.chmod(path, mode)
        elif who is None:
            return
        if who is not None:
            status = os.stat(path)
            if os.geteuid() == 0 and (status.st_uid, status.st_gid) != (who.uid, who.gid):
                os.chown(path, who.uid, who.gid)
            if status.st_mode & 0o777 != mode:
                os.chmod(path, mode)
    except OSError as problem:
        raise ConfigError(
            f"{path}: {problem.strerror}", path=where, line=line, parameter=parameter,
            remedy="start mtad as root, or name a directory that this user may write",
        ) from problem  # fmt: skip
