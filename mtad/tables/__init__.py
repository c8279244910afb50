"""Lookup tables: ``open_table("hash:/etc/postfix/virtual")`` and what is built from them.

Postfix counterpart: ``dict(3)``, ``maps(3)``, ``match_list(3)``.
"""

from mtad.tables.maps import Maps
from mtad.tables.match import AddressList, DomainList, StringList
from mtad.tables.registry import open_table
from mtad.tables.table import Table

__all__ = ["AddressList", "DomainList", "Maps", "StringList", "Table", "open_table"]
