"""The first step of a sync: ask Slurm once for all jobs, and learn more about the few that need it.

Only jobs that do not simply stay alive are read whole. Folders are read only of jobs that have ended, vanished or
doubled.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slurm_adapter.cluster import job_folders
from slurm_adapter.core import hosts_file
from slurm_adapter.core.errors import AdapterError, TryAgain, Unknown
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
from slurm_adapter.core.records import Record, Stage, by_account
from slurm_adapter.core.states import JobState, interpret
from slurm_adapter.jobs.accounts import Accounts, Trouble
from slurm_adapter.jobs.report import Problems

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.cluster.schedulers.interface import Listing
    from slurm_adapter.core.observation import Observation
    from slurm_adapter.core.records import ActiveJob

    Rows = Mapping[str, tuple[Observation, ...]]

LOOKS = 500
"""Folders of one account that one sync reads; the next syncs read the others."""

OLD_TASKS = 1000
"""Assumed tasks of an array from an older version, which did not store their number."""


@dataclass(slots=True)
class Gathered:
    """Everything that a sync has learned, and what it could not learn."""

    evidence: Evidence
    strays: tuple[tuple[Record, int], ...] = ()
    """Slurm jobs of jobs that have ended: they were requeued, or came up late."""
    problems: Problems = field(default_factory=Problems)
    looked: frozenset[str] = frozenset()
    """Jobs with folders that were read, or should have been."""


@dataclass(slots=True)
class _Details:
    """Further evidence about the jobs that do not simply stay alive."""

    records: tuple[Record, ...]
    """The jobs that can be judged now."""
    looked_at: Sequence[Record] = ()
    inside: dict[str, FolderContents] = field(default_factory=dict)
    history: dict[int, tuple[Observation, ...]] | None = field(default_factory=dict)
    accounting: bool = True


def gather(adapter: Adapter, jobs: list[ActiveJob], *, allow_mass_end: bool, remember: bool) -> Gathered:
    """Gather the evidence about these jobs, which are all that have not ended.

    `remember`: note what is learned about the controller and accounts for the next syncs.
    """
    problems = Problems()
    listing: Listing | None = None
    if jobs:
        with problems.noting("list Slurm's jobs"), _with_back_off(adapter, remember=remember):
            listing = adapter.scheduler.queue(sorted({job.account for job in jobs}))
    rows = _by_job(listing) if listing is not None else {}
    alive, others = _sort_out(jobs, rows, adapter.config.states)
    records = _read(adapter, others)
    judged: list[ActiveJob | Record] = [*alive, *records]
    rows_of = {job.id: rows.get((job.slurm_name, job.account), ()) for job in judged}
    details = _Details(records)
    addresses: dict[str, tuple[str, ...]] = {}
    if listing is not None:
        _note_hidden(listing, records, rows_of, problems)
        _note_unknown_accounts(listing, {job.account for job in jobs}, problems)
        details = _learn_details(adapter, records, rows_of, Accounts(adapter, remember=remember), problems)
        addresses = _learn_addresses(adapter, [*alive, *details.records], rows_of, problems)
    records = details.records
    judged = [*alive, *records]
    evidence = Evidence(
        now=adapter.clock(),
        records=records,
        alive=alive,
        renamed=_renamed(adapter, records, listing),
        peers=adapter.store.find({peer.job_id for record in records for peer in record.peers}),
        rows={job.slurm_name: rows_of[job.id] for job in judged} if listing is not None else None,
        silence_counts=listing is not None and listing.sees_others,
        unnamed=listing.unnamed if listing is not None else frozenset(),
        history=details.history,
        accounting=details.accounting,
        inside=details.inside,
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
    return Gathered(evidence, strays, problems, frozenset(record.id for record in details.looked_at))


def _learn_details(
    adapter: Adapter, records: tuple[Record, ...], rows_of: Rows, accounts: Accounts, problems: Problems
) -> _Details:
    """Read folders, and ask accounting, as far as these jobs need it."""
    looked_at, later = _at_most([record for record in records if needs_look(record, rows_of[record.id])])
    inside, slow = _look(adapter, looked_at, accounts, problems)
    details = _Details(tuple(r for r in records if r.id not in later | slow), looked_at, inside)
    odd = [record for record in details.records if not is_plainly_alive(record, rows_of[record.id])]
    kept = {record.id: own_slurm_id(record, rows_of[record.id], inside.get(record.id)) for record in odd}
    asked = [id_ for r in odd if needs_history(r, rows_of[r.id], id_ := kept[r.id]) and id_ is not None]
    if asked:
        details.history = None
        with problems.noting("ask Slurm's accounting"):
            found = adapter.scheduler.history(asked)
            details.accounting = found is not None
            details.history = _by_id(found or ())
    return details


def _learn_addresses(
    adapter: Adapter, jobs: Iterable[ActiveJob | Record], rows_of: Rows, problems: Problems
) -> dict[str, tuple[str, ...]]:
    """Return the addresses of nodes that these jobs are new on."""
    addresses: dict[str, tuple[str, ...]] = {}
    wanted = {node for job in jobs for row in rows_of[job.id] if live_row(row) for node in _new_nodes(job, row)}
    if wanted:
        with problems.noting("learn the nodes' addresses"):
            addresses = find_addresses(adapter, wanted)
            if lost := sorted(node for node in wanted if not addresses.get(node)):
                problems.site.append(f"no usable address of {', '.join(lost)} is known; see peers.address")
    return addresses


def _note_hidden(
    listing: Listing,
    records: Iterable[Record],
    rows_of: Mapping[str, tuple[Observation, ...]],
    problems: Problems,
) -> None:
    """Note why silence about jobs proves nothing."""
    silent = sum(record.stage is Stage.SUBMITTED and not rows_of[record.id] for record in records)
    if silent and not listing.sees_others:
        problems.site.append(
            f"{silent} jobs are not listed, and this account may not see others' jobs (PrivateData in slurm.conf); "
            "nothing was changed"
        )


def _note_unknown_accounts(listing: Listing, users: set[str], problems: Problems) -> None:
    """Note accounts that the cluster does not know: a few may have been deleted, but not most of them."""
    unnamed = sorted(listing.unnamed & users)
    if len(unnamed) > 1 and 2 * len(unnamed) > len(users):
        problems.site.append(
            f"the cluster does not know {len(unnamed)} of the {len(users)} accounts with jobs "
            f"({', '.join(unnamed[:3])}, ...): is its directory service away?"
        )
    else:
        problems.accounts.extend(f"the cluster does not know the account {user}" for user in unnamed)


def _at_most(records: Iterable[Record]) -> tuple[list[Record], frozenset[str]]:
    """Return the jobs with folders to read now, and the ids of the others: see `LOOKS`."""
    grouped = dict(by_account(records))
    turn = [record for owned in grouped.values() for record in owned[:LOOKS]]
    return turn, frozenset(record.id for owned in grouped.values() for record in owned[LOOKS:])


def _sort_out(
    jobs: list[ActiveJob], rows: Mapping[tuple[str, str], tuple[Observation, ...]], states: Mapping[str, JobState]
) -> tuple[tuple[ActiveJob, ...], list[ActiveJob]]:
    """Return the jobs that stay alive, without unchanged ones, and the other jobs."""
    alive, others = [], []
    for job in jobs:
        own = rows.get((job.slurm_name, job.account), ())
        if not lives_on(job, own):
            others.append(job)
        elif not is_as_remembered(job, own[0], states):
            alive.append(job)
    return tuple(alive), others


def _read(adapter: Adapter, jobs: list[ActiveJob]) -> tuple[Record, ...]:
    """Return these jobs whole, oldest first.

    Jobs with a stage or time limit that changed after Slurm was asked are left to the next sync: the answer is too old
    for them.
    """
    asked = {job.slurm_name: (job.stage, job.slurm_id, job.time_limit) for job in jobs}
    known = adapter.store.with_slurm_names(asked)
    return tuple(r for r in known if (r.stage, r.slurm_id, r.time_limit) == asked[r.slurm_name])


def find_addresses(adapter: Adapter, nodes: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return addresses of nodes that other nodes can use: NodeAddr, or what the site's pattern resolves to."""
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


def _look(
    adapter: Adapter, records: list[Record], accounts: Accounts, problems: Problems
) -> tuple[dict[str, FolderContents], frozenset[str]]:
    """Read these jobs' folders, as all accounts at the same time.

    Return their contents, and the ids of jobs of slow accounts: they are left to a later sync.
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
    """Return Slurm jobs that wait or run for jobs of ours that have ended."""
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
    # Read after Slurm was asked: a job that was submitted meanwhile is not in `active`, and has not ended.
    named = adapter.store.with_slurm_names({token for token, _ in alive})
    return tuple(
        (record, id_)
        for record in named
        if record.stage is Stage.ENDED
        for id_ in sorted(alive.get((record.slurm_name, record.account), ()))
    )


def _new_nodes(record: ActiveJob | Record, row: Observation) -> tuple[str, ...]:
    """Return nodes without stored addresses for this job."""
    if interpret(row).state is JobState.IN_QUEUE or (row.nodes == record.nodes and record.addresses):
        return ()
    return row.nodes


def _renamed(adapter: Adapter, records: Iterable[Record], listing: Listing | None) -> frozenset[str]:
    """Return jobs with a Slurm id that is alive for their account under a name that is not ours."""
    strange = {
        (row.slurm_id, row.user)
        for row in (listing.observations if listing is not None else ())
        if live_row(row) and not row.name.startswith(f"{adapter.store.instance}-")
    }
    return frozenset(record.id for record in records if (record.slurm_id, record.account) in strange)


def _by_job(listing: Listing) -> dict[tuple[str, str], tuple[Observation, ...]]:
    """Group rows by Slurm name and account: users can give their own jobs the names of others' jobs."""
    grouped: dict[tuple[str, str], list[Observation]] = defaultdict(list)
    for row in listing.observations:
        grouped[row.name, row.user].append(row)
    return {job: tuple(rows) for job, rows in grouped.items()}


def _by_id(observations: Iterable[Observation]) -> dict[int, tuple[Observation, ...]]:
    grouped: dict[int, list[Observation]] = defaultdict(list)
    for row in observations:
        grouped[row.slurm_id].append(row)
    return {slurm_id: tuple(rows) for slurm_id, rows in grouped.items()}


_FAILURES = "failures of slurmctld"
"""The fact with the number of failures of Slurm's controller in a row, and the time of the last one."""

_BACK_OFF_FROM = 3


@contextmanager
def _with_back_off(adapter: Adapter, *, remember: bool) -> Iterator[None]:
    """Do not ask a controller that failed three times in a row: for 40 seconds, then 80, then 120.

    A busy one gets no better by being asked (`SchedulerParameters` and RPC rate limits in slurm.conf(5)). One that is
    down is asked in every sync, which costs it nothing.
    """
    times, last = json.loads(adapter.store.fact(_FAILURES) or "[0, 0]")
    wait = min(120, 5 * 2 ** min(times, 9)) if times >= _BACK_OFF_FROM else 0
    now = adapter.clock()
    if last <= now < last + wait:
        raise TryAgain(f"slurmctld failed {times} times in a row; next attempt in {last + wait - now:.0f} s")
    try:
        yield
    except Unknown:
        if remember:
            adapter.store.set_fact(_FAILURES, json.dumps([times + 1, adapter.clock()]))
        raise
    if times and remember:
        adapter.store.set_fact(_FAILURES, None)
