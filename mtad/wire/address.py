"""Envelope addresses: from what a client wrote to their internal form, and back.

Postfix reads the argument of MAIL FROM and RCPT TO by the rules of RFC 822: source routes are
dropped, comments and junk around the address are tolerated unless ``strict_rfc821_envelopes``, and
so is the lack of ``<>``.  The *internal form* has no quotes; :func:`quote` gives the form for the
wire (RFC 5321 section 4.1.2, RFC 6531 section 3.3).

Nothing here raises: :func:`parse_path` returns None for an address that Postfix would refuse.

Postfix counterpart: ``extract_addr`` in ``smtpd.c``, ``tok822_parse.c``, ``quote_821_local.c``,
``valid_hostname.c``, ``valid_mailhost_addr.c``.
"""

from __future__ import annotations

# by name, for the "idna" codec: once privileges are gone, modules may be out of reach
import encodings.idna
import encodings.punycode  # noqa: F401
import ipaddress
import re

from mtad.wire.events import NULL_ADDRESS, Address

_ATEXT = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_LABEL = rb"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_HOST = rb"(?=[0-9.]*[A-Za-z_-])(?:" + _LABEL + rb"\.)*" + _LABEL
# What nearly every client sends: no quotes, a host name for a domain.
_USUAL = re.compile(rb"<((%b+(?:\.%b+)*)@(%b))>" % (_ATEXT, _ATEXT, _HOST))
_HOSTNAME = re.compile(_HOST)
_DOT_STRING = re.compile(rb"[^\x00-\x20\x7f<>()\[\]\\,;:@\".]+(?:\.[^\x00-\x20\x7f<>()\[\]\\,;:@\".]+)*")

_SCAN = re.compile(
    rb"(?P<space>[ \t\r\n]+)"
    rb"|(?P<comment>\()"
    rb"|\[(?P<literal>(?:\\.|[^\\\]])*)(?:\]|\\?$)"
    rb'|"(?P<quoted>(?:\\.|[^\\"])*)(?:"|\\?$)'
    rb"|(?P<operator>[|%!)<>@,;:.\]])"
    rb"|(?P<atom>(?:\\.|[^|%!()<>@,;:\\\".\[\] \t\r\n])+)\\?"
    rb"|(?P<atom_end>\\)",
    re.DOTALL,
)
_COMMENT_PART = re.compile(rb"[^()\\]+|\\.?|[()]", re.DOTALL)
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_BLANK = bytes.maketrans(b"\t\r\n", b"   ")

_HOSTNAME_LIMIT = 255

# Token types; a single operator character is its own type.
_WORD, _LITERAL, _COMMENT, _ADDRESS = "word", "literal", "comment", "address"
_Token = tuple[str, bytes]


def valid_hostname(name: bytes) -> bool:
    """Letters, digits, ``-`` and ``_`` in dotted labels, and not all of it numeric."""
    return len(name) <= _HOSTNAME_LIMIT and _HOSTNAME.fullmatch(name) is not None


def valid_literal(text: bytes) -> bool:
    """An address literal with its brackets, ``[192.0.2.1]`` or ``[IPv6:2001:db8::1]``."""
    if not (text.startswith(b"[") and text.endswith(b"]")) or not text.isascii():
        return False
    address = text[1:-1].decode("ascii")
    try:
        if address[:5].lower() == "ipv6:":
            return "%" not in address and bool(ipaddress.IPv6Address(address[5:]))
        return bool(ipaddress.IPv4Address(address))
    except ValueError:
        return False


def _valid_domain(domain: bytes, smtputf8: bool) -> bool:
    if domain.startswith(b"["):
        return valid_literal(domain)
    if domain.endswith(b".") and not domain.endswith(b".."):
        domain = domain[:-1]
    if domain.isascii():
        return valid_hostname(domain)
    if not smtputf8:
        return False
    try:
        return valid_hostname(domain.decode("utf-8").encode("idna"))
    except UnicodeError:
        return False


def _routing_domain(address: Address) -> bytes | None:
    """The domain that the address is for, also in the forms ``site!user`` and ``user%domain``."""
    text = address.text
    if b"@" in text:
        bare = text.rstrip(b"@")
        return bare.rpartition(b"@")[2] if b"@" in bare else address.domain
    if address.wire != text:
        return None
    if b"!" in text:
        return text.partition(b"!")[0]
    return text.rpartition(b"%")[2] if b"%" in text else None


def quote(text: bytes) -> bytes:
    """The form for the wire of an internal form: the local part quoted where it must be."""
    at = text.rfind(b"@")
    local, domain = (text, b"") if at < 0 else (text[:at], text[at:])
    if _DOT_STRING.fullmatch(local):
        return text
    return b'"' + re.sub(rb'([\r\n"\\])', rb"\\\1", local) + b'"' + domain


def from_text(text: bytes) -> Address:
    """The address with this internal form; b"" is the null address."""
    if not text:
        return NULL_ADDRESS
    local, at, domain = text.rpartition(b"@")
    return Address(local, domain, text, quote(text)) if at else Address(text, b"", text, quote(text))


def _comment(text: bytes, at: int) -> int:
    """The index behind the comment whose ``(`` stands before ``at``; comments nest."""
    level = 1
    while level and (m := _COMMENT_PART.match(text, at)):
        at = m.end()
        level += {b"(": 1, b")": -1}.get(m.group(), 0)
    return at


def _scan(text: bytes) -> list[_Token]:
    tokens: list[_Token] = []
    at = 0
    while m := _SCAN.match(text, at):
        at, kind = m.end(), m.lastgroup
        value = m.group(kind) if kind else b""
        if kind == "comment":
            at = _comment(text, at)
            tokens.append((_COMMENT, b""))
        elif kind == "operator":
            tokens.append((value.decode("ascii"), value))
        elif kind == "literal":
            tokens.append((_LITERAL, b"[" + _ESCAPE.sub(rb"\1", value).translate(_BLANK) + b"]"))
        elif kind in ("quoted", "atom"):
            tokens.append((_WORD, _ESCAPE.sub(rb"\1", value).translate(_BLANK)))
        elif kind == "atom_end":
            tokens.append((_WORD, b""))
    return tokens


class _Parser:
    """Find the addresses among RFC 822 tokens, from right to left.

    ``pending`` holds the tokens that may become one address, ``found`` what is settled, both in
    reverse order.
    """

    def __init__(self) -> None:
        self.pending: list[bytes] = []
        self.found: list[_Token] = []

    def group(self, separate: bool = False) -> None:
        """The pending tokens are an address; ``separate`` adds the comma that was left out."""
        if self.pending:
            self.found.append((_ADDRESS, b"".join(reversed(self.pending))))
            self.pending.clear()
            if separate:
                self.found.append((",", b","))

    def parse(self, tokens: list[_Token]) -> list[_Token]:
        word_fits, in_group = True, False
        at = len(tokens) - 1
        while at >= 0:
            kind, value = tokens[at]
            at -= 1
            if kind == _COMMENT:
                self.found.append((kind, value))
            elif kind in (_WORD, _LITERAL):
                if not word_fits:
                    self.group(separate=True)
                word_fits = False
                self.pending.append(value)
            elif kind == ";":
                self.group(separate=True)
                self.found.append((kind, value))
                word_fits = in_group = True
            elif kind == ":" and in_group:
                self.group()
                self.found.append((kind, value))
                at = self._pass(tokens, at, ",")
            elif kind == ">":
                self.group(separate=True)
                self.found.append((kind, value))
                at = self._route(tokens, at)
                at = self._pass(tokens, at, ">;,:")
                if at >= 0 and tokens[at][0] == ":" and not in_group:
                    self.found.append(tokens[at])
                    at -= 1
                word_fits = True
            elif kind == ",":
                self.group()
                self.found.append((kind, value))
                word_fits = True
            else:
                self.pending.append(value)
                word_fits = True
        self.group()
        return self.found

    def _route(self, tokens: list[_Token], at: int) -> int:
        """Take what stands between ``<`` and ``>`` as one address."""
        while at >= 0 and tokens[at][0] != "<":
            if tokens[at][0] == _COMMENT:
                self.found.append(tokens[at])
            else:
                self.pending.append(tokens[at][1])
            at -= 1
        self.group()
        return at

    def _pass(self, tokens: list[_Token], at: int, stop: str) -> int:
        """Leave tokens alone up to one of ``stop``: they are no part of an address."""
        while at >= 0 and (len(tokens[at][0]) > 1 or tokens[at][0] not in stop):
            self.found.append(tokens[at])
            at -= 1
        return at


def parse_path(
    argument: bytes, *, allow_empty: bool = False, strict: bool = False, smtputf8: bool = False
) -> Address | None:
    """The address in the argument of MAIL FROM (``allow_empty``), RCPT TO or VRFY; None when bad.

    ``strict`` demands ``<>`` and nothing around it; ``smtputf8`` allows non-ASCII domains.
    """
    if (m := _USUAL.fullmatch(argument)) and len(m[3]) <= _HOSTNAME_LIMIT and argument[1] != 45:
        text, local, domain = m.groups()
        return Address(local, domain, text, text)
    if argument == b"<>":
        return NULL_ADDRESS if allow_empty else None
    text = argument
    if argument.startswith(b"<") and argument.endswith(b">"):
        text = argument[1:-1]
    if text.startswith(b"@") and b":" in text:  # a source route (RFC 5321 section 4.1.2)
        text = text.partition(b":")[2]
    addresses: list[bytes] = []
    junk = False
    for kind, value in _Parser().parse(_scan(text)):
        if kind == _ADDRESS:
            addresses.append(value)
        elif kind not in "<>":
            junk = True
    if len(addresses) > 1 or (strict and (junk or not argument.startswith(b"<"))):
        return None
    address = from_text(addresses[0] if addresses else b"")
    if not address.text:
        return NULL_ADDRESS if allow_empty else None
    if strict and address.text.startswith(b"@"):
        return None
    # What begins with "-" could be taken for an option by a delivery command (allow_min_user = no).
    if address.text.startswith(b"-"):
        return None
    domain = _routing_domain(address)
    return address if domain is None or _valid_domain(domain, smtputf8) else None
