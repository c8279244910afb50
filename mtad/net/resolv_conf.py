"""``/etc/resolv.conf``: which name servers are asked, how often, and how far they are trusted.

Raises nothing: what can't be understood is passed over, as the C library does.

resolv.conf(5).  Postfix counterpart: none; ``libresolv`` reads it there.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

# as in <resolv.h>
_SERVER_LIMIT = 3
_TIMEOUT_LIMIT = 30
_ATTEMPT_LIMIT = 5

#: Address and port.
Server = tuple[str, int]


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """What resolv.conf(5) says."""

    servers: tuple[Server, ...]
    timeout: float = 5.0
    attempts: int = 2
    rotate: bool = False
    search: tuple[str, ...] = ()  # the domains that complete a name, for who wants that
    trust_ad: bool = False  # the name servers' word on DNSSEC is to be believed

    @classmethod
    def parse(cls, text: str) -> ResolvConf:
        """What a file says; lines that mean nothing are passed over."""
        servers: list[Server] = []
        search: tuple[str, ...] = ()
        numbers = {"timeout": 5, "attempts": 2}
        rotate = trust_ad = False
        for line in text.splitlines():
            words = line.split()
            if len(words) < 2 or words[0][0] in "#;":
                continue
            if words[0] == "nameserver" and len(servers) < _SERVER_LIMIT:
                try:
                    servers.append((str(ip_address(words[1])), 53))
                except ValueError:
                    continue
            elif words[0] in ("search", "domain"):
                search = tuple(words[1:])
            elif words[0] == "options":
                for option, _, value in (word.partition(":") for word in words[1:]):
                    if option in numbers and value.isdecimal() and len(value) < 6:
                        numbers[option] = int(value)
                    rotate = rotate or option == "rotate"
                    trust_ad = trust_ad or option == "trust-ad"
        return cls(
            tuple(servers) or (("127.0.0.1", 53),),
            float(min(max(numbers["timeout"], 1), _TIMEOUT_LIMIT)),
            min(max(numbers["attempts"], 1), _ATTEMPT_LIMIT),
            rotate,
            search,
            trust_ad,
        )
