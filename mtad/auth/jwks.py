"""Keys by which a provider signs tokens: JSON Web Key Sets, from a file or from a server.

:class:`FileKeys` reads its file anew when it has changed.  :class:`RemoteKeys` asks its server when the keys
are older than ``mtad_oauth_jwks_time``, and, when a token names a key that it does not know (the provider has
a new one), once in :data:`RETRY` seconds at most; while the server does not answer, the keys that there are
serve on for :data:`STALE` seconds.  Only public keys of asymmetric algorithms are taken.

:meth:`find` raises :class:`~mtad.net.http.HttpError` when no key can be had now; a file that can not be used
at start is a ConfigError.

RFC 7517 (JWK), RFC 7518 section 3.1 (algorithms), RFC 8725.  Postfix counterpart: none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mtad.errors import ConfigError
from mtad.maillog import MailLog, printable
from mtad.net.http import SIZE_LIMIT, HttpClient, HttpError
from mtad.net.shared import SharedWork

#: Seconds between requests that unknown keys or failures cause.
RETRY = 60.0

#: Seconds for which old keys serve on without an answer.
STALE = 24 * 3600.0

#: Most keys of a set, and most that are tried for a token that names none.
KEY_LIMIT = 100
TRIAL_LIMIT = 8

#: What a key must be for an algorithm: its type, and its curve.
_FITTING: dict[str, tuple[str, tuple[str, ...]]] = {
    **{f"{family}{bits}": ("RSA", ()) for family in ("RS", "PS") for bits in (256, 384, 512)},
    "ES256": ("EC", ("P-256",)),
    "ES384": ("EC", ("P-384",)),
    "ES512": ("EC", ("P-521",)),
    "EdDSA": ("OKP", ("Ed25519", "Ed448")),
}
#: The public members of a key.
_PUBLIC = frozenset({"kty", "kid", "use", "alg", "n", "e", "crv", "x", "y"})

#: Smallest RSA key (RFC 7518 section 3.3).
_RSA_BITS = 2048


@dataclass(frozen=True, slots=True)
class Key:
    """A public key.  ``algorithm`` empty: any that fits."""

    id: str
    algorithm: str
    kind: str
    curve: str
    material: Any = field(repr=False)

    def fits(self, algorithm: str) -> bool:
        """Whether a signature by ``algorithm`` may be checked with this key."""
        kind, curves = _FITTING[algorithm]
        return (
            self.algorithm in ("", algorithm) and self.kind == kind and (not curves or self.curve in curves)
        )


class KeySource(Protocol):
    """Where keys come from."""

    async def find(self, id: str, algorithm: str) -> Sequence[Key]:
        """The keys that may have signed a token which names key ``id`` (empty: none)."""


def parse_keys(data: bytes) -> tuple[Key, ...]:
    """The usable keys of a set; raises ValueError when there is none."""
    from jwt import PyJWK
    from jwt.exceptions import PyJWTError

    try:
        listed = json.loads(data)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("not a JSON Web Key Set") from None
    found = []
    for members in listed[:KEY_LIMIT] if isinstance(listed, list) else ():
        if not isinstance(members, dict) or members.get("use", "sig") != "sig":
            continue
        public = {name: value for name, value in members.items() if name in _PUBLIC}
        if public.get("kty") not in ("RSA", "EC", "OKP") or not all(
            isinstance(v, str) for v in public.values()
        ):
            continue
        try:
            material = PyJWK(public).key
        except (PyJWTError, ValueError, TypeError):
            continue
        if getattr(material, "key_size", _RSA_BITS) < _RSA_BITS and public["kty"] == "RSA":
            continue
        found.append(
            Key(public.get("kid", ""), public.get("alg", ""), public["kty"], public.get("crv", ""), material)
        )
    if not found:
        raise ValueError("no usable key in the set")
    return tuple(found)


def _select(keys: Sequence[Key], id: str, algorithm: str) -> list[Key]:
    fitting = [key for key in keys if key.fits(algorithm) and (not id or key.id == id)]
    return fitting[:TRIAL_LIMIT]


class FileKeys:
    """The keys of a file."""

    def __init__(self, path: str, log: MailLog) -> None:
        self._path = path
        self._log = log
        self._stamp: tuple[int, int, int] | None = None
        try:
            self._stamp = self._changed()
            self._keys = self._read()
        except OSError as problem:
            raise ConfigError(f"cannot read: {problem.strerror}", path=path) from problem
        except ValueError as problem:
            raise ConfigError(str(problem), path=path) from problem

    async def find(self, id: str, algorithm: str) -> Sequence[Key]:
        try:
            stamp = self._changed()
            if stamp != self._stamp:
                self._stamp = stamp
                self._keys = self._read()
        except (OSError, ValueError) as problem:
            self._log.warning(f"{self._path}: {problem}; the keys read before serve on")
        return _select(self._keys, id, algorithm)

    def _changed(self) -> tuple[int, int, int]:
        status = os.stat(self._path)
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> tuple[Key, ...]:
        with open(self._path, "rb") as file:
            return parse_keys(file.read(SIZE_LIMIT))


class RemoteKeys:
    """The keys that a server gives."""

    def __init__(
        self, url: str, http: HttpClient, keep: float, log: MailLog, clock: Callable[[], float]
    ) -> None:
        self._url = url
        self._http = http
        self._keep = keep
        self._log = log
        self._clock = clock
        self._keys: tuple[Key, ...] = ()
        self._got = 0.0
        self._asked = 0.0
        self._problem: HttpError | None = None
        self._fetch = SharedWork(self._ask)

    async def find(self, id: str, algorithm: str) -> Sequence[Key]:
        now = self._clock()
        if (not self._keys or now - self._got > self._keep) and self._may_ask(now):
            await self._fetch()
        found = _select(self._keys, id, algorithm)
        if not found and self._keys and self._may_ask(now):
            await self._fetch()
            found = _select(self._keys, id, algorithm)
        if self._problem is not None and (not self._keys or now - self._got > self._keep + STALE):
            raise self._problem
        return found

    def _may_ask(self, now: float) -> bool:
        wait = RETRY if self._keys else 1.0  # nobody can log in: the first keys are asked for more often
        return not self._asked or abs(now - self._asked) >= wait

    async def _ask(self) -> None:
        """Get the keys; a failure is kept, and logged."""
        try:
            answer = await self._http.get(self._url)
            if answer.status != 200:
                raise HttpError(f"{answer.where} answered {answer.status}")
            try:
                self._keys = parse_keys(answer.body)
            except ValueError as problem:
                raise HttpError(f"{answer.where}: {problem}") from problem
            self._got = self._clock()
            self._problem = None
        except HttpError as problem:
            self._problem = problem
            self._log.warning(f"keys of bearer tokens: {printable(str(problem))}")
        finally:
            self._asked = self._clock()
