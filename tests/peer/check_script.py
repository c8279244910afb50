"""Postfix's ``smtpd_check`` test program, with mtad's evaluator in the place of ``smtpd_check.c``.

:class:`Checker` takes the lines of its scripts (``client NAME ADDRESS``, ``helo NAME``, ``mail ADDRESS``,
parameters and restriction lists) and gives what the program prints for each: log lines and a reply, or
``OK``.  As there, addresses are not rewritten, and actions on messages are not kept."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from zone_resolver import ZoneResolver

from mtad.config.lines import tokens
from mtad.config.parameters import Parameters
from mtad.maillog import ListSink, MailLog
from mtad.policy.evaluator import Evaluator, Verdict
from mtad.policy.request import RCPT, Actions, Request
from mtad.policy.setup import Setup
from mtad.rewrite.address import Rewriter
from mtad.rewrite.classes import AddressClasses
from mtad.rewrite.resolve import Resolution
from mtad.tables.table import fold
from mtad.wire.address import from_text

_LISTS = ("client", "helo", "sender", "relay", "recipient", "etrn")
_FLAGS = ("smtpd_delay_reject", "allow_untrusted_routing", "smtpd_reject_unlisted_recipient")
ACTIONS = frozenset(("BCC", "DISCARD", "FILTER", "HOLD", "PREPEND", "REDIRECT"))
_TEMPORARY = 4
_PREFIX = "./smtpd_check: "


class _Resolver:
    """The program's own idea of what an address comes to."""

    def __init__(self, classes: AddressClasses) -> None:
        self._classes = classes

    async def resolve(self, address: Any) -> Resolution:
        text = address.text
        domain = text.rpartition(b"@")[2] if b"@" in text else b""
        kind = await self._classes.classify_domain(domain)
        return Resolution(text, fold(text), domain, kind, False, False)


class Checker:
    """One run of the program."""

    def __init__(self, zone: str, own: tuple[str, ...] = ("127.0.0.1",)) -> None:
        self._own = own
        self._dns = ZoneResolver(zone)
        self._sink = ListSink()
        self._settings = {
            "compatibility_level": "3.6",
            "myhostname": "localhost",
            "mydestination": "localhost",
            "local_recipient_maps": "",
            "virtual_alias_maps": "",
            "alias_maps": "",
            "mynetworks": "",
            "relay_domains": "",
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "smtpd_relay_restrictions": "",
            "mail_name": "Postfix",
        }
        self._request = Request("localhost", "127.0.0.1", queue_id="<queue id>", reverse_name="localhost")
        self._evaluator: Evaluator | None = None
        self._noted = False

    def run(self, line: str) -> list[str]:
        """What the program prints for one line, after the line itself."""
        words = tokens(line, " \t")
        if line.startswith("#") or not words:
            return []
        before = len(self._sink.lines)
        reply = self._command(words)
        said = self._sink.lines[before:]
        return [*(_PREFIX + text for _, _, text in said), reply]

    def _command(self, words: list[str]) -> str:
        verb, *rest = words
        verb = verb.lower()
        request = self._request
        request.actions = Actions()
        if verb == "client" and len(rest) in (2, 3):
            return self._client(*rest)
        if len(rest) > 1 or (not rest and verb not in ("rewrite", "flush_dnsxl_cache")):
            return "bad command"
        if verb == "rewrite":
            return self._ask(self._built().local_headers(request))
        if verb == "flush_dnsxl_cache":
            request.listings.clear()
            return "OK"
        if verb == "helo":
            request.helo = rest[0].encode()
            return self._ask(self._built().helo(request, False))
        if verb == "mail":
            request.sender = from_text(_bare(rest[0]))
            return self._ask(self._built().mail(request))
        if verb == "rcpt":
            request.recipient = from_text(_bare(rest[0]))
            answer = self._ask(self._built().rcpt(request))
            request.recipient = None
            return answer
        if verb == "fingerprint":
            request.tls, request.cert_fingerprint = True, rest[0]
            request.pubkey_fingerprint = rest[0]
            return "OK"
        return self._set(verb, rest[0])

    def _set(self, name: str, value: str) -> str:
        where, _, list_ = name.partition("_")
        if list_ == "restrictions" and where in _LISTS:
            name = f"smtpd_{name}"
        elif name in _FLAGS:
            value = "yes" if value == "1" else "no"
        elif name not in Parameters.from_mapping({}):
            return "bad command"
        if name == "mynetworks":
            self._request._mynetworks = None
        self._settings[name] = value
        self._evaluator = None
        return "OK"

    def _client(self, name: str, address: str, code: str = "") -> str:
        request = self._request
        request.client_name = request.reverse_name = name
        request.client_address = address
        temporary = int(code) == _TEMPORARY if code else name == "unknown"
        request.name_temporary = request.reverse_temporary = temporary
        request._mynetworks = None
        return self._ask(self._built().connect(request))

    def _built(self) -> Evaluator:
        """The evaluator of the settings as they are now; the lists need not keep the relay shut."""
        if self._evaluator is None:
            p = Parameters.from_mapping(self._settings, str(Path.cwd()))
            log = MailLog(self._sink, "smtpd_check")
            quiet = len(self._sink.lines)
            classes = AddressClasses(p, own=self._own, warn=log.warning)
            rewriter = Rewriter(p)
            resolver: Any = self._dns
            setup = Setup(p, log, rewriter, classes, None, ACTIONS, None, resolver)
            own: Any = _Resolver(classes)
            setup.resolver = own
            setup.mx_backup_noted = self._noted
            evaluator = object.__new__(Evaluator)
            evaluator._setup = setup
            self._evaluator = evaluator
            del self._sink.lines[quiet:]  # what the program says when a list is set, it says later, too
        return self._evaluator

    def _ask(self, question: Awaitable[Any]) -> str:
        verdict = _drive(question)
        if self._evaluator is not None:
            self._noted = self._evaluator._setup.mx_backup_noted
        return str(verdict.reply) if isinstance(verdict, Verdict) else "OK"


def _bare(address: str) -> bytes:
    return (address[1:].removesuffix(">") if address.startswith("<") else address).encode()


def _drive(question: Awaitable[Any]) -> Any:
    coroutine = question.__await__()
    try:
        next(coroutine)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


__all__ = ["RCPT", "Checker"]
