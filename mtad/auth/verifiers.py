"""What a verifier of passwords may be wrapped in: options of ``smtpd.conf`` that concern them all.

:class:`Transition` is ``auto_transition``: a password that another back end has found right is kept in the
auxprop store, in the clear (``yes``) or only as what proves it (``noplain``: SCRAM keys, and where OTP is
among the mechanisms the first secret of a sequence), so that more mechanisms can use it.
:class:`Noted` is ``log_level`` of 4 or more: what each back end said, in the log.  Neither changes a verdict.

Postfix counterpart: ``_sasl_transition`` and ``_sasl_log`` of ``libsasl``.
"""

from __future__ import annotations

import hmac
import secrets
import time
from functools import partial

from mtad.auth.auxprop import PASSWORD, SCRAM, Auxprop
from mtad.auth.checkers import Verdict, Verifier
from mtad.auth.hashes import HashError, parse, verify
from mtad.auth.names import printable_name
from mtad.auth.offload import HASHES, offload
from mtad.errors import TableError
from mtad.maillog import MailLog
from mtad.sasl import otp
from mtad.sasl.saslprep import prepare
from mtad.sasl.scram import auth_password, derive

#: Cyrus' default for ``scram_iteration_counter``.
ROUNDS = 4096

#: Passwords of a new OTP sequence: as many as Cyrus gives.
SEQUENCE = 499

#: ``log_level`` from which on notes are logged.
NOTES = 4


class Transition:
    """Keeps what ``verifier`` has found right."""

    def __init__(
        self,
        verifier: Verifier,
        store: Auxprop,
        log: MailLog,
        plain: bool,
        rounds: int,
        one_time: bool = False,
    ) -> None:
        self.name = verifier.name
        self._verifier = verifier
        self._store = store
        self._log = log
        self._plain = plain
        self._rounds = rounds
        self._one_time = one_time

    async def verify(self, user: bytes, password: bytes, address: str = "") -> Verdict:
        verdict = await self._verifier.verify(user, password, address)
        if verdict is Verdict.OK:
            try:
                await self._keep(user, password)
            except (TableError, HashError) as error:
                self._log.warning(
                    f"SASL authentication problem: auto_transition: the secret of {printable_name(user)} "
                    f"can not be kept: {error}"
                )
        return verdict

    async def _keep(self, user: bytes, password: bytes) -> None:
        kept = await self._store.fetch(user, (PASSWORD, SCRAM))
        if self._plain:
            present = kept.get(PASSWORD)
            if present is None or (parse(present) is None and not hmac.compare_digest(present, password)):
                await self._store.store(user, {PASSWORD: password})
            return
        if PASSWORD in kept:
            return
        keys = parse(b"{SCRAM}" + kept[SCRAM]) if SCRAM in kept else None
        if keys is None or not await offload(HASHES, partial(verify, keys, password)):
            made = await offload(HASHES, partial(scram_keys, password, self._rounds))
            await self._store.store(user, {SCRAM: made})
        if self._one_time and not await self._store.fetch(user, (otp.PROPERTY,)):
            first = await offload(HASHES, partial(otp_secret, password))
            await self._store.store(user, {otp.PROPERTY: first})


class Noted:
    """Logs what ``verifier`` said."""

    def __init__(self, verifier: Verifier, log: MailLog) -> None:
        self.name = verifier.name
        self._verifier = verifier
        self._log = log

    async def verify(self, user: bytes, password: bytes, address: str = "") -> Verdict:
        started = time.monotonic()
        verdict = await self._verifier.verify(user, password, address)
        spent = time.monotonic() - started
        said = "OK" if verdict is Verdict.OK else verdict.value[1]
        self._log.info(
            f"SASL authentication info: {self.name}: {printable_name(user)}: {said} ({spent:.3f}s)"
        )
        return verdict


def scram_keys(password: bytes, rounds: int, salt: bytes | None = None) -> bytes:
    """What ``authPassword`` holds of a password (RFC 5803), for SCRAM-SHA-256."""
    salt = secrets.token_bytes(16) if salt is None else salt
    return auth_password(b"SCRAM-SHA-256", derive("sha256", prepare(password), salt, rounds))


def otp_secret(password: bytes) -> bytes:
    """What ``cmusaslsecretOTP`` holds at the beginning of a sequence, whose phrase is the password."""
    seed = f"mt{secrets.randbelow(9999) + 1:04d}"
    return otp.Secret("md5", SEQUENCE, seed, otp.generate("md5", SEQUENCE, seed, password)).encode()
