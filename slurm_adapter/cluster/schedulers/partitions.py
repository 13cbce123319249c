"""Limits of partitions and the sizes of their nodes: each command with its parser."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from slurm_adapter.cluster.schedulers.interface import NodeShape, Partition
from slurm_adapter.core.durations import parse_duration
from slurm_adapter.core.errors import Unknown

if TYPE_CHECKING:
    from collections.abc import Mapping

PARTITIONS_ARGV = ("scontrol", "-a", "-o", "show", "partition")
NODES_ARGV = ("scontrol", "-a", "-o", "show", "node")

_MEBIBYTE = 1024 * 1024
_NO_LIMIT = frozenset({"UNLIMITED", "INFINITE", "NONE"})


def parse_partitions(partitions: bytes, nodes: bytes) -> dict[str, Partition]:
    """Return all partitions by name. Raise `Unknown` if an answer cannot be read or breaks off."""
    for data, what in ((partitions, "partitions"), (nodes, "nodes")):
        if not data.endswith(b"\n"):
            raise Unknown(f"the list of {what} breaks off")
    shapes = _read_shapes(nodes.decode(errors="replace"))
    lines = partitions.decode(errors="replace").splitlines()
    found = (_read_partition(line, shapes) for line in lines if line.startswith("PartitionName="))
    if not (named := {each.name: each for each in found}):
        raise Unknown("scontrol shows no partition")
    return named


def _read_partition(line: str, shapes: Mapping[str, Counter[NodeShape]]) -> Partition:
    values = dict(word.partition("=")[::2] for word in reversed(line.split()))
    name = values["PartitionName"]
    try:
        own = shapes.get(name, Counter())
        return Partition(
            name=name,
            state=values["State"],
            default=values["Default"] == "YES",
            max_time=None if values["MaxTime"] in _NO_LIMIT else parse_duration(values["MaxTime"]),
            max_nodes=_number(values["MaxNodes"]),
            max_cpus_per_node=_number(values.get("MaxCPUsPerNode", "UNLIMITED")),
            allow_accounts=_names(values.get("AllowAccounts", "ALL")),
            deny_accounts=_names(values.get("DenyAccounts", "")) or frozenset(),
            allow_qos=_names(values.get("AllowQos", "ALL")),
            deny_qos=_names(values.get("DenyQos", "")) or frozenset(),
            oversubscribe=values["OverSubscribe"].partition(":")[0],
            shapes=own,
            hidden_nodes=max(0, int(values["TotalNodes"]) - own.total()),
        )
    except (KeyError, ValueError) as error:
        raise Unknown(f"scontrol's line of partition {name} cannot be read: {error!r}: {line[:500]!r}") from error


def _number(text: str) -> int | None:
    return None if text in _NO_LIMIT else int(text)


def _names(text: str) -> frozenset[str] | None:
    """Return the names in a list; None for `ALL`."""
    return None if text == "ALL" else frozenset(text.split(",")) - {"", "(null)"}


def _read_shapes(text: str) -> dict[str, Counter[NodeShape]]:
    """Return how many nodes of each shape a partition has, by its name."""
    found: defaultdict[str, Counter[NodeShape]] = defaultdict(Counter)
    for line in text.splitlines():
        if line.startswith("NodeName="):
            # The first value of each key counts, because free text (Comment, Reason) comes last on a line.
            values = dict(word.partition("=")[::2] for word in reversed(line.split()))
            if not (own := _names(values.get("Partitions", ""))):
                continue
            try:
                shape = _read_shape(values)
            except (KeyError, ValueError) as error:
                raise Unknown(f"scontrol's line of a node cannot be read: {error!r}: {line[:500]!r}") from error
            for partition in own:
                found[partition][shape] += 1
    return dict(found)


def _read_shape(values: Mapping[str, str]) -> NodeShape:
    return NodeShape(
        # CPUEfctv, from 22.05 on, excludes the processors that are reserved for the system, as MemSpecLimit is memory.
        cpus=int(values["CPUEfctv"] if "CPUEfctv" in values else values["CPUTot"]),
        memory=(int(values["RealMemory"]) - int(values.get("MemSpecLimit", "0"))) * _MEBIBYTE,
        gpus=_read_gpus(values.get("Gres", "")),
        features=_names(values.get("AvailableFeatures", "")) or frozenset(),
    )


def _read_gpus(gres: str) -> tuple[tuple[str, int], ...]:
    """Read a node's Gres (gres.conf(5)), such as `gpu:a100:4(S:0-1),gpu:2,shard:8`."""
    found: Counter[str] = Counter()
    for entry in re.sub(r"\([^)]*\)", "", gres).split(","):
        name, *words = entry.split(":")
        if name == "gpu":
            count = int(words.pop()) if words and words[-1].isdecimal() else 1
            found[words[0] if words else ""] += count
    return tuple(sorted(found.items()))
