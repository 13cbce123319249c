"""Secrets that open something for a while: made here, shown once, and kept as digests in memory alone.

A restart of the gateway ends them all; whoever has one asks for another session.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Secrets(Generic[T]):
    """Secrets of one kind, each of which stands for something; all of them for `seconds`."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._known: dict[bytes, tuple[T, float]] = {}
        """What each stands for, and until when, the oldest first."""

    def __len__(self) -> int:
        """How many stand for something."""
        self._forget()
        return len(self._known)

    def issue(self, meaning: T) -> str:
        """A new secret (256 bits, of letters, digits, - and _)."""
        self._forget()
        secret = secrets.token_urlsafe(32)
        self._known[_digest(secret)] = (meaning, self._clock() + self.seconds)
        return secret

    def find(self, secret: str) -> T | None:
        """What it stands for; None where it is none, or no longer."""
        self._forget()
        found = self._known.get(_digest(secret))
        return None if found is None else found[0]

    def redeem(self, secret: str) -> T | None:
        """The same; and from now on it stands for nothing."""
        self._forget()
        found = self._known.pop(_digest(secret), None)
        return None if found is None else found[0]

    def _forget(self) -> None:
        now = self._clock()
        while self._known and (oldest := next(iter(self._known.items())))[1][1] <= now:
            del self._known[oldest[0]]


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
