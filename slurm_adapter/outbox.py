"""What UCloud is yet to be told, from the database to a receiver; and jobs that it does not know any more.

Each update is in the database with the change that it tells of, in one transaction, and stays due until a receiver has
taken it. Per job the order is kept; a job that UCloud does not know does not hold back the others.

UCloud deletes a job whose `create` was answered late or with an error (contract 3.2), and it may run here all the same.
While the answer is under way UCloud denies such a job, too: only what it denies twice, minutes apart, is given up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter import jobs
from slurm_adapter.errors import AdapterError, Unknown
from slurm_adapter.plan import MANY, MANY_OF_ALL
from slurm_adapter.store import STANDALONE, Stage

if TYPE_CHECKING:
    from slurm_adapter.receivers.interface import Receiver
    from slurm_adapter.site import Site
    from slurm_adapter.store import Record, Store

AT_ONCE = 100
"""How many updates go in one request: a job that UCloud does not know costs the others of its bulk two more."""

UNKNOWN_SECONDS = 120
"""How long UCloud must not have known a job before it is asked for the last time."""

ASK_SECONDS = 600
"""How often it is asked for all its jobs: it may have deleted one of which there is nothing to tell."""

_ASKED = "existence asked"
"""The fact that tells when that was."""


def deliver(store: Store, receiver: Receiver, now: float) -> list[str]:
    """Tell what is due; what UCloud refused. Raises what the receiver raises; what was not taken by then stays due."""
    last = 0
    problems: list[str] = []
    passed_over: set[str] = set()
    while messages := store.due(after=last, limit=AT_ONCE):
        last = messages[-1].number
        # Once not taken, a job is passed over in this run: a later update must not overtake an earlier one.
        wanted = [message for message in messages if message.job_id not in passed_over]
        if not wanted:
            continue
        numbers = [message.number for message in wanted]
        store.note_sent(numbers, sent=True)
        try:
            told = receiver.tell(wanted)
        except Unknown:
            raise  # they are looked for before they are sent again
        except AdapterError:
            store.note_sent([message.number for message in wanted if message.fresh], sent=False)
            raise
        taken = {message.job_id for message in wanted if message.number in told.taken}
        store.note_delivered([number for number in numbers if number in told.taken], now)
        passed_over |= {message.job_id for message in wanted if message.number not in told.taken}
        store.note_unknown(told.unknown, now)
        store.note_unknown([id_ for id_, job in store.find(taken - told.unknown).items() if job.unknown_since], None)
        problems += told.problems
    return problems


def settle(site: Site, receiver: Receiver, *, end_many: bool = False) -> list[str]:
    """Cancel and close jobs that UCloud does not know any more; what stood in the way.

    Many at once are more likely a mistake, such as a UCloud that was restored from a backup: they are held back, as in
    `slurm_adapter.plan`, unless `end_many`. Raises what the receiver raises.
    """
    store, now = site.store, site.clock()
    ours = [record for record in store.active() if record.origin != STANDALONE and record.gone is None]
    asked = float(store.fact(_ASKED) or 0)
    if ours and not asked <= now < asked + ASK_SECONDS:
        known = receiver.known([record.id for record in ours])
        store.note_unknown([record.id for record in ours if record.id not in known], now)
        store.set_fact(_ASKED, str(now))
    doubtful = store.unknown_since(now - UNKNOWN_SECONDS)
    if not doubtful:
        return []
    known = receiver.known([record.id for record in doubtful])
    store.note_unknown(known, None)
    orphans = [record for record in doubtful if record.id not in known]
    if not end_many and len(orphans) > max(MANY, MANY_OF_ALL * len({record.id for record in (*ours, *orphans)})):
        named = ", ".join(record.id for record in orphans[:5])
        text = (
            f"UCloud knows {len(orphans)} jobs no more ({named}, ...), more than are ended unasked; nothing was done "
            "about them. Where that is right, `slurm-adapter sync --end-many` cancels them"
        )
        return [text]
    return _give_up(site, orphans)


def _give_up(site: Site, orphans: list[Record]) -> list[str]:
    problems: list[str] = []
    alive = [record.id for record in orphans if record.stage is not Stage.ENDED]
    try:
        if alive:
            jobs.cancel(site, alive)
    except AdapterError as error:
        problems.append(f"could not cancel jobs that UCloud knows no more: {error}")
    # One that could not be cancelled stays as it is, and the next pass finds it again.
    done = [r.id for r in site.store.find(r.id for r in orphans).values() if r.stage is Stage.ENDED or r.cancelled]
    text = "UCloud has no such job any more: its end was asked for, and nobody is told of it"
    site.store.note_gone(done, text, site.clock())
    return problems
