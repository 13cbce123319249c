"""The peers that a job names, and the users who may name them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.core import hosts_file
from slurm_adapter.core.errors import InvalidInput, TryAgain, Unknown
from slurm_adapter.core.records import Peer, Record, Stage
from slurm_adapter.core.specification import JobSpecification, PeerValue
from slurm_adapter.jobs.cluster_facts import system_names
from slurm_adapter.jobs.item import Item, naming

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.specification import Owner


def ask_for_nodes(adapter: Adapter) -> Mapping[str, str]:
    """Return all nodes; this shows, too, that the controller answers."""
    try:
        return adapter.scheduler.nodes()
    except (TryAgain, Unknown) as error:
        raise TryAgain(f"Slurm does not answer, so nothing was submitted: {error}") from error


def find_peers(
    adapter: Adapter,
    owner: Owner,
    items: Sequence[Item],
    nodes: Mapping[str, str],
    system: Sequence[str] | None = None,
) -> list[list[tuple[Peer, Record]]]:
    """Return each job's peers with their records, if this owner may name each under its name."""
    declared = [list(declared_peers(item.specification)) for item in items]
    if not any(declared):
        return [[] for _ in items]
    # A known id of these jobs themselves was another job's, and does not name a peer any more.
    own = {item.id for item in items}
    records = adapter.store.find({value.job_id for each in declared for _, value in each} - own)
    system = system_names(adapter) if system is None else system
    found = []
    for number, each in enumerate(declared):
        with naming(number, items):
            for place, value in each:
                check_peer(records.get(value.job_id), value.job_id, owner, place)
            names = hosts_file.check_hostnames(
                [(value.hostname, records[value.job_id].replicas, f"{place}.hostname") for place, value in each],
                nodes={*nodes, *nodes.values()},
                reserved=(*adapter.config.peers.reserved, *system),
            )
            found.append(
                [
                    (Peer(name, value.job_id), records[value.job_id])
                    for name, (_, value) in zip(names, each, strict=True)
                ]
            )
    return found


def declared_peers(specification: JobSpecification) -> Iterator[tuple[str, PeerValue]]:
    """Yield the peers that a job names, each with its place in the specification."""
    for name, value in specification.parameters.items():
        if isinstance(value, PeerValue):
            yield f"parameters.{name}", value
    for number, value in enumerate(specification.resources):
        if isinstance(value, PeerValue):
            yield f"resources[{number}]", value


def check_peer(record: Record | None, id_: str, owner: Owner, place: str) -> None:
    """Check that a peer is a live job of the owner's workspace. Other workspaces' jobs look like unknown ones."""
    if record is None or not same_workspace(record, owner):
        raise InvalidInput(
            f"{place}.jobId: {id_!r}: there is no such job in this workspace; name one of your running jobs"
        )
    if record.stage is Stage.ENDED:
        raise InvalidInput(
            f"{place}.jobId: {id_!r}: this job has ended ({record.state}); name a job that runs or waits"
        )
    if record.array:
        raise InvalidInput(f"{place}.jobId: {id_!r}: this job is an array: its tasks have no common address")


def same_workspace(record: Record, owner: Owner) -> bool:
    """Return whether a job is in the owner's workspace: a project, or the personal one."""
    if owner.project is not None:
        return record.project == owner.project
    return record.project is None and record.owner == owner.created_by
