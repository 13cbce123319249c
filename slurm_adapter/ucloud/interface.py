"""The port through which UCloud is told of its jobs, and asked which it has.

What is to be told is in the database before it is sent (`jobs.deliver`), so that an answer that is lost costs a
question and never a missing message: what was sent before and not answered is looked for before it is sent again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_adapter.core.messages import Message


@dataclass(frozen=True, slots=True)
class Told:
    """What came of messages."""

    taken: frozenset[int]
    """The numbers of those that are not to be told again."""
    unknown: frozenset[str] = frozenset()
    """Ids of jobs that UCloud does not know, whose messages it did not take."""
    problems: tuple[str, ...] = ()
    """What UCloud refused, and what was done about it."""


class Receiver(Protocol):
    """Tells UCloud. Threads may share it; what one of them asks waits for what another one has asked."""

    def tell(self, messages: Sequence[Message]) -> Told:
        """Deliver messages in their order, each once, however often it is told; at most a thousand.

        One that is not taken holds back the later ones of its job, and no other job's. Raises `TryAgain` where UCloud
        is out of reach or busy, `Refused` and `InvalidConfig` where it does not let this program in (nothing of the
        messages has arrived then), and `Unknown` where its answer was lost: then any first part may have arrived.
        """
        ...

    def known(self, ids: Sequence[str]) -> frozenset[str]:
        """Those of these jobs that UCloud has. Raises as `tell` does."""
        ...

    def check(self) -> str:
        """Return a new access token, by which UCloud shows whom it takes this program for. Raises as `tell` does."""
        ...

    def close(self) -> None:
        """Give back what is held."""
        ...
