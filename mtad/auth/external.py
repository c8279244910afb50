"""EXTERNAL: the login that a client's certificate stands for.

:class:`CertificateLogins` asks ``mtad_external_login_maps`` by the fingerprint of the certificate, of its
key, by ``email:`` and each of its addresses, ``subject:`` and its subject (RFC 4514), ``cn:`` and its common
name; the first answer counts.  Where no table knows it, ``mtad_external_login_names`` tells what in a
certificate is itself a login (``email``, ``cn``, ``subject``).  Neither is set by default: whoever may sign
certificates could sign himself a login.

Raises ConfigError at start and :class:`~mtad.errors.TableError` when a table can't tell now.
"""

from __future__ import annotations

from collections.abc import Iterator

from mtad.config.parameters import Parameters
from mtad.net.tls_channel import Certificate
from mtad.tables.maps import Maps

MAPS, NAMES = "mtad_external_login_maps", "mtad_external_login_names"


class CertificateLogins:
    """See the module.  False when no certificate is a login."""

    def __init__(self, p: Parameters) -> None:
        self._maps = Maps(p[MAPS], p.directory, title=MAPS)
        self._names = p.words(NAMES)

    def __bool__(self) -> bool:
        return bool(self._maps) or bool(self._names)

    async def login(self, certificate: Certificate) -> bytes:
        """The login, or nothing."""
        if self._maps:
            for key in dict.fromkeys(_keys(certificate)):
                value = await self._maps.lookup(key.encode())
                if value:
                    return value
        for name in self._names:
            match name:
                case "email" if certificate.emails:
                    return certificate.emails[0].encode()
                case "cn" if certificate.common_name:
                    return certificate.common_name.encode()
                case "subject" if certificate.subject:
                    return certificate.subject.encode()
        return b""


def _keys(certificate: Certificate) -> Iterator[str]:
    """Of different kinds, none can be taken for another: the names are what the certificate's owner liked."""
    yield certificate.fingerprint
    yield certificate.key_fingerprint
    yield from (f"email:{address}" for address in certificate.emails)
    if certificate.subject:
        yield f"subject:{certificate.subject}"
    if certificate.common_name:
        yield f"cn:{certificate.common_name}"
