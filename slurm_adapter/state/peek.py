"""A look at the database that creates, changes and upgrades nothing, for shell completion."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from slurm_adapter.state.database import NAME

if TYPE_CHECKING:
    from pathlib import Path

_WAIT_SECONDS = 0.2


def active_jobs(folder: Path) -> dict[str, str]:
    """Return the ids of waiting and running jobs with their applications, newest first. Empty on any error."""
    query = "SELECT id, application FROM jobs WHERE stage <> 'ended' ORDER BY created DESC LIMIT 1000"
    try:
        with closing(sqlite3.connect(f"{(folder / NAME).resolve().as_uri()}?mode=ro", _WAIT_SECONDS, uri=True)) as base:
            return dict(base.execute(query).fetchall())
    except sqlite3.Error:
        return {}
