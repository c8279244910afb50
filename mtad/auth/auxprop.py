"""Auxiliary properties: secrets by user, from ``auxprop_plugin``'s stores in order.

A *store* (:class:`Auxprop`) gives the properties that exist of a user, and can change them;
:class:`Chain` asks several.  :class:`AuxpropVerifier` checks plain passwords against ``userPassword``
(in the clear or hashed, :mod:`mtad.auth.hashes`) or ``cmusaslsecretPLAIN``; mechanisms ask the store for
the secrets that they need.

Postfix counterpart: ``libsasl``'s auxprop plug-ins and ``auxprop_verify_password``.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

from mtad.auth.checkers import Verdict
from mtad.auth.hashes import Hash, HashError, parse, verify
from mtad.auth.names import printable_name, split_first
from mtad.auth.offload import HASHES, offload
from mtad.errors import TableError
from mtad.maillog import MailLog
from mtad.sasl.saslprep import prepare
from mtad.tables.blocking import Lane
from mtad.tables.sasldb import SaslDb

_SALT_SIZE = 16

PASSWORD = "userPassword"
SCRAM = "authPassword"


class Auxprop(Protocol):
    """A store of secrets.  All raise :class:`TableError`, its reason logged, when it can't be asked now."""

    async def fetch(self, user: bytes, properties: Iterable[str]) -> dict[str, bytes]:
        """Those of the properties that the canonical ``user`` has."""

    async def replace(self, user: bytes, name: str, old: bytes, new: bytes) -> bool:
        """Durably set a property that still is ``old`` to ``new``; whether it was."""

    async def store(self, user: bytes, values: Mapping[str, bytes]) -> None:
        """Durably set properties of a user, who may be new."""


class SasldbAuxprop:
    """``auxprop_plugin: sasldb``.  A file that does not exist holds no users."""

    def __init__(self, path: str, default_realm: bytes, log: MailLog) -> None:
        self._path = path
        self._db = SaslDb(path)
        self._default_realm = default_realm
        self._log = log
        self._lane = Lane(path, 1)

    async def fetch(self, user: bytes, properties: Iterable[str]) -> dict[str, bytes]:
        name, realm = self._owner(user)
        found = {}
        try:
            for prop in properties:
                value = self._db.get(name, realm, prop)
                if value is not None:
                    found[prop] = value
        except TableError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return {}
            self._complain("open", error)
            raise
        return found

    async def replace(self, user: bytes, name: str, old: bytes, new: bytes) -> bool:
        owner = self._owner(user)
        try:
            return await offload(self._lane, lambda: SaslDb(self._path).replace(*owner, name, old, new))
        except TableError as error:
            self._complain("write to", error)
            raise

    async def store(self, user: bytes, values: Mapping[str, bytes]) -> None:
        owner = self._owner(user)
        try:
            await offload(self._lane, lambda: SaslDb(self._path).change(*owner, values))
        except TableError as error:
            self._complain("write to", error)
            raise

    def _owner(self, user: bytes) -> tuple[str, str]:
        name, realm = split_first(user, self._default_realm)
        return name.decode("utf-8", "surrogateescape"), realm.decode("utf-8", "surrogateescape")

    def _complain(self, what: str, error: TableError) -> None:
        cause = error.__cause__
        why = cause.strerror if isinstance(cause, OSError) else error
        self._log.warning(f"SASL authentication problem: unable to {what} Berkeley db {self._path}: {why}")


class Chain:
    """Several stores in order: of each property the first one counts that has it."""

    def __init__(self, stores: Sequence[Auxprop]) -> None:
        self.stores = tuple(stores)

    async def fetch(self, user: bytes, properties: Iterable[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        wanted = tuple(properties)
        problem: TableError | None = None
        for store in self.stores:
            missing = [name for name in wanted if name not in found]
            if not missing:
                break
            try:
                found |= await store.fetch(user, missing)
            except TableError as error:
                problem = error
        if problem is not None and not found:
            raise problem
        return found

    async def replace(self, user: bytes, name: str, old: bytes, new: bytes) -> bool:
        for store in self.stores:
            if name in await store.fetch(user, (name,)):
                return await store.replace(user, name, old, new)
        return False

    async def store(self, user: bytes, values: Mapping[str, bytes]) -> None:
        problem: TableError | None = None
        for store in self.stores:
            try:
                await store.store(user, values)
                return
            except TableError as error:
                problem = error
        if problem is not None:
            raise problem


class Readable:
    """What mechanisms see of a store: passwords that are stored as hashes are not passwords.

    What a mechanism can use of a hash it gets (SCRAM keys, as ``authPassword``); for the rest the log says
    why there is nothing.
    """

    def __init__(self, store: Auxprop, log: MailLog) -> None:
        self._store = store
        self._log = log

    async def fetch(self, user: bytes, properties: Iterable[str]) -> dict[str, bytes]:
        wanted = tuple(properties)
        found = await self._store.fetch(user, wanted)
        password = found.get(PASSWORD)
        hashed = parse(password) if password else None
        if hashed is None:
            return found
        if hashed.scheme == "PLAIN":
            return found | {PASSWORD: hashed.value}
        del found[PASSWORD]
        if hashed.scram and SCRAM in wanted:
            return {SCRAM: hashed.scram} | found
        if SCRAM not in found:
            self._log.warning(
                f"SASL authentication problem: the password of {printable_name(user)} is stored as a hash "
                f"({hashed.scheme}): only PLAIN and LOGIN can use it"
            )
        return found

    async def replace(self, user: bytes, name: str, old: bytes, new: bytes) -> bool:
        return await self._store.replace(user, name, old, new)

    async def store(self, user: bytes, values: Mapping[str, bytes]) -> None:
        await self._store.store(user, values)


class AuxpropVerifier:
    """``pwcheck_method: auxprop``."""

    name = "auxprop"

    def __init__(self, store: Auxprop, log: MailLog) -> None:
        self._store = store
        self._log = log
        self._usual: Hash | None = None  # for users who do not exist: they take as long as the others

    async def verify(self, user: bytes, password: bytes, address: str = "") -> Verdict:
        try:
            stored = (await self._store.fetch(user, (PASSWORD,))).get(PASSWORD)
            hashed = parse(stored) if stored else None
            if hashed is not None:
                verdict = await self._hashed(user, hashed, password)
                if verdict is not Verdict.BAD_PASSWORD:
                    return verdict
            elif stored and _same(stored, password):
                return Verdict.OK
            # in any case, so that a wrong name costs as many questions as a wrong password
            others = await self._store.fetch(user, ("cmusaslsecretPLAIN", SCRAM))
            salted = others.get("cmusaslsecretPLAIN")
            if salted is not None and hmac.compare_digest(salted, salted_secret(salted, password)):
                return Verdict.OK
            scram = parse(b"{SCRAM}" + others[SCRAM]) if not stored and SCRAM in others else None
            if scram is not None:
                return await self._hashed(user, scram, password)
            if stored is None and salted is None:
                if self._usual is not None:
                    await offload(HASHES, partial(verify, self._usual, password))
                return Verdict.NO_USER
        except TableError:
            return Verdict.DOWN
        except HashError:
            return Verdict.BAD_PASSWORD
        return Verdict.BAD_PASSWORD

    async def _hashed(self, user: bytes, hashed: Hash, password: bytes) -> Verdict:
        try:
            if hashed.slow:
                self._usual = hashed
                right = await offload(HASHES, partial(verify, hashed, password))
            else:
                right = verify(hashed, password)
        except HashError as error:
            self._log.warning(
                f"SASL authentication problem: the password of {printable_name(user)} can not be "
                f"checked: {error}"
            )
            return Verdict.DOWN
        return Verdict.OK if right else Verdict.BAD_PASSWORD


def _same(stored: bytes, password: bytes) -> bool:
    """Equal, or equal by SASLprep: keyboards differ in how they write a character."""
    return hmac.compare_digest(stored, password) or hmac.compare_digest(prepare(stored), prepare(password))


def salted_secret(salt: bytes, password: bytes) -> bytes:
    """The ``cmusaslsecretPLAIN`` of ``password``; ``salt`` may be such a secret itself."""
    salt = salt[:_SALT_SIZE]
    return salt + b"\0" + hashlib.md5(salt + b"sasldb" + password, usedforsecurity=False).digest()
