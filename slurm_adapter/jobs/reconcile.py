"""The work of a sync on jobs: gather (`slurm_adapter.jobs.gather`), plan (`slurm_adapter.core.plan`), apply.

Applying writes the database first, in one transaction, and then what can be made again from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.cluster import job_folders
from slurm_adapter.core.errors import AdapterError, Later, Refused
from slurm_adapter.core.plan import Plan, make_plan
from slurm_adapter.core.records import Record, Stage, by_account
from slurm_adapter.jobs.accounts import Accounts, AccountTrouble, FolderTrouble, Trouble
from slurm_adapter.jobs.close_folders import close
from slurm_adapter.jobs.gather import Gathered, gather
from slurm_adapter.jobs.publish_hosts import HOSTS_SEEN, publish_hosts
from slurm_adapter.jobs.report import Problems, Report
from slurm_adapter.state.claims import LEASE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.records import ActiveJob

HOSTS_SECONDS = 600
"""Interval at which unchanged hosts files are checked, so that damage to them is repaired."""


def reconcile(adapter: Adapter, jobs: list[ActiveJob], *, dry_run: bool, allow_mass_end: bool) -> Report:
    """Reconcile these jobs, which are all that have not ended, with Slurm and the hosts files; see `sync`."""
    gathered = gather(adapter, jobs, allow_mass_end=allow_mass_end, remember=not dry_run)
    plan = make_plan(gathered.evidence)
    gathered.problems.site.extend(plan.problems)
    gathered.problems.accounts.extend(f"job {id_}: {why}" for id_, why in plan.job_problems.items())
    return _preview(plan, gathered) if dry_run else _apply(adapter, plan, gathered)


def _preview(plan: Plan, gathered: Gathered) -> Report:
    unwanted = (*gathered.strays, *plan.cancel, *plan.cancel_again)
    return Report(
        changes=plan.changes,
        limits=plan.limits,
        submitted=tuple(record.id for record in plan.submit),
        cancelled=tuple((record.id, slurm_id) for record, slurm_id in unwanted),
        problems=tuple(gathered.problems.site),
        account_problems=tuple(gathered.problems.accounts),
    )


def _apply(adapter: Adapter, plan: Plan, gathered: Gathered) -> Report:
    # Folders are closed before that is stored: a sync that is killed between the two closes them again, and none is
    # left open. But a claim may be on its way to Slurm meanwhile, and is closed only after it has ended.
    problems = gathered.problems
    ending = [job for job, values in plan.changes if values.get("stage") is Stage.ENDED and isinstance(job, Record)]
    accounts = Accounts(adapter)
    close(adapter, accounts, [record for record in ending if record.stage is not Stage.CLAIMED], problems)
    made = adapter.store.make_changes(plan.changes, adapter.clock())
    _note_troubles(adapter, plan, gathered, {record.id for record in ending})
    if plan.limits:
        from slurm_adapter.jobs.control import take_limits

        take_limits(adapter, plan.limits)
    changes = tuple((record, values) for record, values in plan.changes if record.id in made)
    close(adapter, accounts, [r for r in ending if r.stage is Stage.CLAIMED and r.id in made], problems)
    cancelled = _cancel_surplus(adapter, plan, gathered, accounts, problems)
    seen = float(adapter.store.fact(HOSTS_SEEN) or 0)
    if not adapter.store.hosts_are_written() or not seen <= adapter.clock() < seen + HOSTS_SECONDS:
        with problems.noting("write the hosts files"):
            publish_hosts(adapter)
    claimed = _without_leases(adapter, plan.submit) if plan.submit else []
    submitted = _submit(adapter, claimed, accounts, problems) if claimed else ()
    if gathered.evidence.rows is not None and any(r.cancel_requested is not None for r in gathered.evidence.records):
        from slurm_adapter.jobs.cancel import cancel_requested_jobs

        try:
            cancel_requested_jobs(adapter, accounts)
        except AdapterError as error:
            problems.accounts.append(f"could not cancel jobs as requested: {error}")
    return Report(
        changes=changes,
        limits=plan.limits,
        submitted=submitted,
        cancelled=cancelled,
        problems=tuple(problems.site),
        account_problems=tuple(problems.accounts),
    )


def _note_troubles(adapter: Adapter, plan: Plan, gathered: Gathered, ending: Container[str]) -> None:
    """Note the troubles of each job on it; for jobs that end, closing their folders shows more."""
    troubles: dict[str, str] = {}
    for record in gathered.evidence.records:
        inside = gathered.evidence.inside.get(record.id)
        trouble = inside.trouble if inside is not None else ""
        if inside is not None and inside.more and not trouble:
            trouble = "its folder holds more exit records than it has tasks; not all of them were read"
        trouble = trouble or plan.job_problems.get(record.id, "")
        known = record.id in gathered.looked or record.id in plan.job_problems
        if known and trouble != record.trouble and (trouble or record.id not in ending):
            troubles[record.slurm_name] = trouble
    if troubles:
        adapter.store.note_trouble(troubles)


def _submit(adapter: Adapter, claimed: Sequence[Record], accounts: Accounts, problems: Problems) -> tuple[str, ...]:
    """Dispatch claims, all accounts at the same time. Return the ids of those that Slurm has.

    What takes long goes on in the background, with a database connection of its own.
    """
    from slurm_adapter.jobs.dispatch import dispatch, means_all

    def act(user: str, owned: Sequence[Record]) -> dict[str, AdapterError]:
        own = adapter.for_thread()
        try:
            failures = dispatch(own, owned)
            blamed = next((error for error in failures.values() if isinstance(error, AccountTrouble)), None)
            if blamed is not None:
                Accounts(own).blame(user, str(blamed))
            return failures
        finally:
            own.store.close()

    submitted: list[str] = []
    failures: list[tuple[str, AdapterError]] = []
    for user, owned, answer in accounts.in_background(dict(by_account(claimed)), "", act):
        if isinstance(answer, AdapterError):
            problems.accounts.append(f"could not submit jobs as {user}: {answer}")
        elif not isinstance(answer, Trouble):
            submitted += [record.id for record in owned if record.id not in answer]
            troubled = [(r, answer[r.id]) for r in owned if r.id in answer and not isinstance(answer[r.id], Later)]
            adapter.store.note_trouble({record.slurm_name: str(error) for record, error in troubled})
            failures += [(user, error) for error in answer.values() if not isinstance(error, Refused | Later)]
    full = len({user for user, error in failures if means_all(error)}) > 1  # of one account it may be the quota
    for _, error in failures:
        of_site = isinstance(error, FolderTrouble) and (not accounts.site_is_well or (full and means_all(error)))
        (problems.site if of_site else problems.accounts).append(str(error))
    return tuple(submitted)


def _without_leases(adapter: Adapter, planned: Sequence[Record]) -> list[Record]:
    """Return those of these claims that no other process is expected to dispatch."""
    now = adapter.clock()
    return [
        record
        for record in adapter.store.again(planned)
        if record.stage is Stage.CLAIMED and (record.lease is None or not now < record.lease <= now + LEASE_SECONDS)
    ]


def _cancel_surplus(
    adapter: Adapter, plan: Plan, gathered: Gathered, accounts: Accounts, problems: Problems
) -> tuple[tuple[str, int], ...]:
    """Cancel Slurm jobs that no job owns: second ones, once the fence names another, and those of ended jobs.

    Cancel also those that go on although they were cancelled.
    """
    surplus = list(gathered.strays)
    targets = {record.id: record for record, _ in plan.cancel}
    kept: dict[str, str] = {}

    def fence(user: str, owned: Sequence[Record], seconds: float) -> list[str]:
        targets_of = {record.folder: str(plan.fence[record.id]) for record in owned}
        return job_folders.fence(adapter.transport, user, targets_of, seconds)

    for user, owned, fenced in accounts.each(dict(by_account(targets.values())), "fence its jobs", fence):
        if isinstance(fenced, Trouble):
            adapter.store.note_trouble({record.slurm_name: fenced.why for record in owned})
        elif isinstance(fenced, AdapterError):
            problems.site.append(f"could not fence jobs as {user}: {fenced}")
        else:
            kept |= {record.id: owner for record, owner in zip(owned, fenced, strict=True)}
    surplus += [(record, id_) for record, id_ in plan.cancel if kept.get(record.id) not in {None, "", str(id_)}]
    surplus += plan.cancel_again
    if surplus:
        with problems.noting("cancel Slurm jobs"):
            from slurm_adapter.jobs.dispatch import confirmed

            surplus = confirmed(adapter, surplus)  # Slurm was asked before the folders were looked into
            failed = accounts.cancel({id_: record.account for record, id_ in surplus})
            problems.accounts.extend(
                f"could not cancel Slurm jobs as {user}: {why.why if isinstance(why, Trouble) else why}"
                for user, why in failed.items()
            )
            return tuple((record.id, id_) for record, id_ in surplus if record.account not in failed)
    return ()
