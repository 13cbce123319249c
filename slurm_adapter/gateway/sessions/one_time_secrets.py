"""Secrets that open something for a while: made here, shown once, and kept as digests in memory alone.

A restart of the gateway ends them all; whoever has one asks for another session.
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
    """Secrets of one kind, each of which stands for something; all of them for `seconds`.

    Each counts for its owner as long as it stands for something. `replaces`: an owner who has as many as may be loses
    the oldest for a new one, and is not refused.
    """

    def __init__(
        self, seconds: float, shares: Shares, clock: Callable[[], float] = time.monotonic, *, replaces: bool = False
    ) -> None:
        self.seconds = seconds
        self._shares = shares
        self._clock = clock
        self._replaces = replaces
        self._known: dict[bytes, tuple[T, float, str]] = {}
        """What each stands for, until when, and its owner; the oldest first."""

    def __len__(self) -> int:
        """How many stand for something."""
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
        """What it stands for; None where it is none, or no longer."""
        self._forget()
        found = self._known.get(_digest(secret))
        return None if found is None else found[0]

    def redeem(self, secret: str) -> T | None:
        """The same; and from now on it stands for nothing."""
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
