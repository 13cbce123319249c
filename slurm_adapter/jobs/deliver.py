"""What UCloud is yet to be told, from the database to a receiver.

Each update is in the database with the change that it tells of, in one transaction, and stays due until a receiver has
taken it. Per job the order is kept; a job that UCloud does not know does not hold back the others
(`slurm_adapter.jobs.deleted_in_ucloud`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.core.errors import AdapterError, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurm_adapter.state.store import Store
    from slurm_adapter.ucloud.interface import Receiver

AT_ONCE = 100
"""How many updates go in one request: a job that UCloud does not know costs the others of its bulk two more."""


def preview(store: Store, now: float) -> list[str]:
    """What waits to be told, for somebody who looks; asks nobody."""
    length, oldest = store.outbox()
    if oldest is None:
        return []
    ids = list(dict.fromkeys(message.job_id for message in store.due(after=0, limit=AT_ONCE)))
    named = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 or length > AT_ONCE else "")
    return [f"UCloud is yet to be told {length} updates, the oldest of {now - oldest:.0f} seconds ago (jobs {named})"]


def deliver(store: Store, receiver: Receiver, now: float, stops: Callable[[], bool] = lambda: False) -> list[str]:
    """Tell what is due; what UCloud refused. Raises what the receiver raises; what was not taken by then stays due.

    So does what is left once `stops` says so, which is asked before each request.
    """
    last = 0
    problems: list[str] = []
    passed_over: set[str] = set()
    while not stops() and (messages := store.due(after=last, limit=AT_ONCE)):
        last = messages[-1].number
        # Once not taken, a job is passed over in this run: a later update must not overtake an earlier one.
        wanted = [message for message in messages if message.job_id not in passed_over]
        if not wanted:
            continue
        # One whose job's id was given to a new job meanwhile is told nobody any more.
        due = store.note_sent([message.number for message in wanted], sent=True)
        wanted = [message for message in wanted if message.number in due]
        numbers = [message.number for message in wanted]
        try:
            told = receiver.deliver(wanted)
        except Unknown:
            raise  # they are looked for before they are sent again
        except AdapterError:
            store.note_sent([message.number for message in wanted if message.fresh], sent=False)
            raise
        taken = {message.job_id for message in wanted if message.number in told.taken}
        store.note_delivered([number for number in numbers if number in told.taken], now)
        passed_over |= {message.job_id for message in wanted if message.number not in told.taken}
        # A bulk with an unknown job is refused before anything of it is done: there is nothing to look for.
        refused = [m for m in wanted if m.job_id in told.unknown and m.number not in told.taken and m.fresh]
        store.note_sent([message.number for message in refused], sent=False)
        store.note_unknown(told.unknown, now)
        store.note_unknown([id_ for id_, job in store.find(taken - told.unknown).items() if job.unknown_since], None)
        problems += told.problems
    return problems
