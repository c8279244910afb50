"""Debian's Postfix and mtad side by side, on the same configuration (``systems.py`` says which).

Each load is given to each system in turn, several rounds of it, the first system of a round being the second
of the next.  A round of a load is measured from the first connection until the sink has got all the mail; the
CPU time (``meters.py``) is that of all the system's processes, until they have come to rest.

    bench.py [--rounds N] [--quick] [--only a,b,c,idle,drain,million] [--systems postfix,mtad] ...

The table has the medians of the rounds, and their ratio mtad/Postfix.  Nothing is asserted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import long_queues
import meters
import systems
from systems import LOGIN, PASSWORD, System, running

BIN = Path(__file__).resolve().parent / "bin"
PATIENCE = 180.0
LOGGED_IN = ("--tls", "starttls", "--user", LOGIN, "--password", PASSWORD)

#: Rounds of the drain, its messages, and those of the very long queue.
DRAINS, DRAINED, MILLION = 3, 20_000, 1_000_000

#: Postfix's memory for one more connection, roughly; to know beforehand whether there is enough.
_SMTPD_PROCESS = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Load:
    """A kind of traffic."""

    key: str
    title: str
    service: str
    messages: int
    sessions: int
    options: tuple[str, ...]


LOADS = (
    Load("a", "STARTTLS + AUTH PLAIN + one 2 KiB message a connection", "submission", 2000, 20, LOGGED_IN),
    Load("b", "ten 2 KiB messages a connection, no TLS", "plain", 4000, 20, ("--per-connection", "10")),
    Load(
        "c", "one 20 MiB message, STARTTLS + AUTH PLAIN, one after the other", "submission", 6, 1,
        ("--size", str(20 * 1024 * 1024), *LOGGED_IN),
    ),
)  # fmt: skip

#: What is measured of a load: its key, its name, and what is hoped for of the ratio.
MEASURES = (
    ("rate", "messages/s", {"a": ">= 1.5", "b": ">= 1.5"}),
    ("cpu_ms", "CPU ms/message", {"a": "<= 0.6", "b": "<= 0.6"}),
    ("p50", "message p50, ms", {}),
    ("p99", "message p99, ms", {}),
    ("connection_p50", "connection p50, ms", {}),
    ("connection_p99", "connection p99, ms", {}),
)


class Sink:
    """The running sink; a context manager."""

    def __init__(self, pin: list[str]) -> None:
        pipe = subprocess.PIPE
        # a session of its own: Ctrl-C is ours
        self._process = subprocess.Popen(
            [*pin, BIN / "sink"], stdin=pipe, stdout=pipe, text=True, bufsize=1, start_new_session=True
        )
        assert self._process.stdin and self._process.stdout
        self._in, self._out = self._process.stdin, self._process.stdout
        self.port = int(self._out.readline())

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self._in.close()
        self._process.wait(10)

    def _ask(self, command: str, seconds: float = 10.0) -> tuple[int, float] | None:
        self._in.write(f"{command}\n")
        if not select.select([self._out], [], [], seconds)[0]:
            return None
        count, _, last = self._out.readline().split()
        return int(count), float(last)

    def reset(self) -> None:
        self._ask("reset")

    def wait(self, messages: int) -> tuple[int, float]:
        """How many messages have come, and when the last; waits for ``messages`` of them."""
        answer = self._ask(f"wait {messages}", PATIENCE) or self._ask("count")
        if answer is None:
            raise RuntimeError("the sink does not answer")
        return answer


class Bench:
    """The measuring itself; ``results``: per load and system one mapping a round."""

    def __init__(self, sink: Sink, pin: list[str]) -> None:
        self._sink = sink
        self._pin = pin
        self.results: dict[str, dict[str, list[dict[str, Any]]]] = {}
        self.remarks: list[str] = []

    def _generate(self, system: System, load: Load, messages: int) -> dict[str, Any]:
        words = [
            *self._pin, str(BIN / "load"), "--port", str(system.ports[load.service]), "--messages",
            str(messages), "--sessions", str(load.sessions), "--timeout", str(PATIENCE), *load.options,
        ]  # fmt: skip
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE + 30)
        if done.returncode not in (0, 1):
            raise RuntimeError(done.stderr)
        outcome: dict[str, Any] = json.loads(done.stdout)
        if done.returncode:
            self._remark(f"{system.name} ({load.key}): not done after {PATIENCE:.0f} s")
        for surprise in outcome["unexpected"]:
            self._remark(f"{system.name} ({load.key}): {surprise['count']} x {surprise['reply']}")
        return outcome

    def _remark(self, text: str) -> None:
        self.remarks.append(text)
        tell(text)

    def warm_up(self, system: System, load: Load, messages: int) -> None:
        self._sink.reset()
        outcome = self._generate(system, load, messages)
        self._sink.wait(outcome["messages"])
        system.tree.settle()
        os.sync()

    def measure(self, system: System, load: Load, messages: int) -> dict[str, Any]:
        """One load on one system."""
        self._sink.reset()
        before = system.tree.cpu()
        outcome = self._generate(system, load, messages)
        relayed, last = self._sink.wait(outcome["messages"])
        system.tree.settle()
        cpu = system.tree.cpu() - before
        if relayed != outcome["messages"]:
            self._remark(f"{system.name} ({load.key}): {outcome['messages']} accepted, {relayed} relayed")
        accepted = max(1, outcome["messages"])
        result = {
            "rate": relayed / max(last - outcome["start"], 1e-9),
            "accept_rate": outcome["messages"] / max(outcome["elapsed"], 1e-9),
            "cpu_ms": 1e3 * cpu / accepted,
            "p50": outcome["message_ms"]["p50"],
            "p99": outcome["message_ms"]["p99"],
            "connection_p50": outcome["connection_ms"]["p50"],
            "connection_p99": outcome["connection_ms"]["p99"],
            "generator_cpu_ms": 1e3 * outcome["cpu_s"] / accepted,
            "messages": outcome["messages"],
            "errors": outcome["errors"],
            "tls": outcome["tls"],
        }
        self.results.setdefault(load.key, {}).setdefault(system.name, []).append(result)
        return result

    def loads(self, running_now: Sequence[System], loads: Sequence[Load], rounds: int, part: float) -> None:
        """All rounds of all loads."""
        for load in loads:
            messages = max(load.sessions, 3, int(load.messages * part))
            for system in running_now:
                self.warm_up(system, load, max(load.sessions, messages // 4))
            for number in range(rounds):
                for system in running_now[:: 1 if number % 2 == 0 else -1]:
                    self.warm_up(system, load, load.sessions)
                    result = self.measure(system, load, messages)
                    tell(
                        f"({load.key}) round {number + 1} {system.name:8}"
                        f"{result['rate']:9.1f} messages/s {result['cpu_ms']:8.3f} CPU ms/message"
                    )

    def drain(self, name: str, configuration: dict[str, str], users: Path, messages: int) -> None:
        """A queue of so many messages, emptied."""

        def fill(system: System) -> int:
            return int(self._generate(system, LOADS[1], messages)["messages"])

        self._sink.reset()
        result = long_queues.drain(name, configuration, users, messages, fill, self._sink.wait)
        if result["messages"] != result["accepted"]:
            self._remark(f"{name} (drain): {result['accepted']} accepted, {result['messages']} relayed")
        self.results.setdefault("drain", {}).setdefault(name, []).append(result)
        tell(f"(drain) {name:8}{result['rate']:9.1f} messages/s {result['cpu_ms']:8.3f} CPU ms/message")

    def million(self, configuration: dict[str, str], users: Path, scratch: Path, count: int) -> None:
        """A very long queue; mtad only."""
        result = long_queues.million(configuration, users, scratch, count)
        self.results.setdefault("million", {}).setdefault("mtad", []).append(result)
        tell(f"(million) first delivery after {result['first_delivery_s']:.2f} s")

    def idle(self, system: System, connections: int) -> None:
        """The memory of ``connections`` clients that have logged in and say nothing."""
        load = LOADS[0]
        self.warm_up(system, load, load.sessions)
        before = system.tree.memory()
        words = [
            str(BIN / "load"), "--port", str(system.ports["submission"]), "--idle", str(connections),
            "--sessions", "10", "--timeout", str(PATIENCE), *LOGGED_IN,
        ]  # fmt: skip
        pipe = subprocess.PIPE
        generator = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
        assert generator.stdin and generator.stdout
        try:
            first = generator.stdout.readline().split()
            if first[:1] != ["ready"]:
                raise RuntimeError(f"{system.name}: the idle connections were not made: {first}")
            system.tree.settle(10)
            after = system.tree.memory()
            processes = len(system.tree.pids())
            generator.stdin.write("\n")
            generator.stdin.flush()
            outcome = json.loads(generator.stdout.readline())
        finally:
            generator.stdin.close()
            generator.wait(30)
        for surprise in outcome["unexpected"]:
            self._remark(f"{system.name} (idle): {surprise['count']} x {surprise['reply']}")
        held = max(1, outcome["idle"])
        result = {
            "connections": outcome["idle"],
            "before_mib": before / 2**20,
            "after_mib": after / 2**20,
            "kib_per_connection": (after - before) / 1024 / held,
            "processes": processes,
        }
        self.results.setdefault("idle", {}).setdefault(system.name, []).append(result)
        tell(f"(idle) {system.name:8}{result['kib_per_connection']:9.1f} KiB a connection")


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _row(title: str, values: dict[str, float | None], wanted: str, spread: str = "") -> str:
    cells = [f"{value:12.3f}" if value is not None else f"{'-':>12}" for value in values.values()]
    both = values.get("postfix"), values.get("mtad")
    ratio = f"{both[1] / both[0]:8.3f}" if both[0] and both[1] else f"{'-':>8}"
    return f"  {title:30}{''.join(cells)}{ratio}  {spread:15} {wanted}".rstrip()


def table(results: dict[str, dict[str, list[dict[str, Any]]]], names: Sequence[str]) -> Iterator[str]:
    """The lines of the report."""
    head = "".join(f"{name:>12}" for name in names)
    yield f"{'medians':32}{head}   ratio  least..most     wanted"
    for load in LOADS:
        if load.key not in results:
            continue
        yield f"({load.key}) {load.title}"
        found = results[load.key]
        for key, title, wanted in MEASURES:
            values = {
                name: statistics.median(each[key] for each in found[name]) if name in found else None
                for name in names
            }
            yield _row(title, values, wanted.get(load.key, ""), _spread(found, key))
    if "drain" in results:
        found = results["drain"]
        yield "(drain) a queue of deferred messages, flushed"
        for key, title, hope in (("rate", "messages/s", ">= 2"), ("cpu_ms", "CPU ms/message", "")):
            values = {
                name: statistics.median(each[key] for each in found[name]) if name in found else None
                for name in names
            }
            yield _row(title, values, hope, _spread(found, key))
    if "million" in results:
        (result,) = results["million"]["mtad"]
        yield f"(million) {result['messages']} deferred messages, all due"
        for key, title, hope in (
            ("first_delivery_s", "start to first delivery, s", "< 3"),
            ("memory_mib", "memory, MiB", "< 200"),
            ("rate", "messages/s", ""),
            ("postqueue_first_line_s", "postqueue -p, first line, s", ""),
            ("postqueue_peak_mib", "postqueue -p, memory, MiB", ""),
        ):
            yield _row(title, {name: result[key] if name == "mtad" else None for name in names}, hope)
    if "idle" in results:
        found = results["idle"]
        counts = {name: found[name][0]["connections"] for name in names if name in found}
        yield f"(idle) TLS connections, logged in: {', '.join(f'{n} {c}' for n, c in counts.items())}"
        for key, title, hope in (
            ("before_mib", "before, MiB", ""),
            ("after_mib", "with them, MiB", ""),
            ("kib_per_connection", "KiB a connection", "<= 0.05"),
        ):
            yield _row(title, {n: found[n][0][key] if n in found else None for n in names}, hope)


def _spread(found: dict[str, list[dict[str, Any]]], key: str) -> str:
    """The least and the greatest ratio of a round."""
    pairs = zip(found.get("postfix", []), found.get("mtad", []), strict=False)
    ratios = [mtad[key] / postfix[key] for postfix, mtad in pairs if postfix[key]]
    return f"{min(ratios):.2f}..{max(ratios):.2f}" if ratios else ""


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.py", description="Postfix and mtad, side by side.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two rounds of a quarter, 200 idle connections")
    parser.add_argument(
        "--only", default="a,b,c,idle,drain,million", help="which loads (default: %(default)s)"
    )
    parser.add_argument("--systems", default="postfix,mtad", help="which systems (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=2000, help="idle connections")
    parser.add_argument("--directory", default="/var/tmp", help="where the queues are; a disk, not a tmpfs")
    parser.add_argument("--pin", metavar="CPU", help="CPUs of load generator and sink (taskset -c)")
    parser.add_argument("--json", metavar="FILE", help="write everything that was measured")
    chosen = parser.parse_args(argv)
    known = {
        "only": {"idle", "drain", "million", *(load.key for load in LOADS)},
        "systems": {"postfix", "mtad"},
    }
    for name, words in known.items():
        setattr(chosen, name, getattr(chosen, name).split(","))
        if not set(getattr(chosen, name)) <= words:
            parser.error(f"--{name} takes {', '.join(sorted(words))}")
    if chosen.quick:
        chosen.rounds, chosen.connections = min(chosen.rounds, 2), min(chosen.connections, 200)
    for name in chosen.systems:
        reason = systems.unavailable(name)
        if reason:
            parser.error(f"{name}: {reason}")
    return chosen


def run(chosen: argparse.Namespace, sink: Sink, scratch: Path) -> Bench:
    """Everything that was chosen."""
    bench = Bench(sink, ["taskset", "-c", chosen.pin] if chosen.pin else [])
    systems.prepare(scratch)
    configuration = systems.main_cf(scratch, sink.port)
    users = scratch / "sasldb2"
    loads = [load for load in LOADS if load.key in chosen.only]
    if loads:
        with contextlib.ExitStack() as stack:
            both = [stack.enter_context(running(n, configuration, users)) for n in chosen.systems]
            tell(f"CPU time by {both[0].tree.method}")
            bench.loads(both, loads, chosen.rounds, 0.25 if chosen.quick else 1.0)
            for system in both:
                bench.remarks += [f"{system.name}: {line}" for line in system.complaints()[:10]]
    for number in range(min(chosen.rounds, DRAINS) if "drain" in chosen.only else 0):
        for name in chosen.systems[:: 1 if number % 2 == 0 else -1]:
            bench.drain(name, configuration, users, DRAINED // 10 if chosen.quick else DRAINED)
    if "million" in chosen.only and "mtad" in chosen.systems:
        bench.million(configuration, users, scratch, MILLION // 10 if chosen.quick else MILLION)
    for name in chosen.systems if "idle" in chosen.only else ():
        connections = chosen.connections
        if name == "postfix":
            connections = min(connections, int(meters.memory_available() * 0.8 / _SMTPD_PROCESS))
            if connections < chosen.connections:
                bench.remarks.append(f"memory for {connections} idle connections with Postfix only")
        roomy = {"default_process_limit": str(connections + 100), "smtpd_timeout": "3600s"}
        with running(name, configuration | roomy, users) as system:
            bench.idle(system, connections)
            bench.remarks += [f"{system.name}: {line}" for line in system.complaints()[:10]]
    return bench


def main() -> int:
    chosen = options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    tempfile.tempdir = chosen.directory
    scratch = Path(tempfile.mkdtemp(prefix="bench-"))
    began = time.time()
    about = {**meters.machine(), **{name: systems.version(name) for name in chosen.systems}}
    tell(", ".join(f"{key} {value}" for key, value in about.items()))
    try:
        with Sink(["taskset", "-c", chosen.pin] if chosen.pin else []) as sink:
            bench = run(chosen, sink, scratch)
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print("\n".join(table(bench.results, chosen.systems)))
    for remark in dict.fromkeys(bench.remarks):
        print(f"! {remark}")
    if chosen.json:
        report = {
            "machine": about,
            "seconds": round(time.time() - began, 1),
            "rounds": chosen.rounds,
            "remarks": bench.remarks,
            "results": bench.results,
        }
        Path(chosen.json).write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
