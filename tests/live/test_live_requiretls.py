"""REQUIRETLS and TLS-Required on the way out; and no trick of a server gets mail past a mandatory level."""

from __future__ import annotations

import shutil
import smtplib
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from live.daemon import Mtad, wait_until
from oracle.names import Names
from oracle.tls_scenes import Scene, Scenes
from oracle.upstream import OFFERS
from unit.net.net_pki import Issued, pem, pem_key

REQUIRE = (*OFFERS, "REQUIRETLS")

SCENES = [
    Scene("kept", "kept", "verify", offers=REQUIRE),
    Scene("unable", "unable", "verify"),
    Scene("unsure", "unsure", "encrypt", offers=REQUIRE),
    Scene("false", "forged", "verify", offers=REQUIRE),
    Scene("bare", "", "verify", offers=REQUIRE),
    Scene("refuses", "refuses", "verify", offers=REQUIRE, rules={"starttls": b"454 4.7.0 no"}),
    Scene("lenient", "lenient", offers=REQUIRE),
    Scene("lenient-unable", "forged"),
    Scene("lenient-bare", "", offers=REQUIRE),
    Scene("some", "some", offers=OFFERS),
    Scene("some-bare", ""),
    Scene("closed", "closed", "none", offers=REQUIRE),
]
POLICY = (
    "inline:{ {lenient.example = opportunistic} {lenient-unable.example = opportunistic} "
    "{lenient-bare.example = opportunistic} {some.example = opportunistic+starttls} "
    "{some-bare.example = opportunistic+starttls} {closed.example = opportunistic+starttls} }, enforce"
)


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="require-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def make_pki(directory: Path, scenes: list[Scene]) -> dict[str, tuple[str, str]]:
    root = Issued("Test Root", authority=True)
    root.write(directory / "root.pem", key=False)
    found = {}
    for name in {scene.certificate for scene in scenes} - {""} | {"server"}:
        names = ("elsewhere.example",) if name == "forged" else (f"mx.{name}.example",)
        issued = Issued(name, None if name == "forged" else root, names=names)
        certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
        certificate.write_bytes(pem(issued.certificate))
        key.write_bytes(pem_key(issued.key))
        found[name] = (str(certificate), str(key))
    return found


def said(stage: Scenes, name: str) -> list[bytes]:
    """The MAIL commands that a scene's server has heard."""
    sessions = stage.upstreams[name].sessions
    return [line for session in sessions for line in session.lines if line.startswith(b"MAIL")]


def status(texts: list[str]) -> str:
    line = next(text for text in texts if ": to=<" in text)
    return line.partition("dsn=")[2].replace("status=", "")


def send(daemon: Mtad, scenes: list[Scene], head: str = "", option: str = "") -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with smtplib.SMTP("127.0.0.1", daemon.ports["submission"], timeout=60) as client:
        client.starttls(context=context)
        options = [option] if option else []
        recipients = [scene.recipient for scene in scenes]
        client.sendmail("a@example.com", recipients, f"{head}Subject: x\r\n\r\nx\r\n", options)


def main_cf(directory: Path, pki: dict[str, tuple[str, str]]) -> dict[str, str]:
    certificate, key = pki["server"]
    return {
        "smtpd_tls_security_level": "may",
        "smtpd_tls_cert_file": certificate,
        "smtpd_tls_key_file": key,
        "smtp_tls_security_level": "may",
        "smtp_tls_policy_maps": "texthash:{dir}/policies",
        "smtp_tls_CAfile": str(directory / "root.pem"),
        "smtp_requiretls_policy": POLICY,
        "minimal_backoff_time": "1s",  # a message of that age may go without TLS, where it may
        "maximal_backoff_time": "2s",
        "queue_run_delay": "1s",
    }


def test_requiretls(directory: Path) -> None:
    pki = make_pki(directory, SCENES)
    stage = Scenes(SCENES, pki)
    with (
        Names(stage.zone()),
        stage,
        Mtad(main_cf(directory, pki), files={"policies": stage.policies()}) as mtad,
    ):
        found = stage.play(mtad, lambda: send(mtad, SCENES, option="REQUIRETLS"))
    statuses = {name: status(texts) for name, texts in found.items()}
    level = "but my configured TLS security level"
    wants = "(Sender requested REQUIRETLS,"
    good = "2.0.0, sent (250 2.0.0 Ok: kept)"

    def pair(name: str) -> str:
        return f"mx.{name}.example[192.0.2.{[scene.name for scene in SCENES].index(name) + 1}]"

    assert statuses == {
        "kept": good,
        "unable": f"5.7.30, bounced {wants} but no server was found that supports REQUIRETLS. "
        f"The last attempted server was {pair('unable')})",
        "unsure": f"5.7.10, bounced {wants} {level} 'encrypt' disables certificate matching. "
        "The last attempted server was mx.unsure.example)",
        "false": f"5.7.10, bounced {wants} but no trusted server certificate was found. "
        f"The last attempted server was {pair('false')})",
        "bare": f"5.7.30, bounced {wants} but TLS service was not offered by host {pair('bare')})",
        "refuses": f"5.7.10, bounced {wants} but host {pair('refuses')} refused to start TLS: 454 4.7.0 no)",
        "lenient": good,
        "lenient-unable": good,
        "lenient-bare": good,
        "some": good,
        "some-bare": f"5.7.30, bounced {wants} but TLS service was not offered by host {pair('some-bare')})",
        "closed": f"5.7.10, bounced {wants} {level} 'none' disables encryption. "
        "The last attempted server was mx.closed.example)",
    }
    assert said(stage, "kept")[0].endswith(b" REQUIRETLS")
    assert said(stage, "lenient")[0].endswith(b" REQUIRETLS")
    # who does not keep the promise is not told all in a bounce
    for name in ("lenient-unable", "some", "lenient-bare"):
        (line,) = said(stage, name)
        assert b"REQUIRETLS" not in line
        assert b"RET=HDRS" in line
    for name in ("unable", "unsure", "false", "bare", "refuses", "some-bare", "closed"):
        assert not said(stage, name)


#: What a server, or somebody in between, might try so that mail goes in the clear or to the wrong one.
TRICKS: dict[str, tuple[str, dict[str, bytes]]] = {
    "no-offer": ("", {}),
    "helo-only": ("ok", {"ehlo": b"502 5.5.1 what?"}),
    "later": ("ok", {"starttls": b"454 4.7.0 not now"}),
    "unknown": ("ok", {"starttls": b"502 5.5.1 what?"}),
    "drops": ("ok", {"starttls": b"DROP"}),
    "garbage": ("ok", {"handshake": b"250 ok\r\n" * 20}),
    "injected": ("ok", {"starttls": b"220 go\n250-x\n250 AUTH PLAIN\n250 ok\n250 ok\n354 go\n250 ok"}),
    "forged": ("forged", {}),
}
ZONE = (
    "{name}.example SECURE\n{name}.example MX 10 mx.{name}.example\nmx.{name}.example A {address}\n"
    "_25._tcp.mx.{name}.example TLSA 3 1 1 " + "00" * 32 + "\n"
)
LEVELS = ("encrypt", "verify", "secure", "fingerprint match=" + "00" * 32, "dane-only")


def test_no_trick_gets_past_a_mandatory_level(directory: Path) -> None:
    scenes = [
        Scene(f"{name}-{number}", certificate, level, ZONE, rules)
        for number, level in enumerate(LEVELS)
        for name, (certificate, rules) in TRICKS.items()
    ]
    pki = make_pki(directory, scenes)
    main = main_cf(directory, pki) | {"smtp_dns_support_level": "dnssec"}
    stage = Scenes(scenes, pki)
    with Names(stage.zone()), stage, Mtad(main, files={"policies": stage.policies()}) as mtad:
        stage.play(mtad, lambda: send(mtad, scenes))
        # and when it gets late
        wait_until(lambda: mtad.log().count("no-offer-0.example>") >= 3, "further attempts")
        # who says that TLS is not required gets it through where it is possible at all
        open_doors = [scene for scene in scenes if scene.name.startswith(("no-offer", "later", "forged"))]
        before = {scene.name: len(said(stage, scene.name)) for scene in open_doors}
        send(mtad, open_doors, "TLS-Required: no\r\n")
        wait_until(
            lambda: all(len(said(stage, scene.name)) > before[scene.name] for scene in open_doors), "mail", 30
        )
    for scene in scenes:
        heard = stage.upstreams[scene.name].sessions
        required = [
            session for session in heard if not any(b"TLS-Required" in line for line in session.lines)
        ]
        assert required
        allowed = scene.name in ("injected-0", "forged-0")  # encrypt asks nobody who they are
        for session in required:
            assert allowed or not any(line.startswith(b"MAIL") for line in session.lines), scene.name
            assert not any(line.startswith(b"MAIL") for line in session.plain), scene.name
