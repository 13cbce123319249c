"""A scheduler without a cluster, for tests: jobs are objects in memory, and the caller changes their states."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from slurm_adapter.cluster.schedulers.interface import (
    Accepted,
    InDoubt,
    Listing,
    Load,
    NodeShape,
    NotStarted,
    Outcome,
    Partition,
    Postponed,
    Rejected,
    Submission,
)
from slurm_adapter.cluster.schedulers.versions import Versions
from slurm_adapter.core.durations import parse_duration
from slurm_adapter.core.errors import Refused, TryAgain
from slurm_adapter.core.hosts_file import usable
from slurm_adapter.core.observation import Observation
from slurm_adapter.core.states import ENDED, WAITING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from slurm_adapter.core.errors import AdapterError

_NODES = MappingProxyType({f"node{number:03}": f"192.0.2.{number}" for number in range(1, 5)})

_AWAY = "Unable to contact slurm controller (connect failure)"
_MEBIBYTE = 1024 * 1024
_UNITS = MappingProxyType({"M": _MEBIBYTE, "G": 1024 * _MEBIBYTE})

Arrival = Literal["now", "later", "never"]


@dataclass(slots=True)
class _Job:
    submission: Submission
    seen: Observation
    purged: bool = False


class FakeScheduler:
    """Jobs are pending until `start`, run until `finish`, and leave the queue after `purge`.

    `names` has the addresses of names on the cluster. Without `accounting`, `history` returns None.
    """

    def __init__(
        self,
        nodes: Mapping[str, str] = _NODES,
        names: Mapping[str, Sequence[str]] = MappingProxyType({}),
        *,
        accounting: bool = False,
    ) -> None:
        self.now = 1_000_000_000
        """The clock, in seconds since the epoch; the caller moves it."""
        self.down = False
        """True if the controller is out of reach."""
        self.sees_others = True
        self.slurm = Versions("24.11.5", "24.11.5")
        self.own: Mapping[str, int] = {"SlurmUser": 64030, "SlurmdUser": 0}
        self.partition_limit: int | None = None
        """The longest time limit of the only partition, in seconds; None for any."""
        self.other_partitions: dict[str, Partition] = {}
        """Partitions in addition to `main`; one of that name replaces it."""
        self.accounting_down = False
        """True if accounting is out of reach while the queue still answers."""
        self.accounting_lag = 0
        """Seconds after a job's end in which accounting does not know of it."""
        self.next_id = 1
        """The id of the next job; used ids are skipped. A controller that lost its state starts again at 1."""
        self.submissions: list[Submission] = []
        """All dispatched jobs, with refused and lost ones, in order."""
        self._nodes = dict(nodes)
        self._names = dict(names)
        self._accounting = accounting
        self._jobs: dict[tuple[int, str | None], _Job] = {}
        self._answers: list[Rejected | Postponed | Arrival] = []
        self._late: list[tuple[int, Submission]] = []

    def submit(self, submissions: Sequence[Submission]) -> list[Outcome]:
        """See `Scheduler.submit`."""
        return [self._submit(each) for each in submissions]

    def _submit(self, submission: Submission) -> Outcome:
        if self.down:
            return NotStarted("Unable to contact slurm controller (connect failure)")
        self.submissions.append(submission)
        answer = self._answers.pop(0) if self._answers else None
        if isinstance(answer, Rejected | Postponed):
            return answer
        slurm_id = self._draw_id()
        if answer in {None, "now"}:
            self.make(slurm_id, submission)
        elif answer == "later":
            self._late.append((slurm_id, submission))
        return Accepted(slurm_id) if answer is None else InDoubt("Socket timed out on send/recv operation")

    def _draw_id(self) -> int:
        used = {slurm_id for slurm_id, _ in (*self._jobs, *self._late)}
        while self.next_id in used:
            self.next_id += 1
        self.next_id += 1
        return self.next_id - 1

    def make(self, slurm_id: int, submission: Submission) -> None:
        """Add a pending job with this id, of any account."""
        seen = Observation(
            slurm_id=slurm_id,
            task=None,
            name=submission.slurm_name,
            user=submission.user,
            state="PENDING",
            reason="Priority",
            submitted=self.now,
            time_limit=next(
                (parse_duration(each.value) for each in submission.directives if each.name == "time" and each.value),
                None,
            ),
        )
        self._jobs[slurm_id, None] = _Job(submission, seen)

    def cancel(self, jobs: Mapping[int, str]) -> None:
        """See `Scheduler.cancel`."""
        self._reach()
        for (slurm_id, task), job in self._jobs.items():
            user = jobs.get(slurm_id)
            if user == job.submission.user and not job.purged and job.seen.state not in ENDED:
                self.end(slurm_id, "CANCELLED", of=task, cancelled_by=user)

    def queue(self, users: Sequence[str]) -> Listing:
        """See `Scheduler.queue`."""
        self._reach()
        # Only accounting shows who cancelled a job.
        found = (job.seen._replace(cancelled_by=None) for job in self._jobs.values() if not job.purged)
        return Listing(tuple(seen for seen in found if seen.user in users), self.sees_others)

    def history(self, slurm_ids: Sequence[int]) -> tuple[Observation, ...] | None:
        """See `Scheduler.history`."""
        if not self._accounting:
            return None
        self._reach()
        if self.accounting_down:
            raise TryAgain("sacct: error: Problem talking to the database: Connection refused")
        rows = [job.seen for (slurm_id, _), job in self._jobs.items() if slurm_id in slurm_ids]
        return tuple(row for row in rows if row.ended is None or row.ended + self.accounting_lag <= self.now)

    def longest(self, slurm_ids: Sequence[int]) -> Mapping[int, int | None]:
        """See `Scheduler.longest`."""
        self._reach()
        return {slurm_id: self.partition_limit for slurm_id, _ in self._jobs if slurm_id in slurm_ids}

    def load(self, partitions: Sequence[str]) -> Load:
        """See `Scheduler.load`. All nodes and jobs are in `main`; a node has 64 processors and 64000 MiB."""
        self._reach()
        if "main" not in partitions:
            return Load(0, 0, 0, 0, 0, 0)
        words = [(job, job.seen.state) for job in self._jobs.values() if job.seen.state not in ENDED]
        wanted = [_wanted(job.submission) for job, word in words if word == "RUNNING"]
        return Load(
            cpus=64 * len(self._nodes),
            memory=64000 * _MEBIBYTE * len(self._nodes),
            used_cpus=sum(cpus for cpus, _ in wanted),
            used_memory=sum(memory for _, memory in wanted),
            running=sum(word not in WAITING for _, word in words),
            pending=sum(word in WAITING for _, word in words),
        )

    def set_time_limits(self, limits: Mapping[int, int]) -> Mapping[int, AdapterError]:
        """See `Scheduler.set_time_limits`."""
        if self.down:
            return dict.fromkeys(limits, TryAgain(_AWAY))
        failures: dict[int, AdapterError] = {}
        for slurm_id, seconds in limits.items():
            tasks = self._live(slurm_id)
            for job in tasks:
                job.seen = job.seen._replace(time_limit=-(-seconds // 60) * 60)
            if not tasks:
                failures[slurm_id] = Refused(f"Job has already finished for job {slurm_id}")
        return failures

    def suspend(self, slurm_ids: Sequence[int]) -> None:
        """See `Scheduler.suspend`."""
        self._move(slurm_ids, "RUNNING", "SUSPENDED")

    def resume(self, slurm_ids: Sequence[int]) -> None:
        """See `Scheduler.resume`."""
        self._move(slurm_ids, "SUSPENDED", "RUNNING")

    def _move(self, slurm_ids: Sequence[int], before: str, after: str) -> None:
        failures = []
        for slurm_id in slurm_ids:
            tasks = [job for job in self._live(slurm_id) if job.seen.state in {before, after}]
            for job in tasks:
                job.seen = job.seen._replace(state=after)
            if not tasks:
                failures.append(Refused(f"job {slurm_id} does not run"))
        if failures:
            raise failures[0]

    def _live(self, slurm_id: int) -> list[_Job]:
        self._reach()
        return [job for (id_, _), job in self._jobs.items() if id_ == slurm_id and job.seen.state not in ENDED]

    def nodes(self) -> Mapping[str, str]:
        """See `Scheduler.nodes`."""
        self._reach()
        return self._nodes

    def ping(self) -> None:
        """See `Scheduler.ping`."""
        if self.down:
            raise TryAgain(f"Slurm's controller does not answer: {_AWAY}")

    def partitions(self) -> Mapping[str, Partition]:
        """See `Scheduler.partitions`. Has `main`, as in `load`, and `other_partitions`."""
        self._reach()
        shape = NodeShape(cpus=64, memory=64000 * _MEBIBYTE, gpus=(("", 2),), features=frozenset())
        main = Partition(
            name="main",
            state="UP",
            default=True,
            max_time=self.partition_limit,
            max_nodes=None,
            max_cpus_per_node=None,
            allow_accounts=None,
            deny_accounts=frozenset(),
            allow_qos=None,
            deny_qos=frozenset(),
            oversubscribe="NO",
            shapes={shape: len(self._nodes)},
            hidden_nodes=0,
        )
        return {"main": main} | self.other_partitions

    def versions(self) -> Versions:
        """See `Scheduler.versions`."""
        self._reach()
        return self.slurm

    def binding_version(self) -> None:
        """See `Scheduler.binding_version`."""

    def own_uids(self) -> Mapping[str, int]:
        """See `Scheduler.own_uids`."""
        self._reach()
        return self.own

    def addresses(self, names: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        """See `Scheduler.addresses`. A node with an address as its NodeAddr resolves to it."""
        found = {name: usable(self._names.get(name, (self._nodes.get(name, name),))) for name in names}
        return {name: addresses for name, addresses in found.items() if addresses}

    def refuse_next(self, words: str, *, certain: bool = True) -> None:
        """Refuse the next submission without a planned answer, with these words."""
        self._answers.append(Rejected(words, certain=certain))

    def postpone_next(self, words: str) -> None:
        """Refuse the next submission without a planned answer, temporarily."""
        self._answers.append(Postponed(words))

    def lose_next(self, arrival: Arrival = "now") -> None:
        """Lose the answer to the next submission: the job exists now, later (after `arrive`), or never."""
        self._answers.append(arrival)

    def arrive(self) -> list[int]:
        """Make the jobs that arrive later, and return their ids."""
        late, self._late = self._late, []
        for slurm_id, submission in late:
            self.make(slurm_id, submission)
        return [slurm_id for slurm_id, _ in late]

    def see(self, slurm_id: int, of: str | None = None) -> Observation:
        """Return the job as it is. Here and below `of` names a task of an array after `split`."""
        return self._jobs[slurm_id, of].seen

    def split(self, slurm_id: int, *tasks: str, of: str | None = None) -> None:
        """List an array, or its tasks that are listed as `of`, as these tasks from now on."""
        job = self._jobs.pop((slurm_id, of))
        for each in tasks:
            self._jobs[slurm_id, each] = _Job(job.submission, job.seen._replace(task=each))

    def change(self, slurm_id: int, *, of: str | None = None, **values: object) -> None:
        """Set fields of the observation of a job or task."""
        job = self._jobs[slurm_id, of]
        job.seen = job.seen._replace(**values)  # type: ignore[arg-type]  # any field of Observation

    def start(self, slurm_id: int, nodes: Iterable[str] = ("node001",), of: str | None = None) -> None:
        """Start the job on these nodes."""
        self.change(slurm_id, of=of, state="RUNNING", reason="", nodes=tuple(nodes), started=self.now)

    def finish(self, slurm_id: int, exit_code: int = 0, signal: int | None = None, of: str | None = None) -> None:
        """End the job's script."""
        state, reason = ("COMPLETED", "") if exit_code == 0 and signal is None else ("FAILED", "NonZeroExitCode")
        self.end(slurm_id, state, of=of, reason=reason, exit_code=None if signal else exit_code, signal=signal)

    def end(self, slurm_id: int, state: str, *, of: str | None = None, **values: object) -> None:
        """End the job in a state of Slurm; `values` are fields of `Observation`."""
        self.change(slurm_id, of=of, **({"exit_code": 0} | values | {"state": state, "ended": self.now}))

    def requeue(self, slurm_id: int, of: str | None = None) -> None:
        """Make the job pending again, with the same id."""
        fresh = {"exit_code": None, "signal": None, "started": None, "ended": None, "nodes": (), "cancelled_by": None}
        again = {"state": "PENDING", "reason": "BeginTime", "restarts": self.see(slurm_id, of).restarts + 1}
        self.change(slurm_id, of=of, submitted=self.now, **fresh, **again)

    def purge(self, slurm_id: int, of: str | None = None) -> None:
        """Remove the job from the controller, as MinJobAge after its end; accounting still knows it."""
        self._jobs[slurm_id, of].purged = True

    def forget(self, slurm_id: int) -> None:
        """Remove the job from the controller and from accounting: the controller has lost its state."""
        self._jobs = {key: job for key, job in self._jobs.items() if key[0] != slurm_id}

    def _reach(self) -> None:
        if self.down:
            raise TryAgain(_AWAY)


def _wanted(submission: Submission) -> tuple[int, int]:
    """Return the processors and bytes of memory that a job requests on all nodes."""
    said = {each.name: each.value or "" for each in submission.directives}
    nodes, memory = int(said.get("nodes", "1")), said.get("mem", "256M")
    return nodes * int(said.get("cpus-per-task", "1")), nodes * int(memory[:-1]) * _UNITS[memory[-1]]
