"""Close the folders of jobs that have ended, so that a requeue by their owner runs nothing.

A folder that cannot be closed is a trouble for its user to fix. It is noted on the job, and tried again later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.cluster import job_folders
from slurm_adapter.core.durations import back_off
from slurm_adapter.core.errors import AdapterError
from slurm_adapter.core.records import by_account
from slurm_adapter.jobs.accounts import Trouble

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.records import Record
    from slurm_adapter.jobs.accounts import Accounts
    from slurm_adapter.jobs.report import Problems

SHORTEST, LONGEST = 60.0, 86400.0
"""Shortest and longest back-off until closing is tried again, in seconds."""


def close(adapter: Adapter, accounts: Accounts, ended: Iterable[Record], problems: Problems) -> None:
    """Close these jobs' folders. Problems of the site are added to `problems`."""
    now = adapter.clock()

    def act(user: str, owned: Sequence[Record], seconds: float) -> dict[str, str]:
        return job_folders.close(adapter.transport, user, [record.folder for record in owned], seconds)

    for user, owned, answer in accounts.each(dict(by_account(ended)), "close its job folders", act):
        if isinstance(answer, AdapterError):
            problems.site.append(f"could not close the folders of jobs that ended, as {user}: {answer}")
            adapter.store.note_closing({record.slurm_name: now + SHORTEST for record in owned})
            continue
        left = dict.fromkeys((record.folder for record in owned), answer.why) if isinstance(answer, Trouble) else answer
        troubles = {r.slurm_name: f"could not close it: {left[r.folder]}" if r.folder in left else "" for r in owned}
        if any(troubles[record.slurm_name] != record.trouble for record in owned):
            adapter.store.note_trouble(troubles)
        tries = {r.slurm_name: _next_try(r, now) if r.folder in left else None for r in owned}
        if any(tries[record.slurm_name] != record.close_after for record in owned):
            adapter.store.note_closing(tries)


def _next_try(record: Record, now: float) -> float:
    return now + back_off(now - (record.ended or now), SHORTEST, LONGEST)
