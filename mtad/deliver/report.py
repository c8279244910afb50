"""The log lines about deliveries: ``to=<...>, relay=..., delay=..., status=...``.

Times are floats (seconds); what is printed has two significant digits and at most
``delay_logging_resolution_limit`` digits behind the point, as in Postfix.  Nothing is raised.

Postfix counterpart: ``format_tv(3)``, ``log_adhoc(3)``, ``smtp_session(3)``'s ``namaddrport``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mtad.maillog import MailLog
from mtad.queue.message import Outcome
from mtad.wire.address import quote
from mtad.wire.logtext import logged

_MILLION = 1_000_000
#: Postfix's SIG_DIGS: more digits of a delay tell nothing.
_SIGNIFICANT = 100


def seconds(value: float, digits: int = 2) -> str:
    """``value`` as Postfix prints delays: ``0.02``, ``1.2``, ``12``, ``123``."""
    micros = max(0, round(value * _MILLION))
    unit = _MILLION // 10**digits
    if micros * 2 < unit:
        return "0"
    while unit < _MILLION and micros >= unit * _SIGNIFICANT:
        unit *= 10
    whole, rest = divmod((micros + unit // 2) // unit * unit, _MILLION)
    if not rest:
        return str(whole)
    return f"{whole}.{rest:06d}".rstrip("0")


def external(address: bytes) -> bytes:
    """An address as headers have it: quoted where it must be; the null address is empty."""
    return quote(address) if address else b""


@dataclass(slots=True)
class Stamps:
    """When what happened to a delivery, on the clock of the epoch; 0: it did not."""

    arrival: float  # the message came in
    active: float  # qmgr took it up
    begun: float = 0.0  # its delivery began
    connected: float = 0.0  # the session was ready
    done: float = 0.0

    def delays(self, digits: int) -> str:
        """``delay=TOTAL, delays=BEFORE/QUEUE/CONNECTION/TRANSMISSION``."""
        begun = self.begun or self.active
        connected = self.connected or begun
        parts = (
            self.active - self.arrival,
            begun - self.active,
            connected - begun,
            self.done - connected,
        )
        total = seconds(self.done - self.arrival, digits)
        return f"delay={total}, delays={'/'.join([seconds(part, digits) for part in parts])}"


def log_outcomes(
    log: MailLog,
    queue_id: str,
    outcomes: Iterable[Outcome],
    stamps: Stamps,
    digits: int,
    uses: int = 1,
    tls: str = "",
    probe: bool = False,
) -> None:
    """One line for each recipient.  ``uses``: how many messages this connection has carried.  ``probe``: it
    was only to see whether mail could be delivered."""
    conn_use = f", conn_use={uses}" if uses > 1 else ""
    middle = f"{conn_use}, {stamps.delays(digits)}, {tls}dsn="
    for outcome in outcomes:
        recipient = outcome.recipient
        address, original = recipient.address, recipient.original
        orig_to = ""
        if original and original != address and original.lower() != address.lower():
            orig_to = f" orig_to=<{logged(original, log)}>,"
        status = outcome.status
        if probe:
            status = "deliverable" if status == "sent" else "undeliverable"
        log.info(
            f"{queue_id}: to=<{logged(address, log)}>,{orig_to} relay={outcome.relay}{middle}"
            f"{outcome.dsn}, status={status} ({outcome.reason})"
        )
