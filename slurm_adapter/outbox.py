"""What UCloud is yet to be told, from the database to a receiver.

Each update is in the database with the change that it tells of, in one transaction, and stays due until a receiver has
taken it. Per job the order is kept; a job that UCloud does not know does not hold back the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slurm_adapter.receivers.interface import Receiver
    from slurm_adapter.store import Store

AT_ONCE = 1000
"""UCloud's own limit of one bulk (`BulkRequest`, contract 1.2)."""


def deliver(store: Store, receiver: Receiver, now: float) -> None:
    """Tell what is due. Raises what the receiver raises; what was not taken by then stays due."""
    last = 0
    unknown: set[str] = set()
    while messages := store.due(after=last, limit=AT_ONCE):
        last = messages[-1].number
        # Once unknown, a job is passed over in this run: a later update must not overtake an earlier one.
        wanted = [message for message in messages if message.job_id not in unknown]
        if wanted:
            unknown |= receiver.tell(wanted)
            store.note_delivered([each.number for each in wanted if each.job_id not in unknown], now)
