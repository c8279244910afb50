"""Cyrus' own library, driven as Postfix drives it, to be asked how it is done.

:class:`Server` is one exchange on the server's side; ``options`` are those of ``smtpd.conf``.
The library is initialised once a process, and never shut down.
"""

from __future__ import annotations

import ctypes
import ctypes.util

_NAME = ctypes.util.find_library("sasl2")
AVAILABLE = _NAME is not None
WHY_NOT = "needs Cyrus' libsasl2"

OK, CONTINUE = 0, 1
_CB_LOG, _CB_GETOPT, _CB_USER, _CB_AUTHNAME, _CB_PASS = 2, 1, 0x4001, 0x4002, 0x4004
_SASL_USERNAME, _SASL_SEC_PROPS = 0, 101
SECURITY = {
    "noplaintext": 1,
    "noactive": 2,
    "nodictionary": 4,
    "forward_secrecy": 8,
    "noanonymous": 16,
    "mutual_auth": 64,
}

_GETOPT = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_char_p),
    ctypes.POINTER(ctypes.c_uint),
)
_LOG = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
_SIMPLE = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_char_p),
    ctypes.POINTER(ctypes.c_uint),
)
_SECRET = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_void_p)
)


class _Callback(ctypes.Structure):
    _fields_ = (("id", ctypes.c_ulong), ("proc", ctypes.c_void_p), ("context", ctypes.c_void_p))


class _Properties(ctypes.Structure):
    _fields_ = (
        ("min_ssf", ctypes.c_uint),
        ("max_ssf", ctypes.c_uint),
        ("maxbufsize", ctypes.c_uint),
        ("security_flags", ctypes.c_uint),
        ("property_names", ctypes.c_void_p),
        ("property_values", ctypes.c_void_p),
    )


_options: dict[bytes, ctypes.Array[ctypes.c_char]] = {}
lines: list[tuple[int, str]] = []


def _getopt(context, plugin, option, result, length):  # type: ignore[no-untyped-def]
    value = _options.get(option)
    if value is None:
        return -1
    result[0] = ctypes.cast(value, ctypes.c_char_p)
    if length:
        length[0] = len(value.value)
    return OK


def _log(context, level, message):  # type: ignore[no-untyped-def]
    lines.append((level, message.decode("utf-8", "replace")))
    return OK


_keep = (_GETOPT(_getopt), _LOG(_log))


def _array(*entries: tuple[int, object]) -> ctypes.Array[_Callback]:
    array = (_Callback * (len(entries) + 1))()
    for slot, (number, proc) in zip(array, entries, strict=False):
        slot.id, slot.proc = number, ctypes.cast(proc, ctypes.c_void_p)
    return array


_callbacks = _array((_CB_GETOPT, _keep[0]), (_CB_LOG, _keep[1]))
_library: ctypes.CDLL | None = None


def library() -> ctypes.CDLL:
    global _library
    if _library is None:
        _library = ctypes.CDLL(_NAME)
        _library.sasl_errstring.restype = ctypes.c_char_p
        assert _library.sasl_server_init(_callbacks, b"mtad-test") == OK
        assert _library.sasl_client_init(_callbacks) == OK
    return _library


def text(status: int) -> str:
    return library().sasl_errstring(status, None, None).decode()  # type: ignore[no-any-return]


def decode64(data: bytes) -> tuple[int, bytes]:
    out = ctypes.create_string_buffer(len(data) + 8)
    length = ctypes.c_uint()
    status = library().sasl_decode64(data, len(data), out, len(out), ctypes.byref(length))
    return status, out.raw[: length.value] if status == OK else b""


def _secure(connection: ctypes.c_void_p, security: str) -> None:
    flags = sum(SECURITY[word] for word in security.split())
    properties = _Properties(0, 0, 0, flags, None, None)
    assert library().sasl_setprop(connection, _SASL_SEC_PROPS, ctypes.byref(properties)) == OK


class Server:
    """``sasl_server_new`` and what follows."""

    def __init__(
        self, options: dict[str, str], realm: str = "", host: str = "mail.test", security: str = "noanonymous"
    ) -> None:
        self._library = library()
        _options.clear()
        _options.update({k.encode(): ctypes.create_string_buffer(v.encode()) for k, v in options.items()})
        lines.clear()
        self._connection = ctypes.c_void_p()
        status = self._library.sasl_server_new(
            b"smtp",
            host.encode(),
            realm.encode() or None,
            None,
            None,
            None,
            0,
            ctypes.byref(self._connection),
        )
        assert status == OK, text(status)
        _secure(self._connection, security)

    def close(self) -> None:
        self._library.sasl_dispose(ctypes.byref(self._connection))

    def mechanisms(self) -> list[str]:
        result = ctypes.c_char_p()
        count = ctypes.c_int()
        status = self._library.sasl_listmech(
            self._connection, None, b"", b" ", b"", ctypes.byref(result), None, ctypes.byref(count)
        )
        return (result.value or b"").decode().split() if status == OK else []

    def start(self, mechanism: bytes, initial: bytes | None) -> tuple[int, bytes]:
        out, length = ctypes.c_void_p(), ctypes.c_uint()
        status = self._library.sasl_server_start(
            self._connection, mechanism, initial, len(initial or b""), ctypes.byref(out), ctypes.byref(length)
        )
        return status, ctypes.string_at(out.value, length.value) if out.value else b""

    def step(self, response: bytes) -> tuple[int, bytes]:
        out, length = ctypes.c_void_p(), ctypes.c_uint()
        status = self._library.sasl_server_step(
            self._connection, response, len(response), ctypes.byref(out), ctypes.byref(length)
        )
        return status, ctypes.string_at(out.value, length.value) if out.value else b""

    def username(self) -> str | None:
        value = ctypes.c_char_p()
        status = self._library.sasl_getprop(self._connection, _SASL_USERNAME, ctypes.byref(value))
        return value.value.decode("utf-8", "replace") if status == OK and value.value is not None else None


class Client:
    """``sasl_client_new`` and what follows, with the name and password that Postfix would give."""

    def __init__(
        self,
        user: bytes,
        password: bytes,
        security: str = "noanonymous",
        authzid: bool = False,
        host: str = "mail.test",
    ) -> None:
        self._library = library()
        self._user = ctypes.create_string_buffer(user)
        self._secret = ctypes.create_string_buffer(
            len(password).to_bytes(ctypes.sizeof(ctypes.c_ulong), "little") + password
        )
        self._name = _SIMPLE(self._give_name)
        self._password = _SECRET(self._give_password)
        entries = [(_CB_AUTHNAME, self._name), (_CB_PASS, self._password)]
        self._callbacks = _array(*([(_CB_USER, self._name), *entries] if authzid else entries))
        self._connection = ctypes.c_void_p()
        status = self._library.sasl_client_new(
            b"smtp", host.encode(), None, None, self._callbacks, 0, ctypes.byref(self._connection)
        )
        assert status == OK, text(status)
        _secure(self._connection, security)

    def close(self) -> None:
        self._library.sasl_dispose(ctypes.byref(self._connection))

    def _give_name(self, context, number, result, length):  # type: ignore[no-untyped-def]
        result[0] = ctypes.cast(self._user, ctypes.c_char_p)
        if length:
            length[0] = len(self._user.value)
        return OK

    def _give_password(self, connection, context, number, result):  # type: ignore[no-untyped-def]
        result[0] = ctypes.addressof(self._secret)
        return OK

    def start(self, mechanisms: str) -> tuple[int, bytes | None, str]:
        out, length, name = ctypes.c_void_p(), ctypes.c_uint(), ctypes.c_char_p()
        status = self._library.sasl_client_start(
            self._connection,
            mechanisms.encode(),
            None,
            ctypes.byref(out),
            ctypes.byref(length),
            ctypes.byref(name),
        )
        data = ctypes.string_at(out.value, length.value) if out.value else None
        return status, data, (name.value or b"").decode()

    def step(self, challenge: bytes) -> tuple[int, bytes]:
        out, length = ctypes.c_void_p(), ctypes.c_uint()
        status = self._library.sasl_client_step(
            self._connection, challenge, len(challenge), None, ctypes.byref(out), ctypes.byref(length)
        )
        return status, ctypes.string_at(out.value, length.value) if out.value else b""
