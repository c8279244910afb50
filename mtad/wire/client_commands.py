"""The commands of the sending side, and what the reply to EHLO offers.

Addresses are in internal form.  An address that cannot be sent raises ``ValueError``.

RFC 5321 section 4.1, RFC 1870, 3461, 6152, 6531.  Postfix counterpart: ``smtp_loop`` and ``smtp_helo`` in
``smtp_proto.c``; XFORWARD_README.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from mtad.wire.address import quote
from mtad.wire.client_events import ClientSettings, Envelope, EnvelopeRecipient, Extensions
from mtad.wire.command import (
    orcpt_of,
    utf8_xtext_decode,
    utf8_xtext_encode,
    xtext_decode,
    xtext_encode,
)
from mtad.wire.server_reply import Oddity, ServerReply, shown

_BAD_DOMAIN = re.compile(rb"@[^@]*[<>\s][^@]*\Z")
#: A line of the reply to EHLO: a keyword, and what follows it.
_KEYWORD = re.compile(rb"[- ]*[^- ]+[- ][ =]*([^ =]+)[ =]?(.*)", re.DOTALL)
#: NOTIFY's words in the order in which Postfix sends them.
_CONDITIONS = (b"NEVER", b"SUCCESS", b"FAILURE", b"DELAY")
#: The two XFORWARD commands: their stages, and what each tells.
_FORWARD = (
    ("sending XFORWARD name/address", (b"NAME", b"ADDR", b"PORT")),
    ("sending XFORWARD protocol/helo_name", (b"PROTO", b"HELO", b"IDENT", b"SOURCE")),
)


def _path(settings: ClientSettings, address: bytes) -> bytes:
    if _BAD_DOMAIN.search(address):
        raise ValueError("a domain cannot hold blanks or angle brackets")
    return b"<" + (quote(address) if settings.quote_envelope and address else address) + b">"


def mail_command(
    settings: ClientSettings, offered: Extensions, envelope: Envelope, authenticated: bool
) -> bytes:
    """MAIL, with what the server takes of its parameters."""
    words = [b"MAIL FROM:" + _path(settings, envelope.sender)]
    if offered.size and envelope.size:
        words.append(b"SIZE=%d" % envelope.size)
    if offered.eightbitmime and envelope.body:
        words.append(b"BODY=" + envelope.body)
    if offered.dsn and envelope.envid:
        words.append(b"ENVID=" + envelope.envid)
    if offered.dsn and envelope.ret:
        words.append(b"RET=" + envelope.ret)
    if offered.smtputf8 and envelope.smtputf8:
        words.append(b"SMTPUTF8")
    if offered.requiretls and envelope.requiretls:
        words.append(b"REQUIRETLS")
    if authenticated and settings.dummy_mail_auth:
        words.append(b"AUTH=<>")
    return b" ".join(words)


def rcpt_command(
    settings: ClientSettings, offered: Extensions, envelope: Envelope, recipient: EnvelopeRecipient
) -> bytes:
    """RCPT, the same."""
    command = b"RCPT TO:" + _path(settings, recipient.address)
    if not offered.dsn:
        return command
    orcpt = _again(recipient.orcpt)
    if not orcpt and recipient.original:
        orcpt = orcpt_of(quote(recipient.original), envelope.smtputf8)
    if orcpt:
        command += b" ORCPT=" + orcpt
    if recipient.notify:
        command += b" NOTIFY=" + b",".join(word for word in _CONDITIONS if word in recipient.notify)
    return command


def _again(orcpt: bytes) -> bytes:
    """An ORCPT in the form that its type asks for: its client may have been careless."""
    kind, semicolon, address = orcpt.partition(b";")
    if not semicolon:
        return orcpt
    if kind.lower() == b"utf-8":
        plain, encode = utf8_xtext_decode(address), utf8_xtext_encode
    else:
        plain, encode = xtext_decode(address), xtext_encode
    return orcpt if plain is None else kind + b";" + encode(plain)


def forward_commands(offered: Extensions, envelope: Envelope) -> list[tuple[bytes, str]]:
    """XFORWARD, in two commands with their stages, each as far as the server takes what there is to say."""
    commands: list[tuple[bytes, str]] = []
    if not offered.xforward or not envelope.forward:
        return commands
    for stage, names in _FORWARD:
        said = [
            name + b"=" + xtext_encode(value)
            for name, value in envelope.forward
            if name in names and name in offered.xforward
        ]
        if said:
            commands.append((b" ".join([b"XFORWARD", *said]), stage))
    return commands


def offered_extensions(reply: ServerReply, discard: frozenset[str], oddities: list[Oddity]) -> Extensions:
    """Read the reply to EHLO; ``AUTH=`` counts as ``AUTH`` (an old draft's form).

    The first word of all is the server's name, whatever line it is on.
    """
    keywords = [m for line in reply.lines if (m := _KEYWORD.match(line)) is not None]
    found: dict[str, list[bytes]] = {}
    for keyword in keywords[1:]:
        found.setdefault(keyword[1].decode("ascii", "replace").lower(), []).append(keyword[2])
    offered = found.keys() - discard
    lists = [text.strip() for text in found["auth"]] if "auth" in offered else []
    if lists and not lists[0]:
        oddities.append(Oddity("auth", ""))
    if "smtputf8" in offered and "8bitmime" not in offered:
        oddities.append(Oddity("8bitmime", ""))
    forward = b" ".join(found["xforward"]).upper().split() if "xforward" in offered else ()
    return Extensions(
        pipelining="pipelining" in offered,
        size="size" in offered,
        size_limit=_limit(found["size"], oddities) if "size" in offered else 0,
        starttls="starttls" in offered,
        login="auth" in offered,
        auth=tuple(dict.fromkeys(b" ".join(lists).upper().split())),
        dsn="dsn" in offered,
        # Who offers SMTPUTF8 must take 8-bit content, whether it says so or not.
        eightbitmime="8bitmime" in offered or "smtputf8" in offered,
        smtputf8="smtputf8" in offered,
        requiretls="requiretls" in offered,
        xforward=frozenset(forward),
    )


def _limit(texts: Iterable[bytes], oddities: list[Oddity]) -> int:
    """The limit that SIZE tells, 0 where it tells none; of several it is the last."""
    limit = 0
    for text in texts:
        word = b"".join(text.split(maxsplit=1)[:1])
        if word.isdigit():
            limit = int(word) if len(word) < 19 else 0
        elif word:
            oddities.append(Oddity("size", shown(word)))
    return limit
