"""Is this a host name, or an address?  Nothing is looked up, nothing raised.

Names follow RFC 1123 section 2.1 with Postfix's one liberty, the underscore; a name of digits and dots
alone is none.  With ``utf8`` a domain may hold U-labels (RFC 5890) if it has an ASCII form.

Postfix counterpart: ``valid_hostname(3)``, ``valid_mailhost_addr(3)``, ``valid_utf8_hostname(3)``.
"""

from __future__ import annotations

import re

from mtad import idn
from mtad.tables.network import parse_address
from mtad.wire.address import valid_hostname

_IPV4 = re.compile(rb"[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+\Z")
_LONGEST_ADDRESS = 64


def valid_domain(name: bytes, utf8: bool) -> bool:
    """A host or domain name; with ``utf8`` also one that IDNA turns into one in ASCII."""
    if name.isascii() or not utf8:
        return valid_hostname(name)
    try:
        return valid_hostname(idn.encode(name.decode()).encode())
    except UnicodeError:
        return False


def valid_address(text: bytes) -> bool:
    """``1.2.3.4`` or an IPv6 address, bare."""
    return _valid_ipv6(text) if b":" in text else _valid_ipv4(text)


def literal_address(literal: bytes) -> bytes | None:
    """The address in ``[1.2.3.4]`` or ``[IPv6:...]`` (RFC 5321 section 4.1.3), None for anything else."""
    if literal[:1] != b"[" or literal.find(b"]") != len(literal) - 1:
        return None
    return mailhost_address(literal[1:-1])


def mailhost_address(text: bytes) -> bytes | None:
    """The address in ``1.2.3.4`` or ``IPv6:...``, None for anything else."""
    if text[:5].lower() == b"ipv6:":
        return text[5:] if _valid_ipv6(text[5:]) else None
    return text if _valid_ipv4(text) else None


def _valid_ipv4(text: bytes) -> bool:
    if len(text) > _LONGEST_ADDRESS or not _IPV4.match(text):
        return False
    numbers = [int(part) for part in text.split(b".")]
    return max(numbers) <= 255 and (numbers[0] != 0 or not any(numbers))


def _valid_ipv6(text: bytes) -> bool:
    if len(text) > _LONGEST_ADDRESS or b":" not in text or not text.isascii():
        return False
    return parse_address(text.decode()) is not None
