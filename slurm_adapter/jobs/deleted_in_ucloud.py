"""Jobs that came from UCloud, and that it does not know any more.

UCloud deletes a job if its `create` was answered late or with an error, and the job may run here anyway. While the
answer is under way, UCloud does not know such a job either: a job is given up only after it denied it twice, minutes
apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.core.errors import AdapterError
from slurm_adapter.core.plan import MANY, MANY_OF_ALL
from slurm_adapter.core.records import Stage
from slurm_adapter.jobs import cancel

if TYPE_CHECKING:
    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.records import Record
    from slurm_adapter.ucloud.interface import Receiver

UNKNOWN_SECONDS = 120
"""How long UCloud must not have known a job before it is asked for the last time."""

ASK_SECONDS = 600
"""Interval at which it is asked for all its jobs: it may have deleted one without updates."""

_ASKED = "existence asked"
"""The fact with the time of that."""


def end_orphans(adapter: Adapter, receiver: Receiver, *, allow_mass_end: bool = False) -> list[str]:
    """Cancel and close jobs that UCloud does not know any more. Return the problems.

    Many at once are more likely a mistake, such as a UCloud that was restored from a backup: they are held back, as in
    `slurm_adapter.core.plan`, unless `allow_mass_end`. Raises what the receiver raises.
    """
    store, now = adapter.store, adapter.clock()
    ours = store.expected()
    asked = float(store.fact(_ASKED) or 0)
    if ours and not asked <= now < asked + ASK_SECONDS:
        known = receiver.exists(ours)
        store.note_unknown([id_ for id_ in ours if id_ not in known], now)
        store.set_fact(_ASKED, str(now))
    doubtful = store.unknown_since(now - UNKNOWN_SECONDS)
    if not doubtful:
        return []
    known = receiver.exists([record.id for record in doubtful])
    store.note_unknown(known, None)
    # Updates that are still due were refused a moment ago.
    denied = sorted(known & {message.job_id for message in store.due(after=0, limit=1000)})
    named = ", ".join(denied[:5])
    problems = [f"UCloud has jobs {named}, and accepts no updates of them from this provider"] if denied else []
    orphans = [record for record in doubtful if record.id not in known]
    if not allow_mass_end and len(orphans) > max(MANY, MANY_OF_ALL * len({*ours, *(record.id for record in orphans)})):
        named = ", ".join(record.id for record in orphans[:5])
        text = (
            f"UCloud no longer knows {len(orphans)} jobs ({named}, ...), too many to cancel without a check; nothing "
            "was done about them. If that is right, `slurm-adapter sync --allow-mass-end` cancels them"
        )
        return [*problems, text]
    return problems + _give_up(adapter, orphans)


def preview(adapter: Adapter) -> list[str]:
    """Return what may happen to jobs that UCloud has denied. It asks neither UCloud nor Slurm."""
    lines = []
    for record in adapter.store.unknown_since(now := adapter.clock()):
        left = (record.unknown_since or now) + UNKNOWN_SECONDS - now
        when = "now" if left <= 0 else f"in {left:.0f} seconds"
        lines.append(f"job {record.id}: UCloud did not know it; it is cancelled if UCloud, asked {when}, says so again")
    return lines


def _give_up(adapter: Adapter, orphans: list[Record]) -> list[str]:
    problems: list[str] = []
    alive = [record for record in orphans if record.stage is not Stage.ENDED]
    try:
        if alive:
            cancel.cancel_records(adapter, alive)
    except AdapterError as error:
        problems.append(f"could not cancel jobs that UCloud no longer knows: {error}")
    # One that could not be cancelled stays as it is, and the next sync finds it again.
    done = [record.id for record in adapter.store.again(orphans) if record.stage is Stage.ENDED or record.cancel_sent]
    text = "UCloud no longer has this job: it is cancelled, and UCloud gets no updates about it"
    adapter.store.note_deleted_in_ucloud(done, text, adapter.clock())
    return problems
