# ruff: noqa: E501  (tables of messages are clearer with whole lines)
"""What the SMTP client changes of messages on their way out: addresses, headers, bodies, 8 bits.

One instance of each serves all rules: a transport of its own for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from oracle.dialogue import HELLO, Body, Config, Dialogue, Houses, each
from oracle.test_intake_content import (
    BODY_CHECKS,
    CHECKS,
    MIME_CHECKS,
    MIME_TEXTS,
    MULTIPART,
    NESTED_CHECKS,
    TEXTS,
    Text,
)

OLD = {"smtp_discard_ehlo_keywords": "8bitmime, smtputf8"}
_CHECKS = {
    "smtp_header_checks": "pcre:{dir}/header",
    "smtp_mime_header_checks": "pcre:{dir}/mime",
    "smtp_nested_header_checks": "pcre:{dir}/nested",
    "smtp_body_checks": "pcre:{dir}/body",
}
EIGHT = "gr\u00fcn"
LONG = (
    "Content-Transfer-Encoding: 8bit\nSubject: x\n\n"
    + "".join(f"{EIGHT} " * n + "end" + " " * (n % 3) + "\n" for n in range(1, 40, 3))
    + "=\t\n"
    + "x" * 72 + "\n" + "x" * 73 + "\n" + "x" * 74 + "\n" + "x" * 71 + "=\n" + "\u00fc" * 1100 + "\n.\n..\n"
)  # fmt: skip
GENERIC = (
    "From: alice@example.com\nTo: bob@generic.example, Carol <carol@example.com> (c)\nCc: none@example.com\n"
    "Sender: user+ext@example.com\nReply-To: dom@local.example\nMessage-Id: <alice@example.com>\n\nalice@example.com\n",
    "From: Alice\n <alice@example.com>\nTo: list: alice@example.com, x@local.example;\nX-To: alice@example.com\n\ny\n",
    "Resent-From: alice@example.com\nFrom: ALICE@EXAMPLE.COM\nTo: " + ", ".join(["alice@example.com"] * 9) + "\n\ny\n",
    MULTIPART.replace("Subject: inner", "From: alice@example.com"),
    "From: two@example.com\nTo: nobody@example.net\n\ny\n",
)  # fmt: skip

RULES: dict[str, tuple[Mapping[str, str], Sequence[Text]]] = {
    "old": (OLD, [*(text for name, text in MIME_TEXTS.items() if name not in ("header", "both")), LONG]),
    "helo": ({"smtp_never_send_ehlo": "yes"}, [LONG, MIME_TEXTS["part"], MIME_TEXTS["nested"]]),
    "unchanged": ({**OLD, "disable_mime_output_conversion": "yes"}, [LONG, MIME_TEXTS["part"], MIME_TEXTS["8bit message"]]),
    "deep": ({**OLD, "mime_nesting_limit": "20"}, [MIME_TEXTS["deep"], MIME_TEXTS["deep attached"]]),
    "generic": ({"smtp_generic_maps": "texthash:{dir}/generic"}, GENERIC),
    "bare": (
        {"smtp_generic_maps": "texthash:{dir}/generic", "propagate_unmatched_extensions": "generic", **OLD},
        [*GENERIC[:4], LONG],
    ),
    "checked": (
        _CHECKS,
        [TEXTS[name] for name in ("several", "multipart", "body", "folded", "latin-1", "long line", "beyond", "evil", "nul")],
    ),
    "both": ({**_CHECKS, **OLD, "smtp_generic_maps": "texthash:{dir}/generic"}, [*GENERIC[:4], LONG, TEXTS["multipart"]]),
    "headers": ({"smtp_header_checks": "pcre:{dir}/header"}, [TEXTS["several"], MULTIPART, TEXTS["body"]]),
    "narrow": ({"smtp_line_length_limit": "80"}, [TEXTS["several"], TEXTS["long addresses"], TEXTS["long folded"], LONG]),
    "wide": ({"smtp_line_length_limit": "0"}, [TEXTS["long line"], LONG]),
    "wider": ({"smtp_line_length_limit": "3000"}, [TEXTS["long line"], LONG]),
    "narrow old": ({"smtp_line_length_limit": "80", **OLD}, [LONG, TEXTS["long line"]]),
    "narrow checked": ({"smtp_line_length_limit": "70", **_CHECKS}, [TEXTS["multipart"], TEXTS["long line"]]),
}  # fmt: skip

#: The older client shows less of a long line in the log.
LINES = BODY_CHECKS.replace("/^warn/", "/^warn$/").replace("/^xxxx/", "/^yyyy/")

SENDERS = ("alice@example.com", "user+ext@example.com", "", "dom@local.example", "dom+e@local.example")


def _name(name: str) -> str:
    return name.replace(" ", "-")


def _play(name: str, texts: Sequence[Text]) -> list[Dialogue]:
    """The messages, a few to a session; by themselves where the log has warnings that name no message."""
    size = 1 if "smtp_header_checks" in RULES[name][0] or "smtp_generic_maps" in RULES[name][0] else 6
    return [
        Dialogue(
            f"{name} {first}",
            [
                HELLO,
                *(
                    step
                    for number, text in enumerate(texts[first : first + size], first)
                    for step in (
                        f"MAIL FROM:<{SENDERS[number % len(SENDERS)]}>",
                        f"RCPT TO:<bob@{_name(name)}.example>",
                        f"RCPT TO:<carol+ext@{_name(name)}.example>",
                        "DATA",
                        Body(text),
                    )
                ),
            ],
        )
        for first in range(0, len(texts), size)
    ]


CONFIG = Config(
    "client",
    {"mydomain": "example.com", "recipient_delimiter": "+", "local_header_rewrite_clients": "static:all"},
    transports={_name(name): settings for name, (settings, _) in RULES.items()},
    files={
        "header": CHECKS,
        "mime": MIME_CHECKS,
        "nested": NESTED_CHECKS,
        "body": LINES,
        "generic": "alice@example.com alice.a@public.example\nbob@generic.example robert@public.example\n"
        'carol@example.com "C C"@public.example\nuser@example.com u@public.example\n'
        "@local.example @public.example\ntwo@example.com one@public.example, two@public.example\n"
        "carol@bare.example bare\n",
    },
)  # fmt: skip

CASES = {CONFIG: [dialogue for name, (_, texts) in RULES.items() for dialogue in _play(name, texts)]}


@each(CASES)
def test_client(houses: Houses, config: Config, dialogue: Dialogue) -> None:
    houses.of(config).compare(dialogue)
