"""Secrets that open something for a limited time: made here, shown once, and kept as digests in memory only.

A restart of the gateway invalidates them all; the user opens another session then.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import TYPE_CHECKING, Generic, TypeVar

from slurm_adapter.gateway.shares import TooMany

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurm_adapter.gateway.shares import Shares

T = TypeVar("T")


class SecretStore(Generic[T]):
    """Secrets of one kind. Each has a meaning, and is valid for `seconds`.

    Valid secrets count for their owner. `replaces`: if an owner has the most that are allowed, a new secret replaces
    the oldest one, and is not refused.
    """

    def __init__(
        self, seconds: float, shares: Shares, clock: Callable[[], float] = time.monotonic, *, replaces: bool = False
    ) -> None:
        self.seconds = seconds
        self._shares = shares
        self._clock = clock
        self._replaces = replaces
        self._known: dict[bytes, tuple[T, float, str]] = {}
        """The meaning of each, the time of its end, and its owner; the oldest first."""

    def __len__(self) -> int:
        """Return the number of valid secrets."""
        self._forget()
        return len(self._known)

    def issue(self, meaning: T, owner: str) -> str:
        """Return a new secret (256 bits, of letters, digits, - and _). Raise `TooMany`."""
        self._forget()
        self._acquire(owner)
        secret = secrets.token_urlsafe(32)
        self._known[_digest(secret)] = (meaning, self._clock() + self.seconds, owner)
        return secret

    def find(self, secret: str) -> T | None:
        """Return the meaning of a secret; None if it is invalid."""
        self._forget()
        found = self._known.get(_digest(secret))
        return None if found is None else found[0]

    def redeem(self, secret: str) -> T | None:
        """Return the meaning of a secret, and invalidate it."""
        self._forget()
        return self._drop(_digest(secret))

    def _acquire(self, owner: str) -> None:
        while True:
            try:
                self._shares.acquire(owner)
            except TooMany:
                oldest = next((digest for digest, known in self._known.items() if known[2] == owner), None)
                if not self._replaces or oldest is None:
                    raise
                self._drop(oldest)
            else:
                return

    def _drop(self, digest: bytes) -> T | None:
        found = self._known.pop(digest, None)
        if found is None:
            return None
        self._shares.release(found[2])
        return found[0]

    def _forget(self) -> None:
        now = self._clock()
        while self._known and (oldest := next(iter(self._known.items())))[1][1] <= now:
            self._drop(oldest[0])


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
