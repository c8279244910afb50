"""User names: their canonical form, and the parts that each back end wants.

Names are octets here; :func:`printable_name` makes the text for logs and policy.

Postfix counterpart: ``libsasl``'s INTERNAL ``canon_user`` plug-in, ``_plug_parseuser``,
``saslauthd_verify_password``; the ``printable()`` of ``smtpd_sasl_glue.c``.
"""

from __future__ import annotations

from mtad.maillog import printable
from mtad.sasl.mechanism import Reason, SaslFailure
from mtad.sasl.saslprep import prepare

#: Longest canonical name.
NAME_LIMIT = 1024

#: What surrounds a name without being part of it.
WHITE = b" \t\n\v\f\r"


def canonical(user: bytes, realm: bytes) -> bytes:
    """``user`` by SASLprep without surrounding white space, and with ``@realm`` when it has no ``@`` itself.

    ``realm`` is ``smtpd_sasl_local_domain``; empty: nothing is appended.  A name ends before a NUL, as in
    ``libsasl``.  Raises :class:`SaslFailure` for a name that can not be one.
    """
    name = prepare(user.partition(b"\0")[0]).strip(WHITE)
    if not name:
        raise SaslFailure(Reason.FAIL, "All-whitespace username.")
    if realm and b"@" not in name:
        name = b"%b@%b" % (name, realm)
    if len(name) > NAME_LIMIT:
        raise SaslFailure(Reason.BUFOVER)
    return name


def split_first(name: bytes, realm: bytes) -> tuple[bytes, bytes]:
    """User and realm as the user store has them: the *first* ``@`` parts them."""
    user, at, rest = name.partition(b"@")
    return (user, rest) if at else (user, realm)


def split_last(name: bytes, realm: bytes) -> tuple[bytes, bytes]:
    """User and realm as saslauthd gets them: the *last* ``@`` parts them."""
    user, at, rest = name.rpartition(b"@")
    return (user, rest) if at else (rest, realm)


def printable_name(name: bytes) -> str:
    """``name`` as ``sasl_username``: what is not printable UTF-8 becomes ``?``."""
    return printable(name.decode("utf-8", "surrogateescape"))
