"""The few things that pyOpenSSL's public interface does not offer, in one place.

Everything here goes through the binding that pyOpenSSL itself stands on
(``SSL._lib``, ``SSL._ffi``); no other module of mtad touches it.  Each function
says in OpenSSL's own terms what it does.  What a binding lacks is left out:
the callers get ``0``, ``""`` or ``False`` and do without.

Postfix counterpart: the direct OpenSSL calls in ``tls_misc.c``, ``tls_verify.c``.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from OpenSSL import SSL, crypto

_ssl: Any = SSL
_lib, _ffi = _ssl._lib, _ssl._ffi

#: ``X509_V_OK`` and the results with a log text of their own
VERIFY_OK = 0
VERIFY_UNSPECIFIED = 1
VERIFY_NOT_YET_VALID = 9
VERIFY_EXPIRED = 10
VERIFY_SELF_SIGNED = 18
VERIFY_SELF_SIGNED_IN_CHAIN = 19
VERIFY_NO_ISSUER = 20
VERIFY_NO_LEAF_ISSUER = 21
VERIFY_CHAIN_TOO_LONG = 22
VERIFY_WRONG_PURPOSE = 26
VERIFY_HOSTNAME_MISMATCH = 62
VERIFY_ADDRESS_MISMATCH = 64
VERIFY_DANE_NO_MATCH = 65

_PURPOSE_SERVER = 2  # X509_PURPOSE_SSL_SERVER
_NAME_SIZE = 256  # Postfix: CCERT_BUFSIZ

#: What becomes of a client's server name: accepted; the handshake fails; as if none had been sent.
NAME_ACCEPTED, NAME_FATAL, NAME_IGNORED = 0, 2, 3

_HANDSHAKE = 22  # content type of handshake messages (RFC 8446 section 5.1)
_CERTIFICATE_VERIFY = 15  # RFC 8446 section 4.4.3

#: hash in a TLS 1.3 signature scheme (RFC 8446 section 4.2.3); Ed25519 and Ed448 have none
_SCHEME_DIGEST = {
    0x0403: "SHA256", 0x0503: "SHA384", 0x0603: "SHA512", 0x0203: "SHA1",
    0x0804: "SHA256", 0x0805: "SHA384", 0x0806: "SHA512",
    0x0809: "SHA256", 0x080A: "SHA384", 0x080B: "SHA512",
    0x081A: "SHA256", 0x081B: "SHA384", 0x081C: "SHA512",
}  # fmt: skip


def _callback(signature: str, error: int | None = None) -> Callable[[Callable[..., object]], Any]:
    """Makes a C function of that type; it gives ``error`` where ours raises."""
    make: Callable[[Callable[..., object]], Any] = _ffi.callback(signature, error=error)
    return make


@dataclass(frozen=True, slots=True)
class ChainError:
    """What is wrong with the peer's chain, at ``depth``; ``issuer`` is of the certificate there."""

    code: int
    depth: int
    issuer: str


class Connection(SSL.Connection):
    """An :class:`OpenSSL.SSL.Connection` that remembers the digests of the handshake's signatures, and what
    is wrong with the peer's chain."""

    #: of several errors the one that is nearest to the peer's own certificate
    chain_error: ChainError | None = None
    #: called for each certificate of the chain with its depth, whether it is good, and its subject
    on_certificate: Callable[[int, bool, str], None] | None = None
    #: called for each step of the handshake with OpenSSL's where, return value and words (:func:`hear_steps`)
    on_step: Callable[[Connection, int, int, str], None] | None = None

    #: digest names of the signature that we made and of the one that the peer made (TLS 1.3)
    local_digest = ""
    peer_digest = ""
    #: called with the name that a client asks for (see :func:`hear_names`); gives one of ``NAME_*``
    on_name: Callable[[Connection, bytes], int] | None = None
    #: the name for which there are certificates, if the client has asked for one
    accepted_name = ""


class OpenConnection(Connection):
    """A connection that shows what goes over the wire."""

    #: called with the bytes that the peer has sent (False) and is sent (True)
    on_packet: Callable[[bool, bytes], None] | None = None

    def bio_write(self, buf: bytes | bytearray | memoryview[int]) -> int:
        if self.on_packet is not None:
            self.on_packet(False, bytes(buf))
        return super().bio_write(buf)

    def bio_read(self, bufsiz: int) -> bytes:
        data = super().bio_read(bufsiz)
        if self.on_packet is not None:
            self.on_packet(True, data)
        return data


def incoming(connection: SSL.Connection) -> int:
    """How many bytes the peer has sent that are not decrypted yet."""
    return int(_lib.BIO_get_mem_data(connection._into_ssl, _ffi.NULL))


def outgoing(connection: SSL.Connection) -> int:
    """How many bytes wait to be sent to the peer."""
    return int(_lib.BIO_get_mem_data(connection._from_ssl, _ffi.NULL))


def cipher_bits(connection: SSL.Connection) -> tuple[int, int]:
    """Secret and total key bits of the cipher in use (``SSL_CIPHER_get_bits``)."""
    cipher = _lib.SSL_get_current_cipher(connection._ssl)
    if cipher == _ffi.NULL:
        return 0, 0
    total = _ffi.new("int *")
    return int(_lib.SSL_CIPHER_get_bits(cipher, total)), int(total[0])


def verify_result(connection: SSL.Connection) -> int:
    """The chain's verification result, 0 when it is trusted; a resumed session keeps its first one."""
    return int(_lib.SSL_get_verify_result(connection._ssl))


def verify_text(code: int) -> str:
    """OpenSSL's words for a verification result."""
    return str(_ffi.string(_lib.X509_verify_cert_error_string(code)).decode("ascii", "replace"))


def verify_path(
    leaf: x509.Certificate, others: Sequence[x509.Certificate], anchor: x509.Certificate
) -> tuple[int, int]:
    """Whether there is a valid path from a server's certificate to ``anchor``, which is trusted whether or
    not it is a root: 0, or what is wrong, and where in the chain."""
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(anchor))
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    _lib.X509_STORE_set_purpose(store._store, _PURPOSE_SERVER)
    chain = [crypto.X509.from_cryptography(each) for each in others]
    try:
        crypto.X509StoreContext(store, crypto.X509.from_cryptography(leaf), chain).verify_certificate()
    except crypto.X509StoreContextError as error:
        return int(error.errors[0]), int(error.errors[1])
    return VERIFY_OK, 0


def session_reused(connection: SSL.Connection) -> bool:
    """Whether the handshake resumed an earlier session."""
    return bool(_lib.SSL_session_reused(connection._ssl))


def group_name(connection: SSL.Connection) -> str:
    """Name of the key-exchange group, e.g. ``x25519``; empty where it cannot be known."""
    name = _lib.SSL_get0_group_name(connection._ssl) if hasattr(_lib, "SSL_get0_group_name") else _ffi.NULL
    return "" if name == _ffi.NULL else str(_ffi.string(name).decode("ascii", "replace"))


def set_groups(context: SSL.Context, names: bytes) -> bool:
    """Set the key-exchange groups in order of preference; False: OpenSSL knows none of them."""
    done = bool(_lib.SSL_CTX_set1_curves_list(context._context, names) == 1)
    if not done:
        clear_errors()
    return done


def set_dh(context: SSL.Context, pem: bytes) -> bool:
    """Set the parameters of ephemeral Diffie-Hellman (up to TLS 1.2); False: OpenSSL does not take them."""
    buffer = _ffi.new("char[]", pem)
    bio = _ffi.gc(_lib.BIO_new_mem_buf(buffer, len(pem)), _lib.BIO_free)
    dh = _lib.PEM_read_bio_DHparams(bio, _ffi.NULL, _ffi.NULL, _ffi.NULL)
    done = dh != _ffi.NULL and _lib.SSL_CTX_set_tmp_dh(context._context, _ffi.gc(dh, _lib.DH_free)) == 1
    if not done:
        clear_errors()
    return bool(done)


@_callback("int (*)(SSL *, int *, void *)", error=NAME_FATAL)
def _named(ssl: Any, _alert: Any, _: Any) -> int:
    connection: Any = SSL.Connection._reverse_mapping.get(ssl)
    name = None if connection is None else connection.get_servername()
    if not name or not isinstance(connection, Connection) or connection.on_name is None:
        return NAME_IGNORED
    return connection.on_name(connection, name)


def hear_names(context: SSL.Context) -> None:
    """Have connections of this context called back by the client's server name (``on_name``).

    pyOpenSSL's own callback cannot say that a name is unknown.
    """
    _lib.SSL_CTX_set_tlsext_servername_callback(context._context, _named)


def clear_errors() -> None:
    """Empty OpenSSL's error queue, so that an old error is not taken for a connection's own."""
    while _lib.ERR_get_error():
        pass


def _one_line(name: Any) -> str:
    buffer = _ffi.new("char[]", _NAME_SIZE)
    _lib.X509_NAME_oneline(name, buffer, _NAME_SIZE)
    text = _ffi.string(buffer).decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "?" for char in text)


def peer_subject(connection: SSL.Connection) -> str:
    """Whom the peer's certificate is for, in one line."""
    certificate = connection.get_peer_certificate()
    return "" if certificate is None else _one_line(_lib.X509_get_subject_name(certificate._x509))


@_callback("int (*)(int, X509_STORE_CTX *)", error=1)
def _go_on(ok: int, store_context: Any) -> int:
    """Note what is wrong, and go on to the end of the chain."""
    index = _lib.SSL_get_ex_data_X509_STORE_CTX_idx()
    connection: Any = SSL.Connection._reverse_mapping.get(
        _lib.X509_STORE_CTX_get_ex_data(store_context, index)
    )
    if not isinstance(connection, Connection) or (ok and connection.on_certificate is None):
        return 1
    certificate = _lib.X509_STORE_CTX_get_current_cert(store_context)
    depth = int(_lib.X509_STORE_CTX_get_error_depth(store_context))
    known = connection.chain_error
    if not ok and known is not None and known.depth <= depth:
        _lib.X509_STORE_CTX_set_error(store_context, known.code)
    elif not ok:
        code = int(_lib.X509_STORE_CTX_get_error(store_context))
        issuer = "<unknown>"
        if certificate != _ffi.NULL:
            issuer = _one_line(_lib.X509_get_issuer_name(certificate))
        connection.chain_error = ChainError(code, depth, issuer)
    if connection.on_certificate is not None and certificate != _ffi.NULL:
        connection.on_certificate(depth, bool(ok), _one_line(_lib.X509_get_subject_name(certificate)))
    return 1


def note_chain(context: SSL.Context) -> None:
    """Finish the handshake whatever certificate the server has, and note what is wrong with it."""
    _lib.SSL_CTX_set_verify(context._context, SSL.VERIFY_NONE, _go_on)


@_callback("void (*)(const SSL *, int, int)")
def _step(ssl: Any, where: int, result: int) -> None:
    connection: Any = SSL.Connection._reverse_mapping.get(_ffi.cast("SSL *", ssl))
    if not isinstance(connection, Connection) or connection.on_step is None:
        return
    waits = where & SSL.SSL_CB_EXIT and result < 0
    if waits and _lib.SSL_get_error(ssl, result) in (_lib.SSL_ERROR_WANT_READ, _lib.SSL_ERROR_WANT_WRITE):
        return
    words = _ffi.string(_lib.SSL_state_string_long(ssl)).decode("ascii", "replace")
    connection.on_step(connection, where, result, words)


def hear_steps(connection: Connection) -> None:
    """Have :attr:`Connection.on_step` called."""
    _lib.SSL_set_info_callback(connection._ssl, _step)


def ask_certificate(context: SSL.Context) -> None:
    """Ask the client for a certificate and finish the handshake whatever it sends.

    pyOpenSSL's own verify callback would turn an error it overlooks into ``X509_V_OK``, in the
    session too; here the result stays what OpenSSL found (see :func:`verify_result`).
    """
    _lib.SSL_CTX_set_verify(context._context, SSL.VERIFY_PEER | SSL.VERIFY_CLIENT_ONCE, _go_on)


@_callback("void (*)(int, int, int, void *, size_t, SSL *, void *)")
def _note_signature(sent: int, version: int, content: int, data: Any, length: int, ssl: Any, _: Any) -> None:
    if content != _HANDSHAKE or version != SSL.TLS1_3_VERSION or length < 8:
        return
    head = _ffi.buffer(data, 6)[:]
    if head[0] != _CERTIFICATE_VERIFY:
        return
    connection = _watched.get(int(_ffi.cast("uintptr_t", ssl)))
    if connection is not None:
        digest = _SCHEME_DIGEST.get(int.from_bytes(head[4:6], "big"), "")
        if sent:
            connection.local_digest = digest
        else:
            connection.peer_digest = digest


_watched: weakref.WeakValueDictionary[int, Connection] = weakref.WeakValueDictionary()


def watch_signatures(context: SSL.Context) -> None:
    """Let connections of this context learn the digests of TLS 1.3 signatures."""
    _lib.SSL_CTX_set_msg_callback(context._context, _note_signature)


def watch(connection: Connection) -> None:
    """Take part in :func:`watch_signatures`."""
    _watched[int(_ffi.cast("uintptr_t", connection._ssl))] = connection
