"""Passwords that are stored as hashes: told from plain ones, and compared with what a client sent.

:func:`parse` knows RFC 2307's forms as OpenLDAP and Dovecot write them (``{SHA}``, ``{SSHA}``, ``{SHA256}``,
``{SSHA512}``, ``{MD5}``, ``{SMD5}``, ..., with ``.hex`` or ``.b64``), ``{CRYPT}`` and bare crypt(5) hashes
(``$1$ $2b$ $5$ $6$ $y$ $7$ $gy$``), PBKDF2 (OpenLDAP's and Dovecot's forms), argon2 (``$argon2id$``,
``{ARGON2}``), and SCRAM keys (``{SCRAM-SHA-256}`` of Dovecot, and what ``authPassword`` holds: RFC 5803).
What is none of these is a password in the clear.

:func:`verify` may take its time: where :attr:`Hash.slow` says so, it belongs into a thread.  It raises
:class:`HashError` when this host can't compute the hash.  A hash itself never is a password.
"""

from __future__ import annotations

import binascii
import ctypes
import ctypes.util
import functools
import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mtad.sasl.saslprep import prepare
from mtad.sasl.scram import derive

_TAGGED = re.compile(rb"\{([A-Za-z0-9_-]{1,30})(?:\.(hex|b64|HEX|B64))?\}(.+)", re.DOTALL)
_CRYPT = re.compile(rb"\$(?:1|2[abxy]?|3|5|6|7|y|gy|md5|sha1)[$,][!-~]{4,250}")
_TRADITIONAL = re.compile(rb"[./0-9A-Za-z]{13}|_[./0-9A-Za-z]{19}")
_ARGON2 = re.compile(rb"\$argon2(?:id|i|d)\$[!-~]{8,400}")
_SCRAM = re.compile(
    rb"(SCRAM-)?(SHA-1|SHA-224|SHA-256|SHA-384|SHA-512)\$(\d{1,8}):([A-Za-z0-9+/=]+)\$"
    rb"([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)"
)
_DOVECOT_SCRAM = re.compile(rb"(\d{1,8}),([A-Za-z0-9+/=]+),([A-Za-z0-9+/=]+),([A-Za-z0-9+/=]+)")
_PBKDF2 = re.compile(rb"(\d{1,8})\$([A-Za-z0-9./+=]{1,200})\$([A-Za-z0-9./+=]{1,200})")
_DOVECOT_PBKDF2 = re.compile(rb"\$1\$([!-~]{1,100})\$(\d{1,8})\$((?:[0-9a-fA-F]{2}){1,64})")

#: name -> (hash function, whether a salt follows the digest)
_DIGESTS = {
    "MD5": ("md5", False), "SMD5": ("md5", True), "PLAIN-MD5": ("md5", False), "LDAP-MD5": ("md5", False),
    "SHA": ("sha1", False), "SHA1": ("sha1", False), "SSHA": ("sha1", True),
    "SHA256": ("sha256", False), "SSHA256": ("sha256", True), "SHA384": ("sha384", False),
    "SSHA384": ("sha384", True), "SHA512": ("sha512", False), "SSHA512": ("sha512", True),
}  # fmt: skip

_CRYPT_TAGS = frozenset(
    {"CRYPT", "BLF-CRYPT", "SHA256-CRYPT", "SHA512-CRYPT", "MD5-CRYPT", "DES-CRYPT", "YESCRYPT"}
)

#: Longest phrase that libcrypt takes.
_PHRASE_LIMIT = 512

#: Room for ``struct crypt_data``: of libxcrypt 32 kB, of old glibc four times that.
_CRYPT_ROOM = 160 << 10

#: Most rounds of PBKDF2 that are done: a stored hash shall not stop the service.
_ROUNDS_LIMIT = 20_000_000


class HashError(Exception):
    """This host can't compute the hash; the text says why."""


@dataclass(frozen=True, slots=True)
class Hash:
    """A stored hash: its scheme, what there is to compare, and what SCRAM can use of it (or empty)."""

    scheme: str
    value: bytes = field(repr=False)
    compare: Callable[[bytes, bytes], bool] = field(repr=False)
    slow: bool = False
    scram: bytes = field(default=b"", repr=False)


def parse(stored: bytes) -> Hash | None:
    """The hash that ``stored`` is; None for a password in the clear."""
    if _ARGON2.fullmatch(stored):
        return Hash("ARGON2", stored, _argon2, True)
    if _CRYPT.fullmatch(stored):
        return Hash("CRYPT", stored, _crypt, True)
    tagged = _TAGGED.fullmatch(stored)
    return _tagged(tagged[1].decode().upper(), (tagged[2] or b"").lower(), tagged[3]) if tagged else None


def verify(hashed: Hash, password: bytes) -> bool:
    """Whether it is the hash of ``password``; raises :class:`HashError`."""
    return b"\0" not in password and hashed.compare(hashed.value, password)


def _tagged(scheme: str, encoding: bytes, value: bytes) -> Hash | None:
    if scheme in ("PLAIN", "CLEARTEXT", "CLEAR"):
        return Hash("PLAIN", value, hmac.compare_digest)
    if scheme in _CRYPT_TAGS:
        if _CRYPT.fullmatch(value) or _TRADITIONAL.fullmatch(value):
            return Hash("CRYPT", value, _crypt, True)
        return None
    if scheme.startswith("ARGON2"):
        return Hash("ARGON2", value, _argon2, True) if _ARGON2.fullmatch(value) else None
    if scheme in _DIGESTS:
        return _digest(scheme, encoding, value)
    if scheme.startswith("PBKDF2"):
        known = _PBKDF2.fullmatch(value) or _DOVECOT_PBKDF2.fullmatch(value)
        return Hash(scheme, scheme.encode() + b"}" + value, _pbkdf2, True) if known else None
    if scheme.startswith("SCRAM"):
        return _scram(scheme, value)
    return None


def _digest(scheme: str, encoding: bytes, value: bytes) -> Hash | None:
    name, salted = _DIGESTS[scheme]
    size = hashlib.new(name, usedforsecurity=False).digest_size
    hexadecimal = encoding == b"hex" or (scheme == "PLAIN-MD5" and not encoding)
    try:
        raw = bytes.fromhex(value.decode("ascii")) if hexadecimal else _base64(value)
    except (ValueError, UnicodeDecodeError):
        return None
    if len(raw) < size or (len(raw) > size and not salted):
        return None

    def compare(raw: bytes, password: bytes) -> bool:
        made = hashlib.new(name, password + raw[size:], usedforsecurity=False).digest()
        return hmac.compare_digest(made, raw[:size])

    return Hash(scheme, raw, compare)


def _scram(scheme: str, value: bytes) -> Hash | None:
    """SCRAM keys, brought into the form of ``authPassword``."""
    theirs = _DOVECOT_SCRAM.fullmatch(value)
    if theirs and scheme != "SCRAM":
        value = b"%b$%b:%b$%b:%b" % (scheme.encode(), *theirs.groups())
    value = next((line for line in value.splitlines() if _SCRAM.fullmatch(line)), b"")
    if not value:
        return None
    if not value.startswith(b"SCRAM-"):
        value = b"SCRAM-" + value
    return Hash(value.partition(b"$")[0].decode(), value, _scram_compare, True, value)


def _scram_compare(value: bytes, password: bytes) -> bool:
    match = _SCRAM.fullmatch(value)
    assert match is not None
    name = match[2].decode().replace("-", "").lower()
    rounds = _rounds(match[3])
    try:
        salt, stored = _base64(match[4]), _base64(match[5])
    except ValueError:
        return False
    return any(
        hmac.compare_digest(derive(name, text, salt, rounds).stored, stored)
        for text in dict.fromkeys((prepare(password), password))
    )


def _pbkdf2(value: bytes, password: bytes) -> bool:
    scheme, _, rest = value.partition(b"}")
    _, _, name = scheme.partition(b"-")
    digest = {b"": "sha1", b"SHA1": "sha1", b"SHA256": "sha256", b"SHA512": "sha512"}.get(name)
    if digest is None:
        raise HashError(f"unknown hash in {scheme.decode()}")
    theirs = _DOVECOT_PBKDF2.fullmatch(rest)
    if theirs:
        salt, rounds, wanted = theirs[1], _rounds(theirs[2]), bytes.fromhex(theirs[3].decode())
    else:
        match = _PBKDF2.fullmatch(rest)
        assert match is not None
        rounds = _rounds(match[1])
        try:
            salt, wanted = _base64(match[2]), _base64(match[3])
        except ValueError:
            return False
    made = hashlib.pbkdf2_hmac(digest, password, salt, rounds, len(wanted))
    return hmac.compare_digest(made, wanted)


def _rounds(text: bytes) -> int:
    rounds = int(text)
    if not 0 < rounds <= _ROUNDS_LIMIT:
        raise HashError(f"{rounds} rounds are too many")
    return rounds


def _base64(text: bytes) -> bytes:
    """Base64 with or without its end, also in passlib's alphabet."""
    text = text.rstrip(b"=").replace(b".", b"+")
    try:
        return binascii.a2b_base64(text + b"=" * (-len(text) % 4), strict_mode=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error


def _argon2(value: bytes, password: bytes) -> bool:
    try:
        import argon2
    except ImportError:
        raise HashError('argon2 needs the package argon2-cffi: pip install "mtad[argon2]"') from None
    try:
        return bool(argon2.PasswordHasher().verify(value, password))
    except argon2.exceptions.VerifyMismatchError:
        return False
    except (argon2.exceptions.Argon2Error, argon2.exceptions.InvalidHashError) as error:
        raise HashError(f"not a hash that argon2 understands ({type(error).__name__})") from None


@functools.cache
def _libcrypt() -> Any:
    """The host's crypt(3), of libxcrypt or glibc."""
    for name in (ctypes.util.find_library("crypt"), "libcrypt.so.1", "libcrypt.so.2"):
        if not name:
            continue
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        if hasattr(library, "crypt_rn"):
            function = library.crypt_rn
            function.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int]
        else:
            function = library.crypt_r
            function.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p]
        function.restype = ctypes.c_char_p
        return function
    raise HashError("crypt(3) hashes need the library libcrypt (package libcrypt1)")


def crypt(password: bytes, setting: bytes) -> bytes:
    """The crypt(3) hash of ``password`` by ``setting``; raises :class:`HashError`.

    Empty, and so equal to no stored hash, for what can be nobody's password.
    Postfix counterpart: ``crypt(3)``, as saslauthd calls it.
    """
    if b"\0" in password or len(password) >= _PHRASE_LIMIT:
        return b""
    function = _libcrypt()
    room = ctypes.create_string_buffer(_CRYPT_ROOM)
    arguments = (password, setting, room, _CRYPT_ROOM)
    made = function(*arguments[: len(function.argtypes)])
    ctypes.memset(room, 0, _CRYPT_ROOM)
    if not made or made.startswith(b"*"):
        raise HashError("a hash that this host's libcrypt does not know")
    return bytes(made)


def _crypt(value: bytes, password: bytes) -> bool:
    return hmac.compare_digest(crypt(password, value), value)
