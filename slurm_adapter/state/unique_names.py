"""Parts of names that are never used twice."""

from __future__ import annotations

import secrets


def unique_part() -> str:
    """Return a random part of names. It begins with a letter: `job-4101-0` is rank 0 of job 4101."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return secrets.choice(letters) + "".join(secrets.choice(letters + "234567") for _ in range(7))
