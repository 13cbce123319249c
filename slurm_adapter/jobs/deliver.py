"""Deliver queued updates from the database to UCloud.

Each update is stored with the change that it reports, in one transaction, and stays due until UCloud has accepted it.
Per job the order is kept; a job that UCloud does not know does not delay the others
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
"""Updates in one request: a job that UCloud does not know costs the others of its bulk two more requests."""


def preview(store: Store, now: float) -> list[str]:
    """Return what waits to be delivered. It does not ask UCloud."""
    length, oldest = store.outbox()
    if oldest is None:
        return []
    ids = list(dict.fromkeys(message.job_id for message in store.due(after=0, limit=AT_ONCE)))
    named = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 or length > AT_ONCE else "")
    return [f"{length} updates wait for delivery to UCloud, the oldest for {now - oldest:.0f} seconds (jobs {named})"]


def deliver(store: Store, receiver: Receiver, now: float, stops: Callable[[], bool] = lambda: False) -> list[str]:
    """Deliver the updates that are due. Return what UCloud refused. Raises as the receiver does.

    Updates that were not accepted by then stay due, and so do those that are left when `stops` returns True; it is
    asked before each request.
    """
    last = 0
    problems: list[str] = []
    skipped: set[str] = set()
    while not stops() and (messages := store.due(after=last, limit=AT_ONCE)):
        last = messages[-1].number
        # Updates of a job with a refused update are skipped in this run: a later one must not overtake it.
        wanted = [message for message in messages if message.job_id not in skipped]
        if not wanted:
            continue
        # Updates of a job with an id that was given to a new job meanwhile are not delivered.
        due = store.note_sent([message.number for message in wanted], sent=True)
        wanted = [message for message in wanted if message.number in due]
        numbers = [message.number for message in wanted]
        try:
            answer = receiver.deliver(wanted)
        except Unknown:
            raise  # they are looked for before they are sent again
        except AdapterError:
            store.note_sent([message.number for message in wanted if message.fresh], sent=False)
            raise
        taken = {message.job_id for message in wanted if message.number in answer.taken}
        store.note_delivered([number for number in numbers if number in answer.taken], now)
        skipped |= {message.job_id for message in wanted if message.number not in answer.taken}
        # A bulk with an unknown job is refused before anything of it is done: there is nothing to look for.
        refused = [m for m in wanted if m.job_id in answer.unknown and m.number not in answer.taken and m.fresh]
        store.note_sent([message.number for message in refused], sent=False)
        store.note_unknown(answer.unknown, now)
        store.note_unknown([id_ for id_, job in store.find(taken - answer.unknown).items() if job.unknown_since], None)
        problems += answer.problems
    return problems
