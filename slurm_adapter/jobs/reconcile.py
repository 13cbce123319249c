"""What a pass does about jobs: gather, plan, apply.

Gathering asks Slurm once for all jobs, and reads whole only those that do not simply live on. It looks into folders
only of jobs that have ended, vanished or doubled.
Planning is `core.plan`. Applying writes the database first, in one transaction, and then what can be made anew
from it.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slurm_adapter.cluster import job_folders
from slurm_adapter.core import hosts_file
from slurm_adapter.core.errors import AdapterError, Later, Refused, TryAgain, Unknown
from slurm_adapter.core.evidence import (
    Evidence,
    FolderContents,
    is_as_remembered,
    is_plainly_alive,
    live_row,
    lives_on,
    needs_history,
    needs_look,
    own_slurm_id,
)
from slurm_adapter.core.plan import Plan, make_plan
from slurm_adapter.core.records import Record, Stage, by_account
from slurm_adapter.core.states import JobState, interpret
from slurm_adapter.jobs.accounts import Accounts, AccountTrouble, FolderTrouble, Trouble
from slurm_adapter.jobs.close_folders import close
from slurm_adapter.jobs.publish_hosts import HOSTS_SEEN, publish_hosts
from slurm_adapter.jobs.report import Problems, Report
from slurm_adapter.state.claims import LEASE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.cluster.schedulers.interface import Listing
    from slurm_adapter.core.observation import Observation
    from slurm_adapter.core.records import ActiveJob

LOOKS = 500
"""Folders of one account that one sync looks into; the next ones take their turn."""

OLD_TASKS = 1000
"""Tasks of an array of which an older version has not noted how many there are."""

HOSTS_SECONDS = 600
"""How long the hosts files go unlooked at while nothing of them changes: whoever damages them meets his mend."""


@dataclass(slots=True)
class _Gathered:
    evidence: Evidence
    strays: tuple[tuple[Record, int], ...] = ()
    """Slurm jobs of jobs that have ended: somebody requeued them, or they came up late."""
    problems: Problems = field(default_factory=Problems)
    looked: frozenset[str] = frozenset()
    """Jobs whose folders were looked into, or should have been."""


def reconcile(adapter: Adapter, jobs: list[ActiveJob], *, dry_run: bool, allow_mass_end: bool) -> Report:
    """Bring these jobs, which are all that have not ended, Slurm and the hosts files together; see `sync`."""
    gathered = _gather(adapter, jobs, allow_mass_end=allow_mass_end, remember=not dry_run)
    plan = make_plan(gathered.evidence)
    gathered.problems.site.extend(plan.problems)
    gathered.problems.accounts.extend(f"job {id_}: {why}" for id_, why in plan.job_problems.items())
    return _preview(plan, gathered) if dry_run else _apply(adapter, plan, gathered)


def _preview(plan: Plan, gathered: _Gathered) -> Report:
    unwanted = (*gathered.strays, *plan.cancel, *plan.cancel_again)
    return Report(
        changes=plan.changes,
        limits=plan.limits,
        submitted=tuple(record.id for record in plan.submit),
        cancelled=tuple((record.id, slurm_id) for record, slurm_id in unwanted),
        problems=tuple(gathered.problems.site),
        account_problems=tuple(gathered.problems.accounts),
    )


def _gather(adapter: Adapter, jobs: list[ActiveJob], *, allow_mass_end: bool, remember: bool) -> _Gathered:
    problems = Problems()
    listing: Listing | None = None
    if jobs:
        with _noting(problems, "list Slurm's jobs"), _sparing(adapter, remember=remember):
            listing = adapter.scheduler.queue(sorted({job.account for job in jobs}))
    rows = _by_job(listing) if listing is not None else {}
    alive, others = _sort_out(jobs, rows, adapter.config.states)
    records = _read(adapter, others)
    judged: list[ActiveJob | Record] = [*alive, *records]
    rows_of = {job.id: rows.get((job.slurm_name, job.account), ()) for job in judged}
    looked_at: list[Record] = []
    inside: dict[str, FolderContents] = {}
    history: dict[int, tuple[Observation, ...]] | None = {}
    accounting = True
    addresses: dict[str, tuple[str, ...]] = {}
    if listing is not None:
        _note_hidden(listing, records, rows_of, problems)
        _note_unnamed(listing, {job.account for job in jobs}, problems)
        wanting = [r for r in records if needs_look(r, rows_of[r.id])]
        looked_at, later = _at_most(wanting)
        inside, slow = _look(adapter, looked_at, Accounts(adapter, remember=remember), problems)
        records = tuple(r for r in records if r.id not in later | slow)
        odd = [record for record in records if not is_plainly_alive(record, rows_of[record.id])]
        kept = {r.id: own_slurm_id(r, rows_of[r.id], inside.get(r.id)) for r in odd}
        asked = [id_ for r in odd if needs_history(r, rows_of[r.id], id_ := kept[r.id]) and id_ is not None]
        if asked:
            history = None
            with _noting(problems, "ask Slurm's accounting"):
                told = adapter.scheduler.history(asked)
                accounting = told is not None
                history = _by_id(told or ())
        judged = [*alive, *records]
        wanted = {node for job in judged for row in rows_of[job.id] if live_row(row) for node in _new_nodes(job, row)}
        if wanted:
            with _noting(problems, "learn the nodes' addresses"):
                addresses = find_addresses(adapter, wanted)
                if lost := sorted(node for node in wanted if not addresses.get(node)):
                    problems.site.append(f"no usable address of {', '.join(lost)} is known; see peers.address")
    evidence = Evidence(
        now=adapter.clock(),
        records=records,
        alive=alive,
        renamed=_renamed(adapter, records, listing),
        peers=adapter.store.find({peer.job_id for record in records for peer in record.peers}),
        rows={job.slurm_name: rows_of[job.id] for job in judged} if listing is not None else None,
        silence_counts=listing is not None and listing.sees_others,
        unnamed=listing.unnamed if listing is not None else frozenset(),
        history=history,
        accounting=accounting,
        inside=inside,
        addresses=addresses,
        states=adapter.config.states,
        message_timeout=adapter.config.cluster.message_timeout,
        lost_after=adapter.config.jobs.lost_after,
        attempts=adapter.config.jobs.attempts,
        others=len(jobs) - len(others),
        submitted=Counter(job.account for job in jobs if job.stage is not Stage.CLAIMED),
        allow_mass_end=allow_mass_end,
    )
    strays = _strays(adapter, rows, {job.slurm_name for job in jobs})
    return _Gathered(evidence, strays, problems, frozenset(record.id for record in looked_at))


def _note_hidden(
    listing: Listing,
    records: Iterable[Record],
    rows_of: Mapping[str, tuple[Observation, ...]],
    problems: Problems,
) -> None:
    """Note what keeps the silence about jobs from counting."""
    silent = sum(record.stage is Stage.SUBMITTED and not rows_of[record.id] for record in records)
    if silent and not listing.sees_others:
        problems.site.append(
            f"{silent} jobs are not listed, and this account may not see others' jobs (PrivateData in slurm.conf); "
            "nothing was changed"
        )


def _note_unnamed(listing: Listing, users: set[str], problems: Problems) -> None:
    """Note the accounts that the cluster does not know: some may have been deleted, most of them cannot have been."""
    unnamed = sorted(listing.unnamed & users)
    if len(unnamed) > 1 and 2 * len(unnamed) > len(users):
        problems.site.append(
            f"the cluster does not know {len(unnamed)} of the {len(users)} accounts with jobs "
            f"({', '.join(unnamed[:3])}, ...): is its directory service away?"
        )
    else:
        problems.accounts.extend(f"the cluster does not know the account {user}" for user in unnamed)


def _at_most(records: Iterable[Record]) -> tuple[list[Record], frozenset[str]]:
    """Return those of these jobs whose turn it is, and the ids of the others: see `LOOKS`."""
    grouped = dict(by_account(records))
    turn = [record for owned in grouped.values() for record in owned[:LOOKS]]
    return turn, frozenset(record.id for owned in grouped.values() for record in owned[LOOKS:])


def _sort_out(
    jobs: list[ActiveJob], rows: Mapping[tuple[str, str], tuple[Observation, ...]], states: Mapping[str, JobState]
) -> tuple[tuple[ActiveJob, ...], list[ActiveJob]]:
    """Those of the jobs that live on, without those that are just as remembered; and the others."""
    alive, others = [], []
    for job in jobs:
        own = rows.get((job.slurm_name, job.account), ())
        if not lives_on(job, own):
            others.append(job)
        elif not is_as_remembered(job, own[0], states):
            alive.append(job)
    return tuple(alive), others


def _read(adapter: Adapter, jobs: list[ActiveJob]) -> tuple[Record, ...]:
    """These jobs whole, oldest first.

    Not those that somebody moved on, or gave more time, after Slurm was asked, on which its answer throws no light:
    they are left to the next pass.
    """
    asked = {job.slurm_name: (job.stage, job.slurm_id, job.time_limit) for job in jobs}
    known = adapter.store.with_slurm_names(asked)
    return tuple(r for r in known if (r.stage, r.slurm_id, r.time_limit) == asked[r.slurm_name])


def find_addresses(adapter: Adapter, nodes: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Addresses of nodes that other nodes can use: NodeAddr, or what the site's pattern resolves to."""
    pattern = adapter.config.peers.address
    if pattern is not None:
        names = {node: pattern.replace("{node}", node) for node in nodes}
    else:
        known = adapter.scheduler.nodes()
        names = {node: known[node] for node in nodes if known.get(node)}
    plain = {node: hosts_file.usable([name]) for node, name in names.items()}
    unresolved = sorted({names[node] for node, found in plain.items() if not found})
    resolved = adapter.scheduler.addresses(unresolved) if unresolved else {}
    return {node: found or hosts_file.usable(resolved.get(names[node], ())) for node, found in plain.items()}


def _apply(adapter: Adapter, plan: Plan, gathered: _Gathered) -> Report:
    # Closed before it is remembered: a pass that is killed between the two closes it again, and none is left open. But
    # a claim may be on its way to Slurm meanwhile, and is closed only once it has ended.
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
        with _noting(problems, "write the hosts files"):
            publish_hosts(adapter)
    claimed = _without_leases(adapter, plan.submit) if plan.submit else []
    submitted = _submit(adapter, claimed, accounts, problems) if claimed else ()
    if gathered.evidence.rows is not None and any(r.cancel_requested is not None for r in gathered.evidence.records):
        from slurm_adapter.jobs.cancel import cancel_requested_jobs

        try:
            cancel_requested_jobs(adapter, accounts)
        except AdapterError as error:
            problems.accounts.append(f"could not end jobs whose end is wanted: {error}")
    return Report(
        changes=changes,
        limits=plan.limits,
        submitted=submitted,
        cancelled=cancelled,
        problems=tuple(problems.site),
        account_problems=tuple(problems.accounts),
    )


def _note_troubles(adapter: Adapter, plan: Plan, gathered: _Gathered, ending: Container[str]) -> None:
    """Note on jobs what could not be learned of each; of those that end, closing their folders tells more."""
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
    """Give claims to Slurm, those of each account beside the others; return the ids of those that Slurm has.

    What takes long goes on behind the sync, with a database connection of its own.
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
    for user, owned, answer in accounts.behind(dict(by_account(claimed)), "", act):
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
    adapter: Adapter, plan: Plan, gathered: _Gathered, accounts: Accounts, problems: Problems
) -> tuple[tuple[str, int], ...]:
    """Cancel Slurm jobs that no job owns: second ones, once the fence names another, and those of ended jobs.

    And those whose end was asked for in vain.
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
        with _noting(problems, "cancel Slurm jobs"):
            from slurm_adapter.jobs.dispatch import confirmed

            surplus = confirmed(adapter, surplus)  # Slurm was asked before the folders were looked into
            failed = accounts.cancel({id_: record.account for record, id_ in surplus})
            problems.accounts.extend(
                f"could not cancel Slurm jobs as {user}: {why.why if isinstance(why, Trouble) else why}"
                for user, why in failed.items()
            )
            return tuple((record.id, id_) for record, id_ in surplus if record.account not in failed)
    return ()


def _look(
    adapter: Adapter, records: list[Record], accounts: Accounts, problems: Problems
) -> tuple[dict[str, FolderContents], frozenset[str]]:
    """Look into these jobs' folders, as all accounts at the same time.

    Return what stands in them, and the ids of jobs of slow accounts: they are left to a later sync.
    """
    found: dict[str, FolderContents] = {}
    slow: set[str] = set()

    def act(user: str, owned: Sequence[Record], seconds: float) -> list[FolderContents | None]:
        tasks = {record.folder: record.tasks or OLD_TASKS for record in owned if record.array}
        return job_folders.look(adapter.transport, user, [record.folder for record in owned], tasks, seconds)

    for user, owned, inside in accounts.each(dict(by_account(records)), "look into its job folders", act):
        if isinstance(inside, AdapterError):
            problems.site.append(f"could not look into job folders as {user}: {inside}")
            continue
        if isinstance(inside, Trouble):
            if inside.slow:
                slow |= {record.id for record in owned}
            else:
                unseen = FolderContents(exists=False, trouble=inside.why, tried=inside.tried)
                found |= {record.id: unseen for record in owned}
            continue
        found |= {record.id: each for record, each in zip(owned, inside, strict=True) if each is not None}
        for record in (each for each in owned if each.id not in found):
            if accounts.site_is_well:
                found[record.id] = FolderContents(exists=False, trouble="the folder that it should be in is gone")
            else:
                problems.site.append(
                    f"job {record.id}: neither its folder {record.folder} is there nor that in which it should be; "
                    "is its file system away?"
                )
    return found, frozenset(slow)


def _strays(
    adapter: Adapter, rows: dict[tuple[str, str], tuple[Observation, ...]], active: set[str]
) -> tuple[tuple[Record, int], ...]:
    """Slurm jobs that wait or run for jobs of ours that have ended."""
    prefix = f"{adapter.store.instance}-"
    alive = {
        (token, account): ids
        for (token, account), observed in rows.items()
        if token.startswith(prefix)
        and token not in active
        and (ids := {row.slurm_id for row in observed if live_row(row)})
    }
    if not alive:
        return ()
    # Read after Slurm was asked: a job that was handed in meanwhile is not among `active`, and has not ended.
    named = adapter.store.with_slurm_names({token for token, _ in alive})
    return tuple(
        (record, id_)
        for record in named
        if record.stage is Stage.ENDED
        for id_ in sorted(alive.get((record.slurm_name, record.account), ()))
    )


def _new_nodes(record: ActiveJob | Record, row: Observation) -> tuple[str, ...]:
    """Nodes whose addresses are not remembered for this job."""
    if interpret(row).state is JobState.IN_QUEUE or (row.nodes == record.nodes and record.addresses):
        return ()
    return row.nodes


def _renamed(adapter: Adapter, records: Iterable[Record], listing: Listing | None) -> frozenset[str]:
    """Jobs whose Slurm id is alive for their account, but under a name that is no token of ours."""
    strange = {
        (row.slurm_id, row.user)
        for row in (listing.observations if listing is not None else ())
        if live_row(row) and not row.name.startswith(f"{adapter.store.instance}-")
    }
    return frozenset(record.id for record in records if (record.slurm_id, record.account) in strange)


def _by_job(listing: Listing) -> dict[tuple[str, str], tuple[Observation, ...]]:
    """What is listed, by token and account: anybody can give his own job the name that another's has or will have."""
    grouped: dict[tuple[str, str], list[Observation]] = defaultdict(list)
    for row in listing.observations:
        grouped[row.name, row.user].append(row)
    return {job: tuple(rows) for job, rows in grouped.items()}


def _by_id(observations: Iterable[Observation]) -> dict[int, tuple[Observation, ...]]:
    grouped: dict[int, list[Observation]] = defaultdict(list)
    for row in observations:
        grouped[row.slurm_id].append(row)
    return {slurm_id: tuple(rows) for slurm_id, rows in grouped.items()}


_VAIN = "asked in vain"
"""The fact that tells how often in a row, and when last, Slurm's controller was asked and gave no good answer."""

_SPARED_FROM = 3


@contextmanager
def _sparing(adapter: Adapter, *, remember: bool) -> Iterator[None]:
    """Leave a controller in peace that gave no good answer three times in a row: 40 seconds, then 80, then 120.

    A busy one gets no better by being asked (`SchedulerParameters` and RPC rate limits in slurm.conf(5)). One that is
    down is asked in every pass, which costs it nothing.
    """
    times, last = json.loads(adapter.store.fact(_VAIN) or "[0, 0]")
    wait = min(120, 5 * 2 ** min(times, 9)) if times >= _SPARED_FROM else 0
    now = adapter.clock()
    if last <= now < last + wait:
        raise TryAgain(
            f"its controller was asked {times} times in a row and gave no good answer; it is left in peace for "
            f"{last + wait - now:.0f} more seconds"
        )
    try:
        yield
    except Unknown:
        if remember:
            adapter.store.set_fact(_VAIN, json.dumps([times + 1, adapter.clock()]))
        raise
    if times and remember:
        adapter.store.set_fact(_VAIN, None)


@contextmanager
def _noting(problems: Problems, what: str) -> Iterator[None]:
    """Turn a failure into a problem of the pass, and go on."""
    try:
        yield
    except AdapterError as error:
        problems.site.append(f"could not {what}: {error}")
