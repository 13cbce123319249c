"""Cancel jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slurm_adapter.cluster import job_folders
from slurm_adapter.core import evidence
from slurm_adapter.core.errors import AdapterError, Refused, Unknown
from slurm_adapter.core.records import Record, Stage, by_account
from slurm_adapter.core.states import JobState
from slurm_adapter.jobs.accounts import Accounts, Trouble
from slurm_adapter.jobs.dispatch import own_slurm_jobs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from slurm_adapter.adapter import Adapter


CANCEL_AGAIN_SECONDS = 30
"""So long whoever was asked to end a job is left alone with that."""


def cancel(adapter: Adapter, ids: Sequence[str]) -> list[Record]:
    """Ask for the end of jobs. One that has ended is no error; `NotFound` for an unknown one, and then nothing is done.

    Raises as `end`.
    """
    wanted = list(dict.fromkeys(ids))
    known = adapter.store.find(wanted)
    return end(adapter, [known.get(id_) or adapter.store.get(id_) for id_ in wanted])


def end(adapter: Adapter, records: Sequence[Record], accounts: Accounts | None = None) -> list[Record]:
    """Ask for the end of these very jobs, whatever their ids name by now; the jobs as they are then.

    A claim that was never handed over ends at once. One whose answer was lost is fenced first, so that a job which
    comes up later runs nothing. Slurm jobs are known by their names: one that its user renamed is left alone, and
    `Refused` says so once the others are cancelled. What was noted by `Store.want_ended` is seen to then, and stays
    noted where something stood in the way.
    """
    now = adapter.clock()
    text = "Your job was cancelled"
    ending = {"stage": Stage.ENDED, "state": JobState.SUCCESS, "status": text, "ended": now, "cancel_sent": now}
    claimed = [record for record in records if record.stage is Stage.CLAIMED]
    # One that was handed over before is in doubt still: its job may come up late.
    adapter.store.take([record.slurm_name for record in claimed if record.sbatch_started is not None], now)
    adapter.store.change([(record, ending) for record in claimed], now)
    # Read again: a claim that somebody handed over meanwhile was left alone.
    doubtful = [record for record in adapter.store.again(records) if record.stage is Stage.SUBMITTING]
    accounts = Accounts(adapter, asked=True) if accounts is None else accounts
    unfenced, reasons = _fence(adapter, accounts, doubtful, ending)
    submitted = [record for record in adapter.store.again(records) if record.stage is Stage.SUBMITTED]
    renamed: list[Record] = []
    failed: dict[str, AdapterError | Trouble] = {}
    if submitted:
        alive, renamed = own_slurm_jobs(adapter, submitted)
        adapter.store.change([(record, {"cancel_sent": now}) for record in submitted if record not in renamed], now)
        failed = accounts.cancel(alive)
    if any(record.cancel_requested is not None for record in records):
        undone = {record.slurm_name for record in (*unfenced, *(r for r in submitted if r.account in failed))}
        adapter.store.want_ended({record.slurm_name for record in records} - undone, None)
    for why in failed.values():
        raise why if isinstance(why, AdapterError) else Unknown(f"jobs may not be cancelled yet: {why.why}")
    if unfenced:
        named = ", ".join(f"{record.id} in {record.folder}" for record in unfenced)
        text = f"not cancelled, for it is not known whether Slurm has them, and no fence could be made: {named}"
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
    return adapter.store.again(records)


def _fence(
    adapter: Adapter, accounts: Accounts, doubtful: Iterable[Record], ending: dict[str, Any]
) -> tuple[list[Record], list[str]]:
    """Fence jobs whose answer was lost; those that run nothing end. Return those that could not be fenced, and why."""
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
        changes: list[tuple[Record, dict[str, Any]]] = []
        for record, owner in zip(owned, names, strict=True):
            if owner in {evidence.CANCELLED, evidence.CLOSED}:
                changes.append((record, ending))
            elif (found := evidence.slurm_id(owner)) is not None:
                changes.append((record, {"stage": Stage.SUBMITTED, "slurm_id": found}))
            else:
                unfenced.append(record)
        adapter.store.change(changes, ending["ended"])
    return unfenced, reasons


def cancel_requested_jobs(adapter: Adapter, accounts: Accounts) -> None:
    """End the jobs whose end was wanted a while ago, and which whoever was asked has not ended. Raises as `end`."""
    if late := adapter.store.cancel_requested(adapter.clock() - CANCEL_AGAIN_SECONDS):
        end(adapter, late, accounts)
