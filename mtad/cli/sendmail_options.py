"""The command line of sendmail(1), as a :class:`Job`.

:func:`named_directory` finds the configuration that it names, and complains of what is no option;
:func:`read` fills a job from it.  Options are taken in their order, so that what is said before one ends the
command is said here, too.  Raises Fatal.

Postfix counterpart: ``main()`` in ``sendmail.c``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from mtad.cli.voice import Fatal, Voice
from mtad.config.parameters import Parameters

_OPTIONS = "A:B:C:F:GIL:N:O:R:UV:X:b:ce:f:h:imno:p:r:q:tvx"
_NOTIFY = {"never": 1, "success": 2, "failure": 4, "delay": 8}
_RETURN = {"full": 1, "hdrs": 2}
_ENCODING = {"8BITMIME": "8bit", "7BIT": "7bit"}
#: What is traced: what would become of the message, or what becomes of it.
VERIFY, RECORD = 1 << 9, 1 << 10
#: What an option of -b says to do.
_MODES = {"d": "daemon", "l": "daemon", "h": "ignore", "H": "ignore", "i": "newaliases", "m": "send",
          "p": "mailq", "s": "smtp"}  # fmt: skip
#: What -O may ask for: the bit of it, the parameter that allows it, and what is said where it doesn't.
_ASKED = {
    "REQUIRETLS=": (
        32,
        "requiretls_enable",
        "Ignoring option '-O {}, because the configuration is '{} = no'",
    ),
    "SMTPUTF8=": (1, "smtputf8_enable", "'-O {}' was requested, but the configuration is '{} = no'"),
}
_LONGEST_ENVID = 100


@dataclass(slots=True)
class Job:
    """What the command line asks for."""

    mode: str = "send"
    sender: str | None = None
    full_name: str | None = None
    encoding: str = ""
    notify: int = 0
    ret: int = 0
    envid: str = ""
    verp: str = ""
    options: int = 0
    context: str = "local"
    from_headers: bool = False
    dot_ends: bool = True
    trace: int = 0
    site: str = ""
    queue_id: str = ""
    interval: bool = False
    aliases: str = ""
    verbose: int = 0
    recipients: list[str] = field(default_factory=list)


class _Words:
    """A command line, one option at a time."""

    def __init__(self, words: Sequence[str]) -> None:
        self.rest = list(words)
        self._cluster = ""

    def option(self) -> tuple[str, str] | None:
        """The next option and its value; None behind the last.  Raises ValueError for what is none."""
        if not self._cluster:
            if not self.rest or not self.rest[0].startswith("-") or self.rest[0] == "-":
                return None
            self._cluster = self.rest.pop(0)[1:]
            if self._cluster == "-":
                return None
        letter, self._cluster = self._cluster[0], self._cluster[1:]
        at = _OPTIONS.find(letter)
        if at < 0 or letter == ":":
            raise ValueError(f"invalid option -- '{letter}'")
        if _OPTIONS[at + 1 : at + 2] != ":":
            return letter, ""
        value, self._cluster = self._cluster, ""
        if not value and not self.rest:
            raise ValueError(f"option requires an argument -- '{letter}'")
        return letter, value or self.rest.pop(0)


def named_directory(name: str, words: Sequence[str]) -> str | None:
    """What ``-C`` says: a directory, or its main.cf."""
    directory = None
    left = _Words(words)
    while True:
        if left.rest[:1] == ["-q"]:
            left.rest.pop(0)
            continue
        try:
            found = left.option()
        except ValueError as problem:
            sys.stderr.write(f"{name}: {problem}\n")
            continue
        if found is None:
            break
        letter, value = found
        if letter == "C":
            directory = os.path.dirname(value) if os.path.basename(value) == "main.cf" else value
    return directory


def read(name: str, voice: Voice, p: Parameters, words: Sequence[str], job: Job) -> None:
    """Fill ``job``; :func:`named_directory` has seen the words before."""
    _Reader(name, voice, p, job).read(_Words(words))


class _Reader:
    """Fills a job from the command line."""

    def __init__(self, name: str, voice: Voice, p: Parameters, job: Job) -> None:
        self._name, self._voice, self._p, self._job = name, voice, p, job

    def read(self, words: _Words) -> None:
        job = self._job
        while self._one(words):
            pass
        job.recipients = words.rest
        if job.from_headers and job.mode != "send":
            raise Fatal("-t can be used only in delivery mode")
        if job.site and job.mode != "send":
            raise Fatal("-qR can be used only in delivery mode")
        if job.queue_id and job.mode != "send":
            raise Fatal("-qI can be used only in delivery mode")
        if job.trace == VERIFY:
            for letter, asked in (("t", job.from_headers), ("N", job.notify), ("R", job.ret),
                                  ("v", job.verbose == 1)):  # fmt: skip
                if asked:
                    raise Fatal(f"-{letter} option cannot be used with -bv")
        if job.verbose == 1 and job.mode == "send":
            job.trace |= RECORD

    def _one(self, words: _Words) -> bool:
        """Take the next option, also such as getopt(3) does not know; False: there is none."""
        rest, say = words.rest or [""], self._voice.warning
        if rest[0] == "-q":
            self._flush()
            rest.pop(0)
            return True
        if rest[0] == "-V" and len(rest) > 1 and len(rest[1]) == 2:
            say("option -V is deprecated with Postfix 2.3; specify -XV instead")
            rest[0] = "-XV"  # without its value: that is taken for a recipient
        elif rest[0].startswith("-V") and len(rest[0]) == 4:
            say(f"option {rest[0]} is deprecated with Postfix 2.3; specify -X{rest[0][1:]} instead")
            rest[0] = f"-X{rest[0][1:]}"
        if rest[0] == "-XV":
            self._job.verp = self._p["default_verp_delimiters"]
            rest.pop(0)
            return True
        try:
            found = words.option()
        except ValueError as problem:
            sys.stderr.write(f"{self._name}: {problem}\n")
            raise Fatal(f"usage: {self._name} [options]") from problem
        if found is not None:
            self._take(*found)
        return found is not None

    def _take(self, letter: str, value: str) -> None:
        job = self._job
        if letter == "n":
            raise Fatal("-n option not supported")
        if letter in "fr":
            job.sender = value
        elif letter == "F":
            job.full_name = value
        elif letter == "G":
            job.context = "remote"
        elif letter == "I":
            job.mode = "newaliases"
        elif letter == "i" or (letter == "o" and value.startswith("i")):
            job.dot_ends = False
        elif letter == "o" and value.startswith("A"):
            if len(value) == 1:
                raise Fatal("-oA requires pathname")
            job.aliases = value[1:]
        elif letter == "t":
            job.from_headers = True
        elif letter == "v":
            job.verbose += 1
        elif letter == "B":
            if value not in _ENCODING:
                raise Fatal("-B option needs 8BITMIME or 7BIT")
            job.encoding = _ENCODING[value]
        elif letter == "b":
            self._mode(value)
        elif letter == "q":
            self._queue_run(value)
        elif letter in "NRVXO":
            self._notification(letter, value)

    def _mode(self, value: str) -> None:
        job = self._job
        if value[:1] == "v":
            job.trace = VERIFY
        elif value[:1] in _MODES:
            if value[0] in "dl" and job.mode == "flush":
                self._voice.warning("ignoring -q option in daemon mode")
            job.mode = _MODES[value[0]]
        else:
            raise Fatal(f"unsupported: -b{value[:1]}")

    def _flush(self) -> None:
        if self._job.mode == "daemon":
            self._voice.warning("ignoring -q option in daemon mode")
        else:
            self._job.mode = "flush"

    def _queue_run(self, value: str) -> None:
        job = self._job
        if value[:1].isdigit():
            job.interval = True
        elif value[:1] == "R":
            job.site = value[1:]
            if not job.site:
                raise Fatal("specify: -qRsitename")
        elif value[:1] == "I":
            job.queue_id = value[1:]
            if not job.queue_id:
                raise Fatal("specify: -qIqueueid")
        else:
            raise Fatal(f"-q{value[:1]} is not implemented")

    def _notification(self, letter: str, value: str) -> None:
        job, warning = self._job, self._voice.warning
        if letter == "N":
            job.notify = self._notify_mask(value)
            if not job.notify:
                warning(f"bad -N option value: '{value}' -- ignored")
        elif letter == "R":
            job.ret = _RETURN.get(value.lower(), 0)
            if not job.ret:
                warning("bad -R option value -- ignored")
        elif letter == "V":
            if len(os.fsencode(value)) > _LONGEST_ENVID:
                warning("too long -V option value -- ignored")
            elif not (value and value.isascii() and value.isprintable()):
                warning("bad syntax in -V option value -- ignored")
            else:
                job.envid = value
        elif letter == "X":
            if value[:1] != "V":
                raise Fatal(f"unsupported: -X{value[:1]}")
            job.verp = value[1:]
            allowed = self._p["verp_delimiter_filter"]
            if len(job.verp) != 2 or not set(job.verp) <= set(allowed):
                raise Fatal(f"-V requires two characters from {allowed}")
        else:
            self._send_option(value)

    def _notify_mask(self, value: str) -> int:
        mask = 0
        for word in value.replace(",", " ").split():
            bit = _NOTIFY.get(word.lower())
            if bit is None:
                self._voice.warning(f'unknown DSN NOTIFY command value "{word}" in "{value}"')
                return 0
            mask |= bit
        return 0 if mask & 1 and mask != 1 else mask

    def _send_option(self, value: str) -> None:
        """``-O``; a name that is cut short before its equals sign counts, and has no good value."""
        name, equals, answer = value.partition("=")
        given = f"{name}{equals}".upper()
        for full, (bit, parameter, refusal) in _ASKED.items():
            if not full.startswith(given):
                continue
            if not self._p.flag(parameter):
                self._voice.warning(refusal.format(value, parameter))
            elif answer.lower() == "yes":
                self._job.options |= bit
            elif answer.lower() == "no":
                self._job.options &= ~bit
            else:
                self._voice.warning(f"bad -O option: '{value}' -- ignored")
            return
