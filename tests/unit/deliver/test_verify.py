"""What is known of addresses: how long, and when they are probed again."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mtad.config.parameters import Parameters
from mtad.deliver.verify import Verifier
from mtad.maillog import ListSink, MailLog
from mtad.policy.verify import Known
from mtad.queue.message import Outcome, Recipient

NOW = 1_800_000_000.0
HOUR, DAY = 3600, 86400


class Bench:
    """A verifier whose probes end when told."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.probes: list[tuple[bytes, Deferred[Outcome]]] = []
        p = Parameters.from_mapping(
            {"mtad_queue_directory": str(directory), "myorigin": "x.test", **settings}
        )
        log = MailLog(ListSink(), "postfix/verify")
        self.verifier = Verifier(p, log, self._probe, self.clock.seconds)

    async def _probe(self, sender: bytes, address: bytes) -> Outcome:
        done: Deferred[Outcome] = Deferred()
        self.probes.append((address, done))
        return await done

    def end(self, status: str, reason: str = "said so") -> None:
        address, done = self.probes.pop(0)
        done.callback(Outcome(Recipient(address), status, "5.1.1", reason))

    def ask(self, address: bytes = b"a@x.test") -> tuple[int, str]:
        return self.verifier.query(address)


def test_an_address_is_probed_once_and_kept(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert bench.ask() == (Known.TODO, "Address verification in progress")
    assert bench.ask()[0] == Known.TODO
    assert [address for address, _ in bench.probes] == [b"a@x.test"]
    bench.end("sent", "250 Ok")
    assert bench.ask() == (Known.OK, "250 Ok") and not bench.probes
    bench.verifier.close()
    again = Bench(tmp_path)
    assert again.ask() == (Known.OK, "250 Ok") and not again.probes


def test_times_of_good_addresses(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.ask()
    bench.end("sent")
    bench.clock.advance(7 * DAY - 1)
    assert bench.ask()[0] == Known.OK and not bench.probes
    bench.clock.advance(2)
    assert bench.ask()[0] == Known.OK and len(bench.probes) == 1  # refreshed while it serves
    bench.end("bounced")
    assert bench.ask()[0] == Known.OK  # one failed probe is no reason to forget it
    bench.clock.advance(31 * DAY)
    assert bench.ask()[0] == Known.TODO


def test_times_of_bad_addresses(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.ask()
    bench.end("bounced", "no such user")
    assert bench.ask() == (Known.BOUNCE, "no such user")
    bench.clock.advance(3 * HOUR + 1)
    assert bench.ask()[0] == Known.BOUNCE and len(bench.probes) == 1
    bench.end("deferred")
    assert bench.ask()[0] == Known.DEFER
    bench.clock.advance(3 * DAY + 1)
    assert bench.ask()[0] == Known.TODO


def test_a_probe_without_an_answer_is_lost_after_a_while(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.ask()
    bench.probes.clear()
    bench.verifier.close()
    again = Bench(tmp_path)  # the process had died
    assert again.ask()[0] == Known.TODO and not again.probes
    again.clock.advance(1001)
    assert again.ask()[0] == Known.TODO and len(again.probes) == 1


def test_nothing_is_kept_of_what_is_not_known_without_a_negative_cache(tmp_path: Path) -> None:
    bench = Bench(tmp_path, address_verify_negative_cache="no", address_verify_map="")
    bench.ask()
    bench.end("bounced")
    assert bench.ask()[0] == Known.BOUNCE
    bench.clock.advance(3 * DAY + 1)
    assert bench.ask()[0] == Known.TODO


def test_only_so_many_probes_at_a_time(tmp_path: Path) -> None:
    bench = Bench(tmp_path, address_verify_pending_request_limit="2")
    for number in range(4):
        bench.ask(b"%d@x.test" % number)
    assert len(bench.probes) == 2


def test_a_broken_cache_is_no_answer(tmp_path: Path) -> None:
    (tmp_path / "verify.db").write_bytes(b"not a database" * 100)
    assert Bench(tmp_path).ask() == (Known.DEFER, "Address verification status unavailable")
