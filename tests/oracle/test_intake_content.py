# ruff: noqa: E501  (tables of messages are clearer with whole lines)
"""Headers, bodies and MIME parts on their way into the queue: checked, limited, repaired.

One instance of each serves all rules: a service of cleanup(8) for each, and an smtpd that leads to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from oracle.dialogue import HELLO, MAIL, RCPT, Body, Config, Dialogue, Houses, Send, each

Text = str | bytes

CHECKS = """\
/^X-Warn:/ WARN about this
/^X-Info:/ INFO
/^X-Ignore:/ IGNORE silently
/^X-Strip:/ STRIP said why
/^(X-Prepend:.*)/ PREPEND X-Before: $1
/^X-Prepend-Bad:/ PREPEND no header
/^X-Prepend-None:/ PREPEND
/^X-Replace: (.*)$/ REPLACE Subject: was $1
/^X-Replace-To: (.*)/ REPLACE To: $1
/^X-Replace-Bad:/ REPLACE no header
/^X-Replace-None:/ REPLACE
/^X-Reject:/ REJECT
/^(X-Reject-Why:.*)/ REJECT we do not like $1
/^X-Reject-Code:/ REJECT 5.6.7 with a code
/^X-Reject-Later:/ REJECT 4.6.7 not now
/^X-Reject-Bad:/ REJECT 2.0.0 a good code
/^X-Reject-Only:/ REJECT 5.9.9
/^X-Hold:/ HOLD it
/^X-Discard:/ DISCARD it
/^X-Filter:/ FILTER other:[127.0.0.1]:{port}
/^X-Filter-Bad:/ FILTER smtp
/^X-Filter-None:/ FILTER
/^X-Redirect:/ REDIRECT other@example.org
/^X-Redirect-Bad:/ REDIRECT other
/^X-Bcc:/ BCC copy@example.org
/^X-Bcc-Bad:/ BCC copy
/^X-Pass:/ PASS the rest
/^X-Dunno:/ DUNNO
/^X-Ok:/ OK
/^X-Unknown:/ FROBNICATE it
/^X-Lower:/ warn in lower case
/^X-Folded:.*second/ WARN folded
/^X-Folded:.*\\n.third/ WARN folded more
/^Received: by nobody/ WARN received
/^Content-Type:.*evil/ REJECT evil type
/^Subject:.*gr.n/ WARN eight bits
/^From:/ WARN sender
"""
MIME_CHECKS = """\
/^Content-Type:.*name=.*\\.exe/ REJECT no programs
/^Content-Description: warn/ WARN described
/^Content-Description: gone/ IGNORE
/^MIME-Version:/ WARN version
/^X-Part:/ REPLACE X-Part: replaced
"""
NESTED_CHECKS = """\
/^Subject:/ WARN nested subject
/^X-Nested:/ PREPEND X-Before: nested
/^Received:/ IGNORE
"""
BODY_CHECKS = """\
/^warn/ WARN a line
/^ignore/ IGNORE
/^strip/ STRIP a line
/^prepend/ PREPEND a line before
/^replace(.*)/ REPLACE replaced$1
/^reject/ REJECT
/^later/ REJECT 4.1.2 try again
/^hold/ HOLD
/^discard/ DISCARD
/^filter/ FILTER other:[127.0.0.1]:{port}
/^redirect/ REDIRECT other@example.org
/^bcc/ BCC copy@example.org
/^pass/ PASS
/^unknown/ WHATEVER
/^--x/ WARN boundary
/^xxxx/ WARN long
/^$/ WARN empty
/gr.n/ WARN eight bits
/^From:/ WARN like a header
/last$/ PREPEND before the last
"""

#: One header of each kind, by itself.
HEADERS = [
    f"{line.split('/^')[1].strip('(').split(':')[0]}: value\nSubject: x\n\nbody\n"
    for line in CHECKS.splitlines()
    if line.startswith(("/^X-", "/^(X-"))
]
MULTIPART = """\
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="x"
Subject: parts

preamble
--x
Content-Type: text/plain
Content-Description: warn
X-Part: y

warn
ignore
--x
Content-Type: message/rfc822

Received: from a
Subject: inner
X-Nested: y
X-Warn: no
Content-Description: gone

warn
last
--x--
warn
epilogue
"""
TEXTS: dict[str, Text] = {
    "folded": "X-Folded: first\n second\n third\nSubject: x\n\ny\n",
    "replaced recipients": "X-Replace-To: bob, carol\nFrom: alice\n\ny\n",
    "several": "X-Warn: 1\nX-Prepend: 2\nX-Ignore: 3\nX-Bcc: 4\nX-Info: 5\nX-Bcc: 6\nX-Hold: 7\nX-Hold: 8\n\ny\n",
    "redirect ends checks": "X-Redirect: 1\nX-Warn: 2\n\nwarn\n",
    "pass ends checks": "X-Pass: 1\nX-Warn: 2\n\nwarn\n",
    "reject after": "X-Bcc: 1\nX-Reject-Later: 2\nX-Warn: 3\n\nwarn\n",
    "filter and redirect": "X-Filter: 1\nX-Redirect: 2\n\ny\n",
    "multipart": MULTIPART,
    "program": MULTIPART.replace("text/plain", 'application/octet-stream; name="a.exe"'),
    "evil": "Content-Type: text/evil\n\ny\n",
    "late evil": MULTIPART.replace("message/rfc822", "message/evil"),
    "body": "Subject: x\n\nwarn\nignore\nstrip\nprepend\nreplace this\nunknown\nbcc\nnothing\n",
    "body reject": "Subject: x\n\none\nreject\nwarn\n",
    "body later": "Subject: x\n\none\nlater\nwarn\n",
    "body hold": "Subject: x\n\none\nhold\nwarn\n",
    "body discard": "Subject: x\n\none\ndiscard\nwarn\n",
    "body filter": "Subject: x\n\none\nfilter\nwarn\n",
    "body redirect": "Subject: x\n\none\nredirect\nwarn\n",
    "body pass": "Subject: x\n\none\npass\nwarn\n",
    "last line": "Subject: x\n\none\nlast\n",
    "first line": "Subject: x\n\nwarn\n",
    "no headers": "warn\nmore\n",
    "colons": "X-Warn: y\nno header\nX-Warn: z\n\nFrom: x\n",
    "long line": "Subject: x\n\nwarn " + "x" * 5000 + "\n" + "x" * 2048 + "\n" + "a" * 2047 + "\nwarn\n",
    "beyond": "Subject: x\n\n" + "0123456789\n" * 30 + "warn\nwarn\n" + "0123456789\n" * 30 + "warn\n",
    "beyond in parts": MULTIPART.replace("warn\n", "warn\n" + "0123456789\n" * 80 + "warn\n"),
    "latin-1": "Subject: gr\xfcn\n\ngr\xfcn\n".encode("latin-1").replace(b"\n", b"\r\n"),
    "utf-8": "Subject: gr\u00fcn\nFrom: \u00fc <alice@example.com>\n\ngr\u00fcn\nx gr\u00fcn last\n",
    "nul": b"Subject: a\0b\r\nX-W\0arn: x\r\nX-Warn: c\0d\r\n e\0f\r\n\r\nwa\0rn\r\nwarn\0\r\n",
    "controls": b"Subject: a\x01b\x7fc\r\n\r\nx\x02y\x1bz\r\n",
    "stray": b"Subject: a\rb\r\n\r\nx\ry\rz\r\n\rwarn\r\n",
    "long header": "X-Long: " + "y" * 3000 + "\nSubject: x\n\ny\n",
    "long folded": "X-Long: y" + "\n yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy" * 60 + "\nSubject: x\n\ny\n",
    "long addresses": "To: "
    + ",\n ".join(f"user{n}@example.com" for n in range(100))
    + "\nSubject: x\n\ny\n",
    "short of the limit": "X-Long: " + "y" * 470 + "\n " + "z" * 40 + "\n zz\nSubject: x\n\ny\n",
    "hops": "Received: by nobody\n" * 6 + "Message-Id: <a@b>\nX-Warn: x\n\ny\n",
    "pass ends stripping": "X-Pass: a\nSubject: banana\n\nbanana\n",
    "hop more": "Received: by nobody\n" * 3 + "Message-Id: <a@b>\n\ny\n",
}
EIGHT = "gr\u00fcn"
MIME_TEXTS: dict[str, Text] = {
    "seven bits": "Subject: x\n\ny\n",
    "header": f"Subject: {EIGHT}\n\ny\n",
    "body": f"Subject: x\n\ny\n{EIGHT}\nz\n",
    "body said": f"Content-Transfer-Encoding: 8bit\nSubject: x\n\n{EIGHT}\n",
    "body said wrong": f"Content-Transfer-Encoding: 7bit\nSubject: x\n\n{EIGHT}\n",
    "body said odd": f"Content-Transfer-Encoding: 8bit (yes)\nSubject: x\n\n{EIGHT}\n",
    "body said late": f"Content-Transfer-Encoding: 8bit \nSubject: x\n\n{EIGHT}\n",
    "binary": f"Content-Transfer-Encoding: binary\nSubject: x\n\n{EIGHT}\n",
    "quoted": "Content-Transfer-Encoding: quoted-printable\nSubject: x\n\n=FC\n",
    "unknown": f"Content-Transfer-Encoding: uuencode\nSubject: x\n\n{EIGHT}\n",
    "both": f"Subject: {EIGHT}\n\n{EIGHT}\n",
    "part": MULTIPART.replace("X-Part: y", "Content-Transfer-Encoding: 8bit").replace("ignore", EIGHT),
    "part unsaid": MULTIPART.replace("ignore", EIGHT),
    "nested": MULTIPART.replace("Content-Description: gone", "Content-Transfer-Encoding: 8BIT").replace(
        "last", EIGHT
    ),
    "epilogue": MULTIPART.replace("epilogue", EIGHT),
    "encoded multipart": MULTIPART.replace("Subject: parts", "Content-Transfer-Encoding: base64"),
    "encoded message": MULTIPART.replace(
        "message/rfc822\n", "message/rfc822\nContent-Transfer-Encoding: base64\n"
    ),
    "8bit message": MULTIPART.replace(
        "message/rfc822\n", "message/rfc822\nContent-Transfer-Encoding: 8bit\n"
    ),
    "partial": "Content-Type: message/partial\nContent-Transfer-Encoding: 8bit\n\ny\n",
    "external": "Content-Type: message/external-body\nContent-Transfer-Encoding: quoted-printable\n\ny\n",
    "global": f"Content-Type: message/global\nContent-Transfer-Encoding: 8bit\n\nSubject: {EIGHT}\nX-Nested: y\n\ny\n",
    "digest": "Content-Type: multipart/digest; boundary=q\n\n--q\n\nSubject: one\n\nx\n--q\n\nSubject: two\n\ny\n--q--\n",
    "no boundary": "Content-Type: multipart/mixed\n\n--x\nSubject: one\n\ny\n",
    "two boundaries": "Content-Type: multipart/mixed; boundary=a; boundary=b\n\n--a\nX-Part: 1\n\n--b\nX-Part: 2\n\ny\n--a--\n",
    "odd boundary": 'Content-Type: multipart/mixed (comment); charset=x;\n boundary="a\\"b c"\n\n--a"b c\nX-Part: 1\n\ny\n--a"b c--\n',
    "long boundary": f"Content-Type: multipart/mixed; boundary={'b' * 60}\n\n--{'b' * 60}\nX-Part: 1\n\ny\n--{'b' * 40}c\nX-Part: 2\n\nz\n",
    "deep": "".join(f"Content-Type: multipart/mixed; boundary=b{n}\n\n--b{n}\n" for n in range(6))
    + "X-Part: 1\n\ny\n",
    "deep attached": "Content-Type: message/rfc822\n\n" * 5 + "Subject: inner\n\ny\n",
    "text first": "just text\nSubject: x\n\ny\n",
    "headers alone": "Subject: x\nX-Y: z\n",
    "part ends early": MULTIPART.partition("warn\nlast")[0],
    "part without headers": "Content-Type: multipart/mixed; boundary=x\n\n--x\n\nFrom: warn\n--x\nno header\nX-Part: y\n--x--\n",
    "declared": f"MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n{EIGHT}\n",
}

_TABLES = {
    "header_checks": "pcre:{dir}/header",
    "mime_header_checks": "pcre:{dir}/mime",
    "nested_header_checks": "pcre:{dir}/nested",
    "body_checks": "pcre:{dir}/body",
}
_CHECKED = [*HEADERS, *TEXTS.values()]
_FEW = [TEXTS[name] for name in ("several", "multipart", "program", "body", "beyond in parts")]
_STRANGE = [TEXTS[name] for name in ("nul", "controls", "stray", "latin-1", "utf-8", "long line", "several")]
_STRIPPED = [*_STRANGE, TEXTS["pass ends stripping"]]
_LONG = [text for name, text in TEXTS.items() if "long" in name or "limit" in name]
_MIME = list(MIME_TEXTS.values())

RULES: dict[str, tuple[Mapping[str, str], Sequence[Text]]] = {
    "checks": (_TABLES, _CHECKED),
    "regexp checks": ({"header_checks": "regexp:{dir}/header", "body_checks": "regexp:{dir}/body"}, _FEW),
    "only headers": ({"header_checks": "pcre:{dir}/header"}, [*_FEW, *HEADERS[:6]]),
    "little of bodies": ({**_TABLES, "body_checks_size_limit": "200"}, [*_FEW, TEXTS["beyond"]]),
    "all of bodies": ({**_TABLES, "body_checks_size_limit": "0"}, _FEW),
    "no mime": ({**_TABLES, "disable_mime_input_processing": "yes"}, [*_FEW, *_MIME[-14:]]),
    "fixed keys": ({"body_checks": "texthash:{dir}/fixed"}, _FEW),
    "broken": ({"header_checks": "texthash:{dir}/nowhere"}, _FEW[:1]),
    "broken body": ({"body_checks": "texthash:{dir}/nowhere"}, _FEW[:1]),
    "rejected characters": ({"message_reject_characters": "\\0\\33", **_TABLES}, _STRANGE),
    "stripped characters": ({"message_strip_characters": "\\0\\01a", **_TABLES}, _STRIPPED),
    "dropped": (
        {"message_drop_headers": "x-foo, subject, content-type, Content-Length, to"},
        [
            "X-Foo: a\n b\nSubject: x\nContent-Type: text/x\nTo: bob\nBcc: carol\nReturn-Path: x\n\ny\n",
            MULTIPART,
        ],
    ),
    "hops": ({"hopcount_limit": "4", **_TABLES}, [TEXTS["hops"], TEXTS["hop more"]]),
    "short headers": ({"header_size_limit": "512"}, [*_LONG, TEXTS["several"]]),
    "strict": ({"strict_8bitmime": "yes", **_TABLES}, _MIME),
    "strict headers": ({"strict_7bit_headers": "yes"}, _MIME[:12]),
    "strict body": ({"strict_8bitmime_body": "yes"}, _MIME[:18]),
    "strict encoding": ({"strict_mime_encoding_domain": "yes"}, _MIME[10:22]),
    "limits": (
        {"strict_8bitmime": "yes", "mime_nesting_limit": "3", "mime_boundary_length_limit": "40", **_TABLES},
        _MIME[-13:],
    ),
    "no detection": ({"detect_8bit_encoding_header": "no"}, _MIME[:12]),
    "mime": ({}, _MIME),
    "undisclosed": ({"undisclosed_recipients_header": "no header"}, ["Subject: x\n\ny\n"]),
}
SERVICES: dict[str, tuple[Mapping[str, str], str, Sequence[Text]]] = {
    "unchecked": ({"receive_override_options": "no_header_body_checks"}, "strict", [*_FEW, *_MIME[:6]]),
    "remote": ({"local_header_rewrite_clients": ""}, "checks", _FEW),
    "autodetect": ({"smtputf8_autodetect_classes": "smtpd"}, "mime", _FEW[:1]),
    "filtered": ({"content_filter": "other:[127.0.0.1]:{port}"}, "checks", [*_FEW, HEADERS[19], HEADERS[22]]),
    "access": (
        {
            "smtpd_recipient_restrictions": "check_recipient_access inline:{bob@example.net={PREPEND X-Warn: access}}"
        },
        "checks",
        _FEW[:2],
    ),
    "access hold": (
        {"smtpd_data_restrictions": "check_sender_access static:HOLD"},
        "checks",
        [TEXTS["several"]],
    ),
    "access filter": (
        {
            "smtpd_data_restrictions": "check_sender_access inline:{alice@example.com={FILTER other:[127.0.0.1]:{port}}}"
        },
        "checks",
        [HEADERS[19], *_FEW[:1]],
    ),
}


def _chunks(*texts: str) -> list[Send]:
    """BDAT commands, the last of them LAST."""
    data = [text.encode().replace(b"\n", b"\r\n") for text in texts]
    *first, end = data
    commands = [b"BDAT %d\r\n%b" % (len(each), each) for each in first]
    return [Send(each, 1) for each in (*commands, b"BDAT %d LAST\r\n%b" % (len(end), end))]


#: What is not only about the content.
OTHERS = [
    Dialogue("null sender", [HELLO, "MAIL FROM:<>", RCPT, "DATA", Body(HEADERS[0])], service="checks"),
    Dialogue(
        "refused in chunks",
        [HELLO, MAIL, RCPT, *_chunks("X-Reject: x\n\nz\n", "y\n", "y\n")],
        service="checks",
    ),
    Dialogue(
        "our own header has 8 bits",
        [HELLO, f"{MAIL} SMTPUTF8", "RCPT TO:<b\u00f6b@example.net>", "DATA", Body("Subject: x\n\ny\n")],
        service="strict-headers",
    ),
    Dialogue(
        "chunks like mbox", [HELLO, MAIL, RCPT, *_chunks("From alice Mon\n", "A: x\n\n")], service="mime"
    ),
    Dialogue(
        "like mbox", [HELLO, MAIL, RCPT, "DATA", Body(">From alice Mon\nA: x\n\nFrom bob\n")], service="mime"
    ),
    Dialogue(
        "utf-8 that nobody asked for",
        [HELLO, MAIL, RCPT, "DATA", Body(TEXTS["utf-8"]), MAIL, RCPT, "DATA", Body(TEXTS["latin-1"])],
        service="autodetect",
    ),
]
#: As many messages are sent in one session.
_IN_ONE = 6
#: Of these messages, which stay or vanish, little is heard: each has a session of its own.
_QUIET = re.compile(r"^(?:X-Hold|X-Discard|hold|discard)", re.MULTILINE)


def _service(name: str) -> str:
    return name.replace(" ", "-")


def _play(service: str, texts: Sequence[Text]) -> list[Dialogue]:
    groups: list[list[Text]] = [[]]
    for text in texts:
        alone = service == "access hold" or (isinstance(text, str) and _QUIET.search(text))
        if alone or len(groups[-1]) == _IN_ONE:
            groups.append([])
        groups[-1].append(text)
        if alone:
            groups.append([])
    return [
        Dialogue(
            f"{service} {number}",
            [HELLO, *(step for text in group for step in (MAIL, RCPT, "DATA", Body(text)))],
            service=_service(service),
        )
        for number, group in enumerate(filter(None, groups), 1)
    ]


CONFIG = Config(
    "content",
    {"mydomain": "example.com"},
    services=[
        *((_service(name), {"cleanup_service_name": f"clean-{_service(name)}"}) for name in RULES),
        *(
            (_service(name), {**settings, "cleanup_service_name": f"clean-{_service(used)}"})
            for name, (settings, used, _) in SERVICES.items()
        ),
    ],
    cleanups={f"clean-{_service(name)}": settings for name, (settings, _) in RULES.items()},
    transports={"other": {"smtp_helo_name": "other.example"}},
    files={
        "header": CHECKS,
        "mime": MIME_CHECKS,
        "nested": NESTED_CHECKS,
        "body": BODY_CHECKS,
        "fixed": "warn\tREPLACE fixed key\nWarn\tREJECT\n",
    },
)

CASES = {
    CONFIG: [
        *(dialogue for name, (_, texts) in RULES.items() for dialogue in _play(name, texts)),
        *(dialogue for name, (_, _, texts) in SERVICES.items() for dialogue in _play(name, texts)),
        *OTHERS,
    ]
}


@each(CASES)
def test_content(houses: Houses, config: Config, dialogue: Dialogue) -> None:
    houses.of(config).compare(dialogue)
