"""The content of messages: headers, MIME parts, and what is checked or changed in them.

Postfix counterpart: ``mime_state(3)``, ``header_body_checks(3)``.
"""
