"""Sessions that wait to be opened by an identifier that cannot be guessed.

The identifier is all that a browser sends to open one. So it is valid for one use within a minute.
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
"""Sessions that wait to be opened at once, of all users and of one user."""


@dataclass(frozen=True, slots=True)
class FolderShell:
    """A shell on the login node, in a folder."""

    account: str
    path: DrivePath
    grant: str | None = None
    """As `JobShell.grant`."""

    @property
    def owner(self) -> str:
        """The owner of the share that it uses."""
        return self.account


@dataclass(frozen=True, slots=True)
class JobShell:
    """A shell of a job."""

    job_id: str
    run: str
    """The run of the job: see `Record.run`. The session is invalid in another run."""
    rank: int
    grant: str | AccessGrant | None = None
    """The permission of the session; see `authentication.check_grant`."""
    user: str = ""
    """The user of the session."""

    @property
    def owner(self) -> str:
        """The owner of the share that it uses."""
        return self.user


class Sessions:
    """All sessions that wait to be opened."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        shares = Shares(MOST, MOST_OF_ONE, "sessions that wait to be opened")
        self._waiting: SecretStore[JobShell | FolderShell] = SecretStore(limits.session_start, shares, clock)

    def add(self, record: Record, rank: int, grant: str | AccessGrant | None = None, user: str | None = None) -> str:
        """Return the identifier of a new session with a job; without a `user`, for the job's owner.

        Raise `TooMany` if too many sessions of this user wait.
        """
        user = user or record.owner
        return self._waiting.issue(JobShell(record.id, record.run, rank, grant, user), user)

    def add_folder(self, folder: FolderShell) -> str:
        """Return the identifier of a new session in a folder. Raise `TooMany`."""
        return self._waiting.issue(folder, folder.account)

    def use(self, identifier: str, shells: Shares) -> tuple[JobShell | FolderShell, ExitStack]:
        """Return what an identifier opens, and a share of `shells` that the caller closes. Invalidate the identifier.

        Raise `NotAuthenticated` if it is invalid. Raise `TooMany` if no share is left: it stays valid then.
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
