"""The interface through which updates are delivered to UCloud, and UCloud is asked which jobs it has.

Each update is in the database before it is sent (`jobs.deliver`). So a lost answer never loses an update: before an
update is sent again, the receiver looks for it among the updates that UCloud has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_adapter.core.messages import Message


@dataclass(frozen=True, slots=True)
class Delivery:
    """The result of one delivery of messages."""

    taken: frozenset[int]
    """The numbers of the messages that must not be delivered again."""
    unknown: frozenset[str] = frozenset()
    """Ids of jobs that UCloud does not know. It took no messages of these jobs."""
    problems: tuple[str, ...] = ()
    """Refusals of UCloud, with the adapter's reaction to each."""


class Receiver(Protocol):
    """Delivers updates to UCloud. Threads may share it; it makes one request at a time."""

    def deliver(self, messages: Sequence[Message]) -> Delivery:
        """Deliver at most 1000 messages in their order. A message that is passed again arrives only once.

        A message that is not taken holds back the later messages of its job, but not those of other jobs.

        Raises `TryAgain` if UCloud is out of reach or busy, and `Refused` or `InvalidConfig` if it refuses this
        program: no message has arrived then. Raises `Unknown` if the answer was lost: the first messages may have
        arrived.
        """
        ...

    def exists(self, ids: Sequence[str]) -> frozenset[str]:
        """Return the ids of these jobs that UCloud has. Raises as `deliver` does."""
        ...

    def check(self) -> str:
        """Return a new access token: UCloud accepts the refresh token. Raises as `deliver` does."""
        ...

    def close(self) -> None:
        """Release all resources."""
        ...
