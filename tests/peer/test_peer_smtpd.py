"""The golden scripts of ``smtpd_check.c``, replayed line by line through mtad's evaluator.

Those that ask the Internet (porcupine.org) get the answers of that time from zone data here.  Scripts that
Postfix itself no longer passes (its Makefile calls them broken: their words are of old releases) are
compared, too, but for the commands that :data:`OLD` tells of."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from check_script import Checker
from peer_source import WHY, source

from mtad.cli.main import main
from mtad.policy.reply_pattern import Pattern, matches, parse

SMTPD = source("smtpd")
pytestmark = pytest.mark.skipif(SMTPD is None, reason=WHY)

ZONE = """
localhost                 A     127.0.0.1
porcupine.org             MX    10 spike.porcupine.org
porcupine.org             NS    ns.porcupine.org
porcupine.org             A     168.100.3.75
ns.porcupine.org          A     168.100.3.75
spike.porcupine.org       A     168.100.3.2
spike.porcupine.org       AAAA  2604:8d00:189::2
fist.porcupine.org        A     168.100.3.4
www.porcupine.org         A     168.100.3.3
www.porcupine.org         MX    10 spike.porcupine.org
nullmx.porcupine.org      MX    0 .
nullmx.porcupine.org      A     168.100.3.2
xn--1xa.porcupine.org     MX    10 spike.porcupine.org
wzv.porcupine.org         A     168.100.3.7
m1.porcupine.org          A     168.100.3.4
m2.porcupine.org          A     168.100.3.7
backup.porcupine.org      MX    10 m1.porcupine.org
backup.porcupine.org      MX    20 m2.porcupine.org
2.0.0.127.dnsbltest.porcupine.org A   127.0.0.2
2.0.0.127.dnsbltest.porcupine.org TXT "DNS blocklist test"
3.0.0.127.dnsbltest.porcupine.org A   127.0.0.3
3.0.0.127.dnsbltest.porcupine.org TXT "DNS blocklist test"
example.tld.rhsbl.porcupine.org   A   127.0.0.2
example.tld.rhsbl.porcupine.org   TXT "RHSBL test"
example.tld.dnswl.porcupine.org   A   127.0.0.2
*.wild.porcupine.org      A     127.0.0.2
postfix.org               MX    10 mx.postfix.org
postfix.org               NS    ns.postfix.org
mx.postfix.org            A     192.0.2.1
ns.postfix.org            A     192.0.2.1
maildaemon.org            NS    ns.porcupine.org
ibm.com                   MX    10 mx.ibm.com
mx.ibm.com                A     192.0.2.2
"""

SCRIPTS = (
    "smtpd_acl.in",
    "smtpd_addr_valid.in",
    "smtpd_check.in4",
    "smtpd_check_backup.in",
    "smtpd_check_dsn.in",
    "smtpd_deprecated.in",
    "smtpd_dns_filter.in",
    "smtpd_dnswl.in",
    "smtpd_error.in",
    "smtpd_exp.in",
    "smtpd_nullmx.in",
    "smtpd_server.in",
)

#: Postfix's own broken tests: what has changed since, as it stands in the wanted words or the lists in force.
BROKEN = ("smtpd_check.in", "smtpd_check.in2")
OLD = re.compile(
    "permit_naked_ip_address|check_relay_domains|reject_maps_rbl"  # gone
    "|cannot find your hostname"  # 4.7.25 since RFC 7372
    "|name server spike"  # the table says otherwise today
)


#: Where a table fails, mtad says why.
REASON = ": Application error"


def reference(name: str) -> Path:
    assert SMTPD is not None
    return SMTPD / name.replace(".in", ".ref")


def blocks(text: str) -> list[tuple[str, list[str]]]:
    """Each command of a reference, and what comes of it."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith(">>> "):
            found.append((line[4:], []))
        elif found:
            found[-1][1].append(line)
    return found


def same(text: str) -> str:
    """Without what the C library of the reference's system says otherwise, and TTLs."""
    text = re.sub(r"\. \d+ IN ", ". TTL IN ", text)
    for words in ("No address associated with hostname", "Name or service not known"):
        text = text.replace(words, "hostname nor servname provided, or not known")
    return text


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the directory, with its table made."""
    assert SMTPD is not None
    shutil.copytree(SMTPD, tmp_path / "smtpd", ignore=shutil.ignore_patterns("*.c", "*.h", "*.o"))
    (tmp_path / "dns").mkdir()
    for path in (SMTPD.parent / "dns").glob("*.reg"):
        shutil.copy(path, tmp_path / "dns")
    (tmp_path / "main.cf").write_text("compatibility_level = 3.6\n")
    monkeypatch.chdir(tmp_path / "smtpd")
    assert main(["-c", str(tmp_path), "postmap", "hash:smtpd_check_access"]) == 0
    return tmp_path / "smtpd"


def replay(name: str) -> list[tuple[str, list[str], list[str]]]:
    """Each command with the wanted and the actual words."""
    own = ("168.100.3.7", "127.0.0.1") if "backup" in name else ("127.0.0.1",)
    checker = Checker(ZONE, own)
    out = []
    for line, wanted in blocks(reference(name).read_text("utf-8")):
        said = [same(text) for text in checker.run(line) if text != f"./smtpd_check: warning{REASON}"]
        out.append((line, wanted, [text.removesuffix(REASON) for text in said]))
    return out


@pytest.mark.parametrize("name", SCRIPTS)
def test_script(place: Path, name: str) -> None:
    differing = [
        "\n".join((f">>> {line}", *(f"-{text}" for text in wanted), *(f"+{text}" for text in actual)))
        for line, wanted, actual in replay(name)
        if wanted != actual
    ]
    assert not differing, "\n".join(differing)


@pytest.mark.parametrize("name", BROKEN)
def test_script_of_old_words(place: Path, name: str) -> None:
    lists: dict[str, str] = {}
    differing = []
    equal = 0
    for line, wanted, actual in replay(name):
        verb, _, rest = line.partition(" ")
        if verb.endswith("_restrictions"):
            lists[verb] = rest
        if wanted == actual:
            equal += 1
        elif not OLD.search(" ".join((*wanted, *lists.values()))):
            differing.append(
                "\n".join((f">>> {line}", *(f"-{t}" for t in wanted), *(f"+{t}" for t in actual)))
            )
    assert not differing, "\n".join(differing)
    assert equal > 80


def test_reply_patterns() -> None:
    """``ip_match.ref``: which patterns are right, and which addresses fit them."""
    directory = source("util")
    assert directory is not None
    pattern: Pattern = ()
    count = 0
    for line in (directory / "ip_match.ref").read_text("utf-8").splitlines():
        if line.startswith("> ") and not line.startswith("> #"):
            word = (line[2:].split() or [""])[0]
            try:
                pattern = parse(word)
                said = "Code: "
            except ValueError as error:
                said = f"Error: {error}"
        elif line.startswith(("Code: ", "Error: ")):
            assert line.startswith(said) if said == "Code: " else line == said
            count += 1
        elif line.startswith("Match "):
            address, _, answer = line[6:].partition(": ")
            assert matches(pattern, address) == (answer == "yes"), line
            count += 1
    assert count > 30
