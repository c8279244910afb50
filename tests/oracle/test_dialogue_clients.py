"""What is granted to some clients: XCLIENT, XFORWARD, XVERP, keywords; and the PROXY protocol."""

from __future__ import annotations

import socket
import struct

from oracle.dialogue import (
    HELLO,
    MAIL,
    RCPT,
    TEXT,
    Body,
    Config,
    Dialogue,
    End,
    Hang,
    Houses,
    Send,
    Tls,
    at,
    each,
    plain,
)

ALL = (
    "XCLIENT NAME=spike.example ADDR=192.0.2.7 PORT=4711 HELO=h.example PROTO=ESMTP LOGIN=joe"
    " DESTADDR=198.51.100.2 DESTPORT=587 REVERSE_NAME=rev.example"
)
REST = [MAIL, RCPT, "DATA", Body(TEXT)]
REFUSE = "check_client_access texthash:{dir}/refused, check_helo_access texthash:{dir}/refused"

NOBODY = {
    "smtpd_authorized_xclient_hosts": "",
    "smtpd_authorized_xforward_hosts": "",
    "smtpd_authorized_verp_clients": "",
}
PROXIED = {
    "smtpd_upstream_proxy_protocol": "haproxy",
    "mynetworks": "192.0.2.0/24",
    "smtpd_tls_security_level": "",
    "smtpd_sasl_auth_enable": "no",
    **NOBODY,
}
KEYWORDS = {
    "smtpd_discard_ehlo_keyword_address_maps": "cidr:{dir}/keywords",
    "smtpd_discard_ehlo_keywords": "etrn",
    **NOBODY,
}

SPEAKERS = Config(
    "speakers",
    {
        "smtpd_authorized_xclient_hosts": "127.0.0.1",
        "smtpd_authorized_xforward_hosts": "127.0.0.1",
        "smtpd_authorized_verp_clients": "127.0.0.1",
        "smtpd_recipient_restrictions": f"{REFUSE}, permit",
        "smtpd_sasl_auth_enable": "yes",
        "smtpd_sasl_local_domain": "example.com",
        "smtpd_tls_security_level": "may",
        "inet_protocols": "all",
    },
    services=(
        ("submission", {}),
        ("at once", {"smtpd_delay_reject": "no", "smtpd_client_restrictions": REFUSE}),
        ("ports", {"smtpd_client_port_logging": "yes"}),
        ("strangers", {"smtpd_authorized_xclient_hosts": "192.0.2.0/24, spike.example"}),
        ("nobody", {"smtpd_authorized_xclient_hosts": "!127.0.0.1, 0.0.0.0/0"}),
        ("silent", {"smtpd_discard_ehlo_keywords": "xclient, xforward, verp, silent-discard"}),
        ("delimiters", {"default_verp_delimiters": "-=", "verp_delimiter_filter": "-="}),
        ("no verp", {"smtpd_authorized_verp_clients": ""}),
        ("four", {"inet_protocols": "ipv4"}),
        ("counted", {"smtpd_client_message_rate_limit": "1"}),
        ("proxied", PROXIED),
        ("proxied tls", {**PROXIED, "smtpd_tls_wrappermode": "yes"}),
        ("proxied at once", {**PROXIED, "smtpd_delay_reject": "no", "smtpd_client_restrictions": REFUSE}),
        ("proxied ports", {**PROXIED, "smtpd_client_port_logging": "yes", "smtpd_peername_lookup": "no"}),
        ("proxied in haste", {**PROXIED, "smtpd_upstream_proxy_timeout": "1s"}),
        ("keywords", KEYWORDS),
        (
            "keywords of others",
            {**KEYWORDS, "smtpd_discard_ehlo_keyword_address_maps": "inline:{192.0.2.1=dsn}"},
        ),
        ("keywords by xclient", {**KEYWORDS, "smtpd_authorized_xclient_hosts": "127.0.0.1"}),
        (
            "odd keywords",
            {**KEYWORDS, "smtpd_discard_ehlo_keyword_address_maps": "static:{DSN,8bitmime chunking}"},
        ),
    ),
    files={
        "keywords": "127.0.0.1 dsn, pipelining smtputf8\n192.0.2.0/24 silent-discard, vrfy\n",
        "refused": "192.0.2.9 REJECT you are known\nspike.example OK\nbad.example REJECT\nunknown 450 who?\n",
    },
    users={"joe@example.com": "secret"},
)

XCLIENTS = [
    ALL,
    "XCLIENT NAME=spike.example",
    "XCLIENT ADDR=192.0.2.9",
    "XCLIENT NAME=bad.example ADDR=192.0.2.1",
    "XCLIENT NAME=[UNAVAILABLE] ADDR=192.0.2.1",
    "XCLIENT NAME=[TEMPUNAVAIL] ADDR=192.0.2.1 REVERSE_NAME=[unavailable]",
    "XCLIENT ADDR=[UNAVAILABLE] PORT=[UNAVAILABLE]",
    "XCLIENT ADDR=IPv6:2001:DB8:0:0::1 NAME=six.example",
    "XCLIENT ADDR=ipv6:::ffff:192.0.2.5",
    "XCLIENT HELO=bad.example PROTO=smtp",
    "XCLIENT HELO=[UNAVAILABLE] PROTO=ESMTP",
    "XCLIENT HELO=a+20b+3Cc+3E+0Ad+28+29 LOGIN=x+2By",
    "XCLIENT LOGIN=[UNAVAILABLE]",
    "xclient name=spike.example addr=192.0.2.8 helo=x",
]
WRONG_XCLIENTS = [
    "XCLIENT",
    "XCLIENT x",
    "XCLIENT NAME=",
    "XCLIENT NAME",
    "XCLIENT FOO=bar",
    "XCLIENT =bar",
    "XCLIENT NAME=a..b",
    "XCLIENT NAME=1.2.3.4",
    "XCLIENT NAME=" + "x" * 256,
    "XCLIENT REVERSE_NAME=-x",
    "XCLIENT ADDR=1.2.3",
    "XCLIENT ADDR=1.2.3.256",
    "XCLIENT ADDR=2001:db8::1",
    "XCLIENT ADDR=IPv6:1.2.3.4",
    "XCLIENT ADDR=a.example",
    "XCLIENT PORT=x",
    "XCLIENT PORT=123456",
    "XCLIENT PROTO=LMTP",
    "XCLIENT PROTO=[UNAVAILABLE]",
    "XCLIENT DESTADDR=x",
    "XCLIENT DESTPORT=-1",
    "XCLIENT NAME=good.example PORT=x",
]
FORWARDS = [
    "XFORWARD NAME=spike.example ADDR=192.0.2.7 PORT=4711 HELO=h.example PROTO=ESMTP IDENT=ABC SOURCE=REMOTE",
    "XFORWARD NAME=spike.example",
    "XFORWARD ADDR=192.0.2.7",
    "XFORWARD PROTO=HTTP",
    "XFORWARD HELO=x",
    "XFORWARD IDENT=12345",
    "XFORWARD SOURCE=LOCAL",
    "XFORWARD NAME=[UNAVAILABLE] ADDR=[UNAVAILABLE] PORT=[UNAVAILABLE] HELO=[UNAVAILABLE]"
    " PROTO=[UNAVAILABLE] IDENT=[UNAVAILABLE] SOURCE=[UNAVAILABLE]",
    "XFORWARD NAME=a.example ADDR=IPv6:2001:db8::7 IDENT=x+20y+3Cz+3E",
    "xforward name=a.example source=remote",
]
WRONG_FORWARDS = [
    "XFORWARD",
    "XFORWARD x",
    "XFORWARD NAME=",
    "XFORWARD FOO=bar",
    "XFORWARD NAME=a_b..c",
    "XFORWARD NAME=a+20b",
    "XFORWARD ADDR=1.2.3",
    "XFORWARD ADDR=2001:db8::1",
    "XFORWARD PORT=x",
    "XFORWARD PROTO=" + "x" * 65,
    "XFORWARD SOURCE=x",
    "XFORWARD IDENT=" + "x" * 256,
    "XFORWARD LOGIN=x",
]
VERPS = [
    "XVERP",
    "XVERP=+=",
    "xverp=-+",
    "XVERP=",
    "XVERP=+",
    "XVERP=+=-",
    "XVERP=ab",
    "XVERPX",
    "XVERP=== SIZE=10",
]


def _v1(words: str) -> bytes:
    return f"PROXY {words}\r\n".encode()


def _v2(command: int, family: int, body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return b"\r\n\r\n\x00\r\nQUIT\n" + struct.pack("!BBH", command, family, size) + body


FOUR = socket.inet_aton("192.0.2.7") + socket.inet_aton("198.51.100.2") + struct.pack("!HH", 4711, 587)
SIX = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::7")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + struct.pack("!HH", 4711, 587)
)
GOOD_HEADERS = {
    "v1": _v1("TCP4 192.0.2.7 198.51.100.2 4711 587"),
    "v1, bad client": _v1("TCP4 192.0.2.9 198.51.100.2 4711 587"),
    "v1 six": _v1("TCP6 2001:DB8:0::7 2001:db8::1 4711 587"),
    "v1 lone LF": b"PROXY TCP4 192.0.2.7 198.51.100.2 4711 587\n",
    "v1 case and blanks": b"PROXY  tcp4  192.0.2.7 198.51.100.2 4711 587 more\r\n",
    "v2": _v2(0x21, 0x11, FOUR),
    "v2 six": _v2(0x21, 0x21, SIX),
    "v2 with more": _v2(0x21, 0x11, FOUR + b"\x04\x00\x01x"),
    "v2 local": _v2(0x20, 0x00, b""),
    "v2 local with more": _v2(0x20, 0x11, FOUR),
}
BAD_HEADERS = {
    "nothing of the kind": b"EHLO client.example\r\n",
    "short": b"EHLO x\r\n",
    "unknown": _v1("UNKNOWN"),
    "no type": _v1(""),
    "family": _v1("TCP4 2001:db8::7 2001:db8::1 4711 587"),
    "no address": _v1("TCP4"),
    "no server": _v1("TCP4 192.0.2.7"),
    "bad address": _v1("TCP4 192.0.2.256 198.51.100.2 4711 587"),
    "no ports": _v1("TCP4 192.0.2.7 198.51.100.2"),
    "one port": _v1("TCP4 192.0.2.7 198.51.100.2 4711"),
    "bad port": _v1("TCP4 192.0.2.7 198.51.100.2 x 587"),
    "large port": _v1("TCP4 192.0.2.7 198.51.100.2 4711 65536"),
    "v2 version": _v2(0x31, 0x11, FOUR),
    "v2 command": _v2(0x22, 0x11, FOUR),
    "v2 family": _v2(0x21, 0x31, FOUR),
    "v2 datagrams": _v2(0x21, 0x12, FOUR),
    "v2 few addresses": _v2(0x21, 0x11, FOUR[:8]),
}

CASES = {
    SPEAKERS: [
        Dialogue("ehlo", [HELLO]),
        *[Dialogue(f"as {said[8:]}"[:70], [HELLO, said, HELLO, *REST]) for said in XCLIENTS],
        Dialogue("wrong", [HELLO, *WRONG_XCLIENTS[:12], MAIL, RCPT]),
        Dialogue("wrong too", [HELLO, *WRONG_XCLIENTS[12:]]),
        Dialogue("not amid mail", [HELLO, MAIL, ALL, "XFORWARD NAME=x.example", "RSET"]),
        Dialogue("without hello", [ALL, MAIL, RCPT, "DATA", Body(TEXT)]),
        Dialogue("after login", [HELLO, plain("joe", "secret"), "XCLIENT ADDR=192.0.2.1", *REST]),
        Dialogue("login of another", [HELLO, ALL, plain("joe", "secret"), HELLO, *REST]),
        Dialogue("by login at last", [ALL, HELLO, "XCLIENT NAME=x.example", *REST]),
        Dialogue("twice", [HELLO, "XCLIENT HELO=x", "XCLIENT ADDR=192.0.2.3", "XCLIENT HELO=y", *REST]),
        Dialogue("pipelined", [HELLO, Send(b"XCLIENT ADDR=192.0.2.1\r\nEHLO x\r\n", 2), End()]),
        Dialogue("pipelined smtp", [Send(b"XCLIENT ADDR=192.0.2.1\r\nEHLO x\r\n", 1), End()]),
        Dialogue("over tls", [HELLO, "STARTTLS", Tls(), HELLO, ALL, HELLO, *REST]),
        Dialogue("before tls", [ALL, HELLO, "STARTTLS", Tls(), HELLO, *REST]),
        Dialogue("lost", [ALL, Hang()]),
        *at(
            "at once",
            Dialogue("let in", [HELLO, ALL, HELLO, *REST]),
            Dialogue("refused", [HELLO, "XCLIENT ADDR=192.0.2.9", HELLO, "NOOP"]),
            Dialogue("refused by name", ["XCLIENT NAME=bad.example", MAIL, "XCLIENT NAME=good.example"]),
        ),
        *at("ports", Dialogue("xclient", [ALL, HELLO, *REST]), Dialogue("xforward", [FORWARDS[0], *REST])),
        *at(
            "counted",
            Dialogue("itself is not", [HELLO, MAIL, "RSET", MAIL]),
            Dialogue("another is", [HELLO, "XCLIENT ADDR=192.0.2.50", HELLO, MAIL, "RSET", MAIL]),
            Dialogue("and again", [HELLO, "XCLIENT ADDR=192.0.2.50 NAME=x.example", HELLO, MAIL]),
        ),
        *at("strangers", Dialogue("not yet", [HELLO, ALL])),
        *at("nobody", Dialogue("excluded", [HELLO, ALL, "XCLIENT"])),
        *at("silent", Dialogue("but there", [HELLO, ALL, HELLO, FORWARDS[0], MAIL + " XVERP", RCPT])),
        *at("four", Dialogue("no six", ["XCLIENT ADDR=IPv6:2001:db8::1", "XFORWARD ADDR=IPv6:::1", "RSET"])),
        *[Dialogue(f"for {said[9:]}"[:70], [HELLO, said, *REST]) for said in FORWARDS],
        Dialogue("wrong forwards", [HELLO, *WRONG_FORWARDS, *REST]),
        Dialogue("two forwards", [HELLO, *FORWARDS[1:4], *REST, *REST]),
        Dialogue("forward forgotten", [HELLO, FORWARDS[0], "RSET", *REST, FORWARDS[0], HELLO, *REST]),
        Dialogue("forward kept", [HELLO, FORWARDS[0], "MAIL FROM:<", "NOOP", "VRFY x", *REST]),
        Dialogue("forward, xclient", [HELLO, FORWARDS[0], ALL, FORWARDS[1], *REST]),
        Dialogue(
            "verp",
            [HELLO, *[step for verp in VERPS for step in (f"{MAIL} {verp}", "RSET")], "MAIL FROM:<> XVERP"],
        ),
        *at("delimiters", Dialogue("verp", [HELLO, f"{MAIL} XVERP=+=", f"{MAIL} XVERP=-=", "RSET"])),
        *at("no verp", Dialogue("refused", [HELLO, f"{MAIL} XVERP", f"{MAIL} XVERP=+="])),
        *at(
            "proxied",
            *[
                Dialogue(name, [Send(data, 1), HELLO, *REST], early=True)
                for name, data in GOOD_HEADERS.items()
            ],
            *[Dialogue(name, [Send(data, 1), End()], early=True) for name, data in BAD_HEADERS.items()],
            Dialogue("too soon", [Send(GOOD_HEADERS["v1"] + b"EHLO x\r\n", 1), End()], early=True),
            Dialogue("header, then nothing", [Send(GOOD_HEADERS["v2"]), Hang()], early=True),
            Dialogue("nothing", [Hang()], early=True),
        ),
        *at(
            "proxied tls",
            Dialogue("v1", [Send(GOOD_HEADERS["v1"]), Tls(), Send(b"", 1), "NOOP", HELLO, *REST], early=True),
            Dialogue("v2", [Send(GOOD_HEADERS["v2"]), Tls(), Send(b"", 1), "NOOP", HELLO], early=True),
            Dialogue("bad", [Send(b"EHLO client.example\r\n", 1), End()], early=True),
        ),
        *at(
            "proxied at once",
            Dialogue("refused", [Send(GOOD_HEADERS["v1, bad client"], 1), HELLO], early=True),
            Dialogue("let in", [Send(GOOD_HEADERS["v1"], 1), HELLO], early=True),
        ),
        *at("proxied ports", Dialogue("v1", [Send(GOOD_HEADERS["v1"], 1), HELLO, *REST], early=True)),
        *at("proxied in haste", Dialogue("nothing said", [Send(b"", 1), End()], early=True, slow=True)),
        *at("keywords", Dialogue("by address", [HELLO, f"{MAIL} RET=FULL", f"{MAIL} SMTPUTF8", MAIL])),
        *at("keywords of others", Dialogue("not named", [HELLO, f"{MAIL} RET=FULL"])),
        *at(
            "keywords by xclient",
            Dialogue("another's", [HELLO, "XCLIENT ADDR=192.0.2.1", HELLO, "VRFY a@b.example"]),
        ),
        *at("odd keywords", Dialogue("case", [HELLO, "BDAT 0 LAST", End()])),
    ],
}


@each(CASES)
def test_dialogue(houses: Houses, config: Config, dialogue: Dialogue) -> None:
    houses.of(config).compare(dialogue)
