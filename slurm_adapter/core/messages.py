"""Updates that the adapter sends to UCloud."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slurm_adapter.core.states import JobState


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
    """The state that the messages before this one have told."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of UCloud's `JobUpdate` (contract 1.14), such as `newTimeAllocation`."""
    fresh: bool = False
    """It was never sent; otherwise it may have arrived already."""
    copies: int = 0
    """How many messages with the same state and text the job has had before."""
