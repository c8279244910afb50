"""Each time-out of the SMTP client: servers that fall silent, or speak slowly, at each stage.

A service each, for which only the one time-out is short.  All run at once, by Postfix and by mtad.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest
from live.daemon import Mtad
from oracle.dialogue import PATIENCE, Config, House, mask
from oracle.postfix import Postfix

SHORT = "2s"
#: Where the server falls silent, by service; the service's own settings, the short time-out first.
SILENT = {
    "connect": ("(accept)", {"smtp_connect_timeout": SHORT}),
    "greeting": ("connect", {"smtp_helo_timeout": SHORT}),
    "helo": ("ehlo", {"smtp_helo_timeout": SHORT}),
    "starttls": ("starttls", {"smtp_starttls_timeout": SHORT, "smtp_tls_security_level": "may"}),
    "handshake": ("(handshake)", {"smtp_starttls_timeout": SHORT, "smtp_tls_security_level": "may"}),
    "xforward": ("xforward", {"smtp_xforward_timeout": SHORT, "smtp_send_xforward_command": "yes"}),
    "mail": ("mail", {"smtp_mail_timeout": SHORT}),
    "rcpt": ("rcpt", {"smtp_rcpt_timeout": SHORT}),
    "data-init": ("data", {"smtp_data_init_timeout": SHORT}),
    "data-xfer": ("(body)", {"smtp_data_xfer_timeout": SHORT}),
    "data-done": ("dot", {"smtp_data_done_timeout": SHORT}),
    "rset": ("rset", {"smtp_rset_timeout": SHORT}),
    "quit": ("quit", {"smtp_quit_timeout": SHORT, "smtp_skip_quit_response": "no"}),
    "deadline": ("(slow ehlo)", {"smtp_helo_timeout": SHORT, "smtp_per_request_deadline": "yes"}),
    "rate": (
        "(slow body)",
        {
            "smtp_data_xfer_timeout": SHORT,
            "smtp_per_request_deadline": "yes",
            "smtp_min_data_rate": "9000000",
        },
    ),
}  # fmt: skip
#: Where it only speaks slowly, each pause shorter than the time-out, and mail gets through.
SLOW = {
    "slow": ("(slow ehlo)", {"smtp_helo_timeout": SHORT}),
    "slow-body": ("(slow body)", {"smtp_data_xfer_timeout": SHORT}),
    # here it is the client that waits, before the end of the message, as some firewalls need it
    "pix": ("(pix)", {"smtp_pix_workaround_delay_time": "1s", "smtp_pix_workaround_threshold_time": "0s"}),
    "no-pix": ("(pix)", {"smtp_pix_workaround_delay_time": "1s"}),
}
CASES = {**SILENT, **SLOW}
LARGE = b"x" * 78 + b"\r\n"


class _Server:
    """A server that falls silent at ``stage``.  ``patience``: how long its client then waited."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self.patience = 0.0
        self._listener = socket.socket()
        if "body" in stage:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0 if stage == "(accept)" else 8)
        self.port: int = self._listener.getsockname()[1]
        self._crowd: list[socket.socket] = []

    def __enter__(self) -> _Server:
        if self._stage == "(accept)":
            for _ in range(2):  # nobody takes them, and there is no room for more
                self._crowd.append(socket.socket())
                self._crowd[-1].setblocking(False)
                with suppress(BlockingIOError):
                    self._crowd[-1].connect(("127.0.0.1", self.port))
        else:
            threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for each in (self._listener, *self._crowd):
            each.close()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(60)
        with suppress(OSError), client, client.makefile("rb", buffering=0) as stream:
            greeting = b"220 ****\r\n" if self._stage == "(pix)" else b"220 x ESMTP\r\n"
            if not self._say(client, "connect", greeting):
                return
            for line in stream:
                stage = line.split()[0].decode().lower()
                reply = b"250 2.0.0 ok\r\n"
                if stage == "ehlo":
                    reply = b"250-x\r\n250-STARTTLS\r\n250-XFORWARD NAME\r\n250 DSN\r\n"
                elif stage == "starttls":
                    reply = b"220 go\r\n"
                elif stage == "data":
                    reply = b"354 go\r\n"
                elif stage == "mail" and self._stage == "rset":
                    reply = b"550 5.1.1 no\r\n"
                if not self._say(client, stage, reply):
                    return
                if stage == "starttls":
                    self._wait(client)
                elif stage == "data":
                    self._body(client)
                    if not self._say(client, "dot", b"250 2.0.0 ok\r\n"):
                        return
                elif stage == "quit":
                    return

    def _say(self, client: socket.socket, stage: str, reply: bytes) -> bool:
        if self._stage == stage:
            return self._wait(client)
        if self._stage == f"(slow {stage})":
            for at in range(0, len(reply), 6):
                client.sendall(reply[at : at + 6])
                time.sleep(0.4)
        else:
            client.sendall(reply)
        return True

    def _wait(self, client: socket.socket) -> bool:
        """Until the client has had enough."""
        begun = time.monotonic()
        with suppress(OSError):
            while client.recv(65536):
                pass
        self.patience = time.monotonic() - begun
        return False

    def _body(self, client: socket.socket) -> None:
        begun, tail = time.monotonic(), b""
        if self._stage == "(body)":
            time.sleep(4.5)
        while not tail.endswith(b"\r\n.\r\n"):
            data = client.recv(1 << 18)
            if not data:
                break
            if self._stage == "(pix)" and data == b".\r\n":
                self.patience = time.monotonic() - begun
            tail = (tail + data)[-5:]
            if self._stage == "(slow body)" and time.monotonic() < begun + 4.5:
                time.sleep(0.3)


@pytest.fixture(scope="module")
def world(certificate: tuple[str, str]) -> Iterator[tuple[House, dict[tuple[int, str], _Server]]]:
    with ExitStack() as stack:
        servers = {
            (side, name): stack.enter_context(_Server(stage))
            for side in (0, 1)
            for name, (stage, _) in CASES.items()
        }
        routes = "".join(
            f"{name}@s{side}.example {name}:[127.0.0.1]:{server.port}\n"
            for (side, name), server in servers.items()
        )
        config = Config(
            "time-outs",
            {
                "relayhost": "",
                "transport_maps": "texthash:{dir}/routes",
                "smtp_log_tls_feature_status": "no",
                "smtpd_client_connection_count_limit": "0",
                "message_size_limit": "20000000",
            },
            transports={name: settings for name, (_, settings) in CASES.items()},
            files={"routes": routes},
        )
        yield stack.enter_context(House(config, certificate)), servers


_LINE = re.compile(r"\w{3} [ \d]\d [\d:]{8} \S+ \S+/smtp\[\d+\]: (.*)")


def _deliver(side: Postfix | Mtad, number: int, name: str, port: int) -> list[str]:
    with socket.create_connection(("127.0.0.1", side.ports["submission"]), PATIENCE) as connection:
        stream = connection.makefile("rb")
        stream.readline()
        for command in ("HELO x", "MAIL FROM:<>", f"RCPT TO:<{name}@s{number}.example>", "DATA"):
            connection.sendall(command.encode() + b"\r\n")
            assert stream.readline()[:1] in b"23"
        large = LARGE * (100000 if "body" in CASES[name][0] else 1)
        connection.sendall(b"Subject: x\r\n\r\n" + large + b".\r\nQUIT\r\n")
        own = stream.readline().split()[-1].decode()
    deadline = time.monotonic() + PATIENCE
    while True:
        found = [m[1] for line in side.log().splitlines() if (m := _LINE.match(line))]
        if any(text.startswith(own) and ", status=" in text for text in found):
            break
        assert time.monotonic() < deadline, (name, found)
        time.sleep(0.05)
    mine = [text for text in found if text.startswith(own) or f"]:{port}" in text]
    return [mask(text, [own], str(side.root)).replace(f":{port}", ":PORT") for text in mine]


@pytest.fixture(scope="module")
def outcomes(
    world: tuple[House, dict[tuple[int, str], _Server]],
) -> dict[tuple[int, str], list[str]]:
    house, servers = world
    with ThreadPoolExecutor(len(servers)) as pool:
        made = {
            (side, name): pool.submit(_deliver, house.sides[side], side, name, server.port)
            for (side, name), server in servers.items()
        }
        return {key: work.result() for key, work in made.items()}


@pytest.mark.parametrize("name", CASES)
def test_time_out(
    world: tuple[House, dict[tuple[int, str], _Server]],
    outcomes: dict[tuple[int, str], list[str]],
    name: str,
) -> None:
    theirs, ours = outcomes[0, name], [line.replace("@s1.", "@s0.") for line in outcomes[1, name]]
    assert ours == theirs
    text = " ".join(ours)
    delivered = name in (*SLOW, "quit", "rset", "handshake")
    assert "timed out" in text or delivered, text
    if name == "pix":  # the end came by itself, and late
        assert all(world[1][side, name].patience > 0.9 for side in (0, 1))
    _, servers = world
    for side in (0, 1) if name in ("rset", "quit") else ():
        deadline = time.monotonic() + PATIENCE
        while not servers[side, name].patience:  # nobody waits for the ends of sessions
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert servers[side, name].patience < 20
