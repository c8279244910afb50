"""Which configuration directory a command works on.

:func:`config_directory`: what ``-c`` gave, else ``$MAIL_CONFIG``, else ``/etc/mtad`` where it has a
``main.cf``, else ``/etc/postfix``.  :func:`load_parameters` reads it; a command that needs no more than
defaults may do without any main.cf, as long as nobody named a directory.  Raises
:class:`~mtad.errors.ConfigError`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from mtad.config.parameters import Parameters

OWN_DIRECTORY = "/etc/mtad"
POSTFIX_DIRECTORY = "/etc/postfix"


def config_directory(given: str | None = None) -> str:
    """The directory that counts."""
    directory = given or os.environ.get("MAIL_CONFIG")
    if directory:
        return directory
    return OWN_DIRECTORY if os.path.exists(f"{OWN_DIRECTORY}/main.cf") else POSTFIX_DIRECTORY


def load_parameters(given: str | None = None, overrides: Mapping[str, str] | None = None) -> Parameters:
    """The parameters of that directory, or all defaults when there is none and none was asked for."""
    directory = config_directory(given)
    named = given is not None or "MAIL_CONFIG" in os.environ
    if not named and not os.path.exists(f"{directory}/main.cf"):
        return Parameters.from_mapping(dict(overrides or {}), directory)
    return Parameters.load(directory, overrides=dict(overrides or {}))
