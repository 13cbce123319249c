"""What `sync` says: cron mails every line, so that there is one when an outage begins, and one when it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slurm_adapter.store import Store
    from slurm_adapter.sync import Report

OUTAGE = "outage"
"""The fact under which the store remembers that an outage was told."""


def outage_lines(store: Store, report: Report) -> list[str]:
    """What a pass has to tell: that an outage began, with all its problems, or that it is over."""
    told = store.fact(OUTAGE)
    if report.problems:
        if told is None:
            store.set_fact(OUTAGE, "told")
            return ["slurm-adapter: this pass is incomplete; no job was changed without evidence:", *report.problems]
        return []
    if told is not None:
        store.set_fact(OUTAGE, None)
        return ["slurm-adapter: passes are complete again"]
    return []


def plan_lines(report: Report) -> list[str]:
    """What a pass would do, a line for each thing."""
    lines = []
    for old, new in report.changed:
        states = f"{old.state} -> {new.state}" if old.state is not new.state else f"stays {new.state}"
        lines.append(f"job {new.id}: {states}: {new.status}")
    lines += [f"job {id_}: would be handed to Slurm" for id_ in report.submitted]
    lines += [f"job {id_}: its surplus Slurm job {slurm_id} would be cancelled" for id_, slurm_id in report.cancelled]
    lines += [f"problem: {problem}" for problem in report.problems]
    return lines or ["nothing to do"]
