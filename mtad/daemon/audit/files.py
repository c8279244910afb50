"""Owners and modes: who could read the secrets, who could change the configuration?

Postfix counterpart: ``postfix-script``'s checks of owners and modes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

from mtad.auth.options import SECRETS
from mtad.auth.stores import SASLDB_PATH
from mtad.config.lint import WARNING, Finding
from mtad.config.parameters import Parameters
from mtad.config.sasl_conf import SaslConf, find_sasl_conf, read_sasl_conf
from mtad.daemon.audit.tables import TableUse
from mtad.errors import ConfigError
from mtad.net.certificates import pair_files
from mtad.tables.registry import INDEXED, index_files

#: Tables whose source holds the password of a database.
_DATABASES = frozenset({"ldap", "mysql", "pgsql", "mongodb"})
#: Parameters whose tables hold passwords or keys.
_SECRET = frozenset({"smtp_sasl_password_maps", "lmtp_sasl_password_maps", "tls_server_sni_maps"})
_KEY = b"PRIVATE KEY-----"


def findings(p: Parameters, services: Sequence[Parameters], used: Sequence[TableUse]) -> Iterator[Finding]:
    """What others could read or change."""
    yield from _writable(p, used)
    told: set[str] = set()
    for use in used:
        if use.parameter in _SECRET or use.kind in _DATABASES:
            for path in _files(use):
                if path not in told and (
                    use.kind not in _DATABASES or _mentions(path, b"password", b"bind_pw")
                ):
                    told.add(path)
                    yield from _readable(path, "it holds passwords", use)
    for scope in (p, *services):
        for side in ("smtpd", "smtp"):
            yield from _keys(scope, side, told)
        yield from _sasl(scope, told)


def _files(use: TableUse) -> list[str]:
    indexes = index_files(use.kind, use.name) if use.kind in INDEXED else []
    return [path for path in (use.name, *indexes) if os.path.exists(path)]


def _mode(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _mentions(path: str, *words: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            data = file.read(1 << 20)
    except OSError:
        return False
    return any(word in data for word in words)


def _readable(path: str, what: str, use: TableUse | None = None, name: str = "") -> Iterator[Finding]:
    status = _mode(path)
    if status is None or not status.st_mode & stat.S_IROTH:
        return
    text = f"{path} can be read by everyone on this host, and {what} (chmod o= {path})"
    if use is not None:
        yield use.finding(WARNING, text)
    else:
        yield Finding(WARNING, "", 0, name, text)


def _keys(p: Parameters, side: str, told: set[str]) -> Iterator[Finding]:
    try:
        files = pair_files(p, side)
    except ConfigError:  # which is among the errors already
        return
    for parameter, paths in files:
        for path in paths:
            if path not in told and _mentions(path, _KEY):
                told.add(path)
                where = p.where(parameter)
                use = TableUse(parameter, *where, "", path)
                yield from _readable(path, "it holds a private key", use)


def _sasl(p: Parameters, told: set[str]) -> Iterator[Finding]:
    database: str | None = None
    try:
        if not p.flag("smtpd_sasl_auth_enable") or p["smtpd_sasl_type"] != "cyrus":
            return
        path = find_sasl_conf(p)
        conf = read_sasl_conf(path) if path is not None else SaslConf()
    except ConfigError:  # which is among the errors already
        return
    if path is not None and path not in told:
        told.add(path)
        if any(name in SECRETS for name in conf.names()):
            yield from _readable(path, "it holds a password")
        database = conf.get("sasldb_path")
    database = database or SASLDB_PATH
    if database not in told:
        told.add(database)
        yield from _readable(database, "it holds passwords")


def _writable(p: Parameters, used: Sequence[TableUse]) -> Iterator[Finding]:
    """Files that someone else could change, and with them what the mail system does."""
    configuration = [p.directory, f"{p.directory}/main.cf", f"{p.directory}/master.cf"]
    for path in configuration:
        status = _mode(path)
        if status is not None and status.st_uid not in (0, os.geteuid()):
            yield Finding(WARNING, "", 0, "", f"not owned by root: {path} (chown root {path})")
    paths = [*configuration, *(path for use in used for path in _files(use))]
    for path in dict.fromkeys(paths):
        status = _mode(path)
        if status is None or not status.st_mode & 0o022:
            continue
        if status.st_mode & stat.S_IWOTH or not _private_group(status):
            text = f"group or other writable: {path} (chmod go-w {path})"
            yield Finding(WARNING, "", 0, "", text)


def _private_group(status: os.stat_result) -> bool:
    """Whether the group can be taken for the owner's own (user private groups) or is root's."""
    return status.st_gid in (0, status.st_uid)
