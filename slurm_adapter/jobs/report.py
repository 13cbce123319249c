"""What a pass did, and what `sync` says of it.

Cron mails every line, so that a problem is told once, and once that all is well again.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slurm_adapter.core.durations import duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from slurm_adapter.core.records import ActiveJob, Record, RecordChange
    from slurm_adapter.state.store import Store

OUTAGE, UNTOLD = "outage", "outage of UCloud"
"""The facts under which the store remembers what was told of an outage."""

MOST_LINES = 40
"""Of one mail; an outage with a problem for each of a thousand jobs is told by its first ones."""


@dataclass(frozen=True, slots=True)
class Problems:
    """What a sync could not learn or do, as it goes."""

    site: list[str] = field(default_factory=list)
    accounts: list[str] = field(default_factory=list)
    """See `Report.account_problems`."""


@dataclass(frozen=True, slots=True)
class Due:
    """What has been kept for its time."""

    logs: tuple[Record, ...] = ()
    folders: tuple[Record, ...] = ()
    records: Mapping[str, str] = field(default_factory=dict)
    """The ids of jobs that are no longer remembered, by Slurm name: an id may pass to another job."""
    unclosed: tuple[Record, ...] = ()
    """Jobs whose folders could not be closed at their end."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a pass did, or with `--dry-run` would have done."""

    changes: tuple[tuple[ActiveJob | Record, RecordChange], ...] = ()
    """Jobs before, and what became of them."""
    limits: tuple[tuple[Record, int], ...] = ()
    """Jobs with other time limits in Slurm than remembered, and these, in seconds."""
    submitted: tuple[str, ...] = ()
    cancelled: tuple[tuple[str, int], ...] = ()
    """Jobs of which Slurm jobs were cancelled, surplus ones or such as did not end when told to, and these."""
    delivery: tuple[str, ...] = ()
    """What is between UCloud and this program; with `--dry-run` alone, which does not ask UCloud."""
    due: Due = field(default_factory=Due)
    """What was removed of jobs that ended long ago."""
    problems: tuple[str, ...] = ()
    """What could not be learned or done for reasons that concern the whole site; the sync was incomplete."""
    account_problems: tuple[str, ...] = ()
    """What concerns one job or one account alone. Users can cause it, so it says nothing about the site."""

    @property
    def changed(self) -> tuple[tuple[ActiveJob | Record, ActiveJob | Record], ...]:
        """Jobs before and after, in the order of their ids."""
        in_order = sorted(self.changes, key=lambda change: (len(change[0].id), change[0].id))
        return tuple((job, job._replace(**change)) for job, change in in_order)  # type: ignore[misc]  # see `plan._alive`


def outage_lines(store: Store, report: Report) -> list[str]:
    """What a pass has to tell: problems that were not told yet since all was well, or that all is well again.

    Two problems are the same where they differ in numbers only, such as how long something took.
    """
    begins = "this pass is incomplete; no job was changed without evidence:"
    return _news(store, OUTAGE, report.problems, begins, "this pass has more problems:", "passes are complete again")


def delivery_lines(store: Store, problems: Sequence[str]) -> list[str]:
    """The same of what stands between this program and UCloud."""
    begins = "UCloud is not told all; it is kept:"
    return _news(store, UNTOLD, problems, begins, "there are more problems with UCloud:", "UCloud is told all again")


def _news(store: Store, fact: str, problems: Sequence[str], begins: str, more: str, ends: str) -> list[str]:
    known = store.fact(fact)
    told = set(json.loads(known)) if known is not None else set()
    fresh = [problem for problem in problems if _kind(problem) not in told]
    if fresh:
        store.set_fact(fact, json.dumps(sorted(told | set(map(_kind, fresh)))))
        return [f"slurm-adapter: {more if told else begins}", *_at_most(fresh)]
    if known is not None and not problems:
        store.set_fact(fact, None)
        return [f"slurm-adapter: {ends}"]
    return []


def _kind(problem: str) -> str:
    return re.sub(r"\d+", "0", problem)[:200]


def _at_most(problems: Sequence[str]) -> Iterator[str]:
    yield from problems[:MOST_LINES]
    if len(problems) > MOST_LINES:
        yield f"and {len(problems) - MOST_LINES} more"


def plan_lines(report: Report) -> list[str]:
    """What a pass would do, a line for each thing."""
    lines = []
    for old, new in report.changed:
        states = f"{old.state} -> {new.state}" if old.state is not new.state else f"stays {new.state}"
        lines.append(f"job {new.id}: {states}: {new.status}")
    lines += [f"job {record.id}: its time limit in Slurm is {duration(limit)}" for record, limit in report.limits]
    lines += [f"job {id_}: would be handed to Slurm" for id_ in report.submitted]
    lines += [f"job {id_}: its Slurm job {slurm_id} would be cancelled" for id_, slurm_id in report.cancelled]
    lines += report.delivery
    for what, records in (("logs", report.due.logs), ("folder", report.due.folders)):
        lines += [f"job {record.id}: its {what} in {record.folder} would be removed" for record in records]
    lines += [f"job {id_}: would no longer be remembered" for id_ in report.due.records.values()]
    lines += [f"problem: {problem}" for problem in report.problems]
    lines += [f"problem of one account: {problem}" for problem in report.account_problems]
    return lines or ["nothing to do"]
