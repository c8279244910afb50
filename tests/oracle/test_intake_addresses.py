# ruff: noqa: E501  (tables of messages are clearer with whole lines)
"""Addresses of envelopes and headers on their way into the queue: completed, mapped, masked, expanded, copied.

One instance of each serves all rules: a service of cleanup(8) for each, and an smtpd that leads to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from oracle.dialogue import HELLO, Body, Config, Dialogue, Houses, each

#: A message: sender, recipients (with parameters, perhaps), text.
Mail = tuple[str, Sequence[str], str]

PLAIN = "From: alice@example.com\nTo: bob@example.net\nSubject: x\n\ny\n"


def to(*recipients: str, sender: str = "alice@example.com", text: str = PLAIN) -> Mail:
    return sender, recipients, text


def headers(*lines: str) -> Mail:
    return to("bob@example.net", text="\n".join((*lines, "Subject: x", "", "y", "")))


#: Headers as people write them, and worse.
LISTS = (
    "To: bob",
    "To: bob@example.net",
    "To: bob@host",
    "To: Bob <bob>",
    'To: "Bob B." <bob@host>, carol (c), <dave@example.net>',
    "To: friends: bob, carol@host; eve@example.net",
    "To: a b c <bob>",
    "To: a, b, c,, d",
    "To: bob carol",
    "To: undisclosed-recipients:;",
    "To: <>",
    "To:",
    "To: @",
    "To: <@a,@b:bob@host>",
    "To: @a:bob",
    "To: host!bob, bob%host, a!b%c, a%b@c, \"a!b\", 'a%b'",
    'To: "a b"@host, "a.b"@host, a."b c"@host, "a@b", a\\ b@host',
    "To: bob@[192.0.2.1], bob@192.0.2.1, bob@host., bob@host.., bob@.",
    "To: bob (a (nested) comment) @ host . example",
    "To: (only a comment)",
    "To: bob@host;",
    "To: bob, :, carol, a:, dave",
    'To: "unfinished <bob@host>',
    "To: <bob@host",
    "To: bob@host>",
    "To: b\u00f6b@host, b\u00f6b@h\u00f6st.example, B\u00f6b <bob>",
    "To:\n bob,\n\tcarol,\n  dave@example.net",
    "To: " + ", ".join(f"user{number}" for number in range(30)),
    "To: " + ", ".join(f'"User number {number}" <user{number}@host>' for number in range(12)),
    "To: " + "x" * 300 + " <bob>",
    "To: bob (" + "y" * 300 + ")",
    "To: " + "z" * 120 + "@" + "w" * 40,
    "Cc: bob\nBcc: carol\nReply-To: dave\nSender: eve\nErrors-To: frank\nApparently-To: grace",
    "Resent-To: bob\nResent-From: carol\nResent-Cc: dave\nResent-Bcc: eve\nResent-Sender: f\nResent-Reply-To: g",
    "Return-Receipt-To: bob\nDisposition-Notification-To: carol\nMail-Followup-To: dave\nReturn-Path: eve",
    "X-To: bob\nIn-Reply-To: bob\nDelivered-To: bob",
    "From: alice\nFrom: bob, carol\nTo : dave",
    "Content-Type: message/rfc822\n\nTo: bob",
)

CANONICAL = {
    "canonical": "alice@example.com alice.a@example.org\nbob@example.net bob.b@example.net\n"
    "loop@example.com loop2@example.com\nloop2@example.com loop@example.com\n"
    "self@example.com SELF@example.com\nbare b\nhost@example.com user@host\n"
    "two@example.com one@example.com, three@example.com\nquoted@example.com \"a b\"@example.com\n"
    "@old.example @new.example\nfirst@chain.example second@chain.example\n"
    "second@chain.example third@chain.example\n\"q q\"@example.com plain@example.com\nnone@example.com ,\n"
    "root bob.b@example.net\n",
    "senders": "alice@example.com sender@example.org\nbob@example.net sender-bob@example.org\n",
    "recipients": "bob@example.net recipient@example.org\nalice@example.com recipient-alice@example.org\n",
    "virtual": "list@example.net a@example.net, b@example.net, list2@example.net\n"
    "list2@example.net c@example.net\nendless@example.net x@example.net, endless2@example.net\nendless2@example.net y@example.net, endless@example.net\nself@example.net self@example.net, copy@example.net\n"
    "@cat.example catch@example.net\none@example.net ONE@example.net\nab@example.net ba@example.net\n"
    "ba@example.net ab@example.net\nempty@example.net ,\nbig@example.net " + ", ".join(f"u{n}@x.example" for n in range(9))
    + "\nlong@example.net " + "x" * 60 + "@example.net\n@dom.example @other.example\nq@example.net \"a b\"@example.net\n"
    "bare@example.net bare\nboth@example.net bob@example.net, bob@example.net, BOB@example.net\n"
    "postmaster admin@example.net\nc1@example.net c2@example.net\nc2@example.net c3@example.net\nc3@example.net c4@example.net\n",
    "clients": "127.0.0.1 x\n",
    "regexps": "/\\+ext@/ found@example.org\n/^x@/ at@example.org\n",
    "sbcc": "alice@example.com archive@example.org\n@cat.example ab@example.org\n",
    "rbcc": "bob@example.net archive-bob@example.org\ncarol@example.net bob@example.net\n",
}  # fmt: skip

MANY = (
    to("bob@example.net"),
    to("carol@example.net", sender="bob@example.net"),
    to("bob@example.net", "carol@example.net", "BOB@example.net", "bob@example.net"),
    to("bob", "bob@example.com", "bob@host", sender="alice"),
    to("bob+x@example.net", "bob+y@example.net", sender="alice+z@example.com"),
    to("user@old.example", "u@sub.old.example", sender="x@old.example"),
    to("first@chain.example", sender="first@chain.example"),
    to('"q q"@example.com', "quoted@example.com", sender='"q q"@example.com'),
    to("self@example.com", "two@example.com"),
    to("loop@example.com"),
    to("host@example.com", sender="host@example.com"),
    to("none@example.com"),
    to("bob@example.net", sender=""),
    to("bob@example.net NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;x@y.example", sender="alice@example.com RET=HDRS ENVID=e"),
    headers("From: alice@example.com", "To: bob@example.net, two@example.com, quoted@example.com", "Cc: user@old.example"),
    headers('From: "A" <alice@example.com>, self@example.com', 'Reply-To: "q q"@example.com (c), loop@example.com'),
    headers("From: Alice <ALICE@Example.COM>", "To: Bob+ext <bob+ext@example.net>"),
    headers("Sender: first@chain.example", "To: root", "From: host@example.com"),
)  # fmt: skip

MASKED = (
    to("bob@a.example.com", sender="alice@b.a.example.com"),
    to("root@a.example.com", sender="root@b.a.example.com"),
    headers("From: alice@a.example.com", "To: bob@b.example.com, root@c.example.com, x@keep.example.com"),
    headers("From: alice@EXAMPLE.com", "To: bob@notexample.com, y@a.keep.example.com, \"a b\"@a.example.com"),
)  # fmt: skip

ALIASES = (
    to("list@example.net"),
    to("list@example.net NOTIFY=SUCCESS ORCPT=rfc822;x@y.example"),
    to("list@example.net NOTIFY=FAILURE", "self@example.net NOTIFY=SUCCESS,DELAY", "d@example.net NOTIFY=SUCCESS"),
    to("self@example.net", "copy@example.net"),
    to("x@cat.example", "y@cat.example"),
    to("one@example.net"),
    to("bare@example.net", "q@example.net", "u@dom.example", "@dom.example"),
    to("both@example.net", "bob@example.net"),
    to("list+ext@example.net", "self+ext@example.net"),
    to("postmaster"),
    to("c1@example.net"),
    to("list@example.net NOTIFY=SUCCESS,FAILURE", "bob@example.net NOTIFY=SUCCESS", sender=""),
)  # fmt: skip
BROKEN = (
    to("ab@example.net"),
    to("big@example.net"),
    to("long@example.net"),
    to("empty@example.net"),
    to("endless@example.net"),
)

COPIED = (
    to("bob@example.net"),
    to("carol@example.net", sender="x@cat.example"),
    to("carol@example.net", "bob@example.net", sender=""),
    to("list@example.net", "bob@example.net NOTIFY=SUCCESS"),
)

PATTERNS = (
    to('"a b+ext"@example.net', "a+ext@example.net", sender='"x@y"@example.net'),
    headers(
        'From: "x y+ext"@example.net, z+ext@example.net', 'To: "@"@example.net, "a..b+ext"@example.net (c)'
    ),
)

RULES: dict[str, tuple[Mapping[str, str], Sequence[Mail]]] = {
    "plain": ({}, tuple(headers(line) for line in LISTS)),
    "canonical": ({"canonical_maps": "texthash:{dir}/canonical"}, MANY),
    "senders": ({"sender_canonical_maps": "texthash:{dir}/senders"}, MANY[:5] + MANY[14:17]),
    "recipients": ({"recipient_canonical_maps": "texthash:{dir}/recipients"}, MANY[:5] + MANY[14:17]),
    "all three": (
        {
            "canonical_maps": "texthash:{dir}/canonical",
            "sender_canonical_maps": "texthash:{dir}/senders",
            "recipient_canonical_maps": "texthash:{dir}/recipients",
            "canonical_classes": "envelope_sender, header_recipient",
            "sender_canonical_classes": "header_sender",
            "recipient_canonical_classes": "envelope_recipient",
            "propagate_unmatched_extensions": "",
        },
        MANY[:5] + MANY[14:17],
    ),
    "patterns": (
        {"canonical_maps": "pcre:{dir}/regexps", "virtual_alias_maps": "pcre:{dir}/regexps"},
        PATTERNS,
    ),
    "few duplicates": (
        {"duplicate_filter_limit": "1", "enable_original_recipient": "no"},
        (to("bob@example.net", "carol@example.net", "carol@example.net", "BOB@example.net"),),
    ),
    "few tokens": (
        {"header_address_token_limit": "5"},
        (headers("To: Bob B. Bobson <bob@example.net>, carol@example.net", "From: a@example.net, b"),),
    ),
    "masquerade": (
        {
            "masquerade_domains": "!keep.example.com, example.com",
            "masquerade_exceptions": "root",
            "masquerade_classes": "envelope_sender, envelope_recipient, header_sender, header_recipient",
        },
        MASKED,
    ),
    "masquerade less": ({"masquerade_domains": "a.example.com example.com"}, MASKED),
    "aliases": ({"virtual_alias_maps": "texthash:{dir}/virtual"}, ALIASES + BROKEN[3:]),
    "few aliases": (
        {
            "virtual_alias_maps": "texthash:{dir}/virtual",
            "virtual_alias_expansion_limit": "8",
            "virtual_alias_recursion_limit": "2",
            "virtual_alias_address_length_limit": "50",
            "propagate_unmatched_extensions": "",
            "enable_original_recipient": "no",
        },
        (*BROKEN, *ALIASES),
    ),
    "failing": (
        {"virtual_alias_maps": "static:a@b.example", "sender_bcc_maps": "texthash:{dir}/nowhere"},
        (to("bob@example.net"), to("bob@example.net", sender="")),
    ),
    "copies": (
        {
            "always_bcc": "all@example.org",
            "sender_bcc_maps": "texthash:{dir}/sbcc",
            "recipient_bcc_maps": "texthash:{dir}/rbcc",
            "virtual_alias_maps": "texthash:{dir}/virtual",
        },
        COPIED,
    ),
    "copies of mapped": (
        {
            "always_bcc": "bob@example.net",
            "sender_bcc_maps": "texthash:{dir}/sbcc",
            "recipient_bcc_maps": "texthash:{dir}/rbcc",
            "recipient_canonical_maps": "texthash:{dir}/recipients",
            "enable_original_recipient": "no",
        },
        COPIED,
    ),
}

#: The same lists of addresses under other rules for completing them.
REWRITING = {
    "dots": {"append_dot_mydomain": "yes"},
    "bare": {"append_at_myorigin": "no", "swap_bangpath": "no", "allow_percent_hack": "no"},
}
#: What the smtpd service itself says.
SERVICES: dict[str, Mapping[str, str]] = {
    "remote": {"local_header_rewrite_clients": ""},
    "remote domain": {"local_header_rewrite_clients": ""},
    "remote nothing": {"local_header_rewrite_clients": ""},
    "by address": {"local_header_rewrite_clients": "check_address_map texthash:{dir}/clients"},
    "by network": {"local_header_rewrite_clients": "permit_mynetworks"},
    "by interface": {"local_header_rewrite_clients": "permit_inet_interfaces"},
    "by login": {"local_header_rewrite_clients": "permit_sasl_authenticated, permit_tls_all_clientcerts"},
    "all": {"local_header_rewrite_clients": "static:all"},
    "no mapping": {"receive_override_options": "no_address_mappings"},
}


def _service(name: str) -> str:
    return name.replace(" ", "-")


def _play(service: str, mails: Sequence[Mail]) -> list[Dialogue]:
    """The mails, a few to a session; one whose delivery is notified by itself, as queue ids come in an order."""
    groups: list[list[Mail]] = [[]]
    for mail in mails:
        alone = any("SUCCESS" in recipient for recipient in mail[1])
        if alone or len(groups[-1]) == 6:
            groups.append([])
        groups[-1].append(mail)
        if alone:
            groups.append([])
    return [
        Dialogue(
            f"{service} {number}",
            [HELLO, *(step for mail in group for step in _steps(mail))],
            service=_service(service),
        )
        for number, group in enumerate(filter(None, groups), 1)
    ]


def _steps(mail: Mail) -> list[str | Body]:
    sender, recipients, text = mail
    return [
        f"MAIL FROM:{_path(sender)}",
        *(f"RCPT TO:{_path(one)}" for one in recipients),
        "DATA",
        Body(text),
    ]


def _path(text: str) -> str:
    """``address PARAMETERS`` as they stand in a command."""
    if text.startswith('"'):
        return f"<{text}>"
    address, blank, rest = text.partition(" ")
    return f"<{address}>{blank}{rest}"


def _cleanups() -> dict[str, Mapping[str, str]]:
    found = {f"clean-{_service(name)}": settings for name, (settings, _) in RULES.items()}
    found |= {f"clean-{name}": {"rewrite_service_name": f"rewrite-{name}"} for name in REWRITING}
    domain = {"remote_header_rewrite_domain": "domain.invalid"}
    found["clean-remote-domain"] = {**domain, "rewrite_service_name": "rewrite-domain"}
    found["clean-remote-nothing"] = domain
    return found


CONFIG = Config(
    "addresses",
    {"mydomain": "example.com", "recipient_delimiter": "+", "always_add_missing_headers": "yes"},
    services=[
        *(
            (_service(name), {"cleanup_service_name": f"clean-{_service(name)}"})
            for name in (*RULES, *REWRITING)
        ),
        *(
            (_service(name), {**settings, "cleanup_service_name": f"clean-{used}"})
            for (name, settings), used in zip(
                SERVICES.items(),
                ("plain", "remote-domain", "remote-nothing", *["plain"] * 5, "copies"),
                strict=True,
            )
        ),
    ],
    cleanups=_cleanups(),
    rewriters={
        **{f"rewrite-{name}": settings for name, settings in REWRITING.items()},
        "rewrite-domain": {"remote_header_rewrite_domain": "domain.invalid", "append_dot_mydomain": "yes"},
    },
    files=CANONICAL,
)

CASES = {
    CONFIG: [
        *(dialogue for name, (_, mails) in RULES.items() for dialogue in _play(name, mails)),
        *(dialogue for name in REWRITING for dialogue in _play(name, RULES["plain"][1])),
        *_play("bare", [to("bob", "carol@host", "a!b", "c%d", sender="alice")]),
        *_play("remote", [*RULES["plain"][1][:6], *RULES["plain"][1][-6:]]),
        *_play("remote domain", RULES["plain"][1]),
        *_play("remote nothing", RULES["plain"][1][:18]),
        *(dialogue for name in [*SERVICES][3:-1] for dialogue in _play(name, RULES["plain"][1][:1])),
        *_play("no mapping", COPIED),
    ]
}


@each(CASES)
def test_addresses(houses: Houses, config: Config, dialogue: Dialogue) -> None:
    houses.of(config).compare(dialogue)
