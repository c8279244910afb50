"""Milters: the MTA's side of Sendmail's mail filter protocol, versions 2 to 6.

From the bytes up: :mod:`wire` (packets), :mod:`link` (one connection), :mod:`specs` (what main.cf says),
:mod:`client` (one filter, from connect to quit), :mod:`macros` (what filters are told beside the events),
:mod:`edits` (what they may change of a message), :mod:`chain` (all filters of one session).

Postfix counterpart: ``src/milter``, ``cleanup_milter.c``.
"""
