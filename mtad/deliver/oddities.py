"""What is strange about a server's replies, in Postfix's words.

:class:`Oddities` writes to the log what a session has noticed.  Nothing is raised.

Postfix counterpart: the warnings of ``smtp_chat_resp`` and ``smtp_helo``.
"""

from __future__ import annotations

from mtad.config.parameters import Parameters
from mtad.deliver.connection import Connection
from mtad.deliver.notices import PROTOCOL
from mtad.maillog import MailLog
from mtad.wire.server_reply import LINE_LIMIT, Oddity, shown


class Oddities:
    """Tells of the servers of one transport."""

    def __init__(self, p: Parameters, log: MailLog, lmtp: bool) -> None:
        self._log = log
        self._logs_in = p.flag("smtp_sasl_auth_enable")
        self._helpful = p.flag("helpful_warnings")
        self._kind = "LMTP" if lmtp else "ESMTP"
        self._parameter = ("lmtp_" if lmtp else "smtp_") + "discard_ehlo_keyword_address_maps"

    def tell(self, connection: Connection, queue_id: str) -> None:
        """Tell of what there is since the last time."""
        oddities = connection.session.oddities
        for oddity in oddities:
            self._tell(connection, queue_id, oddity)
        oddities.clear()

    def _tell(self, connection: Connection, queue_id: str, oddity: Oddity) -> None:
        log, host, text = self._log, connection.host, oddity.text
        match oddity.kind:
            case "long":
                log.warning(f"{host.relay}: response longer than {LINE_LIMIT}: {_first(text, 30)}...")
            case "many":
                log.warning(
                    f"{host.relay}: multi-line response longer than {LINE_LIMIT} {_first(text, 30)}..."
                )
            case "garbage" | "danger":
                connection.errors |= PROTOCOL
                if oddity.kind == "danger":
                    log.warning(
                        f"{queue_id}: non-{self._kind} response from {host.relay}: {_first(text, 100)}"
                    )
                    self._help(host.address)
            case "size":
                log.warning(f'bad EHLO SIZE limit "{text}" from {host.relay}')
            case "auth" if self._logs_in:
                log.warning(f"{host.relay} offered null AUTH mechanism list")
            case "8bitmime":
                log.info(f"host {host.pair} offers SMTPUTF8 support, but not 8BITMIME")

    def _help(self, address: str) -> None:
        if self._helpful:
            self._log.warning(
                "to prevent loss of mail, turn off command pipelining "
                f"for {address} with the {self._parameter} parameter"
            )


def _first(text: str, size: int) -> str:
    """The first bytes of a text."""
    return shown(text.encode()[:size])
