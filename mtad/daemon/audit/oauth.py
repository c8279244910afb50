"""OAuth accounts: are their files right, who can read them, is there a token?

Postfix counterpart: none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from mtad.config.lint import ERROR, WARNING, Finding
from mtad.config.parameters import Parameters
from mtad.errors import ConfigError
from mtad.oauth.account import Account, account_names, read_account
from mtad.oauth.state import StateFile, state_directory


def findings(p: Parameters) -> Iterator[Finding]:
    """What there is to tell of the accounts by which mail is sent."""
    secret = p["mtad_oauth_client_secret_file"]
    if secret and _open(secret):
        path, line = p.where("mtad_oauth_client_secret_file")
        text = f"others can read {secret} (chmod 600 {secret})"
        yield Finding(WARNING, path, line, "mtad_oauth_client_secret_file", text)
    if not p.flag("smtp_sasl_auth_enable"):
        return
    for name in account_names(p):
        try:
            account = read_account(p, name)
        except ConfigError as error:
            text = f"{error.reason} ({error.remedy})" if error.remedy else error.reason
            yield Finding(ERROR, error.path, error.line, error.parameter, text)
            continue
        if (account.client_secret or account.refresh_token) and _open(account.path):
            text = f"others can read it, and it holds secrets (chmod 600 {account.path})"
            yield Finding(WARNING, account.path, 0, "", text)
        if not _renewable(p, account):
            text = f"there is no token yet, so mail by it waits (run: mtad oauth login {name})"
            yield Finding(WARNING, account.path, 0, "", text)


def _renewable(p: Parameters, account: Account) -> bool:
    state = StateFile(state_directory(p), account.name).read(account.digest)
    return bool(account.grant == "client_credentials" or account.refresh_token or state is not None)


def _open(path: str) -> bool:
    """Whether anybody may read it."""
    try:
        return bool(os.stat(path).st_mode & 0o004)
    except OSError:
        return False
