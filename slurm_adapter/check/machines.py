"""Check the machine table against the cluster."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from slurm_adapter.check.findings import Finding, Level
from slurm_adapter.config import parse_duration
from slurm_adapter.transports.interface import Command

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from slurm_adapter.config import Machine
    from slurm_adapter.site import Site


def check_machines(site: Site) -> Iterator[Finding]:
    """The machine table against the partitions."""
    path = f"PATH={site.config.cluster.path}"
    conf = [f"SLURM_CONF={site.config.cluster.slurm_conf}"] if site.config.cluster.slurm_conf else []
    argv = ("/usr/bin/env", "-i", path, *conf, "scontrol", "-a", "-o", "show", "partition")
    result = site.transport.run(Command(argv))
    rows = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in result.text.splitlines()]
    partitions = {row["PartitionName"]: row for row in rows if "PartitionName" in row}
    if not partitions:
        yield Finding(Level.PROBLEM, f"scontrol shows no partitions: {result.complaint}")
    for category, products in site.config.machines.items():
        for name, machine in products.items():
            problems = list(_machine_problems(machine, partitions))
            for problem in problems:
                yield Finding(Level.PROBLEM, f"machines.{category}.{name}: {problem}")
            if not problems:
                yield Finding(Level.GOOD, f"machine {category}/{name} fits partition {machine.partition}")


def _machine_problems(machine: Machine, partitions: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    row = partitions.get(machine.partition)
    if row is None:
        yield f"there is no partition {machine.partition!r}; there are {', '.join(sorted(partitions))}"
        return
    if row.get("State") != "UP":
        yield f"partition {machine.partition} is {row.get('State')}"
    limits = [int(row[key]) for key in ("MaxNodes", "TotalNodes") if row.get(key, "").isdecimal()]
    if limits and machine.max_nodes > min(limits):
        yield f"max_nodes = {machine.max_nodes}, and partition {machine.partition} has {min(limits)}"
    try:
        longest = parse_duration(row.get("MaxTime", ""))
    except ValueError:
        return  # UNLIMITED
    if machine.max_time > longest:
        yield f"max_time is longer than MaxTime={row['MaxTime']} of partition {machine.partition}"
