"""The scheduler's port: hand jobs in, take them back, see what became of them.

Everything is in bulk, because a cluster is asked once for all jobs and never once per job. What may happen to a
submission is a closed set of types (`Outcome`): a lost answer is one of them, and not an exception, so that nobody can
forget it.
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
"""How long a controller may take to answer a ping."""


@dataclass(frozen=True, slots=True)
class Submission:
    """One job to hand in. Its folder and script are in place already."""

    token: str
    """The job's name and comment in Slurm, by which a lost job is found again."""
    user: str
    """The account that runs it."""
    folder: str
    """The job's folder; `job.sbatch` is in it."""
    directives: tuple[Directive, ...]
    """What the script's `#SBATCH` lines say, as data."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """Slurm has the job."""

    slurm_id: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """Slurm, or the site's own sbatch, refused the job for good; `words` are its own."""

    words: str
    certain: bool = True
    """Whether the words prove that Slurm has no such job. Otherwise only the fence makes the refusal true."""


@dataclass(frozen=True, slots=True)
class Postponed:
    """Slurm refused the job only for now, because of a limit or a state that passes; `words` are its own."""

    words: str


@dataclass(frozen=True, slots=True)
class NotStarted:
    """Nothing was handed to Slurm, which is out of reach or busy; the same job may be handed in again."""

    why: str
    slow: bool = False
    """Slurm takes jobs, but has not come to this one: nothing is wrong."""


@dataclass(frozen=True, slots=True)
class InDoubt:
    """sbatch was started and its answer was lost: Slurm may have the job, or may still get it."""

    why: str


Outcome = Accepted | Rejected | Postponed | NotStarted | InDoubt


@dataclass(frozen=True, slots=True)
class Listing:
    """One answer about the queue."""

    observations: tuple[Observation, ...]
    sees_others: bool
    """Whether this account is proven to see other users' jobs (PrivateData in slurm.conf(5)).

    Where it is false, a job's absence from the listing says nothing.
    """
    unnamed: frozenset[str] = frozenset()
    """Accounts that the cluster does not know: the absence of their jobs says nothing."""


@dataclass(frozen=True, slots=True)
class Load:
    """How full some partitions are, together."""

    cpus: int
    """Of their nodes that take jobs; a node that is in several counts once."""
    memory: int
    """Bytes."""
    used_cpus: int
    """Given to jobs, of whatever partition; never more than there are."""
    used_memory: int
    running: int
    """Jobs, and tasks of arrays, that this account may see; those that are suspended, too."""
    pending: int


@dataclass(frozen=True, slots=True)
class NodeShape:
    """What a node can give to jobs, whether or not it is up and free now."""

    cpus: int
    memory: int
    """Bytes."""
    gpus: tuple[tuple[str, int], ...]
    """Type and number of its GPUs, sorted by type; the type is empty if the site gives none."""
    features: frozenset[str]
    """Available features (`--constraint`)."""


@dataclass(frozen=True, slots=True)
class Partition:
    """What Slurm allows in a partition: slurm.conf(5), or what `scontrol update` has made of it."""

    name: str
    state: str
    """`UP`, `DOWN` (jobs wait), `DRAIN` or `INACTIVE` (new jobs are refused)."""
    default: bool
    """Jobs that name no partition go there."""
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
    """Nodes that Slurm counts but does not show, such as powered-down CLOUD nodes: no shape is known for them."""


class Scheduler(Protocol):
    """Talks to one Slurm cluster.

    Every method but `submit` raises `TryAgain` (nothing was done) or `Unknown` (the answer was lost, or cannot be
    read) and then says nothing about any job. `set_time_limits`, `suspend` and `resume` need the rights of an operator
    of Slurm; they raise `Refused`, too, with Slurm's words.
    """

    def submit(self, submissions: Sequence[Submission]) -> list[Outcome]:
        """Hand jobs in, each at most once; an outcome for each, in their order. Raises nothing of its own.

        See `DISPATCH_SECONDS`: where there are too many for that time, the last of them are `NotStarted`.
        """
        ...

    def cancel(self, jobs: Mapping[int, str]) -> None:
        """Cancel jobs, given by id and the account that owns each. Unknown and finished ones are no error.

        As `set_time_limits`, `suspend` and `resume`, it acts on bare ids: the caller has just seen in `queue` that each
        is the job that is meant, by id, account and name.
        """
        ...

    def queue(self, users: Sequence[str]) -> Listing:
        """Return all jobs of these accounts that the controller still knows, ended ones included (squeue(1)).

        Accounts are compared by uid: a row has the account's name as it was asked for, and one row for each name of the
        same uid. Raises `InvalidConfig` if Slurm is too old.
        """
        ...

    def history(self, slurm_ids: Sequence[int]) -> tuple[Observation, ...] | None:
        """Return what accounting says of these jobs (sacct(1)), the last run of each; None without accounting.

        A row has an account's name as `queue` was asked for it, if it was.
        """
        ...

    def longest(self, slurm_ids: Sequence[int]) -> Mapping[int, int | None]:
        """The longest time limit that each job's partition allows, in seconds; None where it allows any.

        Slurm itself holds an operator to no limit. Jobs that the controller does not know are left out.
        """
        ...

    def load(self, partitions: Sequence[str]) -> Load:
        """How full these partitions are (scontrol(1), squeue(1)). One that does not exist has nothing."""
        ...

    def set_time_limits(self, limits: Mapping[int, int]) -> Mapping[int, AdapterError]:
        """Give jobs, with all tasks of them that have not ended, time limits in seconds; Slurm counts in minutes, up.

        In all, and not what is added: of `scontrol update TimeLimit=+N` in parallel some are lost (measured), since
        scontrol itself reads the limit and adds to it. All are tried; the answer says what went wrong with each that
        may not have its limit, by the errors that other methods raise. Raises nothing of its own.
        """
        ...

    def suspend(self, slurm_ids: Sequence[int]) -> None:
        """Suspend jobs that run, with all tasks that do; one that is suspended is no error, nor a task that waits.

        All are tried before the first failure is raised; so it is with `resume`.
        """
        ...

    def resume(self, slurm_ids: Sequence[int]) -> None:
        """Let suspended jobs run on; one that runs is no error."""
        ...

    def nodes(self) -> Mapping[str, str]:
        """Return the NodeAddr of each node by its name, hidden and powered-down nodes included (scontrol(1)).

        NodeAddr is an address or a name, and empty if Slurm does not tell it. A node whose NodeHostName is another name
        has both. Raises `InvalidConfig` if Slurm is too old.
        """
        ...

    def ping(self) -> None:
        """Return if a controller answers (scontrol(1)); raise `TryAgain` within `PING_SECONDS` if none does.

        All other commands of Slurm wait for MessageTimeout, ten seconds unless told, before they say so.
        """
        ...

    def partitions(self) -> Mapping[str, Partition]:
        """Return the limits of all partitions, hidden ones included, and the shapes of their nodes (scontrol(1))."""
        ...

    def versions(self) -> Versions:
        """Return Slurm's versions (squeue(1), scontrol(1))."""
        ...

    def binding_version(self) -> str | None:
        """Return the version of the library that speaks to Slurm, or None if commands do.

        Raise `InvalidConfig` if it is missing or was not made for this Slurm.
        """
        ...

    def own_uids(self) -> Mapping[str, int]:
        """Return the uids of Slurm's own accounts, by the keys that name them in slurm.conf(5)."""
        ...

    def addresses(self, names: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        """What these names resolve to on the cluster, in one command; a name that does not resolve is left out."""
        ...
