"""What `sync` says: cron mails every line, so that a problem is told once, and once that all is well again."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from slurm_adapter.terminal import duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from slurm_adapter.store import Store
    from slurm_adapter.sync import Report

OUTAGE, UNTOLD = "outage", "outage of UCloud"
"""The facts under which the store remembers what was told of an outage."""

MOST_LINES = 40
"""Of one mail; an outage with a problem for each of a thousand jobs is told by its first ones."""


def outage_lines(store: Store, report: Report) -> list[str]:
    """What a pass has to tell: problems that were not told yet since all was well, or that all is well again.

    Two problems are the same where they differ in numbers only, such as how long something took.
    """
    begins = "this pass is incomplete; no job was changed without evidence:"
    return _news(store, OUTAGE, report.problems, begins, "this pass has more problems:", "passes are complete again")


def telling_lines(store: Store, problems: Sequence[str]) -> list[str]:
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
    lines += report.telling
    for what, records in (("logs", report.due.logs), ("folder", report.due.folders)):
        lines += [f"job {record.id}: its {what} in {record.folder} would be removed" for record in records]
    lines += [f"job {id_}: would no longer be remembered" for id_ in report.due.records]
    lines += [f"problem: {problem}" for problem in report.problems]
    return lines or ["nothing to do"]
