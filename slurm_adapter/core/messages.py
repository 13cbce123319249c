"""Updates that the adapter sends to UCloud."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slurm_adapter.core.states import JobState


@dataclass(frozen=True, slots=True)
class Message:
    """One update of a job for UCloud."""

    number: int
    """Sequence number. It is greater than those of all earlier messages."""
    job_id: str
    time: float
    """Time of the event, in seconds since the epoch."""
    state: JobState | None
    """The job's new state; None if only the text is new."""
    status: str
    """Text for the job's user."""
    before: JobState
    """The job's state after the earlier messages."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of UCloud's `JobUpdate`, such as `newTimeAllocation`."""
    fresh: bool = False
    """True if it was never sent; otherwise UCloud may have it already."""
    copies: int = 0
    """Number of earlier messages of the job with the same state and text."""
