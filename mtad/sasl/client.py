"""The client side of SASL: PLAIN, LOGIN, CRAM-MD5, and which of them to use with a server.

:func:`choose` picks the strongest mechanism that the server offers and the security options
allow, in the order in which Cyrus' client does.  The chosen :class:`Client` gives raw octets; the
caller encodes them.  All raise :class:`SaslFailure`, whose text Postfix puts behind ``cannot
authenticate to server``.

RFC 4616 (PLAIN), RFC 2195 (CRAM-MD5), RFC 4954 section 4 (initial responses).
Postfix counterpart: ``xsasl_cyrus_client.c``, ``smtp_sasl_authenticate``.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field

from mtad.sasl.mechanism import Property, Reason, SaslFailure, parse_options

#: Longest command line (RFC 5321 section 4.5.3.1.4), CRLF included.
COMMAND_LIMIT = 512

#: Longest CRAM-MD5 challenge that is answered.
CHALLENGE_LIMIT = 1024

_WHITE = b" \t\n\v\f\r"

#: Yields responses and is sent challenges.  One that begins with a server's challenge yields None first.
_Responses = Generator[bytes | None, bytes, None]


@dataclass(frozen=True, slots=True)
class _Login:
    user: bytes
    password: bytes = field(repr=False)
    authzid: bytes


def _plain(login: _Login) -> _Responses:
    yield b"%b\0%b\0%b" % (login.authzid, login.user, login.password)


def _login(login: _Login) -> _Responses:
    yield None
    yield login.user
    yield login.password


def _cram_md5(login: _Login) -> _Responses:
    challenge = yield None
    if len(challenge) > CHALLENGE_LIMIT:
        raise SaslFailure(Reason.BADPROT)
    yield b"%b %b" % (login.user, hmac.digest(login.password, challenge, "md5").hex().encode())


_MECHANISMS: tuple[tuple[bytes, Property, Callable[[_Login], _Responses]], ...] = (
    (b"CRAM-MD5", Property.NOPLAINTEXT | Property.NOANONYMOUS, _cram_md5),
    (b"PLAIN", Property.NOANONYMOUS, _plain),
    (b"LOGIN", Property.NOANONYMOUS, _login),
)


class Client:
    """One exchange.  Call :meth:`initial` once, then :meth:`step` for each 334 challenge."""

    __slots__ = ("_deferred", "_responses", "name")

    def __init__(self, name: bytes, responses: _Responses) -> None:
        self.name = name
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
        except StopIteration:
            raise SaslFailure(Reason.FAIL, "attempting client step after doneflag") from None
        assert answer is not None
        return answer


def choose(
    server_mechanisms: Iterable[bytes],
    options: Iterable[str],
    user: bytes,
    password: bytes,
    *,
    filter: Callable[[bytes], bool] | None = None,
    authzid: bool = False,
) -> Client:
    """The exchange by which ``user`` logs in; ``options`` are words of ``smtp_sasl_security_options``.

    ``filter`` tells which of the server's mechanisms may be considered
    (``smtp_sasl_mechanism_filter``); ``authzid`` sends the name as authorization identity too
    (``send_cyrus_sasl_authzid``).  Raises :class:`SaslFailure` ("no mechanism available")
    when nothing fits, and ``ValueError`` with the name of an unknown option.
    """
    wanted = parse_options(options)
    offered = {name.upper() for name in server_mechanisms if filter is None or filter(name)}
    worthy = (m for m in _MECHANISMS if m[0] in offered and not wanted & ~m[1])
    name, _, run = next(worthy, (b"", None, None))
    if run is None:
        raise SaslFailure(Reason.NOMECH, "No worthy mechs found")
    canonical = user.strip(_WHITE)
    if not canonical:
        raise SaslFailure(Reason.FAIL, "All-whitespace username.")
    if b"\0" in canonical or b"\0" in password:
        raise SaslFailure(Reason.BADPARAM)
    return Client(name, run(_Login(canonical, password, canonical if authzid else b"")))
