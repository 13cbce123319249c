"""Control of jobs that needs an operator of Slurm: more time, suspend, resume.

It needs `clusters.NAME.operator`, a command prefix that is used for this alone. Slurm holds an operator to no limit of
partition or machine, so the limits are held here. Each function takes a bulk: all of it is validated before anything is
done.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from slurm_adapter.core.durations import duration
from slurm_adapter.core.errors import AdapterError, InvalidInput, NotOffered, Refused, TryAgain, Unknown
from slurm_adapter.core.evidence import live_row
from slurm_adapter.core.records import Amendment, Stage, by_account
from slurm_adapter.jobs.item import naming, specification_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.observation import Observation
    from slurm_adapter.core.records import Record


def extend(adapter: Adapter, wanted: Sequence[tuple[str, int]]) -> list[Record]:
    """Add seconds to the time limits of these jobs, waiting or running; UCloud gets each new total.

    Slurm counts in minutes: a total is rounded up. Two calls at the same time add up, because they take turns. Of an
    array every task that has not ended gets the limit.

    Raises `NotOffered` without `clusters.NAME.operator`, `NotFound`, `InvalidInput` if the time is not positive or the
    total exceeds the machine's or the partition's limit, and `Refused` for a job that has ended, that Slurm does not
    have (yet), or that Slurm does not change; its limit is unchanged then.
    """
    _check_offered(adapter, "extended")
    with adapter.limits_lock():
        records = _find(adapter, [id_ for id_, _ in wanted], "given more time")
        rows = _live_rows(adapter, records)
        longest = adapter.scheduler.longest([record.slurm_id for record in records if record.slurm_id is not None])
        totals: dict[str, int] = {}
        for number, (record, (_, seconds)) in enumerate(zip(records, wanted, strict=True)):
            with naming(number, wanted):
                before = totals.get(record.id) or _limit_of(record, rows)
                totals[record.id] = _check_total(adapter, record, before, seconds, longest.get(record.slurm_id or 0))
        changed = {record.id: record for record in records}
        by_slurm_id = {record.slurm_id or 0: record.id for record in changed.values()}
        failed = adapter.scheduler.set_time_limits({slurm_id: totals[id_] for slurm_id, id_ in by_slurm_id.items()})
        failures = {by_slurm_id[slurm_id]: error for slurm_id, error in failed.items()}
        seen = _limits_now(adapter, list(changed.values()), totals, failures)
        for id_, total in seen.items():
            adapter.store.amend(id_, partial(_amend_limit, total), adapter.clock())  # unless a sync did
    lost = [id_ for id_ in failures if id_ not in seen]
    if lost:
        done = f" (done: {', '.join(seen)})" if seen else ""
        raise type(failures[lost[0]])(f"job {lost[0]} was not given more time{done}: {failures[lost[0]]}")
    return [adapter.store.get(record.id) for record in records]


def _check_total(adapter: Adapter, record: Record, before: int, seconds: int, longest: int | None) -> int:
    """Return the new limit in seconds, in whole minutes, if it is allowed."""
    if seconds <= 0:
        raise InvalidInput(f"requestedTime: {seconds} seconds: must be more than 0 seconds; time can only be added")
    total = -(-(before + seconds) // 60) * 60
    product = specification_of(record).product
    machine = adapter.config.machines.get(product.category, {}).get(product.id)
    allowed = {
        "its machine": None if machine is None else machine.max_time,
        "its partition": longest,
    }
    for what, most in allowed.items():
        if most is not None and total > most:
            raise InvalidInput(
                f"requestedTime: job {record.id} has {duration(before)} and would have {duration(total)} in all, and "
                f"{what} allows at most {duration(most)}; nothing was changed"
            )
    return total


def _limits_now(
    adapter: Adapter, records: Sequence[Record], totals: Mapping[str, int], failures: Mapping[str, AdapterError]
) -> dict[str, int]:
    """Return the limits of the jobs that Slurm has changed: after a lost answer it may have changed one, too."""
    try:
        rows = _live_rows(adapter, records)
    except AdapterError:
        rows = {}
    found = {}
    for record in records:
        limits = [row.time_limit for row in rows.get(record.id, ()) if row.time_limit is not None]
        if record.id not in failures or (limits and max(limits) == totals[record.id]):
            found[record.id] = max(limits, default=totals[record.id])
    return found


def take_limits(adapter: Adapter, limits: Sequence[tuple[Record, int]]) -> None:
    """Store limits that a sync has found in Slurm, and queue updates, if a limit was not changed here meanwhile."""
    for seen, total in limits:
        adapter.store.amend(seen.id, partial(_amend_seen_limit, seen, total), adapter.clock())


def _amend_seen_limit(seen: Record, total: int, record: Record) -> Amendment | None:
    unchanged = (record.slurm_name, record.time_limit) == (seen.slurm_name, seen.time_limit)
    return _amend_limit(total, record) if unchanged else None


def _amend_limit(total: int, record: Record) -> Amendment | None:
    if record.time_limit == total:
        return None
    return Amendment(
        {"time_limit": total},
        f"Your job has been given {'more' if total > record.time_limit else 'less'} time: {duration(total)} in all",
        {"newTimeAllocation": total * 1000},
    )


def _limit_of(record: Record, rows: Mapping[str, Sequence[Observation]]) -> int:
    limits = [row.time_limit for row in _rows_of(record, rows, "given more time")]
    if any(limit is None for limit in limits):
        raise Refused(f"job {record.id} has no time limit in Slurm, so there is nothing to add to")
    return max(limit for limit in limits if limit is not None)


def suspend(adapter: Adapter, ids: Sequence[str]) -> list[Record]:
    """Suspend running jobs. Jobs already suspended are ignored. Syncs report the new states.

    Of an array the tasks that run are suspended; those that wait are not held. Suspended jobs keep their memory on
    their nodes, and Slurm gives their processors to others.

    Raises `NotOffered` without `clusters.NAME.operator`, `NotFound`, and `Refused` for a job that waits or has ended.
    """
    return _move(adapter, ids, "suspended", "RUNNING", "SUSPENDED")


def resume(adapter: Adapter, ids: Sequence[str]) -> list[Record]:
    """Resume suspended jobs. Running jobs are ignored. Raises as `suspend`."""
    return _move(adapter, ids, "resumed", "SUSPENDED", "RUNNING")


def _move(adapter: Adapter, ids: Sequence[str], what: str, before: str, after: str) -> list[Record]:
    _check_offered(adapter, what)
    records = _find(adapter, ids, what)
    rows = _live_rows(adapter, records)
    targets: dict[int, None] = {}
    for number, record in enumerate(records):
        with naming(number, ids):
            states = {row.state for row in _rows_of(record, rows, what)}
            if before in states and record.slurm_id is not None:
                targets[record.slurm_id] = None
            elif after not in states:
                raise Refused(
                    f"job {record.id} cannot be {what}: Slurm says that it is {', '.join(sorted(states))}; "
                    "only a job that runs, or is suspended, can be"
                )
    if targets:
        act = adapter.scheduler.suspend if what == "suspended" else adapter.scheduler.resume
        act(list(targets))
    return records


def _check_offered(adapter: Adapter, what: str) -> None:
    if not adapter.config.cluster.operator:
        raise NotOffered(
            f"jobs cannot be {what} at this site: its configuration has no "
            f"clusters.{adapter.config.cluster_name}.operator, the command by which an operator of Slurm acts"
        )


def _find(adapter: Adapter, ids: Sequence[str], what: str) -> list[Record]:
    """Return these jobs, if Slurm has them all and none has ended."""
    records = [adapter.store.get(id_) for id_ in ids]
    for number, record in enumerate(records):
        with naming(number, ids):
            if record.stage is Stage.ENDED:
                raise Refused(f"job {record.id} cannot be {what}: it has ended ({record.state})")
            if record.stage is not Stage.SUBMITTED:
                raise Refused(
                    f"job {record.id} cannot be {what}: Slurm does not have it yet; try again once it waits there"
                )
    return records


def _live_rows(adapter: Adapter, records: Sequence[Record]) -> dict[str, list[Observation]]:
    """Return Slurm's rows of these jobs and their tasks that have not ended, by Slurm name and account."""
    by_name = {record.slurm_name: record for record in records}
    found: dict[str, list[Observation]] = {record.id: [] for record in records}
    try:
        listing = adapter.scheduler.queue([account for account, _ in by_account(records)])
    except Unknown as error:
        raise TryAgain(f"Slurm did not report these jobs, and nothing was done: {error}") from error
    for row in listing.observations:
        record = by_name.get(row.name)
        if record and (row.user, row.slurm_id) == (record.account, record.slurm_id) and live_row(row):
            found[record.id].append(row)
    return found


def _rows_of(record: Record, rows: Mapping[str, Sequence[Observation]], what: str) -> Sequence[Observation]:
    """Return Slurm's rows of a job. Raise `Refused` if there are none to change."""
    if not rows[record.id]:
        raise Refused(
            f"job {record.id} cannot be {what}: Slurm's queue has no job {record.slurm_id} of {record.account} with "
            f"the name {record.slurm_name} that has not ended"
        )
    return rows[record.id]
