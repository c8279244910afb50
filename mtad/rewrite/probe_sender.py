"""Who the probes of address verification are from: ``address_verify_sender`` and its ``_ttl``.

With a time to live the local part ends in the number of the time slot, so that who collects such addresses
can use them for a while only.  :class:`ProbeSender` makes the address and knows it again, within a slot
before and after.  ConfigError for an address that can't be one; else nothing is raised.

Postfix counterpart: ``verify_sender_addr(3)``, ``safe_ultostr(3)``.
"""

from __future__ import annotations

from mtad.config.parameters import Parameters
from mtad.rewrite.address import Rewriter

#: Digits and capitals, but no vowels.
_DIGITS = b"0123456789BCDFGHJKLMNPQRSTVWXYZ"
_NAME = "address_verify_sender"


class ProbeSender:
    """See the module."""

    def __init__(self, p: Parameters, rewriter: Rewriter) -> None:
        text = p[_NAME]
        if text.startswith("@") or text.endswith("@"):
            raise p.error(_NAME, f"{text!r} is no address", "specify a name, or name@domain")
        self._text = b"" if text == "<>" else text.encode()
        self._ttl = p.seconds("address_verify_sender_ttl")
        self._rewriter = rewriter
        self._lasting = rewriter.rewrite_internal(self._text)
        local, at, domain = self._lasting.partition(b"@")
        self._local, self._domain = local.lower(), at + domain.lower()

    def address(self, now: float) -> bytes:
        """The sender of a probe; may be the null sender."""
        if not (self._ttl and self._text):
            return self._lasting
        local, at, domain = self._text.partition(b"@")
        return self._rewriter.rewrite_internal(local + _number(int(now) // self._ttl) + at + domain)

    def lasting(self, address: bytes, now: float) -> bytes | None:
        """The sender without its time slot where ``address`` is one; None: it is not."""
        local, at, domain = address.partition(b"@")
        size = len(self._local)
        if not self._text or local[:size].lower() != self._local or at + domain.lower() != self._domain:
            return None
        slot = local[size:]
        if self._ttl:
            current = int(now) // self._ttl
            fits = slot in [_number(current + step) for step in (-1, 0, 1)]
        else:
            fits = not slot
        return self._lasting if fits else None


def _number(value: int) -> bytes:
    found = b""
    while value or not found:
        value, digit = divmod(value, len(_DIGITS))
        found = _DIGITS[digit : digit + 1] + found
    return found
