"""The interface of schedulers: dispatch jobs, cancel them, and read their states.

All methods are in bulk: one command for all jobs, never one per job. `Outcome` is a closed set of types for the results
of a dispatch. A lost answer is one of these types and not an exception, so that no caller can forget it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slurm_adapter.cluster.schedulers.versions import Versions
    from slurm_adapter.core.directives import Directive
    from slurm_adapter.core.errors import AdapterError
    from slurm_adapter.core.observation import Observation


PING_SECONDS = 5.0
"""Timeout of a ping of the controller."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A job to dispatch. Its folder and script exist."""

    slurm_name: str
    """The job's name and comment in Slurm, by which a lost job is found again."""
    user: str
    """The account that runs the job."""
    folder: str
    """The job's folder, with `job.sbatch`."""
    directives: tuple[Directive, ...]
    """The script's `#SBATCH` lines as data."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """Slurm has the job."""

    slurm_id: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """Slurm, or the site's own sbatch, refused the job permanently, with these `words`."""

    words: str
    certain: bool = True
    """True if the words prove that Slurm has no such job. Otherwise only the fence makes the refusal true."""


@dataclass(frozen=True, slots=True)
class Postponed:
    """Slurm refused the job temporarily, because of a limit or a state that passes, with these `words`."""

    words: str


@dataclass(frozen=True, slots=True)
class NotStarted:
    """sbatch was not started, because Slurm is out of reach or busy. The same job may be dispatched again."""

    why: str
    slow: bool = False
    """True if Slurm accepts jobs and only the time did not suffice for this one."""


@dataclass(frozen=True, slots=True)
class InDoubt:
    """sbatch was started, and its answer was lost: Slurm may have the job, or may still get it."""

    why: str


Outcome = Accepted | Rejected | Postponed | NotStarted | InDoubt


@dataclass(frozen=True, slots=True)
class Listing:
    """The answer of `Scheduler.queue`."""

    observations: tuple[Observation, ...]
    sees_others: bool
    """True if this account is proven to see other users' jobs (PrivateData in slurm.conf(5)).

    Otherwise a job's absence from the listing proves nothing.
    """
    unnamed: frozenset[str] = frozenset()
    """Accounts that the cluster does not know. The absence of their jobs proves nothing."""


@dataclass(frozen=True, slots=True)
class Load:
    """The sum of the resources and jobs of some partitions."""

    cpus: int
    """Processors of the nodes that accept jobs. A node in several partitions counts once."""
    memory: int
    """Bytes."""
    used_cpus: int
    """Processors that jobs of any partition use; at most `cpus`."""
    used_memory: int
    running: int
    """Running and suspended jobs and tasks of arrays that this account may see."""
    pending: int


@dataclass(frozen=True, slots=True)
class NodeShape:
    """The resources of a node for jobs, whether or not it is up and free now."""

    cpus: int
    memory: int
    """Bytes."""
    gpus: tuple[tuple[str, int], ...]
    """Type and number of its GPUs, sorted by type; the type is empty if the site gives none."""
    features: frozenset[str]
    """Available features (`--constraint`)."""


@dataclass(frozen=True, slots=True)
class Partition:
    """The limits of a partition: slurm.conf(5), or `scontrol update`."""

    name: str
    state: str
    """`UP`, `DOWN` (jobs wait), `DRAIN` or `INACTIVE` (new jobs are refused)."""
    default: bool
    """True if jobs that name no partition run there."""
    max_time: int | None
    """Seconds; None for no limit, here and in the next two."""
    max_nodes: int | None
    max_cpus_per_node: int | None
    allow_accounts: frozenset[str] | None
    """Slurm accounts that may use it; None for all."""
    deny_accounts: frozenset[str]
    """Empty if `allow_accounts` is set: Slurm ignores it then. The same holds for the next two."""
    allow_qos: frozenset[str] | None
    deny_qos: frozenset[str]
    oversubscribe: str
    """`NO`, `EXCLUSIVE`, `FORCE` or `YES`."""
    shapes: Mapping[NodeShape, int]
    """The shapes of its nodes, and how many nodes have each."""
    hidden_nodes: int
    """Number of nodes that Slurm counts but does not show, such as powered-down CLOUD nodes; their shape is unknown."""


class Scheduler(Protocol):
    """A connection to one Slurm cluster.

    All methods except `submit` and `set_time_limits` raise `TryAgain` if nothing was done, and `Unknown` if the answer
    was lost or cannot be read; the caller then knows nothing about any job. `set_time_limits`, `suspend` and `resume`
    need the rights of an operator of Slurm. They also raise `Refused`, with Slurm's words.
    """

    def submit(self, submissions: Sequence[Submission]) -> list[Outcome]:
        """Dispatch jobs, each at most once. Return their outcomes in the same order. Raises no error itself.

        If the jobs are too many for `DISPATCH_SECONDS`, the last of them are `NotStarted`.
        """
        ...

    def cancel(self, jobs: Mapping[int, str]) -> None:
        """Cancel jobs, given by id with their accounts. Unknown and finished jobs are ignored.

        Like `set_time_limits`, `suspend` and `resume` it acts on ids alone. So the caller has just seen in `queue` that
        each id is of the intended job, by account and name.
        """
        ...

    def queue(self, users: Sequence[str]) -> Listing:
        """Return all jobs of these accounts that the controller knows, with those that ended (squeue(1)).

        Accounts are compared by uid. A row has the account's name as in `users`; if several names have one uid, there
        is a row for each name. Raises `InvalidConfig` if Slurm is too old.
        """
        ...

    def history(self, slurm_ids: Sequence[int]) -> tuple[Observation, ...] | None:
        """Return the last run of each of these jobs from accounting (sacct(1)); None without accounting.

        A row has an account's name as in the call of `queue`, if that had the account.
        """
        ...

    def longest(self, slurm_ids: Sequence[int]) -> Mapping[int, int | None]:
        """Return the longest time limit in seconds that each job's partition allows; None if there is no limit.

        Slurm itself allows an operator any time limit. Jobs that the controller does not know are left out.
        """
        ...

    def load(self, partitions: Sequence[str]) -> Load:
        """Return the load of these partitions (scontrol(1), squeue(1)). A missing partition has no resources."""
        ...

    def set_time_limits(self, limits: Mapping[int, int]) -> Mapping[int, AdapterError]:
        """Set time limits in seconds of jobs, with all their tasks that have not ended. Slurm rounds up to minutes.

        The limits are absolute: of parallel `scontrol update TimeLimit=+N` some are lost (measured), because scontrol
        itself reads the limit and adds to it. All jobs are tried. Returns an error, as other methods raise, for each
        job that may not have its limit. Raises no error itself.
        """
        ...

    def suspend(self, slurm_ids: Sequence[int]) -> None:
        """Suspend running jobs, with all their running tasks. Suspended jobs and pending tasks are ignored.

        This method and `resume` try all jobs before they raise the first failure.
        """
        ...

    def resume(self, slurm_ids: Sequence[int]) -> None:
        """Resume suspended jobs. Running jobs are ignored."""
        ...

    def nodes(self) -> Mapping[str, str]:
        """Return the NodeAddr of each node by its name, with hidden and powered-down nodes (scontrol(1)).

        NodeAddr is an address or a name, and empty if Slurm does not show it. A node is also listed by its NodeHostName
        if that is another name. Raises `InvalidConfig` if Slurm is too old.
        """
        ...

    def ping(self) -> None:
        """Return if a controller answers (scontrol(1)); raise `TryAgain` within `PING_SECONDS` if none does.

        All other commands of Slurm first wait for MessageTimeout, by default ten seconds.
        """
        ...

    def partitions(self) -> Mapping[str, Partition]:
        """Return the limits of all partitions, hidden ones included, and the shapes of their nodes (scontrol(1))."""
        ...

    def versions(self) -> Versions:
        """Return Slurm's versions (squeue(1), scontrol(1))."""
        ...

    def binding_version(self) -> str | None:
        """Return the version of the library that connects to Slurm, or None if commands do.

        Raise `InvalidConfig` if the library is missing or was not made for this Slurm.
        """
        ...

    def own_uids(self) -> Mapping[str, int]:
        """Return the uids of Slurm's own accounts, by the keys that name them in slurm.conf(5)."""
        ...

    def addresses(self, names: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        """Return the addresses to which names resolve on the cluster. A name that does not resolve is left out."""
        ...
