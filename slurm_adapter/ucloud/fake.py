"""A UCloud in memory for tests: it keeps all delivered messages, and the caller decides what fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.core.errors import TryAgain, Unknown
from slurm_adapter.core.states import JobState
from slurm_adapter.ucloud.interface import Delivery

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_adapter.core.messages import Message


class FakeReceiver:
    """A receiver that knows every job except those in `unknown`."""

    def __init__(self) -> None:
        self.down = False
        """True if UCloud is out of reach."""
        self.unknown: set[str] = set()
        """Ids of jobs that it does not know."""
        self.delivered: list[Message] = []
        """All messages that it took, in order, without repetitions."""
        self.asked: list[tuple[str, ...]] = []
        """The arguments of the calls of `exists`."""
        self._states: dict[str, JobState] = {}
        self._last: dict[str, int] = {}
        self._answers_lost_after: int | None = None

    def deliver(self, messages: Sequence[Message]) -> Delivery:
        """See `Receiver.deliver`."""
        if self.down:
            raise TryAgain("UCloud is out of reach")
        lost, self._answers_lost_after = self._answers_lost_after, None
        for message in messages[:lost]:
            self._take(message)
        if lost is not None:
            raise Unknown("UCloud's answer was lost")
        return Delivery(
            frozenset(message.number for message in messages if message.job_id not in self.unknown),
            frozenset(message.job_id for message in messages if message.job_id in self.unknown),
        )

    def exists(self, ids: Sequence[str]) -> frozenset[str]:
        """See `Receiver.exists`."""
        if self.down:
            raise TryAgain("UCloud is out of reach")
        self.asked.append(tuple(ids))
        return frozenset(ids) - self.unknown

    def check(self) -> str:
        """See `Receiver.check`."""
        self.exists([])
        return ""

    def close(self) -> None:
        """See `Receiver.close`."""

    def lose_next(self, after: int) -> None:
        """Lose the answer of the next delivery; only its first `after` messages arrive."""
        self._answers_lost_after = after

    def state(self, job_id: str) -> JobState:
        """Return the state that it has of a job."""
        return self._states.get(job_id, JobState.IN_QUEUE)

    def _take(self, message: Message) -> None:
        known = self.state(message.job_id)
        again = message.number <= self._last.get(message.job_id, 0)
        if message.job_id in self.unknown or again or known is not message.before:
            return
        self._last[message.job_id] = message.number
        self._states[message.job_id] = message.state or known
        self.delivered.append(message)
