"""The AUTH line of EHLO for every set of security options, under lists and filters, as Postfix has it."""

from __future__ import annotations

import itertools
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from live.daemon import wait_until
from oracle.postfix import Postfix
from twisted.internet.epollreactor import EPollReactor

from mtad.auth.authenticator import Authenticator
from mtad.config.parameters import Parameters
from mtad.errors import ConfigError
from mtad.maillog import ListSink, MailLog

OPTIONS = ("noplaintext", "noactive", "nodictionary", "noanonymous", "mutual_auth")
#: ``mech_list``, by the name of the file
LISTS = {
    "strong": "scram-sha-512 scram-sha-1 digest-md5 cram-md5 plain login",
    "mixed": "login anonymous cram-md5 SCRAM-SHA-256 plain digest-md5",
    "plain": "login plain anonymous digest-md5",
    "wide": "anonymous scram-sha-1 login scram-sha-256",
}
FILTERS = (
    "!external, static:rest",
    "!plain, !SCRAM-SHA-1, static:rest",
    "plain, login, cram-md5, scram-sha-1, SCRAM-SHA-256",
    "!scram-sha-512, digest-md5, anonymous, login, scram-sha-1",
)


def every_case() -> Iterator[tuple[str, dict[str, str]]]:
    """Each set of options twice, with other lists and filters: each pair of all three comes up."""
    sets = [each for count in range(6) for each in itertools.combinations(OPTIONS, count)]
    names = list(LISTS)
    for number, chosen in enumerate([*sets, *sets, ("forward_secrecy",)]):
        turn = number // len(sets)
        yield (
            f"case{number}",
            {
                "smtpd_sasl_path": names[(number + turn) % 4],
                "smtpd_sasl_security_options": ", ".join(chosen),
                "smtpd_sasl_mechanism_filter": FILTERS[(number // 4 + 2 * turn) % 4],
            },
        )


def announced(port: int) -> list[str] | None:
    """The mechanisms in EHLO; None where the server goes away instead."""
    with socket.create_connection(("127.0.0.1", port), 60) as raw, raw.makefile("rwb") as wire:
        if not wire.readline().startswith(b"220"):
            return None
        wire.write(b"EHLO client.example\r\n")
        wire.flush()
        while line := wire.readline().decode():
            if line[4:].startswith("AUTH "):
                return line[4:].split()[1:]
            if line[3:4] == " ":
                return []
    return None


def ours(directory: Path, values: dict[str, str]) -> list[str] | None:
    p = Parameters.from_mapping(
        {"myhostname": "mail.test", "cyrus_sasl_config_path": str(directory), **values}
    )
    try:
        server = Authenticator.build(p, EPollReactor(), MailLog(ListSink(), "x"))
    except ConfigError:
        return None
    return [name.decode() for name in server.mechanisms(False)]


def _fatal(postfix: Postfix) -> int:
    """The processes that found nothing to announce."""
    text = postfix.maillog.read_text()
    return len(re.findall(r"fatal: (?:no SASL authentication mechanisms|.*discards all mechanisms in)", text))


def test_the_same_lists(tmp_path: Path) -> None:
    conf = "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: /nonexistent\nmech_list: "
    files = {f"sasl/{name}.conf": f"{conf}{mechanisms}\n" for name, mechanisms in LISTS.items()}
    for name, text in files.items():
        (tmp_path / Path(name).name).write_text(text)
    cases = list(every_case())
    common = {
        "smtpd_sasl_auth_enable": "yes", "cyrus_sasl_config_path": "{dir}/sasl",
        "smtpd_tls_security_level": "none",
    }  # fmt: skip
    with Postfix(common, services=cases, files=files) as postfix:
        possible = {name for name, values in cases if ours(tmp_path, values) is not None}
        theirs = {name: announced(postfix.ports[name]) for name in possible}
        # what is fatal to us is so to Postfix
        waiting = [
            socket.create_connection(("127.0.0.1", postfix.ports[name]), 20)
            for name, _ in cases
            if name not in possible
        ]
        wait_until(lambda: _fatal(postfix) >= len(waiting), f"{len(waiting)} refusals")
        for each in waiting:
            each.close()
    mine = {name: ours(tmp_path, values) for name, values in cases if name in theirs}
    wrong = {
        name: (dict(cases)[name], mine[name], theirs[name]) for name in theirs if mine[name] != theirs[name]
    }
    assert wrong == {}
    assert len(theirs) > 25
    assert len(set(map(tuple, filter(None, theirs.values())))) > 12
