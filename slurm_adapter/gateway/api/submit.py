"""Jobs that come in over HTTP: an answer in time, whatever Slurm does (D11).

UCloud waits five seconds for an answer, and deletes its job when none comes. So an answer is given before that: what
was refused by then is refused and leaves nothing behind, and what was claimed is taken, and goes on behind the answer.
UCloud sends a bulk job by job, and has 30 seconds for all of them. So its jobs are taken once they are claimed.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import TryAgain
from slurm_adapter.jobs import submit as jobs
from slurm_adapter.jobs.cluster_facts import CannotRun
from slurm_adapter.jobs.item import Item
from slurm_adapter.jobs.peers import declared_peers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Hashable, Sequence

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.records import Record
    from slurm_adapter.core.specification import Owner
    from slurm_adapter.gateway.api.dispatch import Dispatcher
    from slurm_adapter.gateway.controller import Controller
    from slurm_adapter.gateway.thread_pools import ThreadPools
    from slurm_adapter.jobs.cluster_facts import ClusterFacts

CLAIMED_SECONDS = 3.0
"""How long jobs that are claimed are waited for, to tell Slurm's own refusal where there is one."""

LONGEST_SECONDS = 4.5
"""How long a claim is waited for; a bulk of a thousand may take that long."""

PEERS_SECONDS = 2.0
"""How long a job waits until Slurm has its peers, so that Slurm starts it after them."""

FRESH_SECONDS = 5.0
"""Facts that are older do not suffice to refuse a job."""

ASKED_SECONDS = 1.0
"""Facts that are older do not suffice to submit at once. So requests have Slurm asked once a second, however many."""


class Submitter:
    """Hands jobs in. What comes twice at once is done once: the second waits for what becomes of the first."""

    def __init__(self, workers: ThreadPools, controller: Controller, dispatcher: Dispatcher) -> None:
        self._workers = workers
        self._controller = controller
        self._dispatcher = dispatcher
        self._underway: dict[Hashable, tuple[asyncio.Lock, int]] = {}
        """A lock for each key that is under way, and how many hold it or wait for it."""
        self._behind: set[asyncio.Future[list[Record]]] = set()

    async def submit(self, owner: Owner, items: Sequence[Item], came: float) -> list[Record]:
        """The jobs, in order. Raises what `jobs.submit` raises, and `TryAgain` where it took too long to claim them.

        `came`: when they were asked for, by `time.monotonic`; reading a large request takes part of the time.
        """
        late = time.monotonic() - came
        async with self._all_alone(owner, items):
            caller = jobs.Caller()
            return await self._in_time(self._submit(owner, items, caller), caller, late)

    async def claim(self, owner: Owner, items: Sequence[Item], came: float) -> list[Record]:
        """Return the jobs, in order, once they are claimed; Slurm gets them behind the answer.

        Raise what `jobs.claim` raises, and `TryAgain` if Slurm's controller is away or if it took too long.
        """
        late = time.monotonic() - came
        self._controller.must_answer()
        async with self._all_alone(owner, items):
            caller = jobs.Caller()
            return await self._in_time(self._claim(owner, items, caller), caller, late)

    async def _submit(self, owner: Owner, items: Sequence[Item], caller: jobs.Caller) -> list[Record]:
        facts = await self._controller.facts(newer_than=ASKED_SECONDS, rights=False)
        return await self._workers.change_for(owner.created_by, jobs.submit, owner, items, caller=caller, facts=facts)

    async def _claim(self, owner: Owner, items: Sequence[Item], caller: jobs.Caller) -> list[Record]:
        peers = {peer.job_id for item in items for _, peer in declared_peers(item.specification)}
        await self._dispatcher.settled(peers, PEERS_SECONDS)
        facts = await self._controller.facts()
        try:
            records, fresh, held = await self._workers.ask_for(owner.created_by, _claim, owner, items, facts, caller)
        except CannotRun:
            newer = await self._controller.facts(newer_than=FRESH_SECONDS)
            records, fresh, held = await self._workers.ask_for(owner.created_by, _claim, owner, items, newer, caller)
        self._dispatcher.add(fresh, held)
        return records

    async def _in_time(
        self, submission: Coroutine[None, None, list[Record]], caller: jobs.Caller, late: float
    ) -> list[Record]:
        work = asyncio.ensure_future(submission)
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

    async def close(self) -> None:
        """Wait for all that was begun. The caller lets nothing more be begun."""
        while self._behind:
            await asyncio.wait(self._behind)

    def _done(self, work: asyncio.Future[list[Record]]) -> None:
        self._behind.discard(work)
        if not work.cancelled():
            work.exception()  # told already, or told to the job's user by its record

    @asynccontextmanager
    async def _all_alone(self, owner: Owner, items: Sequence[Item]) -> AsyncIterator[None]:
        keys = {item.id or (owner.created_by, owner.project, item.key) for item in items if item.id or item.key}
        async with AsyncExitStack() as stack:
            for key in sorted(keys, key=repr):
                await stack.enter_async_context(self._alone(key))
            yield

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


def _claim(
    adapter: Adapter, owner: Owner, items: Sequence[Item], facts: ClusterFacts, caller: jobs.Caller
) -> tuple[list[Record], list[Record], ExitStack]:
    """As `jobs.claim`, with what keeps passes from the new claims until it is closed."""
    with ExitStack() as held:
        records, fresh = jobs.claim(
            adapter, owner, items, facts, caller, lambda: held.enter_context(adapter.submitting_lock())
        )
        return records, fresh, held.pop_all()
