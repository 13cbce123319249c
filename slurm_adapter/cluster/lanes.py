"""Threads for commands that run as different accounts."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future


T = TypeVar("T")


AT_ONCE = 32
"""Accounts at the same time, for all threads of the process."""


WAIT_SECONDS = 5.0
"""How long a sync waits for what may take minutes, such as sbatch. It then goes on behind the sync."""

LATE_SECONDS = 20 * WAIT_SECONDS
"""How long an account counts as late after a sync waited for it without result."""


class Lanes:
    """The threads in which accounts are acted for. One object for all sites of a process."""

    def __init__(self) -> None:
        self._short = ThreadPoolExecutor(AT_ONCE, "account")
        self._long = ThreadPoolExecutor(AT_ONCE, "behind")
        self._lock = threading.Lock()
        self._behind: dict[str, int] = {}
        self._late: dict[str, float] = {}
        """When each account was last too late."""

    def start(self, work: Callable[[], T], *, long: bool = False) -> Future[T]:
        """Do some work of one account. Long work may start short work, and wait for it."""
        return (self._long if long else self._short).submit(work)

    def leave_behind(self, user: str, work: Future[T], *, waited: bool) -> None:
        """Wait no longer for an account's work, which goes on. It is late only if it was `waited` for."""
        with self._lock:
            self._behind[user] = self._behind.get(user, 0) + 1
            if waited:
                self._late[user] = time.monotonic()
        work.add_done_callback(lambda _: self._ended(user))

    def is_behind(self, user: str) -> bool:
        """Return whether some work of an account is still going on that nobody waits for."""
        return user in self._behind

    def was_late(self, user: str) -> bool:
        """Return whether an account was waited for in vain a short while ago."""
        return time.monotonic() - self._late.get(user, -math.inf) < LATE_SECONDS

    def close(self) -> None:
        """Wait for all that was begun."""
        for threads in (self._long, self._short):
            threads.shutdown(wait=True)

    def _ended(self, user: str) -> None:
        with self._lock:
            left = self._behind[user] - 1
            self._behind.pop(user) if not left else self._behind.update({user: left})
