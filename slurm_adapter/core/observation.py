"""Observations of jobs in Slurm."""

from __future__ import annotations

from typing import NamedTuple

DISPATCH_SECONDS = 250
"""Upper bound, in seconds, on how long anything started by `submit` keeps running, even if the caller died.

sbatch itself retries for up to 120 seconds if the controller is busy. Half a minute is for the adapter's database,
which may be locked when the dispatch is recorded.
"""

LARGEST_SLURM_ID = 0xFFFFFFFC
"""Largest id of a job (MAX_FED_JOB_ID in slurm.h). sacct fails if its command line has a larger id."""


class Observation(NamedTuple):
    """State of one job in Slurm, or of one task or component of it. A tuple, because a list can be very long."""

    slurm_id: int
    """Id of the job. For a task of an array, the id of the array."""
    task: str | None
    """Index in the array (`3`), a range of pending tasks (`4-9`), or a component of a heterogeneous job (`+1`)."""
    name: str
    """Name of the job in Slurm: for the adapter's jobs, the Slurm name."""
    user: str
    state: str
    """Slurm's state in long form and upper case, without additions: `CANCELLED`, never `CANCELLED by 1000`."""
    reason: str = ""
    """Slurm's reason for waiting or ending; empty for `None`."""
    nodes: tuple[str, ...] = ()
    """Nodes of the current or last run, in the order of ranks."""
    restarts: int = 0
    """Number of requeues."""
    exit_code: int | None = None
    """Exit code of a job that ended, 0 to 255; None if unknown. Some sources subtract 128 from larger codes."""
    signal: int | None = None
    """Signal that ended the job, if any."""
    submitted: int | None = None
    """Time in seconds since the epoch, as the next two. A requeue changes it."""
    started: int | None = None
    ended: int | None = None
    """For a running job, Slurm's prediction."""
    time_limit: int | None = None
    """Time limit in seconds; None if unlimited or unknown."""
    cancelled_by: str | None = None
    """Account or uid that cancelled the job, if accounting has it."""
    sluids: tuple[str, ...] = ()
    """Slurm's unique ids (SLUID) of the job's runs, oldest first, if accounting has them."""
