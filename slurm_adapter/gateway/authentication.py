"""Authentication of users, by access tokens of `slurm-adapter token`.

Messages name only the claim that is wrong. Nothing of a token is ever logged.
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
    """A user with an access token."""

    user: str
    projects: tuple[str, ...]
    """Projects that the access token is for. It is always for the personal workspace."""

    def owner(self, project: str | None) -> Owner:
        """Return the owner of jobs in the workspace of the header `Project`; without it, in the personal one.

        Raise `Forbidden` if the access token is not for the project.
        """
        if project and project not in self.projects:
            raise Forbidden(
                f"Project: {for_message(project)}: the access token is not for this project; "
                "`slurm-adapter token list` shows its projects. Without the header the personal workspace is used"
            )
        return Owner(created_by=self.user, project=project or None)


def token_digest(authorization: str | None) -> str:
    """Return the digest of the access token in a header, to check the token again later. Raise `NotAuthenticated`."""
    return user_tokens.digest(_bearer(authorization))


def check_grant(store: Store, given: str | AccessGrant | None, now: float) -> None:
    """Raise `NotAuthenticated` if a session is not permitted any more.

    `given` is the digest of an access token, or an access grant of UCloud. None is always permitted.
    """
    if isinstance(given, AccessGrant):
        if given.withdrawn:
            raise NotAuthenticated(f"UCloud no longer lets this user use job {given.job_id}")
    elif given is not None:
        _granted(store, given, now)


def person(store: Store, authorization: str | None, now: float) -> Person:
    """Return the user of the access token in the header `Authorization`. Raise `NotAuthenticated`."""
    token = _granted(store, token_digest(authorization), now)
    return Person(token.user, token.projects)


def _granted(store: Store, digest: str, now: float) -> Token:
    token = store.token_of(digest)
    if token is None:
        raise NotAuthenticated("the access token is unknown or revoked; `slurm-adapter token create` makes one")
    if token.expired(now):
        raise NotAuthenticated(f"the access token {token.name!r} has expired; `slurm-adapter token create` makes one")
    return token


def authenticate(store: Store, authorization: str | None, project: str | None, now: float) -> Owner:
    """Return the owner of jobs of a request, by its headers `Authorization` and `Project`.

    Raise `NotAuthenticated`, and `Forbidden` if the access token is not for the project.
    """
    return person(store, authorization, now).owner(project)
