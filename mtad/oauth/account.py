"""Accounts at providers of OAuth tokens: the files of ``mtad_oauth_directory``.

Each file describes one account by lines ``name = value`` as in main.cf; its name is what ``user:oauth:NAME``
in ``smtp_sasl_password_maps`` refers to.  ``provider`` fills in what is known of Gmail and Microsoft 365.
Raises ConfigError with file, line and remedy.

RFC 6749 (grants), RFC 8628 (device code).  Postfix counterpart: plug-ins of ``libsasl`` by third parties.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from mtad.config.parameters import Parameters, read_assignments
from mtad.config.types import nearest
from mtad.errors import ConfigError
from mtad.net.http import url_problem

#: What the name of an account may be.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._+-]{0,99}")

#: How the first token is got.  The first two need somebody who logs in, once.
GRANTS = ("authorization_code", "device_code", "client_credentials", "refresh_token")

_MICROSOFT = "https://login.microsoftonline.com/{tenant}/oauth2/v2.0"

#: What the providers have in common, by name.
PROVIDERS: dict[str, dict[str, str]] = {
    "gmail": {
        "token_endpoint": "https://oauth2.googleapis.com/token",
        "authorization_endpoint": "https://accounts.google.com/o/oauth2/v2/auth",
        "authorization_parameters": "access_type=offline&prompt=consent",
        "scope": "https://mail.google.com/",
        "grant": "authorization_code",
    },
    "microsoft": {
        "token_endpoint": f"{_MICROSOFT}/token",
        "authorization_endpoint": f"{_MICROSOFT}/authorize",
        "device_endpoint": f"{_MICROSOFT}/devicecode",
        "scope": "https://outlook.office.com/SMTP.Send offline_access",
        "grant": "device_code",
        "tenant": "common",
    },
}
#: What Microsoft wants of a program that acts for itself.
_MICROSOFT_OWN_SCOPE = "https://outlook.office365.com/.default"

_NAMES = (
    "provider", "tenant", "grant", "token_endpoint", "authorization_endpoint", "authorization_parameters",
    "device_endpoint", "client_id", "client_secret", "client_secret_file", "client_auth", "scope",
    "refresh_token",
)  # fmt: skip
_ENDPOINTS = ("token_endpoint", "authorization_endpoint", "device_endpoint")


@dataclass(frozen=True, slots=True)
class Account:
    """One account.  What is not known is empty."""

    name: str
    path: str
    grant: str
    token_endpoint: str
    authorization_endpoint: str
    authorization_parameters: str
    device_endpoint: str
    client_id: str
    client_auth: str  # post or basic
    scope: str
    client_secret: str = field(repr=False)
    refresh_token: str = field(repr=False)

    @property
    def digest(self) -> str:
        """What tokens that were got for another version of the file differ in."""
        told = "\0".join((self.token_endpoint, self.client_id, self.grant, self.scope, self.refresh_token))
        return hashlib.sha256(told.encode()).hexdigest()


def account_path(p: Parameters, name: str) -> str:
    """Where the account of that name is described; raises ConfigError for a name that can not be one."""
    if NAME.fullmatch(name) is None:
        raise ConfigError(f"{name[:100]!r} can not be the name of an OAuth account")
    return os.path.join(p["mtad_oauth_directory"], name)


def read_account(p: Parameters, name: str) -> Account:
    """The account of that name."""
    return _Reader(account_path(p, name)).account(name)


def account_names(p: Parameters) -> list[str]:
    """The accounts there are, in order; files of editors and packagers are passed over."""
    try:
        found = sorted(os.listdir(p["mtad_oauth_directory"]))
    except OSError:
        return []
    ends = ("~", ".bak", ".dpkg-old", ".dpkg-new", ".dpkg-dist", ".orig", ".rpmnew", ".rpmsave")
    return [name for name in found if NAME.fullmatch(name) and not name.endswith(ends)]


class _Reader:
    """One file, while it is read."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lines: dict[str, int] = {}
        self._values: dict[str, str] = {}
        for line, name, value in read_assignments(path, []):
            if name not in _NAMES:
                remedy = nearest(name, _NAMES) or f"known are {', '.join(_NAMES)}"
                raise ConfigError(f"unknown name {name}", path=path, line=line, remedy=remedy)
            self._lines[name], self._values[name] = line, value

    def account(self, name: str) -> Account:
        own = self._values
        preset = self._preset()
        values = {**preset, **own}
        if own.get("grant") == "client_credentials" and own.get("provider") == "microsoft":
            values["scope"] = own.get("scope", _MICROSOFT_OWN_SCOPE)
            if "tenant" not in own and "{tenant}" in values["token_endpoint"]:
                raise ConfigError("no tenant, which grant client_credentials needs", path=self._path)
        tenant = values.get("tenant", "")
        if not re.fullmatch(r"[A-Za-z0-9.-]*", tenant):
            raise self._error("tenant", "not a tenant's name or identifier")
        for key in _ENDPOINTS:
            values[key] = values.get(key, "").replace("{tenant}", tenant)
            if values[key] and (problem := url_problem(values[key])):
                raise self._error(key, problem)
        secret = self._secret()
        account = Account(
            name=name,
            path=self._path,
            grant=self._choice(values, "grant", GRANTS, "refresh_token"),
            client_auth=self._choice(values, "client_auth", ("post", "basic"), "post"),
            client_secret=secret,
            **{key: values.get(key, "") for key in (*_ENDPOINTS, "authorization_parameters", "client_id")},
            scope=values.get("scope", ""),
            refresh_token=values.get("refresh_token", ""),
        )
        self._demand(account)
        return account

    def _preset(self) -> Mapping[str, str]:
        provider = self._values.get("provider")
        if provider is None:
            return {}
        if provider not in PROVIDERS:
            raise self._error("provider", f"unknown provider {provider}", f"known are {', '.join(PROVIDERS)}")
        return PROVIDERS[provider]

    def _demand(self, account: Account) -> None:
        """That what the grant needs is there."""
        needed = {
            "authorization_code": "authorization_endpoint",
            "device_code": "device_endpoint",
            "client_credentials": "client_secret",
            "refresh_token": "refresh_token",
        }[account.grant]
        for key in ("token_endpoint", "client_id", needed):
            if not getattr(account, key):
                raise ConfigError(f"no {key}, which grant {account.grant} needs", path=self._path)

    def _choice(self, values: Mapping[str, str], key: str, known: tuple[str, ...], usual: str) -> str:
        word = values.get(key, usual)
        if word not in known:
            raise self._error(key, f"unknown {key} {word}", f"known are {', '.join(known)}")
        return word

    def _secret(self) -> str:
        path = self._values.get("client_secret_file")
        if path is None:
            return self._values.get("client_secret", "")
        try:
            with open(path, encoding="utf-8") as file:
                return file.readline(4096).strip()
        except (OSError, UnicodeDecodeError) as problem:
            reason = problem.strerror if isinstance(problem, OSError) else "not UTF-8"
            raise self._error("client_secret_file", f"{path}: {reason}") from problem

    def _error(self, key: str, reason: str, remedy: str = "") -> ConfigError:
        line = self._lines.get(key, 0)
        return ConfigError(reason, path=self._path, line=line, parameter=key, remedy=remedy)
