"""A deadline for code that waits in several places."""

from __future__ import annotations

import time


class Deadline:
    """A time `seconds` from now, by the monotonic clock."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Return the remaining seconds; 0.0 after the deadline."""
        return max(0.0, self._end - time.monotonic())

    @property
    def passed(self) -> bool:
        """Return whether the deadline is over."""
        return self.left == 0.0
