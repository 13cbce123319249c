"""UCloud asked for its drives (`GET /api/files/collections/control/retrieve` and `browse`), while a job waits for it.

UCloud itself waits for the answer to that job, five seconds: so the time for a question is short, and what was told is
kept for a while. A drive that was not there is asked for again: it may be made at any time.
"""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import AdapterError, TryAgain, Unknown
from slurm_adapter.translation.drives import UcloudDrive, read_ucloud_drive

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurm_adapter.ucloud.client import Client

QUESTION_SECONDS = 1.5
"""For a call, and for waiting until another thread's question is answered."""

AWAY_SECONDS = 3.0
"""How long after a question without an answer nobody else is kept waiting by another one."""

KEPT_SECONDS = 60
"""How long what was told of a drive is good for."""

MOST = 1000
"""Drives that are kept."""

_RETRIEVE = "/api/files/collections/control/retrieve"
_BROWSE = "/api/files/collections/control/browse"


class UcloudDrives:
    """UCloud's drives of this provider. Threads may share it; its client is for nothing else."""

    def __init__(self, client: Client, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._alone = threading.Lock()
        self._kept: dict[str, tuple[UcloudDrive, float]] = {}
        """With when they were told, the oldest first."""
        self._away = "", -math.inf
        """Why UCloud did not tell, and when, by `time.monotonic`."""

    def find(self, id_: str) -> UcloudDrive | None:
        """A drive; None where UCloud has none of this id for this provider. Raises `TryAgain` where it cannot tell."""
        if (kept := self._still_good(id_)) is not None:
            return kept
        if not self._alone.acquire(timeout=QUESTION_SECONDS):
            raise TryAgain(
                f"UCloud could not be asked for drive {id_}: it is slow to answer other questions; try again"
            )
        try:
            if (kept := self._still_good(id_)) is not None:
                return kept
            why, when = self._away
            if time.monotonic() - when < AWAY_SECONDS:
                raise TryAgain(f"UCloud could not be asked for drive {id_}: {why}")
            drive = self._ask(id_)
            if drive is not None:
                self._kept.pop(id_, None)
                self._kept[id_] = drive, self._clock()
                while len(self._kept) > MOST:
                    self._kept.pop(next(iter(self._kept)))
            return drive
        finally:
            self._alone.release()

    def _still_good(self, id_: str) -> UcloudDrive | None:
        drive, since = self._kept.get(id_, (None, 0.0))
        return drive if since <= self._clock() < since + KEPT_SECONDS else None

    def _ask(self, id_: str) -> UcloudDrive | None:
        try:
            answer = self._client.get(_RETRIEVE, {"id": id_})
            if answer.missing:
                return None
            if answer.status >= 300:
                raise Unknown(f"{answer.status}: {answer.why}")
            drive = read_ucloud_drive(answer.body)
        except AdapterError as error:
            self._away = str(error), time.monotonic()
            raise TryAgain(f"UCloud could not be asked for drive {id_}: {error}") from error
        return drive if drive.id == id_ else None

    def some(self) -> tuple[list[UcloudDrive], bool]:
        """Drives of this provider, and whether there are more. Raises as `Receiver.tell` does."""
        with self._alone:
            answer = self._client.get(_BROWSE, {"itemsPerPage": "250"})
        items = answer.body.get("items")
        if answer.status >= 300 or not isinstance(items, list | None):
            raise Unknown(f"UCloud did not say which drives it has ({answer.status}: {answer.why})")
        return [read_ucloud_drive(item) for item in items or []], answer.body.get("next") is not None

    def close(self) -> None:
        """Close its connections."""
        self._client.close()
