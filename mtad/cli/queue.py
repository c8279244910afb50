"""``mtad queue``: the queue as a whole.

``mtad queue check`` tells whether the database is sound; ``repair`` rescues what can be had of a damaged
one; ``import`` takes over what Postfix has in its queue directories; ``export`` writes mtad's queue there,
for Postfix to go on with.  All but ``check`` need the mail system, mtad or Postfix, to be stopped, and keep
both from starting meanwhile.  What is in the maildrop stays there: both take their mail from it.

Postfix counterpart: ``postsuper -s``; none for the moves.
"""

from __future__ import annotations

import getopt
import os
import sys
from collections.abc import Callable, Sequence

from mtad.cli.directory import load_parameters
from mtad.cli.voice import Fatal, Voice
from mtad.config.parameters import Parameters
from mtad.daemon.lock import MasterLock
from mtad.daemon.paths import Paths, hand_over, make_directories, owner
from mtad.errors import MtadError
from mtad.queue.blocking import BlockingStore
from mtad.queue.claims import Claims
from mtad.queue.ids import QueueIds
from mtad.queue.journal import doubt
from mtad.queue.postfix.files import LOGS, QUEUES, QueueDirectory
from mtad.queue.repair import check, repair
from mtad.queue.transfer import Count, Export, Import

#: Seconds for the queue manager of a master that was killed to end.
_PATIENCE = 30.0

USAGE = "usage: mtad queue [-c config_dir] check | repair | import | export"


def main(argv: Sequence[str]) -> int:
    """Run with the arguments behind the command's name; the exit status."""
    voice = Voice("mtad queue", "queue")
    try:
        try:
            options, words = getopt.gnu_getopt(list(argv), "c:")
        except getopt.GetoptError as error:
            raise Fatal(f"{error}; {USAGE}") from error
        if len(words) != 1 or words[0] not in _COMMANDS:
            raise Fatal(USAGE)
        p = load_parameters(dict(options).get("-c"))
        voice.log_to(p)
        return _COMMANDS[words[0]](p, voice)
    except (MtadError, OSError) as error:
        voice.fatal(str(error))
        return 1


def _check(p: Parameters, voice: Voice) -> int:
    if not os.path.exists(os.path.join(p["mtad_queue_directory"], "queue.db")):
        print("there is no queue yet")
        return 0
    problems = check(p["mtad_queue_directory"])
    for problem in problems:
        voice.warning(problem)
    if not problems:
        print("the queue is sound")
    return 1 if problems else 0


def _alone(
    p: Parameters, work: Callable[[Paths], int], prepare: Callable[[Parameters], None] = lambda p: None
) -> int:
    """Do ``work`` as the queue's owner while neither mail system can run; ``prepare`` as who we are."""
    who = owner(p)
    found = make_directories(p, who)
    lock = MasterLock(found.lock)
    try:
        hand_over(found, who)
        prepare(p)
        with who.acting():
            before = os.umask(0o077)
            claims = Claims(found.queue)
            try:
                claims.be_alone(_PATIENCE)
                return work(found)
            finally:
                claims.close()
                os.umask(before)
    finally:
        lock.release()


def _repair(p: Parameters, voice: Voice) -> int:
    def work(found: Paths) -> int:
        result = repair(found.queue)
        for name in result.lost:
            voice.warning(f"{name}: not rescued")
        voice.info(
            f"{result.rescued} messages rescued, {len(result.lost)} not; the old file is {result.kept}"
        )
        return 1 if result.lost else 0

    return _alone(p, work)


def _import(p: Parameters, voice: Voice) -> int:
    new_id = QueueIds(p.flag("enable_long_queue_ids")).next

    def work(found: Paths) -> int:
        with BlockingStore(found.queue) as queue:
            count = Import(queue, QueueDirectory.of(p), found.spool, new_id).run()
        return _tell(voice, "imported", count)

    return _alone(p, work)


def _make_queues(p: Parameters) -> None:
    """The directories of Postfix's queue, where it has never run."""
    who = owner(p)
    for name in (*QUEUES, *LOGS):
        path = os.path.join(p["queue_directory"], name)
        if not os.path.isdir(path):
            os.mkdir(path, 0o700)
            if os.geteuid() == 0:
                os.chown(path, who.uid, who.gid)


def _export(p: Parameters, voice: Voice) -> int:
    def work(found: Paths) -> int:
        with BlockingStore(found.queue) as queue:
            count = Export(queue, QueueDirectory.of(p), p.seconds("delay_warning_time")).run()
        return _tell(voice, "exported", count)

    return _alone(p, work, _make_queues)


def _tell(voice: Voice, what: str, count: Count) -> int:
    for old, new in count.renamed:
        voice.note(f"{new}: was {old}")
    for name, address in count.doubtful:
        voice.warning(doubt(name, address))
    for text in count.left:
        voice.warning(f"left alone: {text}")
    voice.info(f"{count.moved} message{'' if count.moved == 1 else 's'} {what}")
    sys.stderr.flush()
    return 1 if count.left else 0


_COMMANDS: dict[str, Callable[[Parameters, Voice], int]] = {
    "check": _check,
    "repair": _repair,
    "import": _import,
    "export": _export,
}
