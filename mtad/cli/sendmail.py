"""``mtad sendmail``: the interface by which programs of this host send mail, and sendmail's other faces.

Mail goes into the maildrop (:mod:`mtad.queue.postfix.maildrop`), where the mail system takes it from as
soon as it runs.  ``-t`` reads recipients from the headers, ``-f`` and ``-F`` name the sender, ``-N``,
``-R``, ``-V`` ask for notifications, ``-bv`` and ``-v`` for a report; ``-bs`` speaks SMTP, ``-bp`` is
mailq, ``-q`` flushes, ``-bi`` is newaliases, ``-bd`` starts the system.  Who may submit:
``authorized_submit_users``.  The exit status is 0, or 75 for whatever goes wrong, as that of the original.

Postfix counterpart: ``sendmail(1)``, ``postdrop(1)``.
"""

from __future__ import annotations

import os
import pwd
import re
import signal
import sys
from collections.abc import Sequence

from mtad.cli.directory import config_directory, load_parameters
from mtad.cli.sendmail_input import Input
from mtad.cli.sendmail_options import VERIFY, Job, named_directory, read
from mtad.cli.voice import Fatal, Voice
from mtad.config.parameters import Parameters
from mtad.daemon.authorized import refused, sender_refused
from mtad.errors import MtadError
from mtad.queue.postfix import records as rec
from mtad.queue.postfix.maildrop import Drop, open_drop
from mtad.queue.postfix.records import attribute, pack
from mtad.wire import tokens

EX_TEMPFAIL = 75


def main(argv: Sequence[str]) -> int:
    """Run with the arguments behind the command's name; the exit status."""
    return run("sendmail", argv)


def run(name: str, argv: Sequence[str]) -> int:
    """The command under one of its names: ``sendmail``, ``mailq``, ``newaliases``."""
    voice = Voice(name, "sendmail")
    try:
        p = load_parameters(named_directory(name, argv))
        voice.log_to(p)
        job = Job(mode=name if name in ("mailq", "newaliases") else "send")
        read(name, voice, p, argv, job)
        return _do(voice, p, job)
    except (MtadError, OSError) as error:
        voice.fatal(str(error))
        return EX_TEMPFAIL


def _do(voice: Voice, p: Parameters, job: Job) -> int:
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
    if mode in ("send", "smtp"):
        for number in (signal.SIGHUP, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, _give_up)
    if mode == "send":
        _send(voice, p, job)
        return 0
    if mode == "smtp":
        from mtad.cli.sendmail_smtp import serve

        _check_user(p)
        return serve(p)
    if mode == "newaliases":
        from mtad.cli import postalias

        tables = [job.aliases] if job.aliases else p.words("alias_database")
        return postalias.main([*here, "--", *tables]) if tables else 0
    if mode == "daemon":
        from mtad.cli import lifecycle

        return lifecycle.run("start", config_directory(p.directory), ())
    from mtad.cli import postqueue

    words = {"mailq": ["-p"], "flush": ["-f"], "site": ["-s", job.site], "id": ["-i", job.queue_id]}[mode]
    return postqueue.main([*here, *words])


def _give_up(number: int, frame: object) -> None:
    """End, and leave nothing in the maildrop that is not whole."""
    raise SystemExit(EX_TEMPFAIL)


def _check_user(p: Parameters) -> None:
    uid = os.getuid()
    name = refused(p, "authorized_submit_users", uid)
    if name:
        raise Fatal(f"User {name}({uid}) is not allowed to submit mail")


def _user_name() -> str:
    uid = os.getuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        raise Fatal(f"no login name found for user ID {uid}") from None


def _full_name() -> str | None:
    """The user's full name; None: nobody knows it."""
    if (name := os.environ.get("NAME")) is not None:
        return name
    try:
        entry = pwd.getpwuid(os.getuid())
    except KeyError:
        return None
    login = entry.pw_name
    return re.split("[,;%]", entry.pw_gecos)[0].replace("&", login[:1].upper() + login[1:])


def _send(voice: Voice, p: Parameters, job: Job) -> None:
    """Leave a message in the maildrop."""
    _check_user(p)
    uid = os.getuid()
    sender = _user_name().encode() if job.sender is None else _sender(voice, job.sender)
    full_name = _full_name() if job.full_name is None else job.full_name
    shown = f"{os.fsdecode(sender)}({uid})"
    reason = sender_refused(p, uid, sender)
    if reason:
        raise Fatal(f"{shown}: {reason}")
    if job.verp and not sender:
        raise Fatal(f"{shown}: -V option requires non-null sender address")
    drop = open_drop(p, p.number("message_size_limit"))
    try:
        for record in _envelope(job, sender, full_name):
            drop.write(record)
        count = _recipients(drop, job, _command_line(job.recipients))
        drop.write(pack(rec.MESSAGE, b""))
        found = _content(p, drop, job, sender)
        drop.write(pack(rec.EXTRACTED, b""))
        count += _recipients(drop, job, found)
        if not count and job.from_headers:
            raise Fatal("No recipient addresses found in message header")
        if not count:
            raise Fatal("Recipient addresses must be specified on the command line or via the -t option")
        drop.write(pack(rec.END, b""))
        drop.commit()
    except BaseException as error:
        drop.abandon()
        if isinstance(error, MtadError):
            raise Fatal(f"{shown}: {error}") from error
        raise
    if job.trace:
        sys.stdout.write(f"Mail Delivery Status Report will be mailed to <{os.fsdecode(sender)}>.\n")


def _sender(voice: Voice, text: str) -> bytes:
    found = tokens.addresses(tokens.parse(os.fsencode(text)))
    if len(found) > 1:
        voice.warning(f"-f option specified malformed sender: {text}")
    return tokens.internal(found[0]) if found else b""


def _envelope(job: Job, sender: bytes, full_name: str | None) -> list[bytes]:
    records: list[bytes] = []
    if job.options:
        records.append(pack(rec.SIZE, b"%15d %15d %15d %15d %15d %15d" % (-1, -1, -1, -1, -1, job.options)))
    if job.envid:
        records.append(attribute("envelope_id", job.envid))
    if job.ret:
        records.append(attribute("ret_flags", job.ret))
    records.append(attribute("rewrite_context", job.context))
    if full_name is not None:
        records.append(pack(rec.FULL_NAME, os.fsencode(full_name)))
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


def _recipients(drop: Drop, job: Job, addresses: Sequence[bytes]) -> int:
    for address in addresses:
        if job.notify and address:
            drop.write(attribute("notify_flags", job.notify))
        drop.write(pack(rec.RECIPIENT, address))
    return len(addresses)


def _content(p: Parameters, drop: Drop, job: Job, sender: bytes) -> list[bytes]:
    """Write the content; the recipients that were found in it."""
    if job.trace == VERIFY:
        if sender:
            drop.write(pack(rec.LINE, b"From: " + sender))
        drop.write(pack(rec.LINE, b"Subject: probe"))
        if job.recipients:
            drop.write(pack(rec.UNENDED, b"To:"))
            names = b",\n".join([b"\t" + os.fsencode(name) for name in job.recipients])
            drop.write(b"".join([pack(rec.LINE, line) for line in names.split(b"\n")]))
        return []
    source = Input(p, dot_ends=job.dot_ends, extract=job.from_headers)
    for data in source.records(sys.stdin.buffer):
        drop.write(data)
    return source.recipients
