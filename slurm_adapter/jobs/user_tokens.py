"""Access tokens of users for the user API.

A token is shown once, when it is made. Only its SHA-256 is stored, by which it is found again. That needs no slow hash
and no salt, as passwords do: the 256 random bits of a token cannot be guessed, even with the database. The time of a
lookup reveals nothing that would help to make a token with another digest.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import TYPE_CHECKING

from pydantic import ValidationError

from slurm_adapter.core.errors import InvalidInput
from slurm_adapter.core.problems import for_message, list_problems
from slurm_adapter.core.records import Token
from slurm_adapter.core.specification import Owner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_adapter.adapter import Adapter

PREFIX = "sla_"
"""Prefix of all tokens, so that one that got into a repository or a log is found there."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def create(adapter: Adapter, name: str, user: str, projects: Sequence[str] = (), lifetime: int | None = None) -> str:
    """Make a token for a user of this site, and return it: it cannot be shown again.

    `projects`: in which it may be used, in addition to the personal workspace. `lifetime`: seconds; None: until it is
    revoked. Raises `InvalidInput`, also for a user without an account here and for a name that is taken.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"token {for_message(name)}: its name is 1 to 64 letters, digits, dots, hyphens and underscores"
        )
    if lifetime is not None and lifetime <= 0:
        raise InvalidInput(f"token {name}: it would expire at once; leave that out, or give at least a second")
    unique = tuple(dict.fromkeys(projects))
    for project in unique or (None,):
        adapter.account_of(_owner(user, project))
    text = PREFIX + secrets.token_urlsafe(32)
    now = adapter.clock()
    expires = None if lifetime is None else now + lifetime
    adapter.store.add_token(Token(name, user, unique, now, expires), digest(text))
    return text


def digest(text: str) -> str:
    """Return the digest of a token."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _owner(user: str, project: str | None) -> Owner:
    if project == "":
        raise InvalidInput("--project: is empty; leave it out for the personal workspace")
    try:
        return Owner.model_validate({"createdBy": user, "project": project})
    except ValidationError as error:
        raise InvalidInput("\n".join(list_problems(error, ("owner",)))) from error
