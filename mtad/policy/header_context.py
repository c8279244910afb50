"""Whose headers are completed as our own: ``local_header_rewrite_clients``.

:meth:`HeaderContext.ask` gives OK for a client whose headers are rewritten in the local context, DUNNO for
another one, and REJECT when a table fails.

Postfix counterpart: ``smtpd_check_rewrite()``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from mtad.config.lines import tokens
from mtad.errors import MtadError
from mtad.policy import report
from mtad.policy.check import DUNNO, OK, REJECT, Check
from mtad.policy.restrictions_generic import has_listed_certificate, in_mynetworks
from mtad.wire.reply import Reply

if TYPE_CHECKING:
    from mtad.policy.setup import Setup
    from mtad.tables import Maps

_PARAMETER = "local_header_rewrite_clients"

Test = Callable[[Check], Awaitable[bool]]


class HeaderContext:
    """The list of one service."""

    def __init__(self, setup: Setup) -> None:
        self._tests: list[Test] = []
        for word in tokens(setup.p[_PARAMETER]):
            name = word.lower()
            if ":" in word:
                self._tests.append(_in_table(setup.open(word, _PARAMETER)))
            elif name in _TESTS:
                self._tests.append(_TESTS[name])
            elif name != "check_address_map":
                setup.warn(_PARAMETER, f"invalid request: {word}")

    async def ask(self, check: Check) -> int:
        """OK where the client's headers are completed as our own."""
        for test in self._tests:
            try:
                if await test(check):
                    return OK
            except MtadError as error:
                check.log_failure(error)
                check.reply = Reply(451, b"Temporary lookup error", b"4.3.0")
                line = report.reject_line(check.request, check.request.state, check.reply)
                check.setup.log.info(line)
                return REJECT
        return DUNNO


async def _own_address(check: Check) -> bool:
    return check.setup.classes.is_own_address(check.request.peer_address or check.request.client_address)


async def _logged_in(check: Check) -> bool:
    return check.request.logged_in


async def _listed_certificate(check: Check) -> bool:
    return await has_listed_certificate(check, False)


async def _trusted_certificate(check: Check) -> bool:
    return await has_listed_certificate(check, True)


def _in_table(maps: Maps) -> Test:
    async def test(check: Check) -> bool:
        return await maps.lookup(check.request.client_address.encode()) is not None

    return test


_TESTS: dict[str, Test] = {
    "permit_inet_interfaces": _own_address,
    "permit_mynetworks": in_mynetworks,
    "permit_sasl_authenticated": _logged_in,
    "permit_tls_all_clientcerts": _trusted_certificate,
    "permit_tls_clientcerts": _listed_certificate,
}
