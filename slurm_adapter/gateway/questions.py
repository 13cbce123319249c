"""Questions to Slurm that users' requests cause: at most so many a second, however many users ask.

Those who ask while a question is under way share the next one. So each answer is about a time after it was asked for,
which what is decided by it needs.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from slurm_adapter.cluster.schedulers.interface import Listing, Scheduler

K = TypeVar("K")
V = TypeVar("V")

PAUSE_SECONDS = 0.2
"""From the beginning of a question to that of the next one of its kind."""

NODES_SECONDS = 2.0
"""How long the nodes are told again: each job that comes is compared with their names."""


class Gathered(Generic[K, V]):
    """One kind of question, put once for all who want to put it. Threads may share it.

    `keep`: for how many seconds an answer is given again.
    """

    def __init__(self, ask: Callable[[list[K]], V], *, keep: float = 0.0) -> None:
        self._ask = ask
        self._keep = keep
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._gathering: tuple[set[K], Future[V]] | None = None
        self._began = -PAUSE_SECONDS
        self._known: tuple[V, float] | None = None

    def ask(self, keys: Iterable[K]) -> V:
        """Return the answer to a question about these and what others ask for. Raise what the question raises."""
        with self._lock:
            if self._known is not None and time.monotonic() - self._known[1] < self._keep:
                return self._known[0]
            first = self._gathering is None
            wanted, answer = self._gathering = self._gathering or (set(), Future())
            wanted.update(keys)
        if first:
            with self._turn:
                self._put(wanted, answer)
        return answer.result()

    def _put(self, wanted: set[K], answer: Future[V]) -> None:
        time.sleep(max(0.0, self._began + PAUSE_SECONDS - time.monotonic()))
        with self._lock:
            self._gathering = None
            self._began = time.monotonic()
        try:
            found = self._ask(sorted(wanted))  # type: ignore[type-var]  # names and numbers
        except Exception as error:  # noqa: BLE001  # all who wait for it get it
            answer.set_exception(error)
            return
        with self._lock:
            self._known = found, self._began
        answer.set_result(found)


class Sparing:
    """A scheduler whose questions are gathered; everything else goes straight to it."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._queue: Gathered[str, Listing] = Gathered(self._ask_queue)
        self._longest: Gathered[int, Mapping[int, int | None]] = Gathered(self._ask_longest)
        self._nodes: Gathered[str, Mapping[str, str]] = Gathered(self._ask_nodes, keep=NODES_SECONDS)

    def queue(self, users: Sequence[str]) -> Listing:
        """See `Scheduler.queue`. There may be jobs of other accounts in the answer."""
        return self._queue.ask(users)

    def longest(self, slurm_ids: Sequence[int]) -> Mapping[int, int | None]:
        """See `Scheduler.longest`. There may be other jobs in the answer."""
        return self._longest.ask(slurm_ids)

    def nodes(self) -> Mapping[str, str]:
        """See `Scheduler.nodes`."""
        return self._nodes.ask(())

    def __getattr__(self, name: str) -> Any:
        """Return a method of the scheduler."""
        return getattr(self._scheduler, name)

    def _ask_queue(self, users: Sequence[str]) -> Listing:
        return self._scheduler.queue(users)

    def _ask_longest(self, slurm_ids: Sequence[int]) -> Mapping[int, int | None]:
        return self._scheduler.longest(slurm_ids)

    def _ask_nodes(self, _: Sequence[str]) -> Mapping[str, str]:
        return self._scheduler.nodes()
