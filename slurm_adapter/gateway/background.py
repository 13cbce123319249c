"""Work that is answered in time and continues in the background, because UCloud waits five seconds for an answer."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

log = logging.getLogger(__name__)


class StillRunning(Exception):
    """The work continues, and is not waited for any longer."""


class BackgroundWork:
    """All work that may continue after its request was answered."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin work that continues even if nobody waits for it. `close` waits for it."""
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        task.add_done_callback(_failure)  # asyncio logs a failure that nobody has looked at
        return task

    async def in_time(self, work: Coroutine[Any, Any, T], seconds: float, what: str) -> T:
        """Return the result of the work, or raise its error. Raise `StillRunning` if it takes more than `seconds`.

        `what` names the work in the log if it fails after that.
        """
        task = self.start(work)
        try:
            await asyncio.wait({task}, timeout=seconds)
        finally:
            if not task.done():
                task.add_done_callback(lambda done: _log_failure(done, what))
        if not task.done():
            raise StillRunning
        return task.result()

    async def close(self) -> None:
        """Wait for all work that was begun. The caller makes sure that nothing more is begun by requests."""
        while self._under_way:
            await asyncio.wait(self._under_way)


class SharedAnswer(Generic[T]):
    """The answer to a question that is asked once for all callers, and again once it is too old."""

    def __init__(self, ask: Callable[[], Coroutine[Any, Any, T]], clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._question: asyncio.Task[T] | None = None
        self._asked = -math.inf
        self._latest: tuple[T, float] | None = None
        """The last good answer, and the time at which its question was asked."""

    @property
    def asked_ago(self) -> float:
        """Seconds since the last question was asked, whether or not it was answered."""
        return self._clock() - self._asked

    @property
    def under_way(self) -> bool:
        """True while a question is under way."""
        return self._question is not None and not self._question.done()

    def is_younger(self, seconds: float) -> bool:
        """Return whether the question of the last good answer was asked less than this ago."""
        return self._latest is not None and self._clock() - self._latest[1] < seconds

    def latest(self, default: T, younger_than: float) -> T:
        """Return the last good answer if it is younger than this, or the default."""
        return self._latest[0] if self._latest is not None and self.is_younger(younger_than) else default

    def ask(self) -> asyncio.Task[T]:
        """Return the question that is under way; ask it if there is none."""
        if self._question is None or self._question.done():
            asked = self._asked = self._clock()
            self._question = asyncio.create_task(self._ask())
            self._question.add_done_callback(lambda done: self._keep(done, asked))
        return self._question

    async def wait(self, seconds: float) -> None:
        """Wait for a question that is under way."""
        if self._question is not None:
            await asyncio.wait({self._question}, timeout=seconds)

    async def get(self, seconds: float, younger_than: float) -> T:
        """Return an answer that is younger than this, or the answer to the next question.

        Raise what the question raises, and `StillRunning` if it is not answered within `seconds`.
        """
        if self._latest is not None and self.is_younger(younger_than):
            return self._latest[0]
        question = self.ask()
        await asyncio.wait({question}, timeout=seconds)
        if not question.done():
            raise StillRunning
        return question.result()

    def _keep(self, question: asyncio.Task[T], asked: float) -> None:
        if not question.cancelled() and question.exception() is None:
            self._latest = question.result(), asked


def _failure(task: asyncio.Task[Any]) -> BaseException | None:
    return None if task.cancelled() else task.exception()


def _log_failure(task: asyncio.Task[Any], what: str) -> None:
    if (error := _failure(task)) is not None:
        log.warning("%s failed after the request was answered: %s", what, error)
