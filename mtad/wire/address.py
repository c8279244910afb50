"""Envelope addresses: from what a client wrote to their internal form, and back.

Postfix reads the argument of MAIL FROM and RCPT TO by the rules of RFC 822: source routes are
dropped, comments and junk around the address are tolerated unless ``strict_rfc821_envelopes``, and
so is the lack of ``<>``.  The *internal form* has no quotes; :func:`quote` gives the form for the
wire (RFC 5321 section 4.1.2, RFC 6531 section 3.3).

Nothing here raises: :func:`parse_path` returns None for an address that Postfix would refuse.

Postfix counterpart: ``extract_addr`` in ``smtpd.c``, ``tok822_parse.c``, ``quote_821_local.c``,
``valid_hostname.c``, ``valid_mailhost_addr.c``.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

from mtad import idn
from mtad.wire.events import NULL_ADDRESS, Address
from mtad.wire.tokens import ADDRESS, internal, parse
from mtad.wire.tokens import quote as quote

_ATEXT = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_LABEL = rb"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_HOST = rb"(?=[0-9.]*[A-Za-z_-])(?:" + _LABEL + rb"\.)*" + _LABEL
# What nearly every client sends: no quotes, a host name for a domain.
_USUAL = re.compile(rb"<((%b+(?:\.%b+)*)@(%b))>" % (_ATEXT, _ATEXT, _HOST))
_HOSTNAME = re.compile(_HOST)

_HOSTNAME_LIMIT = 255


@lru_cache(maxsize=512)
def valid_hostname(name: bytes) -> bool:
    """Letters, digits, ``-`` and ``_`` in dotted labels, and not all of it numeric."""
    return len(name) <= _HOSTNAME_LIMIT and _HOSTNAME.fullmatch(name) is not None


def valid_literal(text: bytes) -> bool:
    """An address literal with its brackets, ``[192.0.2.1]`` or ``[IPv6:2001:db8::1]``."""
    if not (text.startswith(b"[") and text.endswith(b"]")) or not text.isascii():
        return False
    address = text[1:-1].decode("ascii")
    try:
        if address[:5].lower() == "ipv6:":
            return "%" not in address and bool(ipaddress.IPv6Address(address[5:]))
        return bool(ipaddress.IPv4Address(address))
    except ValueError:
        return False


def _valid_domain(domain: bytes, smtputf8: bool) -> bool:
    if domain.startswith(b"["):
        return valid_literal(domain)
    if domain.endswith(b".") and not domain.endswith(b".."):
        domain = domain[:-1]
    if domain.isascii():
        return valid_hostname(domain)
    if not smtputf8:
        return False
    try:
        return valid_hostname(idn.encode(domain.decode()).encode())
    except UnicodeError:
        return False


def _routing_domain(address: Address) -> bytes | None:
    """The domain that the address is for, also in the forms ``site!user`` and ``user%domain``."""
    text = address.text
    if b"@" in text:
        bare = text.rstrip(b"@")
        if b"@" in bare:
            return bare.rpartition(b"@")[2]
        if b"!" not in bare and b"%" not in bare:
            return address.domain
        text = bare
    if address.wire != address.text:
        return None
    if b"!" in text:
        return text.partition(b"!")[0]
    return text.rpartition(b"%")[2] if b"%" in text else None


def from_text(text: bytes) -> Address:
    """The address with this internal form; b"" is the null address."""
    if not text:
        return NULL_ADDRESS
    local, at, domain = text.rpartition(b"@")
    return Address(local, domain, text, quote(text)) if at else Address(text, b"", text, quote(text))


def parse_path(
    argument: bytes, *, allow_empty: bool = False, strict: bool = False, smtputf8: bool = False
) -> Address | None:
    """The address in the argument of MAIL FROM (``allow_empty``), RCPT TO or VRFY; None when bad.

    ``strict`` demands ``<>`` and nothing around it; ``smtputf8`` allows non-ASCII domains.
    """
    if (m := _USUAL.fullmatch(argument)) and len(m[3]) <= _HOSTNAME_LIMIT and argument[1] != 45:
        text, local, domain = m.groups()
        return Address(local, domain, text, text)
    if argument == b"<>":
        return NULL_ADDRESS if allow_empty else None
    text = argument
    if argument.startswith(b"<") and argument.endswith(b">"):
        text = argument[1:-1]
    if text.startswith(b"@") and b":" in text:  # a source route (RFC 5321 section 4.1.2)
        text = text.partition(b":")[2]
    tokens = parse(text)
    addresses = [internal(token) for token in tokens if token.kind == ADDRESS]
    junk = any(token.kind not in (ADDRESS, "<", ">") for token in tokens)
    if len(addresses) > 1 or (strict and (junk or not argument.startswith(b"<"))):
        return None
    address = from_text(addresses[0] if addresses else b"")
    if not address.text:
        return NULL_ADDRESS if allow_empty else None
    if strict and address.text.startswith(b"@"):
        return None
    # What begins with "-" could be taken for an option by a delivery command (allow_min_user = no).
    # What begins with "@" and has a colon would be read as a source route once more.
    if address.text.startswith(b"-") or (address.text.startswith(b"@") and b":" in address.text):
        return None
    domain = _routing_domain(address)
    return address if domain is None or _valid_domain(domain, smtputf8) else None
