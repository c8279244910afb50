"""What a recipient costs: restriction lists with local tables, evaluated in one process.

    .venv/bin/python benchmarks/policy.py [--seconds 3]

Ten restrictions in four lists (``smtpd_delay_reject = yes``: all of them run at each RCPT), five of them
with tables of 10,000 entries (``hash:``, ``texthash:``, ``cidr:``), then the lookup of the recipient among
the users. The client is none of ours, so no early permission ends a list. Printed: microseconds of CPU a
recipient, best and median of rounds."""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import tempfile
import time
from pathlib import Path

from mtad.cli.main import main as mtad
from mtad.config.parameters import Parameters
from mtad.maillog import ListSink, MailLog
from mtad.policy.evaluator import Evaluator
from mtad.policy.request import Request
from mtad.rewrite.address import Rewriter
from mtad.rewrite.classes import AddressClasses
from mtad.tables.table import PAUSE, Watch
from mtad.wire.address import from_text

ENTRIES = 10_000

SETTINGS = {
    "compatibility_level": "3.6",
    "myhostname": "mail.example.com",
    "mydestination": "example.com",
    "mynetworks": "127.0.0.0/8, 10.0.0.0/8",
    "local_recipient_maps": "texthash:{dir}/users",
    "smtpd_client_restrictions": "check_client_access cidr:{dir}/networks",
    "smtpd_helo_restrictions": "reject_invalid_helo_hostname, check_helo_access hash:{dir}/names",
    "smtpd_sender_restrictions": "reject_non_fqdn_sender, check_sender_access hash:{dir}/senders",
    "smtpd_relay_restrictions": "permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination",
    "smtpd_recipient_restrictions": "reject_non_fqdn_recipient, check_recipient_access hash:{dir}/recipients",
}


def tables(directory: Path) -> None:
    """Write the tables; none of their entries is what will be asked for, but the users."""
    names = {
        "names": "host{}.example.org OK",
        "senders": "user{}@example.org OK",
        "recipients": "user{}@example.net OK",
        "users": "user{} x",
    }
    for name, form in names.items():
        (directory / name).write_text("".join(f"{form.format(n)}\n" for n in range(ENTRIES)))
    networks = "".join(f"100.{n >> 8}.{n & 255}.0/24 REJECT\n" for n in range(ENTRIES))
    (directory / "networks").write_text(networks)
    (directory / "main.cf").write_text("compatibility_level = 3.6\n")
    for name in ("names", "senders", "recipients"):
        if mtad(["-c", str(directory), "postmap", f"hash:{directory}/{name}"]):
            raise SystemExit(f"postmap {name} failed")


class Load:
    """An evaluator and its questions."""

    def __init__(self, directory: Path) -> None:
        tables(directory)
        Watch.pause = PAUSE
        settings = {name: text.replace("{dir}", str(directory)) for name, text in SETTINGS.items()}
        p = Parameters.from_mapping(settings, str(directory))
        log = MailLog(ListSink(), "smtpd")
        self._evaluator = Evaluator(p, log, Rewriter(p), AddressClasses(p, own=["127.0.0.1"]))
        self._request = Request("client.example.net", "192.0.2.9", helo=b"client.example.net")
        self._request.sender = from_text(b"someone@sender.example.net")

    def recipients(self, count: int) -> float:
        """Ask about so many recipients; the CPU time."""
        request, evaluator = self._request, self._evaluator
        addresses = [from_text(b"user%d@example.com" % (n % ENTRIES)) for n in range(count)]
        start = time.process_time()
        for address in addresses:
            request.recipient = address
            try:
                evaluator.rcpt(request).send(None)
            except StopIteration as stop:
                if stop.value is not None:
                    raise SystemExit(f"refused: {stop.value.reply}") from None
        return time.process_time() - start


def measure(seconds: float) -> list[float]:
    """Microseconds a recipient, round by round."""
    with tempfile.TemporaryDirectory() as directory:
        load = Load(Path(directory))
        load.recipients(2000)
        rounds: list[float] = []
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(rounds) < 3:
            rounds.append(load.recipients(2000) / 2000 * 1e6)
    return rounds


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="how long to measure (default: 3)")
    gc.freeze()  # as a worker does
    gc.set_threshold(10_000, 20, 50)
    rounds = measure(parser.parse_args().seconds)
    print(f"{min(rounds):.1f} us a recipient at best, {statistics.median(rounds):.1f} us in the median")
    return 0


if __name__ == "__main__":
    sys.exit(main())
