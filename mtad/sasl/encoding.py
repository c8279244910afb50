"""Base64 as SASL exchanges over SMTP use it: strict (RFC 4648 section 4, RFC 4954 section 4).

No white space, no foreign characters, full padding, and nothing after it.  Raises
:class:`Malformed`; its ``partial`` tells input that merely stopped in the middle of a group,
which ``libsasl`` reports otherwise than input that can not be base64.

Postfix counterpart: ``sasl_decode64``, ``sasl_encode64`` of ``libsasl``.
"""

from __future__ import annotations

import binascii
import re

_GROUPS = re.compile(rb"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)?")


class Malformed(ValueError):
    """Not base64.  The message never holds the input: it may be a secret."""

    def __init__(self, partial: bool) -> None:
        super().__init__("malformed base64")
        self.partial = partial


def decode(data: bytes) -> bytes:
    """The octets that ``data`` stands for; raises :class:`Malformed`."""
    if _GROUPS.fullmatch(data) is not None:
        return binascii.a2b_base64(data)
    whole = data[: len(data) // 4 * 4]
    partial = whole != data and not whole.endswith(b"=") and _GROUPS.fullmatch(whole) is not None
    raise Malformed(partial)


def encode(data: bytes) -> bytes:
    """``data`` in base64, on one line, without a line end."""
    return binascii.b2a_base64(data, newline=False)
