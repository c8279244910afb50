"""The stores of ``auxprop_plugin``, as ``smtpd.conf`` sets them up.

:func:`open_stores` raises ConfigError for a plug-in that there is not, or whose options can't work, and
warns of a user database that can't be read.  Without ``auxprop_plugin`` all are used whose options are
there, ``sasldb`` first.

Postfix counterpart: ``libsasl``'s auxprop plug-ins.
"""

from __future__ import annotations

import os

from mtad.auth.auxprop import Auxprop, Chain, SasldbAuxprop
from mtad.auth.ldapdb import Ldapdb
from mtad.auth.sql import SqlAuxprop
from mtad.config.parameters import Parameters
from mtad.config.sasl_conf import SaslConf
from mtad.errors import ConfigError
from mtad.maillog import MailLog

SASLDB_PATH = "/etc/sasldb2"

PLUGINS = ("sasldb", "sql", "ldapdb")


def plugins(conf: SaslConf) -> tuple[str, ...]:
    """The plug-ins that count, in order; raises ConfigError for one that there is not."""
    named = conf.words("auxprop_plugin")
    for name in named:
        if name not in PLUGINS:
            raise ConfigError(
                f"could not find auxprop plugin {name}",
                path=conf.path,
                remedy=f"set auxprop_plugin to one or more of: {', '.join(PLUGINS)}",
            )
    if named:
        return tuple(dict.fromkeys(named))
    others = {"sql": ("sql_select", "sql_statement"), "ldapdb": ("ldapdb_uri",)}
    return ("sasldb", *(name for name, keys in others.items() if any(conf.get(key) for key in keys)))


def open_stores(p: Parameters, conf: SaslConf, default_realm: bytes, log: MailLog) -> Auxprop:
    """The store that the configuration makes."""
    stores = [_open(name, p, conf, default_realm, log) for name in plugins(conf)]
    return stores[0] if len(stores) == 1 else Chain(stores)


def _open(name: str, p: Parameters, conf: SaslConf, realm: bytes, log: MailLog) -> Auxprop:
    if name == "sql":
        return SqlAuxprop(conf, realm, log)
    if name == "ldapdb":
        return Ldapdb(conf, log)
    return SasldbAuxprop(sasldb_path(p, conf), realm, log)


def sasldb_path(p: Parameters, conf: SaslConf) -> str:
    """The user database where it is configured, or its copy in the old chroot if only that is readable."""
    path = conf.get("sasldb_path") or SASLDB_PATH
    inside = p["queue_directory"] + os.path.join("/", path)
    return inside if not os.access(path, os.R_OK) and os.access(inside, os.R_OK) else path


def describe(p: Parameters, conf: SaslConf) -> str:
    """The stores in words, for the operator."""
    told = {
        "sasldb": f"sasldb {sasldb_path(p, conf)}",
        "sql": f"sql: {conf.get('sql_engine', 'mysql')}",
        "ldapdb": f"ldapdb: {conf.get('ldapdb_uri', '')}",
    }
    return ", then ".join(told[name] for name in plugins(conf))
