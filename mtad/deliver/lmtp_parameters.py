"""The SMTP client's parameters as LMTP has them.

:class:`LmtpParameters` answers for ``smtp_*`` with the value of the ``lmtp_*`` sister, so that whatever reads
the settings of an SMTP client reads those of an LMTP client too.  What has no sister keeps its own.

Postfix counterpart: ``lmtp_params.c``, ``VAR_LMTP_SMTP``.
"""

from __future__ import annotations

from functools import cache

from mtad.config.master_cf import Service
from mtad.config.parameters import Parameters, Spec, table

#: Sisters that are not called alike.
_OTHER = {
    "smtp_helo_name": "lmtp_lhlo_name",
    "smtp_helo_timeout": "lmtp_lhlo_timeout",
    "smtp_discard_ehlo_keywords": "lmtp_discard_lhlo_keywords",
    "smtp_discard_ehlo_keyword_address_maps": "lmtp_discard_lhlo_keyword_address_maps",
}


@cache
def sister(name: str) -> str:
    """The name by which LMTP knows a parameter."""
    if not name.startswith("smtp_"):
        return name
    other = _OTHER.get(name) or f"lmtp_{name[5:]}"
    return other if other in table() else name


class LmtpParameters(Parameters):
    """See the module."""

    __slots__ = ()

    @classmethod
    def of(cls, p: Parameters, service: Service | None) -> LmtpParameters:
        """The parameters of an LMTP service, which may have a line of master.cf."""
        own = p if service is None else p.for_service(service)
        return cls(own._settings, own.directory, own._facts, own.warnings, own._process)

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(sister(name))

    def words(self, name: str) -> tuple[str, ...]:
        return super().words(sister(name))

    def number(self, name: str) -> int:
        return super().number(sister(name))

    def seconds(self, name: str) -> int:
        return super().seconds(sister(name))

    def flag(self, name: str) -> bool:
        return super().flag(sister(name))

    def explicit(self, name: str) -> bool:
        return super().explicit(sister(name))

    def where(self, name: str) -> tuple[str, int]:
        return super().where(sister(name))

    def written(self, name: str) -> str:
        return sister(name)

    def spec(self, name: str) -> Spec | None:
        return super().spec(sister(name))


def client_parameters(p: Parameters, service: Service | None, lmtp: bool) -> Parameters:
    """The parameters of a client of either protocol."""
    if lmtp:
        return LmtpParameters.of(p, service)
    return p if service is None else p.for_service(service)
