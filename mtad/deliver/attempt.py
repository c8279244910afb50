"""A delivery under way.  Postfix counterpart: ``SMTP_STATE``."""

from __future__ import annotations

from collections.abc import Hashable

from mtad.deliver.failure import SessionFailure
from mtad.deliver.job import Job, Result
from mtad.deliver.security import Demands
from mtad.queue.message import Recipient


class Attempt:
    """Who is still to be served, and what came of the others."""

    __slots__ = (
        "broke_lines",
        "demands",
        "failure",
        "job",
        "keeps",
        "key",
        "loops",
        "mine",
        "pending",
        "result",
        "tried",
        "utf8",
    )

    def __init__(self, job: Job, key: Hashable, utf8: bool) -> None:
        self.job = job
        self.utf8 = utf8  # it takes a server that offers SMTPUTF8
        self.key = key
        self.pending: list[Recipient] = job.recipients
        self.result = Result()
        self.failure: SessionFailure | None = None
        self.demands = Demands()  # of the next hop under way
        self.broke_lines = False  # that was told
        self.mine = False  # this host is one that the mail is to go to
        self.tried = ""  # the address of a session that was used again
        self.keeps = False  # sessions for others to use
        self.loops = False  # the mail would come back to us
