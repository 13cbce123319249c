"""What Slurm says of a job."""

from __future__ import annotations

from typing import NamedTuple

DISPATCH_SECONDS = 250
"""So long after `submit` was called nothing that it has started still runs, whatever has become of its caller.

An sbatch tries for up to 120 seconds by itself while the controller is busy. Half a minute of it is for a database that
is locked when the hand-over is noted in it.
"""


LARGEST_SLURM_ID = 0xFFFFFFFC
"""The largest id of a job (slurm.h: MAX_FED_JOB_ID). sacct answers no question in which a larger one is named."""


class Observation(NamedTuple):
    """What Slurm says of one job, or of one task or component of it. A tuple, for an answer may have ten thousands."""

    slurm_id: int
    """The job's id; for a task of an array the id of the array."""
    task: str | None
    """The array's index (`3`), a range of pending ones (`4-9`), or the component of a heterogeneous job (`+1`)."""
    name: str
    """The job's name: for one of ours, its token."""
    user: str
    state: str
    """Slurm's own word in long form and upper case, without decoration: `CANCELLED`, never `CANCELLED by 1000`."""
    reason: str = ""
    """Why it waits or ended, in Slurm's words; empty for `None`."""
    nodes: tuple[str, ...] = ()
    """Of the running or last run, in the order of ranks."""
    restarts: int = 0
    """How often Slurm started it again."""
    exit_code: int | None = None
    """Of a job that ended, 0 to 255; None where it is not known. Some sources take 128 off one beyond it."""
    signal: int | None = None
    """That ended it, where one did."""
    submitted: int | None = None
    """Seconds since the epoch, as are the next two. A requeue sets it anew."""
    started: int | None = None
    ended: int | None = None
    """Slurm predicts it for a job that still runs."""
    time_limit: int | None = None
    """Seconds; None for unlimited or not known."""
    cancelled_by: str | None = None
    """The account or uid that cancelled it, where accounting tells."""
    sluids: tuple[str, ...] = ()
    """The unique ids that Slurm gave the job's runs, oldest first, if accounting tells them."""
