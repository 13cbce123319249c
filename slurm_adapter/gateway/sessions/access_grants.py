"""Permissions that UCloud has given for sessions, so that a session ends when UCloud withdraws its permission.

UCloud checks whether a user may use a job before it asks for a session. It reports withdrawn permissions by
`updateAcl`. Access grants are kept in memory, like sessions.
"""

from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slurm_adapter.core.specification import Job
    from slurm_adapter.gateway.api.schemas import AclEntity


@dataclass(slots=True, weakref_slot=True, eq=False)
class AccessGrant:
    """Permission of UCloud for a user to open sessions with a job."""

    job_id: str
    user: str | None
    """UCloud's name of the user; None if UCloud did not name the user."""
    withdrawn: bool = False
    """True if UCloud has withdrawn the permission."""


class AccessGrants:
    """All access grants that open or waiting sessions use."""

    def __init__(self) -> None:
        self._used: WeakSet[AccessGrant] = WeakSet()

    def add(self, job_id: str, username: str | None) -> AccessGrant:
        """Return an access grant for the user in UCloud's header; see `read_username`."""
        grant = AccessGrant(job_id, read_username(username))
        self._used.add(grant)
        return grant

    def withdraw(self, job: Job, deleted: Iterable[AclEntity]) -> None:
        """Withdraw the grants of users who were deleted from a job's list.

        The members of a group are unknown here. If a group was deleted, all grants are withdrawn except those of the
        job's owner. A user with another permission can open a new session.
        """
        users = {entity.username for entity in deleted if entity.type == "user"}
        group = any(entity.type != "user" for entity in deleted)
        for grant in list(self._used):
            affected = group or grant.user is None or grant.user in users
            if grant.job_id == job.id and grant.user != job.owner.created_by and affected:
                grant.withdrawn = True


def read_username(username: str | None) -> str | None:
    """Return the user in UCloud's header `Ucloud-Username`, in base64; None if there is none."""
    try:
        return b64decode(username or "", validate=True).decode() or None
    except ValueError:
        return None
