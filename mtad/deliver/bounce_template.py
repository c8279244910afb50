"""The texts of notifications: those of Postfix, or the operator's (``bounce_template_file``).

A :class:`Template` has the headers and the text that a notification of one kind begins with; ``$name`` in the
text stands for a parameter, ``$delay_warning_time_hours`` and the like for a time in that unit.
:func:`load_templates` reads a bounce(5) file; a template in it that is malformed is told to ``warn`` and
left out.  ConfigError for a file that can't be read, or whose form can't be followed.

Postfix counterpart: ``bounce_template(3)``, ``bounce_templates(3)``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from mtad.config.expand import ExpansionError, expand
from mtad.config.parameters import Parameters
from mtad.errors import ConfigError
from mtad.idn import to_unicode

_SECONDS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400, "weeks": 7 * 86400}
#: Parameters that people read as they are written in their own script.
_DOMAINS = frozenset(("myhostname", "mydomain"))
_TIME = re.compile(r"(delay_warning_time|maximal_queue_lifetime)_([a-z]+)")
_NAME_VALUE = re.compile(r"\s*([^\s=]+)\s*=\s*(.*?)\s*", re.DOTALL)
_HEADER = re.compile(r"([!-9;-~]+):[ \t]*(.*)")


@dataclass(frozen=True, slots=True)
class Template:
    """One kind of notification.

    ``action`` is RFC 3464's (section 2.3.3), ``description`` the Content-Description of the returned message,
    ``log`` what the log calls it.  ``origin`` is the file that the text is from.
    """

    name: str
    subject: str
    copy_subject: str  # of the postmaster's copy; empty: there is none
    text: tuple[str, ...]
    action: bytes
    description: bytes
    log: str
    charset: str = "us-ascii"
    sender: str = "Mail Delivery System <MAILER-DAEMON>"
    old_sender: str = "MAILER-DAEMON (Mail Delivery System)"
    origin: str = "[built-in]"

    def dump(self, old_format: bool = False) -> list[str]:
        """The template as a file has it."""
        lines = [f"Charset: {self.charset}", f"From: {self.old_sender if old_format else self.sender}"]
        lines.append(f"Subject: {self.subject}")
        if self.copy_subject:
            lines.append(f"Postmaster-Subject: {self.copy_subject}")
        return [*lines, "", *self.text]

    def expanded(self, p: Parameters, warn: Callable[[str], None]) -> list[str]:
        """The text with values for names; ConfigError for a name that means nothing."""

        def value(name: str, depth: int) -> str:
            time = _TIME.fullmatch(name)
            if time is not None:
                return self._in_units(p.seconds(time[1]), name, time[2], warn)
            if name not in p:
                raise ExpansionError(f"undefined $name in {self.name} template: {name}")
            return to_unicode(p[name]) if name in _DOMAINS and p.flag("smtputf8_enable") else p[name]

        try:
            return [expand(line, value, lambda name, depth: bool(value(name, depth))) for line in self.text]
        except ExpansionError as error:
            raise ConfigError(str(error), path=self.origin) from error

    def _in_units(self, seconds: int, name: str, unit: str, warn: Callable[[str], None]) -> str:
        if unit not in _SECONDS:
            raise ExpansionError(f'unrecognized suffix "{unit}" in parameter "{name}"')
        result = seconds // _SECONDS[unit]
        if result > 999 and _SECONDS[unit] < 86400:
            what, advice = f'excessive result "{result}"', "increase"
        elif not result and seconds and _SECONDS[unit] > 1:
            what, advice = "zero result", "reduce"
        else:
            return str(result)
        warn(f'{self.origin}: {what} in {self.name} template conversion of parameter "{name}"')
        warn(f'please {advice} time unit "{unit}" of "{name}" in {self.name} template')
        warn("for instructions see the bounce(5) manual")
        return str(result)


_OPENING = ("This is the mail system at host $myhostname.", "")
_CLOSING = ("", "                   The mail system")
_HELP = (
    "For further assistance, please send mail to postmaster.",
    "",
    "If you do so, please include this problem report. You can",
    "delete your own text from the attached returned message.",
)

FAILURE = Template(
    "failure",
    "Undelivered Mail Returned to Sender",
    "Postmaster Copy: Undelivered Mail",
    (
        *_OPENING,
        "I'm sorry to have to inform you that your message could not",
        "be delivered to one or more recipients. It's attached below.",
        "",
        *_HELP,
        *_CLOSING,
    ),
    b"failed",
    b"Undelivered Message",
    "non-delivery notification",
)

DELAY = Template(
    "delay",
    "Delayed Mail (still being retried)",
    "Postmaster Warning: Delayed Mail",
    (
        *_OPENING,
        "####################################################################",
        "# THIS IS A WARNING ONLY.  YOU DO NOT NEED TO RESEND YOUR MESSAGE. #",
        "####################################################################",
        "",
        "Your message could not be delivered for more than $delay_warning_time_hours hour(s).",
        "It will be retried until it is $maximal_queue_lifetime_days day(s) old.",
        "",
        *_HELP,
        *_CLOSING,
    ),
    b"delayed",
    b"Undelivered Message",
    "delay notification",
)

SUCCESS = Template(
    "success",
    "Successful Mail Delivery Report",
    "",
    (
        *_OPENING,
        "Your message was successfully delivered to the destination(s)",
        "listed below. If the message was delivered to mailbox you will",
        "receive no further notifications. Otherwise you may still receive",
        "notifications of mail delivery errors from other systems.",
        *_CLOSING,
    ),
    b"relayed",
    b"Message",
    "delivery status notification",
)

VERIFY = Template(
    "verify",
    "Mail Delivery Status Report",
    "",
    (*_OPENING, "Enclosed is the mail delivery report that you requested.", *_CLOSING),
    b"deliverable",
    b"Message",
    "delivery status notification",
)


@dataclass(frozen=True, slots=True)
class Templates:
    """All kinds."""

    failure: Template = FAILURE
    delay: Template = DELAY
    success: Template = SUCCESS
    verify: Template = VERIFY
    warnings: list[str] = field(default_factory=list, compare=False)

    def __iter__(self) -> Iterator[Template]:
        return iter((self.failure, self.delay, self.success, self.verify))

    def by_name(self) -> Mapping[str, Template]:
        return {template.name: template for template in self}


def templates_of(p: Parameters, warn: Callable[[str], None]) -> Templates:
    """The templates of a configuration."""
    path = p["bounce_template_file"]
    return load_templates(path, warn) if path else Templates()


def load_templates(path: str, warn: Callable[[str], None]) -> Templates:
    """Those of a bounce(5) file, and the built-in ones for what it leaves out."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().split("\n")
    except OSError as error:
        raise ConfigError(f"open {path}: {error.strerror}", parameter="bounce_template_file") from error
    found = dict(Templates().by_name())
    for number, name, value in _assignments(path, lines, warn):
        kind = name.removesuffix("_template")
        if kind == name or kind not in found:
            warn(f"{path}, line {number}: unknown template name: {name} -- ignoring this template")
            continue
        template = _parsed(found[kind], path, value, warn)
        if template is not None:
            found[kind] = template
    return Templates(found["failure"], found["delay"], found["success"], found["verify"])


def _assignments(path: str, lines: list[str], warn: Callable[[str], None]) -> Iterator[tuple[int, str, str]]:
    """``name = value`` and ``name = <<END``, with the number of the line."""
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _NAME_VALUE.fullmatch(line)
        if match is None:
            raise ConfigError(f'missing "=" after attribute name: "{line[:80]}"', path=path, line=at)
        name, value = match.groups()
        if value.startswith("<<"):
            end = value[2:].strip()
            if not end[:1].isalnum():
                raise ConfigError("missing or malformed end marker after <<", path=path, line=at)
            start = at
            while at < len(lines) and lines[at] != end:
                at += 1
            if at >= len(lines):
                warn(f'{path}, line {at}: missing "{end}" end marker')
            value = "\n".join(lines[start:at]).lstrip("\n")
            at += 1
        yield at, name, value


class _Unusable(Exception):
    """A template that is left out; the text says why."""


def _parsed(template: Template, path: str, text: str, warn: Callable[[str], None]) -> Template | None:
    """A template of a file; None for one that is not to be used."""
    try:
        return _read(template, path, text)
    except _Unusable as why:
        warn(f"{path}: {why} in {template.name} template -- ignoring this template")
        return None


def _read(template: Template, path: str, text: str) -> Template:
    lines = text.split("\n")
    changes: dict[str, str] = {}
    while lines and (match := _HEADER.fullmatch(lines[0])):
        label, value = match[1], match[2].strip()
        fields = {"charset": "charset", "subject": "subject", "postmaster-subject": "copy_subject"}
        name = label.lower()
        if not value or not value.isascii():
            raise _Unusable(f'{"non-ASCII" if value else "empty"} "{label}" header value')
        if name == "from":
            changes["sender"] = changes["old_sender"] = value
        elif name == "postmaster-subject" and not template.copy_subject:
            raise _Unusable(f'inapplicable "{label}" header label')
        elif name in fields:
            changes[fields[name]] = value
        else:
            raise _Unusable(f'unknown "{label}" header label')
        lines.pop(0)
    while lines and not lines[0].strip():
        lines.pop(0)
    if not lines:
        raise _Unusable("missing message text")
    made = replace(
        template,
        origin=path,
        text=tuple(lines),
        charset=changes.get("charset", template.charset),
        sender=changes.get("sender", template.sender),
        old_sender=changes.get("old_sender", template.old_sender),
        subject=changes.get("subject", template.subject),
        copy_subject=changes.get("copy_subject", template.copy_subject),
    )
    if made.charset.lower() == "us-ascii" and not "".join(lines).isascii():
        raise _Unusable("8-bit message text")
    return made
