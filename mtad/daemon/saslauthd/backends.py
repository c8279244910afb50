"""How saslauthd checks a password (``-a``): pam, shadow, getpwent, sasldb, rimap.

:func:`make` gives a :class:`Backend`; it raises ConfigError for a name or an option that can't be.  A back
end may block, and runs in a helper process.  It gives a reason when it says no, for the log; None says yes.

Counterpart: ``saslauthd/auth_*.c``.
"""

from __future__ import annotations

import ctypes
import hmac
import os
import pwd
import socket
import time
from collections.abc import Callable

from mtad.auth.hashes import Hash, HashError, crypt, parse, verify
from mtad.daemon.saslauthd.wire import Request
from mtad.errors import ConfigError, TableError
from mtad.tables.sasldb import DEFAULT_PATH, SaslDb

Backend = Callable[[Request], str | None]

#: A hash to compare with for users that there are not, so that they take as long as others.
_DECOY = b"$6$rounds=5000$nobody$"

_PAM_RHOST = 4

#: Seconds that an IMAP server may take.
RIMAP_TIMEOUT = 30
_LINE_LIMIT = 8192


def make(name: str, option: str) -> Backend:
    """The back end of that name; ``option`` is ``-O``."""
    if name == "sasldb":
        return Sasldb(option or DEFAULT_PATH)
    if name == "rimap":
        return Rimap(option)
    if name == "pam":
        return pam_backend()
    if name in ("shadow", "getpwent"):
        return Accounts(_shadow if name == "shadow" else _passwd)
    raise ConfigError(f"unknown authentication mechanism: {name}", remedy=f"one of {', '.join(NAMES)}")


NAMES = ("getpwent", "pam", "rimap", "sasldb", "shadow")


def pam_backend() -> Backend:
    """``pam``: the service is the request's, so that ``/etc/pam.d/smtp`` counts for mail."""
    try:
        import pam
    except ImportError as error:
        raise ConfigError(
            "the mechanism pam needs the package python-pam", remedy="pip install python-pam"
        ) from error

    def check(request: Request) -> str | None:
        os.environ.pop("DISPLAY", None)  # it would become the terminal's name
        authenticator = pam.PamAuthenticator()
        if request.address:
            begin = authenticator.pam_authenticate

            def with_address(handle: object, flags: int) -> object:
                address = ctypes.create_string_buffer(request.address.encode())
                authenticator.pam_set_item(handle, _PAM_RHOST, ctypes.cast(address, ctypes.c_void_p))
                return begin(handle, flags)

            authenticator.pam_authenticate = with_address
        try:
            right = authenticator.authenticate(
                request.login, request.password, service=request.service or b"login", resetcreds=False
            )
        except (ValueError, UnicodeError):
            return "PAM auth error"
        return None if right else f"PAM auth error ({authenticator.reason})"

    return check


class _Spwd(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p), ("password", ctypes.c_char_p), ("changed", ctypes.c_long),
        ("least", ctypes.c_long), ("most", ctypes.c_long), ("warn", ctypes.c_long),
        ("inactive", ctypes.c_long), ("expires", ctypes.c_long), ("flag", ctypes.c_ulong),
    )  # fmt: skip


class Refused(Exception):
    """An account exists and may not be used."""


def _shadow(login: bytes) -> bytes | None:
    """The hash in shadow(5); raises :class:`Refused` for what has expired."""
    function = ctypes.CDLL(None, use_errno=True).getspnam
    function.argtypes, function.restype = [ctypes.c_char_p], ctypes.POINTER(_Spwd)
    found = function(login)
    if not found:
        return None
    entry = found.contents
    today = int(time.time()) // 86400
    if entry.expires != -1 and today > entry.expires:
        raise Refused("account expired")
    if (
        entry.most != -1
        and entry.changed != -1
        and (entry.changed == 0 or today > entry.changed + entry.most)
    ):
        raise Refused("password expired")
    return bytes(entry.password or b"")


def _passwd(login: bytes) -> bytes | None:
    try:
        return os.fsencode(pwd.getpwnam(os.fsdecode(login)).pw_passwd)
    except KeyError:
        return None


class Accounts:
    """``shadow`` and ``getpwent``: the host's own users."""

    def __init__(self, find: Callable[[bytes], bytes | None]) -> None:
        self._find = find
        self._decoy = _DECOY

    def __call__(self, request: Request) -> str | None:
        problem = "user not found"
        stored = None
        try:
            stored = self._find(request.login)
        except Refused as refused:
            problem = str(refused)
        try:
            if not stored:
                crypt(request.password, self._decoy)
                return problem
            right = crypt(request.password, stored)
        except HashError:  # a locked account has no hash that can be
            return "password cannot be compared"
        self._decoy = stored
        return None if hmac.compare_digest(right, stored) else "incorrect password"


class Sasldb:
    """``sasldb``: the users of ``sasldb2``."""

    def __init__(self, path: str) -> None:
        self._db = SaslDb(path)
        self._usual: Hash | None = None  # for users who do not exist: they take as long as the others

    def __call__(self, request: Request) -> str | None:
        realm = request.realm or os.fsencode(socket.gethostname())
        try:
            stored = self._db.get(os.fsdecode(request.login), os.fsdecode(realm))
        except TableError as error:
            return str(error)
        hashed = parse(stored) if stored else self._usual
        try:
            right = verify(hashed, request.password) if hashed else False
            if not stored:
                return "user not found"
            if hashed is None:
                right = hmac.compare_digest(stored, request.password)
            elif hashed.slow:
                self._usual = hashed
        except HashError as error:
            return str(error)
        return None if right else "incorrect password"


class Rimap:
    """``rimap``: an IMAP server decides; ``-O host`` or ``-O host/port``."""

    def __init__(self, option: str) -> None:
        host, _, port = option.partition("/")
        if not host:
            raise ConfigError("the mechanism rimap needs the IMAP server's name", remedy="say -O HOST")
        try:
            self._address = (host, int(port) if port.isdigit() else socket.getservbyname(port or "imap"))
        except OSError:
            self._address = (host, 143)

    def __call__(self, request: Request) -> str | None:
        if any(byte in value for value in (request.login, request.password) for byte in b"\r\n\0"):
            return "a line end in the login or password"
        line = b"C01 LOGIN %b %b\r\n" % (_quoted(request.login), _quoted(request.password))
        try:
            with (
                socket.create_connection(self._address, RIMAP_TIMEOUT) as connection,
                connection.makefile("rb") as lines,
            ):
                if not lines.readline(_LINE_LIMIT).startswith(b"* OK"):
                    return "[ALERT] Unexpected greeting of the remote authentication server"
                connection.sendall(line)
                answer = b"*"
                for _ in range(100):
                    answer = lines.readline(_LINE_LIMIT)
                    if not answer.startswith(b"*"):
                        break
                if answer.startswith(b"C01 OK"):
                    connection.sendall(b"C02 LOGOUT\r\n")
                    return None
        except OSError as error:
            return f"[ALERT] Couldn't contact remote authentication server: {error}"
        if answer.startswith(b"C01 NO"):
            return "remote server refused"
        return "[ALERT] Unexpected response from remote authentication server"


def _quoted(text: bytes) -> bytes:
    return b'"%b"' % text.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
