"""Probe jobs of `check --job`: how they are known, and how they are removed without a trace.

A check that is killed leaves its probes. They end by themselves; the next `check --job`, or the first sync after
`LEFT_SECONDS`, cancels what still waits and removes folders and records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.core.errors import AdapterError
from slurm_adapter.core.records import Stage, by_account

if TYPE_CHECKING:
    from slurm_adapter.adapter import Adapter
    from slurm_adapter.jobs.report import Problems

NAME, VERSION = "slurm-adapter-probe", "1"
"""The application of a probe; no other job has it, for it is in no catalogue."""

LEFT_SECONDS = 900
"""A check takes less; probes that are older were left behind."""

_FACT = "probes since"


def begin(adapter: Adapter) -> None:
    """Note that there will be probes, before the first is submitted."""
    adapter.store.set_fact(_FACT, str(adapter.clock()))


def remove_left(adapter: Adapter, problems: Problems) -> None:
    """Remove probes of a check that was killed a while ago. What fails is a problem, and is tried again."""
    since = adapter.store.fact(_FACT)
    if since is None or adapter.clock() < float(since) + LEFT_SECONDS:
        return
    try:
        remove(adapter)
    except AdapterError as error:
        problems.accounts.append(f"probe jobs of `check --job` were not removed: {error}")


def remove(adapter: Adapter) -> list[str]:
    """Cancel all probes, and remove those that have ended. Return the ids of the others. Raises as `jobs.cancel`."""
    from slurm_adapter.cluster import job_folders  # noqa: PLC0415  # a sync with nothing to do does not load them
    from slurm_adapter.jobs import cancel  # noqa: PLC0415  # as above

    records = adapter.store.of_application(f"{NAME} {VERSION}")
    if live := [record.id for record in records if record.stage is not Stage.ENDED and record.cancel_sent is None]:
        cancel.cancel(adapter, live)
        records = adapter.store.of_application(f"{NAME} {VERSION}")
    gone = []
    for user, owned in by_account(record for record in records if record.stage is Stage.ENDED):
        left = job_folders.remove(adapter.transport, user, {record.folder: record.slurm_name for record in owned})
        gone += [record.id for record in owned if record.folder not in left]
    adapter.store.forget_ended(record.slurm_name for record in records if record.id in gone)
    if not (remaining := [record.id for record in records if record.id not in gone]):
        adapter.store.set_fact(_FACT, None)
    return remaining
