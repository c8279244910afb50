"""The plug-in ``ldapdb``: secrets (``auxprop_plugin``) from a directory, as the user whom they belong to.

Options as Cyrus has them: ``ldapdb_uri`` (several by blanks), ``ldapdb_id`` and ``ldapdb_pw`` (who logs in
to the directory), ``ldapdb_mech`` (the SASL mechanism for that; without it the best one that the directory
offers, or a simple bind where ``ldapdb_id`` is a DN), ``ldapdb_starttls`` (``try``, ``demand``).  Each
question is asked with the proxy authorization control (RFC 4370) for ``u:user``, so that the directory itself
maps the name to an entry and says who may read it.

With ``canon_user_plugin: ldapdb`` it says what a user's canonical name is, too: ``ldapdb_canon_attr`` of the
entry.

Needs the package python-ldap (ConfigError without it).  Questions are asked in threads; a directory that
can't be asked is :class:`~mtad.errors.TableError`.

Postfix counterpart: libsasl's ``plugins/ldapdb.c``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from mtad.auth.names import WHITE, printable_name
from mtad.auth.offload import offload
from mtad.config.sasl_conf import SaslConf
from mtad.errors import ConfigError, TableError
from mtad.maillog import MailLog, printable
from mtad.sasl.mechanism import Reason, SaslFailure
from mtad.tables.blocking import IdlePool, Lane
from mtad.tables.table import is_utf8

T = TypeVar("T")

#: Connections at a time, and seconds to wait for an answer.
CONCURRENCY = 4
TIMEOUT = 10

_STARTTLS = ("", "try", "demand")


class Ldapdb:
    """The directory that ``conf`` names."""

    def __init__(self, conf: SaslConf, log: MailLog) -> None:
        self._uri = conf.get("ldapdb_uri") or ""
        if not self._uri:
            raise ConfigError("the plug-in ldapdb needs ldapdb_uri", path=conf.path, remedy="set ldapdb_uri")
        self._id, self._password = conf.get("ldapdb_id") or "", conf.get("ldapdb_pw") or ""
        self._mechanism = conf.get("ldapdb_mech") or ""
        self._canon = conf.get("ldapdb_canon_attr") or ""
        self._starttls = (conf.get("ldapdb_starttls") or "").lower()
        if self._starttls not in _STARTTLS:
            raise ConfigError(
                f"ldapdb_starttls: {self._starttls}", path=conf.path, remedy="set it to try or demand"
            )
        try:
            import ldap
            import ldap.controls.simple
            import ldap.sasl
        except ImportError as error:
            raise ConfigError(
                "the plug-in ldapdb needs the package python-ldap",
                path=conf.path,
                remedy='pip install "mtad[ldap]"',
            ) from error
        self._ldap = ldap
        self._log = log
        self._lane = Lane(self._uri, CONCURRENCY)
        self._idle: IdlePool[Any] = IdlePool(self._close)

    async def fetch(self, user: bytes, properties: Iterable[str]) -> dict[str, bytes]:
        names = tuple(properties)
        if not is_utf8(user):
            return {}
        return await self._do(lambda connection: self._read(connection, user, names))

    async def replace(self, user: bytes, name: str, old: bytes, new: bytes) -> bool:
        return await self._do(lambda connection: self._exchange(connection, user, name, old, new))

    async def store(self, user: bytes, values: Mapping[str, bytes]) -> None:
        await self._do(lambda connection: self._write(connection, user, values))

    async def canonical(self, user: bytes) -> bytes:
        """The canonical name; raises :class:`SaslFailure` for users whom the directory does not know."""
        name = user.strip(WHITE)
        if not name:
            raise SaslFailure(Reason.FAIL, "All-whitespace username.")
        found = await self.fetch(name, (self._canon,)) if b"\0" not in name else {}
        if not found:
            raise SaslFailure(Reason.BADAUTH, f"ldapdb: no {self._canon} of {printable_name(name)}")
        return found[self._canon]

    async def _do(self, work: Callable[[Any], T]) -> T:
        try:
            return await offload(self._lane, lambda: self._in_session(work))
        except TableError as error:
            self._log.warning(f"SASL authentication problem: ldapdb plugin: {printable(str(error))}")
            raise

    def _in_session(self, work: Callable[[Any], T]) -> T:
        connection = self._idle.take()
        used = connection is not None
        try:
            try:
                connection = connection or self._connect()
                result = work(connection)
            except self._ldap.SERVER_DOWN:
                if not used:
                    raise
                self._close(connection)
                self._idle.clear()
                connection = None
                connection = self._connect()
                result = work(connection)
        except BaseException as error:
            if connection is not None:
                self._close(connection)
            if isinstance(error, self._ldap.LDAPError):
                raise TableError(f"{self._uri}: {_reason(error)}") from error
            raise
        self._idle.give(connection)
        return result

    def _connect(self) -> Any:
        ldap = self._ldap
        connection = ldap.initialize(self._uri)
        try:
            connection.set_option(ldap.OPT_PROTOCOL_VERSION, 3)
            connection.set_option(ldap.OPT_NETWORK_TIMEOUT, TIMEOUT)
            connection.set_option(ldap.OPT_TIMEOUT, TIMEOUT)
            connection.set_option(ldap.OPT_REFERRALS, 0)
            if self._starttls:
                self._start_tls(connection)
            if self._mechanism or "=" not in self._id:
                answers = {ldap.sasl.CB_AUTHNAME: self._id, ldap.sasl.CB_PASS: self._password}
                mechanism = self._mechanism or self._best(connection)
                connection.sasl_interactive_bind_s("", ldap.sasl.sasl(answers, mechanism))
            else:
                connection.simple_bind_s(self._id, self._password)
        except BaseException:
            self._close(connection)
            raise
        return connection

    def _best(self, connection: Any) -> str:
        """What the directory offers, as libsasl takes the best of it; by a ticket only without a password."""
        found = connection.search_ext_s("", self._ldap.SCOPE_BASE, attrlist=["supportedSASLMechanisms"])
        offered = [name.decode() for _, each in found for names in each.values() for name in names]
        return " ".join(name for name in offered if not (self._password and name.startswith("GS")))

    def _start_tls(self, connection: Any) -> None:
        try:
            connection.start_tls_s()
        except self._ldap.LDAPError:
            if self._starttls == "demand":
                raise

    def _entry(self, connection: Any, user: bytes) -> tuple[str, list[Any]] | None:
        """The user's DN as the directory knows it, and the control to act as the user; None for nobody."""
        ldap = self._ldap
        controls = [ldap.controls.simple.ProxyAuthzControl(True, b"u:" + user)]
        try:
            # unlike all others, this function takes controls as the library has them
            name = connection.whoami_s(serverctrls=ldap.controls.RequestControlTuples(controls))
        except (ldap.PROXIED_AUTHORIZATION_DENIED, ldap.INSUFFICIENT_ACCESS, ldap.NO_SUCH_OBJECT):
            return None
        return (name[3:], controls) if name and name.startswith("dn:") and len(name) > 3 else None

    def _read(self, connection: Any, user: bytes, names: tuple[str, ...]) -> dict[str, bytes]:
        ldap = self._ldap
        entry = self._entry(connection, user)
        if entry is None:
            return {}
        dn, controls = entry
        try:
            number = connection.search_ext(
                dn, ldap.SCOPE_BASE, "(objectClass=*)", list(names), serverctrls=controls, timeout=TIMEOUT
            )
            _, found, _, _ = connection.result3(number, all=1, timeout=TIMEOUT)
        except ldap.NO_SUCH_OBJECT:
            return {}
        values = {name.lower(): many for _, attributes in found for name, many in (attributes or {}).items()}
        return {name: values[name.lower()][0] for name in names if values.get(name.lower())}

    def _write(self, connection: Any, user: bytes, values: Mapping[str, bytes]) -> None:
        entry = self._entry(connection, user)
        if entry is None:
            raise TableError("no such user to store secrets of")
        dn, controls = entry
        changes = [(self._ldap.MOD_REPLACE, name, [value]) for name, value in values.items()]
        connection.modify_ext_s(dn, changes, serverctrls=controls)

    def _exchange(self, connection: Any, user: bytes, name: str, old: bytes, new: bytes) -> bool:
        ldap = self._ldap
        entry = self._entry(connection, user)
        if entry is None:
            return False
        dn, controls = entry
        changes = [(ldap.MOD_DELETE, name, [old]), (ldap.MOD_ADD, name, [new])]
        try:
            connection.modify_ext_s(dn, changes, serverctrls=controls)
        except ldap.NO_SUCH_ATTRIBUTE:
            return False
        return True

    def _close(self, connection: Any) -> None:
        try:
            connection.unbind_ext()
        except self._ldap.LDAPError:
            pass  # gone already


def _reason(error: Any) -> str:
    """The library's words."""
    details = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    text = str(details.get("desc", error))
    return f"{text} ({details['info']})" if details.get("info") else text
