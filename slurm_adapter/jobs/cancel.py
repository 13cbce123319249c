"""Cancel jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.cluster import job_folders
from slurm_adapter.core import evidence
from slurm_adapter.core.endings import end
from slurm_adapter.core.errors import AdapterError, Refused, Unknown
from slurm_adapter.core.records import Record, Stage, by_account
from slurm_adapter.core.states import JobState
from slurm_adapter.jobs.accounts import Accounts, Trouble
from slurm_adapter.jobs.dispatch import own_slurm_jobs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.records import RecordChange


CANCEL_AGAIN_SECONDS = 30
"""A sync leaves a requested cancellation to the process that got the request for so long."""


def cancel(adapter: Adapter, ids: Sequence[str]) -> list[Record]:
    """Cancel jobs, given by id. Jobs that have ended are ignored.

    Raises `NotFound` for an unknown job, before anything is done, and as `cancel_records`.
    """
    wanted = list(dict.fromkeys(ids))
    known = adapter.store.find(wanted)
    return cancel_records(adapter, [known.get(id_) or adapter.store.get(id_) for id_ in wanted])


def cancel_records(adapter: Adapter, records: Sequence[Record], accounts: Accounts | None = None) -> list[Record]:
    """Cancel these very jobs, even if their ids name other jobs by now. Return them as they are then.

    A claim that was never dispatched ends at once. A job with a lost answer is fenced first, so that it runs nothing if
    it comes up later. Slurm jobs are known by their names: one that its user renamed is not cancelled, and `Refused`
    says so after the others are cancelled. What `Store.request_cancel` noted is done then, and stays noted for jobs
    that could not be cancelled.
    """
    now = adapter.clock()
    accounts = Accounts(adapter, asked=True) if accounts is None else accounts
    _end_claims(adapter, records, now)
    # Read again: a claim that another process dispatched meanwhile was not ended.
    doubtful = [record for record in adapter.store.again(records) if record.stage is Stage.SUBMITTING]
    unfenced, reasons = _fence(adapter, accounts, doubtful, now)
    submitted = [record for record in adapter.store.again(records) if record.stage is Stage.SUBMITTED]
    renamed: list[Record] = []
    failed: dict[str, AdapterError | Trouble] = {}
    if submitted:
        alive, renamed = own_slurm_jobs(adapter, submitted)
        adapter.store.change([(record, {"cancel_sent": now}) for record in submitted if record not in renamed], now)
        failed = accounts.cancel(alive)
    if any(record.cancel_requested is not None for record in records):
        undone = {record.slurm_name for record in (*unfenced, *(r for r in submitted if r.account in failed))}
        adapter.store.request_cancel({record.slurm_name for record in records} - undone, None)
    _raise_failures(failed, unfenced, reasons, renamed)
    return adapter.store.again(records)


def _cancelled(now: float) -> RecordChange:
    return end(now, JobState.SUCCESS, "Your job was cancelled") | {"cancel_sent": now}


def _end_claims(adapter: Adapter, records: Sequence[Record], now: float) -> None:
    claimed = [record for record in records if record.stage is Stage.CLAIMED]
    # A claim that was dispatched before is still in doubt: its job may come up late.
    adapter.store.take([record.slurm_name for record in claimed if record.sbatch_started is not None], now)
    adapter.store.change([(record, _cancelled(now)) for record in claimed], now)


def _raise_failures(
    failed: Mapping[str, AdapterError | Trouble],
    unfenced: Sequence[Record],
    reasons: Sequence[str],
    renamed: Sequence[Record],
) -> None:
    for why in failed.values():
        raise why if isinstance(why, AdapterError) else Unknown(f"jobs may not be cancelled yet: {why.why}")
    if unfenced:
        named = ", ".join(f"{record.id} in {record.folder}" for record in unfenced)
        text = f"not cancelled, because it is unknown whether Slurm has them, and fencing them failed: {named}"
        raise Unknown("\n".join((text, *reasons)))
    if renamed:
        raise Refused(
            "\n".join(
                f"not cancelled: Slurm job {record.slurm_id} of {record.account} has another name "
                f"than {record.slurm_name}. If it is job {record.id}, renamed: "
                f"scontrol update JobId={record.slurm_id} JobName={record.slurm_name}"
                for record in renamed
            )
        )


def _fence(
    adapter: Adapter, accounts: Accounts, doubtful: Iterable[Record], now: float
) -> tuple[list[Record], list[str]]:
    """Fence jobs with lost answers; those that run nothing end. Return those that could not be fenced, and why."""
    unfenced: list[Record] = []
    reasons: list[str] = []

    def fence(user: str, owned: Sequence[Record], seconds: float) -> list[str]:
        return job_folders.fence(
            adapter.transport, user, {record.folder: evidence.CANCELLED for record in owned}, seconds
        )

    for _, owned, names in accounts.each(dict(by_account(doubtful)), "fence its jobs", fence):
        if isinstance(names, AdapterError | Trouble):
            unfenced += owned
            reasons.append(names.why if isinstance(names, Trouble) else str(names))
            continue
        changes: list[tuple[Record, RecordChange]] = []
        for record, owner in zip(owned, names, strict=True):
            if owner in {evidence.CANCELLED, evidence.CLOSED}:
                changes.append((record, _cancelled(now)))
            elif (found := evidence.slurm_id(owner)) is not None:
                changes.append((record, {"stage": Stage.SUBMITTED, "slurm_id": found}))
            else:
                unfenced.append(record)
        adapter.store.change(changes, now)
    return unfenced, reasons


def cancel_requested_jobs(adapter: Adapter, accounts: Accounts) -> None:
    """Cancel jobs as requested a while ago, if the process that got the request did not. Raises as `cancel_records`."""
    if late := adapter.store.cancel_requested(adapter.clock() - CANCEL_AGAIN_SECONDS):
        cancel_records(adapter, late, accounts)
