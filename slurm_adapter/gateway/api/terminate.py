"""Cancelling jobs: an answer in time, however many jobs there are and whatever Slurm does.

UCloud waits five seconds. First the request to cancel is stored for all jobs of a request in one step. What is not done
when the answer is due continues in the background, and a sync does what a crash or an outage has left.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Concatenate

from slurm_adapter.core.errors import TryAgain, Unknown
from slurm_adapter.gateway.background import StillRunning
from slurm_adapter.gateway.shares import TooMany
from slurm_adapter.jobs import cancel

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.records import Record
    from slurm_adapter.gateway.background import BackgroundWork
    from slurm_adapter.gateway.controller import Controller
    from slurm_adapter.gateway.limits import Limits
    from slurm_adapter.gateway.thread_pools import P, ThreadPools

log = logging.getLogger(__name__)


class Terminator:
    """Cancels jobs for both APIs."""

    def __init__(self, pools: ThreadPools, background: BackgroundWork, controller: Controller, limits: Limits) -> None:
        self._pools = pools
        self._background = background
        self._controller = controller
        self._limits = limits

    async def terminate(
        self, owner: str, find: Callable[Concatenate[Adapter, P], list[Record]], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Cancel the jobs that `find` returns, for a user. Raise what `find` raises, and `Refused` as `jobs.cancel`."""
        began = time.monotonic()
        requesting = self._pools.database.run(_request, lambda adapter: find(adapter, *args, **kwargs))
        try:
            names = await self._background.in_time(requesting, self._limits.answer, "storing which jobs to cancel")
        except StillRunning:
            raise TryAgain("the database is busy, and it is not known whether the jobs will be cancelled") from None
        if not names:
            return
        seconds = 0.0 if self._controller.away else self._limits.cancel_answer
        left = max(0.0, min(seconds, self._limits.answer - (time.monotonic() - began)))
        with suppress(StillRunning, TooMany):  # the next sync does what is not done now
            await self._background.in_time(self._pools.changes.run_for(owner, _cancel, names), left, "cancelling jobs")


def _request(adapter: Adapter, find: Callable[[Adapter], list[Record]]) -> list[str]:
    """Store which jobs to cancel; return their Slurm names, because UCloud may give their ids to new jobs."""
    names = [record.slurm_name for record in find(adapter)]
    adapter.store.request_cancel(names, adapter.clock())
    return names


def _cancel(adapter: Adapter, names: list[str]) -> None:
    try:
        cancel.cancel_records(adapter, adapter.store.with_slurm_names(names))
    except (TryAgain, Unknown) as error:
        log.warning("jobs are not cancelled yet; a sync will retry: %s", error)
