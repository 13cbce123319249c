"""Check the machine table against the cluster's partitions and nodes."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from slurm_adapter.cli.check.accounting import check_rights
from slurm_adapter.cli.check.findings import Finding, Level
from slurm_adapter.cluster.accounting import read_accounting, slurm_settings
from slurm_adapter.core.durations import duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.cluster.schedulers.interface import NodeShape, Partition
    from slurm_adapter.core.config_tables import Machine

_GIBIBYTE = 1024**3

Said = tuple[Level, str, str]
"""Level, key of the machine, and text about its value."""


def check_machines(adapter: Adapter, accounts: Mapping[str, str]) -> Iterator[Finding]:
    """Compare each machine with its partition, and with the permissions of accounts in Slurm's accounting.

    `accounts` maps each account to Slurm's name for it.
    """
    partitions = adapter.scheduler.partitions()
    accounting = read_accounting(
        adapter.transport,
        adapter.config.cluster,
        sorted({*accounts, *accounts.values()}),
        slurm_settings(adapter.transport, adapter.config.cluster),
    )
    if accounting is not None and accounting.enforced:
        for account, user in sorted(accounts.items()):
            if {account, user} & set(accounting.associations):
                continue
            if lower := {account.lower(), user.lower()} & set(accounting.associations):
                yield Finding(
                    Level.WARNING,
                    f"Slurm's accounting has user {min(lower)}, not {user}: the jobs of {user} are refused, unless "
                    f"`id {min(lower)}` and `id {user}` find the same account on the cluster; sacctmgr keeps capital "
                    "letters only with Parameters=PreserveCaseUser in slurmdbd.conf",
                )
            else:
                yield Finding(
                    Level.PROBLEM,
                    f"Slurm's accounting has no user {user}: the jobs of {user} are refused; run sacctmgr add user "
                    f"{user} account=X",
                )
    for category, products in adapter.config.machines.items():
        for name, machine in products.items():
            said = list(_check_machine(machine, partitions, adapter.config.jobs.default_time))
            if machine.partition in partitions:
                said += check_rights(machine, partitions[machine.partition], accounting)
            for level, key, text in said:
                value = _written(machine, key)
                yield Finding(
                    level, f"{key} = {value}{text} (machines.{category}.{name})", ("machines", category, name, key)
                )
            if all(level is Level.NOTE for level, _, _ in said):
                yield Finding(Level.GOOD, f"machine {category}/{name} fits partition {machine.partition}")


def _written(machine: Machine, key: str) -> str:
    value = getattr(machine, key)
    if key == "max_time":
        return f'"{duration(value)}"'
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def _check_machine(machine: Machine, partitions: Mapping[str, Partition], default_time: int) -> Iterator[Said]:
    partition = partitions.get(machine.partition)
    if partition is None:
        close = difflib.get_close_matches(machine.partition, partitions, 1)
        yield (
            Level.PROBLEM,
            "partition",
            f", but the cluster has no such partition; it has {', '.join(sorted(partitions))}"
            + (f" (did you mean {close[0]}?)" if close else ""),
        )
        return
    if partition.state != "UP":
        what = "its jobs wait" if partition.state == "DOWN" else "new jobs are refused"
        yield (
            Level.PROBLEM,
            "partition",
            (
                f", which is {partition.state}: {what} until you run "
                f"`scontrol update PartitionName={partition.name} State=UP`"
            ),
        )
    yield from _check_time(machine, partition, default_time)
    yield from _check_sharing(machine, partition)
    alone = list(_check_sizes(machine, partition))
    yield from alone
    if not alone:
        yield from _check_count(machine, partition)


def _check_time(machine: Machine, partition: Partition, default_time: int) -> Iterator[Said]:
    if partition.max_time is not None and machine.max_time > partition.max_time:
        limit = duration(partition.max_time)
        yield Level.PROBLEM, "max_time", f", but MaxTime of partition {partition.name} is {limit}; lower it"
    if machine.max_time < default_time:
        yield (
            Level.WARNING,
            "max_time",
            (
                f", but jobs.default_time is {duration(default_time)}: jobs without a time allocation are refused; "
                "lower jobs.default_time"
            ),
        )


def _check_sharing(machine: Machine, partition: Partition) -> Iterator[Said]:
    if partition.oversubscribe == "EXCLUSIVE" and not machine.exclusive:
        yield (
            Level.WARNING,
            "exclusive",
            (f", but partition {partition.name} allocates whole nodes (OverSubscribe=EXCLUSIVE): set exclusive = true"),
        )
    if partition.oversubscribe == "FORCE" and machine.exclusive:
        yield (
            Level.WARNING,
            "exclusive",
            (
                f", but partition {partition.name} shares every node (OverSubscribe=FORCE): "
                "set exclusive = false, or use another partition"
            ),
        )


def _check_sizes(machine: Machine, partition: Partition) -> Iterator[Said]:
    """Compare each size with the largest node."""
    shapes = list(partition.shapes)
    # Hidden nodes, for example powered-down ones, may be larger.
    level = Level.WARNING if partition.hidden_nodes else Level.PROBLEM
    of = f"of partition {partition.name}"
    if not shapes:
        if not partition.hidden_nodes:
            yield Level.PROBLEM, "partition", ", which has no nodes; add nodes in slurm.conf"
        return
    if machine.cpus > (most := max(shape.cpus for shape in shapes)):
        yield level, "cpus", f", but the largest node {of} has {most}; lower it, or use another partition"
    if partition.max_cpus_per_node is not None and machine.cpus > partition.max_cpus_per_node:
        yield Level.PROBLEM, "cpus", f", but MaxCPUsPerNode {of} is {partition.max_cpus_per_node}; lower it"
    if machine.memory * _GIBIBYTE > (largest := max(shape.memory for shape in shapes)):
        yield (
            level,
            "memory",
            f", but the largest node {of} has {largest / _GIBIBYTE:.1f} GiB; write at most {largest // _GIBIBYTE}",
        )
    if machine.gpus:
        yield from _check_gpus(machine, shapes, of, level)
    elif machine.gpu_type is not None:
        yield Level.WARNING, "gpu_type", ", but gpus is 0: jobs get no GPU; set gpus"
    if machine.constraint is not None and not any(_meets(shape, machine.constraint) for shape in shapes):
        features = sorted({feature for shape in shapes for feature in shape.features})
        yield level, "constraint", f", but no node {of} meets it; the nodes have the features {_list(features)}"


def _check_gpus(machine: Machine, shapes: Iterable[NodeShape], of: str, level: Level) -> Iterator[Said]:
    types = sorted({name for shape in shapes for name, _ in shape.gpus})
    if not types:
        yield level, "gpus", f", but no node {of} has GPUs (Gres=gpu:... in slurm.conf); use another partition"
    elif machine.gpu_type is not None and machine.gpu_type not in types:
        known = f"it has {', '.join(named)}" if (named := list(filter(None, types))) else "its GPUs have no type"
        yield level, "gpu_type", f", but no node {of} has such GPUs; {known}"
    elif machine.gpus > (most := max(_gpus(shape, machine.gpu_type) for shape in shapes)):
        kind = f" of type {machine.gpu_type}" if machine.gpu_type is not None else ""
        yield level, "gpus", f", but no node {of} has more than {most}{kind}; lower it"


def _check_count(machine: Machine, partition: Partition) -> Iterator[Said]:
    """Check that the partition has as many suitable nodes as a job may request."""
    fit = partition.hidden_nodes + sum(count for shape, count in partition.shapes.items() if _fits(machine, shape))
    everything = partition.hidden_nodes + sum(partition.shapes.values())
    if not fit:
        yield (
            Level.PROBLEM,
            "cpus",
            f", but no node of partition {partition.name} has this many and memory = {machine.memory}, "
            f"gpus = {machine.gpus}" + (f" and the constraint {machine.constraint}" if machine.constraint else ""),
        )
    elif partition.max_nodes is not None and machine.max_nodes > partition.max_nodes:
        yield (
            Level.PROBLEM,
            "max_nodes",
            f", but MaxNodes of partition {partition.name} is {partition.max_nodes}; lower it",
        )
    elif machine.max_nodes > fit:
        which = "" if fit == everything else " that fit this machine"
        yield (
            Level.PROBLEM,
            "max_nodes",
            f", but partition {partition.name} has {fit} nodes{which}; lower it",
        )


def _fits(machine: Machine, shape: NodeShape) -> bool:
    return (
        shape.cpus >= machine.cpus
        and shape.memory >= machine.memory * _GIBIBYTE
        and _gpus(shape, machine.gpu_type) >= machine.gpus
        and (machine.constraint is None or _meets(shape, machine.constraint))
    )


def _gpus(shape: NodeShape, kind: str | None) -> int:
    return sum(count for name, count in shape.gpus if kind in {None, name})


def _meets(shape: NodeShape, constraint: str) -> bool:
    """Return whether a node meets one alternative of a constraint (sbatch(1)). Counts and brackets are ignored."""
    plain = re.sub(r"\*\d+|[\[\]()]", "", constraint)
    return any(set(filter(None, re.split(r"[&,]", part))) <= shape.features for part in plain.split("|"))


def _list(words: list[str]) -> str:
    return ", ".join(words) or "none"
