"""Questions to Slurm that requests of users cause. Their rate is bounded, however many users ask.

Threads that ask while a question is under way share the next one. So each answer describes a time after it was asked
for, which decisions rely on.
"""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from slurm_adapter.cluster.schedulers.interface import Listing, Scheduler
    from slurm_adapter.gateway.limits import Limits

K = TypeVar("K")
V = TypeVar("V")


class Gathered(Generic[K, V]):
    """One kind of question, asked once for all threads that want to ask it.

    `interval`: seconds between two questions; `keep`: seconds for which an answer is used again.
    """

    def __init__(self, ask: Callable[[list[K]], V], *, interval: float = 0.0, keep: float = 0.0) -> None:
        self._ask = ask
        self._interval = interval
        self._keep = keep
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._gathering: tuple[set[K], Future[V]] | None = None
        self._began = -math.inf
        self._known: tuple[V, float] | None = None

    def ask(self, keys: Iterable[K]) -> V:
        """Return the answer to a question about these keys and those of other threads. Raise what it raises."""
        with self._lock:
            if self._known is not None and time.monotonic() - self._known[1] < self._keep:
                return self._known[0]
            first = self._gathering is None
            wanted, answer = self._gathering = self._gathering or (set(), Future())
            wanted.update(keys)
        if first:
            with self._turn:
                self._ask_now(wanted, answer)
        return answer.result()

    def _ask_now(self, wanted: set[K], answer: Future[V]) -> None:
        time.sleep(max(0.0, self._began + self._interval - time.monotonic()))
        with self._lock:
            self._gathering = None
            self._began = time.monotonic()
        try:
            found = self._ask(sorted(wanted))  # type: ignore[type-var]  # names and numbers
        except Exception as error:  # noqa: BLE001  # all threads that wait for it get it
            answer.set_exception(error)
            return
        with self._lock:
            self._known = found, self._began
        answer.set_result(found)


class GatheringScheduler:
    """A scheduler that gathers questions; everything else goes straight to it."""

    def __init__(self, scheduler: Scheduler, limits: Limits) -> None:
        self._scheduler = scheduler
        interval = limits.question_interval
        self._queue: Gathered[str, Listing] = Gathered(scheduler.queue, interval=interval)
        self._longest: Gathered[int, Mapping[int, int | None]] = Gathered(scheduler.longest, interval=interval)
        self._nodes: Gathered[str, Mapping[str, str]] = Gathered(
            lambda _: scheduler.nodes(), interval=interval, keep=limits.nodes_age
        )

    def queue(self, users: Sequence[str]) -> Listing:
        """See `Scheduler.queue`. The answer may include jobs of other accounts."""
        return self._queue.ask(users)

    def longest(self, slurm_ids: Sequence[int]) -> Mapping[int, int | None]:
        """See `Scheduler.longest`. The answer may include other jobs."""
        return self._longest.ask(slurm_ids)

    def nodes(self) -> Mapping[str, str]:
        """See `Scheduler.nodes`."""
        return self._nodes.ask(())

    def __getattr__(self, name: str) -> Any:
        """Return a method of the scheduler."""
        return getattr(self._scheduler, name)
