"""Evidence about a job: what Slurm, accounting and the job's folder say."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from slurm_adapter.core.durations import whole_minutes
from slurm_adapter.core.observation import LARGEST_SLURM_ID
from slurm_adapter.core.records import Record, Stage
from slurm_adapter.core.states import (
    LIVE,
    JobState,
    cannot_log_in,
    canonical,
    interpret,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slurm_adapter.core.observation import Observation
    from slurm_adapter.core.records import ActiveJob

CLOSED = "closed"
"""Target of `owner` for a job that is final: nothing runs any more."""


CANCELLED = "cancelled"
"""Target of `owner` for a job that was cancelled before anything ran: nothing will."""


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """Exit record: what a job's own script says of its end."""

    slurm_id: int
    restarts: int
    task: str | None
    exit_code: int
    ended: float
    reason: str | None
    """Why the script gave up before it started the application."""
    sluid: str = ""
    """The unique id that Slurm gave this run, if its version does."""


@dataclass(frozen=True, slots=True)
class FolderContents:
    """Contents of a job's folder."""

    exists: bool
    owner: str | None = None
    """Target of the fence: a Slurm id, `closed` or `cancelled`; None if there is no fence yet."""
    exits: tuple[ExitRecord, ...] = ()
    sluid: str = ""
    """The unique id that Slurm gave the last run, if its version does; of an array, only exit records have it."""
    trouble: str = ""
    """Why it could not be read. It then counts as one that is gone."""
    tried: bool = True
    """It was tried just now. Otherwise its account is in back-off, and the trouble may be over."""
    more: bool = False
    """There are more exit records than the job has tasks; the others were not read."""
    since: int | None = field(default=None, compare=False)
    """When the fence was made, by the file system's clock: the start of the job's first run, if it names a Slurm id."""


def slurm_id(owner: str | None) -> int | None:
    """Return the Slurm id that a fence names, or None. The folder's user can make it say anything."""
    named = int(owner) if owner is not None and re.fullmatch(r"[1-9][0-9]{0,9}", owner) else None
    return named if named is not None and named <= LARGEST_SLURM_ID else None


def read_exit(text: str) -> ExitRecord | None:
    """Parse an exit record's JSON. Return None for anything else: a user can write anything into the job's folder."""
    try:
        data = json.loads(text)
        task, reason, ended = data["task"], data["reason"], float(data["ended_at"])
        if not 0 <= ended < 1e11:  # NaN too; a number that cannot be shown as a time is not one
            return None
        return ExitRecord(
            slurm_id=int(data["slurm_id"]),
            restarts=int(data["restart"]),
            task=None if task is None else str(task),
            exit_code=int(data["exit_code"]) & 0xFF,
            ended=ended,
            reason=None if reason is None else " ".join(str(reason).split())[:500],
            sluid=str(data.get("sluid") or "")[:100],
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


ACCOUNTING_SECONDS = 60
"""How long accounting may lag behind the queue before the queue alone decides."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that a sync has learned."""

    now: float
    records: tuple[Record, ...]
    """All jobs that have not ended, without those that simply stay alive."""
    peers: Mapping[str, Record]
    """The jobs that they name as peers, by id, including ended ones."""
    rows: Mapping[str, tuple[Observation, ...]] | None
    """Rows of the queue, by Slurm name; None if it could not be asked."""
    alive: tuple[ActiveJob, ...] = ()
    """Jobs that stay alive, with rows that differ from their records; see `lives_on`."""
    renamed: frozenset[str] = frozenset()
    """Jobs with a Slurm id that is alive for their account under another name: renamed, or the id was reused."""
    silence_counts: bool = False
    """A job that is not in the queue's answer is not in the queue: this account sees everybody's jobs."""
    unnamed: frozenset[str] = frozenset()
    """Accounts that the cluster does not know now: for their jobs alone the queue's silence proves nothing."""
    history: Mapping[int, tuple[Observation, ...]] | None = field(default_factory=dict)
    """Rows of accounting for the jobs that it was asked about, by Slurm id; None if it could not be asked."""
    accounting: bool = True
    """The site has accounting."""
    inside: Mapping[str, FolderContents] = field(default_factory=dict)
    """Contents of the job folders that were read, by job id."""
    addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Addresses of nodes, by name."""
    states: Mapping[str, JobState] = field(default_factory=lambda: MappingProxyType({}))
    """The site's own table of states."""
    message_timeout: int = 10
    lost_after: int = 3600
    attempts: int = 5
    """How often sbatch is started for a job if its answer is lost."""
    others: int = 0
    """How many jobs that have not ended are not in `records`."""
    submitted: Mapping[str, int] = field(default_factory=dict)
    """How many jobs of each account were given to Slurm and have not ended."""
    allow_mass_end: bool = False
    """An administrator has looked: many jobs may end that Slurm itself does not confirm as ended."""


def lives_on(job: ActiveJob, rows: tuple[Observation, ...]) -> bool:
    """Return whether Slurm's row alone describes this job, so that no further lookup is needed.

    It does for nearly all jobs in nearly all syncs. Nothing more is read about them, in the database or elsewhere.
    """
    if not is_plainly_alive(job, rows):
        return False
    [row] = rows
    if (
        job.cancel_sent is not None
        or job.missing_since is not None
        or job.cancel_requested is not None
        or row.task is not None
    ):
        return False
    if cannot_log_in(row):
        return False
    limit = row.time_limit
    return limit is None or limit == job.time_limit or limit == whole_minutes(job.time_limit)


def is_as_remembered(job: ActiveJob, row: Observation, states: Mapping[str, JobState]) -> bool:
    """Return whether Slurm's row of a job that stays alive says the same as its record."""
    verdict = interpret(row, states)
    if (verdict.state, row.restarts) != (job.state, job.restarts):
        return False
    if verdict.state is JobState.IN_QUEUE:
        return (job.status, job.nodes, job.addresses, job.started) == (verdict.text, (), (), None)
    known = not row.nodes or (row.nodes == job.nodes and len(job.addresses) == len(job.nodes))
    return known and row.started in {None, job.started}


def is_plainly_alive(job: ActiveJob | Record, rows: tuple[Observation, ...]) -> bool:
    """Return whether Slurm has this job once, under the recorded id: nothing else has to be asked about it."""
    if len(rows) != 1 or job.stage != Stage.SUBMITTED:
        return False
    return rows[0].slurm_id == job.slurm_id and live_row(rows[0])


def live_row(row: Observation) -> bool:
    """Return whether Slurm still handles this job: it waits, runs, or is completing."""
    return canonical(row.state) in LIVE


def needs_look(record: Record, rows: tuple[Observation, ...] | None) -> bool:
    """Return whether a job's folder must be read: it has ended or vanished, or Slurm has several jobs for it."""
    if rows is None or (record.stage is Stage.CLAIMED and not rows):
        return False
    ids = {row.slurm_id for row in rows}
    return not any(live_row(row) for row in rows) or len(ids) > 1 or (record.slurm_id or next(iter(ids))) not in ids


def own_slurm_id(record: Record, rows: tuple[Observation, ...], inside: FolderContents | None) -> int | None:
    """Return the id of the job's own Slurm job: the one that its fence names, else the recorded or listed one."""
    ids = {row.slurm_id for row in rows}
    if (owner := slurm_id(inside.owner if inside else None)) is not None:
        return owner
    if inside is not None and inside.owner == CLOSED:
        ran = {slurm_id(str(exit_.slurm_id)) for exit_ in inside.exits} - {None}
        if ran and record.slurm_id not in ran:
            return next(iter(ran))  # it has run and ended: the database was restored from a backup
    return record.slurm_id if record.slurm_id in ids or not ids else min(ids)


def needs_history(record: Record, rows: tuple[Observation, ...] | None, kept: int | None) -> bool:
    """Return whether accounting must be asked: the queue forgot a job, or does not show who cancelled it."""
    if rows is None or kept is None:
        return False
    own = [row for row in rows if row.slurm_id == kept]
    cancelled = any(row.state == "CANCELLED" for row in own) and record.cancel_sent is None
    # Of an array the queue may have forgotten some tasks already.
    return not own or ((cancelled or record.array) and not any(live_row(row) for row in own))
