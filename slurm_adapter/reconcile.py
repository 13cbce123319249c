"""What a pass does about jobs: gather, plan, apply.

Gathering asks Slurm once for all jobs, and reads whole only those that do not simply live on. It looks into folders
only of jobs that have ended, vanished or doubled.
Planning is `slurm_adapter.plan`. Applying writes the database first, in one transaction, and then what can be made anew
from it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from slurm_adapter import folders, hosts
from slurm_adapter.accounts import Accounts, FolderTrouble, Trouble
from slurm_adapter.closing import close
from slurm_adapter.errors import AdapterError, Later, Refused, TryAgain, Unknown
from slurm_adapter.plan import (
    Evidence,
    Plan,
    is_as_remembered,
    is_plainly_alive,
    kept_id,
    live_row,
    lives_on,
    make_plan,
    needs_history,
    needs_look,
)
from slurm_adapter.publishing import HOSTS_SEEN, publish_hosts
from slurm_adapter.records import Record, Stage, by_account
from slurm_adapter.reporting import Report
from slurm_adapter.states import JobState, translate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from slurm_adapter.records import Standing
    from slurm_adapter.schedulers.interface import Listing, Observation
    from slurm_adapter.site import Site

CLAIM_SECONDS = 300
"""So long a new claim is left to whoever made it, while somebody hands jobs in: many go one part after another."""

HOSTS_SECONDS = 600
"""How long the hosts files go unlooked at while nothing of them changes: whoever damages them meets his mend."""


@dataclass(slots=True)
class _Gathered:
    evidence: Evidence
    strays: tuple[tuple[Record, int], ...] = ()
    """Slurm jobs of jobs that have ended: somebody requeued them, or they came up late."""
    problems: list[str] = field(default_factory=list)
    troubles: dict[str, str] = field(default_factory=dict)
    """What stands in the way of looking into jobs' folders, by job id; empty if it did and does no longer."""


def reconcile(site: Site, jobs: list[Standing], *, dry_run: bool, end_many: bool) -> Report:
    """Bring these jobs, which are all that have not ended, Slurm and the hosts files together; see `sync`."""
    gathered = _gather(site, jobs, end_many=end_many, remember=not dry_run)
    plan = make_plan(gathered.evidence)
    problems = [*gathered.problems, *plan.problems]
    return _preview(plan, gathered, problems) if dry_run else _apply(site, plan, gathered, problems)


def _preview(plan: Plan, gathered: _Gathered, problems: list[str]) -> Report:
    unwanted = (*gathered.strays, *plan.cancel, *plan.cancel_again)
    return Report(
        changes=plan.changes,
        limits=plan.limits,
        submitted=tuple(record.id for record in plan.submit),
        cancelled=tuple((record.id, slurm_id) for record, slurm_id in unwanted),
        problems=tuple(problems),
    )


def _gather(site: Site, jobs: list[Standing], *, end_many: bool, remember: bool) -> _Gathered:
    problems: list[str] = []
    listing: Listing | None = None
    if jobs:
        with _noting(problems, "list Slurm's jobs"), _sparing(site, remember=remember):
            listing = site.scheduler.queue(sorted({job.account for job in jobs}))
    rows = _by_job(listing) if listing is not None else {}
    alive, others = _sort_out(jobs, rows, site.config.states)
    records = _read(site, others)
    judged: list[Standing | Record] = [*alive, *records]
    rows_of = {job.id: rows.get((job.token, job.account), ()) for job in judged}
    inside: dict[str, folders.Inside] = {}
    troubles: dict[str, str] = {}
    history: dict[int, tuple[Observation, ...]] | None = {}
    accounting = True
    addresses: dict[str, tuple[str, ...]] = {}
    if listing is not None:
        odd = [record for record in records if not is_plainly_alive(record, rows_of[record.id])]
        looked_at = [r for r in odd if needs_look(r, rows_of[r.id])]
        inside = _look(site, looked_at, Accounts(site, remember=remember), problems)
        troubles = {r.id: each.trouble for r in looked_at if (each := inside.get(r.id)) and each.trouble != r.trouble}
        kept = {r.id: kept_id(r, rows_of[r.id], inside.get(r.id)) for r in odd}
        asked = [id_ for r in odd if needs_history(r, rows_of[r.id], id_ := kept[r.id]) and id_ is not None]
        if asked:
            history = None
            with _noting(problems, "ask Slurm's accounting"):
                told = site.scheduler.history(asked)
                accounting = told is not None
                history = _by_id(told or ())
        wanted = {node for job in judged for row in rows_of[job.id] if live_row(row) for node in _new_nodes(job, row)}
        if wanted:
            with _noting(problems, "learn the nodes' addresses"):
                addresses = find_addresses(site, wanted)
    evidence = Evidence(
        now=site.clock(),
        records=records,
        alive=alive,
        renamed=_renamed(site, records, listing),
        peers=site.store.find({peer.job_id for record in records for peer in record.peers}),
        rows={job.token: rows_of[job.id] for job in judged} if listing is not None else None,
        silence_counts=listing is not None and listing.sees_others,
        history=history,
        accounting=accounting,
        inside=inside,
        addresses=addresses,
        states=site.config.states,
        message_timeout=site.config.cluster.message_timeout,
        lost_after=site.config.jobs.lost_after,
        attempts=site.config.jobs.attempts,
        others=len(jobs) - len(others),
        end_many=end_many,
    )
    return _Gathered(evidence, _strays(site, rows, {job.token for job in jobs}), problems, troubles)


def _sort_out(
    jobs: list[Standing], rows: Mapping[tuple[str, str], tuple[Observation, ...]], states: Mapping[str, JobState]
) -> tuple[tuple[Standing, ...], list[Standing]]:
    """Those of the jobs that live on, without those that are just as remembered; and the others."""
    alive, others = [], []
    for job in jobs:
        own = rows.get((job.token, job.account), ())
        if not lives_on(job, own):
            others.append(job)
        elif not is_as_remembered(job, own[0], states):
            alive.append(job)
    return tuple(alive), others


def _read(site: Site, jobs: list[Standing]) -> tuple[Record, ...]:
    """These jobs whole, oldest first.

    Not those that somebody moved on, or gave more time, after Slurm was asked, on which its answer throws no light:
    they are left to the next pass.
    """
    asked = {job.token: (job.stage, job.slurm_id, job.time_limit) for job in jobs}
    known = site.store.with_tokens(asked)
    return tuple(r for r in known if (r.stage, r.slurm_id, r.time_limit) == asked[r.token])


def find_addresses(site: Site, nodes: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Addresses of nodes that other nodes can use: NodeAddr, or what the site's pattern resolves to."""
    pattern = site.config.peers.address
    if pattern is not None:
        names = {node: pattern.replace("{node}", node) for node in nodes}
    else:
        known = site.scheduler.nodes()
        names = {node: known[node] for node in nodes if known.get(node)}
    plain = {node: hosts.usable([name]) for node, name in names.items()}
    unresolved = sorted({names[node] for node, found in plain.items() if not found})
    resolved = site.scheduler.addresses(unresolved) if unresolved else {}
    return {node: found or hosts.usable(resolved.get(names[node], ())) for node, found in plain.items()}


def _apply(site: Site, plan: Plan, gathered: _Gathered, problems: list[str]) -> Report:
    # Closed before it is remembered: a pass that is killed between the two closes it again, and none is left open. But
    # a claim may be on its way to Slurm meanwhile, and is closed only once it has ended.
    ending = [job for job, values in plan.changes if values.get("stage") is Stage.ENDED and isinstance(job, Record)]
    accounts = Accounts(site)
    close(site, accounts, [record for record in ending if record.stage is not Stage.CLAIMED], problems)
    made = site.store.make_changes(plan.changes, site.clock())
    if gathered.troubles:
        site.store.note_trouble(gathered.troubles)
    if plan.limits:
        from slurm_adapter.operations import take_limits

        take_limits(site, plan.limits)
    changes = tuple((record, values) for record, values in plan.changes if record.id in made)
    close(site, accounts, [r for r in ending if r.stage is Stage.CLAIMED and r.id in made], problems)
    cancelled = _cancel_surplus(site, plan, gathered, accounts, problems)
    seen = float(site.store.fact(HOSTS_SEEN) or 0)
    if not site.store.hosts_are_written() or not seen <= site.clock() < seen + HOSTS_SECONDS:
        with _noting(problems, "write the hosts files"):
            publish_hosts(site)
    claimed = _left_behind(site, plan.submit) if plan.submit else []
    failures: dict[str, AdapterError] = {}
    if claimed:
        from slurm_adapter.handover import hand_over

        failures = hand_over(site, claimed)
    if gathered.evidence.rows is not None and any(r.unwanted is not None for r in gathered.evidence.records):
        from slurm_adapter.jobs import end_unwanted

        with _noting(problems, "end jobs whose end is wanted"):
            end_unwanted(site)
    for id_, error in failures.items():
        if isinstance(error, FolderTrouble) and accounts.site_is_well:
            site.store.note_trouble({id_: str(error)})
        elif not isinstance(error, Refused | Later):  # the job's own end, or no trouble at all
            problems.append(str(error))
    return Report(
        changes=changes,
        limits=plan.limits,
        submitted=tuple(record.id for record in claimed if record.id not in failures),
        cancelled=cancelled,
        problems=tuple(problems),
    )


def _left_behind(site: Site, planned: Sequence[Record]) -> list[Record]:
    """Those of these claims that nobody is about to hand over himself: a pass that did it, too, would do all twice.

    Whoever makes claims holds a lock until he has taken them, which he does within moments. It goes with his process.
    Which claims are whose is not known: new ones that no pass has judged are left to him, for `CLAIM_SECONDS` at most.
    """
    with site.nobody_hands_in() as free:
        pass  # asked before they are read: who gives it back has taken his
    claimed = [record for record in site.store.again(planned) if record.stage is Stage.CLAIMED]
    old = site.clock() - CLAIM_SECONDS
    return [record for record in claimed if free or record.status or not old < record.created <= site.clock()]


def _cancel_surplus(
    site: Site, plan: Plan, gathered: _Gathered, accounts: Accounts, problems: list[str]
) -> tuple[tuple[str, int], ...]:
    """Cancel Slurm jobs that no job owns: second ones, once the fence names another, and those of ended jobs.

    And those whose end was asked for in vain.
    """
    surplus = list(gathered.strays)
    targets = {record.id: record for record, _ in plan.cancel}
    kept: dict[str, str] = {}
    for user, owned in by_account(targets.values()):
        targets_of = {record.folder: str(plan.fence[record.id]) for record in owned}
        with _noting(problems, f"fence jobs as {user}"):
            fenced = accounts.run(user, "fence its jobs", partial(folders.fence, site.transport, user, targets_of))
            if isinstance(fenced, Trouble):
                site.store.note_trouble({record.id: fenced.why for record in owned})
            else:
                kept |= {record.id: owner for record, owner in zip(owned, fenced, strict=True)}
    surplus += [(record, id_) for record, id_ in plan.cancel if kept.get(record.id) not in {None, "", str(id_)}]
    surplus += plan.cancel_again
    if surplus:
        with _noting(problems, "cancel Slurm jobs"):
            from slurm_adapter.handover import confirmed

            surplus = confirmed(site, surplus)  # Slurm was asked before the folders were looked into
            site.scheduler.cancel({id_: record.account for record, id_ in surplus})
            return tuple((record.id, id_) for record, id_ in surplus)
    return ()


def _look(site: Site, records: list[Record], accounts: Accounts, problems: list[str]) -> dict[str, folders.Inside]:
    """What stands in these jobs' folders, one command for each account."""
    found: dict[str, folders.Inside] = {}
    for user, owned in by_account(records):
        with _noting(problems, f"look into job folders as {user}"):
            paths = [record.folder for record in owned]
            inside = accounts.run(user, "look into its job folders", partial(folders.look, site.transport, user, paths))
            if isinstance(inside, Trouble):
                found |= {record.id: folders.Inside(exists=False, trouble=inside.why) for record in owned}
                continue
            found |= {record.id: each for record, each in zip(owned, inside, strict=True) if each is not None}
            for record in (each for each in owned if each.id not in found):
                if accounts.site_is_well:
                    found[record.id] = folders.Inside(exists=False, trouble="the folder that it should be in is gone")
                else:
                    problems.append(
                        f"job {record.id}: neither its folder {record.folder} is there nor that in which it should be; "
                        "is its file system away?"
                    )
    return found


def _strays(
    site: Site, rows: dict[tuple[str, str], tuple[Observation, ...]], active: set[str]
) -> tuple[tuple[Record, int], ...]:
    """Slurm jobs that wait or run for jobs of ours that have ended."""
    prefix = f"{site.store.instance}-"
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
    named = site.store.with_tokens({token for token, _ in alive})
    return tuple(
        (record, id_)
        for record in named
        if record.stage is Stage.ENDED
        for id_ in sorted(alive.get((record.token, record.account), ()))
    )


def _new_nodes(record: Standing | Record, row: Observation) -> tuple[str, ...]:
    """Nodes whose addresses are not remembered for this job."""
    if translate(row).state is JobState.IN_QUEUE or (row.nodes == record.nodes and record.addresses):
        return ()
    return row.nodes


def _renamed(site: Site, records: Iterable[Record], listing: Listing | None) -> frozenset[str]:
    """Jobs whose Slurm id is alive for their account, but under a name that is no token of ours."""
    strange = {
        (row.slurm_id, row.user)
        for row in (listing.observations if listing is not None else ())
        if live_row(row) and not row.name.startswith(f"{site.store.instance}-")
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
def _sparing(site: Site, *, remember: bool) -> Iterator[None]:
    """Leave a controller in peace that gave no good answer three times in a row: 40 seconds, then 80, then 120.

    A busy one gets no better by being asked (`SchedulerParameters` and RPC rate limits in slurm.conf(5)). One that is
    down is asked in every pass, which costs it nothing.
    """
    times, last = json.loads(site.store.fact(_VAIN) or "[0, 0]")
    wait = min(120, 5 * 2 ** min(times, 9)) if times >= _SPARED_FROM else 0
    now = site.clock()
    if last <= now < last + wait:
        raise TryAgain(
            f"its controller was asked {times} times in a row and gave no good answer; it is left in peace for "
            f"{last + wait - now:.0f} more seconds"
        )
    try:
        yield
    except Unknown:
        if remember:
            site.store.set_fact(_VAIN, json.dumps([times + 1, site.clock()]))
        raise
    if times and remember:
        site.store.set_fact(_VAIN, None)


@contextmanager
def _noting(problems: list[str], what: str) -> Iterator[None]:
    """Turn a failure into a problem of the pass, and go on."""
    try:
        yield
    except AdapterError as error:
        problems.append(f"could not {what}: {error}")
