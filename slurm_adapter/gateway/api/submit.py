"""Submitting jobs over HTTP: an answer in time, whatever Slurm does.

UCloud waits five seconds for an answer, and deletes its job if none arrives. So the answer is sent before that. Jobs
refused by then leave nothing behind. Jobs claimed by then are accepted, and their submission continues in the
background.
UCloud sends a bulk job by job, and allows 30 seconds for all of them. So its jobs are accepted once they are claimed.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from slurm_adapter.core.errors import TryAgain
from slurm_adapter.jobs import submit as jobs
from slurm_adapter.jobs.caller import Caller
from slurm_adapter.jobs.cluster_facts import CannotRun
from slurm_adapter.jobs.item import Item
from slurm_adapter.jobs.peers import declared_peers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Hashable, Sequence

    from slurm_adapter.core.records import Record
    from slurm_adapter.core.specification import Owner
    from slurm_adapter.gateway.api.dispatch import Dispatcher
    from slurm_adapter.gateway.background import BackgroundWork
    from slurm_adapter.gateway.controller import Controller
    from slurm_adapter.gateway.limits import Limits
    from slurm_adapter.gateway.thread_pools import ThreadPools


class Submitter:
    """Submits jobs for both APIs. A request that arrives twice at once waits for the outcome of the first."""

    def __init__(
        self,
        pools: ThreadPools,
        background: BackgroundWork,
        controller: Controller,
        dispatcher: Dispatcher,
        limits: Limits,
    ) -> None:
        self._pools = pools
        self._background = background
        self._controller = controller
        self._dispatcher = dispatcher
        self._limits = limits
        self._locks: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()
        """A lock for each key that is under way."""

    async def submit(self, owner: Owner, items: Sequence[Item], came: float) -> list[Record]:
        """Submit jobs; return them in order. Raise as `jobs.submit`, and `TryAgain` if claiming them took too long.

        `came` is the time of the request, by `time.monotonic`: reading a large request takes part of the time.
        """
        late = time.monotonic() - came
        async with self._locked(owner, items):
            caller = Caller()
            return await self._in_time(self._submit(owner, items, caller), caller, late)

    async def claim(self, owner: Owner, items: Sequence[Item], came: float) -> list[Record]:
        """Claim jobs; return them in order. They are dispatched in the background.

        Raise as `jobs.claim`, and `TryAgain` if slurmctld is down or if it took too long.
        """
        late = time.monotonic() - came
        self._controller.must_answer()
        async with self._locked(owner, items):
            caller = Caller()
            return await self._in_time(self._claim(owner, items, caller), caller, late)

    async def _submit(self, owner: Owner, items: Sequence[Item], caller: Caller) -> list[Record]:
        facts = await self._controller.facts(self._limits.facts_age_to_submit, accounting=False)
        changes = self._pools.changes
        return await changes.run_for(owner.created_by, jobs.submit, owner, items, caller=caller, facts=facts)

    async def _claim(self, owner: Owner, items: Sequence[Item], caller: Caller) -> list[Record]:
        peers = {peer.job_id for item in items for _, peer in declared_peers(item.specification)}
        await self._dispatcher.settled(peers, self._limits.peers_dispatch)
        run_for, user = self._pools.questions.run_for, owner.created_by
        facts = await self._controller.facts()
        try:
            records, fresh = await run_for(user, jobs.claim, owner, items, facts, caller)
        except CannotRun:
            newer = await self._controller.facts(self._limits.facts_age_to_refuse)
            records, fresh = await run_for(user, jobs.claim, owner, items, newer, caller)
        self._dispatcher.add(fresh)
        return records

    async def _in_time(
        self, submission: Coroutine[None, None, list[Record]], caller: Caller, late: float
    ) -> list[Record]:
        claimed, claim = self._limits.claimed_answer, self._limits.claim_answer
        work = self._background.start(submission)
        await asyncio.wait({work}, timeout=max(0.0, claimed - late))
        if not work.done() and caller.records is None:
            await asyncio.wait({work}, timeout=max(0.0, claim - max(late, claimed)))
        while not work.done() and not caller.leave():
            # The claim is being written, or its outcome decided. That takes moments, and decides the answer.
            await asyncio.wait({work}, timeout=0.05)
        if work.done():
            return work.result()
        if caller.records is None:
            raise TryAgain("nothing was submitted: the cluster took too long to answer; try again")
        return caller.records

    @asynccontextmanager
    async def _locked(self, owner: Owner, items: Sequence[Item]) -> AsyncIterator[None]:
        keys = {item.id or (owner.created_by, owner.project, item.key) for item in items if item.id or item.key}
        async with AsyncExitStack() as stack:
            for key in sorted(keys, key=repr):
                await stack.enter_async_context(self._locks.setdefault(key, asyncio.Lock()))
            yield
