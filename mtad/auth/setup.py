"""From ``main.cf`` and Cyrus' ``smtpd.conf`` to the parts that authenticate.

:func:`read_setup` raises ConfigError for what can not work or is not supported, and warns of
what works but should not be so.

``smtpd.conf`` options: ``pwcheck_method``, ``mech_list``, ``auxprop_plugin``, ``sasldb_path``,
``saslauthd_path``, ``auto_transition``, ``canon_user_plugin``, ``log_level``, and those of the stores.
Postfix counterpart: ``xsasl_cyrus_server_init``, ``smtpd_sasl_activate``.
"""

from __future__ import annotations

import hmac
import os
import secrets
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from twisted.cred.portal import Portal

from mtad.auth import gssapi, stores
from mtad.auth.auxprop import Auxprop, AuxpropVerifier, Readable
from mtad.auth.checkers import AlwaysTrue, PasswordChecker, ProvenChecker, Verifier
from mtad.auth.external import MAPS as EXTERNAL_MAPS
from mtad.auth.external import NAMES as EXTERNAL_NAMES
from mtad.auth.external import CertificateLogins
from mtad.auth.failures import FailureLimit
from mtad.auth.ldapdb import Ldapdb
from mtad.auth.oauth import read_tokens
from mtad.auth.realm import SubmissionRealm
from mtad.auth.saslauthd import Saslauthd
from mtad.auth.tokens import TokenVerifier
from mtad.auth.verifiers import NOTES, ROUNDS, Noted, Transition
from mtad.config.parameters import Parameters
from mtad.config.sasl_conf import SaslConf, find_sasl_conf, read_sasl_conf, search_path
from mtad.errors import ConfigError, TableError
from mtad.maillog import MailLog
from mtad.sasl import bearer, server
from mtad.sasl.mechanism import Property, ServerContext, ServerMechanism, parse_options
from mtad.sasl.scram import ITERATION_LIMIT
from mtad.tables.match import StringList

_RANDOM = secrets.token_bytes(32)

#: What ``smtpd_sasl_type`` may be.
SERVER_TYPES = ("cyrus", "dovecot")

_NO = frozenset({"n", "no", "0", "f", "false", "off"})

#: Where saslauthd's socket is looked for when ``saslauthd_path`` does not say: below
#: ``queue_directory`` for a Postfix that ran in a chroot, then where the daemon puts it.
SASLAUTHD_PATHS = ("/var/run/saslauthd/mux", "/run/saslauthd/mux")


#: What EHLO tells without TLS, with TLS, and with TLS and a trusted client certificate.
Announced = tuple[tuple[bytes, ...], tuple[bytes, ...], tuple[bytes, ...]]


@dataclass(frozen=True, slots=True)
class Setup:
    """The parts of an :class:`~mtad.auth.authenticator.Authenticator`."""

    portal: Portal
    store: Auxprop
    context: ServerContext
    local_domain: bytes
    mechanisms: tuple[ServerMechanism, ...]
    options: tuple[Property, Property]  # without TLS, with TLS
    announced: Announced
    tokens: TokenVerifier | None  # bearer tokens
    certificates: CertificateLogins
    limit: FailureLimit
    namer: Ldapdb | None  # canonical names, where they are not the usual ones


def read_setup(p: Parameters, reactor: Any, log: MailLog) -> Setup:
    """Read ``smtpd.conf`` and put the parts together; raises ConfigError."""
    path = find_sasl_conf(p)
    conf = read_sasl_conf(path) if path is not None else SaslConf()
    local_domain = p["smtpd_sasl_local_domain"].encode()
    hostname = p["myhostname"].encode()
    tokens = read_tokens(p, reactor, log)
    certificates = CertificateLogins(p)
    mechanisms = _mechanisms(p, conf, tokens is not None)
    _check_database(p, conf, mechanisms, log)
    store = stores.open_stores(p, conf, local_domain or hostname, log)
    verifiers = [_verifier(name, p, conf, reactor, log, store) for name in methods(conf)]
    options = (
        security_options(p, "smtpd_sasl_security_options"),
        security_options(p, "smtpd_sasl_tls_security_options"),
    )
    return Setup(
        Portal(SubmissionRealm(), [PasswordChecker(verifiers), ProvenChecker()]),
        Readable(store, log),
        _context(p, conf),
        local_domain,
        mechanisms,
        options,
        _announced(p, conf, mechanisms, options, bool(certificates)),
        tokens,
        certificates,
        FailureLimit(p, log),
        _namer(conf, log),
    )


def server_type(p: Parameters) -> str:
    """``smtpd_sasl_type``; raises ConfigError for one that there is not."""
    kind = p["smtpd_sasl_type"]
    if kind not in SERVER_TYPES:
        raise p.error(
            "smtpd_sasl_type",
            f"unsupported SASL server implementation: {kind}",
            f"set smtpd_sasl_type to {' or '.join(SERVER_TYPES)}",
        )
    return kind


def describe(p: Parameters) -> str:
    """What was found and what it comes to, in one line for the operator; raises ConfigError."""
    path = find_sasl_conf(p)
    conf = read_sasl_conf(path) if path is not None else SaslConf()
    taken = path or f"no {os.path.basename(p['smtpd_sasl_path'])}.conf found in {':'.join(search_path(p))}"
    told = []
    for method in methods(conf):
        if method == "auxprop":
            told.append(f"auxprop ({stores.describe(p, conf)})")
        elif method == "saslauthd":
            told.append(f"saslauthd ({', '.join(dict.fromkeys(saslauthd_paths(p, conf)))})")
        else:
            told.append(method)
    tokens = "mtad_oauth_jwks" if p["mtad_oauth_jwks"] else "mtad_oauth_introspection_url"
    if p[tokens]:
        told.append(f"{tokens} (bearer tokens)")
    external = bool(p[EXTERNAL_MAPS] or p[EXTERNAL_NAMES])
    there = _mechanisms(p, conf, bool(p[tokens]))
    names = _join([each for each in there if external or not each.for_certificate]) or "none"
    return f"SASL: {taken}; passwords are checked by {', then '.join(told)}; mechanisms: {names}"


def _mechanisms(p: Parameters, conf: SaslConf, tokens: bool) -> tuple[ServerMechanism, ...]:
    """The mechanisms there are; ``tokens``: somebody knows bearer tokens."""
    kerberos = gssapi.server_mechanism(conf.get("keytab"))
    further = (*([kerberos] if kerberos is not None else []), *(bearer.MECHANISMS if tokens else ()))
    found = server.select(conf.words("mech_list") or None, further)
    binding = p.flag("mtad_sasl_channel_binding")
    return tuple(each for each in found if binding or not each.for_binding)


def _unique() -> bytes:
    return b"%d.%d" % (secrets.randbits(64), time.time())


def _context(p: Parameters, conf: SaslConf) -> ServerContext:
    hostname = p["myhostname"].encode()
    return ServerContext(
        hostname,
        _unique,
        realm=p["smtpd_sasl_local_domain"].encode() or hostname,
        service=p["smtpd_sasl_service"].encode(),
        salt_key=_salt_key(hostname),
        iterations=partial(_iterations, conf),
        now=time.time,
    )


def _iterations(conf: SaslConf, mechanism: bytes) -> int:
    name = "scram_iteration_counter"
    value = conf.get(f"{mechanism.decode().lower()}_{name}") or conf.get(name) or ""
    return min(int(value), ITERATION_LIMIT) if value.isascii() and value.isdigit() and int(value) else ROUNDS


def _salt_key(hostname: bytes) -> bytes:
    """A secret that is the same in all processes of this host, now and later."""
    try:
        with open("/etc/machine-id", "rb") as file:
            identity = file.read(64).strip()
    except OSError:
        identity = b""
    if not identity:
        return _RANDOM
    return hmac.digest(identity, b"mtad SCRAM salt " + hostname, "sha256")


def _namer(conf: SaslConf, log: MailLog) -> Ldapdb | None:
    """``canon_user_plugin``; raises ConfigError for one that there is not."""
    plugin = conf.get("canon_user_plugin", "INTERNAL")
    if plugin == "INTERNAL":
        return None
    if plugin != "ldapdb":
        raise ConfigError(
            f"desired canon_user plugin {plugin} not found",
            path=conf.path,
            remedy="set canon_user_plugin to INTERNAL or ldapdb",
        )
    if not conf.get("ldapdb_canon_attr"):
        raise ConfigError(
            "canon_user_plugin ldapdb needs ldapdb_canon_attr", path=conf.path, remedy="set ldapdb_canon_attr"
        )
    return Ldapdb(conf, log)


def methods(conf: SaslConf) -> Sequence[str]:
    """``pwcheck_method``, in order."""
    return [word.lower() for word in conf.words("pwcheck_method")] or ["auxprop"]


def _verifier(
    name: str, p: Parameters, conf: SaslConf, reactor: Any, log: MailLog, store: Auxprop
) -> Verifier:
    verifier = _bare_verifier(name, p, conf, reactor, log, store)
    transition = (conf.get("auto_transition") or "no").lower()
    if name != "auxprop" and transition not in _NO:
        rounds = _iterations(conf, b"SCRAM-SHA-256")
        one_time = "otp" in (word.lower() for word in conf.words("mech_list"))
        verifier = Transition(verifier, store, log, transition != "noplain", rounds, one_time)
    return Noted(verifier, log) if conf.number("log_level", 1) >= NOTES else verifier


def _bare_verifier(
    name: str, p: Parameters, conf: SaslConf, reactor: Any, log: MailLog, store: Auxprop
) -> Verifier:
    if name == "auxprop":
        return AuxpropVerifier(store, log)
    if name == "saslauthd":
        service = p["smtpd_sasl_service"].encode()
        realm = p["smtpd_sasl_local_domain"].encode()
        tell = p.flag("mtad_saslauthd_client_address")
        return Saslauthd(reactor, log, saslauthd_paths(p, conf), service, realm, tell)
    if name == "alwaystrue":
        log.warning(f"{conf.path}: pwcheck_method alwaystrue: any password is accepted for any name")
        return AlwaysTrue(log)
    raise ConfigError(
        f"unknown password verifier(s) {name}",
        path=conf.path,
        remedy="set pwcheck_method to auxprop, saslauthd, or both",
    )


def saslauthd_paths(p: Parameters, conf: SaslConf) -> Sequence[str]:
    """The sockets to try.  One that is configured is looked for inside the old chroot too, and no other."""
    configured = conf.get("saslauthd_path")
    if configured is not None:
        return (configured, p["queue_directory"] + os.path.join("/", configured))
    return (p["queue_directory"] + SASLAUTHD_PATHS[0], *SASLAUTHD_PATHS)


def _check_database(
    p: Parameters, conf: SaslConf, mechanisms: Sequence[ServerMechanism], log: MailLog
) -> None:
    """Warn when something is to be looked up in a user database that is not there."""
    path = stores.sasldb_path(p, conf)
    if stores.plugins(conf) != ("sasldb",) or os.access(path, os.R_OK):
        return
    users = [each.name.decode() for each in mechanisms if each.by_secret]
    if "auxprop" in methods(conf):
        users.insert(0, "pwcheck_method auxprop")
    if users:
        state = "can not be read" if os.path.exists(path) else "does not exist"
        log.warning(f"user database {path} {state}: no login will succeed by {', '.join(users)}")


def security_options(p: Parameters, name: str) -> Property:
    """What mechanisms must have, by ``smtpd_sasl_security_options`` or its like.  Raises ConfigError."""
    try:
        return parse_options(p.words(name))
    except ValueError as error:
        raise p.error(name, f"unknown SASL security option {error}") from None


def _announced(
    p: Parameters,
    conf: SaslConf,
    mechanisms: Sequence[ServerMechanism],
    options: tuple[Property, Property],
    external: bool,
) -> Announced:
    """What EHLO tells; raises ConfigError where it would have nothing to tell.

    ``external``: certificates can be logins.
    """
    announced = []
    plain, tls = "smtpd_sasl_security_options", "smtpd_sasl_tls_security_options"
    used_plain, used_tls = _sessions(p)
    for parameter, wanted, used, in_tls, certificate in (
        (plain, options[0], used_plain, False, False),
        (tls, options[1], used_tls, True, False),
        (tls, options[1], used_tls, True, external),
    ):
        usable = [each.name for each in server.permitted(mechanisms, wanted, in_tls, certificate)]
        told = filtered(p, usable)
        if used and not usable and not server.permitted(mechanisms, wanted):
            raise p.error(
                parameter,
                f"no SASL authentication mechanisms: none of '{_join(mechanisms)}' is '{p[parameter]}'",
                f"relax {parameter}, or change mech_list in {conf.path or 'smtpd.conf'}",
            )
        if used and usable and not told:
            names = b" ".join(usable).decode()
            raise p.error("smtpd_sasl_mechanism_filter", f"discards all mechanisms in '{names}'")
        announced.append(told)
    return announced[0], announced[1], announced[2]


def _join(mechanisms: Sequence[ServerMechanism]) -> str:
    return b" ".join(each.name for each in mechanisms).decode()


def _sessions(p: Parameters) -> tuple[bool, bool]:
    """Whether clients can authenticate without TLS, and with it."""
    wrapped = p.flag("smtpd_tls_wrappermode")
    level = p["smtpd_tls_security_level"] or (
        "encrypt" if p.flag("smtpd_enforce_tls") else "may" if p.flag("smtpd_use_tls") else "none"
    )
    return (
        level != "encrypt" and not wrapped and not p.flag("smtpd_tls_auth_only"),
        level != "none" or wrapped,
    )


def filtered(p: Parameters, names: Sequence[bytes]) -> tuple[bytes, ...]:
    """Those of ``names`` that ``smtpd_sasl_mechanism_filter`` lets through."""
    name = "smtpd_sasl_mechanism_filter"
    patterns = StringList(name, p[name], p.directory)
    try:
        return tuple(each for each in names if _at_once(p, name, patterns.matches(each)))
    except TableError as error:
        raise p.error(name, f"SASL mechanism filter failed: {error}") from error
    finally:
        patterns.close()


def _at_once(p: Parameters, name: str, match: Coroutine[Any, Any, bool]) -> bool:
    """The result of a look-up that does not wait."""
    try:
        match.send(None)
    except StopIteration as end:
        return bool(end.value)
    match.close()
    raise p.error(name, "a table that has to be waited for can not be used here")
