"""A UCloud in memory: it keeps what it was told, and the caller decides what goes wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.core.errors import TryAgain, Unknown
from slurm_adapter.core.states import JobState
from slurm_adapter.ucloud.interface import Told

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_adapter.core.messages import Message


class FakeReceiver:
    """Knows every job but those in `unknown`."""

    def __init__(self) -> None:
        self.down = False
        """Whether nothing arrives."""
        self.unknown: set[str] = set()
        """Ids of jobs that it does not know."""
        self.told: list[Message] = []
        """Everything that it took, in order; what came a second time is not in it."""
        self.asked: list[tuple[str, ...]] = []
        """Of which jobs it was asked whether it knows them."""
        self._states: dict[str, JobState] = {}
        self._last: dict[str, int] = {}
        self._answers_lost_after: int | None = None

    def tell(self, messages: Sequence[Message]) -> Told:
        """See `Receiver.tell`."""
        if self.down:
            raise TryAgain("UCloud is out of reach")
        lost, self._answers_lost_after = self._answers_lost_after, None
        for message in messages[:lost]:
            self._take(message)
        if lost is not None:
            raise Unknown("UCloud's answer was lost")
        return Told(
            frozenset(message.number for message in messages if message.job_id not in self.unknown),
            frozenset(message.job_id for message in messages if message.job_id in self.unknown),
        )

    def known(self, ids: Sequence[str]) -> frozenset[str]:
        """See `Receiver.known`."""
        if self.down:
            raise TryAgain("UCloud is out of reach")
        self.asked.append(tuple(ids))
        return frozenset(ids) - self.unknown

    def check(self) -> str:
        """See `Receiver.check`."""
        self.known([])
        return ""

    def close(self) -> None:
        """Nothing is held."""

    def lose_next(self, after: int) -> None:
        """The next call's first messages arrive, so many of them, and its answer is lost."""
        self._answers_lost_after = after

    def state(self, job_id: str) -> JobState:
        """What it holds a job for."""
        return self._states.get(job_id, JobState.IN_QUEUE)

    def _take(self, message: Message) -> None:
        known = self.state(message.job_id)
        again = message.number <= self._last.get(message.job_id, 0)
        if message.job_id in self.unknown or again or known is not message.before:
            return
        self._last[message.job_id] = message.number
        self._states[message.job_id] = message.state or known
        self.told.append(message)
