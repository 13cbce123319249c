"""Jobs that were claimed for UCloud are given to Slurm behind their answers.

While sbatch runs for some of an account's jobs the next ones gather, and go together. What could not be given to Slurm
stays claimed, and passes try again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import AdapterError, Later
from slurm_adapter.jobs.dispatch import hand_over

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.records import Record
    from slurm_adapter.gateway.thread_pools import ThreadPools

log = logging.getLogger(__name__)


class Dispatcher:
    """All jobs that are on their way to Slurm."""

    def __init__(self, workers: ThreadPools) -> None:
        self._workers = workers
        self._waiting: defaultdict[str, list[Record]] = defaultdict(list)
        """By account."""
        self._under_way: dict[str, asyncio.Task[None]] = {}
        """A task for each account with jobs on their way."""
        self._ids: set[str] = set()
        """All of them."""
        self._progress = asyncio.Condition()
        self._held = ExitStack()
        """Keeps passes from the claims that are on their way."""

    def add(self, records: Iterable[Record], held: ExitStack) -> None:
        """Give these claims to Slurm soon. `held` is closed once no jobs are on their way."""
        for record in records:
            self._ids.add(record.id)
            self._waiting[record.account].append(record)
            if record.account not in self._under_way:
                self._under_way[record.account] = asyncio.create_task(self._run(record.account))
        if self._under_way:
            self._held, held = held, self._held
        held.close()

    async def settled(self, ids: Iterable[str], seconds: float) -> None:
        """Wait until none of these jobs is on its way, for so many seconds at most."""
        wanted = frozenset(ids)
        if not self._ids.isdisjoint(wanted):
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds), self._progress:
                    await self._progress.wait_for(lambda: self._ids.isdisjoint(wanted))

    async def close(self) -> None:
        """Wait until no jobs are on their way. The caller adds no more."""
        while self._under_way:
            await asyncio.wait(self._under_way.values())

    async def _run(self, account: str) -> None:
        while some := self._waiting.pop(account, None):
            try:
                await self._workers.change(_dispatch, some)
            except AdapterError as error:
                log.warning("%d jobs of %s are yet to be given to Slurm: %s", len(some), account, error)
            except Exception:  # a pass may do better
                log.exception("a mistake in slurm-adapter kept %d jobs of %s from Slurm", len(some), account)
            self._ids.difference_update(record.id for record in some)
            async with self._progress:
                self._progress.notify_all()
        del self._under_way[account]
        if not self._under_way:
            self._held.close()


def _dispatch(adapter: Adapter, claimed: Sequence[Record]) -> None:
    for error in hand_over(adapter, claimed).values():
        if not isinstance(error, Later):
            log.warning("%s", error)
