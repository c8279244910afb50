"""Real servers for lookup tables, each private: a directory, a port and a process of its own.

``Slapd``, ``Postgres``, ``MariaDb`` and ``Memcached`` are context managers.  ``kill()`` ends one at once,
``start()`` brings it back with its data, ``freeze()`` and ``thaw()`` let it hang.  ``why_not`` says what is
missing.  ``ADDRESSES`` is what the SQL ones hold.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from oracle.postfix import free_port

_PATH = ":".join(
    [os.environ.get("PATH", ""), "/usr/sbin", "/sbin", *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
)

#: address, value, number
ADDRESSES = [
    ("joe@example.com", "joe@imap.example.com", 1),
    ("jane@example.com", "jane@imap.example.com", 2),
    ("list@example.com", "joe@example.com", 3),
    ("list@example.com", "jane@example.com", 4),
    ("o'brien@example.com", "obrien", 5),
    ('"back\\slash"@example.com', "backslash", 6),
    ("100%@example.com", "percent", 7),
    ("müller@example.com", "mueller@exämple.com", 8),
    ("empty@example.com", "", 9),
    ("null@example.com", None, 10),
    ("example.net", "OK", 11),
    ("@catch.example", "all@example.com", 12),
    ("user@mail.sub.example.org", "deep", 13),
    ("plain", "plainvalue", 14),
    ("star*", "star", 15),
]


def find(name: str) -> str | None:
    return shutil.which(name, path=_PATH)


def _account(name: str) -> str | None:
    """Whom a server that refuses to be root runs as."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(name).pw_name
    except KeyError:
        return "nobody"


class Server:
    """What they have in common."""

    program: ClassVar[str] = ""
    account: ClassVar[str] = "nobody"

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="table-"))
        self.root.chmod(0o755)
        self.port = free_port()
        self.user = _account(self.account)
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        try:
            self.prepare()
            self.start()
            self.fill()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def prepare(self) -> None:
        """Make what must be there before the start."""

    def fill(self) -> None:
        """Put the data in."""

    def arguments(self) -> list[str]:
        raise AssertionError(f"{type(self).__name__}: how to start it")

    def ready(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def start(self) -> None:
        """Start it, and wait until it serves."""
        with open(self.root / "log", "ab") as log:
            self.process = subprocess.Popen(
                [find(self.program) or self.program, *self.arguments()],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, user=self.user, cwd=self.root,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{self.program} does not start:\n{(self.root / 'log').read_text()}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End it without any chance to say good-bye."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.root, ignore_errors=True)

    def run(self, program: str, *arguments: str, stdin: str = "") -> str:
        """Run a tool of the server's as its account."""
        done = subprocess.run(
            [find(program) or program, *arguments],
            input=stdin, text=True, capture_output=True, timeout=120, user=self.user, cwd=self.root,
        )  # fmt: skip
        assert done.returncode == 0, f"{program}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def directory(self, name: str) -> Path:
        """A directory for the server to write in."""
        path = self.root / name
        path.mkdir()
        if self.user:
            shutil.chown(path, self.user)
        return path

    def _signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def _end(self, number: int) -> None:
        if self.process is None:
            return
        self._signal(signal.SIGCONT)
        self._signal(number)
        self.process.wait(60)
        self.process = None


def sql_rows(quote: Callable[[str], str]) -> str:
    """The statements that make the tables."""
    rows = ", ".join(
        f"({quote(address)}, {'NULL' if value is None else quote(value)}, {number})"
        for address, value, number in ADDRESSES
    )
    return (
        "CREATE TABLE addresses (address VARCHAR(200), value VARCHAR(200), number INTEGER);\n"
        f"INSERT INTO addresses (address, value, number) VALUES {rows};\n"
    )


class Postgres(Server):
    """PostgreSQL, database ``mail``, user ``mail`` with password ``secret``."""

    program = "postgres"
    account = "postgres"

    def prepare(self) -> None:
        data = self.directory("data")
        self.run(
            "initdb", "-D", str(data), "-A", "trust", "-U", "admin", "-E", "UTF8", "--no-locale", "--no-sync"
        )
        (data / "pg_hba.conf").write_text(
            "local all all trust\nhost all admin 127.0.0.1/32 trust\n"
            "host all all 127.0.0.1/32 scram-sha-256\n"
        )

    def arguments(self) -> list[str]:
        return [
            "-D", str(self.root / "data"), "-p", str(self.port), "-k", str(self.root / "data"),
            "-c", "listen_addresses=127.0.0.1", "-F",
        ]  # fmt: skip

    def ready(self) -> bool:
        done = subprocess.run(
            [find("pg_isready") or "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)], timeout=10
        )
        return done.returncode == 0

    def kill(self) -> None:
        """The server's workers end with it, which must be waited for."""
        children = _children(self.process.pid) if self.process else []
        super().kill()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        (self.root / "data" / "postmaster.pid").unlink(missing_ok=True)

    def freeze(self) -> None:
        """The workers, too."""
        for pid in _children(self.process.pid if self.process else 0):
            os.kill(pid, signal.SIGSTOP)
        super().freeze()

    def thaw(self) -> None:
        super().thaw()
        for pid in _children(self.process.pid if self.process else 0):
            os.kill(pid, signal.SIGCONT)

    def sql(self, statements: str, database: str = "mail") -> None:
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "admin", "-d", database]
        self.run("psql", "-q", "-v", "ON_ERROR_STOP=1", *where, stdin=statements)

    def fill(self) -> None:
        self.sql("CREATE DATABASE mail; CREATE USER mail PASSWORD 'secret';", "postgres")
        self.sql(
            sql_rows(lambda text: "'" + text.replace("'", "''") + "'")
            + "GRANT SELECT ON addresses TO mail;\n"
            "CREATE FUNCTION value_of(TEXT) RETURNS TEXT AS "
            "'SELECT value FROM addresses WHERE address = $1 ORDER BY number LIMIT 1' LANGUAGE sql;"
        )


class MariaDb(Server):
    """MariaDB, database ``mail``, user ``mail`` with password ``secret``."""

    program = "mariadbd"
    account = "mysql"

    @property
    def socket(self) -> Path:
        return self.root / "data" / "socket"

    def prepare(self) -> None:
        data = self.directory("data")
        self.run(
            "mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db",
            "--auth-root-authentication-method=normal",
        )  # fmt: skip

    def arguments(self) -> list[str]:
        return [
            "--no-defaults", f"--datadir={self.root / 'data'}", f"--socket={self.socket}",
            f"--port={self.port}", "--bind-address=127.0.0.1", "--innodb-flush-method=fsync",
            "--innodb-buffer-pool-size=16M", f"--pid-file={self.root / 'data' / 'pid'}",
        ]  # fmt: skip

    def ready(self) -> bool:
        return self.socket.exists() and super().ready()

    def kill(self) -> None:
        super().kill()
        self.socket.unlink(missing_ok=True)

    def sql(self, statements: str, database: str = "") -> None:
        options = [
            "--no-defaults",
            f"--socket={self.socket}",
            "-u",
            "root",
            "--default-character-set=utf8mb4",
        ]
        self.run("mariadb", *options, *([database] if database else []), stdin=statements)

    def fill(self) -> None:
        self.sql(
            "CREATE DATABASE mail CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;\n"
            "CREATE USER mail@localhost IDENTIFIED BY 'secret';\n"
            "CREATE USER mail@'127.0.0.1' IDENTIFIED BY 'secret';\n"
            "GRANT SELECT, EXECUTE ON mail.* TO mail@localhost, mail@'127.0.0.1';"
        )
        self.sql(
            sql_rows(lambda text: "'" + text.replace("\\", "\\\\").replace("'", "''") + "'")
            + "CREATE PROCEDURE twice() SELECT 1;\nCREATE PROCEDURE nothing() SET @x = 1;\n"
            "DELIMITER //\nCREATE PROCEDURE two() BEGIN SELECT 1; SELECT 2; END//\n",
            "mail",
        )


class Memcached(Server):
    program = "memcached"

    def arguments(self) -> list[str]:
        user = ["-u", self.user] if self.user and os.geteuid() == 0 else []
        return ["-l", "127.0.0.1", "-p", str(self.port), "-m", "8", "-t", "1", *user]

    def ask(self, request: bytes) -> bytes:
        """A request by hand, and what comes back until the last line."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(request + b"\r\n")
            answer = b""
            while not answer.endswith(
                (b"END\r\n", b"STORED\r\n", b"DELETED\r\n", b"OK\r\n", b"NOT_FOUND\r\n")
            ):
                answer += connection.recv(4096)
        return answer

    def set(self, key: bytes, value: bytes) -> None:
        assert self.ask(b"set %b 0 0 %d\r\n%b" % (key, len(value), value)) == b"STORED\r\n"


_SLAPD_CONF = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
attributetype ( 1.3.6.1.4.1.4203.666.1.901 NAME 'maildrop' EQUALITY caseIgnoreMatch
  SUBSTR caseIgnoreSubstringsMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( 1.3.6.1.4.1.4203.666.1.902 NAME 'mailacceptinggeneralid' EQUALITY caseIgnoreMatch
  SUBSTR caseIgnoreSubstringsMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( 1.3.6.1.4.1.4203.666.1.903 NAME 'memberurl' EQUALITY caseExactMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
objectclass ( 1.3.6.1.4.1.4203.666.3.901 NAME 'mailthing' SUP top AUXILIARY
  MAY ( mail $ maildrop $ mailacceptinggeneralid $ memberurl $ member $ description ) )
modulepath /usr/lib/ldap
moduleload back_mdb
TLSCACertificateFile {root}/cert.pem
TLSCertificateFile {root}/cert.pem
TLSCertificateKeyFile {root}/key.pem
TLSVerifyClient never
pidfile {root}/pid
database mdb
suffix "dc=example,dc=com"
rootdn "cn=admin,dc=example,dc=com"
rootpw secret
directory {root}/data
maxsize 67108864
sizelimit 100
dbnosync
access to * by anonymous auth by users read
database monitor
access to * by * none
"""

_LDIF_HEAD = """dn: dc=example,dc=com
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: cn=reader,dc=example,dc=com
objectClass: inetOrgPerson
cn: reader
sn: reader
userPassword: readpw
"""


def _entry(name: str, **attributes: str | list[str]) -> str:
    lines = [f"dn: cn={name},dc=example,dc=com", "objectClass: inetOrgPerson", "objectClass: mailthing"]
    lines += [f"cn: {name.replace(chr(92), '')}", f"sn: {name.replace(chr(92), '')}"]
    for key, values in attributes.items():
        lines += [f"{key}: {value}" for value in ([values] if isinstance(values, str) else values)]
    return "\n".join(lines) + "\n"


class Slapd(Server):
    """OpenLDAP's server; ``cn=reader`` with password ``readpw`` may read; TLS with ``certificate``."""

    program = "slapd"

    def __init__(self) -> None:
        super().__init__()
        self.user = None
        self.tls_port = free_port()
        self.certificate = self.root / "cert.pem"
        self.url = f"ldapi://{str(self.root / 'socket').replace('/', '%2F')}"

    def prepare(self) -> None:
        self.directory("data")
        self.run(
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout", str(self.root / "key.pem"), "-out", str(self.certificate),
        )  # fmt: skip
        (self.root / "slapd.conf").write_text(_SLAPD_CONF.replace("{root}", str(self.root)))
        base = "dc=example,dc=com"
        entries = [
            _entry("joe", mail=["joe@example.com", "jd@example.com"], maildrop="joe@imap.example.com",
                   mailacceptinggeneralid="joe"),
            _entry("jane", mail="jane@example.com",
                   maildrop=["jane@imap.example.com", "jane@backup.example.com"]),
            _entry("star", mail="*@example.com", maildrop="star"),
            _entry("paren", mail="a(b)c\\d@example.com", maildrop="paren"),
            _entry("mueller", mail="müller@example.com", maildrop="mueller@exämple.com"),
            _entry("o\\,brien", mail="o'brien@example.com", maildrop="obrien"),
            _entry("nodrop", mail="nodrop@example.com"),
            _entry("deep", mail="user@mail.sub.example.org", maildrop="deep"),
            _entry("domain", mail="example.net", description="OK"),
            _entry("lang", mail="lang@example.com",
                   **{"description;lang-en": "hello", "description": "plain"}),
            _entry("group", mail="group@example.com", member=[f"cn=joe,{base}", f"cn=jane,{base}"]),
            _entry("nested", mail="nested@example.com", member=[f"cn=group,{base}", f"cn=star,{base}"]),
            _entry("loop", mail="loop@example.com", member=f"cn=loop,{base}"),
            _entry("dangling", mail="dangling@example.com", member=[f"cn=gone,{base}", f"cn=joe,{base}"]),
            _entry("terminal", mail="terminal@example.com", maildrop="lists@example.com",
                   member=f"cn=joe,{base}"),
            _entry("urls", mail="urls@example.com",
                   memberurl=f"ldap:///{base}?mail,maildrop?sub?(maildrop=j*)"),
            _entry("attrless", mail="attrless@example.com", memberurl=f"ldap:///cn=joe,{base}"),
            _entry("impertinent", mail="impertinent@example.com", memberurl=f"ldap:///cn=joe,{base}?sn"),
            _entry("badurl", mail="badurl@example.com", memberurl="ldap:///x?y?nonsense?z"),
            *(_entry(f"many{n}", mail="many@example.com", maildrop=f"many{n}@example.com") for n in range(5)),
        ]  # fmt: skip
        (self.root / "data.ldif").write_text("\n".join([_LDIF_HEAD, *entries]))
        self.run("slapadd", "-q", "-f", str(self.root / "slapd.conf"), "-l", str(self.root / "data.ldif"))

    def arguments(self) -> list[str]:
        urls = f"ldap://127.0.0.1:{self.port} ldaps://127.0.0.1:{self.tls_port} {self.url}"
        return ["-f", str(self.root / "slapd.conf"), "-h", urls, "-d", "0"]


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def why_not(server: type[Server], module: str = "") -> str:
    """Why tests with this server can't run, if so."""
    if find(server.program) is None:
        return f"{server.program} is not installed"
    if module:
        try:
            __import__(module)
        except ImportError:
            return f"the Python package {module} is not installed"
    return ""
