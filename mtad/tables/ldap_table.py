"""``ldap:``: a search in an LDAP directory, by OpenLDAP's library, which Postfix uses, too, and the
``python-ldap`` package (extra ``mtad[ldap]``).

Settings as in ``ldap_table(5)``.  The servers in ``server_host`` are tried in their order by the library.
A connection that broke is made anew once; every other failure is a :class:`~mtad.errors.TableError`, never
"not found".  :class:`~mtad.errors.ConfigError` when the package is not installed.

The key is quoted by RFC 4515 in the filter and by RFC 4514 in the search base.  Postfix counterpart:
``dict_ldap(3)``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mtad.errors import ConfigError, TableError
from mtad.tables.blocking import IdlePool
from mtad.tables.ldap_search import BASE, ONE, SUBTREE, Attributes, Entry, Expansion
from mtad.tables.settings import Settings
from mtad.tables.table import Options
from mtad.tables.templated import TemplatedTable

_SCOPES = {"base": BASE, "one": ONE, "sub": SUBTREE}
_BINDS = {"no": "none", "none": "none", "yes": "simple", "simple": "simple", "sasl": "sasl"}

_IN_FILTER = re.compile(r"[*()\\]")
_IN_DN = re.compile(r"[ \t\"#+,;<>\\]")


def _package() -> Any:
    try:
        import ldap
        import ldap.sasl
        import ldapurl  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "unsupported dictionary type: ldap",
            remedy='install the package: pip install "mtad[ldap]" (needs gcc, libldap-dev, libsasl2-dev), '
            "or the distribution's python3-ldap, for a venv with --system-site-packages",
        ) from error
    return ldap


def quote_filter(text: str) -> str:
    """A value in a filter (RFC 4515 section 3)."""
    return _IN_FILTER.sub(_hex, text)


def quote_dn(text: str) -> str:
    """A value in a DN (RFC 4514 section 2.4)."""
    return _IN_DN.sub(_hex, text)


def _hex(match: re.Match[str]) -> str:
    return f"\\{ord(match.group()):02X}"


class LdapTable(TemplatedTable):
    """A directory."""

    def __init__(self, spec: str, options: Options, name: str) -> None:
        self._ldap = _package()
        settings = Settings(options, name)
        super().__init__(spec, options, settings)
        self._timeout = settings.number("timeout", 10)
        scope = settings.text("scope", "sub", empty=False).lower()
        if scope not in _SCOPES:
            self.warn(f"{spec}: Unrecognized value {scope} specified for scope; using sub")
        self._scope = _SCOPES.get(scope, SUBTREE)
        self._base = self.templates.query(settings.text("search_base"))
        self._filter = self.templates.query(settings.text("query_filter", "(mailacceptinggeneralid=%s)"))
        if not self._filter.dynamic:
            self.warn(f"{spec}: Fixed query_filter {settings.text('query_filter')} is probably useless")
        self.set_result(settings.text("result_format") or settings.text("result_filter", "%s", empty=False))
        self._size_limit = settings.number("size_limit", self.expansion_limit)
        for setting in ("cache", "cache_expiry", "cache_size"):
            if settings.given(setting):
                self.warn(f"{spec} ignoring {setting}")
        self._expansion = Expansion(
            settings.name,
            Attributes.read(settings),
            self._size_limit,
            settings.number("recursion_limit", 1000, 1),
            _parse_url,
            self.warn,
        )
        self._read_connection(settings)
        self._read_tls(settings)
        self._connections: IdlePool[Any] = IdlePool(self._close)

    def _read_connection(self, settings: Settings) -> None:
        port = settings.number("server_port", 389)
        self._urls = []
        secure = False
        for host in settings.text("server_host", "localhost", empty=False).replace(",", " ").split():
            secure |= re.match(r"ldap[is]", host, re.IGNORECASE) is not None
            if re.match(r"(ldaps?|ldapi|cldap)://", host, re.IGNORECASE):
                self._urls.append(host)
            else:
                self._urls.append(f"ldap://{host}" if ":" in host else f"ldap://{host}:{port}")
        self._tls = secure
        self._start_tls = settings.flag("start_tls", False)
        self._version = settings.number("version", 2, 2)
        if self._version not in (2, 3):
            self.warn(f"{self.spec} Unknown version {self._version}, using 2.")
            self._version = 2
        if self._version == 2 and (secure or self._start_tls):
            self.warn(f"{self.spec}: TLS and ldapi require protocol version 3")
            self._version = 3
        bind = settings.text("bind", "yes", empty=False)
        if bind.lower() not in _BINDS:
            raise settings.error("bind", f"unsupported parameter value: bind = {bind}")
        self._bind = _BINDS[bind.lower()]
        self._dn, self._password = settings.text("bind_dn"), settings.text("bind_pw")
        self._mechanisms = settings.text("sasl_mechs")
        self._realm, self._authorization = settings.text("sasl_realm"), settings.text("sasl_authz_id")
        self._minimal_ssf = settings.number("sasl_minssf", 0, 0)
        self._dereference = settings.number("dereference", 0)
        if not 0 <= self._dereference <= 3:
            self.warn(
                f"{self.spec} Unrecognized value {self._dereference} specified for dereference; using 0"
            )
            self._dereference = 0
        self._referrals = settings.flag("chase_referrals", False)

    def _read_tls(self, settings: Settings) -> None:
        ldap = self._ldap
        names = {
            "tls_random_file": ldap.OPT_X_TLS_RANDOM_FILE,
            "tls_ca_cert_file": ldap.OPT_X_TLS_CACERTFILE,
            "tls_ca_cert_dir": ldap.OPT_X_TLS_CACERTDIR,
            "tls_cert": ldap.OPT_X_TLS_CERTFILE,
            "tls_key": ldap.OPT_X_TLS_KEYFILE,
            "tls_cipher_suite": ldap.OPT_X_TLS_CIPHER_SUITE,
        }
        self._tls_options = [
            (option, settings.text(name)) for name, option in names.items() if settings.text(name)
        ]
        demand = settings.flag("tls_require_cert", False)
        self._tls_options.append(
            (ldap.OPT_X_TLS_REQUIRE_CERT, ldap.OPT_X_TLS_DEMAND if demand else ldap.OPT_X_TLS_NEVER)
        )

    def get(self, key: bytes) -> bytes | None:
        connection = self._connections.take()
        try:
            if connection is not None:
                try:
                    return self._ask(connection, key)
                except self._ldap.SERVER_DOWN:
                    self._connections.clear()
            return self._ask(self._connect(), key)
        except self._ldap.LDAPError as error:
            raise TableError(f"{self.settings.name}: Search error {_reason(error)}") from error

    def _ask(self, connection: Any, key: bytes) -> bytes | None:
        """What the directory has for ``key``; ``connection`` is kept if it is still good."""
        values = self.values(key)
        base = self._base.fill(values, quote_dn)
        condition = self._filter.fill(values, quote_filter)
        results = self.results(key)
        try:
            found = self._search(connection, base, self._scope, condition, self._expansion.attributes.all)
            if found is None and not self._base.dynamic:
                raise TableError(f"{self.settings.name}: Search base '{base}' not found")
            self._expansion.collect(found or [], results, lambda *what: self._search(connection, *what))
        except BaseException:
            self._close(connection)
            raise
        self._connections.give(connection)
        return results.joined()

    def release(self) -> None:
        super().release()
        self._connections.shut()

    def _search(
        self, connection: Any, base: str, scope: int, condition: str, attributes: Sequence[str]
    ) -> list[Entry] | None:
        number = connection.search_ext(
            base,
            scope,
            condition,
            list(attributes) or None,
            timeout=self._timeout,
            sizelimit=self._size_limit,
        )
        try:
            _, found, _, _ = connection.result3(number, all=1, timeout=self._timeout)
        except self._ldap.NO_SUCH_OBJECT:
            return None
        return [(dn, attributes) for dn, attributes in found if dn is not None]

    def _connect(self) -> Any:
        ldap = self._ldap
        try:
            connection = ldap.initialize(" ".join(self._urls))
        except ldap.LDAPError as error:
            raise TableError(
                f"Unable to init LDAP server {' '.join(self._urls)}: {_reason(error)}"
            ) from error
        try:
            connection.set_option(ldap.OPT_PROTOCOL_VERSION, self._version)
            connection.set_option(ldap.OPT_NETWORK_TIMEOUT, self._timeout)
            connection.set_option(ldap.OPT_TIMEOUT, self._timeout)
            connection.set_option(ldap.OPT_DEREF, self._dereference)
            connection.set_option(ldap.OPT_REFERRALS, int(self._referrals))
            if self._tls or self._start_tls:
                for option, value in self._tls_options:
                    connection.set_option(option, value)
                connection.set_option(ldap.OPT_X_TLS_NEWCTX, 0)
            if self._start_tls:
                connection.start_tls_s()
            self._log_in(connection)
        except ldap.LDAPError as error:
            self._close(connection)
            raise TableError(
                f"{self.settings.name}: Unable to bind to server {' '.join(self._urls)} with dn "
                f"{self._dn or 'empty or implicit'}: {_reason(error)}"
            ) from error
        return connection

    def _log_in(self, connection: Any) -> None:
        ldap = self._ldap
        if self._bind == "simple":
            number = connection.simple_bind(self._dn, self._password)
            connection.result3(number, all=1, timeout=self._timeout)
        elif self._bind == "sasl":
            connection.set_option(ldap.OPT_X_SASL_SECPROPS, f"minssf={self._minimal_ssf}")
            answers = {
                ldap.sasl.CB_AUTHNAME: self._dn,
                ldap.sasl.CB_PASS: self._password,
                ldap.sasl.CB_GETREALM: self._realm,
                ldap.sasl.CB_USER: self._authorization,
            }
            connection.sasl_interactive_bind_s("", ldap.sasl.sasl(answers, self._mechanisms))

    def _close(self, connection: Any) -> None:
        try:
            connection.unbind_ext()
        except self._ldap.LDAPError:
            pass  # gone already


def _parse_url(text: str) -> tuple[str, int, str, list[str]] | None:
    """The search that an LDAP URL stands for."""
    import ldapurl

    if not ldapurl.isLDAPUrl(text):
        return None
    url = ldapurl.LDAPUrl(text)
    scope = BASE if url.scope is None else url.scope
    return url.dn, scope, url.filterstr or "(objectClass=*)", list(url.attrs or ())


def _reason(error: Any) -> str:
    """The library's words."""
    details = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    text = str(details.get("desc", error))
    return f"{text} ({details['info']})" if details.get("info") else text
