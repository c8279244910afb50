"""Session contexts that outlive configurations, and when certificates have changed."""

from __future__ import annotations

import os
from pathlib import Path

from OpenSSL import SSL

from mtad.daemon.certificates import CertificateWatch
from mtad.net.ciphers import Protocols
from mtad.net.tls_sessions import SessionContexts, Shape
from mtad.tables.table import HOT_NS

SHAPE = Shape(Protocols(0, 0, 0), SSL.OP_ALL, b"", 7200, False, 0, "", False, False)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_who_asks_for_the_same_gets_the_same() -> None:
    clock = Clock()
    contexts = SessionContexts(1000, clock)
    assert contexts.due() == float("inf")
    first = contexts.get(SHAPE)
    clock.now += 600
    other = Shape(Protocols(0, 0, 0), SSL.OP_ALL, b"", 0, True, 9, "ca", True, True)
    assert contexts.get(SHAPE) is first
    assert contexts.get(other) is not first
    assert contexts.due() == 400
    assert not contexts.expire()
    clock.now += 400
    assert contexts.expire()
    assert contexts.get(SHAPE) is not first
    assert contexts.due() == 600


def test_files_are_looked_at_now_and_then(tmp_path: Path) -> None:
    clock, contexts = Clock(), SessionContexts(5000)
    file, missing = tmp_path / "cert.pem", tmp_path / "missing.pem"
    file.write_text("one")
    begun = os.stat(file).st_ctime_ns + HOT_NS + 1
    watch = CertificateWatch([str(file), str(missing)], begun, 60, contexts, clock)
    assert watch.patience() == 60
    clock.now += 61
    assert not watch.stale()
    file.write_text("another")
    assert not watch.stale()  # not yet
    clock.now += 61
    assert watch.stale()
    clock.now += 61
    assert not watch.stale()
    missing.write_text("there")
    clock.now += 61
    assert watch.stale()


def test_a_change_while_they_were_read_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "cert.pem"
    file.write_text("one")
    clock = Clock()
    watch = CertificateWatch([str(file)], os.stat(file).st_ctime_ns, 60, SessionContexts(5000), clock)
    clock.now += 61
    assert watch.stale()
    clock.now += 61
    assert not watch.stale()


def test_nothing_to_look_at() -> None:
    assert CertificateWatch([], 0, 60, SessionContexts(5000)).patience() == float("inf")
    assert CertificateWatch(["/x"], 0, 0, SessionContexts(5000)).patience() == float("inf")


def test_old_ticket_keys_are_a_reason_once() -> None:
    clock = Clock()
    contexts = SessionContexts(1000, clock)
    contexts.get(SHAPE)
    watch = CertificateWatch([], 0, 0, contexts, clock)
    assert watch.patience() == 1000
    assert not watch.stale()
    clock.now += 1000
    assert watch.stale()
    assert not watch.stale()
