"""More time for jobs: who asks once more because an answer is late is not given the time twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter import operations
from slurm_adapter.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_adapter.gateway.workers import Workers


class Extender:
    """Gives jobs more time; each job by one request at a time, at both doors together."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._under_way: set[str] = set()

    async def extend(self, wanted: Sequence[tuple[str, int]]) -> None:
        """Add so many seconds to the limits of these jobs, which the caller may change.

        Raises what `operations.extend` raises, and `Refused` where an earlier request for one of them is under way,
        answered or not: whether it is wanted twice, only somebody who has seen what came of the first can tell.
        """
        ids = [id_ for id_, _ in wanted]
        if busy := self._under_way.intersection(ids):
            raise Refused(
                f"job {min(busy)} is being given more time just now, as an earlier request wants it; nothing was added "
                "by this one: see what the job says in a while, and ask again if it needs more still"
            )
        self._under_way.update(ids)
        try:
            await self._workers.change(operations.extend, wanted)
        finally:
            self._under_way.difference_update(ids)
