"""More time for jobs. A request that is repeated because its answer is late does not add the time twice."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import Refused
from slurm_adapter.jobs import control

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_adapter.gateway.limits import Limits
    from slurm_adapter.gateway.thread_pools import ThreadPools


class Extender:
    """Gives jobs more time, for both APIs.

    Requests at the same time add up. A request that is late, so that its caller does not know the outcome, refuses
    others until it is done: they may be repetitions of it.
    """

    def __init__(self, pools: ThreadPools, limits: Limits) -> None:
        self._pools = pools
        self._limits = limits
        self._under_way: dict[object, tuple[frozenset[str], float]] = {}
        """The jobs of each request, and the time from which it is late."""

    async def extend(self, owner: str, wanted: Sequence[tuple[str, int]]) -> None:
        """Add seconds to the time limits of these jobs, which the caller may change.

        Raise what `control.extend` raises, and `Refused` if an earlier request for one of them is late: only a person
        who sees the result of the first request can decide whether the second one is meant.
        """
        ids, now = frozenset(id_ for id_, _ in wanted), time.monotonic()
        for others, late in self._under_way.values():
            if late <= now and (busy := ids & others):
                raise Refused(
                    f"nothing was added: an earlier request to extend job {min(busy)} is still running; wait until "
                    "the job shows its new time limit, and ask again if it needs more"
                )
        mine = object()
        self._under_way[mine] = ids, now + self._limits.answer
        try:
            await self._pools.changes.run_for(owner, control.extend, wanted)
        finally:
            del self._under_way[mine]
