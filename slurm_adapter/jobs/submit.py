"""What is done with jobs: handed in, handed over to Slurm, cancelled. Every shell ends here.

A submission that a crash or a lost answer cannot double:

1. everything that can be refused is refused, before anything is remembered;
2. the claim: the job, its key and all that Slurm is to be given are in the database, on disk;
3. the job's folder and its hosts file are made;
4. the claim is taken, on disk: from here on sbatch may have run;
5. sbatch, with the job's token for name and comment, then its answer is recorded.

Whoever finds a claim that was left behind goes on from the stage where it stands. Between 4 and 5 only
`core.plan` decides whether there is a second sbatch; and if a job comes up twice after all, the fence in its
script lets one of them run.
"""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from slurm_adapter.cluster import job_folders
from slurm_adapter.core import hosts_file
from slurm_adapter.core.directives import count_tasks
from slurm_adapter.core.errors import AdapterError, Duplicate, InvalidInput, TryAgain
from slurm_adapter.core.records import STANDALONE, Peer, Record, Stage, has_new_id, same_job
from slurm_adapter.jobs.cluster_facts import ClusterFacts, check
from slurm_adapter.jobs.dispatch import hand_over
from slurm_adapter.jobs.item import Item, Names, _as_stored, naming, original_of
from slurm_adapter.jobs.peers import _find_peers, ask_for_nodes
from slurm_adapter.local.render_process import ConfinedRenderer
from slurm_adapter.local.template_folder import open_templates
from slurm_adapter.state import pending_files
from slurm_adapter.state.unique_names import unique_part
from slurm_adapter.translation.drives import as_found, may_use, to_ask_ucloud_for, ucloud_path
from slurm_adapter.translation.invocation import default_files, is_injected
from slurm_adapter.translation.translate import JobContext, translate

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.config import Drive
    from slurm_adapter.core.specification import JobSpecification, Owner
    from slurm_adapter.translation.application import Application
    from slurm_adapter.translation.drives import DrivePath
    from slurm_adapter.translation.rendering import Rendered, Task
    from slurm_adapter.translation.translate import Translation


class Caller:
    """Who waits for `submit`, and may leave before it is done. What he was told when he left stays true.

    Left before his jobs were claimed, he was told that nothing was done: none is claimed then. Left later, he was told
    that they are taken: none of them is forgotten any more.
    """

    def __init__(self) -> None:
        self.records: list[Record] | None = None
        """His jobs, once they are claimed."""
        self._lock = threading.Lock()
        self._held = False
        self._left = False

    @property
    def left(self) -> bool:
        """Whether he has left."""
        return self._left

    def hold(self) -> bool:
        """Keep him from leaving, for a moment; false where he has left."""
        with self._lock:
            self._held = not self._left
            return self._held

    def release(self, records: list[Record]) -> None:
        """He may leave, with these jobs claimed."""
        with self._lock:
            self._held = False
            self.records = records

    def leave(self) -> bool:
        """Wait no longer; false where the answer is being decided, and has to be waited for."""
        with self._lock:
            self._left = not self._held
            return self._left


def render(adapter: Adapter, owner: Owner, specification: JobSpecification) -> str:
    """The script that would be submitted, with id 0. Needs no cluster, and touches nothing."""
    names = Names("0", "render-0", _folder(adapter, adapter.account_of(owner), "0"), "0")
    with ConfinedRenderer(allow_unconfined=adapter.config.jobs.allow_unconfined) as renderer:
        return _translate(adapter, owner, Item(specification), renderer.render, names, after=()).script


def submit(
    adapter: Adapter,
    owner: Owner,
    items: Sequence[Item],
    say: Callable[[str], None] = lambda _: None,
    caller: Caller | None = None,
    facts: ClusterFacts | None = None,
) -> list[Record]:
    """Hand in jobs of one owner; they are claimed all or none. `say` is told how new ones were understood.

    Whatever `facts` tell is not asked again, and no job is refused by them: sbatch is asked.

    Raises `InvalidInput` before anything is remembered or written, `Duplicate` where the site refuses what runs
    already, `TryAgain` where Slurm is out of reach (nothing is remembered), and `Refused` with Slurm's own words where
    it does not take a job that was handed in alone. In a bulk such a job ends as FAILURE with these words, and the
    others run.
    """
    patient = caller is None
    caller = caller or Caller()
    with ExitStack() as until_taken:
        claimed = _claim(
            adapter, owner, items, caller, facts, lambda: until_taken.enter_context(adapter.submitting_lock())
        )
        noted = [(record.id, note) for record in claimed.fresh for note in claimed.notes[record.id]]
        try:
            if noted:
                adapter.store.note(noted, adapter.clock())
            for id_, note in noted:
                say(f"job {id_}: {note}")
            refusals = hand_over(adapter, claimed.fresh, forgets=caller.hold, taken=until_taken.close)
        except AdapterError:
            if patient:
                raise
            # They are claimed, and the next pass goes on from where each stands: no refusal is true.
            return claimed.records
    return _as_told(adapter, claimed.records, refusals)


def claim(
    adapter: Adapter,
    owner: Owner,
    items: Sequence[Item],
    facts: ClusterFacts,
    caller: Caller,
    hold: Callable[[], object],
) -> tuple[list[Record], list[Record]]:
    """Claim jobs of one owner, all or none: the jobs, and which of them are new and are to be handed over.

    Whatever `facts` tell is not asked again. Raise as `submit`, and `CannotRun` for jobs that the cluster cannot run.
    `hold` is called right before jobs are claimed: it sees to it that passes leave new claims to the caller.
    """
    claimed = _claim(adapter, owner, items, caller, facts, hold, judged=True)
    if noted := [(record.id, note) for record in claimed.fresh for note in claimed.notes[record.id]]:
        with suppress(AdapterError):  # they are claimed, and no refusal is true
            adapter.store.note(noted, adapter.clock())
    return claimed.records, claimed.fresh


@dataclass(frozen=True, slots=True)
class _Claimed:
    records: list[Record]
    fresh: list[Record]
    """Those of them that were not known before."""
    notes: dict[str, list[str]]


def _claim(
    adapter: Adapter,
    owner: Owner,
    items: Sequence[Item],
    caller: Caller,
    facts: ClusterFacts | None,
    hold: Callable[[], object],
    *,
    judged: bool = False,
) -> _Claimed:
    """The first two of the steps above."""
    _go_on(caller)
    known, replaced = _find_known(adapter, owner, items)
    again = [same_job(record, _as_stored(item)) for record, item in zip(known, items, strict=True) if record]
    if len(again) == len(items):
        return _Claimed(again, [], {})
    if adapter.config.gateway.refuse_duplicates:
        new = [item for item, found in zip(items, known, strict=True) if found is None]
        _refuse_duplicates(adapter, owner, new, replaced)
    claims, shared, notes = _prepare(adapter, owner, items, caller, facts, judged=judged)
    hold()

    def still_wanted() -> None:
        if not caller.hold():
            raise TryAgain(_HAS_LEFT)

    records = adapter.store.claim(claims, shared, still_wanted)
    caller.release(records)
    fresh = [
        record for record, (claim, _) in zip(records, claims, strict=True) if record.slurm_name == claim.slurm_name
    ]
    return _Claimed(records, fresh, notes)


_HAS_LEFT = "nothing was submitted: whoever asked for it has left before it could be"


def _prepare(
    adapter: Adapter, owner: Owner, items: Sequence[Item], caller: Caller, facts: ClusterFacts | None, *, judged: bool
) -> tuple[list[tuple[Record, bytes]], dict[str, bytes], dict[str, list[str]]]:
    """Everything that can be refused is refused here: the claims with their bundles, what these share, and notes."""
    account = adapter.usable_account_of(owner)
    nodes = ask_for_nodes(adapter) if facts is None else facts.nodes
    _go_on(caller)
    drives = _ask_for_drives(adapter, owner, items, caller)
    peers = _find_peers(adapter, owner, items, nodes, None if facts is None else facts.system_names)
    own = iter(_reserve_ids(adapter, account, sum(item.id is None for item in items)))
    named = [_name(adapter, item, account, next(own) if item.id is None else item.id) for item in items]
    claims: list[tuple[Record, bytes]] = []
    shared: dict[str, bytes] = {}
    notes: dict[str, list[str]] = {}
    paths: list[DrivePath] = []
    with ConfinedRenderer(allow_unconfined=adapter.config.jobs.allow_unconfined) as renderer:
        for number, (item, names, found) in enumerate(zip(items, named, peers, strict=True)):
            _go_on(caller)
            after = [record.slurm_id for _, record in found if record.slurm_id is not None]
            with naming(number, items):
                slurm_names = {record.id: record.slurm_name for _, record in found}
                translation = _translate(
                    adapter, owner, item, renderer.render, names, after=after, slurm_names=slurm_names, drives=drives
                )
                if judged and facts is not None:
                    check(translation.directives, translation.seconds, account, facts)
            paths += translation.paths
            record = _new_record(adapter, owner, item, names, account, translation, tuple(peer for peer, _ in found))
            claims.append((record, pending_files.pack(translation)))
            shared |= pending_files.shared(translation)
            notes[record.id] = [*translation.notes, *_left_out_notes(record, [known.replicas for _, known in found])]
    adapter.path_checks.check(adapter.transport, paths, account)
    return claims, shared, notes


def _reserve_ids(adapter: Adapter, account: str, count: int) -> list[str]:
    """Reserve ids of jobs of this site's own whose folders are free.

    A database that was lost, or restored from a backup, has forgotten ids. Their jobs' folders are there still.
    """
    found: list[str] = []
    first = adapter.config.first_id
    while len(found) < count:
        ids = adapter.store.reserve_ids(count - len(found), first)
        free = job_folders.find_free(
            adapter.transport, account, _folder(adapter, account, "{id}"), int(ids[0]), len(ids)
        )
        found += [id_ for id_ in ids if int(id_) in free]
        first = next((number for number in free if number > int(ids[-1])), first)
    return found


def _name(adapter: Adapter, item: Item, account: str, id_: str) -> Names:
    """Name a new job and its things so that no other job's are taken for them, though its id may come round again.

    The user of a stand-alone job finds its folder by its id alone: `_reserve_ids` has seen that there is none yet.
    """
    unique = f"{id_}-{unique_part()}"
    return Names(
        id=id_,
        token=f"{adapter.store.instance}-{_origin(adapter, item)}-{unique}",
        folder=_folder(adapter, account, id_ if item.id is None else unique),
        peers_file=unique,
    )


def _folder(adapter: Adapter, account: str, name: str) -> str:
    return adapter.config.jobs.folder.replace("{user}", account).replace("{id}", name)


def _as_told(adapter: Adapter, records: Sequence[Record], refusals: Mapping[str, AdapterError]) -> list[Record]:
    """The jobs as they are now. Raises the refusal of those that are no more."""
    now = adapter.store.find([record.id for record in records])
    if len(records) == 1 and refusals:
        # A pass may have taken the claim up meanwhile: then it is Slurm's, and no refusal of it is true.
        kept = now.get(records[0].id)
        if kept is None or kept.stage is Stage.ENDED:
            raise next(iter(refusals.values()))
    if any(record.id not in now for record in records):
        if refusals:
            error = min(refusals.values(), key=lambda each: not isinstance(each, TryAgain))
            raise type(error)(f"{error} (nothing of all this was submitted)")
        raise TryAgain("another call with the same key, under way at the same time, was refused; nothing was submitted")
    return [now[record.id] for record in records]


def _go_on(caller: Caller) -> None:
    """Do no more for somebody who has left: others wait for the same threads and the same Slurm."""
    if caller.left:
        raise TryAgain(_HAS_LEFT)


def _find_known(adapter: Adapter, owner: Owner, items: Sequence[Item]) -> tuple[list[Record | None], frozenset[str]]:
    """The job that each item is known as already; and the tokens of jobs whose ids UCloud has given to these.

    UCloud's ids are UCloud's alone, whoever owns the job.
    """
    created_at = {item.id: item.created_at for item in items}
    by_id = adapter.store.find(item.id for item in items if item.id is not None)
    replaced = {id_: record for id_, record in by_id.items() if has_new_id(record, created_at[id_])}
    by_id = {id_: record for id_, record in by_id.items() if id_ not in replaced}
    for record in by_id.values():
        if record.origin == STANDALONE:  # as where a site had jobs of its own before it had a UCloud
            raise InvalidInput(f"id: {record.id}: a job of this site's own, which is not UCloud's, has this id already")
        if (record.owner, record.project) != (owner.created_by, owner.project):
            raise InvalidInput(f"id: {record.id}: this job is known here, and belongs to somebody else")
    keys = [item.key for item in items if item.key is not None]
    by_key = adapter.store.find_keys(STANDALONE, owner.created_by, owner.project, keys)
    known = [
        by_id.get(item.id) if item.id is not None else None if item.key is None else by_key.get(item.key)
        for item in items
    ]
    return known, frozenset(record.slurm_name for record in replaced.values())


def _refuse_duplicates(adapter: Adapter, owner: Owner, items: Sequence[Item], replaced: Collection[str]) -> None:
    """Refuse what runs already, as UCloud once did (contract 1.7). Raises `Duplicate`.

    `replaced`: tokens of jobs that will end, since these get their ids.
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
    """What makes two jobs the same to a user: all but his permission, and what UCloud adds by itself."""
    parameters = {name: value for name, value in specification.parameters.items() if not is_injected(name)}
    return specification.model_copy(update={"allow_duplicate_job": False, "parameters": parameters}).model_dump_json(
        by_alias=False
    )


def _origin(adapter: Adapter, item: Item) -> str:
    return STANDALONE if item.id is None else adapter.config.provider


def _translate(
    adapter: Adapter,
    owner: Owner,
    item: Item,
    render_confined: Callable[[Task], Rendered],
    names: Names,
    *,
    after: Sequence[int],
    slurm_names: Mapping[str, str] = MappingProxyType({}),
    drives: Sequence[Drive] = (),
) -> Translation:
    context = JobContext(
        config=adapter.config,
        owner=owner,
        job_id=names.id,
        slurm_name=names.token,
        folder=names.folder,
        peers_file=names.peers_file,
        account=adapter.account_of(owner),
        product=item.product,
        drives=drives,
        after=after,
        slurm_names=slurm_names,
    )
    return translate(
        item.specification,
        _application(adapter, item),
        context,
        render_confined=render_confined,
        templates=open_templates(adapter.config.templates),
    )


def _application(adapter: Adapter, item: Item) -> Application:
    wanted = item.specification.application
    return item.application or adapter.catalogue.find(wanted.name, wanted.version)


def _ask_for_drives(adapter: Adapter, owner: Owner, items: Sequence[Item], caller: Caller) -> list[Drive]:
    """The drives that jobs from UCloud, or their applications, name, that only UCloud knows, and of this workspace.

    Raises `TryAgain` where it cannot tell, and `InvalidInput` where such a drive has no folder here.
    """
    if adapter.ucloud_drives is None:
        return []
    account = adapter.account_of(owner)
    found: dict[str, Drive | None] = {}
    for number, item in enumerate(items):
        if item.id is None:
            continue
        with naming(number, items):
            defaults = default_files(item.specification.parameters, _application(adapter, item))
            for id_, place in to_ask_ucloud_for(item.specification, defaults, adapter.config, owner, account):
                if id_ not in found:
                    _go_on(caller)
                    told = adapter.ucloud_drives.find(id_)
                    found[id_] = None if told is None else as_found(told, owner, adapter.config.provider, place)
    return [drive for drive in found.values() if drive is not None]


def _new_record(
    adapter: Adapter,
    owner: Owner,
    item: Item,
    names: Names,
    account: str,
    translation: Translation,
    peers: tuple[Peer, ...],
) -> Record:
    specification = item.specification
    return Record(
        id=names.id,
        origin=_origin(adapter, item),
        key=item.key if item.id is None else item.id,
        slurm_name=names.token,
        owner=owner.created_by,
        project=owner.project,
        account=account,
        folder=names.folder,
        peers_file=names.peers_file,
        created_at=item.created_at,
        application=f"{specification.application.name} {specification.application.version}",
        specification=_as_stored(item),
        labels=json.dumps(translation.labels, sort_keys=True),
        replicas=translation.replicas,
        time_limit=translation.seconds,
        tasks=count_tasks(translation.directives),
        array=any(directive.name == "array" for directive in translation.directives),
        created=adapter.clock(),
        has_hosts_file=translation.names,
        output_folder=_output_folder(adapter, owner, names.folder, translation),
        web_port=translation.web_port,
        vnc_port=translation.vnc_port,
        vnc_password=translation.vnc_password,
        interfaces=translation.interfaces,
        peers=peers,
    )


def _output_folder(adapter: Adapter, owner: Owner, folder: str, translation: Translation) -> str | None:
    """The job's folder as UCloud names it: in a drive of the table that is open to its owner, or one that it names.

    Of others it is not known that UCloud has them: neither a pattern nor a folder tells their ids.
    """
    open_to = [drive for drive in adapter.config.drives if may_use(drive, owner.created_by, owner.project)]
    return ucloud_path(folder, [*open_to, *(path.drive for path in translation.paths)])


def _left_out_notes(record: Record, replicas: Sequence[int]) -> Iterator[str]:
    """What to say of names that are too long for a hosts file, and so are left out."""
    for peer, count in zip(record.peers, replicas, strict=True):
        if names := hosts_file.left_out(peer.hostname, count, record.id):
            yield f"names of peer {peer.job_id} that are too long and left out: {', '.join(names)}"
