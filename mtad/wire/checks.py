"""Commands outside of mail transactions: their syntax, and when they may be said.

Each function gives the event for the shell, or a :class:`~mtad.wire.events.Refused`, with Postfix's
checks in Postfix's order and with its words.  RFC 5321 section 4.1.1, RFC 1985 (ETRN), 3207
(STARTTLS), 4954 (AUTH).  Postfix counterpart: ``helo_cmd``, ``starttls_cmd``, ``vrfy_cmd``,
``etrn_cmd`` in ``smtpd.c``; ``smtpd_sasl_proto.c``.
"""

from __future__ import annotations

from mtad.wire.address import parse_path, valid_hostname, valid_literal
from mtad.wire.command import split
from mtad.wire.events import Auth, Etrn, Helo, Refused, Rset, StartTLS, Vrfy
from mtad.wire.logtext import printable
from mtad.wire.reply import Reply
from mtad.wire.settings import ServerSettings

UNDECLARED = b"Must declare SMTPUTF8 to send unicode address"
IN_TRANSACTION = b"Error: MAIL transaction in progress"
NO_HELO = b"Error: send HELO/EHLO first"
BAD_SENDER = Reply(501, b"Bad sender address syntax", b"5.1.7")
BAD_RECIPIENT = Reply(501, b"Bad recipient address syntax", b"5.1.3")


def refuse(verb: bytes, line: bytes, code: int, dsn: bytes, text: bytes) -> Refused:
    """A refusal with nothing to log."""
    return Refused(Reply(code, text, dsn), verb, line)


def bad_sender(line: bytes, argument: bytes, client: str) -> Refused:
    """The refusal of a sender address that cannot be read."""
    return Refused(BAD_SENDER, b"MAIL", line, illegal(b"MAIL", argument, client))


def bad_recipient(verb: bytes, line: bytes, argument: bytes, client: str) -> Refused:
    """The refusal of a recipient address that cannot be read."""
    return Refused(BAD_RECIPIENT, verb, line, illegal(verb, argument, client))


def illegal(verb: bytes, argument: bytes, client: str) -> str:
    """The warning about an address that cannot be read."""
    return f"Illegal address syntax from {client} in {verb.decode('ascii')} command: {printable(argument)}"


def hello(verb: bytes, line: bytes, rest: bytes) -> Helo | Refused:
    """HELO and EHLO."""
    words, _ = split(rest)
    if not words:
        return refuse(verb, line, 501, b"", b"Syntax: " + verb + b" hostname")
    return Helo(words[0] if len(words) == 1 else b" ".join(words), verb == b"EHLO")


def starttls(settings: ServerSettings, line: bytes, rest: bytes, tls: bool) -> StartTLS | Refused:
    """STARTTLS."""
    if rest and split(rest)[0]:
        return refuse(b"STARTTLS", line, 501, b"5.5.4", b"Syntax: STARTTLS")
    if tls:
        return refuse(b"STARTTLS", line, 554, b"5.5.1", b"Error: TLS already active")
    if not settings.tls_offered or settings.discards("starttls"):
        return refuse(b"STARTTLS", line, 502, b"5.5.1", b"Error: command not implemented")
    return StartTLS()


def auth(
    settings: ServerSettings, line: bytes, rest: bytes, *, tls: bool, helo: bool, busy: bool, done: bool
) -> Auth | Refused:
    """AUTH; ``busy``: within a transaction, ``done``: authenticated already."""
    enabled = settings.auth_enabled and (tls or not settings.auth_tls_only)
    if settings.helo_required and not helo:
        return refuse(b"AUTH", line, 503, b"5.5.1", NO_HELO)
    if not enabled or settings.discards("auth"):
        return refuse(b"AUTH", line, 503, b"5.5.1", b"Error: authentication not enabled")
    if busy:
        return refuse(b"AUTH", line, 503, b"5.5.1", IN_TRANSACTION)
    if done:
        return refuse(b"AUTH", line, 503, b"5.5.1", b"Error: already authenticated")
    words, _ = split(rest)
    if not 1 <= len(words) <= 2:
        return refuse(b"AUTH", line, 501, b"5.5.4", b"Syntax: AUTH mechanism")
    return Auth(words[0], words[1] if len(words) == 2 else None)


def rset(line: bytes, rest: bytes) -> Rset | Refused:
    """RSET."""
    if rest and split(rest)[0]:
        return refuse(b"RSET", line, 501, b"5.5.4", b"Syntax: RSET")
    return Rset()


def vrfy(settings: ServerSettings, line: bytes, rest: bytes, client: str) -> Vrfy | Refused:
    """VRFY."""
    if settings.disable_vrfy:
        return refuse(b"VRFY", line, 502, b"5.5.1", b"VRFY command is disabled")
    words, _ = split(rest)
    utf8 = settings.smtputf8 and not settings.discards("smtputf8")
    utf8 = utf8 and bool(words) and words[-1].upper() == b"SMTPUTF8"
    if utf8:
        words.pop()
    if not words:
        text = b"Syntax: VRFY address" + (b" [SMTPUTF8]" if settings.smtputf8 else b"")
        return refuse(b"VRFY", line, 501, b"5.5.4", text)
    argument = b" ".join(words)
    recipient = parse_path(argument, smtputf8=utf8)
    if recipient is None:
        return bad_recipient(b"VRFY", line, argument, client)
    if settings.strict_smtputf8 and not utf8 and not recipient.text.isascii():
        return refuse(b"VRFY", line, 553, b"5.6.7", UNDECLARED)
    return Vrfy(recipient, line, argument)


def etrn(settings: ServerSettings, line: bytes, rest: bytes, *, helo: bool, busy: bool) -> Etrn | Refused:
    """ETRN; ``busy``: within a transaction."""
    if settings.helo_required and not helo:
        return refuse(b"ETRN", line, 503, b"", NO_HELO)
    if busy:
        return refuse(b"ETRN", line, 503, b"", IN_TRANSACTION)
    words, _ = split(rest)
    if len(words) != 1:
        return refuse(b"ETRN", line, 500, b"", b"Syntax: ETRN domain")
    domain = words[0][1:] if words[0][:1] in (b"@", b"#") else words[0]
    if not valid_hostname(domain) and not valid_literal(domain):
        return refuse(b"ETRN", line, 501, b"", b"Error: invalid parameter syntax")
    return Etrn(domain)
