"""The restrictions ``check_*_access``: each takes its table and gives what runs.

Postfix counterpart: ``check_namadr_access()``, ``check_ccert_access()``, ``check_sasl_access()`` and the
dispatch in ``generic_checks()``.
"""

from __future__ import annotations

from mtad.policy.access import AccessTable, apply, find, find_address, find_domain, find_mail, get
from mtad.policy.check import (
    CCERT,
    CLIENT,
    DUNNO,
    ETRN,
    HELO,
    OK,
    RECIPIENT,
    REVERSE_CLIENT,
    SASL_USER,
    SENDER,
    Check,
    Run,
    Scope,
)

#: What a certificate is looked up by, in order: Postfix's keys, then Sendmail's.
CERTIFICATE_KEYS = ("cert_fingerprint", "pubkey_fingerprint", "cert_issuer")


def check_client_access(table: AccessTable) -> Run:
    async def run(check: Check, scope: Scope) -> int:
        request = check.request
        inner = Scope(request.client.encode(), CLIENT, scope.table)
        status = await find_domain(check, table, request.client_name.encode(), inner)
        if status is None:
            status = await find_address(check, table, request.client_address, inner)
        return status or DUNNO

    return run


def check_reverse_client_hostname_access(table: AccessTable) -> Run:
    async def run(check: Check, scope: Scope) -> int:
        request = check.request
        name = request.reverse_name.encode()
        inner = Scope(name, REVERSE_CLIENT, scope.table)
        status = await find_domain(check, table, name, inner)
        if status is None:
            status = await find_address(check, table, request.client_address, inner)
        if status == OK and not request.actions.discard:
            check.misconfigured(
                f"restriction check_reverse_client_hostname_access returns OK for {request.reverse_name}",
                "this is not allowed for security reasons",
                "use DUNNO instead of OK if you want to make an exception",
            )
        return status or DUNNO

    return run


def check_helo_access(table: AccessTable) -> Run:
    async def run(check: Check, scope: Scope) -> int:
        helo = check.request.helo
        if not helo:
            return DUNNO
        return await find_domain(check, table, helo, Scope(helo, HELO, scope.table)) or DUNNO

    return run


def check_sender_access(table: AccessTable) -> Run:
    async def run(check: Check, scope: Scope) -> int:
        sender = check.request.sender
        if sender is None:
            return DUNNO
        inner = Scope(sender.text, SENDER, scope.table)
        if not sender.text:
            return await find(check, table, check.setup.null_key, inner) or DUNNO
        return await find_mail(check, table, sender, inner)

    return run


def check_recipient_access(table: AccessTable) -> Run:
    async def run(check: Check, scope: Scope) -> int:
        recipient = check.request.recipient
        if recipient is None:
            return DUNNO
        return await find_mail(check, table, recipient, Scope(recipient.text, RECIPIENT, scope.table))

    return run


def check_etrn_access(table: AccessTable) -> Run:
    async def run(check: Check, scope: Scope) -> int:
        domain = check.request.etrn_domain
        if not domain:
            return DUNNO
        return await find_domain(check, table, domain, Scope(domain, ETRN, scope.table)) or DUNNO

    return run


def check_sasl_access(table: AccessTable) -> Run:
    async def run(check: Check, scope: Scope) -> int:
        if not check.setup.sasl:
            check.setup.log.warning("restriction `check_sasl_access' ignored: no SASL support")
            return DUNNO
        login = check.request.sasl_username
        if not login:
            return DUNNO
        key = login.encode("utf-8", "surrogateescape")
        shown = "".join(char if char.isprintable() else "_" for char in login)
        name = shown.encode("utf-8", "replace")
        return await find(check, table, key, Scope(name, SASL_USER, scope.table)) or DUNNO

    return run


def check_ccert_access(table: AccessTable) -> Run:
    order = CERTIFICATE_KEYS if table.search_order is None else table.search_order

    async def run(check: Check, scope: Scope) -> int:
        request = check.request
        prints = {
            "cert_fingerprint": request.cert_fingerprint,
            "pubkey_fingerprint": request.pubkey_fingerprint,
        }
        if not any(prints.values()):
            if not check.setup.ask_cert:
                check.setup.log.warning('check_ccert_access is requested, but "smtpd_tls_ask_ccert = no"')
            return DUNNO
        name = request.cert_name.encode("utf-8", "surrogateescape")
        inner = Scope(name, CCERT, scope.table)
        for key in order:
            if key == "cert_issuer":
                status = await _by_issuer(check, table, inner)
            elif prints[key]:
                status = await find(check, table, prints[key].encode(), inner)
            else:
                continue
            if status:
                return status
        return DUNNO

    return run


async def _by_issuer(check: Check, table: AccessTable, scope: Scope) -> int | None:
    """What Sendmail's access map would say of a trusted certificate: whoever has one of an issuer may relay
    (``CERTISSUER:... RELAY``), or those alone whom the issuer calls so (``SUBJECT``)."""
    request = check.request
    if not request.cert_trusted:
        return None
    key = b"CERTISSUER:" + request.cert_issuer.encode()
    value = await get(check, table, key)
    if value is not None and value.strip().upper() == b"SUBJECT":
        key = b"CERTSUBJECT:" + request.cert_subject.encode()
        value = await get(check, table, key)
    return None if value is None else await apply(check, table, value, key, scope)
