"""Milters: the MTA's side of Sendmail's mail filter protocol, versions 2 to 6.

From the bytes up: :mod:`wire` (packets), :mod:`link` (one connection), :mod:`specs` (what main.cf says),
:mod:`edits` (a message that may be changed), :mod:`changes` (how a filter changes it), :mod:`client` (one
filter, from connect to quit), :mod:`chain` (all filters of one session), :mod:`service` (those of an smtpd).
What they are told is in :mod:`session` and, of mail of this host, :mod:`local`; what they say of a message is
carried out by :mod:`message` and :mod:`envelope`.

Postfix counterpart: ``src/milter``, ``cleanup_milter.c``.
"""
