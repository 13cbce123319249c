"""Threads for work that blocks (the database, the cluster), so that the event loop never blocks.

Each thread has an `Adapter` of its own, with its own database connection. All share the connections to the cluster.
"""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from slurm_adapter.gateway.background import BackgroundWork
from slurm_adapter.gateway.http.turns import Lanes
from slurm_adapter.gateway.shares import Shares

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slurm_adapter.adapter import Adapter

P = ParamSpec("P")
T = TypeVar("T")

DATABASE = 32
"""Threads for work that needs only the database."""

CHANGING = 32
"""Threads for work that changes something in Slurm, which may take minutes."""

ASKING = 32
"""Threads for questions to the cluster or UCloud, which may hang."""

READING = 2
"""Threads that read bodies. More would only keep each other, and the event loop, from the interpreter."""

REPEATING = 3
"""Threads for the syncs, the deliveries and the pings: one each."""

OF_ONE = 4
"""Threads for changes, and for questions, that work for one user at once."""


class Spent:
    """Processor time that the threads of one request took, in seconds."""

    seconds = 0.0


_spent: ContextVar[Spent | None] = ContextVar("spent", default=None)


@contextmanager
def counting() -> Iterator[Spent]:
    """Count the processor time of threads that are used within the block."""
    token = _spent.set(spent := Spent())
    try:
        yield spent
    finally:
        _spent.reset(token)


def _counted(work: Callable[[], T]) -> Callable[[], T]:
    spent = _spent.get()
    if spent is None:
        return work

    def counted() -> T:
        began = time.thread_time()
        try:
            return work()
        finally:
            spent.seconds += time.thread_time() - began

    return counted


class ThreadPool:
    """The threads for one kind of work. Work waits until a thread is free."""

    def __init__(
        self,
        adapters: _Adapters,
        background: BackgroundWork,
        name: str,
        threads: int,
        shared: str = "",
        changed: asyncio.Event | None = None,
    ) -> None:
        """Make it. `shared` names, in the plural, what users share by `run_for`. `changed` is set after all work."""
        self._adapters = adapters
        self._changed = changed
        self._background = background
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._shares = Shares(threads, OF_ONE, shared)

    async def run(self, work: Callable[Concatenate[Adapter, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `work` with an adapter in a thread; return what it returns, or raise what it raises.

        A caller that is cancelled stops waiting; the work itself continues to its end.
        """
        counted = _counted(lambda: work(self._adapters.own(), *args, **kwargs))
        try:
            return await asyncio.wrap_future(self._threads.submit(counted))
        finally:
            if self._changed is not None:
                self._changed.set()

    async def run_for(
        self, owner: str, work: Callable[Concatenate[Adapter, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run work for a user, as `run` does. Raise `TooMany` before it begins if the user has too much under way."""
        self._shares.acquire(owner)
        task = self._background.start(self.run(work, *args, **kwargs))
        task.add_done_callback(lambda _: self._shares.release(owner))
        return await asyncio.shield(task)

    def close(self) -> None:
        """Wait for all work."""
        self._threads.shutdown(wait=True)


class ThreadPools:
    """The threads of one gateway. Each kind of work has its own, so that none delays another."""

    def __init__(self, adapter: Adapter, background: BackgroundWork | None = None) -> None:
        background = background or BackgroundWork()
        self.config = adapter.config
        self._adapters = _Adapters(adapter)
        self.changed = asyncio.Event()
        """Set after something was changed in Slurm, or may have been. So it is synced soon."""
        pool = partial(ThreadPool, self._adapters, background)
        self.database = pool("database", DATABASE)
        self.changes = pool("changes", CHANGING, "changes in Slurm under way", self.changed)
        self.questions = pool("questions", ASKING, "questions to the cluster under way")
        self.repeated = pool("repeated", REPEATING)
        self._readers = ThreadPoolExecutor(READING, thread_name_prefix="readers")
        self._lanes = Lanes(1)

    async def read(self, caller: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Compute something in a thread, without an adapter. One thing runs at a time for each caller."""
        async with self._lanes.of(caller):
            return await asyncio.wrap_future(self._readers.submit(_counted(lambda: work(*args, **kwargs))))

    def close(self) -> None:
        """Wait for all work, and close the adapters."""
        for pool in (self.repeated, self.changes, self.questions, self.database):
            pool.close()
        self._readers.shutdown(wait=True)
        self._adapters.close()


class _Adapters:
    """One adapter for each thread."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._own = threading.local()
        self._opened: list[Adapter] = []

    def own(self) -> Adapter:
        """Return the adapter of this thread."""
        adapter: Adapter | None = getattr(self._own, "adapter", None)
        if adapter is None:
            adapter = self._own.adapter = self._adapter.for_thread()
            self._opened.append(adapter)
        return adapter

    def close(self) -> None:
        """Close all of them."""
        for adapter in self._opened:
            adapter.store.close()
        self._adapter.close()
