"""Addresses made complete, and sorted into Postfix's classes.

Postfix counterpart: ``trivial-rewrite(8)``.
"""
