"""``mtad sendmail``: the interface by which programs of this host send mail, and sendmail's other faces.

Mail goes into the maildrop (:mod:`mtad.queue.postfix.maildrop`), where the mail system takes it from as
soon as it runs.  ``-t`` reads recipients from the headers, ``-f`` and ``-F`` name the sender, ``-N``,
``-R``, ``-V`` ask for notifications, ``-bv`` and ``-v`` for a report; ``-bs`` speaks SMTP, ``-bp`` is
mailq, ``-q`` flushes, ``-bi`` is newaliases, ``-bd`` starts the system.  Who may submit:
``authorized_submit_users``.  The exit status is 0, or 75 for whatever goes wrong, as that of the original.

Postfix counterpart: ``sendmail(1)``, ``postdrop(1)``.
"""

from __future__ import annotations

import getopt
import os
import pwd
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from mtad.cli.directory import config_directory, load_parameters
from mtad.cli.sendmail_input import Input
from mtad.cli.voice import Fatal, Voice, complaint
from mtad.config.parameters import Parameters
from mtad.daemon.authorized import refused, sender_refused
from mtad.errors import MtadError
from mtad.queue.postfix import records as rec
from mtad.queue.postfix.maildrop import Drop, open_drop
from mtad.queue.postfix.records import attribute, pack
from mtad.wire import tokens

EX_TEMPFAIL = 75

_OPTIONS = "A:B:C:F:GIL:N:O:R:UV:X:b:ce:f:h:imno:p:r:q:tvx"
_NOTIFY = {"never": 1, "success": 2, "failure": 4, "delay": 8}
_RETURN = {"full": 1, "hdrs": 2}
_ENCODING = {"8BITMIME": "8bit", "7BIT": "7bit"}
_VERIFY, _RECORD = 1 << 9, 1 << 10
#: What an option of -b says to do.
_MODES = {"d": "daemon", "l": "daemon", "h": "ignore", "H": "ignore", "i": "newaliases", "m": "send",
          "p": "mailq", "s": "smtp"}  # fmt: skip


@dataclass(slots=True)
class _Job:
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


def main(argv: Sequence[str]) -> int:
    """Run with the arguments behind the command's name; the exit status."""
    return run("sendmail", argv)


def run(name: str, argv: Sequence[str]) -> int:
    """The command under one of its names: ``sendmail``, ``mailq``, ``newaliases``."""
    voice = Voice(name, "sendmail")
    try:
        words = _split_queue_run(list(argv))
        directory = _directory(words)
        p = load_parameters(directory)
        voice.log_to(p)
        job = _Job(mode={"mailq": "mailq", "newaliases": "newaliases"}.get(name, "send"))
        _Reader(name, voice, p, job).read(words)
        return _do(voice, p, job)
    except (MtadError, OSError) as error:
        voice.fatal(str(error))
        return EX_TEMPFAIL


def _split_queue_run(words: list[str]) -> list[str]:
    """``-q`` alone takes no argument, though ``-q30m`` has one."""
    return ["-qF" if word == "-q" else word for word in words]


def _directory(words: Sequence[str]) -> str | None:
    """What ``-C`` says: a directory, or its main.cf."""
    try:
        options, _ = getopt.getopt(list(words), _OPTIONS)
    except getopt.GetoptError:
        return None
    for option, value in options:
        if option == "-C":
            return os.path.dirname(value) if os.path.basename(value) == "main.cf" else value
    return None


class _Reader:
    """Fills a job from the command line."""

    def __init__(self, name: str, voice: Voice, p: Parameters, job: _Job) -> None:
        self._name, self._voice, self._p, self._job = name, voice, p, job

    def read(self, words: list[str]) -> None:
        job = self._job
        options, job.recipients = self._options(words)
        for option, value in options:
            self._take(option[1], value)
        if job.from_headers and job.mode != "send":
            raise Fatal("-t can be used only in delivery mode")
        if job.site and job.mode != "send":
            raise Fatal("-qR can be used only in delivery mode")
        if job.queue_id and job.mode != "send":
            raise Fatal("-qI can be used only in delivery mode")
        if job.trace == _VERIFY:
            for letter, asked in (("t", job.from_headers), ("N", job.notify), ("R", job.ret),
                                  ("v", job.verbose == 1)):  # fmt: skip
                if asked:
                    raise Fatal(f"-{letter} option cannot be used with -bv")
        if job.verbose == 1 and job.mode == "send":
            job.trace |= _RECORD

    def _options(self, words: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
        for at, word in enumerate(words):
            if word in ("--",) or not word.startswith("-"):
                break
            old = word == "-V" and at + 1 < len(words) and len(words[at + 1]) == 2
            if old or (word.startswith("-V") and len(word) == 4):
                shown = "-V" if old else word
                self._voice.warning(
                    f"option {shown} is deprecated with Postfix 2.3; specify -X{shown[1:]} instead"
                )
                words[at : at + 2 if old else at + 1] = [f"-XV{words[at + 1] if old else word[2:]}"]
        try:
            return getopt.getopt(words, _OPTIONS)
        except getopt.GetoptError as error:
            sys.stderr.write(f"{self._name}: {complaint(error)}\n")
            raise Fatal(f"usage: {self._name} [options]") from error

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
            job.trace = _VERIFY
        elif value[:1] in _MODES:
            if value[0] in "dl" and job.mode == "flush":
                self._voice.warning("ignoring -q option in daemon mode")
            job.mode = _MODES[value[0]]
        else:
            raise Fatal(f"unsupported: -b{value[:1]}")

    def _queue_run(self, value: str) -> None:
        job = self._job
        if value == "F":
            if job.mode == "daemon":
                self._voice.warning("ignoring -q option in daemon mode")
            else:
                job.mode = "flush"
        elif value[:1].isdigit():
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
            if len(value) > 100:
                warning("too long -V option value -- ignored")
            elif not (value.isascii() and value.isprintable()):
                warning("bad syntax in -V option value -- ignored")
            else:
                job.envid = value
        elif letter == "X":
            if value[:1] != "V":
                raise Fatal(f"unsupported: -X{value[:1]}")
            job.verp = self._verp(value[1:])
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

    def _verp(self, value: str) -> str:
        if not value:
            return self._p["default_verp_delimiters"]
        allowed = self._p["verp_delimiter_filter"]
        if len(value) != 2 or not set(value) <= set(allowed):
            raise Fatal(f"-V requires two characters from {allowed}")
        return value

    def _send_option(self, value: str) -> None:
        name, equals, answer = value.partition("=")
        bit, parameter = {"REQUIRETLS": (32, "requiretls_enable"), "SMTPUTF8": (1, "smtputf8_enable")}.get(
            name.upper(), (0, "")
        )
        if not bit or not equals:
            return
        if not self._p.flag(parameter):
            self._voice.warning(
                f"Ignoring option '-O {value}', because the configuration is '{parameter} = no'"
            )
        elif answer.lower() == "yes":
            self._job.options |= bit
        elif answer.lower() == "no":
            self._job.options &= ~bit
        else:
            self._voice.warning(f"bad -O option: '{value}' -- ignored")


def _do(voice: Voice, p: Parameters, job: _Job) -> int:
    """Carry out the job; the exit status."""
    if (job.interval and job.mode != "daemon") or job.mode == "ignore":
        return 0
    here = ["-c", p.directory]
    mode, refusal = job.mode, ""
    if mode == "send" and job.site:
        mode, refusal = "site", "flush site"
    elif mode == "send" and job.queue_id:
        mode, refusal = "id", "flush queue_id"
    else:
        refusal = {
            "mailq": "display queue mode", "flush": "flush queue mode", "daemon": "daemon mode",
            "newaliases": "alias initialization mode", "smtp": "stand-alone mode",
        }.get(mode, "")  # fmt: skip
    if refusal and job.recipients:
        raise Fatal(f"{refusal} requires no recipient")
    if mode == "send":
        _send(voice, p, job)
        return 0
    if mode == "smtp":
        from mtad.cli.sendmail_smtp import serve

        _check_user(p)
        return serve(p)
    if mode == "newaliases":
        from mtad.cli import newaliases, postalias

        return postalias.main([*here, job.aliases]) if job.aliases else newaliases.main(here)
    if mode == "daemon":
        from mtad.cli import lifecycle

        return lifecycle.run("start", config_directory(p.directory), ())
    from mtad.cli import postqueue

    words = {"mailq": ["-p"], "flush": ["-f"], "site": ["-s", job.site], "id": ["-i", job.queue_id]}[mode]
    return postqueue.main([*here, *words])


def _check_user(p: Parameters) -> None:
    uid = os.getuid()
    name = refused(p, "authorized_submit_users", uid)
    if name:
        raise Fatal(f"User {name}({uid}) is not allowed to submit mail")


def _account() -> tuple[str, str]:
    """Login and full name of the user."""
    uid = os.getuid()
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise Fatal(f"no login name found for user ID {uid}") from None
    login = os.environ.get("LOGNAME", "")
    try:
        if login and pwd.getpwnam(login).pw_uid == uid:
            entry = pwd.getpwnam(login)
    except KeyError:
        pass
    full = entry.pw_gecos.partition(",")[0].replace("&", entry.pw_name.capitalize())
    return entry.pw_name, full


def _send(voice: Voice, p: Parameters, job: _Job) -> None:
    """Leave a message in the maildrop."""
    _check_user(p)
    uid = os.getuid()
    login, full_name = _account() if job.sender is None or job.full_name is None else ("", "")
    sender = login.encode() if job.sender is None else _sender(voice, job.sender)
    shown = f"{os.fsdecode(sender)}({uid})"
    reason = sender_refused(p, uid, sender)
    if reason:
        raise Fatal(f"{shown}: {reason}")
    if job.verp and not sender:
        raise Fatal(f"{shown}: -V option requires non-null sender address")
    drop = open_drop(p)
    try:
        for record in _envelope(job, sender, (job.full_name or full_name).encode("utf-8", "surrogateescape")):
            drop.write(record)
        count = _recipients(drop, job, _command_line(job.recipients))
        drop.write(pack(rec.MESSAGE, b""))
        found = _content(p, drop, job, sender)
        drop.write(pack(rec.EXTRACTED, b""))
        count += _recipients(drop, job, found)
        if not count and job.from_headers:
            raise Fatal(f"{shown}: No recipient addresses found in message header")
        if not count:
            raise Fatal(
                f"{shown}: Recipient addresses must be specified on the command line or via the -t option"
            )
        drop.write(pack(rec.END, b""))
    except BaseException as error:
        drop.abandon()
        if isinstance(error, MtadError) and not isinstance(error, Fatal):
            raise Fatal(f"{shown}: {error}") from error
        raise
    try:
        drop.commit()
    except MtadError as error:
        raise Fatal(f"{shown}: {error}") from error
    if job.trace:
        sys.stdout.write(f"Mail Delivery Status Report will be mailed to <{os.fsdecode(sender)}>.\n")


def _sender(voice: Voice, text: str) -> bytes:
    found = tokens.addresses(tokens.parse(os.fsencode(text)))
    if len(found) > 1:
        voice.warning(f"-f option specified malformed sender: {text}")
    return tokens.internal(found[0]) if found else b""


def _envelope(job: _Job, sender: bytes, full_name: bytes) -> list[bytes]:
    records: list[bytes] = []
    if job.options:
        records.append(pack(rec.SIZE, b"%15d %15d %15d %15d %15d %15d" % (-1, -1, -1, -1, -1, job.options)))
    if job.envid:
        records.append(attribute("envelope_id", job.envid))
    if job.ret:
        records.append(attribute("ret_flags", job.ret))
    records.append(attribute("rewrite_context", job.context))
    if full_name:
        records.append(pack(rec.FULL_NAME, full_name))
    records.append(pack(rec.SENDER, sender))
    if job.encoding:
        records.append(attribute("encoding", job.encoding))
    if job.trace:
        records.append(attribute("trace_flags", job.trace))
    if job.verp:
        records.append(pack(rec.VERP, job.verp.encode()))
    return records


def _command_line(words: Sequence[str]) -> list[bytes]:
    """Recipients: each word is read as a header would be."""
    found: list[bytes] = []
    for word in words:
        addresses = tokens.addresses(tokens.parse(os.fsencode(word)))
        found += [tokens.internal(address) for address in addresses] or [b""]
    return found


def _recipients(drop: Drop, job: _Job, addresses: Sequence[bytes]) -> int:
    for address in addresses:
        if job.notify:
            drop.write(attribute("notify_flags", job.notify))
        drop.write(pack(rec.RECIPIENT, address))
    return len(addresses)


def _content(p: Parameters, drop: Drop, job: _Job, sender: bytes) -> list[bytes]:
    """Write the content; the recipients that were found in it."""
    if job.trace == _VERIFY:
        lines = [b"From: " + sender] if sender else []
        names = [os.fsencode(name) for name in job.recipients]
        to = [b"To:\t" + names[0], *[b"\t" + name for name in names[1:]]] if names else []
        lines += [b"Subject: probe", *[line + b"," for line in to[:-1]], *to[-1:]]
        for line in lines:
            drop.write(pack(rec.LINE, line))
        return []
    source = Input(p, dot_ends=job.dot_ends, extract=job.from_headers)
    for data in source.records(sys.stdin.buffer):
        drop.write(data)
    return source.recipients
