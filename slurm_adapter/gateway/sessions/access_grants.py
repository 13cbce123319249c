"""For whom UCloud has opened sessions, so that what it takes from somebody ends his (contract, scenario 80).

UCloud asks itself whether somebody may use a job before it asks for a session. That he may no longer it tells by
`updateAcl`. All is in memory, as sessions are.
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
    """What somebody may do with a job because UCloud has said so."""

    job_id: str
    user: str | None
    """As UCloud names him; None where it did not say."""
    over: bool = False
    """UCloud has taken it back."""


class AccessGrants:
    """All of them, for as long as a session holds on to each."""

    def __init__(self) -> None:
        self._begun: WeakSet[AccessGrant] = WeakSet()

    def begin(self, job_id: str, username: str | None) -> AccessGrant:
        """A visit of the user whom UCloud names in its header (contract 3.2); see `read_username`."""
        visit = AccessGrant(job_id, read_username(username))
        self._begun.add(visit)
        return visit

    def end(self, job: Job, deleted: Iterable[AclEntity]) -> None:
        """End those of the users who were deleted from a job's list.

        Who is in a group is not known here: of one, all visits end but those of the user whose job it is. Whoever may
        use the job all the same has UCloud open another session.
        """
        users = {entity.username for entity in deleted if entity.type == "user"}
        group = any(entity.type != "user" for entity in deleted)
        for visit in list(self._begun):
            meant = group or visit.user is None or visit.user in users
            if visit.job_id == job.id and visit.user != job.owner.created_by and meant:
                visit.over = True


def read_username(username: str | None) -> str | None:
    """The user whom UCloud names in its header `Ucloud-Username`, in base64; None where it names none."""
    try:
        return b64decode(username or "", validate=True).decode() or None
    except ValueError:
        return None
