"""The server side of SASL: PLAIN, LOGIN, CRAM-MD5, and which of all mechanisms are usable.

:data:`MECHANISMS` lists what there is in the order in which ``libsasl`` lists its plug-ins,
strongest first.  A configuration narrows and orders it by ``mech_list`` (:func:`select`), a
connection by its security options (:func:`refusal`).

RFC 4616 (PLAIN), draft-murchison-sasl-login (LOGIN), RFC 2195 (CRAM-MD5).
Postfix counterpart: the plug-ins of ``libsasl``.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence

from mtad.sasl.mechanism import (
    CheckPassword,
    Property,
    Proven,
    Reason,
    SaslFailure,
    ServerContext,
    ServerMechanism,
    Steps,
    challenge,
    need_secret,
)

#: Longest name or password that LOGIN takes.
LOGIN_LIMIT = 1024


def _plain(context: ServerContext, initial: bytes | None) -> Steps:
    message = (yield from challenge(b"")) if initial is None else initial
    parts = message.split(b"\0")
    if len(parts) == 1:
        raise SaslFailure(Reason.BADPROT, "Can only find author (no password)")
    if len(parts) == 2:
        raise SaslFailure(Reason.BADPROT, "Can only find author/en (no password)")
    if len(parts) > 3:
        # libsasl ends this note with a newline, which logs show as "?".
        raise SaslFailure(Reason.BADPROT, "Got more data than we were expecting in the PLAIN plugin?")
    authzid, authcid, password = parts
    return CheckPassword(authcid, authzid or authcid, password, "Password verification failed")


def _login(context: ServerContext, initial: bytes | None) -> Steps:
    name = initial or (yield from challenge(b"Username:"))
    if len(name) > LOGIN_LIMIT:
        raise SaslFailure(Reason.BADPROT, "username too long (>1024 characters)")
    password = yield from challenge(b"Password:")
    if len(password) > LOGIN_LIMIT:
        raise SaslFailure(Reason.BADPROT, "clientinlen is > 1024 characters in LOGIN plugin")
    return CheckPassword(name, name, password)


def _cram_md5(context: ServerContext, initial: bytes | None) -> Steps:
    greeting = b"<%b@%b>" % (context.unique(), context.hostname)
    response = yield from challenge(greeting)
    name, space, digest = response.rpartition(b" ")
    if not space or not name:
        raise SaslFailure(Reason.BADPROT, "need authentication name")
    secrets = yield from need_secret(name, "userPassword")
    if "userPassword" not in secrets:
        raise SaslFailure(Reason.BADAUTH)
    if not secrets["userPassword"]:
        raise SaslFailure(Reason.FAIL, "empty secret")
    expected = hmac.digest(secrets["userPassword"], greeting, "md5").hex().encode()
    if not hmac.compare_digest(expected, digest):
        raise SaslFailure(Reason.BADAUTH, "incorrect digest response")
    return Proven(name, name)


MECHANISMS: tuple[ServerMechanism, ...] = (
    ServerMechanism(b"CRAM-MD5", Property.NOPLAINTEXT | Property.NOANONYMOUS, _cram_md5, server_first=True),
    ServerMechanism(b"PLAIN", Property.NOANONYMOUS, _plain),
    ServerMechanism(b"LOGIN", Property.NOANONYMOUS, _login),
)


def select(
    mech_list: Sequence[str] | None, further: Sequence[ServerMechanism] = ()
) -> tuple[ServerMechanism, ...]:
    """The mechanisms of ``mech_list`` that there are, in its order; all when it is None.

    ``further`` are those that there are for this configuration beside the usual ones.
    """
    there = (*MECHANISMS, *further)
    if mech_list is None:
        return there
    known = {mechanism.name: mechanism for mechanism in there}
    names = dict.fromkeys(word.upper().encode("ascii", "replace") for word in mech_list)
    return tuple(known[name] for name in names if name in known)


def refusal(mechanism: ServerMechanism, options: Property, tls: bool = True) -> Reason | None:
    """Why ``mechanism`` may not be used under these security options; None when it may."""
    if mechanism.for_tls and not tls:
        return Reason.ENCRYPT
    missing = options & ~mechanism.properties
    if not missing:
        return None
    return Reason.ENCRYPT if Property.NOPLAINTEXT in missing else Reason.NOMECH


def permitted(
    mechanisms: Iterable[ServerMechanism], options: Property, tls: bool = True
) -> tuple[ServerMechanism, ...]:
    """Those of ``mechanisms`` that the options allow, in the same order."""
    return tuple(mechanism for mechanism in mechanisms if refusal(mechanism, options, tls) is None)


def begin(mechanism: ServerMechanism, context: ServerContext, initial: bytes | None) -> Steps:
    """Start ``mechanism``; the steps are to be advanced with ``next()`` first, then ``send()``."""
    if initial is not None and mechanism.server_first:
        raise SaslFailure(Reason.BADPROT, "Remote sent first but mech does not allow it.")
    return mechanism.run(context, initial)
