"""Paths in drives that jobs name: each is looked at on the cluster, as the job's account, before a job is taken."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import TryAgain
from slurm_adapter.translation.drives import check_paths_command, read_path_check

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slurm_adapter.cluster.transports.interface import Transport
    from slurm_adapter.translation.drives import DrivePath

KEPT_SECONDS = 10.0
"""How long a path that was good is not looked at again: jobs that come one after another often name the same one."""

LATE_SECONDS = 3.0
"""After so long a look is late, and nobody else waits for the same file system."""

BUSY_SECONDS = 1.5
"""How long a look waits for other commands to make room: one that is late is not one that waits."""


class PathChecks:
    """What was seen lately, and what is being looked at. Threads may share it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._good: dict[tuple[str, DrivePath], float] = {}
        self._looking: dict[object, tuple[set[str], float]] = {}
        """The drives' folders that each look is about, and when it began."""

    def check(self, transport: Transport, paths: Sequence[DrivePath], account: str) -> None:
        """Look at paths as an account, unless that was done just now. Raise as `read_path_check`.

        Raise `TryAgain` if another look into one of the drives has not ended for seconds: its file system may be away.
        """
        now = self._clock()
        self._good = {seen: when for seen, when in list(self._good.items()) if now - when < KEPT_SECONDS}
        if not (unseen := [path for path in paths if (account, path) not in self._good]):
            return
        roots = {path.root for path in unseen}
        for others, began in list(self._looking.values()):
            if now - began > LATE_SECONDS and (stuck := roots & others):
                raise TryAgain(f"the folder {min(stuck)} on the cluster does not answer; is its file system away?")
        mine = object()
        self._looking[mine] = roots, now
        try:
            read_path_check(
                unseen, transport.run(replace(check_paths_command(unseen, account), waits=BUSY_SECONDS)).stdout
            )
        finally:
            del self._looking[mine]
        self._good |= {(account, path): now for path in unseen}
