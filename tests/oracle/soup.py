# ruff: noqa: E501  (tables of messages are clearer with whole lines)
"""Random mail: envelopes and content as people, programs and their enemies make them.

:func:`mail` makes a :class:`Mail` from a :class:`random.Random`; the same state always makes the same.  Words
that tables of :mod:`oracle.fuzz_intake` know are common.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Rand = random.Random


@dataclass(frozen=True)
class Mail:
    """What is said: MAIL and RCPT lines without their verbs, the content, and by which command it comes
    (``chunks``: sizes for BDAT; none: DATA)."""

    sender: str
    recipients: Sequence[str]
    content: bytes
    chunks: Sequence[int]


def _some(r: Rand, words: Sequence[str], weights: Sequence[float] | None = None) -> str:
    return r.choices(words, weights)[0]


# -- addresses

_USERS = [
    "alice",
    "bob",
    "carol",
    "root",
    "list",
    "one",
    "two",
    "self",
    "ab",
    "big",
    "c1",
    "x",
    "postmaster",
    "MAILER-DAEMON",
    "Alice",
    "BOB",
]
_ODD_USERS = (
    "a.b", "a..b", ".a", "a.", '"a b"', '"a@b"', '"a\\"b"', '""', "a\\ b", "host!bob", "a!b!c", "bob%host",
    "a%b%c", "a!b%c", "list-x", "bob+ext", "list+a+b", "+x", "owner-list", "ü", "gr\u00fcn", "a'b", "x" * 70, "=?q?=",
    '"a.b"', 'a."b"', "a b", "(c)bob", "bob(c)", "a,b", "@", "@a", "", "|x", "/etc/x", ":include:/x", "a\tb", "#1",
)  # fmt: skip
_DOMAINS = (
    "example.com", "example.net", "EXAMPLE.Com", "cat.example", "old.example", "chain.example", "a.example.com",
    "b.a.example.com", "keep.example.com", "host", "dom.example", "example.org", "other.example", "bounce.example",
)  # fmt: skip
_ODD_DOMAINS = (
    "[192.0.2.1]", "[IPv6:::1]", "192.0.2.1", "host.", "host..", ".", "", "a..b", ".x.example", "-x", "x_y.example",
    "gr\u00fcn.example", "host . example", "host(c).example", "[x", "x]", "a@b.example", "x" * 80 + ".example",
    "mail.example.com", "h\\ost", "\"host\"", "host,", "xn--grn-hoa.example", "-", "a.example.com.",
)  # fmt: skip


def bare(r: Rand, odd: float = 0.3) -> str:
    """``user@domain``, more or less."""
    user = _some(r, _ODD_USERS if r.random() < odd else _USERS)
    if r.random() < 0.15:
        user += _some(r, ("+ext", "+", "+a+b"))
    if r.random() < 0.15:
        return user
    domain = _some(r, _ODD_DOMAINS if r.random() < odd / 2 else _DOMAINS)
    if "!" in user and not domain:
        domain = "x.example"  # such an address is refused here, and Postfix finds a domain in it
    return f"{user}@{domain}"


_NAMES = (
    "Bob", "Bob B", "Bob B.", '"B, Bob"', '"Bob \\"B\\""', "=?utf-8?q?gr=C3=BCn?=", "gr\u00fcn", "a@b", "Bob (the)", "",
    '"unfinished', "B\u00f6b <x>", "bob:", "a;b", "[x]", "Bob\\", "\\Bob", "x" * 90, "'Bob'", "Bob,", "Bob\n B", "!x%y",
    "bob@example.com", "Bob.B.", "..", "\"\"", "Bob \"B\" B", "\x01",
)  # fmt: skip
_COMMENTS = (
    "(c)",
    "(a (nested) one)",
    "(unfinished",
    "(\\))",
    "()",
    "(" + "y" * 280 + ")",
    "(gr\u00fcn)",
    "(a\n b)",
)


def _address(r: Rand) -> str:
    """One of a header."""
    address = bare(r)
    form = r.randrange(12)
    if form < 4:
        text = address
    elif form < 8:
        text = f"{_some(r, _NAMES)}{_some(r, (' ', '', '  '))}<{address}>"
    elif form == 8:
        text = f"{address} {_some(r, _COMMENTS)}"
    elif form == 9:
        text = f"<@{_some(r, _DOMAINS)},@b:{address}>"
    elif form == 10:
        text = _some(
            r,
            (
                "<>",
                "<",
                ">",
                "<bob@host",
                "bob@host>",
                "@",
                "@a:bob",
                ";",
                ":",
                "<<bob>>",
                "<bob> x",
                "a b c",
            ),
        )
    else:
        text = f"{_some(r, _NAMES)} {_some(r, _COMMENTS)} <{address}> {_some(r, _COMMENTS)}"
    return text


def addresses(r: Rand) -> str:
    """The value of a header."""
    if r.random() < 0.05:
        many = r.choice((30, 120))
        return ", ".join(f"user{n}@{_some(r, _DOMAINS)}" for n in range(many))
    count = r.choice((0, 1, 1, 1, 2, 2, 3, 6))
    separator = _some(r, (", ", ",", ",\n ", ",\n\t", " ,", ", ,", " ", "; "), (9, 4, 4, 2, 1, 1, 1, 1))
    text = separator.join(_address(r) for _ in range(count))
    if r.random() < 0.12:
        text = f"{_some(r, ('friends', 'a b', '', chr(34) + 'g' + chr(34)))}: {text}{_some(r, (';', ';', '', '; x@y'))}"
    return text


# -- headers

_ABOUT_ADDRESSES = (
    "From", "From", "To", "To", "To", "Cc", "Bcc", "Reply-To", "Sender", "Errors-To", "Resent-To", "Resent-From",
    "Resent-Cc", "Resent-Bcc", "Resent-Sender", "Resent-Reply-To", "Return-Path", "Return-Receipt-To",
    "Disposition-Notification-To", "Mail-Followup-To", "Apparently-To", "X-To", "In-Reply-To", "Delivered-To",
)  # fmt: skip
_PLAIN = (
    "Subject", "Subject", "Subject", "Date", "Message-Id", "Resent-Date", "Resent-Message-Id", "Received", "X-Foo",
    "X-Warn", "X-Ignore", "X-Prepend", "X-Replace", "X-Replace-To", "X-Info", "X-Strip", "X-Bcc", "X-Pass", "X-Unknown",
    "X-Filter", "X-Redirect", "X-Folded", "Content-Length", "MIME-Version", "Content-Description", "Content-Id", "X-Part",
    "List-Id", "X-Prepend-Bad", "X-Replace-None", "DKIM-Signature", "Content-Disposition", "X-Replace-From", "X-Dunno",
)  # fmt: skip
_RARE = ("X-Reject", "X-Reject-Why", "X-Reject-Later", "X-Hold", "X-Discard")
_ODD_NAMES = (
    "X:",
    "X Y",
    "gr\u00fcn",
    "X\u00fc",
    "",
    "X-\tFoo",
    ">From x",
    "From x",
    "x" * 300,
    "X!#$",
    "7",
    "X-(c)",
    "-",
)
_VALUES = (
    "x", "hello world", "", " ", "gr\u00fcn", "=?utf-8?q?x?=", "a\tb", "<a@b>", "<a<b>@c>", "<unfinished", "a\n b", "a\n\tb\n c",
    "a\n \n b", "a\n  ", "x" * 200, "x" * 1100, "\n folded", "\n\tfolded", "a:b", "a\0b", "a\x07b\x7f", "y" * 80 + "\n " + "z" * 900,
    "Mon, 1 Jan 2024 00:00:00 +0000", "<id@example.com>", "<id@example.com> (c)", "123", "1.0", "a \n b \n", "a\rb", "second\n third",
)  # fmt: skip


def _header(r: Rand) -> str:
    kind = r.random()
    if kind < 0.45:
        name, value = _some(r, _ABOUT_ADDRESSES), addresses(r)
    elif kind < 0.9:
        name, value = _some(r, _RARE if r.random() < 0.03 else _PLAIN), _some(r, _VALUES)
        if r.random() < 0.03:
            value = "".join(f"{'y' * r.choice((20, 60, 100))}\n " for _ in range(r.choice((10, 60)))) + "end"
    elif kind < 0.95:
        name, value = _some(r, _ODD_NAMES), _some(r, _VALUES)
    else:
        return _some(
            r, ("no header", "", " indented", ":", "X-NoColon", "\tx: y", "X-Y :z", "a b: c", "X-Y\t: z")
        )
    if r.random() < 0.15:
        name = r.choice((str.upper, str.lower, str.swapcase))(name)
    return name + _some(r, (": ", ":", " : ", ":  ", ":\t", ":\n "), (20, 3, 1, 1, 1, 1)) + value


_ENCODINGS = (
    "7bit",
    "8bit",
    "binary",
    "quoted-printable",
    "base64",
    "8BIT",
    "8bit ",
    "uuencode",
    "8bit (c)",
    '"8bit"',
    "",
)


def _encoding(r: Rand) -> str:
    return f"Content-Transfer-Encoding: {_some(r, _ENCODINGS)}\n"


def _content_type(r: Rand) -> str:
    return "Content-Type: " + _some(
        r,
        (
            "text/plain", "text/plain; charset=utf-8", "text/html", "application/octet-stream", "text", "TEXT/Plain",
            'application/x; name="a.exe"', "message/partial", "message/external-body", "x", "", "text / plain", "text/evil",
            "(c) text/plain", "image/png;\n name=x", "message/delivery-status", "text/plain;",
        ),
    ) + "\n"  # fmt: skip


# -- bodies

_WORDS = (
    "warn",
    "ignore",
    "strip",
    "prepend",
    "replace this",
    "unknown",
    "bcc",
    "pass",
    "before last",
    "text",
)
_RARE_WORDS = ("reject", "later", "hold", "discard", "redirect", "filter")
_LINES = (
    "Hello.", "", "", "From: alice", "From here", ">From there", ".", "..", ".x", " ", "\t", "-- ", "--", "gr\u00fcn", "a\0b", "a\rb",
    "\r", "x" * 998, "x" * 2100, "warn" + "x" * 3000, "--x", "--y", "--x--", "=", "=20", "a\x1bb", "x" * 2047, "y" * 2048, "\ufffd",
    "Subject: x", "Content-Type: text/plain", "begin 644 x", "0123456789",
)  # fmt: skip


def _line(r: Rand) -> str:
    kind = r.random()
    return _some(r, _WORDS if kind < 0.3 else _RARE_WORDS if kind < 0.31 else _LINES)


def _lines(r: Rand) -> str:
    count = r.choice((0, 1, 1, 2, 4, 8))
    text = "".join(_line(r) + "\n" for _ in range(count))
    return text * (r.choice((5, 40)) if r.random() < 0.05 else 1)


_BOUNDARIES = ("x", "y", "xy", "x-y", "=_b1", "b" * 45, "x y", 'x\\"y', "0")


def _multipart(r: Rand, depth: int) -> str:
    boundary = _some(r, _BOUNDARIES)
    kind = _some(r, ("mixed", "alternative", "digest", "related", "report"))
    shown = f'"{boundary}"' if r.random() < 0.6 or " " in boundary else boundary
    parameter = _some(
        r,
        (
            f"; boundary={shown}", f";\n boundary={shown}", f"; charset=x; boundary={shown}", f"; BOUNDARY={shown}",
            f" (c); boundary={shown} (d)", f"; boundary = {shown}", f"; boundary={shown}; boundary=z", "", ";boundary",
            f"; xboundary={shown}", f"; boundary={shown};",
        ),
        (9, 6, 2, 1, 1, 1, 1, 1, 1, 1, 1),
    )  # fmt: skip
    text = f"Content-Type: multipart/{kind}{parameter}\n"
    if r.random() < 0.25:
        text += _encoding(r)
    text += _more_headers(r) + "\n" + _lines(r)
    boundary = boundary.replace("\\", "")
    for _ in range(r.choice((0, 1, 2, 2, 3))):
        text += f"--{boundary}{_some(r, ('', ' ', 'z', '-'), (12, 1, 1, 1))}\n" + _entity(r, depth - 1)
    end = r.random()
    if end < 0.8:
        text += f"--{boundary}--\n" + _lines(r)
    return text


def _more_headers(r: Rand) -> str:
    return "".join(_header(r) + "\n" for _ in range(r.choice((0, 0, 0, 1, 2))))


def _entity(r: Rand, depth: int) -> str:
    """A part: its headers and its body."""
    kind = r.random()
    if depth > 0 and kind < 0.3:
        return _multipart(r, depth)
    if depth > 0 and kind < 0.45:
        word = _some(r, ("message/rfc822", "message/global", "MESSAGE/RFC822", "message/news"))
        text = (
            f"Content-Type: {word}\n" + (_encoding(r) if r.random() < 0.3 else "") + _more_headers(r) + "\n"
        )
        return text + "".join(_header(r) + "\n" for _ in range(r.randrange(4))) + _entity(r, depth - 1)
    text = _content_type(r) if r.random() < 0.6 else ""
    text += _encoding(r) if r.random() < 0.4 else ""
    text += _more_headers(r)
    if r.random() < 0.93:
        text += "\n"
    return text + _lines(r)


def _content(r: Rand) -> str:
    text = ""
    if r.random() < 0.05:
        text = _some(
            r,
            (
                "From alice Mon Jan 1\nX-First: y\n",  # of more such lines 3.11 takes the first only
                ">>From bob x\nX-First: y\n",
                " indented first\n",
                "\n",
                ">From",
            ),
        )
    headers = "".join(_header(r) + "\n" for _ in range(r.choice((0, 1, 2, 3, 4, 6, 10))))
    text += "X-First: y\n" * headers.lstrip(">").startswith("From ") + headers
    if r.random() < 0.03:
        text += "Received: by nobody\n" * r.randrange(1, 7)
    if r.random() < 0.5:
        return text + _entity(r, r.choice((1, 2, 3, 5)))
    if r.random() < 0.9:
        text += "\n"
    return text + _lines(r)


_LINE_ENDS: Sequence[Callable[[bytes], bytes]] = (
    lambda text: text.replace(b"\n", b"\r\n"),
    lambda text: text,  # bare
    lambda text: text.replace(b"\n", b"\r\n", 3),
    lambda text: text.replace(b"\n", b"\r\r\n"),
)


# -- envelopes


def _path(r: Rand, odd: float) -> str:
    address = bare(r, odd) if r.random() > 0.03 else f"@a,@b:{bare(r, odd)}"
    return f"<{address}>" if r.random() < 0.95 else address


def _sender(r: Rand, content: bytes) -> str:
    path = "<>" if r.random() < 0.1 else _path(r, 0.15)
    for word, chance in (("BODY=8BITMIME", 0.25), ("SMTPUTF8", 0.15), ("RET=HDRS", 0.05), ("ENVID=e+2Bx", 0.05), ("SIZE=100", 0.1)):  # fmt: skip
        if r.random() < chance or (word == "SMTPUTF8" and not path.isascii() and r.random() < 0.8):
            path += " " + word
    return path


def _recipient(r: Rand) -> str:
    path = _path(r, 0.2)
    if r.random() < 0.12:
        path += " NOTIFY=" + _some(r, ("NEVER", "FAILURE", "FAILURE,DELAY", "DELAY"))
    if r.random() < 0.08:
        path += " ORCPT=rfc822;" + _some(r, ("x@y.example", "a+2Bb@example.com", "BOB@example.net"))
    return path


def mail(r: Rand) -> Mail:
    """A mail."""
    text = _content(r)
    encoding = "latin-1" if r.random() < 0.1 else "utf-8"
    content = r.choices(_LINE_ENDS, (30, 2, 1, 1))[0](text.encode(encoding, "replace"))
    if content.startswith(b"\r\r"):
        content = content[1:]  # Postfix takes a line of one CR for a part of its own header
    if r.random() < 0.05:
        content = content.rstrip(b"\r\n")
    recipients = tuple(_recipient(r) for _ in range(r.choice((1, 1, 1, 2, 3, 5))))
    chunks: tuple[int, ...] = ()
    if r.random() < 0.2 and content[:1] not in (
        b" ",
        b"\t",
        b"\r",
    ):  # Postfix makes these part of its own header
        chunks = tuple(r.choice((1, 2, 10, 100, 1000, len(content))) for _ in range(r.choice((1, 2, 5))))
    return Mail(_sender(r, content), recipients, content, chunks)
