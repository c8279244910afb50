"""``non_smtpd_milters``: filters for mail that no SMTP client brought.

:class:`LocalMilters` tells them of a session as if one had: a client ``localhost``, its EHLO, the envelope,
the content.  A filter may refuse such a message, but no recipient of it.

Postfix counterpart: ``cleanup_milter_emul_mail()`` and its sisters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mtad.config.parameters import Parameters
from mtad.maillog import MailLog
from mtad.mime.checks import Checks
from mtad.smtpd.milter.chain import Chain
from mtad.smtpd.milter.message import Screening, screen, verdict
from mtad.smtpd.milter.specs import Filters, read_filters
from mtad.smtpd.state import Origin
from mtad.wire.reply import Reply
from mtad.wire.tokens import quote

if TYPE_CHECKING:
    from mtad.queue.message import Message
    from mtad.smtpd.envelope import Envelope
    from mtad.smtpd.milter.client import Response
    from mtad.smtpd.state import MessageState

_NAME, _ADDRESS = "localhost", "127.0.0.1"
_ORIGIN = Origin(f"{_NAME}[{_ADDRESS}]")
_MISUSED = Reply(451, b"Server configuration error", b"4.3.5")


class LocalMilters:
    """See the module."""

    def __init__(self, filters: Filters, reactor: Any, how: Screening, myhostname: str) -> None:
        self._filters = filters
        self._reactor = reactor
        self._how = how
        self._host = myhostname.encode()

    async def screen(self, message: Message, envelope: Envelope, state: MessageState) -> Reply | None:
        """Show a message to the filters: the refusal, or None."""
        macros = self._macros(message)
        recipient = b""

        async def lookup(key: str) -> bytes | None:
            return recipient if key == "{rcpt_addr}" and recipient else macros.get(key)

        def told(response: Response | None, where: str) -> Reply | None:
            if response is None:
                return None
            return verdict(self._how.log, response, message, state, _ORIGIN, where)

        chain = Chain(
            self._filters, self._filters.configured, self._reactor, self._how.log, lookup, soft_bounce=False
        )
        try:
            refusal = told(await chain.connect(_NAME, _ADDRESS, "0"), "CONNECT")
            if refusal is None and state.going_on:
                refusal = told(await chain.helo(_NAME.encode()), "EHLO")
            if refusal is None and state.going_on:
                macros["{mail_addr}"] = quote(message.sender)
                refusal = told(await chain.mail([macros["{mail_addr}"]]), "MAIL")
            for one in [*message.recipients]:
                if refusal is not None or not state.going_on:
                    break
                recipient = quote(one.original or one.address)
                response = await chain.rcpt([recipient], rejected=False)
                if told(response, "RCPT") is not None:
                    for words in (
                        "milter configuration error: can't reject recipient in non-smtpd(8) submission",
                        "message not accepted, try again later",
                    ):
                        self._how.log.warning(f"{message.queue_id}: {words}")
                    refusal = _MISUSED
            recipient = b""
            if refusal is None and state.going_on:
                refusal = told(await chain.data(), "DATA")
            if refusal is None and state.going_on:
                refusal = await screen(self._how, chain, message, envelope, state, _ORIGIN)
            return refusal
        finally:
            chain.quit()

    def _macros(self, message: Message) -> dict[str, bytes]:
        return {
            "{_}": f"{_NAME} [{_ADDRESS}]".encode(),
            "{j}": self._host,
            "{i}": message.queue_id.encode(),
            "{client_addr}": _ADDRESS.encode(),
            "{client_name}": _NAME.encode(),
            "{client_ptr}": _NAME.encode(),
            "{client_port}": b"0",
            "{daemon_addr}": _ADDRESS.encode(),
            "{daemon_port}": b"0",
        }


def local_milters(p: Parameters, reactor: Any, how: Screening) -> LocalMilters | None:
    """``non_smtpd_milters``, or None where there are none.  Raises ConfigError."""
    if "no_milters" in p.words("receive_override_options"):
        return None
    filters = read_filters(p, "non_smtpd_milters")
    if filters is None or not filters.configured:
        return None
    return LocalMilters(filters, reactor, how, p["myhostname"])


def milter_checks(p: Parameters, log: MailLog) -> Checks:
    """``milter_header_checks``."""
    return Checks(p, "milter_", log.warning, sisters=False)
