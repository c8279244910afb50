from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from mtad.cli.control import ControlError, SystemDown, ask
from mtad.cli.postqueue import main
from mtad.queue.message import Message, Recipient
from mtad.queue.sqlite import SQLiteStore

DOWN = 69


class Loop:
    def __init__(self) -> None:
        self.calls: SimpleQueue[Any] = SimpleQueue()

    def callFromThread(self, call: Any, *args: object) -> None:
        self.calls.put((call, args))

    def wait(self, deferred: Any) -> None:
        done: list[object] = []
        deferred.addBoth(done.append)
        while not done:
            call, args = self.calls.get(timeout=30)
            call(*args)


@contextmanager
def server(path: Path, answer: bytes) -> Iterator[list[dict[str, Any]]]:
    """Answers one connection; what was asked."""
    asked: list[dict[str, Any]] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    listener.settimeout(10)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            asked.append(json.loads(lines.readline()))
            for at in range(0, len(answer), 7):
                connection.sendall(answer[at : at + 7])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield asked
        thread.join()
    finally:
        listener.close()


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """A configuration with an empty queue directory."""
    (tmp_path / "q").mkdir()
    (tmp_path / "main.cf").write_text(
        f"queue_directory = {tmp_path}\nmtad_queue_directory = {tmp_path}/q\nmaillog_file = /dev/null\n"
        "maillog_file_prefixes = /dev\nfast_flush_domains = example.com, [192.0.2.1]\n"
    )
    (tmp_path / "maildrop").mkdir()
    return tmp_path


def fill(etc: Path) -> None:
    loop = Loop()
    store = SQLiteStore(str(etc / "q"), loop)
    store.open()
    for name in ("AAAAAA", "BBBBBB"):
        message = Message(name, b"a@example.com", [Recipient(b"b@example.net")], 1000.0, content=b"x" * 1024)
        loop.wait(store.enqueue(message))
    loop.wait(store.close())


def run(etc: Path, *arguments: str) -> int:
    return main(["-c", str(etc), *arguments])


def test_ask(tmp_path: Path) -> None:
    with server(tmp_path / "s", b'{"ok": true, "count": 3}\n') as asked:
        assert ask(str(tmp_path / "s"), {"command": "flush"}, 5.0) == {"ok": True, "count": 3}
    assert asked == [{"command": "flush"}]


@pytest.mark.parametrize("answer", [b"", b"nonsense\n", b"[1]\n", b'{"ok": tr'])
def test_ask_and_get_no_answer(tmp_path: Path, answer: bytes) -> None:
    with server(tmp_path / "s", answer), pytest.raises(ControlError):
        ask(str(tmp_path / "s"), {"command": "flush"}, 5.0)


def test_ask_nobody(tmp_path: Path) -> None:
    with pytest.raises(SystemDown):
        ask(str(tmp_path / "s"), {}, 5.0)
    socket.socket(socket.AF_UNIX).bind(str(tmp_path / "s"))
    with pytest.raises(SystemDown):
        ask(str(tmp_path / "s"), {}, 5.0)


def test_list_while_down(etc: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fill(etc)
    assert run(etc, "-p") == 0
    out, err = capfd.readouterr()
    assert out.splitlines()[0].startswith("-Queue ID-")
    assert out.splitlines()[-1] == "-- 2 Kbytes in 2 Requests."
    assert "warning: Mail system is down -- accessing queue directly" in err


def test_list_while_up(etc: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fill(etc)
    with server(etc / "q/control", b'{"ok": true, "active": ["BBBBBB"]}\n'):
        assert run(etc, "-p") == 0
    out, err = capfd.readouterr()
    assert "AAAAAA " in out
    assert "BBBBBB* " in out
    assert err == ""


def test_list_as_json(etc: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fill(etc)
    with server(etc / "q/control", b'{"ok": true, "active": ["BBBBBB"]}\n'):
        assert run(etc, "-j") == 0
    out = capfd.readouterr().out
    assert [json.loads(line)["queue_name"] for line in out.splitlines()] == ["incoming", "active"]


def test_list_that_the_daemon_made(etc: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Where the database cannot be read."""
    with server(etc / "q/control", b'{"ok": true}\none\ntwo\n') as asked:
        assert run(etc, "-p") == 0
    assert asked == [{"command": "listing", "json": False}]
    assert capfd.readouterr().out == "one\ntwo\n"


def test_empty(etc: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(etc, "-p") == 0
    assert capfd.readouterr().out == "Mail queue is empty\n"
    assert run(etc, "-j") == 0
    assert capfd.readouterr().out == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_list_without_permission(etc: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (etc / "q").chmod(0)
    assert run(etc, "-p") == DOWN
    assert "fatal: " in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "request_"),
    [
        (["-f"], {"command": "flush"}),
        (["-i", "0A1B2C"], {"command": "flush-id", "id": "0A1B2C"}),
        (["-s", "Example.COM"], {"command": "flush-site", "site": "example.com"}),
        (["-v", "-s", "[192.0.2.1]"], {"command": "flush-site", "site": "[192.0.2.1]"}),
    ],
)
def test_flush(etc: Path, arguments: list[str], request_: dict[str, str]) -> None:
    with server(etc / "q/control", b'{"ok": true, "count": 1}\n') as asked:
        assert run(etc, *arguments) == 0
    assert asked == [request_]


def test_flush_of_others(etc: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(etc, "-s", "example.org") == DOWN
    said = 'postqueue: fatal: Flush service is not configured for destination "example.org"\n'
    assert capfd.readouterr().err == said


def test_flush_refused(etc: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with server(etc / "q/control", b'{"ok": false, "error": "no"}\n'):
        assert run(etc, "-f") == DOWN
    assert capfd.readouterr().err == "postqueue: fatal: Cannot flush mail queue - no\n"


def test_flush_while_down(etc: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in (["-f"], ["-i", "ABC"], ["-s", "example.com"]):
        assert run(etc, *arguments) == DOWN
        assert capfd.readouterr().err == "postqueue: fatal: Cannot flush mail queue - mail system is down\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "usage: postqueue "),
        (["-p", "-f"], "usage: postqueue "),
        (["-p", "more"], "usage: postqueue "),
        (["-x"], "usage: postqueue "),
        (["-i", "../x"], 'Cannot flush queue ID - invalid name: "../x"'),
        (["-s", "a b"], 'Cannot flush mail queue - invalid destination: "a b"'),
    ],
)
def test_refused(etc: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], text: str) -> None:
    assert run(etc, *arguments) == DOWN
    assert f"postqueue: fatal: {text}" in capfd.readouterr().err


def test_no_configuration(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "none", "-p") == DOWN
    assert "postqueue: fatal: " in capfd.readouterr().err
