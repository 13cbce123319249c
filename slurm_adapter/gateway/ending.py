"""Jobs that are to end: an answer in time, however many they are and whatever Slurm does.

UCloud waits five seconds. That the end of a job is wanted is on disk, for all of a request in one step, before anything
is done about it; what is not done by the answer goes on behind it, and a pass sees to what a crash or an outage has
left.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Concatenate

from slurm_adapter import jobs
from slurm_adapter.errors import TryAgain, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurm_adapter.gateway.workers import P, Workers
    from slurm_adapter.site import Site
    from slurm_adapter.store import Record

ANSWER_SECONDS = 3.0
"""How long it is waited for, to tell Slurm's own refusal where there is one."""

log = logging.getLogger(__name__)


class Ender:
    """Ends jobs."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._behind: set[asyncio.Future[None]] = set()

    async def end(self, find: Callable[Concatenate[Site, P], list[Record]], *args: P.args, **kwargs: P.kwargs) -> None:
        """End the jobs that `find` finds so. Raises what it raises, and `Refused` as `jobs.cancel`."""
        ids = await self._workers.call(_want, lambda site: find(site, *args, **kwargs))
        if not ids:
            return
        work = asyncio.ensure_future(self._workers.change(_end, ids))
        self._behind.add(work)
        work.add_done_callback(self._done)
        await asyncio.wait({work}, timeout=ANSWER_SECONDS)
        if work.done():
            await work

    def _done(self, work: asyncio.Future[None]) -> None:
        self._behind.discard(work)
        if not work.cancelled() and (error := work.exception()) is not None:
            log.warning("jobs were not ended: %s", error)


def _want(site: Site, find: Callable[[Site], list[Record]]) -> list[str]:
    ids = [record.id for record in find(site)]
    site.store.want_ended(ids, site.clock())
    return ids


def _end(site: Site, ids: list[str]) -> None:
    try:
        jobs.cancel(site, ids)
    except (TryAgain, Unknown) as error:
        log.warning("jobs are yet to be ended, and a pass will see to it: %s", error)
