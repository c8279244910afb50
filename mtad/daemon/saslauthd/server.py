"""The processes of ``mtad saslauthd``: one that listens, and helpers that check.

The listener reads requests (bounded, in time), knows the cache, and hands what is left to the helpers, one
request each at a time; who must wait waits in order.  A helper that hangs or dies costs its own request,
and is replaced.  No client, however slow or odd, keeps a helper busy.  With no helpers kept (``-n 0``) each
request has a process of its own.

Counterpart: ``saslauthd/saslauthd-main.c``, ``ipc_unix.c``.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mtad.daemon.saslauthd.backends import Backend
from mtad.daemon.saslauthd.cache import Cache
from mtad.daemon.saslauthd.wire import (
    JOINED_LIMIT,
    BadRequest,
    Reader,
    Request,
    encode_answer,
    encode_request,
)
from mtad.maillog import MailLog, printable

#: Seconds for a client's request, and for a back end's answer.
READ_TIMEOUT = 10.0
CHECK_TIMEOUT = 120.0

#: Connections at a time; more wait in the socket's queue.
CONNECTION_LIMIT = 500

#: Processes at a time when each request has its own.
FORK_LIMIT = 50

BACKLOG = 128


@dataclass(slots=True, eq=False)
class _Client:
    socket: socket.socket
    reader: Reader
    deadline: float
    request: Request | None = None


@dataclass(slots=True, eq=False)
class _Helper:
    pid: int
    socket: socket.socket
    client: _Client | None = None
    request: Request | None = None
    deadline: float = 0.0


@dataclass(frozen=True, slots=True)
class Options:
    """How it serves: ``helpers`` is ``-n``, ``join_realm`` ``-r``, ``verbose`` ``-V``."""

    mechanism: str
    helpers: int = 5
    join_realm: bool = False
    verbose: bool = False


def listen(path: str) -> socket.socket:
    """The socket, open to everybody: the directory says who may get there."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    before = os.umask(0)
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


class Server:
    """Serves ``listener`` until :meth:`stop`."""

    def __init__(
        self, listener: socket.socket, backend: Backend, cache: Cache | None, log: MailLog, options: Options
    ) -> None:
        self._listener = listener
        self._backend = backend
        self._cache = cache
        self._log = log
        self._options = options
        self._selector = selectors.DefaultSelector()
        self._clients: set[_Client] = set()
        self._waiting: deque[_Client] = deque()
        self._helpers: set[_Helper] = set()
        self._accepting = False
        self._running = True
        self._awake, self._waker = socket.socketpair()

    def stop(self) -> None:
        """End :meth:`run`; for a signal handler."""
        self._running = False
        try:
            self._waker.send(b"x")
        except OSError:
            pass  # it has ended

    def forget(self) -> None:
        """Empty the cache."""
        if self._cache is not None:
            self._cache.clear()

    def run(self) -> None:
        """Serve."""
        self._accept(True)
        self._watch(self._awake, lambda: self._awake.recv(1))
        for _ in range(self._options.helpers):
            self._start()
        try:
            while self._running:
                for key, _ in self._selector.select(1.0):
                    key.data()
                self._expire(time.monotonic())
        finally:
            for helper in list(self._helpers):
                self._end(helper)
            for client in list(self._clients):
                self._drop(client)
            self._selector.close()
            self._awake.close()
            self._waker.close()

    def _accept(self, wanted: bool) -> None:
        if wanted and not self._accepting:
            self._selector.register(self._listener, selectors.EVENT_READ, self._on_connection)
        elif self._accepting and not wanted:
            self._selector.unregister(self._listener)
        self._accepting = wanted

    def _on_connection(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        connection.setblocking(False)
        client = _Client(connection, Reader(), time.monotonic() + READ_TIMEOUT)
        self._clients.add(client)
        self._watch(connection, lambda: self._on_data(client))
        self._accept(len(self._clients) < CONNECTION_LIMIT)

    def _watch(self, connection: socket.socket, action: Callable[[], Any]) -> None:
        self._selector.register(connection, selectors.EVENT_READ, action)

    def _on_data(self, client: _Client) -> None:
        if client not in self._clients:  # it was answered while this event waited for its turn
            return
        data = _received(client.socket)
        if data is None:
            return
        if not data:
            self._drop(client)
            return
        if client.request is not None:  # nothing more is asked
            return
        try:
            client.request = client.reader.receive(data)
        except BadRequest as problem:
            self._log.error(f"do_request: {problem}")
            self._answer(client, f"NO {problem}")
            return
        if client.request is not None:
            self._take(client, client.request)

    def _take(self, client: _Client, request: Request) -> None:
        if self._options.join_realm and request.realm:
            login = b"%b@%b" % (request.login, request.realm)
            request = Request(login, request.password, request.service, request.realm, request.address)
            client.request = request
        if self._cache is not None and self._cache.knows(request):
            self._succeed(client, request, "cached")
            return
        client.deadline = time.monotonic() + CHECK_TIMEOUT
        self._waiting.append(client)
        self._dispatch()

    def _dispatch(self) -> None:
        """Give those who wait to helpers who do nothing."""
        while self._waiting and (helper := self._idle()) is not None:
            self._give(helper)

    def _idle(self) -> _Helper | None:
        """A helper who does nothing; a new one where each request has its own."""
        if self._options.helpers == 0:
            return self._start() if len(self._helpers) < FORK_LIMIT else None
        return next((helper for helper in self._helpers if helper.request is None), None)

    def _give(self, helper: _Helper) -> None:
        client = self._waiting.popleft()
        assert client.request is not None
        helper.client, helper.request, helper.deadline = client, client.request, client.deadline
        try:
            helper.socket.send(encode_request(client.request))
        except OSError:
            self._gone(helper)

    def _start(self) -> _Helper:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                ours.close()
                self._selector.close()
                self._listener.close()
                for other in self._helpers:
                    other.socket.close()
                for client in self._clients:
                    client.socket.close()
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
                work(theirs, self._backend)
                status = 0
            finally:
                os._exit(status)
        theirs.close()
        ours.setblocking(False)
        helper = _Helper(pid, ours)
        self._helpers.add(helper)
        self._watch(ours, lambda: self._on_answer(helper))
        return helper

    def _on_answer(self, helper: _Helper) -> None:
        if helper not in self._helpers:  # it has ended while this event waited for its turn
            return
        data = _received(helper.socket)
        if data is None:
            return
        if not data:
            self._gone(helper)
            return
        client, request = helper.client, helper.request
        helper.client = helper.request = None
        if request is not None:
            self._judge(client, request, data.decode("utf-8", "replace"))
        if self._options.helpers == 0:
            self._end(helper)
        self._dispatch()

    def _judge(self, client: _Client | None, request: Request, said: str) -> None:
        if said == "OK":
            if self._cache is not None:
                self._cache.add(request)
            self._succeed(client, request, self._options.mechanism)
            return
        reason = printable(said)
        self._log.info(f"do_auth         : auth failure: {self._who(request)} [reason={reason}]")
        if client is not None:
            self._answer(client, f"NO {reason}")

    def _succeed(self, client: _Client | None, request: Request, how: str) -> None:
        if self._options.verbose:
            self._log.info(f"do_auth         : auth success ({how}): {self._who(request)}")
        if client is not None:
            self._answer(client, "OK")

    def _who(self, request: Request) -> str:
        parts: dict[str, bytes | str] = {
            "user": request.login, "service": request.service, "realm": request.realm,
            "mech": self._options.mechanism, "rhost": request.address,
        }  # fmt: skip
        return " ".join(
            f"[{name}={printable(value)}]" for name, value in parts.items() if name != "rhost" or value
        )

    def _gone(self, helper: _Helper) -> None:
        """A helper has died, perhaps of its request."""
        client, request = helper.client, helper.request
        self._end(helper)
        if request is not None:
            self._log.error(f"do_auth         : helper {helper.pid} died: {self._who(request)}")
            if client is not None:
                self._answer(client, "NO authentication helper died")
        if self._running and self._options.helpers:
            self._start()
        self._dispatch()

    def _end(self, helper: _Helper) -> None:
        self._helpers.discard(helper)
        self._selector.unregister(helper.socket)
        helper.socket.close()
        try:
            os.kill(helper.pid, signal.SIGKILL)
            os.waitpid(helper.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass

    def _answer(self, client: _Client, text: str) -> None:
        try:
            client.socket.send(encode_answer(text))
        except OSError:
            pass  # it has gone
        self._drop(client)

    def _drop(self, client: _Client) -> None:
        if client not in self._clients:
            return
        self._clients.discard(client)
        if client in self._waiting:
            self._waiting.remove(client)
        for helper in self._helpers:
            if helper.client is client:
                helper.client = None  # its request ends by itself
        self._selector.unregister(client.socket)
        client.socket.close()
        self._accept(self._running)

    def _expire(self, now: float) -> None:
        for client in [each for each in self._clients if each.deadline < now]:
            self._answer(client, "NO timed out")
        for helper in [each for each in self._helpers if each.request is not None and each.deadline < now]:
            self._gone(helper)


def _received(connection: socket.socket) -> bytes | None:
    """What has come, nothing at the end of the connection; None: it was nothing after all."""
    try:
        return connection.recv(4096)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def work(channel: socket.socket, backend: Backend) -> None:
    """A helper's life: requests in, ``OK`` or a reason out."""
    while True:
        data = channel.recv(4096)
        if not data:
            return
        request = Reader(JOINED_LIMIT).receive(data)
        assert request is not None
        try:
            reason = backend(request)
        except Exception as error:  # no mistake in a back end lets anybody in
            reason = f"internal error ({type(error).__name__})"
        channel.send(b"OK" if reason is None else reason.encode("utf-8", "replace")[:1000] or b"refused")
