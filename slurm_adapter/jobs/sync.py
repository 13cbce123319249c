"""A sync: reconcile jobs with Slurm, remove what was kept long enough, and deliver updates to UCloud.

A sync with nothing to do asks neither Slurm nor UCloud, and loads little: cron starts one every minute.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import AdapterError
from slurm_adapter.jobs import deliver, probes, retention
from slurm_adapter.jobs.report import Problems, Report

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurm_adapter.adapter import Adapter

COLLECT_AFTER = 70_000
"""New objects; Python's own habit is 700."""


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """Result of delivering updates."""

    problems: tuple[str, ...] = ()
    away: bool = False
    """UCloud was not reached, or denied access: a retry must wait."""


def sync(adapter: Adapter, *, dry_run: bool = False, allow_mass_end: bool = False, delivering: bool = True) -> Report:
    """Sync once. The caller holds the lock (`Adapter.sync_lock`).

    `allow_mass_end`: see `Evidence.allow_mass_end`. `delivering`: deliver updates to UCloud, too; else the caller does
    that, by `deliver_updates`. What cannot be asked or written is in the report's problems, and the rest is done
    anyway. Raises only what the database raises, and `InvalidConfig` before anything is done.
    """
    _collect_rarely()
    receiver = adapter.receiver
    jobs = adapter.store.active_jobs()
    report = Report()
    if jobs or not adapter.store.hosts_are_written():
        from slurm_adapter.jobs.reconcile import reconcile

        report = reconcile(adapter, jobs, dry_run=dry_run, allow_mass_end=allow_mass_end)
    report = replace(report, due=retention.find_due(adapter))
    if dry_run:
        return report if receiver is None else replace(report, delivery=_preview_delivery(adapter))
    problems = Problems(list(report.problems), list(report.account_problems))
    retention.remove(adapter, report.due, problems)
    probes.remove_left(adapter, problems)
    delivered = deliver_updates(adapter, allow_mass_end=allow_mass_end) if delivering and receiver is not None else None
    problems.site.extend(delivered.problems if delivered is not None else ())
    return replace(report, problems=tuple(problems.site), account_problems=tuple(problems.accounts))


def deliver_updates(
    adapter: Adapter, *, allow_mass_end: bool = False, stops: Callable[[], bool] = lambda: False
) -> DeliveryReport | None:
    """Deliver the updates that are due, and settle jobs that only one side knows.

    Return None if another process does that, or if `stops` returns True in between. It does not hold the lock of syncs,
    so that syncs do not wait for a UCloud that hangs. Raises only what the database raises.
    """
    receiver = adapter.receiver
    if receiver is None:
        return DeliveryReport()
    from slurm_adapter.jobs import deleted_in_ucloud, unknown_here

    with adapter.delivery_lock(wait=allow_mass_end) as ours:
        if not ours:
            return None
        problems: list[str] = []
        try:
            problems += deliver.deliver(adapter.store, receiver, adapter.clock(), stops)
            if stops():
                return None
            problems += deleted_in_ucloud.end_orphans(adapter, receiver, allow_mass_end=allow_mass_end)
            problems += unknown_here.end_doubted(adapter, receiver, allow_mass_end=allow_mass_end)
        except AdapterError as error:
            return DeliveryReport((*problems, f"could not deliver updates to UCloud: {error}"), away=True)
        return DeliveryReport(tuple(problems))


def _preview_delivery(adapter: Adapter) -> tuple[str, ...]:
    from slurm_adapter.jobs import deleted_in_ucloud, unknown_here

    doubt = unknown_here.doubts(adapter)
    return (
        *deliver.preview(adapter.store, adapter.clock()),
        *deleted_in_ucloud.preview(adapter),
        *([doubt] if doubt else []),
    )


def _collect_rarely() -> None:
    """Let Python look for garbage in cycles a hundred times more rarely, from now on and in the whole process.

    A sync makes some ten thousands of objects without cycles, and looking at them took a quarter of its time.
    """
    first, *others = gc.get_threshold()
    if 0 < first < COLLECT_AFTER:
        gc.set_threshold(COLLECT_AFTER, *others)
