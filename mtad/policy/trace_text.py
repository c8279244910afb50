"""A step of an evaluation in words, for the maillog and for those who ask why.

:func:`restriction` is the restriction as it is written, :func:`found` what was found, :func:`outcome` what
the step came to; :func:`log_step` gives the function that writes each step of a request to the log.

Postfix counterpart: what ``smtpd -v`` logs of ``generic_checks()``.
"""

from __future__ import annotations

from mtad.maillog import MailLog, printable
from mtad.policy import report
from mtad.policy.check import DUNNO, OK
from mtad.policy.request import Request
from mtad.policy.trace import Match, Step, Trace


def restriction(step: Step) -> str:
    """``check_client_access hash:/etc/postfix/access``."""
    return " ".join((step.restriction, *step.arguments))


def found(match: Match) -> str:
    """``hash:/etc/postfix/access has 192.0.2 = REJECT``."""
    return f"{match.source} has {printable(match.key)} = {printable(match.value)}"


def outcome(step: Step) -> str:
    """``OK``, ``DUNNO``, the reply of a refusal, or what a later outcome will be made into."""
    if step.reply is not None:
        return printable(str(step.reply))
    if step.held is not None:
        held = step.held
        return f"held: {held.code} {printable(held.dsn)} {printable(held.text)}"
    return {DUNNO: "DUNNO", OK: "OK"}.get(step.status, "REJECT")


def log_step(request: Request, log: MailLog) -> Trace:
    """What writes each step as a line of the maillog, like those of refusals."""

    def write(step: Step) -> None:
        parts = [step.place or "(table)", restriction(step), *map(found, step.matches), outcome(step)]
        log.info(report.line(request, "trace", ": ".join(parts)))

    return write
