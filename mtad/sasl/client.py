"""The client side of SASL: one exchange, and which mechanism to use with a server.

:func:`choose` picks the strongest mechanism that the server offers and the security options allow, in the
order in which Cyrus' client does.  The chosen :class:`Client` gives raw octets; the caller encodes them.
All raise :class:`SaslFailure`, whose text Postfix puts behind ``cannot authenticate to server``.

EXTERNAL is for logins without a password, where we have shown the server a certificate.  SCRAM with channel
binding is used where the caller can bind.

RFC 4616 (PLAIN), RFC 2195 (CRAM-MD5), RFC 4422 appendix A (EXTERNAL), RFC 4954 section 4 (initial responses).
Postfix counterpart: ``xsasl_cyrus_client.c``, ``smtp_sasl_authenticate``.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from mtad.sasl import digest_md5, scram
from mtad.sasl.encoding import encode
from mtad.sasl.mechanism import Property, Reason, SaslFailure, parse_options

#: Longest command line (RFC 5321 section 4.5.3.1.4), CRLF included.
COMMAND_LIMIT = 512

#: Longest CRAM-MD5 challenge that is answered.
CHALLENGE_LIMIT = 1024

_WHITE = b" \t\n\v\f\r"

#: Yields responses and is sent challenges.  One that begins with a server's challenge yields None first.  One
#: that makes sure of the server returns the last response, to what the server has proven itself by.
Responses = Generator[bytes | None, bytes, bytes | None]


@dataclass(frozen=True, slots=True)
class ClientContext:
    """The connection as mechanisms see it: the server's name, whether we have shown a certificate, and
    ``binding``, which gives the channel binding of a registered type, or None where there is to be none.
    ``bindable``: the server has offered mechanisms with channel binding, whether or not we may use them.
    """

    host: bytes = b""
    certificate: bool = False
    binding: Callable[[bytes], bytes | None] | None = None
    bindable: bool = False
    unique: Callable[[], bytes] = lambda: secrets.token_bytes(24)


@dataclass(frozen=True, slots=True)
class Login:
    """Who logs in, and where."""

    user: bytes
    password: bytes = field(repr=False)
    authzid: bytes
    context: ClientContext


@dataclass(frozen=True, slots=True)
class ClientMechanism:
    """A mechanism by its registered name.

    ``fits`` tells whether it can be used; ``slow``: its steps take their time; ``mutual``: nothing is
    achieved unless the server has proven itself.
    """

    name: bytes
    properties: Property
    run: Callable[[Login], Responses]
    fits: Callable[[Login], bool] = lambda login: bool(login.password) or not login.context.certificate
    slow: bool = False
    mutual: bool = False


def _plain(login: Login) -> Responses:
    yield b"%b\0%b\0%b" % (login.authzid, login.user, login.password)
    return None


def _login(login: Login) -> Responses:
    yield None
    yield login.user
    yield login.password
    return None


def _cram_md5(login: Login) -> Responses:
    challenge = yield None
    if len(challenge) > CHALLENGE_LIMIT:
        raise SaslFailure(Reason.BADPROT)
    yield b"%b %b" % (login.user, hmac.digest(login.password, challenge, "md5").hex().encode())
    return None


def _external(login: Login) -> Responses:
    yield login.authzid
    return None


def _digest_md5(login: Login) -> Responses:
    return digest_md5.client(
        login.user, login.password, login.authzid, login.context.host, login.context.unique
    )


def _scram(name: bytes, login: Login) -> Responses:
    nonce = encode(hashlib.sha256(login.context.unique()).digest()[:24])
    flag, data = b"n", b""
    if name.endswith(b"-PLUS"):
        kind, data = _binding(login)
        flag = b"p=" + kind
    elif login.context.binding is not None and not login.context.bindable:
        flag = b"y"
    return scram.client(name, login.user, login.password, login.authzid, nonce, flag, data)


def _binding(login: Login) -> tuple[bytes, bytes]:
    """The best channel binding: type and data, both empty where there is none."""
    compute = login.context.binding
    for kind in scram.BINDINGS if compute is not None else ():
        data = compute(kind) if compute is not None else None
        if data:
            return kind, data
    return b"", b""


def _bindable(login: Login) -> bool:
    return bool(login.password) and _binding(login)[0] != b""


def _scrams() -> list[ClientMechanism]:
    found = []
    for name in scram.HASHES:
        plus = name + b"-PLUS"
        properties = scram.PROPERTIES
        found += [
            ClientMechanism(plus, properties, partial(_scram, plus), _bindable, slow=True, mutual=True),
            ClientMechanism(name, properties, partial(_scram, name), slow=True, mutual=True),
        ]
    return found


MECHANISMS: tuple[ClientMechanism, ...] = (
    *_scrams(),
    ClientMechanism(b"DIGEST-MD5", digest_md5.MECHANISM.properties, _digest_md5, mutual=True),
    ClientMechanism(
        b"EXTERNAL",
        Property.NOPLAINTEXT | Property.NODICTIONARY | Property.NOANONYMOUS,
        _external,
        fits=lambda login: login.context.certificate and not login.password,
    ),
    ClientMechanism(b"CRAM-MD5", Property.NOPLAINTEXT | Property.NOANONYMOUS, _cram_md5),
    ClientMechanism(b"PLAIN", Property.NOANONYMOUS, _plain),
    ClientMechanism(b"LOGIN", Property.NOANONYMOUS, _login),
)


class Client:
    """One exchange.  Call :meth:`initial` once, then :meth:`step` for each 334 challenge.

    ``slow``: both take their time.  ``satisfied``: a success may be believed, as the server has proven itself
    where the mechanism is for that.
    """

    __slots__ = ("_deferred", "_responses", "name", "satisfied", "slow")

    def __init__(
        self, name: bytes, responses: Responses, *, slow: bool = False, satisfied: bool = True
    ) -> None:
        self.name = name
        self.slow = slow
        self.satisfied = satisfied
        self._responses = responses
        self._deferred: bytes | None = None

    def initial(self) -> bytes | None:
        """The response to send with AUTH, or None to send AUTH without one.

        A response that would make the command line too long is kept back until the server
        asks for it with an empty challenge.
        """
        response = next(self._responses)
        if response is None:
            return None
        if len("AUTH  \r\n") + len(self.name) + (len(response) + 2) // 3 * 4 > COMMAND_LIMIT:
            self._deferred = response
            return None
        return response

    def step(self, challenge: bytes) -> bytes:
        """The response to a challenge (decoded).  Raises :class:`SaslFailure`."""
        if self._deferred is not None:
            if challenge:
                raise SaslFailure(Reason.BADPROT, f"non-empty initial {self.name.decode()} challenge")
            response, self._deferred = self._deferred, None
            return response
        try:
            answer = self._responses.send(challenge)
        except StopIteration as end:
            if end.value is None:
                raise SaslFailure(Reason.FAIL, "attempting client step after doneflag") from None
            self.satisfied = True
            last: bytes = end.value
            return last
        assert answer is not None
        return answer


def choose(
    server_mechanisms: Iterable[bytes],
    options: Iterable[str],
    user: bytes,
    password: bytes,
    *,
    authzid: bool = False,
    context: ClientContext | None = None,
    further: Sequence[ClientMechanism] = (),
) -> Client:
    """The exchange by which ``user`` logs in; ``options`` are words of ``smtp_sasl_security_options``.

    ``server_mechanisms`` are those that may be considered (``smtp_sasl_mechanism_filter``); ``authzid`` sends
    the name as authorization identity too (``send_cyrus_sasl_authzid``); ``further`` mechanisms are stronger
    than ours.  Raises :class:`SaslFailure` ("no mechanism available") when nothing fits, and ``ValueError``
    with the name of an unknown option.
    """
    wanted = parse_options(options)
    offered = {name.upper() for name in server_mechanisms}
    canonical = user.strip(_WHITE)
    login = Login(canonical, password, canonical if authzid else b"", context or ClientContext())
    worthy = (
        each
        for each in (*further, *MECHANISMS)
        if each.name in offered and not wanted & ~each.properties and each.fits(login)
    )
    found = next(worthy, None)
    if found is None:
        raise SaslFailure(Reason.NOMECH, "No worthy mechs found")
    if not canonical:
        raise SaslFailure(Reason.FAIL, "All-whitespace username.")
    if b"\0" in canonical or b"\0" in password:
        raise SaslFailure(Reason.BADPARAM)
    return Client(found.name, found.run(login), slow=found.slow, satisfied=not found.mutual)
