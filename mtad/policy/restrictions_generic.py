"""Restrictions on anything: permit, reject, and what is known of the client and its session.

Each is ``async (check, scope) -> status``; see :mod:`mtad.policy.check`.

Postfix counterpart: ``generic_checks()``, ``permit_mynetworks()``, ``permit_tls_clientcerts()`` ...
"""

from __future__ import annotations

from mtad.errors import MtadError
from mtad.policy.check import DUNNO, Check, Scope
from mtad.policy.request import RCPT


async def permit(check: Check, scope: Scope) -> int:
    return await check.permit("permit", scope.kind, scope.name)


async def reject(check: Check, scope: Scope) -> int:
    return check.refuse(check.setup.codes["reject_code"], b"5.7.1", scope, b"Access denied")


async def defer(check: Check, scope: Scope) -> int:
    return check.refuse(check.setup.codes["defer_code"], b"4.3.2", scope, b"Try again later")


async def defer_if_permit(check: Check, scope: Scope) -> int:
    text = b"<%b>: %b rejected: defer_if_permit requested" % (scope.name, scope.kind.encode())
    return check.hold_permit(450, b"4.7.0", text)


async def defer_if_reject(check: Check, scope: Scope) -> int:
    text = b"<%b>: %b rejected: defer_if_reject requested" % (scope.name, scope.kind.encode())
    return check.hold_reject(450, b"4.7.0", text)


async def reject_plaintext_session(check: Check, scope: Scope) -> int:
    if check.request.tls:
        return DUNNO
    code = check.setup.codes["plaintext_reject_code"]
    return check.reject(code, b"4.7.1", b"Session encryption is required")


async def reject_unauth_pipelining(check: Check, scope: Scope) -> int:
    if not check.request.unauth_pipelining:
        return DUNNO
    return check.refuse(503, b"5.5.0", scope, b"Improper use of SMTP command pipelining")


async def reject_multi_recipient_bounce(check: Check, scope: Scope) -> int:
    request = check.request
    sender = request.sender
    if sender is None or sender.text or request.recipient_count <= (request.state != RCPT):
        return DUNNO
    code = check.setup.codes["multi_recipient_bounce_reject_code"]
    return check.refuse(code, b"5.5.3", scope, b"Multi-recipient bounce")


async def permit_inet_interfaces(check: Check, scope: Scope) -> int:
    if check.setup.classes.is_own_address(check.request.peer_address or check.request.client_address):
        return await check.permit_client("permit_inet_interfaces")
    return DUNNO


async def in_mynetworks(check: Check) -> bool:
    """Whether the client is in ``mynetworks``; asked once a session."""
    request = check.request
    known = request._mynetworks
    if known is None:
        known = await check.setup.mynetworks.matches(request.client_address, request.client_name)
        request._mynetworks = known
    return known


async def permit_mynetworks(check: Check, scope: Scope) -> int:
    if await in_mynetworks(check):
        setup = check.setup
        if setup.old_networks and not setup.classes.is_own_address(check.request.client_address):
            setup.note_network(check.request)
        return await check.permit_client("permit_mynetworks")
    return DUNNO


async def has_listed_certificate(check: Check, any_trusted: bool) -> bool:
    """Whether the client's certificate is in ``relay_clientcerts``, or trusted where that is enough."""
    request, setup = check.request, check.setup
    if not request.tls:
        return False
    if any_trusted and request.cert_trusted:
        return True
    prints = [print_ for print_ in (request.pubkey_fingerprint, request.cert_fingerprint) if print_]
    for print_ in prints:
        try:
            if await setup.relay_certs.lookup(print_.encode()) is not None:
                return True
        except MtadError as error:
            error.add_note(
                f"relay_clientcerts: lookup error for fingerprint '{request.cert_fingerprint}', "
                f"pkey fingerprint {request.pubkey_fingerprint}"
            )
            raise
    if not prints and not setup.ask_cert:
        name = "permit_tls_all_clientcerts" if any_trusted else "permit_tls_clientcerts"
        setup.log.warning(f'{name} is requested, but "smtpd_tls_ask_ccert = no"')
    return False


async def permit_tls_clientcerts(check: Check, scope: Scope) -> int:
    if await has_listed_certificate(check, False):
        return await check.permit_client("permit_tls_clientcerts")
    return DUNNO


async def permit_tls_all_clientcerts(check: Check, scope: Scope) -> int:
    if await has_listed_certificate(check, True):
        return await check.permit_client("permit_tls_all_clientcerts")
    return DUNNO


async def reject_unknown_client_hostname(check: Check, scope: Scope) -> int:
    request = check.request
    if request.client_name != "unknown":
        return DUNNO
    code = 450 if request.name_temporary else check.setup.codes["unknown_client_reject_code"]
    text = f"Client host rejected: cannot find your hostname, [{request.client_address}]"
    return check.reject(code, b"4.7.25", text.encode())


async def reject_unknown_reverse_client_hostname(check: Check, scope: Scope) -> int:
    request = check.request
    if request.reverse_name != "unknown":
        return DUNNO
    code = 450 if request.reverse_temporary else check.setup.codes["unknown_client_reject_code"]
    text = f"Client host rejected: cannot find your reverse hostname, [{request.client_address}]"
    return check.reject(code, b"4.7.1", text.encode())
