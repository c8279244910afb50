"""A service's restriction lists, asked about the same in the installed Postfix and in our evaluator.

A :class:`Case` is a service and what is said to it; the client is made up by XCLIENT.  :func:`compare`
looks at the replies to MAIL, RCPT and DATA and at the lines about them in the log (without what only later
versions write)."""

from __future__ import annotations

import difflib
import re
import socket
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from live.daemon import wait_until
from oracle.postfix import Postfix

from mtad.config.parameters import Parameters
from mtad.deliver.route import Router
from mtad.maillog import ListSink, MailLog
from mtad.policy.evaluator import Evaluator
from mtad.policy.request import Request
from mtad.rewrite.address import Rewriter
from mtad.rewrite.classes import AddressClasses
from mtad.wire.address import parse_path

ACTIONS = ("BCC", "DISCARD", "FILTER", "HOLD", "PREPEND", "REDIRECT")


@dataclass(frozen=True)
class Case:
    """A service and what is said to it."""

    name: str
    settings: Mapping[str, str]
    sender: str = "<a@s.example>"
    recipients: tuple[str, ...] = ("<r@remote.example>",)
    helo: str = "client.example.net"
    client: Mapping[str, str] = field(
        default_factory=lambda: {"NAME": "client.example.net", "ADDR": "192.0.2.9"}
    )


class Dialogue:
    """One SMTP session with the real thing."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._file = self._socket.makefile("rb")
        self.read()

    def read(self) -> str:
        while True:
            line = self._file.readline().decode("utf-8", "replace").rstrip("\r\n")
            if line[3:4] != "-":
                return line

    def say(self, line: str) -> str:
        self._socket.sendall(line.encode() + b"\r\n")
        return self.read()

    def close(self) -> None:
        self._socket.close()


def _name(case: Case) -> str:
    return case.client["NAME"].replace("[UNAVAILABLE]", "unknown")


def _service(case: Case) -> str:
    return f"{zlib.crc32(repr(sorted(case.settings.items())).encode()):08x}"


def running(
    main: Mapping[str, str], cases: Sequence[Case], files: Mapping[str, str] | None = None
) -> Postfix:
    """Postfix with a service for each set of settings, not yet started; ``{dir}`` is its directory, with
    ``files``."""
    distinct = {_service(case): case.settings for case in cases}
    services = [(name, {**settings, "syslog_name": f"postfix/{name}"}) for name, settings in distinct.items()]
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in services]  # all at once: none is double
    ports = {name: probe.getsockname()[1] for name, probe in zip(distinct, probes, strict=True)}
    for probe in probes:
        probe.close()
    return Postfix(main, services=services, files=files, ports=ports)


def theirs(postfix: Postfix, case: Case) -> list[str]:
    talk = Dialogue(postfix.ports[_service(case)])
    replies = []
    try:
        talk.say("XCLIENT " + " ".join(f"{name}={value}" for name, value in case.client.items()))
        replies.append(talk.say(f"EHLO {case.helo}"))
        replies.append(talk.say(f"MAIL FROM:{case.sender}"))
        if replies[1].startswith("2"):
            for recipient in case.recipients:  # one by one: after a 521 there is no answer
                replies.append(talk.say(f"RCPT TO:{recipient}"))
            if any(reply.startswith("2") for reply in replies[2:]):
                replies.append(talk.say("DATA"))
    except OSError:
        pass
    finally:
        talk.close()
    return [reply for reply in replies if reply and not reply.startswith(("2", "3"))]


def ours(main: Mapping[str, str], case: Case, sink: ListSink, resolver: Any = None) -> list[str]:
    p = Parameters.from_mapping({**main, **case.settings})
    log = MailLog(sink, "x")
    plain = Parameters.from_mapping(main)
    classes = AddressClasses(plain, own=["127.0.0.1"])
    route: Any = Router(plain, classes).resolve
    evaluator = Evaluator(p, log, Rewriter(plain), classes, resolver=resolver, route=route, actions=ACTIONS)
    sink.lines.clear()
    name = _name(case)
    address = case.client["ADDR"].removeprefix("IPV6:")
    request = Request(name, address, reverse_name=name)
    request.sasl_username = case.client.get("LOGIN", "")
    request.sasl_method = "PLAIN" if request.sasl_username else ""
    replies = []

    def ask(question: Any) -> Any:
        try:
            question.send(None)
        except StopIteration as stop:
            if stop.value is not None:
                replies.append(stop.value.reply.encode().decode().rstrip("\r\n"))
            return stop.value
        raise AssertionError("it waits")

    ask(evaluator.connect(request))
    request.helo = re.sub(r'[ <>()\\";@]', "?", case.helo).encode()
    verdict = ask(evaluator.helo(request))
    if verdict is not None:
        request.helo = b""
        if verdict.reply.hangs_up:
            return replies
    else:
        request.protocol = "ESMTP"
    request.sender = parse_path(case.sender.encode(), allow_empty=True)
    if ask(evaluator.mail(request)):
        return replies
    accepted = None
    for recipient in case.recipients:
        request.recipient = parse_path(recipient.encode())
        assert request.recipient is not None
        verdict = ask(evaluator.rcpt(request))
        if verdict is None:
            accepted = request.recipient
            request.recipient_count += 1
            request.queue_id = "NOQUEUE"
        elif verdict.reply.hangs_up:
            return replies
    if request.recipient_count:
        request.recipient = accepted
        ask(evaluator.data(request))
    return replies


def about(text: str) -> str:
    text = re.sub(r"^[0-9A-F]{8,}(?=: [a-z_]+:)", "NOQUEUE", text)
    text = text.removesuffix(": Application error")  # mtad says why a table fails
    return re.sub(r" sasl_(method|username)=\S+", "", text)


def compare(
    postfix: Postfix, main: Mapping[str, str], case: Case, worth: re.Pattern[str], resolver: Any = None
) -> None:
    """Fail where replies, or the lines of the log that match ``worth``, differ."""
    sink = ListSink()
    before = len(postfix.log())
    filled = {key: text.replace("{dir}", str(postfix.directory)) for key, text in case.settings.items()}
    said = ours(main, replace(case, settings=filled), sink, resolver)
    _same(theirs(postfix, case), said)
    mark = f"postfix/{_service(case)}/smtpd["

    def lines() -> list[str]:
        told = [line.partition("]: ")[2] for line in postfix.log()[before:].splitlines() if mark in line]
        return [text for text in told if text]  # the last one may be there by half

    wait_until(lambda: lines()[-1:] and lines()[-1].startswith(f"disconnect from {_name(case)}"), "its end")
    logged = [text for text in map(about, lines()) if worth.match(text) and "client=" not in text]
    _same(logged, [about(text) for _, _, text in sink.lines if worth.match(about(text))])


def fatal(postfix: Postfix, case: Case) -> str:
    """Why Postfix's service doesn't start, up to the last of the names."""
    mark = f"postfix/{_service(case)}/smtpd["
    with socket.create_connection(("127.0.0.1", postfix.ports[_service(case)]), timeout=60):

        def reasons() -> list[str]:
            lines = [line for line in postfix.log().splitlines() if mark in line]
            return [line.partition("fatal: ")[2] for line in lines if "fatal: " in line]

        wait_until(reasons, "why it does not start")
    return reasons()[0].partition(" or check_relay")[0]


def _same(theirs: list[str], ours: list[str]) -> None:
    if theirs != ours:
        raise AssertionError(
            "\n".join(difflib.unified_diff(theirs, ours, "Postfix", "mtad", n=0, lineterm=""))
        )
