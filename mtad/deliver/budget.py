"""How much the queue manager may have in hand: messages, recipients, content.

:class:`Budget` counts them.  When all recipients are in hand that may be, each message still gets a few, so
that long lists do not keep out what comes after them.  Nothing is raised but ConfigError for a bad value.

Postfix counterpart: ``qmgr_message_active_limit``, ``qmgr_message_recipient_limit``,
``qmgr_message_recipient_minimum``.
"""

from __future__ import annotations

from collections.abc import Callable

from mtad.config.parameters import Parameters
from mtad.deliver.job import Active

#: Content of active messages that is kept in memory; beyond that it is read again when it is sent.
_CONTENT = 32 * 1024 * 1024
#: Recipients of a message that are read at a time.
_PORTION = 1000


class Budget:
    """See the module."""

    def __init__(self, p: Parameters, warn: Callable[[str], None]) -> None:
        self.messages = p.number("qmgr_message_active_limit")
        self._most = p.number("qmgr_message_recipient_limit")
        if self._most < self.messages:
            name = "qmgr_message_recipient_limit"
            warn(f"{name} is smaller than qmgr_message_active_limit - adjusting {name}")
            self._most = self.messages
        self._least = p.number("qmgr_message_recipient_minimum")
        self._recipients = 0
        self._content = 0

    def room(self, active: int) -> int:
        """How many more messages may be taken in hand by who has so many."""
        return self.messages - active

    def portion(self) -> int:
        """How many recipients of a message may be read now."""
        return max(min(self._most - self._recipients, _PORTION), self._least)

    def low(self) -> int:
        """More recipients of a message are read when so few of it are in hand: none, if there is no room."""
        return _PORTION // 2 if self._most - self._recipients >= _PORTION // 2 else 0

    def take(self, active: Active) -> None:
        """A message is in hand: keep its content while there is room for it."""
        message = active.message
        if message.content is not None:
            if self._content + len(message.content) > _CONTENT:
                message.content = None
            else:
                active.held = len(message.content)
                self._content += active.held

    def open(self, active: Active, recipients: int) -> None:
        """So many more of its recipients are in hand; less than none: so many are not any more."""
        active.open += recipients
        self._recipients += recipients

    def drop(self, active: Active) -> None:
        """A message is in hand no more."""
        self._content -= active.held
        self._recipients -= active.open
