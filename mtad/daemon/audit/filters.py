"""Content filters: can mail be passed to them?

A filter is a transport of ``master.cf``; those that run a command (``pipe``) or a program that mtad has not
would keep all mail in the queue.

Postfix counterpart: ``content_filter``, FILTER_README.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mtad.config.lint import ERROR, Finding
from mtad.config.master_cf import Service
from mtad.config.parameters import Parameters
from mtad.deliver.transports import programs


def findings(p: Parameters, services: Sequence[Service]) -> Iterator[Finding]:
    """The finding about one service's ``content_filter``; ``services`` are all of master.cf."""
    name = "content_filter"
    transport = p[name].strip().partition(":")[0]
    if not transport or transport in programs(services):
        return
    path, line = p.where(name)
    known = next((one for one in services if one.name == transport and one.type == "unix"), None)
    if known is None:
        why = f'no service "{transport}" in master.cf'
    else:
        why = f'service "{transport}" runs {known.command.rpartition("/")[2]}, which mtad does not'
    text = (
        f"{why}, and all mail would wait: use a filter that speaks SMTP or LMTP, as in smtp:[127.0.0.1]:10025"
    )
    yield Finding(ERROR, path, line, name, text)
