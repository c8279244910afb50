"""An evaluator on parameters from a mapping, driven by hand."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from mtad.config.parameters import Parameters
from mtad.maillog import ListSink, MailLog
from mtad.policy.evaluator import Evaluator, Verdict
from mtad.policy.policy_service import Dial
from mtad.policy.request import Request
from mtad.rewrite.address import Rewriter
from mtad.rewrite.classes import AddressClasses
from mtad.wire.address import from_text

BASE = {
    "compatibility_level": "3.6",
    "myhostname": "mx.example.com",
    "mydestination": "local.example",
    "mynetworks": "10.0.0.0/8",
    "local_recipient_maps": "inline:{{known=x}}",
    "smtpd_relay_restrictions": "reject_unauth_destination",
    "smtpd_sasl_auth_enable": "yes",
    "recipient_delimiter": "+",
}

#: A relay list that lets everything pass without being refused at start.
OPEN = "check_client_access static:OK, reject"

ALL_ACTIONS = ("BCC", "DISCARD", "FILTER", "HOLD", "PREPEND", "REDIRECT")


async def no_sleep(seconds: float) -> None:
    pass


class Bench:
    """An evaluator, its log, and a request to ask about."""

    def __init__(
        self,
        actions: tuple[str, ...] = ALL_ACTIONS,
        dial: Dial | None = None,
        *,
        resolver: Any = None,
        route: Any = None,
        facts: Any = None,
        **settings: str,
    ) -> None:
        self.sink = ListSink()
        log = MailLog(self.sink, "postfix/smtpd")
        p = Parameters.from_mapping({**BASE, **settings}, facts=facts)
        classes = AddressClasses(p, own=["127.0.0.1"])
        more: Any = {"actions": actions, "dial": dial, "resolver": resolver, "route": route}
        self.evaluator = Evaluator(p, log, Rewriter(p), classes, sleep=no_sleep, **more)
        self.sink.lines.clear()
        self.request = Request("c.example.net", "192.0.2.9", "4711", protocol="ESMTP", helo=b"c.example.net")

    @property
    def log(self) -> list[str]:
        return [text for _, _, text in self.sink.lines]

    def sender(self, text: str) -> Bench:
        self.request.sender = from_text(text.encode())
        return self

    def login(self, name: str) -> Bench:
        self.request.sasl_method, self.request.sasl_username = "PLAIN", name
        return self

    def ask(self, question: Awaitable[Verdict | None]) -> str | None:
        """The reply as text, or None."""
        verdict = drive(question)
        return None if verdict is None else str(verdict.reply)

    def rcpt(self, recipient: str = "r@local.example", sender: str | None = "s@example.org") -> str | None:
        """What RCPT comes to, in a transaction from ``sender`` unless there is one."""
        if sender is not None and self.request.sender is None:
            self.sender(sender)
        self.request.recipient = from_text(recipient.encode())
        try:
            return self.ask(self.evaluator.rcpt(self.request))
        finally:
            self.request.recipient = None


def drive(question: Awaitable[Any]) -> Any:
    """The result of something that never waits."""
    coroutine = question.__await__()
    try:
        next(coroutine)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")
