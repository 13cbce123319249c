"""More time for jobs: who asks once more because an answer is late is not given the time twice."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import Refused
from slurm_adapter.gateway import background
from slurm_adapter.jobs import control

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_adapter.gateway.thread_pools import ThreadPools


class Extender:
    """Gives jobs more time, at both doors together.

    Requests at the same time add up (contract, scenario 74). One whose caller had to be told that the outcome is not
    known yet keeps others away until it is done: they may well be the same wish once more.
    """

    def __init__(self, workers: ThreadPools) -> None:
        self._workers = workers
        self._under_way: dict[object, tuple[frozenset[str], float]] = {}
        """The jobs of each request, and from when on it is late."""

    async def extend(self, owner: str, wanted: Sequence[tuple[str, int]]) -> None:
        """Add so many seconds to the limits of these jobs, which the caller, a user, may change.

        Raises what `operations.extend` raises, and `Refused` where an earlier request for one of them is late: whether
        it is wanted twice, only somebody who has seen what came of the first can tell.
        """
        ids, now = frozenset(id_ for id_, _ in wanted), time.monotonic()
        for others, late in self._under_way.values():
            if late <= now and (busy := ids & others):
                raise Refused(
                    f"job {min(busy)} is being given more time just now, as an earlier request wants it; nothing was "
                    "added by this one: see what the job says in a while, and ask again if it needs more still"
                )
        mine = object()
        self._under_way[mine] = ids, now + background.LONGEST_SECONDS
        try:
            await self._workers.change_for(owner, control.extend, wanted)
        finally:
            del self._under_way[mine]
