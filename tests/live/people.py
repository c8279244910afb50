"""A directory of users for tests: slapd with alice, whose password is ``secret``, and others."""

from __future__ import annotations

from live.databases import Slapd


class People(Slapd):
    """A directory of users, whom its manager and ``proxy`` (password ``proxypw``, by SASL) may speak for."""

    def prepare(self) -> None:
        self.directory("data")
        (self.root / "slapd.conf").write_text(
            f"""
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {self.root}/pid
authz-regexp uid=([^,@]+)(@[^,]*)?,.*cn=auth "ldap:///dc=example,dc=com??sub?(|(uid=$1)(title=$1))"
authz-regexp uid=([^,@]+)(@[^,]*)?,cn=auth "ldap:///dc=example,dc=com??sub?(|(uid=$1)(title=$1))"
authz-policy to
database mdb
suffix dc=example,dc=com
rootdn cn=manager,dc=example,dc=com
rootpw managerpw
directory {self.root}/data
access to * by self write by * auth
"""
        )
        people = "".join(
            f"\ndn: uid={name},dc=example,dc=com\nobjectClass: inetOrgPerson\nuid: {name}\ncn: x\nsn: x\n"
            f"userPassword: {password}\ntitle: {name}-canonical\n{more}"
            for name, password, more in (
                ("alice", "secret", ""),
                ("hash", "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", ""),
                ("proxy", "proxypw", "authzTo: dn.regex:^uid=[^,]+,dc=example,dc=com$\n"),
            )
        )
        (self.root / "data.ldif").write_text(
            "dn: dc=example,dc=com\nobjectClass: dcObject\nobjectClass: organization\no: x\ndc: example\n"
            f"{people}"
        )
        self.run("slapadd", "-q", "-f", str(self.root / "slapd.conf"), "-l", str(self.root / "data.ldif"))

    def arguments(self) -> list[str]:
        return ["-f", str(self.root / "slapd.conf"), "-h", f"ldap://127.0.0.1:{self.port}", "-d", "0"]
