"""OTP: one-time passwords, for use where somebody may listen.

The user's secret is ``cmusaslsecretOTP`` as libsasl writes it: algorithm, sequence number, seed, the last
password in hexadecimal and a time until which it is locked, parted by tabs.  It is moved on by a
:class:`~mtad.sasl.mechanism.StoreSecret` before success is told, and only if nobody used the same password
meanwhile: no one-time password is good twice, and no lock is left behind by clients who go away.

RFC 2444 (the mechanism), RFC 2289 (passwords, the six words), RFC 2243 (``hex:``, ``init-word:`` ...).
Postfix counterpart: ``otp.c`` of ``libsasl``.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import re
from dataclasses import dataclass, field
from importlib import resources

from mtad.sasl.mechanism import (
    Property,
    Proven,
    Reason,
    SaslFailure,
    ServerContext,
    ServerMechanism,
    Steps,
    challenge,
    need_secret,
    store_secret,
)

PROPERTY = "cmusaslsecretOTP"
#: MD4 is as weak as it is old, and no more in OpenSSL.
ALGORITHMS = ("md5", "sha1")
SEQUENCE_LIMIT = 9999
RESPONSE_LIMIT = 100

_SIZE = 8  # octets of a password
_PARAMETERS = re.compile(rb"\s*(md5|sha1)\s+(\d{1,9})\s+([A-Za-z0-9]{1,16})(?![A-Za-z0-9])")


@dataclass(frozen=True, slots=True)
class Secret:
    """Where a user's sequence stands."""

    algorithm: str
    sequence: int
    seed: str
    password: bytes = field(repr=False)
    locked: int = 0

    def encode(self) -> bytes:
        """As it is stored, without a lock."""
        password = self.password.hex()
        return f"{self.algorithm}\t{self.sequence:04d}\t{self.seed}\t{password}\t{0:020d}".encode()


def parse_secret(value: bytes) -> Secret:
    """The opposite; raises :class:`SaslFailure`."""
    parts = value.rstrip(b"\0").split(b"\t")
    try:
        algorithm, sequence, seed, password, locked = (part.decode("ascii") for part in parts)
        secret = Secret(algorithm.lower(), int(sequence), seed, bytes.fromhex(password), int(locked))
    except ValueError:
        raise SaslFailure(Reason.FAIL, "OTP secret too short") from None
    if secret.algorithm not in ALGORITHMS or len(secret.password) != _SIZE or not secret.seed:
        raise SaslFailure(Reason.FAIL, "unknown OTP algorithm or bad OTP secret")
    return secret


def fold(algorithm: str, data: bytes) -> bytes:
    """One step of the sequence: a digest folded to 64 bits (RFC 2289 appendix A)."""
    digest = hashlib.new(algorithm, data, usedforsecurity=False).digest()
    folded = bytearray(_SIZE)
    for place, octet in enumerate(digest):
        folded[place % _SIZE] ^= octet
    if algorithm == "sha1":
        return bytes(folded[3::-1] + folded[:3:-1])
    return bytes(folded)


def generate(algorithm: str, sequence: int, seed: str, phrase: bytes) -> bytes:
    """The password number ``sequence`` of a secret phrase."""
    password = fold(algorithm, seed.lower().encode() + phrase)
    for _ in range(sequence):
        password = fold(algorithm, password)
    return password


@functools.cache
def words() -> tuple[str, ...]:
    """The standard dictionary: 2048 words of one to four letters (RFC 2289 appendix D)."""
    return tuple(resources.files("mtad.sasl").joinpath("otp_words.txt").read_text("ascii").split())


@functools.cache
def _numbers() -> dict[str, int]:
    return {word: number for number, word in enumerate(words())}


def to_words(password: bytes) -> str:
    """A password as six words."""
    number = int.from_bytes(password, "big") << 2 | _checksum(password)
    return " ".join(words()[number >> shift & 0x7FF] for shift in range(55, -1, -11))


def from_words(text: str, algorithm: str) -> bytes:
    """The opposite, also for words of another dictionary; raises ``ValueError``."""
    spoken = text.upper().split()
    if len(spoken) != 6 or not all(word.isascii() and word.isalpha() and len(word) <= 4 for word in spoken):
        raise ValueError("words")
    if spoken[0] in _numbers():
        numbers = [_numbers().get(word, -1) for word in spoken]
        if -1 in numbers:
            raise ValueError("dictionary")
    else:
        numbers = [_alternative(word, algorithm) for word in text.split()]
    number = functools.reduce(lambda so_far, each: so_far << 11 | each, numbers, 0)
    password = (number >> 2).to_bytes(_SIZE, "big")
    if number & 3 != _checksum(password):
        raise ValueError("checksum")
    return password


def _alternative(word: str, algorithm: str) -> int:
    """RFC 2289 appendix B: a word of another dictionary stands for the end of its digest."""
    return (
        int.from_bytes(hashlib.new(algorithm, word.encode(), usedforsecurity=False).digest()[-2:], "big")
        & 0x7FF
    )


def _checksum(password: bytes) -> int:
    number = int.from_bytes(password, "big")
    return sum(number >> shift & 3 for shift in range(0, 64, 2)) & 3


def _from_hex(text: str) -> bytes:
    digits = re.sub(r"\s+", "", text)
    if re.fullmatch(r"[0-9A-Fa-f]{16}", digits) is None:
        raise ValueError("hexadecimal")
    return bytes.fromhex(digits)


def _parse(response: bytes, secret: Secret) -> tuple[bytes, Secret | None]:
    """The password in a response, and the secret that follows it with ``init-``; raises ``ValueError``."""
    text = response.decode("ascii").strip()
    kind, colon, rest = text.partition(":")
    if not colon:
        try:
            return from_words(text, secret.algorithm), None
        except ValueError:
            return _from_hex(text), None
    kind = kind.lower()
    if kind not in ("hex", "word", "init-hex", "init-word"):
        raise SaslFailure(Reason.BADAUTH, "unknown OTP extended response type")
    current, *new = rest.split(":")
    in_words = kind.endswith("word")
    password = from_words(current, secret.algorithm) if in_words else _from_hex(current)
    if not kind.startswith("init-"):
        return password, None
    if len(new) != 2:
        raise ValueError("init")
    match = _PARAMETERS.match(new[0].encode())
    if match is None or not 0 < int(match[2]) <= SEQUENCE_LIMIT:
        raise ValueError("parameters")
    algorithm, seed = match[1].decode(), match[3].decode().lower()
    if seed == secret.seed.lower():
        raise ValueError("seed")
    first = from_words(new[1], algorithm) if in_words else _from_hex(new[1])
    return password, Secret(algorithm, int(match[2]), seed, first)


def _run(context: ServerContext, initial: bytes | None) -> Steps:
    message = (yield from challenge(b"")) if initial is None else initial
    authzid, *rest = message.split(b"\0")
    if not rest:
        raise SaslFailure(Reason.BADPROT, "Can only find OTP authzid (no authid)")
    if len(rest) > 1:
        # libsasl ends this note with a newline, which logs show as "?".
        raise SaslFailure(Reason.BADPROT, "Got more data than we were expecting in the OTP plugin?")
    user = rest[0]
    stored = (yield from need_secret(user, PROPERTY, authzid=authzid)).get(PROPERTY)
    if stored is None:
        raise SaslFailure(Reason.BADAUTH)
    secret = parse_secret(stored)
    if context.now() < secret.locked:
        raise SaslFailure(Reason.TRYAGAIN, "simultaneous OTP authentications not permitted")
    if secret.sequence <= 1:
        raise SaslFailure(Reason.EXPIRED, "OTP has expired (sequence <= 1)")
    asked = f"otp-{secret.algorithm} {secret.sequence - 1} {secret.seed} ext"
    response = yield from challenge(asked.encode())
    if len(response) > RESPONSE_LIMIT:
        raise SaslFailure(Reason.BADPROT, "OTP response too long")
    try:
        password, new = _parse(response, secret)
    except ValueError:
        raise SaslFailure(Reason.BADAUTH) from None
    if not hmac.compare_digest(fold(secret.algorithm, password), secret.password):
        raise SaslFailure(Reason.BADAUTH)
    next_ = new or Secret(secret.algorithm, secret.sequence - 1, secret.seed, password)
    if not (yield from store_secret(user, PROPERTY, stored, next_.encode())):
        raise SaslFailure(Reason.BADAUTH, "this one-time password was used meanwhile")
    return Proven(user, authzid or user)


MECHANISM = ServerMechanism(
    b"OTP",
    Property.NOPLAINTEXT | Property.NOANONYMOUS | Property.FORWARD_SECRECY,
    _run,
    by_secret=True,
    by_name=True,
)
