"""Notifications, part by part: templates, threads, VERP, postmasters, NOTIFY."""

from __future__ import annotations

from oracle.dialogue import HELLO, TEXT, Body, Config, Dialogue, Houses, each

TEMPLATES = """\
# other words
failure_template = <<EOF
Charset: iso-8859-1
From: The Postman <postman>
Subject: It did not arrive
Postmaster-Subject: Somebody's mail did not arrive

Here is $myhostname, of $mydomain.
We try for $maximal_queue_lifetime_days day(s), or $maximal_queue_lifetime_hours hours.
EOF

success_template = <<END
Subject: It arrived

  All is well.

END
"""
VERP = {"smtpd_authorized_verp_clients": "127.0.0.1"}
NO_DSN = {"no-dsn": {"smtp_discard_ehlo_keywords": "dsn"}}
THREADS = Config(
    "threads",
    {"enable_threaded_bounces": "yes", "notify_classes": "bounce, 2bounce", **VERP},
    transports=NO_DSN,
)
TEMPLATED = Config(
    "templates",
    {"bounce_template_file": "{dir}/bounce.cf", "notify_classes": "bounce"},
    files={"bounce.cf": TEMPLATES},
    transports=NO_DSN,
)
OLD = Config(
    "old",
    {
        "header_from_format": "obsolete",
        "smtputf8_enable": "no",
        "disable_verp_bounces": "yes",
        "default_destination_concurrency_limit": "1",  # so that recipients come in order
        "initial_destination_concurrency": "1",
        **VERP,
    },
)
#: What is made here goes through cleanup(8): addresses are mapped, and checks see it where that is asked for.
INTERNAL = Config(
    "internal",
    {
        "mydomain": "example.com",
        "mydestination": "local.example",
        "alias_maps": "texthash:{dir}/aliases",
        "virtual_alias_maps": "texthash:{dir}/virtual",
        "canonical_maps": "texthash:{dir}/canonical",
        "masquerade_domains": "example.org",
        "always_bcc": "all@example.net",
        "header_checks": "pcre:{dir}/header",
        "body_checks": "pcre:{dir}/body",
        "nested_header_checks": "pcre:{dir}/nested",
        "internal_mail_filter_classes": "bounce",
        "notify_classes": "bounce",
        "bounce_notice_recipient": "office",
    },
    services=[("submission", {"receive_override_options": "no_header_body_checks"})],
    files={
        "aliases": "list user@virtual.example, other@example.net\n",
        "virtual": "virtual.example x\nuser@virtual.example real@example.net, also@example.net\n"
        "alice@example.com moved@example.net\noffice@example.com boss@example.net\n",
        "canonical": "MAILER-DAEMON@example.com daemon@host.example.org\n",
        # addresses are complete before mtad's checks see them, in Postfix behind
        "header": "/^Subject: Undelivered/ PREPEND X-Checked: yes\n",
        "body": "/^Reporting-MTA/ WARN found\n/^redirect/ REDIRECT other@example.net\n"
        "/^copy/ BCC copy@example.net\n/^discard/ DISCARD gone\n"
        "/^filter/ FILTER no-dsn:[127.0.0.1]:{port}\n/^replace/ REPLACE replaced\n",
        "nested": "/^X-Nested:/ IGNORE\n",
    },
    transports=NO_DSN,
)
ONLY_FIRST = {"rcpt:a@x.example": b"550 5.1.1 no"}
SOME = {"rcpt:a@x.example": b"550 5.1.1 no", "rcpt:b@x.example": b"550 5.7.1 never"}
GREETED = "Message-Id: <original@client.example>\n" + TEXT


def mail(
    name: str,
    *recipients: str,
    sender: str = "<alice@example.com>",
    rules: dict[str, bytes] = ONLY_FIRST,
    text: str | bytes = GREETED,
) -> Dialogue:
    steps = [HELLO, f"MAIL FROM:{sender}", *(f"RCPT TO:{each}" for each in recipients), "DATA", Body(text)]
    return Dialogue(name, steps, rules=rules)


A, B, TELL = "<a@x.example>", "<b@x.example>", "<a@no-dsn.example> NOTIFY=SUCCESS"
QUOTED = '<"a b"@x.example>'
LIST = "<list@example.com> XVERP"
CASES = {
    THREADS: [
        mail("failed", A),
        mail("failed, no Message-Id", A, text=TEXT),
        mail("succeeded", TELL, rules={}),
        mail("never", A + " NOTIFY=NEVER", B + " NOTIFY=FAILURE", rules=SOME),
        mail("null sender", A, sender="<>"),
        mail("null sender, success", TELL, sender="<>", rules={}),
        mail("null sender, headers", A, sender="<> RET=HDRS"),
        mail("identified", A, TELL, sender="<alice@example.com> ENVID=+20a+7E+2Bb+41+20"),
        mail("careless ORCPT", A + " ORCPT=x-400;+61+7Eb", TELL + " ORCPT=rfc822;+61+3D"),
        mail("verp", A, sender=LIST),
        mail("verp, quotes", QUOTED, sender=LIST, rules={'rcpt:"a b"@x.example': b"550 5.1.1 no"}),
        mail("verp, other characters", A, sender=LIST + "=-="),
        mail("verp, delivered", "<c@x.example>", "<d@y.example>", sender=LIST, rules={}),
        mail("8 bits", A, text=b"Subject: gr\xfcn\r\n\r\ngr\xfcn\r\n"),
        mail("7BIT", A, sender="<alice@example.com> BODY=7BIT"),
    ],
    TEMPLATED: [
        mail("failed", A),
        mail("succeeded", TELL, rules={}),
        mail("headers", A, sender="<alice@example.com> RET=HDRS"),
        mail("null sender", A, sender="<>"),
    ],
    INTERNAL: [
        mail("mapped and checked", A, text="X-Nested: yes\n" + GREETED),
        *(mail(word, A, text=f"{TEXT}{word}\n") for word in ("redirect", "copy", "filter", "replace")),
        mail("forwarded", "<list@local.example>", rules={}),
        mail("succeeded", TELL, rules={}),
    ],
    OLD: [
        mail("failed", A),
        mail("7BIT", A, sender="<alice@example.com> BODY=7BIT"),
        mail("8BITMIME", A, sender="<alice@example.com> BODY=8BITMIME"),
        mail("verp", A, B, sender=LIST, rules=SOME),
    ],
}


@each(CASES)
def test_notices(houses: Houses, config: Config, dialogue: Dialogue) -> None:
    houses.of(config).compare(dialogue)
