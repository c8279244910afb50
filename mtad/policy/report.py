"""Log lines about a request: ``NOQUEUE: reject: RCPT from name[addr]: 554 5.7.1 ...; from=<s> ...``.

:func:`line` makes any of them (``reject``, ``reject_warning``, ``hold``, ``permit``, ``info`` ...),
:func:`reject_line` the one for a reply.  The text carries what is known: sender, recipient, protocol,
HELO name, login.  Nothing is raised; control characters become ``?``.

Postfix counterpart: ``log_whatsup()`` (3.10 and later: with the login), for lines about filters
``smtpd_whatsup()``.
"""

from __future__ import annotations

from mtad.maillog import printable
from mtad.policy.request import Request
from mtad.wire.events import Address
from mtad.wire.reply import Reply


def line(request: Request, what: str, text: str, where: str = "") -> str:
    """The line for ``MailLog.info``: ``what`` happened ``where`` (default: the request's state)."""
    return _line(request, what, text, where, _known(request) + login_text(request, " "))


def filter_line(request: Request, what: str, text: str, where: str) -> str:
    """The same of what a Milter said."""
    return _line(request, what, text, where, filter_known(request))


def filter_known(request: Request) -> str:
    """What lines about filters end with."""
    login = f" sasl_username=<{printable(request.sasl_username)}>" if request.sasl_username else ""
    return _known(request) + login


def _line(request: Request, what: str, text: str, where: str, known: str) -> str:
    where = where or request.command or request.state
    return f"{request.queue_id or 'NOQUEUE'}: {what}: {where} from {request.client}: {text};{known}"


def _known(request: Request) -> str:
    out = ""
    if request.sender is not None:
        out += f" from=<{_shown(request, request.sender)}>"
    if request.recipient is not None:
        out += f" to=<{_shown(request, request.recipient)}>"
    out += f" proto={request.protocol}"
    if request.helo:
        out += f" helo=<{printable(request.helo)}>"
    return out


def _shown(request: Request, address: Address) -> str:
    return printable(address.text if request.internal_addresses else address.wire)


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
