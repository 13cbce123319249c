"""Preparation of a submission: everything that can be refused is refused here, before anything is stored."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import TYPE_CHECKING

from slurm_adapter.cluster import job_folders
from slurm_adapter.core import hosts_file
from slurm_adapter.core.directives import count_tasks
from slurm_adapter.core.records import STANDALONE, Peer, Record
from slurm_adapter.jobs.cluster_facts import ClusterFacts, check
from slurm_adapter.jobs.item import Item, Names, as_stored, naming
from slurm_adapter.jobs.peers import ask_for_nodes, find_peers
from slurm_adapter.local.render_process import ConfinedRenderer
from slurm_adapter.local.template_folder import open_templates
from slurm_adapter.state import pending_files
from slurm_adapter.state.unique_names import unique_part
from slurm_adapter.translation.drives import as_found, may_use, to_ask_ucloud_for, ucloud_path
from slurm_adapter.translation.invocation import default_files
from slurm_adapter.translation.translate import JobContext, translate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.config_tables import Drive
    from slurm_adapter.core.specification import Owner
    from slurm_adapter.jobs.caller import Caller
    from slurm_adapter.translation.application import Application
    from slurm_adapter.translation.drives import DrivePath
    from slurm_adapter.translation.rendering import Rendered, Task
    from slurm_adapter.translation.translate import Translation


def prepare(
    adapter: Adapter, owner: Owner, items: Sequence[Item], caller: Caller, facts: ClusterFacts | None, *, judged: bool
) -> tuple[list[tuple[Record, bytes]], dict[str, bytes], dict[str, list[str]]]:
    """Check everything that can be refused. Return claims with their bundles, the shared files, and notes."""
    account = adapter.usable_account_of(owner)
    nodes = ask_for_nodes(adapter) if facts is None else facts.nodes
    caller.check()
    drives = _ask_for_drives(adapter, owner, items, caller)
    peers = find_peers(adapter, owner, items, nodes, None if facts is None else facts.system_names)
    own = iter(_reserve_ids(adapter, account, sum(item.id is None for item in items)))
    named = [_name(adapter, item, account, next(own) if item.id is None else item.id) for item in items]
    claims: list[tuple[Record, bytes]] = []
    shared: dict[str, bytes] = {}
    notes: dict[str, list[str]] = {}
    paths: list[DrivePath] = []
    with ConfinedRenderer(allow_unconfined=adapter.config.jobs.allow_unconfined) as renderer:
        for number, (item, names, found) in enumerate(zip(items, named, peers, strict=True)):
            caller.check()
            after = [record.slurm_id for _, record in found if record.slurm_id is not None]
            with naming(number, items):
                slurm_names = {record.id: record.slurm_name for _, record in found}
                translation = translate_item(
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
    """Reserve ids with free folders, for jobs that do not come from UCloud.

    A database that was lost, or restored from a backup, has forgotten ids. Their jobs' folders still exist.
    """
    found: list[str] = []
    first = adapter.config.first_id
    while len(found) < count:
        ids = adapter.store.reserve_ids(count - len(found), first)
        free = job_folders.find_free(
            adapter.transport, account, folder_of(adapter, account, "{id}"), int(ids[0]), len(ids)
        )
        found += [id_ for id_ in ids if int(id_) in free]
        first = next((number for number in free if number > int(ids[-1])), first)
    return found


def _name(adapter: Adapter, item: Item, account: str, id_: str) -> Names:
    """Name a new job, its folder and files so that another job with the same id later has other names.

    The user of a stand-alone job finds its folder by its id alone: `_reserve_ids` has checked that there is none yet.
    """
    unique = f"{id_}-{unique_part()}"
    return Names(
        id=id_,
        slurm_name=f"{adapter.store.instance}-{_origin(adapter, item)}-{unique}",
        folder=folder_of(adapter, account, id_ if item.id is None else unique),
        peers_file=unique,
    )


def folder_of(adapter: Adapter, account: str, name: str) -> str:
    """Return the folder of a job, given by the last part of its name."""
    return adapter.config.jobs.folder.replace("{user}", account).replace("{id}", name)


def _origin(adapter: Adapter, item: Item) -> str:
    return STANDALONE if item.id is None else adapter.config.provider


def translate_item(
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
    """Translate one job of a request."""
    context = JobContext(
        config=adapter.config,
        owner=owner,
        job_id=names.id,
        slurm_name=names.slurm_name,
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
    """Ask UCloud for the drives of this workspace that jobs, or their applications, name and only UCloud knows.

    Raises `TryAgain` if UCloud does not answer, and `InvalidInput` if such a drive has no folder here.
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
                    caller.check()
                    drive = adapter.ucloud_drives.find(id_)
                    found[id_] = None if drive is None else as_found(drive, owner, adapter.config.provider, place)
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
        slurm_name=names.slurm_name,
        owner=owner.created_by,
        project=owner.project,
        account=account,
        folder=names.folder,
        peers_file=names.peers_file,
        created_at=item.created_at,
        application=f"{specification.application.name} {specification.application.version}",
        specification=as_stored(item),
        labels=json.dumps(translation.labels, sort_keys=True),
        replicas=translation.replicas,
        time_limit=translation.seconds,
        tasks=count_tasks(translation.directives),
        array=any(directive.name == "array" for directive in translation.directives),
        created=adapter.clock(),
        cluster=adapter.config.cluster_name,
        has_hosts_file=translation.names,
        output_folder=_output_folder(adapter, owner, names.folder, translation),
        web_port=translation.web_port,
        vnc_port=translation.vnc_port,
        vnc_password=translation.vnc_password,
        interfaces=translation.interfaces,
        peers=peers,
    )


def _output_folder(adapter: Adapter, owner: Owner, folder: str, translation: Translation) -> str | None:
    """Return UCloud's path of the job's folder, in a listed drive that its owner may use, or in one that it names.

    It is not known whether UCloud has other drives: neither a pattern nor a folder contains their ids.
    """
    open_to = [drive for drive in adapter.config.drives if may_use(drive, owner.created_by, owner.project)]
    return ucloud_path(folder, [*open_to, *(path.drive for path in translation.paths)])


def _left_out_notes(record: Record, replicas: Sequence[int]) -> Iterator[str]:
    """Yield notes on names that are too long for a hosts file, and so are left out."""
    for peer, count in zip(record.peers, replicas, strict=True):
        if names := hosts_file.left_out(peer.hostname, count, record.id):
            yield f"names of peer {peer.job_id} that are too long and left out: {', '.join(names)}"
