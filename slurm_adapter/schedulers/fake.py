"""A scheduler without a cluster: jobs are records in memory, and the caller decides what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from slurm_adapter.errors import TryAgain
from slurm_adapter.hosts import usable
from slurm_adapter.schedulers.interface import (
    Accepted,
    InDoubt,
    Listing,
    NotStarted,
    Observation,
    Outcome,
    Rejected,
    Submission,
)
from slurm_adapter.states import ENDED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_NODES = MappingProxyType({f"node{number:03}": f"192.0.2.{number}" for number in range(1, 5)})

Arrival = Literal["now", "later", "never"]


@dataclass(slots=True)
class _Job:
    submission: Submission
    seen: Observation
    purged: bool = False


class FakeScheduler:
    """Jobs wait until `start`, run until `finish`, and are forgotten by the queue after `purge`.

    `names` is what names resolve to on the cluster. Without `accounting`, `history` knows nothing.
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
        """Whether the controller is out of reach."""
        self.sees_others = True
        self.submissions: list[Submission] = []
        """Everything that was handed in, refused and lost ones included, in order."""
        self._nodes = dict(nodes)
        self._names = dict(names)
        self._accounting = accounting
        self._jobs: dict[int, _Job] = {}
        self._next_id = 1
        self._answers: list[Rejected | Arrival] = []
        self._late: list[tuple[int, Submission]] = []

    def submit(self, submissions: Sequence[Submission]) -> list[Outcome]:
        """See `Scheduler.submit`."""
        return [self._submit(each) for each in submissions]

    def _submit(self, submission: Submission) -> Outcome:
        if self.down:
            return NotStarted("Unable to contact slurm controller (connect failure)")
        self.submissions.append(submission)
        answer = self._answers.pop(0) if self._answers else None
        if isinstance(answer, Rejected):
            return answer
        slurm_id = self._next_id
        self._next_id += 1
        if answer in {None, "now"}:
            self._make(slurm_id, submission)
        elif answer == "later":
            self._late.append((slurm_id, submission))
        return Accepted(slurm_id) if answer is None else InDoubt("Socket timed out on send/recv operation")

    def _make(self, slurm_id: int, submission: Submission) -> None:
        seen = Observation(
            slurm_id=slurm_id,
            task=None,
            name=submission.token,
            user=submission.user,
            state="PENDING",
            reason="Priority",
            submitted=self.now,
        )
        self._jobs[slurm_id] = _Job(submission, seen)

    def cancel(self, jobs: Mapping[int, str]) -> None:
        """See `Scheduler.cancel`."""
        self._reach()
        for slurm_id, user in jobs.items():
            job = self._jobs.get(slurm_id)
            if job is not None and not job.purged and job.submission.user == user and job.seen.state not in ENDED:
                self.end(slurm_id, "CANCELLED", cancelled_by=user)

    def queue(self, users: Sequence[str]) -> Listing:
        """See `Scheduler.queue`."""
        self._reach()
        # Only accounting tells who cancelled a job.
        found = (replace(job.seen, cancelled_by=None) for job in self._jobs.values() if not job.purged)
        return Listing(tuple(seen for seen in found if seen.user in users), self.sees_others)

    def history(self, slurm_ids: Sequence[int]) -> tuple[Observation, ...] | None:
        """See `Scheduler.history`."""
        if not self._accounting:
            return None
        self._reach()
        return tuple(self._jobs[slurm_id].seen for slurm_id in slurm_ids if slurm_id in self._jobs)

    def nodes(self) -> Mapping[str, str]:
        """See `Scheduler.nodes`."""
        self._reach()
        return self._nodes

    def addresses(self, names: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        """See `Scheduler.addresses`. Nodes whose NodeAddr is an address resolve to it."""
        found = {name: usable(self._names.get(name, (self._nodes.get(name, name),))) for name in names}
        return {name: addresses for name, addresses in found.items() if addresses}

    def refuse_next(self, words: str) -> None:
        """The next submission that has no other answer yet is refused in these words."""
        self._answers.append(Rejected(words))

    def lose_next(self, arrival: Arrival = "now") -> None:
        """Likewise, the answer is lost: there is a job now, later (when `arrive` is called), or never."""
        self._answers.append(arrival)

    def arrive(self) -> list[int]:
        """Make the jobs that were lost on their way; their ids."""
        late, self._late = self._late, []
        for slurm_id, submission in late:
            self._make(slurm_id, submission)
        return [slurm_id for slurm_id, _ in late]

    def see(self, slurm_id: int) -> Observation:
        """The job as it is."""
        return self._jobs[slurm_id].seen

    def change(self, slurm_id: int, **values: object) -> None:
        """Set fields of what is seen of a job."""
        job = self._jobs[slurm_id]
        job.seen = replace(job.seen, **values)  # type: ignore[arg-type]  # any field of Observation

    def start(self, slurm_id: int, nodes: Iterable[str] = ("node001",)) -> None:
        """The job runs on these nodes."""
        self.change(slurm_id, state="RUNNING", reason="", nodes=tuple(nodes), started=self.now)

    def finish(self, slurm_id: int, exit_code: int = 0, signal: int | None = None) -> None:
        """The job's script ends."""
        state, reason = ("COMPLETED", "") if exit_code == 0 and signal is None else ("FAILED", "NonZeroExitCode")
        self.end(slurm_id, state, reason=reason, exit_code=None if signal else exit_code, signal=signal)

    def end(self, slurm_id: int, state: str, **values: object) -> None:
        """The job ends in one of Slurm's words; `values` are fields of `Observation`."""
        self.change(slurm_id, **({"exit_code": 0} | values | {"state": state, "ended": self.now}))

    def requeue(self, slurm_id: int) -> None:
        """The job waits again, under its own id."""
        fresh = {"exit_code": None, "signal": None, "started": None, "ended": None, "nodes": (), "cancelled_by": None}
        again = {"state": "PENDING", "reason": "BeginTime", "restarts": self.see(slurm_id).restarts + 1}
        self.change(slurm_id, submitted=self.now, **fresh, **again)

    def purge(self, slurm_id: int) -> None:
        """The controller forgets the job, as it does MinJobAge after its end; accounting still knows it."""
        self._jobs[slurm_id].purged = True

    def forget(self, slurm_id: int) -> None:
        """Nobody knows the job any more, accounting neither: the controller has lost its state."""
        del self._jobs[slurm_id]

    def _reach(self) -> None:
        if self.down:
            raise TryAgain("Unable to contact slurm controller (connect failure)")
