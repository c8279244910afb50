"""``mtad check`` has nothing to say of what Debian installs, as it comes and with submission switched on."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from mtad.cli import newaliases
from mtad.config.lint import NOTE
from mtad.daemon.plan import inspect
from mtad.net.certificates import make_self_signed

STOCK = Path("/usr/share/postfix")

pytestmark = pytest.mark.skipif(
    not (STOCK / "master.cf.dist").exists(), reason="needs Debian's postfix package for its master.cf"
)


def switched_on(master: str) -> str:
    """master.cf.dist with the # taken from the entries for submission, but not from what asks for more."""
    lines = []
    inside = False
    for line in master.splitlines():
        if re.match(r"#(submission|smtps|submissions) ", line):
            inside = True
        elif not line.startswith("#  -o"):
            inside = False
        lines.append(line[1:] if inside and "mua_" not in line else line)
    return "\n".join(lines)


@pytest.mark.parametrize("submission", [False, True])
def test_no_false_alarms(tmp_path: Path, submission: bool) -> None:
    make_self_signed("mail.example.com", f"{tmp_path}/cert.pem", f"{tmp_path}/key.pem")
    text = (Path(__file__).with_name("configs") / "debian-internet-site.cf").read_text()
    text = text.replace("/etc/ssl/certs/ssl-cert-snakeoil.pem", f"{tmp_path}/cert.pem")
    text = text.replace("/etc/ssl/private/ssl-cert-snakeoil.key", f"{tmp_path}/key.pem")
    text = text.replace("hash:/etc/aliases", f"hash:{tmp_path}/aliases")
    (tmp_path / "main.cf").write_text(text)
    (tmp_path / "aliases").write_text("postmaster: root\n")
    (tmp_path / "sasl").mkdir()
    (tmp_path / "sasl/smtpd.conf").write_text("pwcheck_method: saslauthd\nmech_list: PLAIN LOGIN\n")
    shutil.copy(STOCK / "master.cf.dist", tmp_path / "master.cf")
    assert newaliases.main(["-C", str(tmp_path)]) == 0
    if submission:
        master = tmp_path / "master.cf"
        master.write_text(switched_on(master.read_text()))
        assert "\nsubmission inet" in master.read_text()
    assert [str(finding) for finding in inspect(str(tmp_path)) if finding.severity != NOTE] == []
