"""``mtad queue export`` and ``import``, stopped at any write and run again: each message is there, once."""

from __future__ import annotations

import json
import os
import random
import smtplib
import subprocess
from pathlib import Path

import pytest
from faulty import AVAILABLE, KILL_BEFORE, WHY_NOT, Plan, library
from live.daemon import MTAD, Mtad

pytestmark = pytest.mark.skipif(not AVAILABLE, reason=WHY_NOT)

#: Stops each way, and among how many calls.
STOPS, CALLS = 4, 50


def sides(mtad: Mtad) -> tuple[list[str], list[Path]]:
    """Recipients of what mtad has, and the valid files."""
    listed = [json.loads(line) for line in mtad.command("postqueue", "-j").stdout.splitlines()]
    ours = [entry["recipients"][0]["address"] for entry in listed if entry["queue_name"] != "exported"]
    files = [path for path in (mtad.queue / "hold").rglob("*") if path.is_file()]
    return sorted(ours), [path for path in files if path.stat().st_mode & 0o700 == 0o700]


def test_stopped_and_run_again() -> None:
    dice = random.Random()
    names = ["x0@example.net", "x1@example.net", "x2@example.net"]
    with Mtad({"mynetworks": "127.0.0.0/8", "smtpd_recipient_restrictions": "static:HOLD"}) as mtad:
        (port,) = mtad.ports.values()
        with smtplib.SMTP("127.0.0.1", port) as client:
            for name in names:
                client.sendmail("alice@example.com", [name], f"for {name}".encode())
        mtad.command("stop")
        plan = Plan(mtad.root / "plan")
        environment = {**os.environ, "LD_PRELOAD": library(), "FAULTS": str(mtad.root / "plan")}
        for _ in range(STOPS):
            for direction, expected in (("export", ([], 3)), ("import", (names, 0))):
                plan.arm(dice.randrange(1, CALLS), KILL_BEFORE)
                subprocess.run(
                    [*MTAD, "-c", str(mtad.directory), "queue", direction],
                    env=environment, capture_output=True, start_new_session=True, timeout=60,
                )  # fmt: skip
                plan.disarm()
                again = mtad.command("queue", direction)
                assert again.returncode == 0, again.stderr
                ours, files = sides(mtad)
                assert (ours, len(files)) == expected, f"{direction} at {plan.get('at')}: {again.stderr}"
