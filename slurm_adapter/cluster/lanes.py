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
"""Maximum number of accounts at the same time, for all threads of the process."""


WAIT_SECONDS = 5.0
"""Seconds that a sync waits for work that may take minutes, such as sbatch, which then continues."""

LATE_SECONDS = 20 * WAIT_SECONDS
"""Seconds for which an account counts as late after a sync waited for it without success."""


class Lanes:
    """Threads for the work of accounts. One object for all adapters of a process."""

    def __init__(self) -> None:
        self._short = ThreadPoolExecutor(AT_ONCE, "account")
        self._long = ThreadPoolExecutor(AT_ONCE, "account-long")
        self._lock = threading.Lock()
        self._running: dict[str, int] = {}
        self._late: dict[str, float] = {}
        """The time when each account was last late."""

    def start(self, work: Callable[[], T], *, long: bool = False) -> Future[T]:
        """Start work of one account. Long work may start short work, and wait for it."""
        return (self._long if long else self._short).submit(work)

    def leave_running(self, user: str, work: Future[T], *, waited: bool) -> None:
        """Let an account's work continue in the background. The account is late only if the work was `waited` for."""
        with self._lock:
            self._running[user] = self._running.get(user, 0) + 1
            if waited:
                self._late[user] = time.monotonic()
        work.add_done_callback(lambda _: self._ended(user))

    def still_runs(self, user: str) -> bool:
        """Return whether work of an account still runs in the background."""
        return user in self._running

    def was_late(self, user: str) -> bool:
        """Return whether an account was recently waited for without success."""
        return time.monotonic() - self._late.get(user, -math.inf) < LATE_SECONDS

    def close(self) -> None:
        """Wait for all work."""
        for threads in (self._long, self._short):
            threads.shutdown(wait=True)

    def _ended(self, user: str) -> None:
        with self._lock:
            left = self._running[user] - 1
            self._running.pop(user) if not left else self._running.update({user: left})
