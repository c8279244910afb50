"""Log lines about a request: ``NOQUEUE: reject: RCPT from name[addr]: 554 5.7.1 ...; from=<s> ...``.

:func:`line` makes any of them (``reject``, ``reject_warning``, ``hold``, ``permit``, ``info`` ...),
:func:`reject_line` the one for a reply.  The text carries what is known: sender, recipient, protocol,
HELO name, login: :func:`known`.  Nothing is raised; control characters become ``?``.

Postfix counterpart: ``log_whatsup()`` and ``smtpd_whatsup()`` (3.10 and later: with the login).
"""

from __future__ import annotations

from mtad.maillog import printable
from mtad.policy.request import Request
from mtad.wire.reply import Reply


def line(request: Request, what: str, text: str, where: str = "") -> str:
    """The line for ``MailLog.info``: ``what`` happened ``where`` (default: the request's state)."""
    where = where or request.command or request.state
    return f"{request.queue_id or 'NOQUEUE'}: {what}: {where} from {request.client}: {text};{known(request)}"


def known(request: Request) -> str:
    """What such lines end with."""
    out = ""
    if request.sender is not None:
        out += f" from=<{printable(request.sender.wire)}>"
    if request.recipient is not None:
        out += f" to=<{printable(request.recipient.wire)}>"
    out += f" proto={request.protocol}"
    if request.helo:
        out += f" helo=<{printable(request.helo)}>"
    return out + login_text(request, " ")


def login_text(request: Request, before: str) -> str:
    """Who has logged in and how, as far as there is anything to say, with ``before`` each of it."""
    out = ""
    if request.sasl_method:
        out += f"{before}sasl_method={request.sasl_method}"
    if request.sasl_username:
        out += f"{before}sasl_username={printable(request.sasl_username)}"
    if request.sasl_sender:
        out += f"{before}sasl_sender={request.sasl_sender}"
    return out


def reject_line(request: Request, where: str, reply: Reply) -> str:
    """The ``reject:`` line for ``reply``, given at ``where`` (``MAIL``, ``RCPT``, ``END-OF-MESSAGE`` ...)."""
    return line(request, "reject", printable(str(reply)), where)
