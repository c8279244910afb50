"""What SASL mechanisms are made of: properties, reasons for failure, and the steps they take.

A server mechanism is a generator: it yields what it needs (a :class:`Challenge` to be answered by the
client, a :class:`NeedSecret` or :class:`StoreSecret` by the user store, a :class:`CheckToken` by whoever
knows the tokens, a :class:`NeedIdentity` by whoever knows the client's certificate, :class:`Work` to be done
where it holds up nobody), is sent the answer, and returns what it came to: :class:`CheckPassword` where a
back end has to verify a password, or :class:`Proven` where the mechanism has verified the proof itself.  It
raises :class:`SaslFailure` to fail.  Nothing here does input or output.

Names are octets as the client sent them; the caller makes them canonical.  Reasons are in
``libsasl``'s words, as clients and log scanners know them (RFC 4422, ``sasl_errors(3)``).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field


class Property(enum.Flag):
    """What a mechanism withstands, and so what ``smtpd_sasl_security_options`` may ask for."""

    NONE = 0
    NOPLAINTEXT = enum.auto()
    NOACTIVE = enum.auto()
    NODICTIONARY = enum.auto()
    FORWARD_SECRECY = enum.auto()
    NOANONYMOUS = enum.auto()
    MUTUAL_AUTH = enum.auto()


_OPTIONS = {property_.name.lower(): property_ for property_ in Property if property_.name}


def parse_options(words: Iterable[str]) -> Property:
    """Security options by name; raises ``ValueError`` with the unknown name."""
    options = Property.NONE
    for word in words:
        try:
            options |= _OPTIONS[word]
        except KeyError:
            raise ValueError(word) from None
    return options


class Reason(enum.Enum):
    """Why an exchange failed: ``libsasl``'s text, and whether trying again may help."""

    INCOMPLETE = ("another step is needed in authentication", False)
    FAIL = ("generic failure", True)
    BUFOVER = ("overflowed buffer", False)
    NOMECH = ("no mechanism available", False)
    BADPROT = ("bad protocol / cancel", False)
    BADPARAM = ("invalid parameter supplied", False)
    BADSERV = ("server failed mutual authentication step", False)
    BADAUTH = ("authentication failure", False)
    ENCRYPT = ("encryption needed to use mechanism", False)
    EXPIRED = ("passphrase expired, has to be reset", False)
    TRYAGAIN = ("transient failure (e.g., weak key)", True)
    UNAVAIL = ("remote authentication server unavailable", True)
    LOCKED = ("too many failed logins, try again later", True)  # no word of libsasl's

    def __init__(self, text: str, temporary: bool) -> None:
        self.text = text
        self.temporary = temporary


class SaslFailure(Exception):
    """An exchange has failed.  ``note`` is for the operator's log only, or empty."""

    def __init__(self, reason: Reason, note: str = "") -> None:
        super().__init__(reason.text)
        self.reason = reason
        self.note = note


@dataclass(frozen=True, slots=True)
class Challenge:
    """Send ``data`` to the client and come back with its response (bytes)."""

    data: bytes


@dataclass(frozen=True, slots=True)
class NeedSecret:
    """Come back with these properties of the user that exist (:data:`Secrets`).

    An empty answer means that there is no such user.  ``authzid`` is whom the user wants to act as,
    if that is somebody else.
    """

    user: bytes
    properties: tuple[str, ...]
    authzid: bytes = b""


@dataclass(frozen=True, slots=True)
class StoreSecret:
    """Let this property of the user be ``new`` if it still is ``old``, durably; come back with whether so."""

    user: bytes
    name: str
    old: bytes = field(repr=False)
    new: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class NeedIdentity:
    """Come back with the login that the client's certificate stands for; empty when it stands for none."""


@dataclass(frozen=True, slots=True)
class Work:
    """Come back with what ``do`` gives: bytes.  It takes its time, and may raise :class:`SaslFailure`."""

    do: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class CheckToken:
    """Come back with what the bearer ``token`` turns out to be (a :class:`TokenVerdict`).

    ``user`` is whom the client says that it names, empty if it does not say.
    """

    user: bytes
    token: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class TokenVerdict:
    """``user`` is whom a good token names.  ``failure`` tells why there is none: BADAUTH for a token that is
    not good, anything temporary when nobody can tell now.

    The client of a token that is not good hears ``status`` (RFC 6750 section 3.1), which ``scope`` a token
    must have, and where the provider describes itself (``configuration``: a URL), as far as they are known.
    """

    user: bytes = b""
    failure: Reason | None = None
    status: str = "invalid_token"
    scope: str = ""
    configuration: str = ""


@dataclass(frozen=True, slots=True)
class CheckPassword:
    """The client claims to be ``authcid`` by ``password``, and wants to act as ``authzid``.

    ``note`` goes to the operator's log when the password turns out wrong.
    """

    authcid: bytes
    authzid: bytes
    password: bytes = field(repr=False)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Proven:
    """The client has proven to be ``authcid``, and wants to act as ``authzid``.

    ``final`` is what the client has to hear before success is told, if anything: the server's own proof.
    """

    authcid: bytes
    authzid: bytes
    note: str = ""
    final: bytes | None = None


Secrets = Mapping[str, bytes]
Request = Challenge | NeedSecret | StoreSecret | NeedIdentity | Work | CheckToken
Answer = bytes | Secrets | bool | TokenVerdict
Result = CheckPassword | Proven
Steps = Generator[Request, Answer, Result]


@dataclass(frozen=True, slots=True)
class Channel:
    """The connection as mechanisms see it: whether it is under TLS, and what ties an exchange to it.

    ``binding`` gives the channel binding of a registered type (RFC 5929, RFC 9266), or None where there is
    none; ``bindable`` tells that mechanisms with channel binding were announced.
    """

    binding: Callable[[bytes], bytes | None] = lambda _: None
    bindable: bool = False


@dataclass(frozen=True, slots=True)
class ServerContext:
    """What a server mechanism may know: our names, and text that is never the same twice.

    ``realm`` is that of names without one; ``salt_key`` a secret that stays the same; ``iterations`` how many
    a SCRAM mechanism asks for; ``now`` the time of day.
    """

    hostname: bytes
    unique: Callable[[], bytes]
    realm: bytes = b""
    service: bytes = b"smtp"
    salt_key: bytes = field(default=b"", repr=False)
    iterations: Callable[[bytes], int] = lambda _: 4096
    now: Callable[[], float] = lambda: 0.0
    channel: Channel = Channel()


@dataclass(frozen=True, slots=True)
class ServerMechanism:
    """A mechanism by its registered name.

    ``run(context, initial)`` starts it; ``initial`` is None when the client sent no initial
    response.  A ``server_first`` mechanism never gets one.  One that is ``for_tls`` may only be used within
    TLS, whatever the security options say; one ``for_binding`` only where channel binding is wanted; one
    ``for_certificate`` only with a trusted client certificate.  ``by_secret``: it needs the user's secret.
    ``by_name``: there only where ``mech_list`` names it.  ``strength`` orders mechanisms with the same
    properties.
    """

    name: bytes
    properties: Property
    run: Callable[[ServerContext, bytes | None], Steps]
    server_first: bool = False
    for_tls: bool = False
    for_binding: bool = False
    for_certificate: bool = False
    by_secret: bool = False
    by_name: bool = False
    strength: int = 0


def challenge(data: bytes) -> Generator[Request, Answer, bytes]:
    """``yield from challenge(data)``: the client's response."""
    answer = yield Challenge(data)
    assert isinstance(answer, bytes)
    return answer


def need_secret(user: bytes, *properties: str, authzid: bytes = b"") -> Generator[Request, Answer, Secrets]:
    """``yield from need_secret(user, ...)``: the properties that exist."""
    answer = yield NeedSecret(user, properties, authzid)
    assert isinstance(answer, Mapping)
    return answer


def store_secret(user: bytes, name: str, old: bytes, new: bytes) -> Generator[Request, Answer, bool]:
    """``yield from store_secret(user, name, old, new)``: whether nobody was faster."""
    answer = yield StoreSecret(user, name, old, new)
    assert isinstance(answer, bool)
    return answer


def need_identity() -> Generator[Request, Answer, bytes]:
    """``yield from need_identity()``: the login of the client's certificate."""
    answer = yield NeedIdentity()
    assert isinstance(answer, bytes)
    return answer


def work(do: Callable[[], bytes]) -> Generator[Request, Answer, bytes]:
    """``yield from work(do)``: what ``do`` gave."""
    answer = yield Work(do)
    assert isinstance(answer, bytes)
    return answer


def check_token(user: bytes, token: bytes) -> Generator[Request, Answer, TokenVerdict]:
    """``yield from check_token(user, token)``: what it turned out to be."""
    answer = yield CheckToken(user, token)
    assert isinstance(answer, TokenVerdict)
    return answer
