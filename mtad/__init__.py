"""mtad: a mail submission daemon that takes Postfix's place on the same configuration."""

__version__ = "0.1.0"

#: The Postfix release whose behaviour mtad follows; shown as ``$mail_version``.
POSTFIX_VERSION = "3.11.6"
