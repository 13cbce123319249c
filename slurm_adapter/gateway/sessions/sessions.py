"""Sessions: what somebody may open once, soon, by an identifier that nobody can guess.

The identifier is all that a browser shows, so it is worth little for long: it is good for one use within a minute.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import NotAuthenticated
from slurm_adapter.gateway.sessions.one_time_secrets import SecretStore
from slurm_adapter.gateway.shares import Shares

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurm_adapter.core.records import Record
    from slurm_adapter.gateway.limits import Limits
    from slurm_adapter.gateway.sessions.access_grants import AccessGrant
    from slurm_adapter.translation.drives import DrivePath

MOST, MOST_OF_ONE = 10_000, 100
"""How many may wait for their use at once, and how many of one user."""


@dataclass(frozen=True, slots=True)
class Folder:
    """What a session opens: a shell on the login node."""

    account: str
    path: DrivePath
    grant: str | None = None
    """As `Target.grant`."""

    @property
    def owner(self) -> str:
        """For whom it counts."""
        return self.account


@dataclass(frozen=True, slots=True)
class Target:
    """What a session opens: a shell of a job."""

    job_id: str
    run: str
    """It opens nothing in another run of the job: see `Record.run`."""
    rank: int
    grant: str | AccessGrant | None = None
    """What it lasts as long as; see `authentication.check_grant`."""
    user: str = ""
    """Whose it is."""

    @property
    def owner(self) -> str:
        """For whom it counts."""
        return self.user


class Sessions:
    """All that wait for their use."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        shares = Shares(MOST, MOST_OF_ONE, "sessions that wait to be opened")
        self._waiting: SecretStore[Target | Folder] = SecretStore(limits.session_start, shares, clock)

    def add(self, record: Record, rank: int, grant: str | AccessGrant | None = None, user: str | None = None) -> str:
        """Return the identifier of a new session with a job; without a `user` it is its job's owner's.

        Raises `TooMany` if too many of this user wait.
        """
        user = user or record.owner
        return self._waiting.issue(Target(record.id, record.run, rank, grant, user), user)

    def add_folder(self, folder: Folder) -> str:
        """The same for a folder."""
        return self._waiting.issue(folder, folder.account)

    def use(self, identifier: str, shells: Shares) -> tuple[Target | Folder, ExitStack]:
        """Return what it opens, this once, and a share of `shells`, to be closed.

        Raise `NotAuthenticated`, whatever is wrong with it. Raise `TooMany` if no share is left: it is good later then.
        """
        found = self._waiting.find(identifier)
        if found is None:
            raise NotAuthenticated(
                "the session does not exist, was used, or has expired: an identifier opens one session within "
                f"{self._waiting.seconds:.0f} s; ask for a new one"
            )
        share = ExitStack()
        share.enter_context(shells.hold(found.owner))
        self._waiting.redeem(identifier)
        return found, share
