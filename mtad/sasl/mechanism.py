"""What SASL mechanisms are made of: properties, reasons for failure, and the steps they take.

A server mechanism is a generator: it yields what it needs (a :class:`Challenge` to be answered
by the client, a :class:`NeedSecret` to be answered from the user store), is sent the answer, and
returns what it came to: :class:`CheckPassword` where a back end has to verify a password, or
:class:`Proven` where the mechanism has verified the proof itself.  It raises
:class:`SaslFailure` to fail.  Nothing here does input or output.

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
    DISABLED = ("account disabled", False)
    UNAVAIL = ("remote authentication server unavailable", True)

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

    An empty answer means that there is no such user.
    """

    user: bytes
    properties: tuple[str, ...]


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
    """The client has proven to be ``authcid``, and wants to act as ``authzid``."""

    authcid: bytes
    authzid: bytes
    note: str = ""


Secrets = Mapping[str, bytes]
Request = Challenge | NeedSecret
Answer = bytes | Secrets
Result = CheckPassword | Proven
Steps = Generator[Request, Answer, Result]


@dataclass(frozen=True, slots=True)
class ServerContext:
    """What a server mechanism may know: our name, and text that is never the same twice."""

    hostname: bytes
    unique: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class ServerMechanism:
    """A mechanism by its registered name.

    ``run(context, initial)`` starts it; ``initial`` is None when the client sent no initial
    response.  A ``server_first`` mechanism never gets one.
    """

    name: bytes
    properties: Property
    run: Callable[[ServerContext, bytes | None], Steps]
    server_first: bool = False


def challenge(data: bytes) -> Generator[Request, Answer, bytes]:
    """``yield from challenge(data)``: the client's response."""
    answer = yield Challenge(data)
    assert isinstance(answer, bytes)
    return answer


def need_secret(user: bytes, *properties: str) -> Generator[Request, Answer, Secrets]:
    """``yield from need_secret(user, ...)``: the properties that exist."""
    answer = yield NeedSecret(user, properties)
    assert not isinstance(answer, bytes)
    return answer
