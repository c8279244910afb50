"""Where mail goes and by what: transport tables in all forms, classes, senders, LMTP, filters of answers."""

from __future__ import annotations

from oracle.dialogue import HELLO, TEXT, Body, Config, Dialogue, Houses, each
from oracle.upstream import DROP, OFFERS

TRANSPORT = """\
error1.example error:5.7.3 get lost
error2.example error:
error3.example error:no status here
error4.example error:4.7.3 an error for now
retry1.example retry:4.7.2 come back
retry2.example retry:
retry3.example retry:5.7.2 come back
discard1.example discard:silly
discard2.example discard:
noop.example :
hop.example :[127.0.0.1]:{port}
named.example other:[127.0.0.1]:{port}
second.example other:[127.0.0.1]:1, [127.0.0.1]:{port}
nowhere.example smtp:[127.0.0.1]:1 [127.0.0.1]:2
blank.example other: [127.0.0.1]:{port}
spaced.example error: 5.7.4 blanks before
domain.example other
closed.example other:[127.0.0.1]:1
.sub.example error:5.7.1 below sub
user@both.example error:5.7.1 the user
both.example :[127.0.0.1]:{port}
user+one@ext.example error:5.7.1 the extension
user@ext.example error:5.7.1 no extension
relayed.example relay:[127.0.0.1]:{port}
badport.example smtp:[127.0.0.1]:nosuch
bounced@here.example error:5.1.6 gone
other-family.example smtp:[::1]:{port}
other-form.example smtp:[ipv6:0:0::1]:{port}
"""
ROUTES = Config(
    "routes",
    {
        "recipient_delimiter": "+",
        "mydestination": "here.example",
        "local_recipient_maps": "",
        "virtual_alias_domains": "virtual.example",
        "virtual_alias_maps": "",
        "relay_domains": "relayed.example, plain-relay.example",
        "relay_recipient_maps": "",
        "relocated_maps": "inline:{ moved@example.net=new@example.org }",
        "alias_maps": "texthash:{dir}/aliases",
        "alias_database": "",
        "default_destination_concurrency_failed_cohort_limit": "0",
    },
    services=(("submission", {}), ("unfiltered", {"content_filter": ""})),
    files={
        "transport": TRANSPORT,
        "list": "# who\nfar@example.net, (comment) Near <near@example.org>\n\n:include:{dir}/more\none\n",
        "more": "more@example.net\n:include:{dir}/list\n",
        "commands": "|/bin/true\n",
        "nobody": "#nobody\n",
        "aliases": (
            "one far@example.net\ntwo far@example.net, near@example.org\nloop loop2\nloop2 loop\n"
            "owned far@example.net\nowner-owned boss@example.net\nnobody-here nosuchuser\n"
            "command |/bin/true\nnested two, more@example.net\n"
            "inner near@example.org, one\nowner-inner ida@example.org\n"
            "outer far@example.net, inner\nowner-outer otto@example.org\n"
            "unowned far@example.net, inner\nring rong\nrong ring\nempty :include:{dir}/nobody\n"
            "included :include:{dir}/list\nrestricted :include:{dir}/commands\n"
            "escaped \\\\one\nhome ~/x\nopen :include:{dir}/open\nlost :include:{dir}/lost\n"
            "relative :include:list\nodd x@y..z\nnobody2 ,\n"
        ),
    },
    transports={"other": {}},
)
EXPANDED = Config(
    "expanded",
    {
        **ROUTES.main,
        "frozen_delivered_to": "no",
        "reset_owner_alias": "yes",
        "expand_owner_alias": "yes",
        "propagate_unmatched_extensions": "canonical, virtual, alias, include",
        "prepend_delivered_header": "forward",
    },
    files=ROUTES.files,
    transports={"other": {}},
)
SENDERS = Config(
    "senders",
    {
        "sender_dependent_default_transport_maps": (
            "inline:{ alice@example.com=other:[127.0.0.1]:{port}, @dunno.example=DUNNO, "
            "{ <> = error:5.7.1 null senders } }"
        ),
        "sender_dependent_relayhost_maps": (
            "inline:{ carol@example.com=[127.0.0.1]:1, <>=[127.0.0.1]:{port}, "
            "{ dora@example.com = [127.0.0.1]:1, [127.0.0.1]:{port} }, local=[127.0.0.1]:2 }"
        ),
        "transport_maps": "",
        "smtp_fallback_relay": "[127.0.0.1]:{port}",
    },
    transports={"other": {"smtp_helo_name": "other.example"}},
)
CLIENT = Config(
    "client",
    {
        "smtp_connect_timeout": "5s",
        "flagged_destination_recipient_limit": "1",
        "mapped_destination_recipient_limit": "1",
    },
    transports={
        "flagged": {"flags": "DOR"},
        "many": {"flags": "DR"},
        "original": {"flags": "O"},
        "returned": {"flags": "RX"},
        "mapped": {
            "flags": "DOR",
            "smtp_generic_maps": "inline:{ alice@example.com=a@out.example, x@mapped.example=y@out.example }",
            "smtp_header_checks": "inline:{ Delivered-To=IGNORE } pcre:{dir}/flagged",
        },
        "filtered": {"smtp_delivery_status_filter": "pcre:{dir}/status"},
        "replies": {"smtp_reply_filter": "pcre:{dir}/replies"},
        "discards": {
            "smtp_discard_ehlo_keyword_address_maps": "inline:{ 127.0.0.1=pipelining, 192.0.2.1=dsn }"
        },
        "xforward": {"smtp_send_xforward_command": "yes"},
        "xforward-one": {"smtp_send_xforward_command": "yes", "smtp_discard_ehlo_keywords": "pipelining"},
        "pix": {"smtp_pix_workaround_threshold_time": "500"},
        "pix-maps": {"smtp_pix_workaround_maps": "inline:{ 127.0.0.1=delay_dotcrlf }"},
        "no-pix": {"smtp_pix_workarounds": ""},
        "plain-quotes": {"smtp_quote_rfc821_envelope": "no"},
    },
    files={
        "status": (
            "/^5(\\\\.1\\\\.1 .*)/ 4$1\n/^4(\\\\.2\\\\.1 .*)/ 5$1\n/^2\\\\.0\\\\.0 .*/ 2.1.5 fine\n"
            "/^5\\\\.7\\\\.9/ 2.0.0 well\n/^5\\\\.7\\\\.8/ nonsense\n"
        ),
        "replies": "/^550( .*)/ 450$1\n/^250-DSN/ 250-X-NOTHING\n",
        "flagged": "/^X-Original-To: (.*)/ REPLACE X-Was-To: <$1>\n",
    },
    offers=(*OFFERS, "XFORWARD NAME ADDR PROTO HELO SOURCE"),
)
LMTP = Config(
    "lmtp",
    {
        "transport_maps": (
            "texthash:{dir}/transport, inline:{ inet.example=mail:inet:127.0.0.1:{port}, "
            "bare.example=mail:127.0.0.1:{port}, missing.example=mail:unix:private/none, "
            "{ listed.example = mail:inet:[127.0.0.1]:1, [127.0.0.1]:{port} }, "
            "absent.example=mail:unix:/nonexistent/x, "
            "file.example=mail:unix:/etc/passwd, "
            f"long.example=mail:unix:/{'x' * 120} }}"
        ),
        "default_destination_concurrency_failed_cohort_limit": "0",
    },
    lmtps={
        "mail": {},
        "slow": {"lmtp_discard_lhlo_keywords": "pipelining"},
        "named": {"lmtp_lhlo_name": "me.example"},
        "final": {"flags": "X", "lmtp_discard_lhlo_keywords": "dsn"},
        "final-dsn": {"flags": "X"},
        "assumed": {"lmtp_assume_final": "yes", "lmtp_discard_lhlo_keywords": "dsn"},
        "assumed-dsn": {"lmtp_assume_final": "yes"},
        "relayed": {"lmtp_discard_lhlo_keywords": "dsn"},
        **{f"dead{number}": {} for number in range(1, 5)},
    },
)


def to(
    *recipients: str,
    sender: str = "alice@example.com",
    rules: dict[str, bytes] | None = None,
    tls: str = "none",
    service: str = "submission",
    text: str = TEXT,
) -> Dialogue:
    """Mail to these recipients."""
    steps = [HELLO, f"MAIL FROM:<{sender}>", *(f"RCPT TO:{each}" for each in recipients), "DATA", Body(text)]
    name = (
        f"{sender} to {' '.join(recipients)[:60]}, {' '.join(f'{k} {v!r}' for k, v in (rules or {}).items())}"
    )
    return Dialogue(name, steps, rules=rules or {}, tls=tls, service=service)


ALL = [line.split()[0] for line in TRANSPORT.splitlines()]
CASES = {
    ROUTES: [
        *(
            to(f"<user@{domain}>", tls="none?" if domain in ("closed.example", "nowhere.example") else "none")
            for domain in ALL
            if "@" not in domain and domain[0] != "." and domain not in ("domain.example", "badport.example")
        ),
        to("<user@a.sub.example>"),
        to("<user@sub.example>"),
        to("<user@both.example>"),
        to("<other@both.example>"),
        to("<user+one@ext.example>"),
        to("<user+two@ext.example>"),
        to("<USER@Error1.EXAMPLE>"),
        to("<bounced@here.example>"),
        to("<moved@example.net>"),
        to("<moved+ext@example.net>"),
        to("<nobody@virtual.example>"),
        to("<user@plain-relay.example>"),
        to("<double-bounce@here.example>"),
        to("<user%example.net@here.example>"),
        to("<a@error1.example>", "<b@retry1.example>", "<c@discard1.example>", "<d@example.net>"),
        to("<a@error1.example> NOTIFY=NEVER"),
        to("<a@discard1.example> NOTIFY=SUCCESS"),
        to("<a@error1.example>", sender=""),
        # aliases
        to("<nosuchuser@here.example>"),
        to("<one@here.example>"),
        to("<one+ext@here.example>"),
        to("<two@here.example>"),
        to("<nested@here.example>"),
        to("<owned@here.example>"),
        to("<One@Here.example>"),
        to("<outer@here.example>"),
        to("<unowned@here.example>"),
        to("<included@here.example>"),
        to("<included+ext@here.example>"),
        to("<one+ext@here.example>", text="Delivered-To: one@here.example\n" + TEXT),
        to("<loop@here.example>"),
        to("<ring@here.example>"),
        to("<odd@here.example>"),
        to("<restricted@here.example>"),
        to("<lost@here.example>"),
        to("<relative@here.example>"),
        to("<home@here.example>"),
        to("<nobody2@here.example>"),
        to("<escaped@here.example>"),
        to("<nobody-here@here.example>"),
        to("<postmaster@here.example>"),
        to("<one@here.example> NOTIFY=SUCCESS"),
        to("<owned@here.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;x@y.example"),
        to("<one@here.example>", text="Delivered-To: one@here.example\n" + TEXT),
    ],
    EXPANDED: [
        *(
            to(f"<{user}@here.example>")
            for user in ("one", "one+ext", "nested", "outer", "unowned", "included+ext", "owned+ext")
        ),
    ],
    SENDERS: [
        to("<x@example.net>"),
        to("<x@example.net>", sender="carol@example.com"),
        to("<x@example.net>", sender="dora@example.com"),
        to("<x@example.net>", sender="local@example.com"),
        to("<x@example.net>", sender="any@dunno.example"),
        to("<x@example.net>", sender=""),
    ],
    CLIENT: [
        to("<x@filtered.example>"),
        to("<x@filtered.example>", rules={"rcpt": b"550 5.1.1 no such user"}),
        to("<x@filtered.example>", rules={"rcpt": b"450 4.2.1 wait"}),
        to("<x@replies.example> NOTIFY=SUCCESS"),
        to("<x@replies.example>", rules={"rcpt": b"550 5.1.1 no such user"}),
        to("<x@discards.example>"),
        to("<x@xforward.example>"),
        to("<x@xforward-one.example>"),
        to("<x@xforward.example>", rules={"xforward": b"501 5.5.4 no"}),
        to("<x@pix.example>", rules={"connect": b"220 ***************************"}),
        to("<x@pix-maps.example>", rules={"connect": b"220 ****************02**********0"}),
        to("<x@no-pix.example>", rules={"connect": b"220 ***************************"}),
        to('<"x y"@plain-quotes.example>'),
        # flags= in master.cf
        to("<x@flagged.example>"),
        to("<x@flagged.example>", "<y@flagged.example>"),
        to('<"x y"@flagged.example>', sender=""),
        to("<x@flagged.example>", text="Delivered-To: other@flagged.example\n" + TEXT),
        to("<x@flagged.example>", text="DELIVERED-TO:  X@Flagged.example\n" + TEXT),
        to("<x@flagged.example>", text="Subject: x\n Delivered-To: x@flagged.example\n\nx\n"),
        to('<"x y"@flagged.example>', text='Delivered-To: "x y"@flagged.example\n' + TEXT),
        to("<alias@example.com>"),
        to("<x@many.example>"),
        to("<x@many.example>", "<y@many.example>"),
        to("<x@original.example>", "<y@original.example>"),
        to("<x@returned.example>", "<y@returned.example> NOTIFY=SUCCESS"),
        to("<x@mapped.example>"),
        to("<x@mapped.example>", text="Delivered-To: y@out.example\n" + TEXT),
        to("<x@mapped.example>", text="Delivered-To: x@mapped.example\n" + TEXT),
    ],
    LMTP: [
        to("<x@mail.example>"),
        to("<x@mail.example>", "<y@mail.example>", "<z@mail.example>"),
        to("<x@slow.example>", "<y@slow.example>"),
        to("<x@named.example>"),
        *(to(f"<x@{name}.example>") for name in ("inet", "bare", "listed")),
        *(to(f"<x@{name}.example>", tls="none?") for name in ("missing", "absent", "file", "long")),
        *(
            to(f"<x@{name}.example> NOTIFY=SUCCESS")
            for name in ("final", "final-dsn", "assumed", "assumed-dsn", "relayed")
        ),
        to("<x@mail.example>", "<y@mail.example>", rules={"rcpt:x@mail.example": b"550 5.1.1 no"}),
        to("<x@mail.example>", "<y@mail.example>", rules={"dot:x@mail.example": b"550 5.2.2 full"}),
        to("<x@mail.example>", "<y@mail.example>", rules={"dot:y@mail.example": b"452 4.2.2 full"}),
        to("<x@mail.example>", "<y@mail.example>", rules={"dot": b"550 5.2.2 full"}),
        to("<x@mail.example>", rules={"rcpt": b"550 5.1.1 no"}),
        to("<x@slow.example>", rules={"mail": b"451 4.3.0 no"}),
        to("<x@mail.example>", rules={"data": b"451 4.3.0 no"}),
        to("<x@slow.example>", rules={"rcpt": b"550 5.1.1 no"}),
        *(
            to(f"<x@dead{number}.example>", rules={"connect" if number < 3 else "ehlo": reply}, tls=tls)
            for number, (reply, tls) in enumerate(
                ((b"450 4.3.2 busy", "none?"), (DROP, "none?"), (DROP, "none?")),
                1,
            )
        ),
    ],
}


@each(CASES)
def test_delivery(houses: Houses, config: Config, dialogue: Dialogue) -> None:
    houses.of(config).compare(dialogue)
