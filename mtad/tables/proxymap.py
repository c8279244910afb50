"""``proxy:type:name``: which tables may be named so.

Postfix's proxymap(8) opens a table on behalf of others only if ``proxy_read_maps`` names it, which by
default refers to all parameters that have tables.  Here the table is opened directly, without such a
process, and under the same condition: :func:`approved` gives the tables that are named.

Postfix counterpart: ``authorize_proxied_maps()``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from mtad.config.lines import logical_lines, tokens
from mtad.config.parameters import Parameters
from mtad.errors import ConfigError, TableError
from mtad.tables.source import extract_braces, read_text

PREFIX = "proxy:"

#: How deep lists may be nested in lists and files.
_NESTING_LIMIT = 100


@lru_cache(maxsize=8)
def approved(p: Parameters) -> frozenset[str]:
    """The tables that may be opened with ``proxy:``, without that prefix."""
    texts = [p["proxy_read_maps"]]
    for name in p.words("smtpd_restriction_classes"):
        try:
            texts.append(p[name])
        except KeyError:
            continue
    return frozenset(table for text in texts for table in _named(text, 0))


def unproxied(name: str) -> str:
    """``name`` without ``proxy:`` before it, however often."""
    while name.startswith(PREFIX):
        name = name[len(PREFIX) :]
    return name


def _named(text: str, depth: int) -> Iterator[str]:
    if depth > _NESTING_LIMIT:
        return
    for item in tokens(text):
        if item.startswith("{"):
            item = next(iter(tokens(_inside(item))), "")
        if item.startswith("/"):
            yield from _named_in_file(item, depth)
        elif not item[:1].isalnum() or ":" not in item:
            continue
        elif item.startswith(("unionmap:{", "pipemap:{")):
            yield from _named(_inside(item.partition(":")[2]), depth + 1)
        elif item.startswith(PREFIX):
            yield unproxied(item)


def _named_in_file(path: str, depth: int) -> Iterator[str]:
    try:
        text = read_text(path)
    except TableError:
        return
    for _, line in logical_lines(text, path):
        yield from _named(line, depth + 1)


def _inside(text: str) -> str:
    try:
        return extract_braces(text)
    except ConfigError:
        return ""
