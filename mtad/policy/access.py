"""access(5): what is looked up, and what the results mean.

An :class:`AccessTable` is a table named in a restriction list.  The ``find_*`` functions look for a name, an
address or a mail address in access(5)'s order of keys and give the status of the first result found, or None;
:func:`apply` gives that of one result.  A failing table counts as the result
``451 4.3.5 Server configuration error``.  Results that ask something of the message (``HOLD``, ``PREPEND``
...) are noted in ``Request.actions``, if the program carries them out, else refused with 451.

Postfix counterpart: ``check_table_result()``, ``check_domain_access()``, ``check_addr_access()``,
``check_mail_access()``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from mtad.errors import MtadError
from mtad.maillog import printable
from mtad.policy import dsn, report
from mtad.policy.check import CLIENT, DUNNO, HELO, OK, RECIPIENT, Check, Scope
from mtad.policy.request import END_OF_MESSAGE, ETRN
from mtad.policy.trace import Recorder
from mtad.rewrite.hostnames import valid_address
from mtad.tables import Maps
from mtad.tables.maps import Find
from mtad.wire.events import Address

_WAITS = b"waits"  # by its identity
_BROKEN = b"451 4.3.5 Server configuration error"
_HEADER = re.compile(rb"[!-9;-~]+[ \t]*:")
_KEYS = Find.FULL | Find.NO_EXTENSION | Find.DOMAIN | Find.ANY_LOCAL_AT
_PARENTS, _DOT_PARENTS = _KEYS | Find.PARENTS, _KEYS | Find.DOT_PARENTS
_BLANKS = b" \t\r\n\v\f"


@dataclass(frozen=True, slots=True)
class AccessTable:
    """A table by the name it has in the configuration; ``search_order``: by what ``check_ccert_access`` looks
    a certificate up, where that is said."""

    spec: str
    maps: Maps
    search_order: tuple[str, ...] | None = None


# -- looking up


async def find(check: Check, table: AccessTable, key: bytes, scope: Scope) -> int | None:
    """The status for exactly this key; None: not found."""
    value = await get(check, table, key)
    return None if value is None else await apply(check, table, value, key, scope)


async def find_domain(check: Check, table: AccessTable, domain: bytes, scope: Scope) -> int | None:
    """The status for a host or domain name, or for the nearest parent domain that is there."""
    name, partial = domain, False
    numeric = valid_address(domain)
    while name:
        value = at_once(check, table, name, partial)
        if value is _WAITS:
            value = await get(check, table, name, partial)
        if value is not None:
            return await apply(check, table, value, domain, scope)
        dot = name.find(b".", 1)
        if numeric or dot < 0 or table.maps.only_patterns:
            return None
        name = name[dot + 1 :] if check.setup.access_parents else name[dot:]
        partial = True
    return None


async def find_address(check: Check, table: AccessTable, address: str, scope: Scope) -> int | None:
    """The status for an IP address, or for the longest network that is there."""
    delimiter = b":" if ":" in address else b"."
    key, partial = address.encode(), False
    while True:
        value = at_once(check, table, key, partial)
        if value is _WAITS:
            value = await get(check, table, key, partial)
        if value is not None:
            return await apply(check, table, value, address.encode(), scope)
        key, found, _ = key.rpartition(delimiter)
        if not found or table.maps.only_patterns:
            return None
        partial = True


async def find_mail(check: Check, table: AccessTable, address: Address, scope: Scope) -> int:
    """The status for a sender or recipient."""
    setup = check.setup
    found = await check.resolve(address)
    strategy = _PARENTS if setup.access_parents else _DOT_PARENTS
    maps = table.maps if check.trace is None else Recorder(check, table.maps)
    try:
        match = await maps.match_address(found.key, setup.delimiter, strategy=strategy)
        value = None if match is None else match[0]
    except MtadError as error:
        check.log_failure(error)
        value = _BROKEN
    if value is None:
        return DUNNO
    status = await apply(check, table, value, found.key, scope)
    if status == OK and found.routed and scope.kind == RECIPIENT and not setup.untrusted_routing:
        return DUNNO
    return status


def at_once(check: Check, table: AccessTable, key: bytes, partial: bool) -> bytes | None:
    """:func:`get` without the coroutine; ``_WAITS`` where the table can't answer so."""
    maps = table.maps
    if not maps.at_once or check.trace is not None:
        return _WAITS
    try:
        return maps.answer(key, partial)
    except MtadError as error:
        check.log_failure(error)
        return _BROKEN


async def get(check: Check, table: AccessTable, key: bytes, partial: bool = False) -> bytes | None:
    """What the table has for exactly this key.  A failure is logged, and is a value of its own."""
    try:
        value = await table.maps.lookup(key, fixed_only=partial)
    except MtadError as error:
        check.log_failure(error)
        return _BROKEN
    if value is not None and check.trace is not None:
        check.found(table.spec, key, value)
    return value


# -- results


async def apply(check: Check, table: AccessTable, value: bytes, datum: bytes, scope: Scope) -> int:
    """The status that the result ``value``, found for ``datum``, comes to."""
    setup = check.setup
    word, text = _cut(value)
    command = word.upper()
    if command == b"DUNNO":
        return DUNNO
    if command == b"REJECT":
        code, text = dsn.split(b"5.7.1", text)
        return _refuse(check, setup.codes["access_map_reject_code"], code, scope, text)
    if command == b"DEFER":
        code, text = dsn.split(b"4.7.1", text)
        return _refuse(check, setup.codes["access_map_defer_code"], code, scope, text)
    if command in (b"DEFER_IF_PERMIT", b"DEFER_IF_REJECT"):
        code, text = dsn.split(b"4.7.1", text)
        code = dsn.fit(code, scope.kind, setup.log)
        hold = check.hold_permit if command == b"DEFER_IF_PERMIT" else check.hold_reject
        said = b"<%b>: %b rejected: %b" % (scope.name, scope.kind.encode(), text or b"Service unavailable")
        return hold(setup.codes["access_map_defer_code"], code, said)
    if command == b"HANGUP":
        check.hang_up(printable(text))
    if command in (b"INFO", b"WARN"):
        setup.log.info(report.line(check.request, command.decode().lower(), printable(text)))
        return DUNNO
    action = _ACTIONS.get(command)
    if action is not None:
        done = _act(check, table, action, text, datum, scope)
        if done and command == b"DISCARD":
            return await check.permit(printable(word), scope.kind, scope.name, f"from {table.spec}")
        return DUNNO
    if value.isdigit() or command in (b"OK", b"RELAY"):
        return await check.permit(printable(word), scope.kind, scope.name, f"from {table.spec}")
    if len(word) == 3 and word.isdigit() and word[:1] in b"45" and text:
        code, text = dsn.split(word[:1] + b".7.1", text)
        return _refuse(check, int(word), code, scope, text)
    return await _list(check, table, value, scope)


def _refuse(check: Check, code: int, status: bytes, scope: Scope, text: bytes) -> int:
    status = dsn.fit(status, scope.kind, check.setup.log)
    return check.refuse(code, status, scope, text or b"Access denied")


async def _list(check: Check, table: AccessTable, value: bytes, scope: Scope) -> int:
    """A result that is a list of restrictions."""
    text = value.decode("utf-8", "surrogateescape")
    if ":" in text:
        check.misconfigured(
            f"access table {table.spec} has entry with lookup table: {printable(value)}",
            "do not specify lookup tables inside SMTPD access maps",
            "define a restriction class and specify its name instead.",
        )
    if check.recursion > 100:
        check.misconfigured(
            f"access table {table.spec} entry {printable(value)} causes unreasonable recursion"
        )
    rules = check.setup.compiler.result(text)
    if not rules:
        check.setup.log.warning(f"access table {table.spec} entry {printable(value)} has empty value")
        return OK
    return await check.run(rules, scope)


# -- results that concern the message

Action = Callable[[Check, str, bytes, Scope], bool]


def _act(
    check: Check, table: AccessTable, action: tuple[str, Action], text: bytes, datum: bytes, scope: Scope
) -> bool:
    """Whether the action is one that can be done for this message, and was."""
    name, run = action
    setup, request = check.setup, check.request
    if name not in setup.actions:
        check.misconfigured(f"access table {table.spec}: action {name} is not supported")
    if setup.proxied and name != "PREPEND":
        setup.log.warning(
            f"access table {table.spec}: with smtpd_proxy_filter specified, action {name} is unavailable"
        )
        return False
    if request.state == ETRN and name != "PREPEND":
        setup.log.warning(
            f"access table {table.spec}: action {name} is unavailable in smtpd_etrn_restrictions"
        )
        return False
    if request.sender is None:
        setup.log.warning(
            f"access table {table.spec}: with smtpd_delay_reject=no, "
            f"action {name} is always skipped in {CLIENT} or {HELO} restrictions"
        )
        return False
    entry = f'access table {table.spec} entry "{printable(datum)}"'
    return run(check, entry, text, scope)


def _report(check: Check, what: str, scope: Scope, text: str) -> None:
    line = f"<{printable(scope.name)}>: {scope.kind} {text}"
    check.setup.log.info(report.line(check.request, what, line))


def _hold(check: Check, entry: str, text: bytes, scope: Scope) -> bool:
    actions = check.request.actions
    if not actions.hold:
        _report(check, "hold", scope, printable(text) or "triggers HOLD action")
    actions.hold = True
    return True


def _discard(check: Check, entry: str, text: bytes, scope: Scope) -> bool:
    _report(check, "discard", scope, printable(text) or "triggers DISCARD action")
    check.request.actions.discard = True
    return True


def _filter(check: Check, entry: str, text: bytes, scope: Scope) -> bool:
    if not text:
        check.setup.log.warning(f"{entry} has FILTER entry without value")
    elif b":" not in text:
        check.setup.log.warning(f"{entry} requires transport:destination")
    else:
        _report(check, "filter", scope, f"triggers FILTER {printable(text)}")
        check.request.actions.filter = text.decode("utf-8", "surrogateescape")
        return True
    return False


def _redirect(check: Check, entry: str, text: bytes, scope: Scope) -> bool:
    if b"@" not in text:
        check.setup.log.warning(f"{entry} requires user@domain target")
        return False
    _report(check, "redirect", scope, f"triggers REDIRECT {printable(text)}")
    check.request.actions.redirect = text
    return True


def _bcc(check: Check, entry: str, text: bytes, scope: Scope) -> bool:
    if b"@" not in text:
        check.setup.log.warning(f"{entry} requires user@domain target")
        return False
    _report(check, "bcc", scope, f"triggers BCC {printable(text)}")
    check.request.actions.bcc.append(text)
    return True


def _prepend(check: Check, entry: str, text: bytes, scope: Scope) -> bool:
    if check.request.state == END_OF_MESSAGE:
        table = entry.partition(" entry ")[0]
        check.setup.log.warning(f"{table}: action PREPEND must be used before smtpd_end_of_data_restrictions")
    elif not _HEADER.match(text):
        check.setup.log.warning(f"{entry} requires header: text")
    else:
        check.request.actions.prepend.append(text)
        return True
    return False


_ACTIONS: dict[bytes, tuple[str, Action]] = {
    b"BCC": ("BCC", _bcc),
    b"DISCARD": ("DISCARD", _discard),
    b"FILTER": ("FILTER", _filter),
    b"HOLD": ("HOLD", _hold),
    b"PREPEND": ("PREPEND", _prepend),
    b"REDIRECT": ("REDIRECT", _redirect),
}


def _cut(value: bytes) -> tuple[bytes, bytes]:
    """The first word of a result, and its text."""
    at = 0
    while at < len(value) and value[at] not in b" \t":
        at += 1
    return value[:at], value[at:].lstrip(_BLANKS)
