"""Fair shares of resources of all users: threads, streams, WebSockets, sessions.

An owner may hold as many as are free, and at most `per_owner`. So one owner alone gets half of a pool, and two get a
third each. A new owner finds something free until there are as many owners as resources (the dynamic thresholds of
Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998).
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import TryAgain
from slurm_adapter.core.problems import for_message

if TYPE_CHECKING:
    from collections.abc import Iterator


class TooMany(TryAgain):
    """A share is used up: HTTP 429 with Retry-After for users, and 503 for UCloud, which then retries."""

    retry_after: int = 5
    """Seconds after which a retry may succeed."""


class Shares:
    """A pool of `total`, of which no owner holds more than a fair share. Only for the thread of the event loop.

    `what` names the resource in messages, in the plural, for example "shells".
    """

    def __init__(self, total: int, per_owner: int, what: str) -> None:
        self.total = total
        self.per_owner = per_owner
        self.what = what
        self._held: Counter[str] = Counter()
        self._used = 0

    @property
    def used(self) -> int:
        """Number held by all owners."""
        return self._used

    def held(self, owner: str) -> int:
        """Return how many an owner holds."""
        return self._held.get(owner, 0)

    def acquire(self, owner: str) -> None:
        """Take one; the caller must `release` it. Raise `TooMany` with the limit and its owner.

        `owner` is the name of a user, or another key by which the pool is divided.
        """
        held, free = self.held(owner), self.total - self._used
        if held >= min(self.per_owner, free):
            raise TooMany(self._refusal(owner, held, free))
        self._held[owner] += 1
        self._used += 1

    def release(self, owner: str) -> None:
        """Return one to the pool."""
        self._used -= 1
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]

    @contextmanager
    def hold(self, owner: str) -> Iterator[str]:
        """Hold one within the block; yield the owner. Raise `TooMany`."""
        self.acquire(owner)
        try:
            yield owner
        finally:
            self.release(owner)

    def _refusal(self, owner: str, held: int, free: int) -> str:
        name, wait = for_message(owner)[1:-1], f"try again in {TooMany.retry_after} s"
        if held >= self.per_owner:
            return f"{name} has {held} {self.what}, the most that one user may have at once: end one, or {wait}"
        if not held:
            return f"all {self.total} {self.what} are in use by others: {wait}"
        return (
            f"{name} has {held} {self.what}, and only {free} of {self.total} are free: a user may have at most as "
            f"many as are free; end one, or {wait}"
        )
