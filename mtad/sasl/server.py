"""The server side of SASL: PLAIN, LOGIN, CRAM-MD5, EXTERNAL, ANONYMOUS, and which of all are usable.

:data:`MECHANISMS` lists what there is in the order in which ``libsasl`` lists its plug-ins,
strongest first.  A configuration narrows and orders it by ``mech_list`` (:func:`select`), a
connection by its security options (:func:`refusal`).

RFC 4616 (PLAIN), draft-murchison-sasl-login (LOGIN), RFC 2195 (CRAM-MD5), RFC 4422 appendix A (EXTERNAL),
RFC 4505 (ANONYMOUS).
Postfix counterpart: the plug-ins of ``libsasl``.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence

from mtad.sasl import digest_md5, otp, scram
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
    need_identity,
    need_secret,
)

#: Longest name or password that LOGIN takes.
LOGIN_LIMIT = 1024

#: Longest response that CRAM-MD5 takes.
CRAM_LIMIT = 1024

#: Longest identity that EXTERNAL takes.
EXTERNAL_LIMIT = 16384


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
    if len(response) > CRAM_LIMIT:
        raise SaslFailure(Reason.BADPROT, "CRAM-MD5 input longer than 1024 bytes")
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


def _external(context: ServerContext, initial: bytes | None) -> Steps:
    authzid = (yield from challenge(b"")) if initial is None else initial
    if len(authzid) > EXTERNAL_LIMIT:
        raise SaslFailure(Reason.BADPROT)
    login = yield from need_identity()
    if not login:
        raise SaslFailure(Reason.BADAUTH, "the client's certificate stands for no login")
    return Proven(login, authzid or login)


def _anonymous(context: ServerContext, initial: bytes | None) -> Steps:
    if initial is None:
        yield from challenge(b"")
    return Proven(b"anonymous", b"anonymous")


def strength(mechanism: ServerMechanism) -> tuple[int, ...]:
    """By what ``libsasl`` orders its plug-ins: the greater, the stronger."""
    properties = mechanism.properties
    flags = (
        Property.NOANONYMOUS, Property.NOPLAINTEXT, Property.MUTUAL_AUTH, Property.NOACTIVE,
        Property.NODICTIONARY, Property.FORWARD_SECRECY,
    )  # fmt: skip
    return (*(int(flag in properties) for flag in flags), mechanism.strength)


def ordered(mechanisms: Iterable[ServerMechanism]) -> tuple[ServerMechanism, ...]:
    """The strongest first; what is as strong stays as it is."""
    return tuple(sorted(mechanisms, key=strength, reverse=True))


MECHANISMS: tuple[ServerMechanism, ...] = ordered(
    (
        *scram.mechanisms(),
        digest_md5.MECHANISM,
        ServerMechanism(
            b"EXTERNAL",
            Property.NOPLAINTEXT | Property.NODICTIONARY | Property.NOANONYMOUS,
            _external,
            for_certificate=True,
        ),
        otp.MECHANISM,
        ServerMechanism(
            b"CRAM-MD5",
            Property.NOPLAINTEXT | Property.NOANONYMOUS,
            _cram_md5,
            server_first=True,
            by_secret=True,
        ),
        ServerMechanism(b"PLAIN", Property.NOANONYMOUS, _plain),
        ServerMechanism(b"LOGIN", Property.NOANONYMOUS, _login),
        ServerMechanism(b"ANONYMOUS", Property.NOPLAINTEXT, _anonymous),
    )
)


def select(
    mech_list: Sequence[str] | None, further: Sequence[ServerMechanism] = ()
) -> tuple[ServerMechanism, ...]:
    """The mechanisms of ``mech_list`` that there are, in its order; the usual ones when it is None.

    ``further`` are those that there are for this configuration beside ours.  A mechanism brings its
    -PLUS form with it.
    """
    there = ordered((*MECHANISMS, *further))
    if mech_list is None:
        return tuple(each for each in there if not each.by_name)
    known = {mechanism.name: mechanism for mechanism in there}
    names = [word.upper().encode("ascii", "replace") for word in mech_list]
    both = (each for name in names for each in (name + b"-PLUS", name))
    return tuple(known[name] for name in dict.fromkeys(both) if name in known)


def refusal(
    mechanism: ServerMechanism, options: Property, tls: bool = True, certificate: bool = True
) -> Reason | None:
    """Why ``mechanism`` may not be used under these security options; None when it may.

    ``certificate``: the client has shown one that is trusted.
    """
    if mechanism.for_certificate and not certificate:
        return Reason.NOMECH
    if mechanism.for_tls and not tls:
        return Reason.ENCRYPT
    missing = options & ~mechanism.properties
    if not missing:
        return None
    return Reason.ENCRYPT if Property.NOPLAINTEXT in missing else Reason.NOMECH


def permitted(
    mechanisms: Iterable[ServerMechanism], options: Property, tls: bool = True, certificate: bool = True
) -> tuple[ServerMechanism, ...]:
    """Those of ``mechanisms`` that the options allow, in the same order."""
    return tuple(each for each in mechanisms if refusal(each, options, tls, certificate) is None)


def begin(mechanism: ServerMechanism, context: ServerContext, initial: bytes | None) -> Steps:
    """Start ``mechanism``; the steps are to be advanced with ``next()`` first, then ``send()``."""
    if initial is not None and mechanism.server_first:
        raise SaslFailure(Reason.BADPROT, "Remote sent first but mech does not allow it.")
    return mechanism.run(context, initial)
