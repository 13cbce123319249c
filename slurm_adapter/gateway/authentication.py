"""Who is asking: UCloud, by tokens that it signs, or a user, by a token of `slurm-adapter token`.

Nothing here tells what a token says but for the claim that is wrong, and nothing of it is ever logged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import Forbidden, NotAuthenticated
from slurm_adapter.core.problems import for_message
from slurm_adapter.core.specification import Owner
from slurm_adapter.gateway.sessions.access_grants import AccessGrant
from slurm_adapter.jobs import user_tokens
from slurm_adapter.ucloud.key import (
    _bearer,
)

if TYPE_CHECKING:
    from slurm_adapter.core.records import Token
    from slurm_adapter.state.store import Store


@dataclass(frozen=True, slots=True)
class Person:
    """A user with a token of `slurm-adapter token`."""

    user: str
    projects: tuple[str, ...]
    """In which the token lets the user work, besides the personal workspace."""

    def owner(self, project: str | None) -> Owner:
        """Whom jobs belong to in a workspace, by the request's `Project` header; without it the personal one.

        Raises `Forbidden` for a project that is not the token's.
        """
        if project and project not in self.projects:
            raise Forbidden(
                f"Project: {for_message(project)}: the access token is not for this project; "
                "`slurm-adapter token list` shows its projects. Without the header the personal workspace is used"
            )
        return Owner(created_by=self.user, project=project or None)


def grant(authorization: str | None) -> str:
    """What is kept of the token in a header, to see later whether it still counts. Raises `NotAuthenticated`."""
    return user_tokens.digest(_bearer(authorization))


def check_grant(store: Store, given: str | AccessGrant | None, now: float) -> None:
    """Raise `NotAuthenticated` where what opened a session is over: a token, by its digest, or what UCloud has said.

    None lasts: UCloud takes nothing back there.
    """
    if isinstance(given, AccessGrant):
        if given.over:
            raise NotAuthenticated(f"UCloud no longer lets this user use job {given.job_id}")
    elif given is not None:
        _granted(store, given, now)


def person(store: Store, authorization: str | None, now: float) -> Person:
    """The user whose token stands in the `Authorization` header. Raises `NotAuthenticated`."""
    token = _granted(store, grant(authorization), now)
    return Person(token.user, token.projects)


def _granted(store: Store, digest: str, now: float) -> Token:
    token = store.token_of(digest)
    if token is None:
        raise NotAuthenticated("the bearer token is not known here, or was revoked; `slurm-adapter token` makes one")
    if token.expired(now):
        raise NotAuthenticated(f"the token {token.name!r} has expired; `slurm-adapter token` makes another")
    return token


def authenticate(store: Store, authorization: str | None, project: str | None, now: float) -> Owner:
    """Whom the jobs of a request belong to, by its `Authorization` and `Project` headers.

    Raises `NotAuthenticated`, and `Forbidden` for a project that is not the token's.
    """
    return person(store, authorization, now).owner(project)
