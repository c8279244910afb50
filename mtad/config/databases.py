"""Parameters of database clients, where they stand in main.cf or in a file of their own.

``ldap:accounts`` makes ``accounts_server_host`` and its like known in main.cf; ``ldap:/etc/postfix/x.cf`` has
``server_host`` and its like in that file.  :class:`TableWalk` finds such tables in an expanded value, as
deep inside braces as they may be, and notes what is odd on the way.  It raises nothing.

Postfix counterpart: ``postconf_dbms.c``, ``mystrtokq_cw()``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from mtad.config.lines import LIST_SEPARATORS, SPACE, logical_lines, read_text, split_assignment
from mtad.errors import ConfigError

#: What each client knows.
CLIENTS: dict[str, frozenset[str]] = {
    kind: frozenset(names.split())
    for kind, names in {
        "ldap": """
            bind bind_dn bind_pw cache cache_expiry cache_size chase_referrals debuglevel dereference domain
            expansion_limit leaf_result_attribute query_filter recursion_limit result_attribute result_filter
            result_format sasl_authz_id sasl_mechs sasl_minssf sasl_realm scope search_base server_host
            server_port size_limit special_result_attribute start_tls terminal_result_attribute timeout
            tls_ca_cert_dir tls_ca_cert_file tls_cert tls_cipher_suite tls_key tls_random_file
            tls_require_cert version""",
        "memcache": """
            backup data_size_limit domain flags key_digest key_format line_size_limit max_try memcache
            retry_pause timeout ttl""",
        "mongodb": """
            collection dbname domain expansion_limit projection query_filter result_attribute
            result_format uri""",
        "mysql": """
            additional_conditions charset dbname domain expansion_limit hosts idle_interval option_file
            option_group password query require_result_set result_format retry_interval select_field table
            tls_CAfile tls_CApath tls_cert_file tls_ciphers tls_key_file tls_verify_cert user where_field""",
        "pgsql": """
            additional_conditions dbname domain encoding expansion_limit hosts idle_interval password query
            result_format retry_interval select_field select_function table user where_field""",
        "sqlite": """
            additional_conditions dbpath domain expansion_limit query result_format select_field table
            where_field""",
    }.items()
}

#: Tables whose inline form has patterns, in which ``#`` is no comment.
_PATTERNS = ("regexp", "pcre")
#: Tables that only stand before another one.
_ADAPTERS = ("proxy", "debug")


class TableWalk:
    """The walk through values.

    ``prefix`` is told (client, name) of each table whose parameters are in main.cf; ``odd`` gathers what is
    wrong with braces and comments; ``unused`` what a client's own file says and nobody reads.
    """

    def __init__(self, prefix: Callable[[str, str], None]) -> None:
        self._prefix = prefix
        self.odd: list[str] = []
        self.unused: list[str] = []
        self._read: set[str] = set()

    def value(self, text: str, blame: str) -> None:
        """Look at a value; ``blame`` names its file in ``odd``."""
        self._value(text, blame, True)

    def _value(self, text: str, blame: str, deeper: bool) -> None:
        for word in self._words(text, blame):
            if word[0] == "{":
                inside = self._inside(word, blame)
                if deeper:
                    self._value(inside, blame, True)
                continue
            kind, colon, name = word.partition(":")
            while colon and kind in _ADAPTERS:
                kind, colon, name = name.partition(":")
            if not colon or name.startswith("."):
                continue
            if name.startswith("/"):
                if kind in CLIENTS:
                    self._client(kind, name)
            elif name.startswith("{"):
                self._value(self._inside(name, blame), blame, deeper and kind not in _PATTERNS)
            elif kind in CLIENTS:
                self._prefix(kind, name)

    def _words(self, text: str, blame: str) -> Iterator[str]:
        """Words between commas and blanks, braces kept together; a comment ends them."""
        start, level = -1, 0
        for position, char in enumerate(f"{text} "):
            if char in LIST_SEPARATORS and (level == 0 or position == len(text)):
                if start >= 0:
                    word = text[start:position]
                    if word[0] == "#":
                        rest = text[position + 1 :][:20]
                        self.odd.append(
                            f"{blame}: #comment after other text is not allowed: {word} {rest}..."
                        )
                        return
                    yield word
                start = -1
                continue
            if start < 0:
                start = position
            if char == "{":
                level += 1
            elif char == "}" and level > 0:
                level -= 1

    def _inside(self, word: str, blame: str) -> str:
        level = 0
        for position, char in enumerate(word):
            level += (char == "{") - (char == "}")
            if level == 0:
                if position != len(word) - 1:
                    self.odd.append(f"{blame}: syntax error after '}}' in \"{word}\"")
                return word[1:position]
        self.odd.append(f"{blame}: missing '}}' in \"{word}\"")
        return word[1:]

    def _client(self, kind: str, path: str) -> None:
        """The client's file, once."""
        spec = f"{kind}:{path}"
        if spec in self._read:
            return
        self._read.add(spec)
        if not os.path.isfile(path):
            why = "not a regular file" if os.path.exists(path) else "No such file or directory"
            self.odd.append(f'open "{kind}" configuration "{path}": {why}')
            return
        if not os.access(path, os.R_OK):
            return
        try:
            lines = list(logical_lines(read_text(path), path, self.odd))
        except ConfigError:
            return
        settings: dict[str, str] = {}
        for _, line in lines:
            try:
                name, value = split_assignment(line.strip(SPACE))
            except ValueError:
                continue
            settings[name] = value
        self.unused += [
            f"{spec}: unused parameter: {name}={value}"
            for name, value in settings.items()
            if name not in CLIENTS[kind]
        ]
