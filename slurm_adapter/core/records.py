"""Records of jobs, of updates for users and UCloud, and of access tokens.

A job moves through four stages:

    claimed      it has an id; Slurm was given nothing
    submitting   sbatch may have been started; its answer has not been recorded
    submitted    its Slurm id is known
    ended        its state is final
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

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
    """Its name inside the job that names it, in lower case."""
    job_id: str


class Record(NamedTuple):
    """One job in the database. A tuple, because a sync may make ten thousands of them."""

    id: str
    origin: str
    """The provider's id for UCloud's jobs, `local` for others."""
    key: str | None
    """Idempotency key: the same submission is recognised by it when it comes again."""
    slurm_name: str
    """The job's name and comment in Slurm; unique over all sites and databases, and never used again.

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
    """The last status for its user."""
    slurm_id: int | None = None
    restarts: int = 0
    nodes: tuple[str, ...] = ()
    """Nodes of the present run, or of the last, in the order of ranks."""
    addresses: tuple[tuple[str, ...], ...] = ()
    """Addresses of each rank."""
    sbatch_started: float | None = None
    """When sbatch was last started."""
    missing_since: float | None = None
    """Since when a healthy controller has answered every sync that it does not know the job."""
    cancel_sent: float | None = None
    """When the adapter cancelled it on request."""
    started: float | None = None
    ended: float | None = None
    exit_code: int | None = None
    tasks: int = 0
    """Number of tasks of an array; 0 for other jobs, and for arrays older than this field."""
    logs_gone: float | None = None
    """When its logs were removed; see `slurm_adapter.jobs.retention`."""
    folder_gone: float | None = None
    """When its folder was removed."""
    cleanup_retry: float | None = None
    """When removing is tried again, because it failed."""
    hosts_digest: str | None = None
    """SHA-256 of the hosts view last written into the job's folder, if views are private."""
    has_hosts_file: bool = False
    """It has a hosts file of its own on its nodes; see `slurm_adapter.translation.script.NodeSettings`."""
    web_port: int | None = None
    """Port of its application's web interface on the node of a rank, if it has one."""
    vnc_port: int | None = None
    vnc_password: str | None = None
    interfaces: tuple[Interface, ...] = ()
    """Further interfaces, which its application's template declares."""
    output_folder: str | None = None
    """UCloud's path of its folder, if that lies in a drive."""
    unknown_since: float | None = None
    """Since when UCloud says that it does not know the job."""
    deleted_in_ucloud: float | None = None
    """When it was certain that UCloud has no such job: UCloud gets no further updates of it."""
    original: str | None = None
    """The JobSpecification that it was submitted with, if its peers were changed since."""
    cancel_requested: float | None = None
    """Since when a request to cancel it waits to be carried out."""
    peers_file: str = ""
    """Name of its hosts view in the shared folder `peers`."""
    created_at: int | None = None
    """UCloud's `createdAt` in milliseconds, from the `create` request."""
    attempts: int = 0
    """How often sbatch was started and its answer was lost."""
    answer: str = ""
    """Output of sbatch the last time that its answer was lost."""
    postponed: float | None = None
    """Since when Slurm refuses the job temporarily."""
    trouble: str = ""
    """Problem with its folder, for its user to fix."""
    close_after: float | None = None
    """When closing its folder is tried again, because it failed."""
    cluster: str = ""
    """Name of its cluster in the configuration. Empty: it was submitted before clusters had names."""
    lease: float | None = None
    """Until when the process that claimed it is expected to dispatch it; see `slurm_adapter.jobs.submit`."""
    peers: tuple[Peer, ...] = ()

    @property
    def run(self) -> str:
        """Name of one run of the job: Slurm's id and how often it was started again."""
        return f"{self.slurm_id}.{self.restarts}"


class RecordChange(TypedDict, total=False):
    """Fields of a record that may change after the claim, with their new values."""

    key: str | None
    specification: str
    original: str | None
    account: str
    time_limit: int
    web_port: int | None
    vnc_port: int | None
    stage: Stage
    state: JobState
    status: str
    slurm_id: int | None
    restarts: int
    nodes: tuple[str, ...]
    addresses: tuple[tuple[str, ...], ...]
    missing_since: float | None
    cancel_sent: float | None
    started: float | None
    ended: float | None
    exit_code: int | None
    hosts_digest: str | None
    attempts: int
    answer: str
    postponed: float | None
    lease: float | None


class ActiveJob(NamedTuple):
    """The few fields of a job that has not ended by which a sync judges one that stays alive; see `Record`."""

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
    """One update about a job, for its user and UCloud."""

    number: int
    job_id: str
    time: float
    state: JobState | None
    status: str
    delivered: float | None
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of UCloud's `JobUpdate`."""


@dataclass(frozen=True, slots=True)
class Amendment:
    """A change of a job that its user asked for, and the update about it; see `Store.amend`."""

    change: RecordChange
    text: str
    more: Mapping[str, Any]
    """See `Update.more`."""
    peers: tuple[Peer, ...] | None = None
    """Its peers after the change; None if they stay."""


@dataclass(frozen=True, slots=True)
class Token:
    """An access token of a user; see `slurm_adapter.jobs.user_tokens`."""

    name: str
    user: str
    """The UCloud user."""
    projects: tuple[str, ...]
    """Projects in which it may be used, in addition to the user's personal workspace."""
    created: float
    expires: float | None
    """None: never."""

    def expired(self, now: float) -> bool:
        """Return whether it can no longer be used."""
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
    """Return the job of a key or an id of UCloud. Raise `InvalidInput` if the specification is another one."""
    stored = known.original or known.specification
    if stored != specification and _as_written_now(stored) != specification:
        name = "key" if known.origin == STANDALONE else "id"
        raise InvalidInput(
            f"the {name} {known.key!r} belongs to job {known.id}, which has another specification; "
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
    """Yield records grouped by the account that runs them: a command runs as one account."""
    grouped: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        grouped[record.account].append(record)
    yield from sorted(grouped.items())
