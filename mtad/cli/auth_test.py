"""``mtad auth-test``: try a login as the server would, and say what happens and what to change.

``mtad auth-test [-c DIR] [-s SERVICE] [--mech M] [--no-tls] [--json] USER``.  The password is asked for, or
read from standard input where there is no terminal.  Tells which smtpd.conf was taken, how passwords are
checked, the realm, each mechanism and why it is offered or not, and then tries: mechanism ``M``, or else
one that sends the password (the back end is asked once) and all that prove it.  ``--json`` tells the same
to programs.

It needs the rights of the server to see what the server sees: run it as root.  Exit status: 0 when a login
was granted and none was refused, 1 when not, 64 for wrong usage.
"""

from __future__ import annotations

import getopt
import json
import os
import sys
import time
from base64 import b64decode, b64encode
from typing import Any

from mtad.auth import explain
from mtad.auth.authenticator import Authenticator, AuthSession, Challenge, Denied, Granted, Outcome
from mtad.auth.setup import describe
from mtad.cli.directory import config_directory
from mtad.cli.saslpasswd import ask_password
from mtad.config.master_cf import read_master_cf
from mtad.config.parameters import Parameters
from mtad.config.sasl_conf import SaslConf, find_sasl_conf, read_sasl_conf, search_path
from mtad.daemon.plan import is_listener, read_parameters
from mtad.errors import ConfigError
from mtad.maillog import ListSink, MailLog
from mtad.sasl.client import MECHANISMS, Client, choose
from mtad.sasl.mechanism import SaslFailure

USAGE = """\
usage: mtad auth-test [-c DIR] [-s SERVICE] [--mech M] [--no-tls] [--json] USER
  -c DIR      the configuration directory
  -s SERVICE  an entry of master.cf, by its first word (default: the first that authenticates)
  --mech M    try this mechanism only
  --no-tls    as a client without TLS
  --json      tell it to a program
The password is asked for, or read from standard input."""

USAGE_ERROR = 64

#: Seconds for one exchange.
TIMEOUT = 60.0

_SENDS_PASSWORD = (b"PLAIN", b"LOGIN")


def main(argv: list[str]) -> int:
    """Run the command on ``argv`` (without its name); the exit code."""
    try:
        flags, rest = getopt.gnu_getopt(argv, "c:s:h", ["mech=", "json", "no-tls", "help"])
        given = dict(flags)
        if "-h" in given or "--help" in given:
            print(USAGE)
            return 0
        if len(rest) != 1:
            raise getopt.GetoptError("one user is wanted")
    except getopt.GetoptError as error:
        print(f"auth-test: {error}\n{USAGE}", file=sys.stderr)
        return USAGE_ERROR
    try:
        service, p = _parameters(config_directory(given.get("-c")), given.get("-s", ""))
        report = Test(p, service, os.fsencode(rest[0]), "--no-tls" not in given).run(given.get("--mech", ""))
    except ConfigError as error:
        print(f"auth-test: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report, indent=2) if "--json" in given else _text(report))
    results = [attempt["result"] for attempt in report["attempts"]]
    return 0 if results and set(results) == {"granted"} else 1


def _parameters(directory: str, wanted: str) -> tuple[str, Parameters]:
    """The service's name and parameters; raises ConfigError."""
    p = read_parameters(directory)
    path = os.path.join(directory, "master.cf")
    services = (
        [each for each in read_master_cf(path, []) if is_listener(each)] if os.path.exists(path) else []
    )
    for service in services:
        own = p.for_service(service)
        if service.name == wanted or (not wanted and own.flag("smtpd_sasl_auth_enable")):
            return service.name, own
    if wanted:
        raise ConfigError(f"no service {wanted} with smtpd", path=path)
    return "", p


class Test:
    """One user, one service."""

    def __init__(self, p: Parameters, service: str, user: bytes, tls: bool) -> None:
        from twisted.internet.epollreactor import EPollReactor

        self._p = p
        self._service = service
        self._user = user
        self._sink = ListSink()
        reactor: Any = EPollReactor()
        self._reactor = reactor
        path = find_sasl_conf(p)
        self._conf = read_sasl_conf(path) if path is not None else SaslConf()
        log = MailLog(self._sink, "auth-test")
        self._authenticator = Authenticator.build(p, self._reactor, log)
        self._authenticator.limit = None  # the operator's attempts lock nobody out
        self._session = AuthSession("localhost", "127.0.0.1", "0", "127.0.0.1", "0", tls)

    def run(self, mechanism: str) -> dict[str, Any]:
        """What there is to tell."""
        p = self._p
        self._wait(self._authenticator.prepare())
        warnings = self._logged()
        offers = explain.mechanisms(p, self._conf, self._authenticator)
        password = ask_password()
        attempts = [self._attempt(name, password) for name in self._choice(mechanism)]
        failed = any(attempt["result"] != "granted" for attempt in attempts) or not attempts
        advice = list(explain.advice(p, self._conf, self._user))
        if failed and mechanism:
            advice += [
                f"{offer.name}: {offer.why}"
                for offer in offers
                if offer.name == mechanism.upper() and offer.why
            ]
        cyrus = p["smtpd_sasl_type"] == "cyrus"
        return {
            "user": os.fsdecode(self._user),
            "service": self._service,
            "type": p["smtpd_sasl_type"],
            "file": self._conf.path if cyrus else "",
            "searched": list(search_path(p)) if cyrus else [],
            "how": describe(p) if cyrus else f"SASL: Dovecot at {p['smtpd_sasl_path']}",
            "realm": p["smtpd_sasl_local_domain"] or p["myhostname"],
            "tls": self._session.tls,
            "warnings": warnings,
            "mechanisms": [
                {"name": each.name, "without_tls": each.clear, "with_tls": each.tls, "why": each.why}
                for each in offers
            ],
            "attempts": attempts,
            "advice": list(dict.fromkeys(advice)),
        }

    def _choice(self, mechanism: str) -> list[bytes]:
        if mechanism:
            return [mechanism.upper().encode("ascii", "replace")]
        offered = self._authenticator.mechanisms(self._session.tls)
        known = {each.name for each in MECHANISMS}
        proving = [name for name in offered if name in known and name not in _SENDS_PASSWORD]
        sending = [name for name in _SENDS_PASSWORD if name in offered][:1]
        return [name for name in (*sending, *proving) if name not in (b"EXTERNAL", b"ANONYMOUS", b"OTP")]

    def _attempt(self, name: bytes, password: bytes) -> dict[str, Any]:
        """Log in by one mechanism."""
        started = time.monotonic()
        result, told = "failed", ""
        try:
            client = choose([name], (), self._user, password)
        except SaslFailure as failure:
            told = f"this program can't do {name.decode()}: {failure}"
        else:
            result, told = self._dialogue(client)
        return {
            "mechanism": name.decode(),
            "result": result,
            "reply": told,
            "seconds": round(time.monotonic() - started, 3),
            "log": self._logged(),
        }

    def _dialogue(self, client: Client) -> tuple[str, str]:
        exchange = self._authenticator.begin(client.name, self._session)
        try:
            initial = client.initial()
            outcome = self._step(exchange.step(None if initial is None else b64encode(initial)))
            while isinstance(outcome, Challenge):
                outcome = self._step(exchange.step(b64encode(client.step(b64decode(outcome.data)))))
        except SaslFailure as failure:
            return "failed", f"the client gives up: {failure}"
        if outcome is None:
            return "temporary", f"no answer within {TIMEOUT:.0f} seconds"
        if isinstance(outcome, Granted):
            return "granted", f"sasl_username={outcome.avatar.username}"
        assert isinstance(outcome, Denied)
        return "temporary" if outcome.reply.code // 100 == 4 else "denied", str(outcome.reply)

    def _step(self, coroutine: Any) -> Outcome | None:
        outcome: Outcome | None = self._wait(coroutine)
        return outcome

    def _wait(self, coroutine: Any) -> Any:
        """The result, turning the reactor by hand; None when it takes too long."""
        from twisted.internet.defer import Deferred
        from twisted.python.failure import Failure

        results: list[Any] = []
        Deferred.fromCoroutine(coroutine).addBoth(results.append)
        deadline = time.monotonic() + TIMEOUT
        while not results and time.monotonic() < deadline:
            self._reactor.runUntilCurrent()
            self._reactor.doIteration(0.05)
        if results and isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0] if results else None

    def _logged(self) -> list[str]:
        lines = [text for _, _, text in self._sink.lines]
        self._sink.lines.clear()
        return lines


def _text(report: dict[str, Any]) -> str:
    lines = [
        f"user        {report['user']}",
        f"service     {report['service'] or '(main.cf)'}, {'with' if report['tls'] else 'without'} TLS",
        f"set up by   {report['how'].removeprefix('SASL: ')}",
        f"realm       {report['realm']} (of a login without one)",
    ]
    lines += [f"warning     {each.removeprefix('warning: ')}" for each in report["warnings"]]
    for each in report["mechanisms"]:
        where = {(True, True): "offered", (False, True): "with TLS", (True, False): "without TLS"}.get(
            (each["without_tls"], each["with_tls"]), "not offered"
        )
        why = f": {each['why']}" if each["why"] else ""
        lines.append(f"  {each['name']:20} {where}{why}")
    for each in report["attempts"]:
        lines.append(
            f"{each['mechanism']:11} {each['result'].upper()} in {each['seconds']} s: {each['reply']}"
        )
        lines += [f"            log: {line}" for line in each["log"]]
    if not report["attempts"]:
        lines.append("nothing to try: no mechanism is offered that goes by a password")
    lines += [f"-> {each}" for each in report["advice"]]
    return "\n".join(lines)
