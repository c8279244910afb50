"""What ``mtad explain`` is asked about: a client and its mail.

:class:`Case` comes from options, from a line of the maillog (:func:`from_line`), or from a message in the
queue (:func:`from_message`). What a source does not tell is left at its default. :class:`NoCase` is raised
for a line that tells of no client.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from mtad.queue.message import Message

_STAMPED = re.compile(r"(?:\S+ +){1,4}?(?P<ident>[\w./-]+/[\w-]+)\[(?P<pid>\d+)\]: (?P<text>.*)", re.S)
_CLIENT = re.compile(r"(?P<name>[^\s\[\]]+)\[(?P<address>[^\]\s]+)\](?::(?P<port>\d+))?")
_EVENT = re.compile(
    r"(?P<id>[0-9A-Za-z]+): (?P<what>[a-z_]+): (?P<where>[A-Z][A-Z -]*[A-Za-z-]*) from "
    rf"{_CLIENT.pattern}: (?P<text>.*?); (?P<rest>(?:from=<|to=<|proto=).*)",
    re.S,
)
_ENTRY = re.compile(rf"(?P<id>[0-9A-Za-z]+): client={_CLIENT.pattern}(?P<rest>.*)", re.S)
_BRACKETED = re.compile(r"(?:^| )(from|to|helo)=<(.*?)>(?= (?:to|proto|helo|sasl_\w+)=|$)")
_PLAIN = re.compile(r"(?:^|[ ,])(proto|sasl_method|sasl_username|sasl_sender)=([^\s,]+)")


class NoCase(ValueError):
    """Nothing that can be explained."""


@dataclass(frozen=True, slots=True)
class Case:
    """A client and its mail.  ``sender`` None: it gets no further than HELO; ``name`` empty: look it up."""

    address: str = "127.0.0.1"
    name: str = ""
    port: str = "unknown"
    helo: str = ""
    extended: bool = True
    login: str = ""
    mechanism: str = "PLAIN"
    tls: bool | None = None  # None: as the service and the login demand
    fingerprint: str = ""
    key_fingerprint: str = ""
    trusted: bool = False
    sender: str | None = None
    recipients: tuple[str, ...] = ()
    size: int = 0
    service: str = ""  # its name in master.cf
    ident: str = ""  # what its lines in the log begin with: postfix/submission/smtpd
    pid: str = ""
    queue_id: str = ""
    said: str = ""  # the reply that the log has
    notes: tuple[str, ...] = field(default=())

    def fill(self, other: Case) -> Case:
        """This, with what it leaves open taken from ``other``."""
        empty = Case()
        open_ = {
            name: getattr(other, name)
            for name in self.__dataclass_fields__
            if name != "notes" and getattr(self, name) == getattr(empty, name)
        }
        return replace(self, **open_, notes=(*other.notes, *self.notes))


def client(text: str) -> tuple[str, str]:
    """Address and name of ``192.0.2.1`` or ``name[192.0.2.1]``."""
    match = _CLIENT.fullmatch(text)
    return (match["address"], match["name"]) if match else (text, "")


def from_line(line: str) -> Case:
    """The client of a line of the maillog, with or without time and program."""
    stamped = _STAMPED.match(line.strip())
    text = stamped["text"] if stamped else line.strip()
    origin = Case(ident=stamped["ident"], pid=stamped["pid"]) if stamped else Case()
    event = _EVENT.match(text)
    if event:
        fields = _fields(event["rest"])
        to = fields.get("to")
        where = event["where"]
        return replace(
            origin,
            **_of_client(event),
            **_of_login(fields),
            helo=fields.get("helo", ""),
            extended=fields.get("proto", "ESMTP") != "SMTP",
            sender=fields.get("from", "" if where in ("RCPT", "DATA", "MAIL") else None),
            recipients=(to,) if to is not None else (),
            queue_id="" if event["id"] == "NOQUEUE" else event["id"],
            said=event["text"] if event["what"] == "reject" else "",
        )
    entry = _ENTRY.match(text)
    if entry:
        return replace(origin, **_of_client(entry), **_of_login(_fields(entry["rest"])), queue_id=entry["id"])
    raise NoCase("this line tells of no client (one with reject:, hold: or client= does)")


def from_message(message: Message) -> Case:
    """The client of a message in the queue."""
    attributes = message.attributes
    if "client_address" not in attributes:
        raise NoCase(f"{message.queue_id} did not come from a client")
    return Case(
        address=attributes["client_address"],
        name=attributes.get("client_name", ""),
        port=attributes.get("client_port", "unknown"),
        helo=attributes.get("helo_name", ""),
        extended=attributes.get("protocol_name", "ESMTP") != "SMTP",
        login=attributes.get("sasl_username", ""),
        mechanism=attributes.get("sasl_method", "PLAIN"),
        sender=message.sender.decode("utf-8", "replace"),
        recipients=tuple(
            dict.fromkeys(
                (each.original or each.address).decode("utf-8", "replace") for each in message.recipients
            )
        ),
        size=message.size,
        queue_id=message.queue_id,
    )


def _fields(text: str) -> dict[str, str]:
    return dict((*_BRACKETED.findall(text), *_PLAIN.findall(text)))


def _of_client(match: re.Match[str]) -> dict[str, Any]:
    return {"address": match["address"], "name": match["name"], "port": match["port"] or "unknown"}


def _of_login(fields: dict[str, str]) -> dict[str, Any]:
    found = {"login": fields.get("sasl_username", "")}
    return {**found, "mechanism": fields["sasl_method"]} if "sasl_method" in fields else found
