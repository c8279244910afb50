"""``mtad saslpasswd``: make, change and remove users of sasldb2, as ``saslpasswd2(8)`` does.

``mtad saslpasswd [-p] [-c] [-d] [-n] [-v] [-a APP] [-f FILE] [-u DOMAIN] USER``.  The password is asked for
twice, or read from standard input with ``-p`` and where there is no terminal.  ``USER`` may be
``user@realm``; else the realm is ``-u``, else ``$myhostname``, which is where the server looks when a login
has none.  The file is ``-f``, else ``sasldb_path`` of the SASL configuration of ``APP`` (the server's own
by default), else ``/etc/sasldb2``.

Exit codes: 0; 1 for bad usage and for a file that can't be read or written; 7 for a password or a user
name that can't be one, and for two passwords that differ.
"""

from __future__ import annotations

import getopt
import getpass
import os
import sys

from mtad import __version__
from mtad.auth.auxprop import PASSWORD, SCRAM
from mtad.auth.verifiers import ROUNDS, otp_secret, scram_keys
from mtad.cli.directory import load_parameters
from mtad.config.sasl_conf import SaslConf, find_sasl_conf, read_sasl_conf
from mtad.errors import ConfigError, TableError
from mtad.sasl import otp
from mtad.sasl.saslprep import prepare
from mtad.tables.sasldb import DEFAULT_PATH, SaslDb

USAGE = """\
usage: mtad saslpasswd [-p] [-c] [-d] [-n] [-a APP] [-f FILE] [-u DOMAIN] USER
  -p         take the password from standard input, without a prompt
  -c         make a new user
  -d         remove the user
  -n         keep no password in the clear, only what proves it (for SCRAM; for OTP, if mech_list has it)
  -a APP     find the file by APP's SASL configuration
  -f FILE    the file of users
  -u DOMAIN  the user's realm
  -v         tell the version"""

FAILED, BAD_PARAMETER = 1, 7
_PASSWORD_LIMIT = 1024


class _Refused(Exception):
    """Ends the command with this exit code and message."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def main(argv: list[str]) -> int:
    """Run the command on ``argv`` (without its name); the exit code."""
    try:
        _run(argv)
    except _Refused as problem:
        print(f"saslpasswd: {problem}", file=sys.stderr)
        return problem.code
    except (ConfigError, TableError) as error:
        print(f"saslpasswd: {error}", file=sys.stderr)
        return FAILED
    return 0


def _run(argv: list[str]) -> None:
    try:
        flags, rest = getopt.getopt(argv, "pcdnvf:u:a:", ["help"])
    except getopt.GetoptError as error:
        raise _Refused(FAILED, f"{error}\n{USAGE}") from error
    given = dict(flags)
    if "--help" in given:
        print(USAGE)
        return
    if (len(rest) != 1 and "-v" not in given) or ("-c" in given and "-d" in given):
        raise _Refused(FAILED, USAGE)
    if "-v" in given:
        print(f"saslpasswd: mtad {__version__}; secrets are kept in {DEFAULT_PATH} by default")
        return
    application = given.get("-a")
    if application is not None and "/" in application:
        raise _Refused(FAILED, "appname must not contain /")
    user, at, realm = rest[0].partition("@")
    if not at:
        realm = given["-u"] if "-u" in given else load_parameters()["myhostname"]
    if not user or not realm:
        raise _Refused(BAD_PARAMETER, "invalid parameter supplied")
    conf = SaslConf() if "-f" in given and "-n" not in given else configuration(application)
    db = SaslDb(given.get("-f") or conf.get("sasldb_path") or DEFAULT_PATH)
    user = os.fsdecode(prepare(os.fsencode(user)))  # as the server will look for it
    if "-d" in given:
        db.delete(user, realm)
        return
    password = _password("-p" in given or not sys.stdin.isatty())
    if "-n" not in given:
        db.set(user, realm, password)
    elif "-c" in given or db.get(user, realm) is not None:
        # what proves the password without holding it
        kept: dict[str, bytes | None] = {PASSWORD: None, SCRAM: scram_keys(password, ROUNDS)}
        if "otp" in (word.lower() for word in conf.words("mech_list")):
            kept[otp.PROPERTY] = otp_secret(password)
        db.change(user, realm, kept)


def configuration(application: str | None) -> SaslConf:
    """The SASL configuration of that application; raises ConfigError."""
    p = load_parameters(overrides={"smtpd_sasl_path": application} if application else None)
    path = find_sasl_conf(p)
    return SaslConf() if path is None else read_sasl_conf(path)


def configured_path(application: str | None) -> str:
    """The user database of that application's SASL configuration; raises ConfigError."""
    return configuration(application).get("sasldb_path") or DEFAULT_PATH


def ask_password(prompt: str = "Password: ") -> bytes:
    """A password from the terminal, or else from standard input."""
    if sys.stdin.isatty():
        return getpass.getpass(prompt).encode("utf-8", "surrogateescape")
    return sys.stdin.buffer.read(_PASSWORD_LIMIT + 2).removesuffix(b"\n")


def _password(pipe: bool) -> bytes:
    if pipe:
        password = sys.stdin.buffer.read(_PASSWORD_LIMIT + 2).removesuffix(b"\n")
    else:
        first = getpass.getpass("Password: ")
        if getpass.getpass("Again (for verification): ") != first:
            raise _Refused(BAD_PARAMETER, "passwords don't match; aborting")
        password = first.encode("utf-8", "surrogateescape")
    if not password or b"\0" in password:
        raise _Refused(BAD_PARAMETER, "invalid parameter supplied: no password, or a NUL in it")
    if len(password) > _PASSWORD_LIMIT:
        raise _Refused(
            BAD_PARAMETER, f"invalid parameter supplied: password longer than {_PASSWORD_LIMIT} bytes"
        )
    return password
