"""Access tokens to log in with, renewed before they end.

:meth:`Accounts.token` gives the token of an account, and waits while it is renewed: once, however many wait,
here or in other processes.  After a failure the service is left alone for :data:`PAUSE` seconds.  Raises
:class:`~mtad.oauth.grants.OAuthError`, which is always temporary: mail waits until there is a token again.

RFC 6749 section 6.  Postfix counterpart: none; plug-ins of ``libsasl``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.task import deferLater

from mtad.config.parameters import Parameters
from mtad.maillog import MailLog, printable
from mtad.net.http import HttpClient
from mtad.net.shared import SharedWork
from mtad.oauth.account import Account, account_names, read_account
from mtad.oauth.grants import OAuthError, TokenService
from mtad.oauth.state import StateFile, TokenState, state_directory

#: Seconds for which a failure counts, and the youngest token that is renewed because a server refused it.
PAUSE = 5.0
YOUNG = 60.0

#: Seconds between attempts to get the lock, and in all.
_STEP = 0.1
_PATIENCE = 30.0


class Accounts:
    """The accounts of ``mtad_oauth_directory``."""

    def __init__(self, p: Parameters, reactor: Any, log: MailLog, clock: Callable[[], float]) -> None:
        self._p = p
        self._reactor = reactor
        self._log = log
        self._clock = clock
        self._keepers: dict[str, Keeper] = {}
        self._http: HttpClient | None = None

    def load(self) -> None:
        """Read all accounts there are, while we may; raises ConfigError for a broken one."""
        for name in account_names(self._p):
            self.add(name)

    def keeper(self, name: str) -> Keeper:
        """Who keeps the tokens of an account."""
        found = self._keepers.get(name)
        if found is None:
            directory = self._p["mtad_oauth_directory"]
            text = f"no OAuth account {printable(name[:100])} in {directory}, or none when this was started"
            raise OAuthError(text)
        return found

    async def token(self, name: str, rejected: bytes = b"") -> bytes:
        """The access token of an account; another one than ``rejected``, which a server has refused."""
        return (await self.keeper(name).token(rejected.decode("ascii", "replace"))).encode()

    def add(self, name: str) -> Keeper:
        """Read one account; raises ConfigError."""
        account = read_account(self._p, name)
        if self._http is None:
            self._http = HttpClient.build(self._p, self._reactor)
        service = TokenService(account, self._http, self._clock)
        file = StateFile(state_directory(self._p), account.name)
        keeper = self._keepers[account.name] = Keeper(service, file, self._reactor, self._log, self._clock)
        return keeper


class Keeper:
    """The tokens of one account."""

    def __init__(
        self,
        service: TokenService,
        file: StateFile,
        reactor: Any,
        log: MailLog,
        clock: Callable[[], float],
    ) -> None:
        self._service = service
        self._file = file
        self._reactor = reactor
        self._log = log
        self._clock = clock
        self._last: TokenState | None = None  # what could not be written
        self._rejected = ""
        self._problem: OAuthError | None = None
        self._failed = 0.0
        self._renewed = SharedWork(self._renew)

    @property
    def account(self) -> Account:
        return self._service.account

    @property
    def service(self) -> TokenService:
        return self._service

    def state(self) -> TokenState | None:
        """The tokens there are."""
        found, last = self._file.read(self.account.digest), self._last
        return last if last is not None and (found is None or found.obtained < last.obtained) else found

    async def token(self, rejected: str = "") -> str:
        """The access token; renewed where it must be, or where it is ``rejected``.

        One that is rejected as young as it is stays, since another would fare no better.
        """
        state = self.state()
        now = self._clock()
        if state is not None and state.fresh(now):
            young = 0 <= now - state.obtained < YOUNG
            if young or state.access != rejected:
                return state.access
        return await self.renew(rejected)

    async def renew(self, rejected: str = "") -> str:
        """A new access token; only that of another process will do as well, unless it is ``rejected``."""
        now = self._clock()
        if self._problem is not None and 0 <= now - self._failed < PAUSE:
            raise self._problem
        self._rejected = rejected
        try:
            token = await self._renewed()
        except OAuthError as problem:
            self._problem, self._failed = problem, self._clock()
            raise
        self._problem = None
        return token

    async def keep(self, state: TokenState) -> None:
        """Write down tokens that were got otherwise: those of a user who logged in.  May raise OSError."""
        lock = await self._lock()
        try:
            self._file.write(state)
        finally:
            os.close(lock)

    async def _renew(self) -> str:
        lock = await self._lock()
        try:
            state = self.state()
            if state is not None and state.fresh(self._clock()) and state.access != self._rejected:
                return state.access  # another process was faster
            refresh = (state.refresh if state is not None else "") or self.account.refresh_token
            if not refresh and self.account.grant != "client_credentials":
                raise OAuthError(f"OAuth account {self.account.name}: no token yet: {self._hint}")
            try:
                state = await self._service.renew(refresh)
            except OAuthError as problem:
                hint = f" ({self._hint})" if problem.error == "invalid_grant" else ""
                raise OAuthError(
                    f"OAuth account {self.account.name}: {problem}{hint}", problem.error
                ) from problem
            self._write(state)
            self._log.info(
                f"OAuth account {self.account.name}: new token for {state.ends - state.obtained:.0f} s"
            )
            return state.access
        finally:
            os.close(lock)

    @property
    def _hint(self) -> str:
        return f"run: mtad oauth login {self.account.name}"

    def _write(self, state: TokenState) -> None:
        try:
            self._file.write(state)
            self._last = None
        except OSError as problem:
            self._last = state
            self._log.warning(
                f"OAuth account {self.account.name}: cannot keep the new token: {problem.strerror}"
            )

    async def _lock(self) -> int:
        """The lock on the account, which no other process may hold meanwhile."""
        waited = 0.0
        while True:
            try:
                lock = self._file.lock()
            except OSError as problem:
                raise OAuthError(
                    f"OAuth account {self.account.name}: {problem.filename}: {problem.strerror}"
                ) from problem
            if lock is not None:
                return lock
            if waited >= _PATIENCE:
                raise OAuthError(f"OAuth account {self.account.name}: another process is at it for too long")
            await deferLater(self._reactor, _STEP)
            waited += _STEP
