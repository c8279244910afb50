"""Aliases of many addresses."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from mtad.config.parameters import Parameters
from mtad.deliver.expansion import Aliases
from mtad.deliver.route import Route
from mtad.maillog import ListSink, MailLog


def test_a_large_list_takes_its_size_in_time(tmp_path: Path) -> None:
    """Users write such lists, and their size must not stop the queue manager."""
    count = 20_000
    listed = tmp_path / "list"
    listed.write_text("".join(f"member{n}@example.net\nlocal{n}\n" for n in range(count)) * 2)
    aliases = tmp_path / "aliases"
    aliases.write_text(f"people :include:{listed}\n")
    p = Parameters.from_mapping(
        {"alias_maps": f"texthash:{aliases}", "myorigin": "example.com", "myhostname": "mail.example.com"}
    )

    async def resolve(address: bytes) -> Route:
        return Route("local" if address.endswith(b"@example.com") else "smtp", "x")

    turns = 0

    async def pause() -> None:
        nonlocal turns
        turns += 1

    expander = Aliases(p, "local", resolve, pause, MailLog(ListSink(), "x"))
    begun = time.process_time()
    found = asyncio.run(expander.expand(b"people@example.com"))
    assert len(found.addresses) == 2 * count
    assert turns >= 4 * count // 1000  # of others meanwhile
    assert found.addresses[:2] == [b"member0@example.net", b"local0@example.com"]
    assert time.process_time() - begun < 12
