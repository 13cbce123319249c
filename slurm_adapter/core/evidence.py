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
    translate,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slurm_adapter.core.observation import Observation
    from slurm_adapter.core.records import ActiveJob

CLOSED = "closed"
"""What `owner` names for a job that is final: nothing runs any more."""


CANCELLED = "cancelled"
"""What `owner` names where a job was cancelled before anything ran: nothing will."""


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """What a job's own script says of its end."""

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
    """What stands in a job's folder."""

    exists: bool
    owner: str | None = None
    """What the fence names: a Slurm id, `closed`, `cancelled`; None where it was not made yet."""
    exits: tuple[ExitRecord, ...] = ()
    sluid: str = ""
    """The unique id that Slurm gave the last run, if its version does; of an array, only its exit records tell."""
    trouble: str = ""
    """Why it could not be looked into. It then counts as one that is gone."""
    tried: bool = True
    """It was tried just now. Otherwise its account is left alone for a while, and the trouble may be over."""
    more: bool = False
    """There are more exit records than the job has tasks; the others were not read."""
    since: int | None = field(default=None, compare=False)
    """When the fence was made, by the file system's clock: the start of the job's first run, if it names a Slurm id."""


def slurm_id(owner: str | None) -> int | None:
    """The Slurm id that a fence names; None where it names none. Its folder's user can make it say anything."""
    named = int(owner) if owner is not None and re.fullmatch(r"[1-9][0-9]{0,9}", owner) else None
    return named if named is not None and named <= LARGEST_SLURM_ID else None


def read_exit(text: str) -> ExitRecord | None:
    """An exit record's JSON. None for anything else: a user can write into his job's folder what he likes."""
    try:
        data = json.loads(text)
        task, reason, ended = data["task"], data["reason"], float(data["ended_at"])
        if not 0 <= ended < 1e11:  # NaN too; what nobody can show as a time is none
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
"""How long accounting may lag behind the queue before the queue's word is taken alone."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a pass has learned."""

    now: float
    records: tuple[Record, ...]
    """Every job that has not ended, but those that live on."""
    peers: Mapping[str, Record]
    """The jobs that they name as peers, by id; ended ones too."""
    rows: Mapping[str, tuple[Observation, ...]] | None
    """What the queue says, by token; None where it could not be asked."""
    alive: tuple[ActiveJob, ...] = ()
    """Jobs that live on, and of which Slurm does not say just what is remembered; see `lives_on`."""
    renamed: frozenset[str] = frozenset()
    """Jobs whose Slurm id is alive for their account under a strange name: renamed, or the id came round again."""
    silence_counts: bool = False
    """A job that is not in the queue's answer is not in the queue: this account sees everybody's jobs."""
    unnamed: frozenset[str] = frozenset()
    """Accounts that the cluster does not know now: of their jobs alone the queue's silence says nothing."""
    history: Mapping[int, tuple[Observation, ...]] | None = field(default_factory=dict)
    """What accounting says of the jobs that it was asked about, by Slurm id; None where it could not be asked."""
    accounting: bool = True
    """Whether the site has accounting at all."""
    inside: Mapping[str, FolderContents] = field(default_factory=dict)
    """What stands in the folders of the jobs that were looked at, by job id."""
    addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of nodes, by name."""
    states: Mapping[str, JobState] = field(default_factory=lambda: MappingProxyType({}))
    """The site's own table."""
    message_timeout: int = 10
    lost_after: int = 3600
    attempts: int = 5
    """How often sbatch is started for a job if its answer is lost."""
    others: int = 0
    """How many jobs that have not ended are not in `records`."""
    submitted: Mapping[str, int] = field(default_factory=dict)
    """How many jobs of each account were given to Slurm and have not ended."""
    end_many: bool = False
    """Somebody has looked, and many jobs may end of which Slurm itself does not say so."""


def lives_on(job: ActiveJob, rows: tuple[Observation, ...]) -> bool:
    """Whether a job waits or runs, and nothing else is to be seen to: Slurm's one row tells all that becomes of it.

    So it is with nearly all jobs in nearly all passes. Nothing more is read of them, in the database or elsewhere.
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
    """Whether Slurm's row of a job that lives on says just what is remembered."""
    verdict = translate(row, states)
    if (verdict.state, row.restarts) != (job.state, job.restarts):
        return False
    if verdict.state is JobState.IN_QUEUE:
        return (job.status, job.nodes, job.addresses, job.started) == (verdict.text, (), (), None)
    known = not row.nodes or (row.nodes == job.nodes and len(job.addresses) == len(job.nodes))
    return known and row.started in {None, job.started}


def is_plainly_alive(job: ActiveJob | Record, rows: tuple[Observation, ...]) -> bool:
    """Whether Slurm has this job, once and under the id that is remembered: nobody else has to be asked about it."""
    if len(rows) != 1 or job.stage != Stage.SUBMITTED:
        return False
    return rows[0].slurm_id == job.slurm_id and live_row(rows[0])


def live_row(row: Observation) -> bool:
    """Whether Slurm still has something to do with this job: it waits, runs, or is being put away."""
    return canonical(row.state) in LIVE


def needs_look(record: Record, rows: tuple[Observation, ...] | None) -> bool:
    """Whether a job's folder has to be looked into: it has ended or vanished, or Slurm has several jobs for it."""
    if rows is None or (record.stage is Stage.CLAIMED and not rows):
        return False
    ids = {row.slurm_id for row in rows}
    return not any(live_row(row) for row in rows) or len(ids) > 1 or (record.slurm_id or next(iter(ids))) not in ids


def own_slurm_id(record: Record, rows: tuple[Observation, ...], inside: FolderContents | None) -> int | None:
    """The Slurm job that is the job's own: the one that its fence names, else the one that is remembered or listed."""
    ids = {row.slurm_id for row in rows}
    if (owner := slurm_id(inside.owner if inside else None)) is not None:
        return owner
    if inside is not None and inside.owner == CLOSED:
        ran = {slurm_id(str(exit_.slurm_id)) for exit_ in inside.exits} - {None}
        if ran and record.slurm_id not in ran:
            return next(iter(ran))  # it has run and ended: the database is an older one
    return record.slurm_id if record.slurm_id in ids or not ids else min(ids)


def needs_history(record: Record, rows: tuple[Observation, ...] | None, kept: int | None) -> bool:
    """Whether accounting has to be asked: the queue has forgotten a job, or does not tell who cancelled it."""
    if rows is None or kept is None:
        return False
    own = [row for row in rows if row.slurm_id == kept]
    cancelled = any(row.state == "CANCELLED" for row in own) and record.cancel_sent is None
    # Of an array the queue may have forgotten some tasks already.
    return not own or ((cancelled or record.array) and not any(live_row(row) for row in own))
