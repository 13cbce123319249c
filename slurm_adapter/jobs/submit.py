"""Submission of jobs: a crash or a lost answer cannot double a job.

1. everything that can be refused is refused, before anything is stored;
2. the claim: the job, its key and everything for Slurm are in the database, on disk;
3. the job's folder and its hosts file are made;
4. the claim is taken, on disk: from here on sbatch may have run;
5. sbatch runs, with the Slurm name as name and comment, then its answer is stored.

A claim has a lease: until then the process that made it is expected to take it. If that process was killed, the next
sync after the lease dispatches the claim. It does so at once for a claim that has no lease, such as one that Slurm
refused temporarily. A process renews the lease before it makes the folder, unless another one was faster: sbatch must
not read a file that a second process writes. Exactly one process can take a claim, whatever its lease.

A sync that finds a job at a later stage goes on from there. Between 4 and 5 only `core.plan` decides about a second
sbatch. If a job comes up twice anyway, the fence in its script lets one of them run.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import AdapterError, Duplicate, InvalidInput, TryAgain
from slurm_adapter.core.records import STANDALONE, Record, Stage, has_new_id, same_job
from slurm_adapter.jobs.caller import Caller
from slurm_adapter.jobs.dispatch import dispatch
from slurm_adapter.jobs.item import Item, Names, as_stored, original_of
from slurm_adapter.jobs.prepare import folder_of, prepare, translate_item
from slurm_adapter.local.render_process import ConfinedRenderer
from slurm_adapter.state.claims import LEASE_SECONDS
from slurm_adapter.translation.invocation import is_injected

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.specification import JobSpecification, Owner
    from slurm_adapter.jobs.cluster_facts import ClusterFacts


def render(adapter: Adapter, owner: Owner, specification: JobSpecification) -> str:
    """Return the script that would be submitted, with id 0. It needs no cluster, and changes nothing."""
    names = Names("0", "render-0", folder_of(adapter, adapter.account_of(owner), "0"), "0")
    with ConfinedRenderer(allow_unconfined=adapter.config.jobs.allow_unconfined) as renderer:
        return translate_item(adapter, owner, Item(specification), renderer.render, names, after=()).script


def submit(
    adapter: Adapter,
    owner: Owner,
    items: Sequence[Item],
    say: Callable[[str], None] = lambda _: None,
    caller: Caller | None = None,
    facts: ClusterFacts | None = None,
) -> list[Record]:
    """Submit jobs of one owner; they are claimed all or none. `say` gets notes on how new ones were understood.

    Known `facts` are not asked for again, and do not refuse a job: sbatch decides.

    Raises `InvalidInput` before anything is stored or written, `Duplicate` if the site refuses jobs that run already,
    `TryAgain` if Slurm cannot be reached (nothing is stored), and `Refused` with Slurm's own words if it refuses a job
    that was submitted alone. In a bulk such a job ends as FAILURE with these words, and the others run.
    """
    patient = caller is None
    caller = caller or Caller()
    claimed = _claim(adapter, owner, items, caller, facts)
    noted = [(record.id, note) for record in claimed.fresh for note in claimed.notes[record.id]]
    try:
        if noted:
            adapter.store.note(noted, adapter.clock())
        for id_, note in noted:
            say(f"job {id_}: {note}")
        refusals = dispatch(adapter, claimed.fresh, may_forget=caller.hold)
    except AdapterError:
        if patient:
            raise
        # They are claimed, and the next sync goes on from their stages: a refusal would be wrong.
        return claimed.records
    return _answer(adapter, claimed.records, refusals)


def claim(
    adapter: Adapter,
    owner: Owner,
    items: Sequence[Item],
    facts: ClusterFacts,
    caller: Caller,
) -> tuple[list[Record], list[Record]]:
    """Claim jobs of one owner, all or none. Return the jobs, and the new ones among them, which must be dispatched.

    Known `facts` are not asked for again. Raise as `submit`, and `CannotRun` for jobs that the cluster cannot run.
    """
    claimed = _claim(adapter, owner, items, caller, facts, judged=True)
    if noted := [(record.id, note) for record in claimed.fresh for note in claimed.notes[record.id]]:
        with suppress(AdapterError):  # they are claimed, and a refusal would be wrong
            adapter.store.note(noted, adapter.clock())
    return claimed.records, claimed.fresh


@dataclass(frozen=True, slots=True)
class _Claimed:
    records: list[Record]
    fresh: list[Record]
    """The new ones among them."""
    notes: dict[str, list[str]]


def _claim(
    adapter: Adapter,
    owner: Owner,
    items: Sequence[Item],
    caller: Caller,
    facts: ClusterFacts | None,
    *,
    judged: bool = False,
) -> _Claimed:
    """Do the first two of the steps above."""
    caller.check()
    known, replaced = _find_known(adapter, owner, items)
    again = [same_job(record, as_stored(item)) for record, item in zip(known, items, strict=True) if record]
    if len(again) == len(items):
        return _Claimed(again, [], {})
    if adapter.config.gateway.refuse_duplicates:
        new = [item for item, found in zip(items, known, strict=True) if found is None]
        _refuse_duplicates(adapter, owner, new, replaced)
    claims, shared, notes = prepare(adapter, owner, items, caller, facts, judged=judged)
    lease = adapter.clock() + LEASE_SECONDS
    claims = [(record._replace(lease=lease), bundle) for record, bundle in claims]
    records = adapter.store.claim(claims, shared, caller.must_hold)
    caller.release(records)
    fresh = [
        record for record, (claim, _) in zip(records, claims, strict=True) if record.slurm_name == claim.slurm_name
    ]
    return _Claimed(records, fresh, notes)


def _answer(adapter: Adapter, records: Sequence[Record], refusals: Mapping[str, AdapterError]) -> list[Record]:
    """Return the jobs as they are now. Raise the refusal of those that were removed."""
    now = adapter.store.find([record.id for record in records])
    if len(records) == 1 and refusals:
        # A sync may have dispatched the claim meanwhile: then Slurm has it, and a refusal would be wrong.
        kept = now.get(records[0].id)
        if kept is None or kept.stage is Stage.ENDED:
            raise next(iter(refusals.values()))
    if any(record.id not in now for record in records):
        if refusals:
            error = min(refusals.values(), key=lambda each: not isinstance(each, TryAgain))
            raise type(error)(f"{error} (nothing of all this was submitted)")
        raise TryAgain("another call with the same key, under way at the same time, was refused; nothing was submitted")
    return [now[record.id] for record in records]


def _find_known(adapter: Adapter, owner: Owner, items: Sequence[Item]) -> tuple[list[Record | None], frozenset[str]]:
    """Return the known job of each item, and the Slurm names of jobs with ids that UCloud has given to new ones.

    UCloud's ids are unique, whatever the owner of the job.
    """
    created_at = {item.id: item.created_at for item in items}
    by_id = adapter.store.find(item.id for item in items if item.id is not None)
    replaced = {id_: record for id_, record in by_id.items() if has_new_id(record, created_at[id_])}
    by_id = {id_: record for id_, record in by_id.items() if id_ not in replaced}
    for record in by_id.values():
        if record.origin == STANDALONE:  # for example if a site had jobs of its own before it had a UCloud
            raise InvalidInput(f"id: {record.id}: a job that did not come from UCloud has this id already")
        if (record.owner, record.project) != (owner.created_by, owner.project):
            raise InvalidInput(f"id: {record.id}: this job is known here, and belongs to another user")
    keys = [item.key for item in items if item.key is not None]
    by_key = adapter.store.find_keys(STANDALONE, owner.created_by, owner.project, keys)
    known = [
        by_id.get(item.id) if item.id is not None else None if item.key is None else by_key.get(item.key)
        for item in items
    ]
    return known, frozenset(record.slurm_name for record in replaced.values())


def _refuse_duplicates(adapter: Adapter, owner: Owner, items: Sequence[Item], replaced: Collection[str]) -> None:
    """Refuse jobs that run already, as UCloud once did. Raises `Duplicate`.

    `replaced`: Slurm names of jobs that will end, because these get their ids.
    """
    wanted = {_alike(item.specification) for item in items if not item.specification.allow_duplicate_job}
    if not wanted:
        return
    for record in adapter.store.active():
        if (record.owner, record.project) != (owner.created_by, owner.project) or record.slurm_name in replaced:
            continue
        if _alike(original_of(record)) in wanted:
            raise Duplicate(
                f"Duplicate job is already running: job {record.id} has the same specification; "
                "allowDuplicateJob: true submits it all the same"
            )


def _alike(specification: JobSpecification) -> str:
    """Return what makes two jobs the same to a user: all but the permission, and what UCloud adds by itself."""
    parameters = {name: value for name, value in specification.parameters.items() if not is_injected(name)}
    return specification.model_copy(update={"allow_duplicate_job": False, "parameters": parameters}).model_dump_json(
        by_alias=False
    )
