"""What is remembered of jobs, of what users are told of them, and of tokens.

A job moves through four stages:

    claimed      it has an id; nothing was handed to Slurm
    submitting   sbatch may have been started; its answer has not been recorded
    submitted    its Slurm id is known
    ended        its state is final, for good
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.core.states import JobState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from slurm_adapter.core.interfaces import Interface

STANDALONE = "local"
"""The origin of jobs that do not come from UCloud."""


class Stage(StrEnum):
    """How far a job has come; see the module."""

    CLAIMED = "claimed"
    SUBMITTING = "submitting"
    SUBMITTED = "submitted"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Peer:
    """Another job that a job names."""

    hostname: str
    """What the job calls it, in lower case."""
    job_id: str


class Record(NamedTuple):
    """One job as it is remembered. A tuple, for a pass may make ten thousands of them."""

    id: str
    origin: str
    """The provider's id for UCloud's jobs, `local` for others."""
    key: str | None
    """By which the same submission is recognised when it comes again."""
    slurm_name: str
    """The job's name and comment in Slurm; unique over all sites and stores, and never used again.

    It stays, while the id of a UCloud job can pass to another job: see `Store.claim`.
    """
    owner: str
    """The UCloud user."""
    project: str | None
    account: str
    """The account on the cluster that runs it."""
    folder: str
    application: str
    """`name version`."""
    specification: str
    """The JobSpecification as JSON."""
    labels: str
    """UCloud's labels as JSON."""
    replicas: int
    time_limit: int
    """Seconds."""
    array: bool
    """Each replica is a task of an array; see `tasks`."""
    created: float
    """Seconds since the epoch, as are all times here."""
    stage: Stage = Stage.CLAIMED
    state: JobState = JobState.IN_QUEUE
    status: str = ""
    """What the user was last told."""
    slurm_id: int | None = None
    restarts: int = 0
    nodes: tuple[str, ...] = ()
    """Of the present run, or of the last, in the order of ranks."""
    addresses: tuple[tuple[str, ...], ...] = ()
    """Of each rank."""
    sbatch_started: float | None = None
    """When sbatch was last started."""
    missing_since: float | None = None
    """Since when every pass has had a healthy controller say that it knows nothing of the job."""
    cancel_sent: float | None = None
    """When its end was asked for through the adapter."""
    started: float | None = None
    ended: float | None = None
    exit_code: int | None = None
    tasks: int = 0
    """How many an array has; 0 where there is none, or it is older than this field."""
    logs_gone: float | None = None
    """When its logs were removed; see `slurm_adapter.jobs.retention`."""
    folder_gone: float | None = None
    """When its folder was removed."""
    cleanup_retry: float | None = None
    """Removing failed, and is tried again then."""
    hosts_digest: str | None = None
    """The SHA-256 of the view last written into the job's folder, where views are private."""
    has_hosts_file: bool = False
    """It has a hosts file of its own on its nodes; see `slurm_adapter.translation.script.NodeSettings`."""
    web_port: int | None = None
    """Where its application's web interface listens on the node of a rank, if it has one."""
    vnc_port: int | None = None
    vnc_password: str | None = None
    interfaces: tuple[Interface, ...] = ()
    """Further interfaces, which its application's template declares."""
    output_folder: str | None = None
    """Its folder as UCloud names it, where that lies in a drive."""
    unknown_since: float | None = None
    """Since when UCloud says that it knows no such job."""
    deleted_in_ucloud: float | None = None
    """When it was sure that UCloud has no such job: it is told nothing more of it."""
    original: str | None = None
    """The JobSpecification that it was handed in with, where its peers were changed since."""
    cancel_requested: float | None = None
    """Since when its end is wanted; nobody has carried that out yet."""
    peers_file: str = ""
    """The name of its hosts view in the shared folder `peers`."""
    created_at: int | None = None
    """UCloud's `createdAt` in milliseconds, as `create` brought it."""
    attempts: int = 0
    """How often sbatch was started and its answer was lost."""
    answer: str = ""
    """What sbatch said the last time that its answer was lost."""
    postponed: float | None = None
    """Since when Slurm refuses the job only for now."""
    trouble: str = ""
    """What stands in the way of seeing to its folder, for its user to mend."""
    close_after: float | None = None
    """Closing its folder failed, and is tried again then."""
    cluster: str = ""
    """Name of its cluster in the configuration. Empty: it was submitted before clusters had names."""
    peers: tuple[Peer, ...] = ()

    @property
    def run(self) -> str:
        """Names one run of the job: Slurm's id and how often it was started again."""
        return f"{self.slurm_id}.{self.restarts}"


class ActiveJob(NamedTuple):
    """The little of a job that has not ended by which a pass judges one that lives on; see `Record`."""

    id: str
    slurm_name: str
    account: str
    slurm_id: int | None
    cancel_sent: float | None
    missing_since: float | None
    cancel_requested: float | None
    time_limit: int
    status: str
    restarts: int
    started: float | None
    stage: Stage
    state: JobState
    nodes: tuple[str, ...]
    addresses: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Update:
    """One thing that UCloud and the user are told of a job."""

    number: int
    job_id: str
    time: float
    state: JobState | None
    status: str
    delivered: float | None
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of UCloud's `JobUpdate` (contract 1.14)."""


@dataclass(frozen=True, slots=True)
class Amendment:
    """What becomes of a job by a wish of its user, and what users are told of it; see `Store.amend`."""

    values: Mapping[str, Any]
    """Fields of `Record`; at least one that is not `peers`."""
    text: str
    more: Mapping[str, Any]
    """See `Update.more`."""


@dataclass(frozen=True, slots=True)
class Token:
    """What is remembered of a user's token; see `slurm_adapter.jobs.user_tokens`."""

    name: str
    user: str
    """The UCloud user."""
    projects: tuple[str, ...]
    """In which it may be used, besides the user's personal workspace."""
    created: float
    expires: float | None
    """None: never."""

    def expired(self, now: float) -> bool:
        """Whether it is of no use any more."""
        return self.expires is not None and self.expires <= now


OLDER_SECONDS = 300
"""How far UCloud's clock may be ahead of this machine's; see `has_new_id`."""


def has_new_id(known: Record, created_at: int | None) -> bool:
    """Return whether a `create` with the id of a known job is for a new job.

    A server of UCloud that is killed while it creates a job forgets it. After its restart it gives the same id to the
    next job, which has another `createdAt`. A repeated `create` has the same one.

    Jobs of older programs have no `createdAt`. Their ids are new if UCloud made the job after this program took the old
    one; UCloud repeats a `create` for 30 seconds at most.
    """
    if known.origin == STANDALONE or created_at is None:
        return False
    if known.created_at is not None:
        return known.created_at != created_at
    return created_at / 1000 > known.created + OLDER_SECONDS


def same_job(known: Record, specification: str) -> Record:
    """The job that a key or UCloud's id belongs to. Raises `InvalidInput` where it comes with another specification."""
    stored = known.original or known.specification
    if stored != specification and _as_written_now(stored) != specification:
        name = "key" if known.origin == STANDALONE else "id"
        raise InvalidInput(
            f"the {name} {known.key!r} belongs to job {known.id}, whose specification is another one; "
            f"use a new {name} for a new job"
        )
    return known


def _as_written_now(specification: str) -> str:
    """Return a stored specification as this program writes it: an older program may have known fewer fields."""
    from slurm_adapter.core.specification import JobSpecification

    with suppress(ValueError):
        return JobSpecification.model_validate_json(specification).model_dump_json(by_alias=False)
    return specification


def by_account(records: Iterable[Record]) -> Iterator[tuple[str, list[Record]]]:
    """Records grouped by the account that runs them: a command runs as one account."""
    grouped: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        grouped[record.account].append(record)
    yield from sorted(grouped.items())
