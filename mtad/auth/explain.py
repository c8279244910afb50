"""Why a login works or not, in words for the operator: what ``mtad auth-test`` tells.

:func:`mechanisms` tells of each mechanism whether it is offered, and why not.  :func:`advice` looks at what
is around a login that failed (the user database, the daemon's socket, the realm) and says what to change.
Nothing here changes anything; ConfigError for a configuration that can't be read.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass

from mtad.auth import stores
from mtad.auth.authenticator import Authenticator
from mtad.auth.dovecot import DovecotAuthenticator
from mtad.auth.failures import FailureLimit, shown_alike
from mtad.auth.hashes import parse
from mtad.auth.names import canonical, printable_name, split_first
from mtad.auth.setup import filtered, methods, saslauthd_paths
from mtad.config.parameters import Parameters
from mtad.config.sasl_conf import SaslConf
from mtad.errors import TableError
from mtad.maillog import ListSink, MailLog, printable
from mtad.sasl import server
from mtad.sasl.mechanism import Property, SaslFailure, ServerMechanism, parse_options
from mtad.tables.sasldb import SaslDb

OPTIONS = ("smtpd_sasl_security_options", "smtpd_sasl_tls_security_options")


@dataclass(frozen=True, slots=True)
class Offer:
    """A mechanism: whether EHLO tells it without TLS and with it, and why not (empty where it does)."""

    name: str
    clear: bool
    tls: bool
    why: str


def mechanisms(p: Parameters, conf: SaslConf, authenticator: Authenticator) -> list[Offer]:
    """All there are, offered ones first."""
    told = (authenticator.mechanisms(False), authenticator.mechanisms(True))
    if isinstance(authenticator, DovecotAuthenticator):
        return [
            Offer(name.decode(), name in told[0], name in told[1], _demands(p, name, properties))
            for name, properties in authenticator.server.mechanisms.items()
        ]
    named = [word.upper() for word in conf.words("mech_list")]
    offers = []
    for each in server.MECHANISMS:
        clear, tls = each.name in told[0], each.name in told[1]
        offers.append(
            Offer(each.name.decode(), clear, tls, "" if clear and tls else _why(p, conf, named, each))
        )
    known = {each.name for each in server.MECHANISMS}
    for name in dict.fromkeys([*told[1], *told[0]]):
        if name not in known:
            offers.append(Offer(name.decode(), name in told[0], name in told[1], ""))
    for word in named:
        if word not in {offer.name for offer in offers}:
            offers.append(Offer(word, False, False, "there is no such mechanism here"))
    return sorted(offers, key=lambda offer: not (offer.clear or offer.tls))


def _why(p: Parameters, conf: SaslConf, named: list[str], each: ServerMechanism) -> str:
    name = each.name.decode()
    if named and name not in named:
        return f"not in mech_list ({conf.path})"
    if each.by_name and not named:
        return "offered only where mech_list names it"
    if each.for_certificate:
        return "needs a client certificate, and mtad_external_login_maps or mtad_external_login_names"
    if each.for_binding:
        return "needs TLS and mtad_sasl_channel_binding = yes"
    demands = _demands(p, each.name, each.properties)
    return "; ".join(filter(None, ["only within TLS" if each.for_tls else "", demands]))


def _demands(p: Parameters, name: bytes, properties: Property) -> str:
    """What main.cf has against a mechanism."""
    reasons = []
    for parameter, where in zip(OPTIONS, ("without TLS", "within TLS"), strict=True):
        words = [word for word in p.words(parameter) if not parse_options([word]) & properties]
        if words:
            reasons.append(f"{where}: {parameter} demands {', '.join(words)}")
    if not reasons and not filtered(p, [name]):
        reasons.append("smtpd_sasl_mechanism_filter hides it")
    return "; ".join(reasons)


def advice(p: Parameters, conf: SaslConf, user: bytes) -> Iterator[str]:
    """What may keep this user from logging in, and what to do."""
    if not p.flag("smtpd_sasl_auth_enable"):
        yield "smtpd_sasl_auth_enable is no: the service does not offer AUTH; set it to yes"
    yield from _locked(p, user)
    if p["smtpd_sasl_type"] == "dovecot":
        path = p["smtpd_sasl_path"]
        if not path.startswith("inet:"):
            yield from _socket(p, os.path.join(p["queue_directory"], path.removeprefix("unix:")), "Dovecot")
        return
    for method in methods(conf):
        if method == "saslauthd":
            yield from _saslauthd(p, conf)
        elif method == "auxprop" and "sasldb" in stores.plugins(conf):
            yield from _sasldb(p, conf, user)
        elif method == "alwaystrue":
            yield "pwcheck_method alwaystrue lets anybody in: use it for tests only"


def _locked(p: Parameters, user: bytes) -> Iterator[str]:
    """Where the user may not even try."""
    limit = FailureLimit(p, MailLog(ListSink(), "auth-test"))
    try:
        name = canonical(user, p["smtpd_sasl_local_domain"].encode())
    except SaslFailure:
        return
    for each in limit.now_locked():
        if each.login in (printable_name(name), shown_alike(name)):
            until = time.strftime("%H:%M:%S", time.localtime(each.until))
            yield (
                f"{each.login} is locked for clients in {each.network} until {until}, after {each.count} "
                "failures (mtad_auth_failure_limit, mtad_auth_failure_time)"
            )


def _saslauthd(p: Parameters, conf: SaslConf) -> Iterator[str]:
    paths = list(dict.fromkeys(saslauthd_paths(p, conf)))
    present = next((path for path in paths if os.path.exists(path)), None)
    if present is None:
        yield (
            f"no socket of saslauthd is there ({', '.join(paths)}): start it (mtad saslauthd -a pam, or "
            "Cyrus' own), or set saslauthd_path in smtpd.conf"
        )
        return
    yield from _socket(p, present, "saslauthd")


def _socket(p: Parameters, path: str, whose: str) -> Iterator[str]:
    if not os.path.exists(path):
        yield f"the socket of {whose}, {path}, is not there: start it, or correct the path"
        return
    denied = unreachable(path, p["mail_owner"], os.W_OK)
    if denied:
        yield _permission(p, f"the socket of {whose}", path, denied)


def _permission(p: Parameters, what: str, path: str, denied: str) -> str:
    group = _group(denied)
    hint = f"adduser {p['mail_owner']} {group}" if group else f"give the right to {p['mail_owner']}"
    owner = p["mail_owner"]
    return f"{what}, {path}, can't be used by mail_owner {owner}: {denied} forbids it; {hint}, then restart"


def _sasldb(p: Parameters, conf: SaslConf, user: bytes) -> Iterator[str]:
    path = stores.sasldb_path(p, conf)
    if not os.path.exists(path):
        yield f"the user database {path} does not exist: mtad saslpasswd -c makes it"
        return
    denied = unreachable(path, p["mail_owner"], os.R_OK)
    if denied:
        yield _permission(p, "the user database", path, denied)
    local = p["smtpd_sasl_local_domain"].encode()
    try:
        whole = canonical(user, local)
        entries = SaslDb(path).list()
    except SaslFailure as failure:
        yield f"that can't be a user name: {failure}"
        return
    except TableError as error:
        yield str(error)
        return
    name, realm = (os.fsdecode(part) for part in split_first(whole, local or p["myhostname"].encode()))
    theirs = {entry.name for entry in entries if (entry.user, entry.realm) == (name, realm)}
    if not theirs:
        yield from _elsewhere(
            {(entry.user, entry.realm) for entry in entries}, name, realm, path, bool(local)
        )
        return
    stored = SaslDb(path).get(name, realm)
    hashed = parse(stored) if stored else None
    if stored is None:
        yield (
            f"{path} holds no password in the clear of {printable(name)}@{printable(realm)} (but "
            f"{', '.join(sorted(theirs))}): CRAM-MD5 and DIGEST-MD5 can't be used by this user"
        )
    elif hashed is not None and hashed.scheme != "PLAIN":
        yield (
            f"{path} holds a hash ({hashed.scheme}) of {printable(name)}@{printable(realm)}'s password: only "
            f"{'SCRAM, ' if hashed.scram else ''}PLAIN and LOGIN can use it"
        )


def _elsewhere(users: set[tuple[str, str]], name: str, realm: str, path: str, local: bool) -> Iterator[str]:
    realms = sorted(other for user, other in users if user == name)
    whole = f"{printable(name)}@{printable(realm)}"
    if not realms:
        alike = sorted({user for user, _ in users if user.lower() == name.lower()})
        hint = f"; there is {printable(alike[0])}: names have case" if alike else ""
        yield f"{path} has no user {whole}: mtad saslpasswd -c -u {printable(realm)} {printable(name)}{hint}"
        return
    other = printable(realms[0])
    setting = "change" if local else "set"
    yield (
        f"{path} has {printable(name)} in realm {', '.join(map(printable, realms))}, but the server looks in "
        f"{printable(realm)}: log in as {printable(name)}@{other}, or {setting} smtpd_sasl_local_domain to "
        f"{other}, or mtad saslpasswd -c -u {printable(realm)} {printable(name)}"
    )


def unreachable(path: str, login: str, right: int) -> str:
    """The directory or file that keeps ``login`` from ``path``; empty when nothing does."""
    try:
        account = pwd.getpwnam(login)
    except KeyError:
        return ""
    groups = set(os.getgrouplist(login, account.pw_gid))
    parts = os.path.realpath(path).split("/")
    for count in range(1, len(parts) + 1):
        part = "/".join(parts[:count]) or "/"
        wanted = right if count == len(parts) else os.X_OK
        try:
            status = os.stat(part)
        except OSError:
            return part
        if account.pw_uid == 0:
            continue
        shift = 6 if status.st_uid == account.pw_uid else 3 if status.st_gid in groups else 0
        if not status.st_mode >> shift & wanted:
            return part
    return ""


def _group(path: str) -> str:
    """The group that may use ``path``, if that is a help."""
    try:
        status = os.stat(path)
        if status.st_mode & stat.S_IRWXG and status.st_gid:
            return grp.getgrgid(status.st_gid).gr_name
    except (OSError, KeyError):
        pass
    return ""
