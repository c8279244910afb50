"""A process of the daemon, from its fork to its end.

:func:`run_child` is called in a forked process that has no reactor yet and never returns.  It makes one, lets
the roles open what they must, gives up root, serves, and leaves when it is told to (SIGHUP: when all is
finished; SIGTERM: soon) or when the master is gone.

Postfix counterpart: ``multi_server(3)``.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import DeferredList
from twisted.logger import globalLogBeginner

from mtad.daemon.paths import Paths
from mtad.daemon.plan import Plan
from mtad.daemon.readers import PipeWatch
from mtad.daemon.roles import QmgrRole, SmtpdRole, Surroundings
from mtad.errors import MtadError
from mtad.maillog import Sink
from mtad.queue.sqlite import SQLiteStore
from mtad.tables.table import Watch

#: Exit status of a child that could not start for the configuration's sake.
BAD_START = 78

Sockets = Mapping[int, Sequence[socket.socket]]


def run_child(
    roles: Sequence[str], plan: Plan, paths: Paths, sink: Sink, sockets: Sockets, ready: int, life: int
) -> None:
    """Be a child with ``roles`` (``smtpd``, ``qmgr``); write to ``ready`` when serving; end with ``life``."""
    status = 1
    try:
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the master's
        status = _serve(roles, plan, paths, sink, sockets, ready, life)
    except MtadError as problem:
        _report(plan, sink, roles, f"fatal: {problem}")
        status = BAD_START
    except BaseException:
        for line in traceback.format_exc().strip().split("\n"):
            _report(plan, sink, roles, f"panic: {line}")
    finally:
        sys.stdout.flush()
        os._exit(status)


def _report(plan: Plan, sink: Sink, roles: Sequence[str], text: str) -> None:
    sink.write("fatal", f"{plan.p['syslog_name']}/{roles[0]}", text)


def _report_failure(event: Any, plan: Plan, sink: Sink, roles: Sequence[str]) -> None:
    """What Twisted caught of our mistakes, with its traceback."""
    failure = event.get("log_failure")
    if failure is not None:
        for line in failure.getTraceback().strip().split("\n"):
            _report(plan, sink, roles, f"error: {line}")


def _serve(
    roles: Sequence[str], plan: Plan, paths: Paths, sink: Sink, sockets: Sockets, ready: int, life: int
) -> int:
    from twisted.internet.epollreactor import EPollReactor
    from twisted.internet.main import installReactor

    reactor: Any = EPollReactor()
    installReactor(reactor)
    observers: Any = [lambda event: _report_failure(event, plan, sink, roles)]
    globalLogBeginner.beginLoggingTo(observers, redirectStandardIO=False, discardBuffer=True)
    around = Surroundings(plan, paths, sink, reactor)
    store = SQLiteStore(paths.queue, reactor)
    parts: list[SmtpdRole | QmgrRole] = []
    if "qmgr" in roles:
        parts.append(QmgrRole(around, store))
    if "smtpd" in roles:
        parts.append(SmtpdRole(around, store, sockets))
    for part in parts:
        part.start()
    # a table that root alone may read has changed: the master's fresh processes can open it
    Watch.unreadable = lambda: os.write(ready, b"T")
    plan.owner.become()
    os.umask(0o077)
    store.open()
    for part in parts:
        part.serve()

    def finished(_: object) -> None:
        store.close().addBoth(lambda _: reactor.stop())

    DeferredList([part.ended for part in parts]).addBoth(finished)

    def tell(action: str) -> None:
        for part in parts:
            getattr(part, action)()

    signal.signal(signal.SIGHUP, lambda *_: reactor.callFromThread(tell, "drain"))
    signal.signal(signal.SIGTERM, lambda *_: reactor.callFromThread(tell, "stop"))
    PipeWatch(reactor, life, lambda: tell("stop"))
    reactor.callWhenRunning(os.write, ready, b"R")
    reactor.run(installSignalHandlers=False)
    return 0
