"""Where mail goes: mail exchangers, addresses, loops and limits, by Postfix and mtad and one name server.

Mail for ``SERVICE@DOMAIN`` goes by a service of the SMTP client with parameters of its own.  All addresses of
the network listen on port 25: some greet with 421 or 554.
"""

from __future__ import annotations

import difflib
import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from live.daemon import Mtad
from oracle.dialogue import PATIENCE, Config, House, mask
from oracle.names import Names
from oracle.postfix import Postfix

ZONE = """
mx1.example         A     192.0.2.25
mx2.example         A     192.0.2.26
two.example         A     192.0.2.27
two.example         A     192.0.2.28
busy.example        A     192.0.2.121
busy2.example       A     192.0.2.122
never.example       A     192.0.2.154
dead.example        A     10.0.0.1
dead2.example       A     10.0.0.2
me.example          A     192.0.2.1
alias.example       CNAME mx1.example
broken.example      SERVFAIL
text.example        TXT   "no address"
v6.example          AAAA  2001:db8::27
dual.example        A     192.0.2.29
dual.example        AAAA  2001:db8::29
gone.example        A     10.0.0.3
gone.example        AAAA  2001:db9::3

good.test           MX    20 mx2.example
good.test           MX    10 mx1.example
plain.test          A     192.0.2.27
six.test            AAAA  2001:db8::27
both.test           A     192.0.2.27
both.test           AAAA  2001:db8::27
null.test           MX    0 .
nulls.test          MX    0 .
nulls.test          MX    10 mx1.example
unknown.test        MX    10 nowhere.example
noaddress.test      MX    10 text.example
mxfails.test        MX    10 broken.example
some.test           MX    10 nowhere.example
some.test           MX    20 mx1.example
fails.test          MX    10 broken.example
fails.test          MX    20 mx1.example
unsure.test         MX    10 broken.example
unsure.test         MX    20 nowhere.example
nothing.test        TXT   "nothing"
broken.test         SERVFAIL
half.test           SERVFAIL MX
half.test           A     192.0.2.27
refused.test        REFUSED
garbage.test        GARBAGE MX
large.test          MX    10 mx1.example
large.test          TRUNCATED
cname.test          CNAME good.test
cname2.test         MX    10 alias.example
round.test          CNAME round2.test
round2.test         CNAME round.test
loop.test           MX    10 me.example
backup.test         MX    10 mx1.example
backup.test         MX    20 me.example
backup.test         MX    30 mx2.example
equal.test          MX    10 mx1.example
equal.test          MX    10 me.example
first.test          MX    10 me.example
first.test          MX    20 mx1.example
lost.test           MX    10 nowhere.example
lost.test           MX    20 me.example
busybackup.test     MX    10 busy.example
busybackup.test     MX    20 me.example
itself.test         A     192.0.2.1
busy.test           MX    10 busy.example
busy.test           MX    20 mx1.example
busies.test         MX    10 busy.example
busies.test         MX    20 busy2.example
never.test          MX    10 never.example
never.test          MX    20 mx1.example
nevers.test         MX    10 never.example
dead.test           MX    10 dead.example
dead.test           MX    20 mx1.example
deads.test          MX    10 dead.example
deads.test          MX    20 dead2.example
many.test           MX    10 busy.example
many.test           MX    20 busy2.example
many.test           MX    30 dead.example
many.test           MX    40 dead2.example
many.test           MX    50 never.example
many.test           MX    60 mx1.example
numeric.test        MX    10 192.0.2.27
numeric2.test       MX    10 192.0.2.27
numeric2.test       MX    20 mx1.example
odd.test            MX    10 -odd.example
later.test          MX    10 two.example
dual.test           MX    10 dual.example
six2.test           MX    10 v6.example
six2.test           MX    10 mx1.example
gone.test           MX    10 gone.example
gone.test           MX    20 dual.example
home.test           A     127.0.0.1
"""

_DOMAINS = sorted({line.split()[0] for line in ZONE.splitlines() if ".test" in line[:16]} - {"round2.test"})
_DIRECT = [*_DOMAINS, "nowhere.test", "[192.0.2.27]", "[192.0.2.1]", "[IPv6:2001:db8::27]", "[192.0.2.154]"]
_LOOPS = "loop.test backup.test equal.test first.test itself.test lost.test home.test"
_FAMILIES = "both.test dual.test six.test six2.test gone.test plain.test"
#: Services, their parameters, and the domains to try them with.
SERVICES: dict[str, tuple[dict[str, str], str]] = {
    "usual": ({}, " ".join(_DIRECT)),
    "off": ({"smtp_dns_support_level": "disabled", "smtp_host_lookup": "native"}, "plain.test good.test"),
    "dnssec": ({"smtp_dns_support_level": "dnssec"}, "good.test null.test broken.test"),
    "native": ({"smtp_host_lookup": "native"}, "good.test plain.test noaddress.test nowhere.test"),
    "either": ({"smtp_host_lookup": "dns, native"}, "good.test noaddress.test mxfails.test home.test"),
    "six": ({"smtp_address_preference": "ipv6"}, _FAMILIES),
    "four": ({"smtp_address_preference": "ipv4"}, _FAMILIES),
    "fouronly": ({"inet_protocols": "ipv4"}, _FAMILIES),
    "uneven": ({"smtp_balance_inet_protocols": "no", "smtp_mx_address_limit": "2"}, "gone.test dual.test"),
    "even": ({"smtp_mx_address_limit": "2", "smtp_address_preference": "ipv6"}, "gone.test many.test"),
    "single": ({"smtp_mx_address_limit": "1"}, "busy.test dead.test many.test good.test"),
    "once": ({"smtp_mx_session_limit": "1"}, "busy.test never.test many.test dead.test"),
    "all": ({"smtp_mx_address_limit": "0", "smtp_mx_session_limit": "0"}, "many.test"),
    "waits": (
        {"smtp_defer_if_no_mx_address_found": "yes"},
        "unknown.test noaddress.test unsure.test null.test Nowhere.TEST Plain.Test MXfails.TEST",
    ),
    "bold": (
        {"ignore_mx_lookup_error": "yes"},
        "half.test broken.test garbage.test refused.test null.test",
    ),
    "named": ({"smtp_cname_overrides_servername": "yes"}, "cname2.test cname.test"),
    "best": ({"best_mx_transport": "discard"}, _LOOPS),
    "proxied": ({"proxy_interfaces": "192.0.2.25"}, "good.test plain.test [192.0.2.25]"),
    "relay1": (
        {"smtp_fallback_relay": "[192.0.2.30]"},
        "good.test nowhere.test deads.test busies.test null.test never.test nevers.test broken.test "
        + _LOOPS,
    ),
    "relay2": ({"smtp_fallback_relay": "nowhere.test, good.test"}, "deads.test nowhere.test busies.test"),
    "relay3": ({"smtp_fallback_relay": "null.test"}, "deads.test good.test"),
    "relay4": ({"smtp_fallback_relay": "[192.0.2.1]"}, "deads.test nowhere.test"),
    "bound": (
        {"smtp_bind_address": "192.0.2.77", "smtp_bind_address6": "2001:db8::77"},
        "good.test six.test",
    ),
    "unbound": ({"smtp_bind_address": "10.9.9.9"}, "good.test six.test"),
    "enforced": (
        {
            "smtp_bind_address": "10.9.9.9",
            "smtp_bind_address6": "2001:db9::1",
            "smtp_bind_address_enforce": "yes",
        },
        "good.test six.test both.test",
    ),
    "strict": ({"smtp_skip_5xx_greeting": "no"}, "never.test nevers.test"),
    "filtered": (
        {"smtp_dns_reply_filter": "regexp:{dir}/filter"},
        "good.test both.test plain.test busy.test",
    ),
    "soft": ({"soft_bounce": "yes"}, "null.test nowhere.test loop.test never.test"),
    "relayed": ({"relayhost": "loop.test"}, "loop.test nowhere.test"),
}
LMTP = {"lmtp-x": ({"lmtp_tcp_port": "25"}, "good.test plain.test six.test nowhere.test itself.test")}
CASES = [
    (service, domain) for service, (_, domains) in {**SERVICES, **LMTP}.items() for domain in domains.split()
]

CONFIG = Config(
    "mail exchangers",
    {
        "relayhost": "",
        "proxy_interfaces": "192.0.2.1",
        "inet_protocols": "all",
        "transport_maps": "texthash:{dir}/routes",
        "default_destination_concurrency_failed_cohort_limit": "0",
        "smtp_log_tls_feature_status": "no",
        "lmtp_log_tls_feature_status": "no",
        "smtp_randomize_addresses": "no",
        "lmtp_randomize_addresses": "no",
        "smtpd_client_connection_count_limit": "0",
        "resolve_numeric_domain": "yes",
    },
    transports={name: settings for name, (settings, _) in SERVICES.items()},
    lmtps={name: settings for name, (settings, _) in LMTP.items()},
    files={
        "routes": "".join(f"{service}@{domain} {service}:\n" for service, domain in CASES),
        "filter": "/^good.test. .* MX 10 / IGNORE\n/ AAAA / IGNORE\n/^plain.test. .* A .*27/ IGNORE\n",
    },
)


#: By the last part of the address.
_GREETINGS = {4: b"421 4.3.2 busy", 5: b"554 5.7.1 never"}


class _Servers:
    """All addresses of the network, on port 25.  ``met``: where clients came to, and from where."""

    def __init__(self) -> None:
        self.met: list[str] = []
        self._listener = socket.create_server(
            ("::", 25), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64
        )
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, peer = self._listener.accept()
            except OSError:
                return
            mine = client.getsockname()[0].removeprefix("::ffff:")
            source = peer[0].removeprefix("::ffff:")
            self.met.append(f"{source if source.endswith('77') else 'client'} -> {mine}")
            threading.Thread(target=self._serve, args=(client, mine), daemon=True).start()

    @staticmethod
    def _serve(client: socket.socket, mine: str) -> None:
        number = int(mine.rpartition(".")[2]) if "." in mine else 0
        greeting = _GREETINGS.get(number // 30, b"220 x")
        with client, client.makefile("rb") as stream:
            client.sendall(greeting + b"\r\n")
            in_data = False
            for line in stream:
                if in_data and line != b".\r\n":
                    continue
                in_data = line == b"DATA\r\n"
                client.sendall(b"354 go\r\n" if in_data else b"250 2.0.0 ok\r\n")
                if line == b"QUIT\r\n":
                    return


@pytest.fixture(scope="module")
def servers() -> Iterator[_Servers]:
    with Names(ZONE):
        servers = _Servers()
        yield servers
        servers.close()


@pytest.fixture(scope="module")
def house(servers: _Servers, certificate: tuple[str, str]) -> Iterator[House]:
    with House(CONFIG, certificate) as house:
        yield house


_LINE = re.compile(r"\w{3} [ \d]\d [\d:]{8} \S+ (\S+)\[\d+\]: (.*)")


def _delivered(side: Postfix | Mtad, service: str, domain: str) -> list[str]:
    """What the client logs of such a mail."""
    start = len(side.log())
    with socket.create_connection(("127.0.0.1", side.ports["submission"]), PATIENCE) as connection:
        stream = connection.makefile("rb")
        stream.readline()
        for command in ("HELO x", "MAIL FROM:<>", f"RCPT TO:<{service}@{domain}>", "DATA"):
            connection.sendall(command.encode() + b"\r\n")
            said = stream.readline()
            assert said[:1] in b"23", (command, said)
        connection.sendall(b"Subject: x\r\n\r\n.\r\nQUIT\r\n")
        own = stream.readline().split()[-1].decode()
    deadline = time.monotonic() + PATIENCE
    while True:
        lines = [(m[1], m[2]) for line in side.log()[start:].splitlines() if (m := _LINE.match(line))]
        if any(text.startswith(own) and ", status=" in text for _, text in lines):
            break
        assert time.monotonic() < deadline, lines
        time.sleep(0.01)
    told = [mask(text, [own], str(side.root)) for who, text in lines if who.endswith((*_PROGRAMS,))]
    return list(dict.fromkeys(text for text in told if not _NOISE.match(text)))


#: Postfix has further words for a bad name, and tells in each process of a name server without DNSSEC; and
#: it comes upon a loop of names thrice.
_NOISE = re.compile("warning: (?:valid_hostname: |DNSSEC validation may be |reason: dnssec_probe )")
_PROGRAMS = ("/smtp", "/lmtp", "/discard")


@pytest.mark.parametrize("service", [*SERVICES, *LMTP])
def test_where_mail_goes(house: House, servers: _Servers, service: str) -> None:
    results = []
    for side in house.sides:
        seen: list[str] = []
        for domain in [domain for each, domain in CASES if each == service]:
            servers.met.clear()
            seen += [f"-- {domain}", *_delivered(side, service, domain), *servers.met]
        results.append(seen)
    difference = list(difflib.unified_diff(*results, "Postfix", "mtad", n=3, lineterm=""))
    assert not difference, "\n".join(difference)
