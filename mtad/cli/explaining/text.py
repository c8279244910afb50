"""The words of ``mtad explain``.

:func:`text` makes them of a report of :class:`~mtad.cli.explaining.trial.Trial`; what had no effect is told
too, so that one sees how far the search went.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

Report = dict[str, Any]


def text(report: Report) -> str:
    """The report for people."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    place = _place(report["file"], report["line"])
    yield f"service  {report['service']} ({place})"
    login = f", logged in as {report['login']}" if report["login"] else ""
    tls = "TLS" if report["tls"] else "no TLS"
    yield f"client   {report['client']}, {report['protocol']}, {tls}{login}"
    for note in report["notes"]:
        yield f"assumed  {note}"
    for command in report["commands"]:
        yield ""
        yield command["command"]
        for each in command["lists"]:
            yield f"  {each['list']} ({_place(each['file'], each['line'])})"
            for step in each["steps"]:
                yield from _step(step, "    ")
        for name, value in command["actions"].items():
            yield f"  action   {name}{'' if value is True else f': {value}'}"
        for line in command["log"]:
            yield f"  log      {line}"
        yield f"  -> {command['reply']}"
    yield ""
    yield f"=> {report['reply']}"
    for each in report["refused_recipients"]:
        if each["reply"] != report["reply"]:
            yield f"   but not for {each['recipient']}: {each['reply']}"
    if report["logged"] and report["logged"] != report["reply"]:
        yield f"   the log has: {report['logged']}"


def _step(step: Report, indent: str) -> Iterator[str]:
    place = f"  ({_place(step['file'], step['line'])})" if step["file"] and step["line"] else ""
    words = " ".join((step["restriction"], *step["arguments"]))
    yield f"{indent}{words}: {step['result']}{place}"
    for match in step["matches"]:
        yield f"{indent}  {match['table']} has {match['key']} = {match['value']}"
    for by in step["by"]:
        yield f"{indent}  by {by['parameter']} = {by['value']}  ({_place(by['file'], by['line'])})"
    for inner in step["steps"]:
        yield from _step(inner, indent + "  ")


def _place(path: str, line: int) -> str:
    return f"{os.path.basename(path)} line {line}" if line else "default"
