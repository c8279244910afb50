"""A TLS session as authentication sees it: what binds an exchange to it, and who the peer is by certificate.

:class:`TLSChannel` computes both when they are asked for, and raises nothing: what this session does not
have is None.

``tls-server-end-point`` and ``tls-unique`` (RFC 5929; the latter up to TLS 1.2), ``tls-exporter`` (RFC 9266;
TLS 1.3 only, as earlier versions make it safe by an extension that can't be seen from here).
Postfix counterpart: none for bindings; ``tls_server.c``, ``tls_fprint.c`` for certificates.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from mtad.net import openssl
from mtad.net.tls_info import TLSInfo, peer_certificate
from mtad.net.tls_names import subject_of

_EXPORTER = b"EXPORTER-Channel-Binding"
_EXPORTER_SIZE = 32


@dataclass(frozen=True, slots=True)
class Certificate:
    """A trusted certificate.  ``subject`` is as RFC 4514 writes it; names are in the certificate's order."""

    fingerprint: str
    key_fingerprint: str
    subject: str
    emails: tuple[str, ...]
    common_name: str


class TLSChannel:
    """One session, whose handshake is done; ``server``: we were the server."""

    __slots__ = ("_connection", "_info", "_server")

    def __init__(self, connection: SSL.Connection, info: TLSInfo, *, server: bool) -> None:
        self._connection = connection
        self._info = info
        self._server = server

    @property
    def trusted(self) -> bool:
        """The peer has shown a certificate, and it is trusted."""
        return self._info.peer_present and self._info.trusted

    def binding(self, kind: bytes) -> bytes | None:
        """The channel binding data of that type."""
        match kind:
            case b"tls-exporter" if self._info.protocol == "TLSv1.3":
                return self._connection.export_keying_material(_EXPORTER, _EXPORTER_SIZE, b"")
            case b"tls-unique" if self._info.protocol in ("TLSv1", "TLSv1.1", "TLSv1.2"):
                # of the two Finished messages the first one: the client's, in a resumed session the server's
                ours = self._server == openssl.session_reused(self._connection)
                finished = self._connection.get_finished if ours else self._connection.get_peer_finished
                return finished() or None
            case b"tls-server-end-point":
                return self._end_point()
        return None

    def _end_point(self) -> bytes | None:
        connection = self._connection
        found = (
            connection.get_certificate(as_cryptography=True) if self._server else peer_certificate(connection)
        )
        if not isinstance(found, x509.Certificate):
            return None
        try:
            algorithm = found.signature_hash_algorithm
        except UnsupportedAlgorithm:
            return None
        if algorithm is None:
            return None
        if isinstance(algorithm, hashes.MD5 | hashes.SHA1):
            algorithm = hashes.SHA256()
        return found.fingerprint(algorithm)

    def certificate(self) -> Certificate | None:
        """The peer's certificate, if it is trusted."""
        peer = peer_certificate(self._connection) if self.trusted else None
        if peer is None:
            return None
        return Certificate(
            self._info.fingerprint,
            self._info.key_fingerprint,
            subject_of(peer).rfc4514_string(),
            _emails(peer),
            self._info.peer_cn,
        )


def _emails(certificate: x509.Certificate) -> tuple[str, ...]:
    """The addresses that a certificate is for: of subjectAltName, else of the subject."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        found: list[str] = list(extension.value.get_values_for_type(x509.RFC822Name))
    except (x509.ExtensionNotFound, ValueError):
        found = []
    if not found:
        attributes = subject_of(certificate).get_attributes_for_oid(NameOID.EMAIL_ADDRESS)
        found = [attribute.value for attribute in attributes if isinstance(attribute.value, str)]
    return tuple(email for email in found if email.isprintable() and " " not in email)
