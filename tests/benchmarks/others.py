"""Other libraries that submit Slurm jobs, as their documentation says. Each is told how many, and tells what it took.

They find Slurm's commands on PATH; there stand-ins enter the sandbox. What they do after a job has its id is not
measured.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from slurm_adapter import sandbox

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COMMANDS = ("sbatch", "squeue", "scancel", "sacct", "sinfo", "scontrol", "srun")


def enter_sandbox(folder: Path) -> None:
    """Put stand-ins of Slurm's commands first on this process's PATH."""
    bin_ = folder / "bin"
    bin_.mkdir(exist_ok=True)
    words = " ".join(f"'{word}'" for word in sandbox.enter(user="alice"))
    for name in COMMANDS:
        (bin_ / name).write_text(f'#!/bin/sh\nexec {words} {name} "$@"\n')
        (bin_ / name).chmod(0o755)
    if str(bin_) not in os.environ["PATH"].split(":"):
        os.environ["PATH"] = f"{bin_}:{os.environ['PATH']}"


def submitit(folder: Path, count: int) -> float:
    """Facebook's submitit: its Slurm executor, one `submit` a job."""
    from submitit import SlurmExecutor  # noqa: PLC0415  # where it is installed

    executor = SlurmExecutor(folder=folder, python="python3")
    executor.update_parameters(time=30, partition="scavenge")
    began = time.monotonic()
    for _ in range(count):
        executor.submit(len, ())
    return time.monotonic() - began


def psij(folder: Path, count: int) -> float:
    """PSI/J: its Slurm executor, one `submit` a job."""
    from psij import Job, JobAttributes, JobExecutor, JobSpec  # noqa: PLC0415  # where it is installed
    from psij.executors.batch.slurm import SlurmExecutorConfig  # noqa: PLC0415

    work = folder / "psij"
    executor = JobExecutor.get_instance("slurm", config=SlurmExecutorConfig(work_directory=work))
    attributes = JobAttributes(queue_name="scavenge")
    began = time.monotonic()
    for _ in range(count):
        executor.submit(Job(JobSpec(executable="/bin/true", directory=folder, attributes=attributes)))
    return time.monotonic() - began


def parsl(folder: Path, count: int) -> float:
    """Parsl's Slurm provider, one `submit` a block."""
    from parsl.providers import SlurmProvider  # noqa: PLC0415  # where it is installed

    provider = SlurmProvider("scavenge", walltime="00:30:00", exclusive=False)
    provider.script_dir = str(folder)
    began = time.monotonic()
    for _ in range(count):
        if provider.submit("true", 1) is None:
            raise RuntimeError("parsl's provider could not submit")
    return time.monotonic() - began


ALL: dict[str, Callable[[Path, int], float]] = {"submitit": submitit, "PSI/J": psij, "parsl": parsl}
