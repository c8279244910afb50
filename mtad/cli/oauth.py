"""``mtad oauth``: the accounts by whose OAuth tokens mtad logs in to servers.

``login NAME`` gets the first token: it prints a code or an address, and somebody logs in with a browser, here
or elsewhere.  ``status [NAME ...]`` tells what tokens there are, ``refresh NAME`` gets a new one now.  The
accounts are the files of ``mtad_oauth_directory``; see :mod:`mtad.oauth.account`.

Exit codes: 0; 1 for a failure, and for ``status`` when an account has no usable token.

RFC 8628 (device code), RFC 8252 section 7.3 (loopback redirection), RFC 7636 (PKCE).
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import stat
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import parse_qs, urlsplit

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from mtad.cli.directory import load_parameters
from mtad.config.parameters import Parameters
from mtad.daemon.paths import make_directories, owner
from mtad.errors import ConfigError, MtadError
from mtad.maillog import MailLog, printable
from mtad.oauth.account import Account, account_names, read_account
from mtad.oauth.grants import OAuthError, Request, TokenService
from mtad.oauth.state import StateFile, TokenState, state_directory
from mtad.oauth.tokens import Accounts, Keeper

#: Seconds in which somebody has to log in.
_PATIENCE = 900.0

#: Longest request of a browser that is read.
_HEAD_LIMIT = 16384

_DONE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"Done. You can close this window and go back to the terminal.\n"
)
_UNKNOWN = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class _Terminal:
    """Where lines of the log go: the terminal."""

    def write(self, severity: str, ident: str, text: str) -> None:
        print(f"oauth: {text}", file=sys.stderr)


def main(argv: list[str]) -> int:
    """Run the command on ``argv`` (without its name); the exit code."""
    options = _parser().parse_args(argv)
    try:
        command: Callable[[Parameters, argparse.Namespace], int] = options.run
        return command(load_parameters(options.c), options)
    except (MtadError, OSError) as problem:
        print(f"oauth: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mtad oauth", description="OAuth tokens to log in to servers with.")
    parser.add_argument("-c", metavar="DIR", help="configuration directory")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    login = commands.add_parser("login", help="log in and get the first token")
    login.add_argument("name", metavar="NAME")
    how = login.add_mutually_exclusive_group()
    how.add_argument("--device", action="store_true", help="by a code that is entered elsewhere")
    how.add_argument("--browser", action="store_true", help="by an address that a browser is to visit")
    login.add_argument(
        "--port", type=int, default=0, help="port of 127.0.0.1 to which the browser comes back (default: any)"
    )
    login.set_defaults(run=_login)
    refresh = commands.add_parser("refresh", help="get a new token now")
    refresh.add_argument("name", metavar="NAME")
    refresh.set_defaults(run=_refresh)
    status = commands.add_parser("status", help="tell what tokens there are")
    status.add_argument("names", metavar="NAME", nargs="*")
    status.set_defaults(run=_status)
    return parser


# -- commands


def _login(p: Parameters, options: argparse.Namespace) -> int:
    keeper = _keeper(p, options.name)
    account = keeper.account
    if account.grant == "client_credentials":
        print(f"{options.name} needs nobody who logs in (grant client_credentials)")
        return _done(options.name, _await(_renewed(keeper)))
    device = options.device or (account.grant == "device_code" and not options.browser)
    if device and not account.device_endpoint:
        raise OAuthError(f"{account.path} has no device_endpoint; try --browser")
    if not device and not account.authorization_endpoint:
        raise OAuthError(f"{account.path} has no authorization_endpoint; try --device")
    service = keeper.service
    tokens = _by_device(service) if device else _by_browser(service, options.port)
    return _done(options.name, _await(_kept(keeper, tokens)))


def _refresh(p: Parameters, options: argparse.Namespace) -> int:
    keeper = _keeper(p, options.name)
    return _done(options.name, _await(_renewed(keeper)))


def _status(p: Parameters, options: argparse.Namespace) -> int:
    names = options.names or account_names(p)
    if not names:
        print(f"no accounts in {p['mtad_oauth_directory']}")
    good = True
    for name in names:
        try:
            text, usable = _describe(p, read_account(p, name))
        except ConfigError as error:
            text, usable = str(error), False
        good &= usable
        print(f"{name}: {text}")
    return 0 if good else 1


def _describe(p: Parameters, account: Account) -> tuple[str, bool]:
    """What there is to tell of an account, and whether mail can be sent by it."""
    state = StateFile(state_directory(p), account.name).read(account.digest)
    parts = [f"grant {account.grant}, {urlsplit(account.token_endpoint).netloc}"]
    renewable = account.grant == "client_credentials" or bool(
        account.refresh_token or (state is not None and state.refresh)
    )
    valid = state is not None and time.time() < state.ends
    if state is None:
        parts.append("no token yet")
    elif valid:
        parts.append(f"token until {_stamp(state.ends)}, got {_stamp(state.obtained)}")
    else:
        parts.append(f"token ended {_stamp(state.ends)}")
    if renewable:
        parts.append("renewed by itself")
    else:
        parts.append(f"run: mtad oauth login {account.name}")
    secret = account.client_secret or account.refresh_token
    if secret and stat.S_IMODE(os.stat(account.path).st_mode) & 0o077:
        parts.append(f"warning: others can read {account.path}")
    return "; ".join(parts), valid or renewable


def _done(name: str, state: TokenState | None) -> int:
    until = f", valid until {_stamp(state.ends)}" if state is not None else ""
    print(f"{name}: there is a token{until}")
    return 0


def _stamp(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def _keeper(p: Parameters, name: str) -> Keeper:
    """The account, read with our rights; the rest is done with those of the mail system."""
    from twisted.internet import reactor

    keeper = Accounts(p, reactor, MailLog(_Terminal(), "oauth"), time.time).add(name)
    who = owner(p)
    make_directories(p, who)
    who.become()
    return keeper


async def _renewed(keeper: Keeper) -> TokenState | None:
    state = keeper.state()
    await keeper.renew(state.access if state is not None else "")
    return keeper.state()


async def _kept(keeper: Keeper, tokens: Coroutine[Any, Any, TokenState]) -> TokenState | None:
    state = await tokens
    await keeper.keep(state)
    if not state.refresh:
        print("the provider gave no refresh token: log in again when this one has ended", file=sys.stderr)
    return keeper.state()


def _await(work: Coroutine[Any, Any, TokenState | None]) -> TokenState | None:
    """Run the reactor until ``work`` is done."""
    from twisted.internet import reactor as installed

    reactor: Any = installed
    results: list[TokenState | Failure | None] = []

    def ended(result: TokenState | Failure | None) -> None:
        results.append(result)
        reactor.stop()

    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(work).addBoth(ended))
    reactor.run()
    if not results:
        raise KeyboardInterrupt
    result = results[0]
    if isinstance(result, Failure):
        result.raiseException()
    assert not isinstance(result, Failure)
    return result


# -- logging in


async def _by_device(service: TokenService) -> TokenState:
    """Show a code, and ask until somebody has entered it."""
    from twisted.internet import reactor as installed

    reactor: Any = installed
    code = await service.device()
    print(f"With any browser, visit {code.where}\nand enter the code {code.code}")
    if code.complete:
        print(f"or visit {code.complete}")
    print("Waiting ...", flush=True)
    interval, waited = code.interval, 0.0
    while waited < code.lifetime:
        await deferLater(reactor, interval)
        waited += interval
        try:
            return await service.device_token(code)
        except OAuthError as problem:
            if problem.error == "slow_down":
                interval += 5.0
            elif problem.error != "authorization_pending":
                raise
    raise OAuthError("nobody has entered the code in time")


def _by_browser(service: TokenService, port: int) -> Coroutine[Any, Any, TokenState]:
    """Show an address; the code comes to our port, or is pasted."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        redirect = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        request = service.request(redirect)
        print(f"With a browser, visit\n\n{request.url}\n")
        print(f"If the browser runs elsewhere, it ends at an address {redirect}?... that it can not open:")
        print("paste that address here.", flush=True)
        code = _wait_for_code(listener, request)
    return service.exchange(request, code)


def _wait_for_code(listener: socket.socket, request: Request) -> str:
    """What a browser brings to ``listener``, or somebody pastes."""
    deadline = time.monotonic() + _PATIENCE
    sources: list[Any] = [listener, sys.stdin]
    while (left := deadline - time.monotonic()) > 0:
        for source in select.select(sources, [], [], left)[0]:
            if source is listener:
                code = _from_browser(listener, request)
            else:
                line = sys.stdin.readline(_HEAD_LIMIT)
                if not line:
                    sources.remove(sys.stdin)
                code = read_code(line.strip(), request) if line.strip() else ""
            if code:
                return code
    raise OAuthError("nobody has logged in in time")


def _from_browser(listener: socket.socket, request: Request) -> str:
    """The code of one visit, or nothing: any page in the browser can send it here."""
    visitor, _ = listener.accept()
    with visitor:
        visitor.settimeout(5.0)
        head = b""
        try:
            while b"\r\n\r\n" not in head and len(head) < _HEAD_LIMIT:
                part = visitor.recv(4096)
                if not part:
                    return ""
                head += part
            words = head.split(b"\r\n", 1)[0].split(b" ")
            target = words[1].decode("ascii", "replace") if len(words) == 3 else ""
            if words[0] != b"GET" or _query(target).get("state") != [request.state]:
                visitor.sendall(_UNKNOWN)
                return ""
            visitor.sendall(_DONE)
        except OSError:
            return ""
    return read_code(target, request)


def read_code(address: str, request: Request) -> str:
    """The code in the address that a browser was sent to; raises OAuthError."""
    query = _query(address)
    if "error" in query:
        told = " ".join(query["error"] + query.get("error_description", []))
        raise OAuthError(f"the provider said {printable(told)[:200]}", query["error"][0])
    if query.get("state") != [request.state]:
        raise OAuthError("that address does not belong to this login")
    if len(query.get("code", [])) != 1:
        raise OAuthError("there is no code in that address")
    return query["code"][0]


def _query(address: str) -> dict[str, list[str]]:
    try:
        return parse_qs(urlsplit(address).query)
    except ValueError:
        return {}
