"""Retention of jobs that have ended: removal of their logs, their folders and their records.

Only jobs that have ended are considered, so that nothing is removed of a live job. A folder is removed as its own
account, and only if the Slurm name in it is the job's.

What cannot be removed is tried again a day later, or after an hour if it is not known what became of the attempt. That
is noted on the job. It is a problem of the sync only if it is the site's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.core.errors import AdapterError
from slurm_adapter.core.records import by_account
from slurm_adapter.jobs.accounts import Trouble
from slurm_adapter.jobs.report import Due

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.cluster.transports.interface import Transport
    from slurm_adapter.core.records import Record
    from slurm_adapter.jobs.accounts import Accounts
    from slurm_adapter.jobs.report import Problems
    from slurm_adapter.state.cleanup import Removable

AT_ONCE = 100
"""Limit of each kind in one sync, so that live jobs do not wait."""

_AGAIN_AFTER = 86400
_UNANSWERED_FOR = 3600


def find_due(adapter: Adapter) -> Due:
    """Return what is due to be removed, at most `AT_ONCE` of each kind. It asks the database only."""
    now, keep = adapter.clock(), adapter.config.retention
    logs = adapter.store.ended_before(now - keep.logs, "logs_gone", now, AT_ONCE) if keep.logs is not None else []
    whole = (
        adapter.store.ended_before(now - keep.folders, "folder_gone", now, AT_ONCE) if keep.folders is not None else []
    )
    going = {record.id for record in whole}
    return Due(
        tuple(record for record in logs if record.id not in going),
        tuple(whole),
        adapter.store.forgettable(now - keep.records, AT_ONCE, with_folder=keep.folders is None),
        tuple(adapter.store.unclosed(now, AT_ONCE)),
    )


def remove(adapter: Adapter, due: Due, problems: Problems) -> None:
    """Remove what is due. Failures are added to `problems`, and the rest is done anyway."""
    if not (due.logs or due.folders or due.records or due.unclosed):
        return
    from slurm_adapter.cluster import job_folders
    from slurm_adapter.jobs.accounts import Accounts
    from slurm_adapter.jobs.close_folders import close

    accounts = Accounts(adapter)
    close(adapter, accounts, due.unclosed, problems)
    _remove(adapter, accounts, due.logs, "logs_gone", job_folders.remove_logs, problems)
    _remove(adapter, accounts, due.folders, "folder_gone", job_folders.remove, problems)
    if due.records:
        adapter.store.forget_ended(due.records)


def _remove(
    adapter: Adapter,
    accounts: Accounts,
    records: tuple[Record, ...],
    column: Removable,
    remove: Callable[[Transport, str, Mapping[str, str]], frozenset[str]],
    problems: Problems,
) -> None:
    now = adapter.clock()
    what = "logs" if column == "logs_gone" else "folders"

    def act(user: str, owned: Sequence[Record]) -> frozenset[str]:
        return remove(adapter.transport, user, {record.folder: record.slurm_name for record in owned})

    for user, owned, answer in accounts.in_background(dict(by_account(records)), f"remove the {what} of its jobs", act):
        if isinstance(answer, AdapterError):
            problems.site.append(
                f"the {what} of {len(owned)} jobs that ended long ago were not removed as {user}: {answer}"
            )
        if isinstance(answer, Trouble | AdapterError):
            # Some of them may be gone: large ones take their time, and the next answer shows it.
            adapter.store.put_off([record.slurm_name for record in owned], now + _UNANSWERED_FOR)
            why = answer.why if isinstance(answer, Trouble) else str(answer)
            adapter.store.note_trouble({record.slurm_name: why for record in owned})
            continue
        stay = [record for record in owned if record.folder in answer]
        if not accounts.site_is_well:
            # Of the one account of all jobs it may be one job's folder alone.
            several = adapter.config.identity.mode == "sudo"
            (problems.site if several else problems.accounts).extend(
                f"job {record.id} ended long ago, and its {what} in {record.folder} could not be removed as {user}; "
                "this is tried again in a day"
                for record in stay
            )
        adapter.store.note_trouble({record.slurm_name: f"its {what} could not be removed as {user}" for record in stay})
        adapter.store.note_removed([record.slurm_name for record in owned if record.folder not in answer], column, now)
        adapter.store.put_off([record.slurm_name for record in stay], now + _AGAIN_AFTER)
