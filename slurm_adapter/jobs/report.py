"""Results of a sync, and the lines that `sync` prints about them.

Cron mails every line, so a problem is reported once, and its end is reported once.
"""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slurm_adapter.core.durations import duration
from slurm_adapter.core.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from slurm_adapter.core.records import ActiveJob, Record, RecordChange
    from slurm_adapter.state.store import Store

OUTAGE, UNDELIVERED = "outage", "outage of UCloud"
"""Facts with the problems of an outage that were reported."""

MOST_LINES = 40
"""Lines of one mail; of an outage with a thousand problems the first ones are reported."""


@dataclass(frozen=True, slots=True)
class Problems:
    """Problems that a sync has met so far."""

    site: list[str] = field(default_factory=list)
    accounts: list[str] = field(default_factory=list)
    """See `Report.account_problems`."""

    @contextmanager
    def noting(self, what: str) -> Iterator[None]:
        """Turn a failure of the block into a problem of the site, and go on."""
        try:
            yield
        except AdapterError as error:
            self.site.append(f"could not {what}: {error}")


@dataclass(frozen=True, slots=True)
class Due:
    """Data of ended jobs that has been kept long enough."""

    logs: tuple[Record, ...] = ()
    folders: tuple[Record, ...] = ()
    records: Mapping[str, str] = field(default_factory=dict)
    """Ids of jobs that are removed from the database, by Slurm name: an id may pass to another job."""
    unclosed: tuple[Record, ...] = ()
    """Jobs with folders that could not be closed at their end."""


@dataclass(frozen=True, slots=True)
class Report:
    """Results of a sync, or with `--dry-run` the plan of one."""

    changes: tuple[tuple[ActiveJob | Record, RecordChange], ...] = ()
    """Jobs before the sync, and their changes."""
    limits: tuple[tuple[Record, int], ...] = ()
    """Jobs with other time limits in Slurm than in the database, and these, in seconds."""
    submitted: tuple[str, ...] = ()
    cancelled: tuple[tuple[str, int], ...] = ()
    """Jobs with Slurm jobs that were cancelled: surplus ones, and those that go on although they were cancelled."""
    delivery: tuple[str, ...] = ()
    """Updates that wait for UCloud; only with `--dry-run`, which does not ask UCloud."""
    due: Due = field(default_factory=Due)
    """Data that was removed of jobs that ended long ago."""
    problems: tuple[str, ...] = ()
    """Problems of the whole site; the sync was incomplete."""
    account_problems: tuple[str, ...] = ()
    """Problems of one job or one account. Users can cause them, so they prove nothing about the site."""

    @property
    def changed(self) -> tuple[tuple[ActiveJob | Record, ActiveJob | Record], ...]:
        """Jobs before and after, in the order of their ids."""
        in_order = sorted(self.changes, key=lambda change: (len(change[0].id), change[0].id))
        return tuple((job, job._replace(**change)) for job, change in in_order)  # type: ignore[misc]  # see `plan._alive`


def outage_lines(store: Store, report: Report) -> list[str]:
    """Return what to report of a sync: problems that are new since the last good one, or that all is well again.

    Two problems are the same if they differ in numbers only, such as durations.
    """
    begins = "this sync is incomplete; no job was changed without evidence:"
    return _news(store, OUTAGE, report.problems, begins, "this sync has more problems:", "syncs are complete again")


def delivery_lines(store: Store, problems: Sequence[str]) -> list[str]:
    """Return what to report of deliveries to UCloud, in the same way."""
    begins = "Updates to UCloud are delayed:"
    return _news(
        store,
        UNDELIVERED,
        problems,
        begins,
        "more problems with updates to UCloud:",
        "updates to UCloud are delivered again",
    )


def _news(store: Store, fact: str, problems: Sequence[str], begins: str, more: str, ends: str) -> list[str]:
    known = store.fact(fact)
    reported = set(json.loads(known)) if known is not None else set()
    fresh = [problem for problem in problems if _kind(problem) not in reported]
    if fresh:
        store.set_fact(fact, json.dumps(sorted(reported | set(map(_kind, fresh)))))
        return [f"slurm-adapter: {more if reported else begins}", *_at_most(fresh)]
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
    """Return what a sync would do, a line for each action."""
    lines = []
    for old, new in report.changed:
        states = f"{old.state} -> {new.state}" if old.state is not new.state else f"stays {new.state}"
        lines.append(f"job {new.id}: {states}: {new.status}")
    lines += [f"job {record.id}: its time limit in Slurm is {duration(limit)}" for record, limit in report.limits]
    lines += [f"job {id_}: would be submitted to Slurm" for id_ in report.submitted]
    lines += [f"job {id_}: its Slurm job {slurm_id} would be cancelled" for id_, slurm_id in report.cancelled]
    lines += report.delivery
    for what, records in (("logs", report.due.logs), ("folder", report.due.folders)):
        lines += [f"job {record.id}: its {what} in {record.folder} would be removed" for record in records]
    lines += [f"job {id_}: would be removed from the database" for id_ in report.due.records.values()]
    lines += [f"problem: {problem}" for problem in report.problems]
    lines += [f"problem of one account: {problem}" for problem in report.account_problems]
    return lines or ["nothing to do"]
