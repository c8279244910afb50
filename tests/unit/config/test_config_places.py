"""Lines of words in main.cf and master.cf."""

from __future__ import annotations

from pathlib import Path

from mtad.config.master_cf import read_master_cf
from mtad.config.parameters import Parameters
from mtad.config.places import Places

MAIN = """\
# smtpd_client_restrictions = permit
smtpd_restriction_classes = strict
strict = reject
smtpd_client_restrictions =
    permit_mynetworks,
# permit_sasl_authenticated

    check_client_access hash:/a, check_client_access
    hash:/b
\t$strict
mynetworks = 10.0.0.0/8 192.0.2.0/24
"""
MASTER = """\
smtp inet n - n - - smtpd
submission inet n - n - - smtpd
  -o smtpd_helo_restrictions=permit
  -o { smtpd_client_restrictions = permit_mynetworks,
       reject }
"""


def places(directory: Path) -> tuple[Parameters, str, str]:
    (directory / "main.cf").write_text(MAIN)
    (directory / "master.cf").write_text(MASTER)
    return Parameters.load(str(directory)), f"{directory}/main.cf", f"{directory}/master.cf"


def test_words_of_main_cf(tmp_path: Path) -> None:
    p, main, _ = places(tmp_path)
    found = Places(p)
    name = "smtpd_client_restrictions"
    assert found.of(name) == (main, 4)
    assert found.of(name, "permit_mynetworks") == (main, 5)
    assert found.of(name, "check_client_access") == (main, 8)
    assert found.of(name, "hash:/a") == (main, 8)
    assert found.of(name, "check_client_access") == (main, 8)
    assert found.of(name, "hash:/b") == (main, 9)
    assert found.of(name, "reject") == (main, 4)  # by $strict
    assert found.of(name, "permit_sasl_authenticated") == (main, 4)  # a comment is nothing
    found.begin()
    assert found.of(name, "permit_mynetworks") == (main, 5)
    assert found.of("mynetworks", "192.0.2.0/24") == (main, 11)
    assert found.of("smtpd_helo_restrictions", "permit") == (main, 0)


def test_words_of_master_cf(tmp_path: Path) -> None:
    p, _, master = places(tmp_path)
    service = read_master_cf(master, [])[1]
    found = Places(p.for_service(service))
    assert found.of("smtpd_helo_restrictions", "permit") == (master, 3)
    assert found.of("smtpd_client_restrictions", "permit_mynetworks") == (master, 4)
    assert found.of("smtpd_client_restrictions", "reject") == (master, 5)
    Path(master).unlink()
    again = Places(p.for_service(service))
    assert again.of("smtpd_client_restrictions", "reject") == (master, 2)
