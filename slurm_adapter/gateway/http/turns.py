"""The pace of each user's requests: some begin at once, and the others wait a moment for their turn.

One event loop takes everybody in turn. Without this, a user with hundreds of clients that repeat what is refused has
hundreds of turns for one of each other user.
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
"""The longest that a request waits for its turn."""

REFUSED_SECONDS = 1.0
"""What a refusal costs: so much of a user's time for requests."""

ACTIVE_SECONDS = 5.0
"""How long a user counts as one of those who share the processor, after the last request."""

MOST_OTHERS = 10
"""Of these others so many count: a tenth of one processor is left to each user who asks for more all the time."""

AT_ONCE = 4
"""Connections to applications that are made for one user at once. Those that stand do not count."""


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
        """Return how many requests of a user wait."""
        return self._waiting[owner]

    async def wait(self, owner: str, state: MutableMapping[str, Any]) -> None:
        """Wait for a user's turn. `state` is the scope's: meanwhile the connection may be ended for others.

        Raise `TooMany`, as late as the longest wait ends, if too many of this user's requests wait already, and if the
        connection is ended.
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
        """Have a refusal within the block cost more than a request: the next ones wait for it."""
        try:
            yield
        except TooMany:
            self._charge(owner, REFUSED_SECONDS)
            raise

    def spend(self, owner: str, seconds: float) -> None:
        """Have the next requests of a user wait for what the last one took of the processor from others."""
        now = self._clock()
        self._full = {user: full for user, full in self._full.items() if full > now - ACTIVE_SECONDS}
        others = len(self._full.keys() - {owner})
        self._charge(owner, seconds * min(others, MOST_OTHERS))

    def _charge(self, owner: str, seconds: float) -> None:
        now = self._clock()
        full = max(self._full.get(owner, now), now) + seconds
        self._full[owner] = min(full, now + self._burst + MOST_SECONDS)


class Lanes:
    """Lets a user do a few things at once, and the others wait in line."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._at_once = at_once
        self._lanes: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def of(self, owner: str) -> asyncio.Semaphore:
        """Return the user's, to be held meanwhile."""
        return self._lanes.setdefault(owner, asyncio.Semaphore(self._at_once))
