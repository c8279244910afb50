"""Is a certificate for this name?

:func:`matching` says whether a certificate has a name that is wanted, :func:`name_matches` compares one,
:func:`subject_of` and :func:`issuer_of` give names whole; nothing is raised.

RFC 6125 section 6.4, RFC 9525.  Postfix counterpart: OpenSSL's ``X509_check_host()`` and
``X509_check_ip()``, as ``tls_client.c`` uses them.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from cryptography import x509
from cryptography.x509.oid import NameOID


def subject_of(certificate: x509.Certificate) -> x509.Name:
    """Whom a certificate is for; empty where that can not be read, as of some with Latin-1 in them."""
    try:
        return certificate.subject
    except ValueError:
        return x509.Name(())


def issuer_of(certificate: x509.Certificate) -> x509.Name:
    """Who has issued it, likewise."""
    try:
        return certificate.issuer
    except ValueError:
        return x509.Name(())


def matching(certificate: x509.Certificate, wanted: Sequence[str], address: str = "") -> str | None:
    """The certificate's name that is one of ``wanted``; empty where no name is wanted, but ``address``, and
    the certificate has that.  None: the certificate is for somebody else.  Who wants both gets no less."""
    names, addresses = _names(certificate)
    if address and str(ip_address(address)) not in addresses:
        return None
    if not wanted:
        return "" if address else None
    for each in wanted:
        for name in names:
            if name_matches(name, each):
                return name
    return None


def _names(certificate: x509.Certificate) -> tuple[list[str], list[str]]:
    """The host names of a certificate, common names where subjectAltName has none; and its addresses."""
    names: list[str] = []
    addresses: list[str] = []
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = extension.value.get_values_for_type(x509.DNSName)
        addresses = [str(address) for address in extension.value.get_values_for_type(x509.IPAddress)]
    except (x509.ExtensionNotFound, ValueError):
        pass
    if not names:
        found = subject_of(certificate).get_attributes_for_oid(NameOID.COMMON_NAME)
        names = [attribute.value for attribute in found if isinstance(attribute.value, str)]
    return names, addresses


def name_matches(presented: str, wanted: str) -> bool:
    """Does a certificate's name fit ``wanted``?  RFC 6125 section 6.4.

    ``.example.com`` wants any name below it.  ``*`` may be the whole leftmost label of a presented name with
    two more labels at least, and stands for one label.
    """
    presented, wanted = presented.lower(), wanted.lower()
    if not presented or "\0" in presented:
        return False
    if wanted.startswith("."):
        return presented.endswith(wanted) and len(presented) > len(wanted)
    if not presented.startswith("*."):
        return presented == wanted
    suffix = presented[1:]
    if "*" in suffix or suffix.count(".") < 2 or not wanted.endswith(suffix):
        return False
    stands_for = wanted[: -len(suffix)]
    return bool(stands_for) and "." not in stands_for
