"""``mtad saslauthd``: passwords checked for others over a UNIX socket, as Cyrus' daemon of that name does.

``server`` has the processes and the socket, ``wire`` the protocol, ``backends`` the ways to check,
``cache`` the credentials that were right a short while ago.
"""
