"""Threads for what blocks (the database, the cluster), so that the event loop never does.

Each thread has a `Adapter` of its own, with a database connection of its own; the way to the cluster is shared.
"""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from slurm_adapter.gateway.http.turns import Lanes
from slurm_adapter.gateway.shares import Shares

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from slurm_adapter.adapter import Adapter

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 32
"""What waits for a thread has not begun."""

CHANGING = 32
"""Threads for what changes something in Slurm, which may take minutes: all else has its own, and goes on."""

OF_ONE = 4
"""Threads of each of these two kinds that work for one user at once."""

ASKING = 32
"""Threads for what asks the cluster or UCloud, which may hang."""

READING = 2
"""Threads that read bodies. More would only keep each other, and the event loop, from the interpreter."""

REPEATING = 3
"""A thread for the passes, one for the teller, and one for pings."""


class Spent:
    """Time of the processor that the threads of one request took."""

    seconds = 0.0


_spent: ContextVar[Spent | None] = ContextVar("spent", default=None)


@contextmanager
def counting() -> Iterator[Spent]:
    """Count what the threads take that are asked for within the block."""
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


class ThreadPools:
    """The threads of one gateway over one site."""

    def __init__(self, adapter: Adapter) -> None:
        self.config = adapter.config
        self._adapter = adapter
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="worker")
        self._changing = ThreadPoolExecutor(CHANGING, thread_name_prefix="changing")
        self._asking = ThreadPoolExecutor(ASKING, thread_name_prefix="asking")
        self._reading = ThreadPoolExecutor(READING, thread_name_prefix="reading")
        self._repeating = ThreadPoolExecutor(REPEATING, thread_name_prefix="repeating")
        self._lanes = Lanes(1)
        self._changing_shares = Shares(CHANGING, OF_ONE, "changes in Slurm under way")
        self._asking_shares = Shares(ASKING, OF_ONE, "questions to the cluster under way")
        self._own = threading.local()
        self._opened: list[Adapter] = []
        self.changed = asyncio.Event()
        """Set once something was changed in Slurm, or may have been: whether or not somebody waits for it still."""

    async def read(self, owner: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same for what computes only: one thing at a time for one caller, and `READING` in all."""
        async with self._lanes.of(owner):
            return await asyncio.wrap_future(self._reading.submit(_counted(lambda: work(*args, **kwargs))))

    async def call(self, work: Callable[Concatenate[Adapter, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work` returns or raises, called with a site in a thread: what needs the database alone.

        A caller that is cancelled stops waiting; the work itself goes on to its end.
        """
        return await self._run(self._threads, lambda adapter: work(adapter, *args, **kwargs))

    async def change(self, work: Callable[Concatenate[Adapter, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same for what changes something in Slurm; at most `CHANGING` at once."""
        try:
            return await self._run(self._changing, lambda adapter: work(adapter, *args, **kwargs))
        finally:
            self.changed.set()

    async def ask(self, work: Callable[Concatenate[Adapter, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same for what asks the cluster or UCloud; at most `ASKING` at once."""
        return await self._run(self._asking, lambda adapter: work(adapter, *args, **kwargs))

    async def change_for(
        self, owner: str, work: Callable[Concatenate[Adapter, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The same as `change`, for a user. Raise `TooMany` before it is begun if much is done for the user already."""
        return await self._share(self._changing_shares, owner, lambda: self.change(work, *args, **kwargs))

    async def ask_for(
        self, owner: str, work: Callable[Concatenate[Adapter, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The same as `ask`, for a user. Raise `TooMany` before it is begun if much is asked for the user already."""
        return await self._share(self._asking_shares, owner, lambda: self.ask(work, *args, **kwargs))

    async def _share(self, shares: Shares, owner: str, begin: Callable[[], Coroutine[None, None, T]]) -> T:
        """Hold a share until the work has ended, which goes on if its caller leaves."""
        shares.acquire(owner)
        task = asyncio.create_task(begin())

        def ended(task: asyncio.Task[T]) -> None:
            shares.release(owner)
            _ = task.cancelled() or task.exception()  # a caller who left is told otherwise, or not at all

        task.add_done_callback(ended)
        return await asyncio.shield(task)

    async def repeat(self, work: Callable[Concatenate[Adapter, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same for the passes, the teller and pings, each of which is there once and waits for nothing else."""
        return await self._run(self._repeating, lambda adapter: work(adapter, *args, **kwargs))

    async def _run(self, threads: ThreadPoolExecutor, work: Callable[[Adapter], T]) -> T:
        return await asyncio.wrap_future(threads.submit(_counted(lambda: work(self._own_adapter()))))

    def _own_adapter(self) -> Adapter:
        """This thread's."""
        adapter: Adapter | None = getattr(self._own, "adapter", None)
        if adapter is None:
            adapter = self._own.adapter = self._adapter.for_thread()
            self._opened.append(adapter)
        return adapter

    def close(self) -> None:
        """Wait for all that was begun, and give everything back."""
        for threads in (self._repeating, self._reading, self._changing, self._asking, self._threads):
            threads.shutdown(wait=True)
        for adapter in self._opened:
            adapter.store.close()
        self._adapter.close()
