"""What is done to messages on their way into the queue: the parameters and tables of one cleanup service.

:class:`CleanupRules` are those that ``cleanup_service_name`` of an smtpd service leads to, read once in each
process.  Tables that can't be opened fail when they are asked; ``problems`` tells at once.
Raises :class:`~mtad.errors.ConfigError` for a value that can't be used.

Postfix counterpart: ``cleanup_init.c``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mtad.errors import ConfigError, MtadError
from mtad.mime.checks import Checks, is_header
from mtad.mime.events import MimeLimits, MimeOptions, Wants
from mtad.mime.names import HEADERS, MIME, RESENT
from mtad.rewrite.mapping import Limits, Mapper, Masquerade
from mtad.tables import StringList
from mtad.tables.maps import Maps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mtad.config.master_cf import Service
    from mtad.config.parameters import Parameters
    from mtad.maillog import MailLog
    from mtad.rewrite.address import Rewriter
    from mtad.rewrite.classes import AddressClasses

#: Where an address stands, as the ``*_classes`` parameters name it.
ENVELOPE_SENDER, ENVELOPE_RECIPIENT = "envelope_sender", "envelope_recipient"
HEADER_SENDER, HEADER_RECIPIENT = "header_sender", "header_recipient"
_CLASSES = (ENVELOPE_SENDER, ENVELOPE_RECIPIENT, HEADER_SENDER, HEADER_RECIPIENT)
_SENDERS = (ENVELOPE_SENDER, HEADER_SENDER)

_SPECIAL = frozenset(name for name, about in HEADERS.items() if about & RESENT) | frozenset(
    (b"received", b"tls-required", b"require-tls-esmtp")
)

#: The longest header where there are milters, who may not take more.
_FOR_MILTERS = 60000

#: Content is never cut between CR and LF.
STRAY_CR = re.compile(rb"\r(?!\n)")
_ESCAPE = re.compile(r"\\([0-7]{1,3}|.)", re.DOTALL)
_ESCAPED = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11}


def service_parameters(main: Parameters, services: Sequence[Service], name: str) -> Parameters:
    """The parameters of an internal service as master.cf has it; main.cf's where it is not there."""
    for service in services:
        if service.name == name and service.type == "unix":
            return main.for_service(service)
    return main


def detects_utf8(own: Parameters, source: str) -> bool:
    """Whether mail from ``source`` (``smtpd``, ``sendmail``), a service with the parameters ``own``, needs
    SMTPUTF8 where it looks so."""
    found = own.words("smtputf8_autodetect_classes")
    return source in found or "all" in found


class CleanupRules:
    """See the module."""

    def __init__(
        self,
        p: Parameters,
        rewriter: Rewriter,
        classes: AddressClasses | None,
        log: MailLog,
        *,
        milters: bool = False,
    ) -> None:
        """``classes`` None: nothing will be looked up.  ``milters``: SMTP clients' mail is shown to some."""
        self.rewriter = rewriter
        self.log = log
        self.myhostname = p["myhostname"]
        self._read_headers(p)
        self._read_content(p, log, milters or bool(p["non_smtpd_milters"].strip()))
        self._read_addresses(p, classes, log)
        # one for each kind of mail's place, in the order in which they are asked
        self.mapped = {place: self._mapped(p, place) for place in _CLASSES}
        masked = p.words("masquerade_classes") if self.masquerade is not None else []
        self.masked = frozenset(masked)
        self.rewrites = {place: bool(self.mapped[place]) or place in self.masked for place in _CLASSES}

    def _read_headers(self, p: Parameters) -> None:
        self.rewrites_remote = bool(p["remote_header_rewrite_domain"])
        self.always_complete = p.flag("always_add_missing_headers")
        self.hopcount_limit = p.number("hopcount_limit")
        self.tls_required = p.flag("tls_required_enable")
        self.requiretls_header = p.flag("requiretls_enable") and p.flag("requiretls_esmtp_header")
        self.long_queue_ids = p.flag("enable_long_queue_ids")
        self.undisclosed = p["undisclosed_recipients_header"].encode()
        self.undisclosed_fits = is_header(self.undisclosed)
        drop = frozenset(name.lower().encode() for name in p.words("message_drop_headers"))
        self.drop = frozenset(name for name in drop if not HEADERS.get(name, 0) & MIME)  # these stay
        self.special = self.drop | _SPECIAL  # headers that are never the usual ones
        self.token_limit = p.number("header_address_token_limit")
        self.obsolete_from = p.choice("header_from_format") == "obsolete"
        self.full_name_charset = p["full_name_encoding_charset"].encode()
        self.detect_8bit = p.flag("detect_8bit_encoding_header")

    def _read_content(self, p: Parameters, log: MailLog, milters: bool) -> None:
        header_limit = p.number("header_size_limit")
        self.limits = MimeLimits(
            header_size=header_limit if not milters else min(header_limit, _FOR_MILTERS),
            line_length=p.number("line_length_limit"),
            boundary_length=p.number("mime_boundary_length_limit"),
            nesting=p.number("mime_nesting_limit"),
        )
        self.checks = Checks(p, "", log.warning)
        self.body_checks_limit = p.number("body_checks_size_limit")
        self.end_of_headers = p["non_empty_end_of_header_action"]
        keep_cr = not p.flag("cleanup_replace_stray_cr_lf")
        self.rejected = _characters(p["message_reject_characters"], keep_cr)
        stripped = set(_unescaped(p["message_strip_characters"]))
        self.strips_cr = keep_cr and ord("\r") in stripped
        self.stripped = bytes(stripped - set(b"\r\n"))
        self.strips = self.strips_cr or bool(self.stripped)
        no_mime, convert = p.flag("disable_mime_input_processing"), p.flag("force_mime_input_conversion")
        if no_mime and convert:
            name = "force_mime_input_conversion"
            path, line = p.where(name)
            remedy = (
                "do not specify both disable_mime_input_processing=yes and force_mime_input_conversion=yes"
            )
            raise ConfigError("bad combination", path=path, line=line, parameter=name, remedy=remedy)
        wants = Wants.NO_MIME if no_mime else Wants.CONVERT if convert else Wants(0)
        self.unfiltered = MimeOptions(wants, self.limits)
        strict, headers = p.flag("strict_8bitmime"), p.flag("strict_7bit_headers")
        body, encoding = p.flag("strict_8bitmime_body"), p.flag("strict_mime_encoding_domain")
        strictly = (
            (Wants.EIGHT_BIT_HEADERS, strict or headers),
            (Wants.EIGHT_BIT_BODY, strict or body),
            (Wants.ENCODING, encoding),
            (Wants.END_OF_HEADERS, self.end_of_headers != "fix_quietly"),
            (Wants.NESTING, strict or headers or body or encoding or self.checks.headers),
        )
        if not no_mime:
            for want, yes in strictly:
                wants |= want if yes else Wants(0)
        if self.checks.body:
            wants |= Wants.RECORDS
        self.filtered = MimeOptions(wants, self.limits)

    def _read_addresses(self, p: Parameters, classes: AddressClasses | None, log: MailLog) -> None:
        def maps(name: str) -> Maps:
            return Maps(p[name], p.directory, title=name, warn=log.warning)

        self.smtputf8 = p.flag("smtputf8_enable")
        self.empty_recipient = p["empty_address_recipient"].encode()
        self.duplicate_limit = p.number("duplicate_filter_limit")
        self.original_recipient = p.flag("enable_original_recipient")
        is_local = classes.is_local_domain if classes is not None else None
        self.mapper = Mapper(self.rewriter, p["recipient_delimiter"], is_local)
        propagated = p.words("propagate_unmatched_extensions")
        self.propagate_canonical = "canonical" in propagated
        self.propagate_virtual = "virtual" in propagated
        self.canonical = maps("canonical_maps")
        self.sender_canonical = maps("sender_canonical_maps")
        self.recipient_canonical = maps("recipient_canonical_maps")
        self.masquerade: Masquerade | None = None
        self.spared: StringList | None = None
        if p["masquerade_domains"].strip():
            if p["masquerade_exceptions"].strip():
                text = p["masquerade_exceptions"]
                self.spared = StringList("masquerade_exceptions", text, p.directory, warn=log.warning)
            self.masquerade = Masquerade(p["masquerade_domains"], self.spared)
        self.virtual = maps("virtual_alias_maps")
        self.alias_limits = Limits(
            p.number("virtual_alias_expansion_limit"),
            p.number("virtual_alias_recursion_limit"),
            p.number("virtual_alias_address_length_limit"),
        )
        self.always_bcc = p["always_bcc"].encode()
        self.sender_bcc = maps("sender_bcc_maps")
        self.recipient_bcc = maps("recipient_bcc_maps")

    def _mapped(self, p: Parameters, place: str) -> list[Maps]:
        """The canonical tables for addresses in one place, in the order in which they are asked."""
        special = "sender" if place in _SENDERS else "recipient"
        first = self.sender_canonical if special == "sender" else self.recipient_canonical
        found = []
        if first and place in p.words(f"{special}_canonical_classes"):
            found.append(first)
        if self.canonical and place in p.words("canonical_classes"):
            found.append(self.canonical)
        return found

    def _maps(self) -> list[Maps]:
        return [
            self.canonical, self.sender_canonical, self.recipient_canonical, self.virtual, self.sender_bcc,
            self.recipient_bcc,
        ]  # fmt: skip

    @property
    def problems(self) -> list[tuple[str, MtadError]]:
        """The tables that can't be opened, each with its parameter."""
        found = [(maps.title, problem) for maps in self._maps() for problem in maps.problems]
        if self.spared is not None:
            found += [("masquerade_exceptions", problem) for problem in self.spared.problems]
        return found + self.checks.problems

    def close(self) -> None:
        """Let go of the tables."""
        for maps in self._maps():
            maps.close()
        if self.spared is not None:
            self.spared.close()
        self.checks.close()


def _unescaped(text: str) -> bytes:
    r"""``\0`` and the like as the characters that they stand for."""

    def value(m: re.Match[str]) -> str:
        escape = m[1]
        code = int(escape, 8) & 255 if escape[0] in "01234567" else _ESCAPED.get(escape, ord(escape))
        return chr(code)

    return _ESCAPE.sub(value, text).encode("latin-1", "replace")


def _characters(text: str, keep_cr: bool) -> re.Pattern[bytes] | None:
    """Any of these characters; LF is in no line, and CR, unless stray ones are kept, is in none either."""
    characters = set(_unescaped(text))
    found = bytes(characters - set(b"\r\n"))
    patterns = [b"[" + re.escape(found) + b"]"] if found else []
    if keep_cr and ord("\r") in characters:
        patterns.append(STRAY_CR.pattern)
    return re.compile(b"|".join(patterns)) if patterns else None
