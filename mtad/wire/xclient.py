"""XCLIENT and XFORWARD: what an authorized client says of the client behind it.

:func:`xclient` and :func:`xforward` read all attributes, or refuse the command by the first that is wrong.
Values come out decoded from xtext (what is no xtext counts as it is, as in old releases), printable, with
what could break out of a header or a log line replaced by ``?``; ``None`` is one that is not available.

Postfix's XCLIENT_README and XFORWARD_README describe both.  Postfix counterpart: ``xclient_cmd`` and
``xforward_cmd`` in ``smtpd.c``, ``normalize_mailhost_addr.c``.  Other than there, the good attributes of a
command that is refused have no effect.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from mtad.wire.address import valid_hostname
from mtad.wire.checks import IN_TRANSACTION, refuse
from mtad.wire.command import split, xtext_decode
from mtad.wire.events import Refused, Xclient, Xforward
from mtad.wire.logtext import printable
from mtad.wire.settings import ServerSettings

#: What is announced behind the keywords, in this order.
XCLIENT = b"NAME ADDR PROTO HELO REVERSE_NAME PORT LOGIN DESTADDR DESTPORT"
XFORWARD = b"NAME ADDR PROTO HELO SOURCE PORT IDENT"

#: What stands for a name that a lookup did not give for now.
TEMPORARY = "[TEMPUNAVAIL]"

_UNAVAILABLE = "[UNAVAILABLE]"
_LONGEST, _HOSTNAME, _PROTOCOL = 255, 255, 64
_NEUTER = str.maketrans(' <>()\\";@', "?????????")

Value = str | None
_Reader = Callable[[ServerSettings, str], Value]


class _Bad(Exception):
    """A value of the wrong form."""


def xclient(settings: ServerSettings, line: bytes, rest: bytes, *, busy: bool) -> Xclient | Refused:
    """XCLIENT; ``busy``: within a transaction."""
    found = _attributes(b"XCLIENT", settings, settings.xclient, line, rest, busy, _XCLIENT)
    return found if isinstance(found, Refused) else Xclient(found)


def xforward(settings: ServerSettings, line: bytes, rest: bytes, *, busy: bool) -> Xforward | Refused:
    """XFORWARD; ``busy``: within a transaction."""
    found = _attributes(b"XFORWARD", settings, settings.xforward, line, rest, busy, _XFORWARD)
    return found if isinstance(found, Refused) else Xforward(found)


def _attributes(
    verb: bytes,
    settings: ServerSettings,
    allowed: bool,
    line: bytes,
    rest: bytes,
    busy: bool,
    readers: dict[bytes, _Reader],
) -> dict[str, Value] | Refused:
    if busy:
        return refuse(verb, line, 503, b"5.5.1", IN_TRANSACTION)
    words, _ = split(rest)
    if not words:
        return refuse(verb, line, 501, b"5.5.4", b"Syntax: " + verb + b" attribute=value...")
    if not allowed:
        return refuse(verb, line, 550, b"5.7.0", b"Error: insufficient authorization")
    found: dict[str, Value] = {}
    for word in words:
        name, _, raw = word.partition(b"=")
        if not raw:
            return refuse(verb, line, 501, b"5.5.4", b"Error: attribute=value expected")
        if len(raw) > _LONGEST:
            return refuse(verb, line, 501, b"5.5.4", b"Error: attribute value too long")
        key = name.upper()
        reader = readers.get(key)
        if reader is None:
            return refuse(verb, line, 501, b"5.5.4", b"Bad %b attribute name: %b" % (verb, name))
        decoded = xtext_decode(raw)
        text = printable(raw if decoded is None else decoded)
        try:
            found[key.decode("ascii")] = reader(settings, text)
        except _Bad as bad:
            return refuse(verb, line, 501, b"5.5.4", b"Bad %b syntax: %b" % (key, str(bad).encode()))
    return found


def _available(reader: _Reader) -> _Reader:
    return lambda settings, text: None if text.upper() == _UNAVAILABLE else reader(settings, text)


def _name(settings: ServerSettings, text: str) -> Value:
    if not valid_hostname(text.encode()):
        raise _Bad(text)
    return text


def _client_name(settings: ServerSettings, text: str) -> Value:
    return TEMPORARY if text.upper() == TEMPORARY else _name(settings, text)


def _neutral(settings: ServerSettings, text: str) -> Value:
    return text.translate(_NEUTER)


def _forwarded_name(settings: ServerSettings, text: str) -> Value:
    return _name(settings, text.translate(_NEUTER))


def _port(settings: ServerSettings, text: str) -> Value:
    if len(text) > 5 or not (text.isascii() and text.isdigit()):
        raise _Bad(text)
    return text


def _helo(settings: ServerSettings, text: str) -> Value:
    if len(text.encode()) > _HOSTNAME:
        raise _Bad(text)
    return text.translate(_NEUTER)


def _smtp(settings: ServerSettings, text: str) -> Value:
    if text.upper() not in ("SMTP", "ESMTP"):
        raise _Bad(text)
    return text.upper()


def _protocol(settings: ServerSettings, text: str) -> Value:
    if len(text.encode()) > _PROTOCOL:
        raise _Bad(text)
    return text.translate(_NEUTER)


def _source(settings: ServerSettings, text: str) -> Value:
    if text.upper() not in ("LOCAL", "REMOTE"):
        raise _Bad(text)
    return text.lower()


def _as_is(settings: ServerSettings, text: str) -> Value:
    return text


def _address(settings: ServerSettings, text: str) -> Value:
    text = text.translate(_NEUTER)
    address = _six(settings, text[5:]) if text[:5].lower() == "ipv6:" else _four(settings, text)
    if not address:
        raise _Bad(text)
    return address


def _four(settings: ServerSettings, text: str) -> str:
    parts = text.split(".")
    if not settings.ipv4 or len(parts) != 4 or not all(part.isascii() and part.isdigit() for part in parts):
        return ""
    numbers = [int(part) for part in parts]
    return ".".join(map(str, numbers)) if max(numbers) < 256 and numbers[0] else ""


def _six(settings: ServerSettings, text: str) -> str:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return ""
    if address.scope_id:
        return ""
    if address.ipv4_mapped is not None and settings.ipv4:
        return str(address.ipv4_mapped)
    return str(address) if settings.ipv6 else ""


_XCLIENT: dict[bytes, _Reader] = {
    b"NAME": _available(_client_name),
    b"REVERSE_NAME": _available(_client_name),
    b"ADDR": _available(_address),
    b"PORT": _available(_port),
    b"HELO": _available(_helo),
    b"PROTO": _smtp,
    b"LOGIN": _available(_as_is),
    b"DESTADDR": _available(_address),
    b"DESTPORT": _available(_port),
}
_XFORWARD: dict[bytes, _Reader] = {
    b"NAME": _available(_forwarded_name),
    b"ADDR": _available(_address),
    b"PORT": _available(_port),
    b"HELO": _available(_neutral),
    b"PROTO": _available(_protocol),
    b"IDENT": _available(_neutral),
    b"SOURCE": _available(_source),
}
