"""Publish hosts files: from the database to the shared file system."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import TYPE_CHECKING

from slurm_adapter.cluster import job_folders, peer_files
from slurm_adapter.core import hosts_file
from slurm_adapter.core.errors import AdapterError
from slurm_adapter.core.hosts_file import make_groups
from slurm_adapter.core.records import Record, RecordChange, Stage, by_account
from slurm_adapter.jobs.accounts import Accounts, Trouble

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from slurm_adapter.adapter import Adapter

HOSTS_SEEN = "hosts seen"
"""The fact with the time when the hosts files were last read, and were correct."""


def publish_hosts(adapter: Adapter) -> frozenset[str]:
    """Update the hosts files on the shared file system from the database. Return the accounts that this failed for.

    One process at a time: two that read and write at the same time could leave the older contents.
    """
    with adapter.hosts_lock():
        version = adapter.store.hosts_version()
        active = adapter.store.in_hosts(every=adapter.config.peers.always)
        named = {peer.job_id for record in active for peer in record.peers}
        known = {**adapter.store.find(named), **{record.id: record for record in active}}
        failed = _write_hosts(
            adapter, [record for record in known.values() if record.stage is not Stage.ENDED], make_groups(known)
        )
        if not failed:
            adapter.store.note_hosts_written(version)
        adapter.store.set_fact(HOSTS_SEEN, str(adapter.clock()))
        return failed


def _write_hosts(adapter: Adapter, live: Iterable[Record], groups: Sequence[hosts_file.Group]) -> frozenset[str]:
    """Write these mappings, and nothing of jobs that are not `live`, into the hosts files; write only changes."""
    always = adapter.config.peers.always
    # After its last peer was detached, a job's view is empty, not removed: nodes keep what they read last.
    consumers = {record.id: record for record in live if record.peers or record.original is not None or always}
    named: dict[str, list[hosts_file.Group]] = defaultdict(list)
    for group in groups:
        named[group.consumer].append(group)
    views = {id_: hosts_file.view(named[id_]) for id_ in consumers}
    if adapter.config.peers.private:
        return _write_private(adapter, {id_: (consumers[id_], text) for id_, text in views.items()})
    seen = peer_files.read(adapter.transport, adapter.peers_folder)
    files = {consumers[id_].peers_file: text for id_, text in views.items()}
    change = peer_files.plan_change(seen, files, hosts_file.shared_block(groups))
    peer_files.write(adapter.transport, adapter.peers_folder, seen, change)
    return frozenset()


def _write_private(adapter: Adapter, views: Mapping[str, tuple[Record, str]]) -> frozenset[str]:
    """Write changed views into their jobs' folders, as each job's account. Return the accounts that this failed for."""
    failed: set[str] = set()
    digests = {id_: hashlib.sha256(text.encode()).hexdigest() for id_, (_, text) in views.items()}
    changed = [record for id_, (record, _) in views.items() if record.hosts_digest != digests[id_]]

    def act(user: str, owned: Sequence[Record], seconds: float) -> set[str]:
        texts = {record.folder: views[record.id][1] for record in owned}
        return job_folders.write_views(adapter.transport, user, texts, seconds=seconds)

    for user, owned, written in Accounts(adapter).each(dict(by_account(changed)), "write its hosts views", act):
        if isinstance(written, AdapterError):
            raise written
        if isinstance(written, Trouble):
            failed.add(user)
            adapter.store.note_trouble({record.slurm_name: written.why for record in owned})
            continue
        done: list[tuple[Record, RecordChange]] = [
            (record, {"hosts_digest": digests[record.id]}) for record in owned if record.folder in written
        ]
        adapter.store.change(done, adapter.clock())
    return frozenset(failed)
