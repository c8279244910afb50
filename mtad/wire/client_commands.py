"""The commands of the sending side, and what the reply to EHLO offers.

Addresses are in internal form.  An address that cannot be sent raises ``ValueError``.

RFC 5321 section 4.1, RFC 1870, 3461, 6152, 6531.  Postfix counterpart: ``smtp_loop`` and ``smtp_helo`` in
``smtp_proto.c``; XFORWARD_README.
"""

from __future__ import annotations

import re

from mtad.wire.address import quote
from mtad.wire.client_events import ClientSettings, Envelope, EnvelopeRecipient, Extensions
from mtad.wire.command import utf8_xtext_encode, xtext_encode
from mtad.wire.server_reply import ServerReply

_BAD_DOMAIN = re.compile(rb"@[^@]*[<>\s][^@]*\Z")
#: NOTIFY's words in the order in which Postfix sends them.
_CONDITIONS = (b"NEVER", b"SUCCESS", b"FAILURE", b"DELAY")
#: The two XFORWARD commands: their stages, and what each tells.
_FORWARD = (
    ("sending XFORWARD name/address", (b"NAME", b"ADDR", b"PORT")),
    ("sending XFORWARD protocol/helo_name", (b"PROTO", b"HELO", b"IDENT", b"SOURCE")),
)
_NOTHING: frozenset[bytes] = frozenset()


def _path(settings: ClientSettings, address: bytes) -> bytes:
    if _BAD_DOMAIN.search(address):
        raise ValueError("a domain cannot hold blanks or angle brackets")
    return b"<" + (quote(address) if settings.quote_envelope and address else address) + b">"


def mail_command(settings: ClientSettings, offered: Extensions, envelope: Envelope) -> bytes:
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
    if offered.auth and settings.dummy_mail_auth:
        words.append(b"AUTH=<>")
    return b" ".join(words)


def rcpt_command(
    settings: ClientSettings, offered: Extensions, envelope: Envelope, recipient: EnvelopeRecipient
) -> bytes:
    """RCPT, the same."""
    command = b"RCPT TO:" + _path(settings, recipient.address)
    if not offered.dsn:
        return command
    orcpt = recipient.orcpt
    if not orcpt and recipient.original:
        original = quote(recipient.original)
        if envelope.smtputf8 and not original.isascii():
            orcpt = b"utf-8;" + utf8_xtext_encode(original)
        else:
            orcpt = b"rfc822;" + xtext_encode(original)
    if orcpt:
        command += b" ORCPT=" + orcpt
    if recipient.notify:
        command += b" NOTIFY=" + b",".join(word for word in _CONDITIONS if word in recipient.notify)
    return command


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


def offered_extensions(reply: ServerReply, discard: frozenset[str]) -> Extensions:
    """Read the reply to EHLO; ``AUTH=`` counts as ``AUTH`` (an old draft's form)."""
    found: dict[str, list[bytes]] = {}
    for line in reply.texts[1:]:
        words = line.replace(b"=", b" ", 1).split()
        if words:
            found.setdefault(words[0].decode("ascii", "replace").lower(), []).extend(words[1:])
    offered = found.keys() - discard
    limit = found["size"][0] if "size" in offered and found["size"] else b""
    mechanisms = found["auth"] if "auth" in offered else []
    return Extensions(
        pipelining="pipelining" in offered,
        size="size" in offered,
        size_limit=int(limit) if limit.isdigit() and len(limit) < 20 else 0,
        starttls="starttls" in offered,
        auth=tuple(dict.fromkeys(word.upper() for word in mechanisms)),
        dsn="dsn" in offered,
        # Who offers SMTPUTF8 must take 8-bit content, whether it says so or not.
        eightbitmime="8bitmime" in offered or "smtputf8" in offered,
        smtputf8="smtputf8" in offered,
        requiretls="requiretls" in offered,
        xforward=frozenset(word.upper() for word in found["xforward"]) if "xforward" in offered else _NOTHING,
    )
