"""Hostile clients: what they cost, and what other clients notice.

Each attack goes on for some seconds; meanwhile a well-behaved client sends one small message after the other
and measures each session, from its connection to the reply to QUIT.  The table has its median and p99, how
many messages it got through, the memory of all processes before the attack and at most during it, and the
CPU time that was used a second.

    hostile.py [--seconds 8] [--only idle,loris,...] [--connections 10000] [--json FILE]

An attack is a process of its own (``hostile.py --attack NAME ...``), so that what it costs is not measured.
Nothing is asserted; ``tests/live/test_live_hostile.py`` has short forms with limits.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import resource
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import systems

TEXT = b"Subject: x\r\n\r\n" + b"text of a small message\r\n" * 20 + b".\r\n"
ENVELOPE = (
    b"EHLO good.example\r\n",
    b"MAIL FROM:<a@example.com>\r\n",
    b"RCPT TO:<b@example.net>\r\n",
    b"DATA\r\n",
)

# -- attacks: coroutines, one a connection, that end when they are cancelled

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _open(port: int) -> Streams:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await _heard(reader)
    return reader, writer


async def _heard(reader: asyncio.StreamReader) -> bytes:
    while (line := await reader.readline())[3:4] == b"-":
        pass
    if not line:
        raise ConnectionError
    return line


async def _say(streams: Streams, *lines: bytes) -> None:
    for line in lines:
        streams[1].write(line)
        await _heard(streams[0])


async def _drip(streams: Streams, data: bytes, pause: float) -> None:
    while True:
        for at in range(len(data)):
            streams[1].write(data[at : at + 1])
            await asyncio.sleep(pause)


#: The states in which a client may dawdle: what is said before, and what then comes byte by byte.
STATES: dict[str, tuple[tuple[bytes, ...], bytes]] = {
    "greeted": ((), b"EHLO very.slow.client.example.com and so on"),
    "said hello": (ENVELOPE[:1], b"MAIL FROM:<somebody@"),
    "in mail": (ENVELOPE[:2], b"RCPT TO:<somebody@"),
    "in data": (ENVELOPE, b"text without end \r\n"),
    "in a chunk": ((*ENVELOPE[:3], b""), b"BDAT 1000000\r\n" + b"x" * 1000),
    "before tls": ((*ENVELOPE[:1], b"STARTTLS\r\n"), b"\x16\x03\x01\x02\x00"),
}


async def loris(port: int, number: int) -> None:
    said, data = list(STATES.values())[number % len(STATES)]
    streams = await _open(port)
    await _say(streams, *(line for line in said if line))
    await _drip(streams, data, 1.0)


async def idle(port: int, number: int) -> None:
    streams = await _open(port)
    await _say(streams, ENVELOPE[0])
    await asyncio.sleep(3600)


async def _flood(port: int, said: tuple[bytes, ...], data: bytes) -> None:
    streams = await _open(port)
    await _say(streams, *said)

    async def listen() -> None:
        while await streams[0].read(65536):
            pass

    listening = asyncio.ensure_future(listen())
    try:
        while not listening.done():
            streams[1].write(data)
            await streams[1].drain()
    finally:
        listening.cancel()


async def noop(port: int, number: int) -> None:
    await _flood(port, ENVELOPE[:1], b"NOOP\r\n" * 500)


async def rset(port: int, number: int) -> None:
    await _flood(port, ENVELOPE[:1], (b"MAIL FROM:<a@example.com>\r\n" + b"RSET\r\n") * 200)


async def line(port: int, number: int) -> None:
    await _flood(port, ENVELOPE[:1], b"x" * 65536)


async def parameters(port: int, number: int) -> None:
    await _flood(port, ENVELOPE[:1], b"MAIL FROM:<a@example.com>" + b" X=" + b"y" * 2000 + b"\r\n")


async def deaf(port: int, number: int) -> None:
    """Asks, and takes no answer."""
    _, writer = await _open(port)
    while True:
        writer.write(b"EHLO x\r\n" + b"RSET\r\n" * 5000)
        await writer.drain()


async def body(port: int, number: int) -> None:
    await _flood(port, ENVELOPE, b"x" * 65536)


async def bytewise(port: int, number: int) -> None:
    streams = await _open(port)
    while True:
        for said in (*ENVELOPE, TEXT):
            for at in range(len(said)):
                streams[1].write(said[at : at + 1])
                await asyncio.sleep(0)
            await _heard(streams[0])


async def handshakes(port: int, number: int) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    streams = await _open(port)
    await _say(streams, ENVELOPE[0], b"STARTTLS\r\n")
    await streams[1].start_tls(context)
    streams[1].transport.abort()


async def connections(port: int, number: int) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.transport.abort()


#: The attack, what it is, how many connections at a time, to which service.
ATTACKS: dict[str, tuple[Callable[[int, int], Awaitable[None]] | None, str, int, str]] = {
    "nothing": (None, "nothing", 0, "plain"),
    "idle": (idle, "idle connections", 10000, "plain"),
    "loris": (loris, f"a byte a second, in {len(STATES)} states", 1200, "submission"),
    "noop": (noop, "NOOP without end", 10, "plain"),
    "rset": (rset, "MAIL and RSET without end", 10, "plain"),
    "line": (line, "a line without end", 10, "plain"),
    "parameters": (parameters, "parameters of 2000 bytes", 10, "plain"),
    "body": (body, "a message without end", 10, "plain"),
    "deaf": (deaf, "takes no replies", 200, "plain"),
    "bytewise": (bytewise, "a byte a packet", 10, "plain"),
    "connections": (connections, "connect, hang up", 20, "plain"),
    "handshakes": (handshakes, "TLS handshakes", 8, "submission"),
}


async def attack(name: str, port: int, count: int, seconds: float) -> None:
    """All its connections, each made again when it has ended."""
    client = ATTACKS[name][0]
    assert client is not None
    made = 0

    async def one(number: int) -> None:
        nonlocal made
        while True:
            made += 1
            with contextlib.suppress(OSError, EOFError, asyncio.IncompleteReadError, ssl.SSLError):
                await client(port, number)
            await asyncio.sleep(0.001)

    tasks = []
    for number in range(count):
        tasks.append(asyncio.ensure_future(one(number)))
        if number % 100 == 99:
            await asyncio.sleep(0.05)
    print("going", flush=True)
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    print(made, flush=True)


# -- the well-behaved client, and what is measured


def send(port: int) -> float:
    """One message; the seconds that the session took."""
    begin = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        heard = connection.makefile("rb")
        for said, code in zip(
            (b"", *ENVELOPE, TEXT, b"QUIT\r\n"),
            (b"220", b"250", b"250", b"250", b"354", b"250", b"221"),
            strict=True,
        ):
            connection.sendall(said)
            while (reply := heard.readline())[3:4] == b"-":
                pass
            if not reply.startswith(code):
                raise RuntimeError(f"{said!r} was answered {reply!r}")
    return time.perf_counter() - begin


class Meter(threading.Thread):
    """Looks at the memory twice a second."""

    def __init__(self, tree: Any) -> None:
        super().__init__(daemon=True)
        self._tree, self._end = tree, threading.Event()
        self.most = 0

    def run(self) -> None:
        while not self._end.wait(0.5):
            self.most = max(self.most, self._tree.memory())

    def stop(self) -> int:
        self._end.set()
        self.join()
        return self.most


def measure(system: systems.System, name: str, count: int, seconds: float) -> dict[str, Any]:
    """One attack."""
    _, _, _, service = ATTACKS[name]
    system.tree.settle()
    before = system.tree.memory()
    attacker = None
    if count:
        command = [sys.executable, __file__, "--attack", name, "--port", str(system.ports[service])]
        attacker = subprocess.Popen(
            [*command, "--connections", str(count), "--seconds", str(seconds)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert attacker.stdout is not None
        attacker.stdout.readline()
    meter, cpu, begin = Meter(system.tree), system.tree.cpu(), time.monotonic()
    meter.start()
    times: list[float] = []
    while time.monotonic() < begin + seconds - 0.5:
        times.append(send(system.ports["plain"]))
        time.sleep(0.005)
    used = (system.tree.cpu() - cpu) / (time.monotonic() - begin)
    most = max(meter.stop(), system.tree.memory())
    made = 0
    if attacker is not None:
        made = int((attacker.communicate()[0] or "0").split()[-1])
    times.sort()
    return {
        "attack": name,
        "connections": count,
        "made": made,
        "messages": len(times),
        "p50_ms": statistics.median(times) * 1000,
        "p99_ms": times[int(len(times) * 0.99)] * 1000,
        "before_mib": before / 2**20,
        "most_mib": most / 2**20,
        "cpu": used,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--only", default=",".join(ATTACKS))
    parser.add_argument("--connections", type=int, default=0, help="in place of each attack's own number")
    parser.add_argument("--json")
    parser.add_argument("--attack", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if chosen.attack:
        asyncio.run(attack(chosen.attack, chosen.port, chosen.connections, chosen.seconds))
        return
    results = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        systems.prepare(directory)
        configuration = systems.main_cf(directory, 9) | {"relayhost": "", "default_transport": "discard:all"}
        with systems.running("mtad", configuration, directory / "sasldb2") as system:
            send(system.ports["plain"])
            print(f"{'attack':44}{'msgs':>6}{'p50 ms':>8}{'p99 ms':>8}{'MiB':>7}{'most':>7}{'CPU':>6}")
            for each in chosen.only.split(","):
                _, title, usual, _ = ATTACKS[each]
                count = usual and (chosen.connections or usual)
                result = measure(system, each, count, chosen.seconds)
                results.append(result)
                label = f"{title} ({count} at a time, {result['made']})" if count else title
                print(
                    f"{label:44}{result['messages']:6}{result['p50_ms']:8.1f}"
                    f"{result['p99_ms']:8.1f}{result['before_mib']:7.0f}{result['most_mib']:7.0f}{result['cpu']:6.2f}",
                    flush=True,
                )
    if chosen.json:
        Path(chosen.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
