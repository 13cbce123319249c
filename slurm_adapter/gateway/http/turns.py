"""Rate limits of requests: some requests of a user begin at once, and the others wait for their turn.

All users share one event loop. Without a rate limit, a user with hundreds of clients that repeat refused requests would
take hundreds of turns for one turn of another user.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from slurm_adapter.core.problems import for_message
from slurm_adapter.gateway.http.incoming import DELAYED, Delay
from slurm_adapter.gateway.shares import TooMany

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, MutableMapping
    from typing import Any

MOST_SECONDS = 10.0
"""Most seconds that a request waits for its turn."""

REFUSED_SECONDS = 1.0
"""Seconds of a user's request time that a refusal costs."""

ACTIVE_SECONDS = 5.0
"""Seconds after the last request for which a user counts as sharing the processor."""

MOST_OTHERS = 10
"""Most other users that count. So each user who always asks for more gets at least a tenth of a processor."""

AT_ONCE = 4
"""Connections to applications that are opened for one user at once. Open ones do not count."""


class Turns:
    """A token bucket for each user: `burst` requests at once, then `rate` a second. Those of ten seconds may wait.

    A bucket is kept as the time when it is full again (the generic cell rate algorithm, ITU-T I.371).
    """

    def __init__(
        self,
        rate: float,
        burst: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Coroutine[Any, Any, object]] = asyncio.sleep,
    ) -> None:
        self._each = 1 / rate
        self._burst = burst / rate
        self._most = max(1, round(MOST_SECONDS * rate))
        self._clock = clock
        self._sleep = sleep
        self._full: dict[str, float] = {}
        self._waiting: Counter[str] = Counter()

    def waiting(self, owner: str) -> int:
        """Return the number of waiting requests of a user."""
        return self._waiting[owner]

    async def wait(self, owner: str, state: MutableMapping[str, Any]) -> None:
        """Wait for a user's turn. `state` is that of the scope. Meanwhile the connection may be closed for others.

        Raise `TooMany`, after the longest wait, if too many requests of this user wait already. Raise it also if the
        connection is closed.
        """
        waiting = self.waiting(owner)
        if waiting >= self._most:
            await self._delay(MOST_SECONDS, owner, state)
            raise TooMany(f"{waiting} requests of {for_message(owner)[1:-1]} wait for their turn: send fewer at once")
        wait = self._full.get(owner, 0.0) + self._each - self._clock() - self._burst
        self._charge(owner, self._each)
        if wait > 0:
            self._waiting[owner] += 1
            try:
                await self._delay(min(wait, MOST_SECONDS), owner, state)
            finally:
                self._waiting[owner] -= 1

    async def _delay(self, seconds: float, owner: str, state: MutableMapping[str, Any]) -> None:
        sleeping = asyncio.ensure_future(self._sleep(seconds))
        state[DELAYED] = Delay(owner, sleeping.cancel)
        try:
            await asyncio.wait({sleeping})
        finally:
            sleeping.cancel()
            del state[DELAYED]
        if sleeping.cancelled():
            raise TooMany("the client closed the connection")

    @contextmanager
    def counted(self, owner: str) -> Iterator[None]:
        """Let a refusal within the block cost more than a request, so that the next ones wait longer."""
        try:
            yield
        except TooMany:
            self._charge(owner, REFUSED_SECONDS)
            raise

    def spend(self, owner: str, seconds: float) -> None:
        """Let the next requests of a user wait for the processor time that the last one took from others."""
        now = self._clock()
        self._full = {user: full for user, full in self._full.items() if full > now - ACTIVE_SECONDS}
        others = len(self._full.keys() - {owner})
        self._charge(owner, seconds * min(others, MOST_OTHERS))

    def _charge(self, owner: str, seconds: float) -> None:
        now = self._clock()
        full = max(self._full.get(owner, now), now) + seconds
        self._full[owner] = min(full, now + self._burst + MOST_SECONDS)


class Lanes:
    """Limits how many things of a user run at once. Others wait."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._at_once = at_once
        self._lanes: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def of(self, owner: str) -> asyncio.Semaphore:
        """Return the semaphore of a user."""
        return self._lanes.setdefault(owner, asyncio.Semaphore(self._at_once))
