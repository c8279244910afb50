"""``mtad explain``: why was this refused, or let through?

``mtad explain [-c DIR] [-s SERVICE] [options] [QUEUE-ID | LOG-LINE]`` puts a client and its mail to the
configuration as it is in the files now, and prints each restriction in order: where it stands, the table
and key that matched, what it came to; and the reply. The case comes from options, from a message by its
queue id, from a line of the maillog (``-``: read from standard input), or from both; options win. See
:mod:`mtad.cli.explaining.trial` for what takes no part.

It needs the rights of the server to see what the server sees: run it as root. Exit status: 0 let through, 1
the last command or a recipient was refused, 2 the question can't be answered, 64 wrong usage.
"""

from __future__ import annotations

import getopt
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mtad.cli.directory import config_directory
from mtad.cli.explaining import history
from mtad.cli.explaining.case import Case, NoCase, client, from_line
from mtad.cli.explaining.text import text
from mtad.cli.explaining.trial import Report, Trial
from mtad.daemon.plan import Plan, make_plan
from mtad.errors import ConfigError, MtadError
from mtad.smtpd.service import ServicePlan

USAGE = """\
usage: mtad explain [-c DIR] [-s SERVICE] [options] [QUEUE-ID | LOG-LINE | -]
  -c DIR          the configuration directory
  -s SERVICE      an entry of master.cf, by its first word (default: by the log line, or the first)
  --client ADDR   the client's address, or name[address] (default: its name is looked up)
  --helo NAME     what it says in EHLO (--smtp: in HELO)
  --login USER    it has logged in; --mech M (default: PLAIN)
  --tls, --no-tls
  --cert PRINT    fingerprint of its certificate; --key PRINT of its key; --trusted
  --from ADDR     the sender, '' for none
  --to ADDR       a recipient, as often as needed
  --size N        what MAIL declares
  --no-ask        ask no policy services: they have nothing to say
  --json          tell it to a program
A QUEUE-ID is looked up in the queue and in the maillog."""

USAGE_ERROR = 64
UNKNOWN = 2

_LONG = [
    "client=", "helo=", "smtp", "login=", "mech=", "tls", "no-tls", "cert=", "key=", "trusted", "from=",
    "to=", "size=", "no-ask", "json", "help",
]  # fmt: skip


def main(argv: list[str]) -> int:
    """Run the command on ``argv`` (without its name); the exit code."""
    try:
        flags, rest = getopt.gnu_getopt(argv, "c:s:h", _LONG)
        given = dict(flags)
        if "-h" in given or "--help" in given:
            print(USAGE)
            return 0
        if len(rest) > 1 and len(rest[0].split()) == 1 and " " not in "".join(rest):
            rest = [" ".join(rest)]  # a line without quotes
        if len(rest) > 1:
            raise getopt.GetoptError("one queue id or one line is wanted")
        if not rest and not given.keys() - {"-c", "-s", "--json"}:
            raise getopt.GetoptError("nothing to explain")
        wanted = _options(flags)
    except (getopt.GetoptError, ValueError) as error:
        print(f"explain: {error}\n{USAGE}", file=sys.stderr)
        return USAGE_ERROR
    try:
        plan = make_plan(config_directory(given.get("-c")))
        case = _case(plan, wanted, rest[0] if rest else "")
        service, notes = _service(plan, case)
        case = replace(case, notes=(*case.notes, *notes))
        if case.tls is None:
            case = replace(case, tls=history.had_tls(plan.p, case))
        report = run(plan, service, case, "--no-ask" not in given)
    except (MtadError, NoCase) as error:
        print(f"explain: {error}", file=sys.stderr)
        return UNKNOWN
    print(json.dumps(report, indent=2) if "--json" in given else text(report))
    return 1 if report["refused"] else 0


def _options(flags: Sequence[tuple[str, str]]) -> Case:
    """What the options tell."""
    given = dict(flags)
    address, name = client(given.get("--client", "127.0.0.1"))
    tls = None
    if "--tls" in given or "--no-tls" in given:
        tls = "--tls" in given
    return Case(
        address=address,
        name=name,
        helo=given.get("--helo", ""),
        extended="--smtp" not in given,
        login=given.get("--login", ""),
        mechanism=given.get("--mech", "PLAIN"),
        tls=tls,
        fingerprint=given.get("--cert", ""),
        key_fingerprint=given.get("--key", ""),
        trusted="--trusted" in given,
        sender=given["--from"].strip("<>") if "--from" in given else ("" if "--to" in given else None),
        recipients=tuple(value.strip("<>") for flag, value in flags if flag == "--to"),
        size=int(given.get("--size", "0")),
        service=given.get("-s", ""),
    )


def _case(plan: Plan, wanted: Case, about: str) -> Case:
    """What is asked about."""
    if not about:
        return wanted
    line = sys.stdin.readline() if about == "-" else about
    if " " not in line.strip():
        return wanted.fill(history.of_message(plan.p, line.strip()))
    told = from_line(line)
    if told.queue_id:
        try:
            told = told.fill(history.of_message(plan.p, told.queue_id))
        except NoCase:
            pass  # the line alone has to do
    return wanted.fill(told)


def _service(plan: Plan, case: Case) -> tuple[ServicePlan, tuple[str, ...]]:
    """The service that is asked, and what to say of the choice; raises ConfigError."""
    for service in plan.smtpd:
        if service.service.name == case.service:
            return service, ()
    names = ", ".join(service.service.name for service in plan.smtpd)
    if case.service or not plan.smtpd:
        what = f"no service {case.service} with smtpd" if case.service else "no service with smtpd"
        raise ConfigError(what, path=f"{plan.p.directory}/master.cf", remedy=f"there is: {names or 'none'}")
    fitting = [each for each in plan.smtpd if each.settings.ident == case.ident] or plan.smtpd
    note = f"service {fitting[0].service.name} (-s: another; there is {names})"
    return fitting[0], (note,) if len(fitting) > 1 else ()


def run(plan: Plan, service: ServicePlan, case: Case, ask: bool) -> Report:
    """The answer, from a reactor that runs until it is there."""
    from twisted.internet.defer import Deferred
    from twisted.internet.epollreactor import EPollReactor
    from twisted.python.failure import Failure

    reactor: Any = EPollReactor()
    results: list[Any] = []

    def begin() -> None:
        trial = Trial(plan, service, case, reactor, ask)
        done = Deferred.fromCoroutine(trial.run())
        done.addBoth(results.append).addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(begin)
    reactor.run(installSignalHandlers=False)
    if not results:
        raise MtadError("interrupted")
    if isinstance(results[0], Failure):
        results[0].raiseException()
    report: Report = results[0]
    return report
