"""Show jobs as a table, a page or JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from slurm_adapter.cli.formatting import ago, moment, safe, state, table
from slurm_adapter.cluster import peer_files
from slurm_adapter.core import hosts_file
from slurm_adapter.core.durations import duration
from slurm_adapter.core.errors import NotFound
from slurm_adapter.core.hosts_file import make_groups
from slurm_adapter.core.records import Stage
from slurm_adapter.core.specification import JobSpecification

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.core.records import Record, Update


def job_table(records: Sequence[Record], now: float) -> str:
    """Return a table with one line for each job. A terminal cuts the status, which is the last column."""
    header = ("ID", "STATE", "AGE", "SLURM", "USER", "APPLICATION", "NODES", "STATUS")
    rows = [
        (
            record.id,
            record.state,
            ago(record.created, now),
            "-" if record.slurm_id is None else str(record.slurm_id),
            record.owner,
            record.application,
            ",".join(record.nodes) or "-",
            record.status,
        )
        for record in records
    ]
    return table(header, rows)


def job_page(record: Record, updates: Iterable[Update], peers: Mapping[str, Record]) -> str:
    """Return the details of one job, and its history."""
    specification = json.loads(record.specification)
    named = [
        f"{peer.hostname} is job {peer.job_id}"
        + (f" ({state(peers[peer.job_id].state)})" if peer.job_id in peers else "")
        for peer in record.peers
    ]
    rows = [
        ("job", record.id + (f"  {safe(specification['name'])}" if specification.get("name") else "")),
        ("state", state(record.state)),
        ("status", safe(record.status) or "-"),
        ("application", record.application),
        ("owner", record.owner + (f" in project {safe(record.project)}" if record.project else "")),
        ("account", record.account),
        ("Slurm", _slurm(record)),
        ("nodes", _nodes(record)),
        ("replicas", str(record.replicas) + (" (each a task of an array)" if record.array else "")),
        ("time limit", duration(record.time_limit)),
        ("peers", ", ".join(named) or "-"),
        ("folder", record.folder + _gone(record)),
        *([("trouble", safe(record.trouble))] if record.trouble else []),
        ("created", moment(record.created)),
        ("started", moment(record.started)),
        ("ended", moment(record.ended)),
        ("exit code", "-" if record.exit_code is None else str(record.exit_code)),
    ]
    lines = [f"{click.style(name.rjust(11), bold=True)}  {value}" for name, value in rows]
    lines += ["", click.style("    history", bold=True)]
    for update in updates:
        shown = f"{state(update.state)}  " if update.state is not None else ""
        lines.append(f"  {moment(update.time)}  {shown}{safe(update.status)}")
    return "\n".join(lines)


def as_json(record: Record) -> dict[str, Any]:
    """Return a job for programs. Times are seconds since the epoch."""
    specification = JobSpecification.model_validate_json(record.specification)
    return {
        "id": record.id,
        "state": record.state,
        "status": record.status,
        "stage": record.stage,
        "slurmId": record.slurm_id,
        "restarts": record.restarts,
        "nodes": record.nodes,
        "addresses": record.addresses,
        "owner": {"createdBy": record.owner, "project": record.project},
        "account": record.account,
        "application": record.application,
        "specification": specification.model_dump(mode="json", by_alias=True),
        "folder": record.folder,
        "slurmName": record.slurm_name,
        "timeLimit": record.time_limit,
        "created": record.created,
        "started": record.started,
        "ended": record.ended,
        "exitCode": record.exit_code,
        "peers": [{"hostname": peer.hostname, "jobId": peer.job_id} for peer in record.peers],
    }


def updates_as_json(updates: Iterable[Update]) -> list[dict[str, Any]]:
    """Return the status updates of a job for programs."""
    return [{"time": update.time, "state": update.state, "status": update.status} for update in updates]


def hosts_text(adapter: Adapter, id_: str | None) -> str:
    """Return the shared hosts file, or the one of a job. If `peers.private`, it is computed from the database.

    Raises `NotFound` if the job has ended.
    """
    if id_ is None and not adapter.config.peers.private:
        return peer_files.read(adapter.transport, adapter.peers_folder).shared.decode(errors="replace")
    active = adapter.store.in_hosts(every=False)
    named = adapter.store.find(peer.job_id for record in active for peer in record.peers)
    groups = make_groups({**named, **{record.id: record for record in active}})
    if id_ is None:
        return hosts_file.shared_block(groups)
    record = adapter.store.get(id_)
    if record.stage is Stage.ENDED:
        raise NotFound(f"job {id_} has ended ({record.state}), so its hosts file was removed")
    return hosts_file.view(group for group in groups if group.consumer == id_)


def _slurm(record: Record) -> str:
    if record.slurm_id is None:
        return {Stage.CLAIMED: "not dispatched yet", Stage.SUBMITTING: "dispatched; not confirmed yet"}.get(
            record.stage, "-"
        )
    again = f", restarts: {record.restarts}" if record.restarts else ""
    return f"{record.slurm_id}  {record.slurm_name}{again}"


def _gone(record: Record) -> str:
    if record.folder_gone is not None:
        return f"  (removed {moment(record.folder_gone)})"
    return f"  (its logs were removed {moment(record.logs_gone)})" if record.logs_gone is not None else ""


def _nodes(record: Record) -> str:
    if not record.nodes:
        return "-"
    addresses = record.addresses or ((),) * len(record.nodes)
    return ", ".join(
        node + (f" ({', '.join(found)})" if found else "") for node, found in zip(record.nodes, addresses, strict=True)
    )
