"""Who may send what: Postfix's restriction language.

Postfix counterpart: ``smtpd_check(3)``, ``access(5)``.
"""
