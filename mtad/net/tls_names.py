"""Is a certificate for this name?

:func:`certificate_names` reads the names, :func:`name_matches` compares one; nothing is raised.

RFC 6125 section 6.4, RFC 9525.  Postfix counterpart: OpenSSL's ``X509_check_host()``, as ``tls_client.c``
uses it.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.x509.oid import NameOID


def certificate_names(certificate: x509.Certificate) -> list[str]:
    """What a certificate is for: its subjectAltNames, with common names where it has no DNS name."""
    names: list[str] = []
    addresses: list[str] = []
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = extension.value.get_values_for_type(x509.DNSName)
        addresses = [str(address) for address in extension.value.get_values_for_type(x509.IPAddress)]
    except (x509.ExtensionNotFound, ValueError):
        pass
    if not names:
        found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        names = [attribute.value for attribute in found if isinstance(attribute.value, str)]
    return names + addresses


def name_matches(presented: str, wanted: str) -> bool:
    """Does a certificate's name fit ``wanted``?  RFC 6125 section 6.4.

    ``.example.com`` wants any name below it.  ``*`` may be the whole leftmost label of a presented name with
    two more labels at least, and stands for one label.
    """
    presented, wanted = presented.lower().rstrip("."), wanted.lower().rstrip(".")
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
