"""A client that waits for the answer to a submission."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import TryAgain

if TYPE_CHECKING:
    from slurm_adapter.core.records import Record


class Caller:
    """A client that waits for `submit`, and may leave before it is done. The answer that it got then stays true.

    If it left before its jobs were claimed, the answer was that nothing was done: none is claimed then. If it left
    later, the answer was that they are accepted: none of them is removed any more.
    """

    def __init__(self) -> None:
        self.records: list[Record] | None = None
        """Its jobs, once they are claimed."""
        self._lock = threading.Lock()
        self._held = False
        self._left = False

    def check(self) -> None:
        """Raise `TryAgain` if it has left: other clients wait for the same threads and the same Slurm."""
        if self._left:
            raise TryAgain("Nothing was submitted: the client disconnected.")

    def hold(self) -> bool:
        """Keep it from leaving for a moment. Return False if it has left."""
        with self._lock:
            self._held = not self._left
            return self._held

    def must_hold(self) -> None:
        """Keep it from leaving for a moment. Raise as `check`."""
        if not self.hold():
            self.check()

    def release(self, records: list[Record]) -> None:
        """Let it leave, with these jobs claimed."""
        with self._lock:
            self._held = False
            self.records = records

    def leave(self) -> bool:
        """Wait no longer. Return False if the answer is being decided, so that it has to be waited for."""
        with self._lock:
            self._left = not self._held
            return self._left
