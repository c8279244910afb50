"""IP addresses and networks as integers.

An IPv4 address that comes mapped into IPv6 (``::ffff:1.2.3.4``, RFC 4291 section 2.5.5.2) is the
IPv4 address.  :func:`parse_network` raises :class:`~mtad.errors.ConfigError` in Postfix's words.

Postfix counterpart: ``cidr_match(3)``, ``normalize_v4mapped_addr(3)``.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from mtad.errors import ConfigError

_BITS = {4: 32, 6: 128}
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass(frozen=True, slots=True)
class Network:
    """A network: ``address & mask == value`` for the addresses of ``family`` (4 or 6) in it."""

    family: int
    value: int
    mask: int

    def contains(self, family: int, address: int) -> bool:
        """Whether an address, as :func:`parse_address` gives it, is in the network."""
        return family == self.family and address & self.mask == self.value


def parse_address(text: str) -> tuple[int, int] | None:
    """``(4, number)`` or ``(6, number)``, or None for what is no address."""
    found = parse_unmapped(text)
    if found is not None and found[0] == 6 and found[1] >> 32 == 0xFFFF:
        return 4, found[1] & 0xFFFFFFFF
    return found


def parse_unmapped(text: str) -> tuple[int, int] | None:
    """The same for a text that means just what it says: a mapped address stays an IPv6 address."""
    try:
        if ":" not in text:
            return 4, int.from_bytes(socket.inet_pton(socket.AF_INET, text))
        return 6, int.from_bytes(socket.inet_pton(socket.AF_INET6, text))
    except (OSError, ValueError):
        return None


def parse_network(pattern: str) -> Network:
    """``address``, ``address/bits``, ``[address]``, ``[address]/bits`` or ``[address/bits]``."""
    text = pattern
    if text.startswith("["):
        inside, bracket, after = text[1:].partition("]")
        if not bracket:
            raise ConfigError(f"missing ']' character after \"[{inside}\"")
        if after and not after.startswith("/"):
            raise ConfigError(f'garbage after "[{inside}]"')
        text = inside + after
    address, slash, bits = text.partition("/")
    family = 6 if ":" in address else 4
    if not slash:
        number = _number(family, address)
        if number is None:
            raise ConfigError(f'bad address pattern: "{address}"')
        return Network(family, number, (1 << _BITS[family]) - 1)
    problem = ""
    number = _number(family, address)
    if not (bits.isascii() and bits.isdigit()):
        problem = "bad mask value"
    elif len(bits) > 9 or int(bits) > _BITS[family]:
        problem = "bad mask length"
    elif number is None:
        problem = "bad network value"
    if problem or number is None:
        raise ConfigError(f'{problem} in "{address}/{bits}"')
    whole = (1 << _BITS[family]) - 1
    mask = whole ^ (whole >> int(bits))
    if number & ~mask:
        better = socket.inet_ntop(_FAMILY[family], (number & mask).to_bytes(_BITS[family] // 8))
        raise ConfigError(
            f'non-null host address bits in "{address}/{bits}", '
            f'perhaps you should use "{better}/{int(bits)}" instead'
        )
    return Network(family, number & mask, mask)


def _number(family: int, address: str) -> int | None:
    try:
        return int.from_bytes(socket.inet_pton(_FAMILY[family], address))
    except (OSError, ValueError):
        return None
