"""SCRAM: both sides of SCRAM-SHA-1, -224, -256, -384, -512 and of their -PLUS forms.

The server takes a user's keys from a clear ``userPassword`` or from the value of ``authPassword`` for its
hash, ``SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`` in base64.  Somebody who does not exist is asked
on like everybody else, by a salt that never changes, and fails at the end.  Salts of clear passwords are
made from the name, so that all processes say the same.

-PLUS binds the exchange to the TLS connection; a client that could have bound it but was told that we
can't (flag ``y``) has met a downgrade where we said that we can.

Server: all raise :class:`~mtad.sasl.mechanism.SaslFailure`, with libsasl's notes.
RFC 5802, RFC 7677, RFC 5929, RFC 9266.  Postfix counterpart: ``scram.c`` of ``libsasl``.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from mtad.sasl.encoding import Malformed, decode, encode
from mtad.sasl.mechanism import (
    Answer,
    Channel,
    Property,
    Proven,
    Reason,
    Request,
    SaslFailure,
    Secrets,
    ServerContext,
    ServerMechanism,
    Steps,
    challenge,
    need_secret,
    work,
)
from mtad.sasl.saslprep import prepare

HASHES = {
    b"SCRAM-SHA-512": "sha512",
    b"SCRAM-SHA-384": "sha384",
    b"SCRAM-SHA-256": "sha256",
    b"SCRAM-SHA-224": "sha224",
    b"SCRAM-SHA-1": "sha1",
}

PROPERTIES = Property.NOPLAINTEXT | Property.NOACTIVE | Property.NOANONYMOUS | Property.MUTUAL_AUTH

#: Channel bindings, the best first.
BINDINGS = (b"tls-exporter", b"tls-unique", b"tls-server-end-point")

#: Iterations that a client computes, and that a stored secret may ask for.
ITERATION_LIMIT = 1_000_000

#: Longest message that is looked at.
MESSAGE_LIMIT = 2048

#: As long as the salts of stored keys, Cyrus' and ours.
_SALT_SIZE = 16

_ESCAPES = re.compile(rb"=(?:2C|3D)")
_VALUE = re.compile(rb" *([^$ ]+) *\$ *(\d{1,9}):([^$ ]+) *\$ *([^: ]+):([^ ]+) *")


@dataclass(frozen=True, slots=True)
class Keys:
    """What a server knows of a user: no password can be made of it."""

    salt: bytes
    iterations: int
    stored: bytes = field(repr=False)
    server: bytes = field(repr=False)


def derive(digest: str, password: bytes, salt: bytes, iterations: int) -> Keys:
    """The keys of a password.  Takes its time (RFC 5802 section 3)."""
    salted = hashlib.pbkdf2_hmac(digest, password, salt, iterations)
    stored = hashlib.new(digest, hmac.digest(salted, b"Client Key", digest)).digest()
    return Keys(salt, iterations, stored, hmac.digest(salted, b"Server Key", digest))


def auth_password(name: bytes, keys: Keys) -> bytes:
    """The value of ``authPassword`` that holds these keys of the mechanism ``name``."""
    return b"%b$%d:%b$%b:%b" % (
        name, keys.iterations, encode(keys.salt), encode(keys.stored), encode(keys.server)
    )  # fmt: skip


def parse_auth_password(name: bytes, value: bytes) -> Keys | None:
    """The keys of the mechanism ``name`` in a value of ``authPassword`` (one a line), or None."""
    size = hashlib.new(HASHES[name]).digest_size
    for line in value.split(b"\n"):
        match = _VALUE.fullmatch(line.strip(b"\r"))
        if match is None or match[1] != name:
            continue
        try:
            keys = Keys(decode(match[3]), int(match[2]), decode(match[4]), decode(match[5]))
        except Malformed:
            continue
        if len(keys.stored) == len(keys.server) == size and 0 < keys.iterations <= ITERATION_LIMIT:
            return keys
    return None


def encode_name(name: bytes) -> bytes:
    """A name with its ``=`` and ``,`` escaped (RFC 5802 section 5.1)."""
    return name.replace(b"=", b"=3D").replace(b",", b"=2C")


def decode_name(name: bytes) -> bytes:
    """The opposite; raises ``ValueError``."""
    if b"=" in _ESCAPES.sub(b"", name):
        raise ValueError("escape")
    return name.replace(b"=2C", b",").replace(b"=3D", b"=")


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


# -- server


@dataclass(frozen=True, slots=True)
class _First:
    """A client's first message."""

    flag: bytes  # n, y or p
    binding: bytes  # the type of channel binding, with p
    header: bytes  # all before the bare message
    authzid: bytes
    name: bytes
    nonce: bytes
    bare: bytes


def _bad(note: str) -> SaslFailure:
    return SaslFailure(Reason.BADPROT, note)


def _within(message: bytes, title: str) -> None:
    if len(message) > MESSAGE_LIMIT:
        # libsasl means the number
        raise _bad(f"{title} input longer than (MAX_CLIENTIN_LEN) bytes")


def _parse_first(message: bytes, title: str) -> _First:
    _within(message, title)
    if len(message) < 10:
        raise _bad(f"Invalid {title} input")
    if b"\0" in message:
        raise _bad(f"NULs found in {title} input")
    flag, binding = message[:1], b""
    if flag not in (b"n", b"y", b"p"):
        raise _bad(f"The initial {title} client response needs to start with 'y', 'n' or 'p'")
    rest = message[1:]
    if flag == b"p":
        if rest[:1] != b"=":
            raise _bad(f"The initial 'p' needs to be followed by '=' in {title} input")
        binding, comma, _ = rest[1:].partition(b",")
        if not comma:
            raise _bad(f"Channel binding name must be terminated by a comma in {title} input")
        rest = rest[1 + len(binding) :]
    if rest[:1] != b",":
        raise _bad(f"',' expected in {title} input")
    authzid, comma, bare = rest[1:].partition(b",")
    if authzid and authzid[:2] != b"a=":
        raise _bad(f"',' expected in {title} input")
    if not comma:
        raise _bad(f"At least nonce is expected in {title} input")
    try:
        authzid = decode_name(authzid[2:])
    except ValueError:
        raise _bad(f"Invalid authorization identity encoding in {title} input") from None
    name, nonce = _parse_bare(bare, title)
    return _First(flag, binding, message[: len(message) - len(bare)], authzid, name, nonce, bare)


def _parse_bare(bare: bytes, title: str) -> tuple[bytes, bytes]:
    """Name and nonce."""
    if bare[1:2] != b"=":
        raise _bad(f"Invalid {title} input")
    if bare[:1] == b"m":
        raise _bad(f"Unsupported mandatory extension to {title}")
    if bare[:1] != b"n":
        raise _bad(f"Username (n=) expected in {title} input")
    name, comma, rest = bare[2:].partition(b",")
    if not comma:
        raise _bad(f"Nonce expected after the username in {title} input")
    try:
        name = decode_name(name)
    except ValueError:
        raise _bad(f"Invalid username encoding in {title} input") from None
    if rest[:2] != b"r=":
        raise _bad(f"Nonce expected after the username in {title} input")
    return name, rest[2:].partition(b",")[0]


def _check_flag(first: _First, plus: bool, channel: Channel, title: str) -> bytes:
    """The channel binding data that the client has to show."""
    if not plus:
        if first.flag == b"p":
            raise _bad(f"Server does not support channel binding type received in {title}. Received: "
                       f"{first.binding.decode('ascii', 'replace')}")  # fmt: skip
        if first.flag == b"y" and channel.bindable:
            raise SaslFailure(Reason.BADAUTH, "client incorrectly assumed server had no channel binding")
        return b""
    if first.flag != b"p":
        raise _bad(f"{title}-PLUS without channel binding")
    data = channel.binding(first.binding) if first.binding in BINDINGS else None
    if data is None:
        raise _bad(f"Unsupported channel bindings type received in {title}: "
                   f"{first.binding.decode('ascii', 'replace')}")  # fmt: skip
    return data


def _candidates(
    name: bytes, context: ServerContext, first: _First, secrets: Secrets
) -> Generator[Request, Answer, list[Keys]]:
    """The keys that will do: one pair, or two where SASLprep changes the clear password."""
    digest = HASHES[name]
    password = secrets.get("userPassword")
    if password == b"":
        raise SaslFailure(Reason.FAIL, "empty secret")
    salt = hmac.digest(context.salt_key, name + b"\0" + first.name, digest)[:_SALT_SIZE]
    iterations = context.iterations(name)
    guess = context.salt_key if password is None else password
    size = hashlib.new(digest).digest_size

    def keys_of(text: bytes) -> Callable[[], bytes]:
        def do() -> bytes:
            keys = derive(digest, text, salt, iterations)
            return keys.stored + keys.server

        return do

    found = []
    for text in dict.fromkeys((guess, prepare(guess))):
        both = yield from work(keys_of(text))
        found.append(Keys(salt, iterations, both[:size], both[size:]))
    if password is not None or "authPassword" not in secrets:
        return found
    # what was derived was in vain: users whose keys are stored shall take as long as those who don't exist
    keys = parse_auth_password(name, secrets["authPassword"])
    if keys is None:
        raise SaslFailure(Reason.FAIL, f"No valid {name.decode()} secret found")
    return [keys]


def _proof(final: bytes, nonce: bytes, bound: bytes, title: str, size: int) -> tuple[bytes, bytes]:
    """What the client's last message signs of itself, and its proof."""
    if not final:
        raise _bad(f"{title} input expected")
    _within(final, title)
    if len(final) < 3 or final[1:2] != b"=":
        raise _bad(f"Invalid {title} input")
    if b"\0" in final:
        raise _bad(f"NULs found in {title} input")
    parts = final.split(b",")
    if parts[0][:2] != b"c=":
        raise _bad(f"Channel binding expected in {title} input")
    if len(parts) == 1:
        raise _bad(f"At least nonce is expected in {title} input")
    try:
        shown = decode(parts[0][2:])
    except Malformed:
        raise _bad(f"Invalid base64 encoding of the channel bindings in {title}") from None
    if not hmac.compare_digest(shown, bound):
        raise _bad(f"Channel bindings mismatch in {title}")
    if parts[1][:2] != b"r=":
        raise _bad(f"Nonce expected in {title} input")
    if len(parts) == 2:
        raise _bad(f"At least proof is expected in {title} input")
    if parts[1][2:] != nonce:
        raise _bad(f"Nonce mismatch {title} input")
    if parts[-1][:2] != b"p=":
        raise _bad(f"Client proof is expected in {title} input")
    try:
        proof = decode(parts[-1][2:])
    except Malformed:
        raise _bad(f"Invalid base64 encoding of the client proof in {title} input") from None
    if len(proof) != size:
        raise _bad(f"Invalid client proof length in {title} input")
    return b",".join(parts[:-1]), proof


def _server(name: bytes, plus: bool) -> Callable[[ServerContext, bytes | None], Steps]:
    digest, title = HASHES[name], name.decode()
    size = hashlib.new(digest).digest_size

    def run(context: ServerContext, initial: bytes | None) -> Steps:
        message = initial or (yield from challenge(b""))
        if not message:
            raise _bad(f"{title} input expected")
        first = _parse_first(message, title)
        bound = first.header + _check_flag(first, plus, context.channel, title)
        secrets = yield from need_secret(first.name, "userPassword", "authPassword", authzid=first.authzid)
        candidates = yield from _candidates(name, context, first, secrets)
        nonce = first.nonce + encode(hashlib.sha256(context.unique()).digest()[:24])
        begun = b"r=%b,s=%b,i=%d" % (nonce, encode(candidates[0].salt), candidates[0].iterations)
        final = yield from challenge(begun)
        signed, proof = _proof(final, nonce, bound, title, size)
        text = b"%b,%b,%b" % (first.bare, begun, signed)
        for keys in candidates:
            client_key = _xor(proof, hmac.digest(keys.stored, text, digest))
            right = hmac.compare_digest(hashlib.new(digest, client_key).digest(), keys.stored)
            if right and secrets:
                verifier = b"v=" + encode(hmac.digest(keys.server, text, digest))
                return Proven(first.name, first.authzid or first.name, final=verifier)
        raise SaslFailure(Reason.BADAUTH, "StoredKey mismatch")

    return run


def mechanisms() -> tuple[ServerMechanism, ...]:
    """All of them, the strongest first."""
    found = []
    for name, digest in HASHES.items():
        bits = hashlib.new(digest).digest_size * 8
        found += [
            ServerMechanism(
                name + b"-PLUS",
                PROPERTIES,
                _server(name, True),
                by_secret=True,
                for_tls=True,
                for_binding=True,
                strength=bits + 1,
            ),
            ServerMechanism(name, PROPERTIES, _server(name, False), by_secret=True, strength=bits),
        ]
    return tuple(found)


# -- client


def client(
    name: bytes, user: bytes, password: bytes, authzid: bytes, nonce: bytes, flag: bytes, data: bytes
) -> Generator[bytes | None, bytes, bytes]:
    """The responses of a client (see :mod:`mtad.sasl.client`).

    ``flag``: ``n``, ``y``, or ``p=`` and the type of the channel binding ``data``.
    """
    base = name.removesuffix(b"-PLUS")
    digest, title = HASHES[base], base.decode()
    header = flag + b"," + (b"a=" + encode_name(authzid) if authzid else b"") + b","
    bare = b"n=%b,r=%b" % (encode_name(user), nonce)
    begun = yield header + bare
    full_nonce, salt, iterations = _parse_challenge(begun, nonce, title)
    salted = hashlib.pbkdf2_hmac(digest, prepare(password), salt, iterations)
    bound = encode(header + data)
    signed = b"c=%b,r=%b" % (bound, full_nonce)
    text = b"%b,%b,%b" % (bare, begun, signed)
    client_key = hmac.digest(salted, b"Client Key", digest)
    signature = hmac.digest(hashlib.new(digest, client_key).digest(), text, digest)
    final = yield signed + b",p=" + encode(_xor(client_key, signature))
    if final[:2] != b"v=":
        raise _bad(f"ServerSignature expected in {title} input")
    try:
        shown = decode(final[2:].partition(b",")[0])
    except Malformed:
        raise _bad(f"Invalid base64 encoding of the server proof in {title} input") from None
    if not hmac.compare_digest(shown, hmac.digest(hmac.digest(salted, b"Server Key", digest), text, digest)):
        raise SaslFailure(Reason.BADAUTH, "ServerSignature mismatch")
    return b""


def _parse_challenge(message: bytes, nonce: bytes, title: str) -> tuple[bytes, bytes, int]:
    """Nonce, salt and iterations of the server's first message."""
    if len(message) > MESSAGE_LIMIT:
        raise _bad(f"{title} input longer than {MESSAGE_LIMIT} bytes")
    if message[:2] == b"m=":
        raise _bad(f"Unsupported mandatory extension to {title}")
    if message[:2] != b"r=":
        raise _bad(f"Nonce (r=) expected in {title} input")
    parts = message.split(b",")
    if len(parts) < 2 or parts[1][:2] != b"s=":
        raise _bad(f"Salt expected after the nonce in {title} input")
    if len(parts) < 3 or parts[2][:2] != b"i=":
        raise _bad(f"iteration-count expected after the salt in {title} input")
    full, count = parts[0][2:], parts[2][2:]
    if not count.isdigit() or len(count) > 10 or not 0 < int(count) <= ITERATION_LIMIT:
        raise _bad(f"Invalid iteration-count in {title} input")
    if len(full) <= len(nonce) or not full.startswith(nonce):
        raise _bad("The nonce received from the server doesn't start from the nonce sent by the client")
    try:
        salt = decode(parts[1][2:])
    except Malformed:
        raise _bad(f"Invalid base64 encoding of the salt in {title} input") from None
    if not salt:
        raise _bad("The salt can't be empty")
    return full, salt, int(count)
