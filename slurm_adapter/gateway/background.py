"""Work that is answered in time and goes on behind its answer: UCloud waits five seconds."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

LONGEST_SECONDS = 4.0
"""How long the whole of a request is waited for."""

log = logging.getLogger(__name__)


class StillRunning(Exception):
    """The work has not ended yet, and is not waited for any longer."""


class BackgroundWork:
    """All work that may go on behind its answer."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Task[Any]] = set()

    async def in_time(self, work: Coroutine[Any, Any, T], seconds: float, what: str) -> T:
        """Return the result of the work, or raise its error. Raise `StillRunning` if it takes more than `seconds`.

        `what` names in the log what was not done where it fails later.
        """
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        try:
            await asyncio.wait({task}, timeout=seconds)
        finally:
            if not task.done():
                task.add_done_callback(lambda done: _log_failure(done, what))
        if not task.done():
            raise StillRunning
        return task.result()

    async def close(self) -> None:
        """Wait for all that goes on. The caller lets nothing more be begun."""
        while self._under_way:
            await asyncio.wait(self._under_way)


def _log_failure(task: asyncio.Task[Any], what: str) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("%s failed behind its answer: %s", what, error)
