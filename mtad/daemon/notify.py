"""What systemd wants to hear: readiness, reloads, signs of life (``sd_notify(3)``).

Without ``$NOTIFY_SOCKET`` nothing is said.  Nothing is raised.
"""

from __future__ import annotations

import os
import socket
import time


class Notifier:
    """Speaks to the service manager that started us."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        microseconds = os.environ.pop("WATCHDOG_USEC", "")
        os.environ.pop("WATCHDOG_PID", None)
        #: seconds between signs of life, 0: none wanted
        self.interval = int(microseconds) / 2_000_000 if microseconds.isdigit() else 0.0

    def ready(self, status: str) -> None:
        """We serve."""
        self._send(f"READY=1\nSTATUS={status}\nMAINPID={os.getpid()}")

    def reloading(self) -> None:
        """A reload has begun; :meth:`ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """We are about to end."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """A sign of life, for ``WatchdogSec``."""
        self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as speaker:
                speaker.connect(address)
                speaker.send(text.encode())
        except OSError:
            pass
