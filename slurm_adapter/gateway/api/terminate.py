"""Jobs that are to end: an answer in time, however many they are and whatever Slurm does.

UCloud waits five seconds. That the end of a job is wanted is on disk, for all of a request in one step, before anything
is done about it; what is not done by the answer goes on behind it, and a pass sees to what a crash or an outage has
left.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Concatenate

from slurm_adapter.core.errors import TryAgain, Unknown
from slurm_adapter.gateway import background
from slurm_adapter.gateway.background import StillRunning
from slurm_adapter.gateway.shares import TooMany
from slurm_adapter.jobs import cancel

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.records import Record
    from slurm_adapter.gateway.background import BackgroundWork
    from slurm_adapter.gateway.controller import Controller
    from slurm_adapter.gateway.thread_pools import P, ThreadPools

ANSWER_SECONDS = 3.0
"""How long it is waited for, to tell Slurm's own refusal where there is one."""

log = logging.getLogger(__name__)


class Ender:
    """Ends jobs."""

    def __init__(self, workers: ThreadPools, behind: BackgroundWork, controller: Controller) -> None:
        self._workers = workers
        self._behind = behind
        self._controller = controller

    async def end(
        self, owner: str, find: Callable[Concatenate[Adapter, P], list[Record]], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """End the jobs that `find` finds so, for a user. Raises what it raises, and `Refused` as `jobs.cancel`."""
        began = time.monotonic()
        wanting = self._workers.call(_want, lambda adapter: find(adapter, *args, **kwargs))
        try:
            names = await self._behind.in_time(wanting, background.LONGEST_SECONDS, "noting which jobs are to end")
        except StillRunning:
            raise TryAgain(
                "the database is busy, and it is not known yet whether the jobs will end; try again"
            ) from None
        if not names:
            return
        waited_for = 0.0 if self._controller.away else ANSWER_SECONDS
        left = max(0.0, min(waited_for, background.LONGEST_SECONDS - (time.monotonic() - began)))
        with suppress(StillRunning, TooMany):  # what is not done now is done by the next pass
            await self._behind.in_time(self._workers.change_for(owner, _end, names), left, "ending jobs")


def _want(adapter: Adapter, find: Callable[[Adapter], list[Record]]) -> list[str]:
    """Note which jobs are to end; return their Slurm names, for UCloud may give their ids to new jobs meanwhile."""
    names = [record.slurm_name for record in find(adapter)]
    adapter.store.want_ended(names, adapter.clock())
    return names


def _end(adapter: Adapter, names: list[str]) -> None:
    try:
        cancel.end(adapter, adapter.store.with_slurm_names(names))
    except (TryAgain, Unknown) as error:
        log.warning("jobs are yet to be ended, and a pass will see to it: %s", error)
