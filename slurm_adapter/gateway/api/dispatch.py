"""Dispatching jobs of UCloud in the background, after their requests were answered.

While sbatch runs for some jobs of an account, the next ones gather and are dispatched together. Jobs that could not be
dispatched stay claimed, and a sync retries.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import AdapterError, Later
from slurm_adapter.jobs.dispatch import dispatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.records import Record
    from slurm_adapter.gateway.background import BackgroundWork
    from slurm_adapter.gateway.thread_pools import ThreadPools

log = logging.getLogger(__name__)


class Dispatcher:
    """All jobs that are being dispatched."""

    def __init__(self, pools: ThreadPools, background: BackgroundWork) -> None:
        self._pools = pools
        self._background = background
        self._waiting: defaultdict[str, list[Record]] = defaultdict(list)
        """The jobs of each account that the next sbatch takes."""
        self._busy: set[str] = set()
        """Accounts with jobs that are being dispatched."""
        self._ids: set[str] = set()
        """All jobs that are being dispatched."""
        self._progress = asyncio.Condition()

    def add(self, records: Iterable[Record]) -> None:
        """Dispatch these claims soon."""
        for record in records:
            self._ids.add(record.id)
            self._waiting[record.account].append(record)
            if record.account not in self._busy:
                self._busy.add(record.account)
                self._background.start(self._run(record.account))

    async def settled(self, ids: Iterable[str], seconds: float) -> None:
        """Wait until none of these jobs is being dispatched, at most this long."""
        wanted = frozenset(ids)
        if not self._ids.isdisjoint(wanted):
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds), self._progress:
                    await self._progress.wait_for(lambda: self._ids.isdisjoint(wanted))

    async def _run(self, account: str) -> None:
        while some := self._waiting.pop(account, None):
            try:
                await self._pools.changes.run(_dispatch, some)
            except AdapterError as error:
                log.warning("%d jobs of %s are not dispatched yet: %s", len(some), account, error)
            except Exception:  # a sync may succeed
                log.exception("%d jobs of %s are not dispatched because of a bug in slurm-adapter", len(some), account)
            self._ids.difference_update(record.id for record in some)
            async with self._progress:
                self._progress.notify_all()
        self._busy.remove(account)


def _dispatch(adapter: Adapter, claimed: Sequence[Record]) -> None:
    for error in dispatch(adapter, claimed).values():
        if not isinstance(error, Later):
            log.warning("%s", error)
