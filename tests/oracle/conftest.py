"""What the dialogues share: a certificate, and houses, one at a time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from oracle.dialogue import Houses

from mtad.net.certificates import make_self_signed


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The names of the files with a certificate and its key."""
    directory = tmp_path_factory.mktemp("certificate")
    names = str(directory / "cert.pem"), str(directory / "key.pem")
    make_self_signed("localhost", *names)
    return names


@pytest.fixture(scope="module")
def houses(certificate: tuple[str, str]) -> Iterator[Houses]:
    """``houses.of(config)`` is that configuration, running in both until another one is asked for."""
    with Houses(certificate) as houses:
        yield houses
