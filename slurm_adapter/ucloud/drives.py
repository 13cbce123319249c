"""Asks UCloud for its drives (`GET /api/files/collections/control/retrieve` and `browse`) while a job is submitted.

UCloud waits five seconds for the answer to that submission. So the timeout of a request is short, and answers are
cached. A drive that did not exist is asked for again, because it may be created at any time.
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
"""Timeout of a request, and of the wait for another thread's request."""

FAILURE_SECONDS = 3.0
"""Seconds after a failed request in which no further request is made."""

KEPT_SECONDS = 60
"""Seconds for which the answer about a drive is used."""

MOST = 1000
"""Maximum number of drives in the cache."""

_RETRIEVE = "/api/files/collections/control/retrieve"
_BROWSE = "/api/files/collections/control/browse"


class UcloudDrives:
    """UCloud's drives of this provider. Threads may share it; its client has no other use."""

    def __init__(self, client: Client, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._requesting = threading.Lock()
        self._kept: dict[str, tuple[UcloudDrive, float]] = {}
        """Drives with the times of the answers, the oldest first."""
        self._failure = "", -math.inf
        """The last failure, and its time by `time.monotonic`."""

    def find(self, id_: str) -> UcloudDrive | None:
        """Return a drive; None if UCloud has no such drive of this provider. Raise `TryAgain` if there is no answer."""
        if (kept := self._cached(id_)) is not None:
            return kept
        if not self._requesting.acquire(timeout=QUESTION_SECONDS):
            raise TryAgain(f"UCloud could not be asked for drive {id_}: it answers other requests slowly; try again")
        try:
            if (kept := self._cached(id_)) is not None:
                return kept
            why, when = self._failure
            if time.monotonic() - when < FAILURE_SECONDS:
                raise TryAgain(f"UCloud could not be asked for drive {id_}: {why}")
            drive = self._ask(id_)
            if drive is not None:
                self._kept.pop(id_, None)
                self._kept[id_] = drive, self._clock()
                while len(self._kept) > MOST:
                    self._kept.pop(next(iter(self._kept)))
            return drive
        finally:
            self._requesting.release()

    def _cached(self, id_: str) -> UcloudDrive | None:
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
            self._failure = str(error), time.monotonic()
            raise TryAgain(f"UCloud could not be asked for drive {id_}: {error}") from error
        return drive if drive.id == id_ else None

    def some(self) -> tuple[list[UcloudDrive], bool]:
        """Return drives of this provider, and whether there are more. Raises as `Receiver.deliver` does."""
        with self._requesting:
            answer = self._client.get(_BROWSE, {"itemsPerPage": "250"})
        items = answer.body.get("items")
        if answer.status >= 300 or not isinstance(items, list | None):
            raise Unknown(f"UCloud did not list its drives ({answer.status}: {answer.why})")
        return [read_ucloud_drive(item) for item in items or []], answer.body.get("next") is not None

    def close(self) -> None:
        """Close its connections."""
        self._client.close()
