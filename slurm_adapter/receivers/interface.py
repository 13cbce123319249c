"""The port through which UCloud is told of its jobs.

What is to be told is in the database before it is sent (`slurm_adapter.outbox`), so that an answer that is lost costs a
second message and never a missing one; `Message.before` lets the receiver pass over the second.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slurm_adapter.states import JobState


@dataclass(frozen=True, slots=True)
class Message:
    """One thing that UCloud is told of a job."""

    number: int
    """Greater than that of every message before it."""
    job_id: str
    time: float
    """When it became true, in seconds since the epoch."""
    state: JobState | None
    """The job's new state; None where only the text is new."""
    status: str
    """For the job's user."""
    before: JobState
    """The state that the messages before this one have told; UCloud's `expectedState`."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of UCloud's `JobUpdate` (contract 1.14), such as `newTimeAllocation`."""


class Receiver(Protocol):
    """Tells UCloud."""

    def tell(self, messages: Sequence[Message]) -> frozenset[str]:
        """Deliver messages in their order; the ids of jobs that UCloud does not know, whose messages it did not take.

        A state arrives once, however often it is told. Raises `TryAgain` where UCloud is out of reach or busy, and
        `Unknown` where its answer was lost: then any first part of them may have arrived.
        """
        ...
