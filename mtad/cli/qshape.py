"""``mtad qshape``: how old the mail in the queue is, by domain.

``qshape [-s] [-p] [-m MIN_SUBDOMAINS] [-l] [-b BUCKETS] [-t MINUTES] [-w WIDTH] [-c DIR] [QUEUE...]``: a
table of the recipients' domains (``-s``: the senders') and how many recipients wait in each age bucket.
The queues are ``incoming`` and ``active`` unless others are named.

Postfix counterpart: ``qshape(1)``.
"""

from __future__ import annotations

import getopt
import math
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mtad.cli.control import ControlError, ask
from mtad.cli.directory import load_parameters
from mtad.config.parameters import Parameters
from mtad.daemon.paths import paths
from mtad.errors import MtadError
from mtad.maillog import printable
from mtad.queue.postfix.files import MAILDROP, QUEUES
from mtad.queue.postfix.waiting import waiting
from mtad.queue.sqlite import SQLiteStore

USAGE = """\
Usage: qshape [ -s ] [ -p ] [ -m <min_subdomains> ] [ -l ]
	[ -b <bucket_count> ] [ -t <bucket_time> ] [ -w <terminal_width> ]
	[ -N <batch_msg_count> ] [ -n <batch_top_domains> ]
	[ -c <config_directory> ] [ <queue_name> ... ]
The 's' option shows sender domain counts.
The 'p' option shows address counts by for parent domains.
"""
_NARROWEST = 18
_TOTAL = "TOTAL"


@dataclass(slots=True)
class Shape:
    """The counts.  ``buckets`` of ``minutes`` each, or each twice as long as the one before."""

    buckets: int = 10
    minutes: float = 5
    linear: bool = False
    parents: bool = False
    least: int = 5
    width: int = 80
    now: float = 0.0
    counts: dict[str, list[int]] = field(default_factory=dict)
    subdomains: dict[str, int] = field(default_factory=dict)

    def add(self, arrival: float, address: str) -> None:
        """One recipient (or sender)."""
        bucket = self._bucket(arrival)
        self._count(_TOTAL, bucket)
        name = (address or "MAILER-DAEMON").lower() if address else "MAILER-DAEMON"
        name = re.sub(r"\.\.", ".", name.rpartition("@")[2]).strip(".") or name
        new = False
        while True:
            old = self._count(name, bucket) > 1
            if new:
                self.subdomains[name] = self.subdomains.get(name, 0) + 1
            new = not old
            match = re.match(r"\.?[^.]+\.(.*\..*)", name) if self.parents else None
            if match is None:
                return
            name = f".{match[1]}"

    def _count(self, name: str, bucket: int) -> int:
        row = self.counts.setdefault(name, [0] * (self.buckets + 1))
        row[0] += 1
        row[bucket] += 1
        return row[0]

    def _bucket(self, arrival: float) -> int:
        age = (self.now - arrival) / (60 * self.minutes)
        if age < 1:
            return 1
        bucket = int(age + 1) if self.linear else 2 + int(math.log2(age))
        return min(bucket, self.buckets)

    def lines(self) -> Iterator[bytes]:
        """The table."""
        total = self.counts.setdefault(_TOTAL, [0] * (self.buckets + 1))
        heads, widths = ["T"], []
        minutes = 0.0
        for bucket in range(1, self.buckets + 1):
            last = bucket == self.buckets
            if not last:
                minutes += minutes if minutes and not self.linear else self.minutes
            heads.append(f"{minutes:.15g}" + "+" * last)
        for head, count in zip(heads, total, strict=True):
            size = max(len(head), len(str(count)))
            widths.append(size + 1 if size > 2 else 3)
        room = max(_NARROWEST, self.width - sum(widths))
        yield _row("", heads, widths, room)
        for name in sorted(self.counts, key=lambda name: (-self.counts[name][0], len(name))):
            if name.startswith(".") and self.subdomains.get(name, 0) < self.least:
                continue
            yield _row(name, [str(count) for count in self.counts[name]], widths, room)


def _row(domain: str, cells: Sequence[str], widths: Sequence[int], room: int) -> bytes:
    """A line; what does not fit is measured in bytes."""
    name = domain.encode()
    if len(name) > room:
        name = b".+" + name[2 - room :] if name.startswith(b".") else b"+" + name[1 - room :]
    counts = "".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
    return name.rjust(room) + counts.encode() + b"\n"


def _envelopes(p: Parameters, queues: frozenset[str]) -> Iterator[tuple[float, bytes, list[bytes]]]:
    """Arrival, sender and recipients of what is in these queues."""
    if MAILDROP in queues:
        for message in waiting(p):
            yield message.arrival, message.sender, [r.address for r in message.recipients]
    directory = p["mtad_queue_directory"]
    if not queues - {MAILDROP} or not os.path.exists(os.path.join(directory, "queue.db")):
        return
    try:
        active = frozenset(ask(paths(p).control, {"command": "showq"}, 10.0).get("active", ()))
    except ControlError:
        active = frozenset()
    store = SQLiteStore(directory, None, read_only=True)
    store.open()
    for message in store.listing():
        queue = "active" if message.queue_id in active else message.state
        if queue in queues:
            yield message.arrival, message.sender, [r.address for r in message.recipients]


def main(argv: Sequence[str]) -> int:
    """Run with the arguments behind the command's name; the exit status."""
    try:
        options, queues = getopt.getopt(list(argv), "lhc:psw:b:t:m:n:N:")
        values = dict(options)
        if "-h" in values:
            sys.stderr.write(USAGE)
            return 255
        shape = Shape(
            buckets=int(_number(values, "-b", 10)), minutes=_number(values, "-t", 5), linear="-l" in values,
            parents="-p" in values, least=int(_number(values, "-m", 5)),
            width=max(80, int(_number(values, "-w", 80))), now=time.time(),
        )  # fmt: skip
    except getopt.GetoptError as error:
        sys.stderr.write(f"qshape: Unknown option: {error.opt}\n{USAGE}")
        return 255
    try:
        p = load_parameters(values.get("-c"))
        # names of directories, as they would be given to the original
        names = frozenset(os.path.basename(queue.rstrip("/")) for queue in queues)
        for arrival, sender, recipients in _envelopes(p, names or frozenset(("incoming", "active"))):
            for address in [sender] if "-s" in values else recipients:
                shape.add(arrival, printable(address))
        for name in sorted(names - frozenset(QUEUES)):
            sys.stderr.write(f"Can't stat {printable(name)}: No such file or directory\n")
        sys.stdout.buffer.write(b"".join(shape.lines()))
        sys.stdout.flush()
    except MtadError as error:
        sys.stderr.write(f"qshape: {error}\n")
        return 1
    return 0


def _number(values: dict[str, str], option: str, default: int) -> float:
    """What an option's value begins with, where that is a positive number."""
    match = re.match(r"\d{1,9}(\.\d{0,9})?|\.\d{1,9}", values.get(option, "").lstrip())
    return float(match[0]) or default if match else default
