"""A server that takes mail when it is allowed to, and remembers in which order and how it came.

``Gated()`` listens on a free port of 127.0.0.1 in threads of this process.  ``tickets`` says how many
messages may still be answered; the others wait at their last dot.  It never fails.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from live.daemon import wait_until


@dataclass(eq=False)
class Delivery:
    """One transaction: ``begun`` at MAIL, ``complete`` at the last dot, ``over`` with the answer to it."""

    sender: str
    begun: float
    recipients: list[str] = field(default_factory=list)
    complete: bool = False
    over: bool = False


class Gated:
    """See the module; use it as a context manager.  ``refused``: the answer to any RCPT, if it is given."""

    def __init__(self, tickets: int = 1_000_000, refused: bytes = b"", port: int = 0) -> None:
        self.deliveries: list[Delivery] = []
        self._tickets = tickets
        self._refused = refused
        self._changed = threading.Condition()
        self._line: list[Delivery] = []  # those that wait for a ticket
        self._listener = socket.create_server(("127.0.0.1", port), backlog=100)
        self.port: int = self._listener.getsockname()[1]
        self._closed = False

    def __enter__(self) -> Gated:
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self.allow(1_000_000)
        self._listener.close()

    def allow(self, tickets: int) -> None:
        """Answer so many more."""
        with self._changed:
            self._tickets += tickets
            self._changed.notify_all()

    def hold(self) -> None:
        """Answer no more."""
        with self._changed:
            self._tickets = 0

    def waiting(self) -> list[str]:
        """The recipients of those under way."""
        return sorted(" ".join(one.recipients) for one in list(self.deliveries) if not one.over)

    def of(self, sender: str) -> list[Delivery]:
        """All that came from there."""
        return [one for one in list(self.deliveries) if one.sender == sender]

    def order(self) -> list[tuple[str, int]]:
        """Sender and number of recipients of each delivery."""
        return [(one.sender, len(one.recipients)) for one in self.deliveries]

    def wait_for(self, count: int) -> None:
        """Wait until there is mail to so many recipients, all of it answered."""

        def come() -> bool:
            return sum(number for _, number in self.order()) == count and not self.waiting()

        wait_until(come, f"mail to {count} recipients")

    def settled(self, condition: Callable[[], object], count: int, quiet: float = 0.2) -> list[str]:
        """Wait until the condition holds and so many are under way; a while later it is no other ones."""
        wait_until(
            lambda: condition() and len(self.waiting()) == count,
            lambda: f"{count} deliveries under way, not {self.waiting()} of {self.order()}",
        )
        before = self.waiting()
        time.sleep(quiet)
        assert self.waiting() == before
        return before

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while not self._closed:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        delivery = Delivery("", 0.0)
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as lines:
            connection.sendall(b"220 gated ESMTP\r\n")
            for line in lines:
                verb = line[:4].upper()
                answer = b"250 2.0.0 Ok\r\n"
                address = line[line.find(b"<") + 1 : line.find(b">")].decode()
                if verb == b"MAIL":
                    delivery = Delivery(address, time.monotonic())
                elif verb == b"RCPT":
                    delivery.recipients.append(address)
                    if len(delivery.recipients) == 1:
                        self.deliveries.append(delivery)
                    delivery.over = bool(self._refused)
                    answer = self._refused or answer
                elif verb == b"DATA" and not self._refused:
                    connection.sendall(b"354 Go on\r\n")
                    for content in lines:
                        if content == b".\r\n":
                            delivery.complete = True
                            break
                    else:
                        break
                    with self._changed:
                        self._line.append(delivery)
                        self._changed.wait_for(lambda own=delivery: self._line.index(own) < self._tickets)
                        self._line.remove(delivery)
                        self._tickets -= 1
                    delivery.over = True
                elif verb == b"DATA":
                    answer = b"503 5.5.1 no recipients\r\n"
                elif verb == b"QUIT":
                    answer = b"221 2.0.0 Bye\r\n"
                connection.sendall(answer)
                if verb == b"QUIT":
                    break
