"""Jobs that come in over HTTP: an answer in time, whatever Slurm does (D11).

UCloud waits five seconds for an answer, and deletes its job when none comes. So an answer is given before that: what
was refused by then is refused and leaves nothing behind, and what was claimed is taken, and goes on behind the answer.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from slurm_adapter import jobs
from slurm_adapter.errors import TryAgain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable, Sequence

    from slurm_adapter.gateway.workers import Workers
    from slurm_adapter.records import Record
    from slurm_adapter.specification import Owner

CLAIMED_SECONDS = 3.0
"""How long jobs that are claimed are waited for, to tell Slurm's own refusal where there is one."""

LONGEST_SECONDS = 4.5
"""How long a claim is waited for; a bulk of a thousand may take that long."""


class Submitter:
    """Hands jobs in. What comes twice at once is done once: the second waits for what becomes of the first."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._underway: dict[Hashable, tuple[asyncio.Lock, int]] = {}
        """A lock for each key that is under way, and how many hold it or wait for it."""
        self._behind: set[asyncio.Future[list[Record]]] = set()

    async def submit(self, owner: Owner, items: Sequence[jobs.Item], came: float) -> list[Record]:
        """The jobs, in order. Raises what `jobs.submit` raises, and `TryAgain` where it took too long to claim them.

        `came`: when they were asked for, by `time.monotonic`; reading a large request takes part of the time.
        """
        late = time.monotonic() - came
        keys = {item.id or (owner.created_by, owner.project, item.key) for item in items if item.id or item.key}
        async with AsyncExitStack() as stack:
            for key in sorted(keys, key=repr):
                await stack.enter_async_context(self._alone(key))
            return await self._submit(owner, items, late)

    async def _submit(self, owner: Owner, items: Sequence[jobs.Item], late: float) -> list[Record]:
        caller = jobs.Caller()
        work = asyncio.ensure_future(self._workers.change(jobs.submit, owner, items, caller=caller))
        self._behind.add(work)
        work.add_done_callback(self._done)
        await asyncio.wait({work}, timeout=max(0.0, CLAIMED_SECONDS - late))
        if not work.done() and caller.records is None:
            await asyncio.wait({work}, timeout=max(0.0, LONGEST_SECONDS - max(late, CLAIMED_SECONDS)))
        while not work.done() and not caller.leave():
            # The claim is being written, or its outcome settled: that takes moments, and decides what is told.
            await asyncio.wait({work}, timeout=0.05)
        if work.done():
            return await asyncio.shield(work)
        if caller.records is None:
            raise TryAgain("the cluster took too long to answer, and nothing was submitted; try again")
        return caller.records

    def _done(self, work: asyncio.Future[list[Record]]) -> None:
        self._behind.discard(work)
        if not work.cancelled():
            work.exception()  # told already, or told to the job's user by its record

    @asynccontextmanager
    async def _alone(self, key: Hashable) -> AsyncIterator[None]:
        lock, users = self._underway.get(key, (asyncio.Lock(), 0))
        self._underway[key] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._underway[key]
            if users > 1:
                self._underway[key] = lock, users - 1
            else:
                del self._underway[key]
