"""Attach and detach peers of a job that waits in Slurm or runs (UCloud's attachResource and detachResource).

The job must have been started with a hosts file of its own (`Record.has_hosts_file`): others have none on their nodes
that could be changed. A job does not wait for a peer that is attached; its name resolves when both run. The original
specification is kept, so that the same submission is recognised when it comes again.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

from slurm_adapter.cluster import job_folders
from slurm_adapter.core import hosts_file
from slurm_adapter.core.errors import AdapterError, InvalidInput, NotOffered, Refused, TryAgain
from slurm_adapter.core.records import Amendment, Peer, Stage
from slurm_adapter.core.specification import Owner, PeerValue
from slurm_adapter.jobs import item
from slurm_adapter.jobs.cluster_facts import system_names
from slurm_adapter.jobs.peers import ask_for_nodes, check_peer, declared_peers
from slurm_adapter.jobs.publish_hosts import publish_hosts
from slurm_adapter.translation.script import peer_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.records import Record, RecordChange
    from slurm_adapter.core.specification import AppParameterValue


def attach(adapter: Adapter, id_: str, value: AppParameterValue) -> Record:
    """Give a job one more peer, under the rules of a submission. A peer that it has under this name is ignored.

    Raises `NotFound` for an unknown job, `NotOffered` for other resources or a job without a hosts file, `InvalidInput`
    for a peer or a name that it may not have, and `Refused` for a job that has ended or that Slurm does not have yet.
    """
    record, peer = _check(adapter, id_, value, "attached")
    if peer in record.peers:
        return record
    if peer.job_id == record.id:
        raise InvalidInput(
            f"resource.jobId: {peer.job_id!r}: a job is no peer of itself; its own names are job-ID-RANK"
        )
    nodes = ask_for_nodes(adapter)
    known = adapter.store.find([peer.job_id, *(each.job_id for each in record.peers)])
    owner = Owner(created_by=record.owner, project=record.project)
    check_peer(known.get(peer.job_id), peer.job_id, owner, "resource")
    has = [(each.hostname, each.job_id, f"the peer {each.hostname}") for each in record.peers]
    names = [*has, (peer.hostname, peer.job_id, "resource.hostname")]
    hosts_file.check_hostnames(
        [(name, known[job_id].replicas if job_id in known else 1, place) for name, job_id, place in names],
        nodes={*nodes, *nodes.values()},
        reserved=(*adapter.config.peers.reserved, *system_names(adapter)),
    )
    text = f"Your job reaches job {peer.job_id} as {peer.hostname}, while both run"
    if left_out := hosts_file.left_out(peer.hostname, known[peer.job_id].replicas, record.id):
        text += f"; names that are too long and left out: {', '.join(left_out)}"

    def amend(now: Record) -> Amendment | None:
        if peer in now.peers:
            return None
        _check_unchanged(record, now)
        resources = [*item.specification_of(now).resources, PeerValue.model_validate(_as_sent(peer))]
        return _amendment(now, resources, (*now.peers, peer), text)

    return _publish(adapter, adapter.store.amend(id_, amend, adapter.clock()))


def detach(adapter: Adapter, id_: str, value: AppParameterValue) -> Record:
    """Take a peer away from a job, and its names with it. The job waits for it no longer, if it did.

    Raises `NotFound`, `NotOffered` and `Refused` as `attach` does, `InvalidInput` for a peer that the job does not
    have, and `Refused` for one that is a parameter of its application.
    """
    record, peer = _check(adapter, id_, value, "detached")
    if peer not in record.peers:
        named = ", ".join(f"{each.hostname} (job {each.job_id})" for each in record.peers) or "none"
        raise InvalidInput(
            f"resource: job {id_} has no peer {peer.hostname} (job {peer.job_id}); its peers are: {named}"
        )
    for place, given in declared_peers(item.specification_of(record)):
        if place.startswith("parameters.") and given.hostname.lower() == peer.hostname:
            raise Refused(
                f"resource: the peer {peer.hostname} of job {id_} is the value of its {place}, and stays until it ends"
            )
    left = tuple(each for each in record.peers if each != peer)
    first = [given.hostname.lower() for _, given in declared_peers(item.original_of(record))]
    if peer.hostname in first:
        # Its nodes would wait for it, after a requeue too.
        waiting = [each for each in left if each.hostname in first]
        known = adapter.store.find(each.job_id for each in waiting)
        waited = "".join(
            peer_line(each.job_id, each.hostname, known[each.job_id].slurm_name if each.job_id in known else "")
            for each in waiting
        )
        if not job_folders.write_views(adapter.transport, record.account, {record.folder: waited}, "node/peers"):
            raise TryAgain(f"job {id_} keeps its peer {peer.hostname}: its folder {record.folder} cannot be written")

    def amend(now: Record) -> Amendment | None:
        _check_unchanged(record, now)
        resources = [each for each in item.specification_of(now).resources if not _is(each, peer)]
        return _amendment(now, resources, left, f"Your job has no peer {peer.hostname} any more")

    return _publish(adapter, adapter.store.amend(id_, amend, adapter.clock()))


def _check(adapter: Adapter, id_: str, value: AppParameterValue, what: str) -> tuple[Record, Peer]:
    """Return the job and the peer, if the job can be changed."""
    record = adapter.store.get(id_)
    if not isinstance(value, PeerValue):
        raise NotOffered(f"resource.type: {value.type!r}: only peers can be {what} here after a job was submitted")
    if record.stage is Stage.ENDED:
        raise Refused(f"no peer can be {what}: job {id_} has ended ({record.state})")
    if not record.has_hosts_file:
        raise NotOffered(
            f"no peer can be {what}: job {id_} was started without peers, so its processes see no names of its own; "
            "name a peer when you submit it"
        )
    if record.stage is not Stage.SUBMITTED:
        raise Refused(f"no peer can be {what}: Slurm does not have job {id_} yet; try again once it waits there")
    return record, Peer(value.hostname.lower(), value.job_id)


def _check_unchanged(before: Record, now: Record) -> None:
    if (now.slurm_name, now.peers, now.stage) != (before.slurm_name, before.peers, before.stage):
        raise TryAgain(f"job {now.id} was changed at the same time; its peers were not changed")


def _amendment(record: Record, resources: Sequence[AppParameterValue], peers: tuple[Peer, ...], text: str) -> Amendment:
    specification = item.specification_of(record).model_copy(update={"resources": tuple(resources)})
    change: RecordChange = {
        "specification": specification.model_dump_json(by_alias=False),
        "original": record.original or record.specification,
    }
    sent = json.loads(specification.model_dump_json(by_alias=True, include={"resources"}))
    return Amendment(change, text, {"resourceList": sent["resources"]}, peers)


def _as_sent(peer: Peer) -> dict[str, str]:
    return {"type": "peer", "hostname": peer.hostname, "jobId": peer.job_id}


def _is(value: AppParameterValue, peer: Peer) -> bool:
    return isinstance(value, PeerValue) and Peer(value.hostname.lower(), value.job_id) == peer


def _publish(adapter: Adapter, record: Record) -> Record:
    """Write the hosts files at once. If that fails, the next sync does it."""
    with suppress(AdapterError):
        publish_hosts(adapter)
    return record
