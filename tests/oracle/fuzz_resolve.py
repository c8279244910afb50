"""Random routing rules and random addresses, put to Postfix's trivial-rewrite(8) and to mtad.

:func:`rules` makes the parameters of one configuration from a seed, :func:`questions` what is asked of it:
to complete an address, or to find its transport, next hop and recipient, for mail of some sender.  Postfix
runs a service of its own for each configuration, so that one instance answers for hundreds.  The same seed
always makes the same rules and questions::

    python -m oracle.fuzz_resolve 5000 6000     (from the directory ``tests``): what differs, seed by seed
"""

from __future__ import annotations

import random
import re
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from oracle.postfix import Postfix

from mtad.config.parameters import Parameters
from mtad.deliver.route import Router
from mtad.errors import TableError
from mtad.rewrite.address import Rewriter
from mtad.rewrite.classes import AddressClasses
from mtad.rewrite.resolve import Resolver
from mtad.tables.table import no_warning
from mtad.wire.tokens import quote

#: Configurations in one instance of Postfix: each has a process as soon as it is asked.
TOGETHER = 100
QUESTIONS = 60

BASE = {
    "compatibility_level": "3.6",
    "inet_interfaces": "127.0.0.1",
    "inet_protocols": "ipv4",
    "alias_maps": "",
    "local_recipient_maps": "",
}

HERE = ["here.example", "also.example", "mail.example.com", "localhost", "example.com", "H\u00e4us.example"]
THERE = ["alias.example", "box.example", "relay.example", "a.relay.example", "a.b.dotted.example"]
AWAY = ["far.example", "a.far.example", "b.a.far.example", "far", "m\u00fcnchen.example", "xn--tda.example"]
ODD = ["", ".", "here .example", "[ 127.0.0.1 ]", "a b", "[127.0.0.1]x", "[1.2.3.4]."]
ODD += re.findall(
    r"\S+",
    r"""
    far..example 1.2.3.4 -far.example far-.example far_x.example far.example. here.example. here.example.. ::1
    0.0.0.0 [1.2.3.4] [127.0.0.1] [192.0.2.7] [IPv6:::1] [ipv6:2001:db8::1] [IPv6:::ffff:127.0.0.1] [x]
    [1.2.3.4
    "here.example" here\.example (c) HERE.example [127.1] [0127.0.0.1] 127.0.0.1 example
""",
)
ODD += "x" * 63 + ".example", "x" * 64 + ".example", "x." * 127 + "x", "x." * 128 + "x"
ODD += [  # IDNA
    "f\u00fc\u00df.example", "\u3042.example", "\u2615.example", "\u0301a.example", "\u200d\u00fc.example",
    "far\u3002example", "\uff26\uff21\uff32.example", "\u05d0\u00fc.example", "xn--\u00fc.example",
    "ab--\u00fc.example", "-\u00fc.example", "\u00fc-.example", "\u00fc..example", "\u00fc.example.",
    "xn--tda.\u00fc.example", "xn--a.\u00fc.example", "\u00fc" * 60, "\u00ad\u00fc.example", "\u2024.example",
    "\ue000.example", "\u212aelvin.example", "\u0130.example", "\u00fc_x.example", "\u03c2.example",
]  # fmt: skip
USERS = ["", "a b", 'q"t', "a\\b", "\t", "a\x01b", "\u00fcser", "a b%here.example", "a b!c", "a\rb", "a\nb"]
USERS += re.findall(
    r"\S+",
    r"""
    user User list u.v owner-x x-request postmaster Mailer-Daemon double-bounce user+ext user-ext user=ext
    +ext
    user+ u+e+f u-e+f -dash a..b .a a. a,b a:b <a> a(c) a;b [a] a|b * user%far.example far.example!user
    user@far.example user%here.example here.example!user user@here.example a%b%here.example here.example!b!c
    a@b@here.example @r:u @r,@s:u@x % ! a% !a a! %a user% u@ @ b!a%c a!b@c user%far.example. far.!u
""",
)
PIECES = [
    "a",
    "B",
    "b.c",
    "here.example",
    "far.example",
    "\u00fc",
    " ",
    "\t",
    "[1.2.3.4]",
    "\x7f",
    "example.com",
]
PIECES += list("@@@%%!!..:-+1\"\\,()<>[];|#*='")
ORIGINS = ["example.com", "$myhostname", "far.example", "host", "here.example", "here.example."]
NOBODIES = ["MAILER-DAEMON", "MAILER-DAEMON", "nobody@far.example", "x%far.example"]
RELAYED = ["relay.example", ".dotted.example", "far", "box.example", "[1.2.3.4]"]
MOVED = ["new@x.example", "5.1.6 moved", "x y"]
PARENTS = ["", "relay_domains", "transport_maps", "relay_domains,transport_maps"]
HOPS = [
    "",
    "hop.example",
    "[hop.example]:26",
    "[1.2.3.4]",
    "Hop.Example:smtp",
    "5.1.1 no such user",
    "unix:/x",
]
HOPS += ["[a.example]:587, b.example", "hop.example:", "inet:h:24", "a,b", "5.1.1", "\u00fc.example"]
TRANSPORTS = ["", "smtp", "relay", "lmtp", "other", "error", "retry", "discard", "local", "no-such"]
SENDERS = [
    "user@here.example",
    "user+ext@far.example",
    "User@far.example",
    "list@x.example",
    "any@far.example",
    "nodomain",
    "",
    "user@example.com",
    "-x@far.example",
    "\u00fc@far.example",
    "a..b@here.example",
    "user@mail.example.com",
]


class Question(NamedTuple):
    """``rule``: ``local`` and ``remote`` complete an address in external form, ``resolve`` and ``verify``
    route one in internal form."""

    rule: str
    sender: bytes
    address: bytes


def rules(seed: int) -> dict[str, str]:
    """The routing parameters of a configuration."""
    r = random.Random(seed)
    delimiter = r.choice(("", "+", "+", "-", "+-", "="))
    made: dict[str, str] = {
        "myhostname": "mail.example.com",
        "mydomain": "example.com",
        "myorigin": r.choice(ORIGINS),
        "mydestination": _domains(r, ("$myhostname", *HERE, "far"), "mydestination"),
        "proxy_interfaces": r.choice(("", "192.0.2.7", "192.0.2.7, 1.2.3.4")),
        "virtual_alias_domains": _domains(r, ("alias.example", "here.example", "both.example"), ""),
        "virtual_mailbox_domains": _domains(r, ("box.example", "both.example", "alias.example", AWAY[4]), ""),
        "relay_domains": _domains(r, RELAYED, ""),
        "recipient_delimiter": delimiter,
        "empty_address_recipient": r.choice(NOBODIES),
        "relayhost": _maybe(r, 0.4, lambda: r.choice(HOPS[1:])),
        "default_transport": _transport(r, "smtp"),
        "local_transport": _transport(r, "local:$myhostname"),
        "virtual_transport": _transport(r, "virtual"),
        "relay_transport": _transport(r, "relay"),
        "transport_maps": _maybe(r, 0.7, lambda: _maps(r, _routed_keys(r), lambda: _route(r))),
        "relocated_maps": _maybe(r, 0.2, lambda: _maps(r, _address_keys(r), lambda: r.choice(MOVED))),
        "sender_dependent_relayhost_maps": _maybe(
            r, 0.3, lambda: _maps(r, _sender_keys(r), lambda: r.choice((*HOPS[1:], "DUNNO", "dunno")))
        ),
        "sender_dependent_default_transport_maps": _maybe(
            r, 0.3, lambda: _maps(r, _sender_keys(r), lambda: r.choice((_route(r), "Dunno")))
        ),
        "parent_domain_matches_subdomains": r.choice(PARENTS),
    }  # fmt: skip
    for name, often in (
        ("append_dot_mydomain", 0.3),
        ("append_at_myorigin", 0.8),
        ("swap_bangpath", 0.7),
        ("allow_percent_hack", 0.7),
        ("resolve_dequoted_address", 0.8),
        ("resolve_null_domain", 0.3),
        ("resolve_numeric_domain", 0.3),
        ("allow_min_user", 0.2),
        ("smtputf8_enable", 0.7),
        ("show_user_unknown_table_name", 0.8),
    ):
        made[name] = "yes" if r.random() < often else "no"
    if r.random() < 0.2:
        made["remote_header_rewrite_domain"] = r.choice(("domain.invalid", "host"))
    if r.random() < 0.3:
        made["address_verify_relayhost"] = r.choice(("", "verify.example"))
        made["address_verify_transport_maps"] = _maps(r, _routed_keys(r), lambda: _route(r))
    if made["smtputf8_enable"] == "no":
        made["mydestination"] = made["mydestination"].replace("\u00e4", "a")
    if r.random() < 0.1:
        broken = r.choice(("relay_domains", "transport_maps", "relocated_maps", "mydestination"))
        made[broken] += " fail:broken"
    return made


def _maybe(r: random.Random, often: float, make: Callable[[], str]) -> str:
    return make() if r.random() < often else ""


def _domains(r: random.Random, names: Sequence[str], name: str) -> str:
    chosen = [each for each in names if r.random() < 0.6]
    if r.random() < 0.2:
        chosen.insert(0, "!" + r.choice((*names, "a.relay.example")))
    if r.random() < 0.2:
        chosen.append("inline:{tabled.example=x, .relay.example=x, far.example=x}")
    return ", ".join(chosen)


def _transport(r: random.Random, usual: str) -> str:
    if r.random() < 0.6:
        return usual
    return r.choice(TRANSPORTS[1:]) + r.choice(("", "", ":" + r.choice(HOPS)))


def _route(r: random.Random) -> str:
    found = r.choice(TRANSPORTS) + r.choice(("", ":", ":" + r.choice(HOPS)))
    return found or ":"


def _domain(r: random.Random) -> str:
    return r.choice((*HERE, *THERE, *AWAY, *AWAY, *THERE))


def _user(r: random.Random) -> str:
    return r.choice(("user", "user", "user+ext", "list", "a..b", '"a..b"', "u.v", "\u00fcser", "x-request"))


def _address_keys(r: random.Random) -> list[str]:
    kinds = (
        lambda: f"{_user(r)}@{_domain(r)}",
        lambda: f"@{_domain(r)}",
        lambda: _user(r),
    )
    return [r.choice(kinds)().lower() for _ in range(r.randrange(1, 8))]


def _sender_keys(r: random.Random) -> list[str]:
    return [
        *_address_keys(r),
        *(each for each in SENDERS if each and r.random() < 0.3),
        *_maybe(r, 0.5, lambda: "<>").split(),
    ]


def _routed_keys(r: random.Random) -> list[str]:
    kinds = (
        lambda: _domain(r),
        lambda: "." + _domain(r),
        lambda: ".example",
        lambda: "*",
    )
    return [*_address_keys(r), *(r.choice(kinds)().lower() for _ in range(r.randrange(6)))]


def _maps(r: random.Random, keys: Sequence[str], value: Callable[[], str]) -> str:
    entries = {key.casefold(): value() for key in keys}
    text = "inline:{" + ", ".join(f"{{{key} = {found}}}" for key, found in entries.items()) + "}"
    if r.random() < 0.15:
        text += " regexp:{{/^([a-z]+)@([a-z]+)/ smtp:[$2]:$1}}" if r.random() < 0.2 else ""
        text += f" regexp:{{{{/{r.choice(('far', '@a', '^user', 'ext@', '[*]'))}/ {value()}}}}}"
    return text


def questions(seed: int, count: int = QUESTIONS) -> list[Question]:
    """What to ask of the configuration of a seed."""
    r = random.Random(~seed)
    made_rules = rules(seed)
    utf8 = made_rules["smtputf8_enable"] == "yes"
    broken = any("fail:" in value for value in made_rules.values())
    made = []
    for _ in range(count):
        rule = r.choice(("resolve",) * 8 + ("verify", "local", "local", "remote"))
        how = r.random()
        if how < 0.6:
            text = f"{r.choice(USERS)}@{r.choice((_domain(r), _domain(r), r.choice(ODD)))}"
        elif how < 0.7:
            text = r.choice(USERS)
        else:
            text = "".join(r.choices(PIECES, k=r.randrange(10)))
        if r.random() < 0.2 and (utf8 or text.isascii()):  # else Postfix folds ASCII only
            text = text.swapcase()
        address = text.encode()
        if utf8 and not broken and r.random() < 0.02:  # no table of ours takes what is no UTF-8
            address = b"\xff" + address
        if rule in ("local", "remote") and not address.strip():
            continue  # which ends Postfix' process
        if rule in ("local", "remote") and r.random() < 0.5:
            address = quote(address)
        made.append(Question(rule, r.choice(SENDERS).encode(), address))
    return made


class Service:
    """A client of a trivial-rewrite(8) service."""

    def __init__(self, postfix: Postfix, name: str = "rewrite") -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(Path(postfix.queue) / "private" / name))
        self._socket.settimeout(60)
        self._buffer = b""
        self._answer()  # the protocol's name

    def close(self) -> None:
        self._socket.close()

    def ask(self, **attributes: bytes) -> dict[str, bytes]:
        text = b"".join(name.encode() + b"\0" + value + b"\0" for name, value in attributes.items())
        self._socket.sendall(text + b"\0")
        return self._answer()

    def _answer(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        while (name := self._word()) != b"":
            key = name.decode()
            found["server_flags" if not found and key == "flags" else key] = self._word()
        return found

    def _word(self) -> bytes:
        while b"\0" not in self._buffer:
            data = self._socket.recv(4096)
            if not data:
                raise EOFError
            self._buffer += data
        word, _, self._buffer = self._buffer.partition(b"\0")
        return word


CLASSES = {256: "local", 512: "virtual_alias", 1024: "virtual_mailbox", 2048: "relay", 4096: "default"}
ROUTED, ERROR, FAIL = 2, 4, 8

Answer = tuple[object, ...]


def theirs(service: Service, question: Question) -> Answer:
    """What Postfix says."""
    rule, sender, address = question
    if rule in ("local", "remote"):
        return (service.ask(request=b"rewrite", rule=rule.encode(), address=address)["address"],)
    found = service.ask(request=rule.encode(), sender=sender, address=address)
    flags = int(found["flags"])
    if flags & FAIL:
        return ("fail",)
    if flags & ERROR:
        return ("invalid",)
    kind = next(name for bit, name in CLASSES.items() if flags & bit)
    routed = bool(flags & ROUTED)
    return found["transport"].decode(), found["nexthop"].decode(), found["recipient"], kind, routed


class Mtad:
    """What mtad says."""

    def __init__(self, settings: dict[str, str]) -> None:
        p = Parameters.from_mapping({**BASE, **settings})
        classes = AddressClasses(p, own=["127.0.0.1"])
        self._rewriter = Rewriter(p)
        self._resolver = Resolver(self._rewriter, classes)
        self._routers = {
            "resolve": Router(p, classes, no_warning),
            "verify": Router(p, classes, no_warning, verify=True),
        }

    def answer(self, question: Question) -> Answer:
        rule, sender, address = question
        if rule in ("local", "remote"):
            if rule == "remote" and not self._rewriter.rewrites_remote:
                return ("",)
            return (self._rewriter.rewrite_external(address, rule == "remote"),)
        router = self._routers[rule]
        try:
            route = drive(router.resolve(sender, address))
            resolved = drive(self._resolver.resolve_completed(address))
        except TableError:
            return ("fail",)
        at_once = router.known(address)
        if at_once is not None and at_once != route:
            return "known", at_once, route
        if resolved.invalid or route.nexthop.startswith("5.1.3 bad address"):
            return ("invalid",)
        recipient = route.address or address
        if recipient != resolved.text or route.local != (resolved.kind == "local"):
            return "resolver", route, resolved
        return route.transport, route.nexthop, recipient, resolved.kind, resolved.routed


def drive(coroutine: Any) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


def differences(seeds: Sequence[int], count: int = QUESTIONS) -> Iterator[str]:
    """Where the two differ, in words."""
    for at in range(0, len(seeds), TOGETHER):
        some = seeds[at : at + TOGETHER]
        lines = [f"rewrite-{seed} unix - - n - - trivial-rewrite{_options(rules(seed))}\n" for seed in some]
        with Postfix(BASE, master_extra="".join(lines)) as postfix:
            for seed in some:
                service, mtad = Service(postfix, f"rewrite-{seed}"), Mtad(rules(seed))
                for question in questions(seed, count):
                    they = theirs(service, question)
                    if question.rule == "remote" and not mtad._rewriter.rewrites_remote:
                        continue
                    we = mtad.answer(question)
                    if they != we:
                        yield f"seed {seed}: {question}\n  Postfix {they}\n  mtad    {we}"
                service.close()


def _options(settings: dict[str, str]) -> str:
    return "".join(f"\n  -o {{ {name} = {value} }}" for name, value in settings.items())


def main(first: int, last: int) -> int:
    found = 0
    for problem in differences(range(first, last)):
        found += 1
        print(problem, flush=True)
    print(f"{last - first} configurations, {found} answers differ")
    return found != 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
