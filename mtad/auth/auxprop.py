"""Auxiliary properties: secrets by user, from Cyrus' ``sasldb2``.

A *store* gives the properties that exist of a user; :class:`AuxpropVerifier` checks plain
passwords against ``userPassword`` (plain text; hashes are not understood there) or
``cmusaslsecretPLAIN``; mechanisms ask the store for the secrets that they need.

Postfix counterpart: ``libsasl``'s auxprop plug-ins and ``auxprop_verify_password``.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Protocol

from mtad.auth.checkers import Verdict
from mtad.auth.names import split_first
from mtad.errors import TableError
from mtad.maillog import MailLog
from mtad.tables.sasldb import SaslDb

_SALT_SIZE = 16


class Auxprop(Protocol):
    """A store of secrets."""

    async def fetch(self, user: bytes, properties: Iterable[str]) -> dict[str, bytes]:
        """Those of the properties that the canonical ``user`` has.

        Raises :class:`TableError`, its reason logged, when the store can not tell now.
        """


class SasldbAuxprop:
    """``auxprop_plugin: sasldb``.  A file that does not exist holds no users."""

    def __init__(self, path: str, default_realm: bytes, log: MailLog) -> None:
        self._path = path
        self._db = SaslDb(path)
        self._default_realm = default_realm
        self._log = log

    async def fetch(self, user: bytes, properties: Iterable[str]) -> dict[str, bytes]:
        name, realm = (
            part.decode("utf-8", "surrogateescape") for part in split_first(user, self._default_realm)
        )
        found = {}
        try:
            for prop in properties:
                value = self._db.get(name, realm, prop)
                if value is not None:
                    found[prop] = value
        except TableError as error:
            cause = error.__cause__
            if isinstance(cause, FileNotFoundError):
                return {}
            why = cause.strerror if isinstance(cause, OSError) else error
            self._log.warning(f"SASL authentication problem: unable to open Berkeley db {self._path}: {why}")
            raise
        return found


class AuxpropVerifier:
    """``pwcheck_method: auxprop``."""

    name = "auxprop"

    def __init__(self, store: Auxprop) -> None:
        self._store = store

    async def verify(self, user: bytes, password: bytes) -> Verdict:
        try:
            secrets = await self._store.fetch(user, ("userPassword",))
            stored = secrets.get("userPassword")
            if stored and hmac.compare_digest(stored, password):
                return Verdict.OK
            salted = (await self._store.fetch(user, ("cmusaslsecretPLAIN",))).get("cmusaslsecretPLAIN")
        except TableError:
            return Verdict.DOWN
        if salted is not None and hmac.compare_digest(salted, salted_secret(salted, password)):
            return Verdict.OK
        return Verdict.NO_USER if stored is None and salted is None else Verdict.BAD_PASSWORD


def salted_secret(salt: bytes, password: bytes) -> bytes:
    """The ``cmusaslsecretPLAIN`` of ``password``; ``salt`` may be such a secret itself."""
    salt = salt[:_SALT_SIZE]
    return salt + b"\0" + hashlib.md5(salt + b"sasldb" + password, usedforsecurity=False).digest()
