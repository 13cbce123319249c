"""The load of partitions: the commands scontrol and squeue, and the parsers of their answers.

The resources of nodes are Slurm's own counts, which include hidden jobs of other users. Running and pending jobs are
counted from the queue.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from slurm_adapter.cluster.schedulers.interface import Load
from slurm_adapter.core.errors import Unknown
from slurm_adapter.core.states import ENDED, WAITING, canonical

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

NODES_ARGV = ("scontrol", "-a", "-o", "show", "node")

_MEBIBYTE = 1024 * 1024

_CLOSED = frozenset({"DOWN", "DRAIN", "FAIL", "FUTURE", "MAINT", "NOT_RESPONDING", "UNKNOWN"})
"""Parts of the states of nodes that accept no new jobs, as `scontrol` writes them."""


def jobs_argv(partitions: Sequence[str]) -> tuple[str, ...]:
    """Return the command that lists the state of each job of these partitions, and of each task of an array.

    For a missing partition squeue succeeds and lists nothing.
    """
    states = "PENDING,RUNNING,SUSPENDED"
    return ("squeue", "-a", "--local", "-h", "-r", "-t", states, "-p", ",".join(partitions), "-o", "%T")


def parse_load(nodes: bytes, jobs: bytes, partitions: Collection[str]) -> Load:
    """Return the load from the answers of both commands. Raises `Unknown` if one cannot be read or breaks off.

    A node that accepts no new jobs counts with its used resources only.
    """
    for data, what in ((nodes, "nodes"), (jobs, "jobs")):
        if data and not data.endswith(b"\n"):
            raise Unknown(f"the list of {what} breaks off")
    rows = [_read_node(line) for line in nodes.decode(errors="replace").splitlines() if line.startswith("NodeName=")]
    if not rows:
        raise Unknown("scontrol shows no nodes")
    found = [counts for counts, names in rows if names & set(partitions)]
    words = [canonical(line.strip()) or "" for line in jobs.decode(errors="replace").splitlines()]
    if "" in words:
        raise Unknown("squeue's list of states has a word that is not a job's state")
    waiting = sum(word in WAITING for word in words)
    over = sum(word in ENDED or word == "COMPLETING" for word in words)
    cpus, used_cpus, memory, used_memory = (sum(column) for column in zip(*found, strict=True)) if found else (0,) * 4
    return Load(cpus, memory, used_cpus, used_memory, running=len(words) - waiting - over, pending=waiting)


def _read_node(line: str) -> tuple[tuple[int, int, int, int], set[str]]:
    """Return a node's processors, used processors, bytes of memory and used memory; and its partitions.

    Free text (Comment, Reason) comes last on a line, so the first value of each key is the node's own.
    """

    def number(*names: str) -> int:
        for name in names:
            if match := re.search(rf"\s{name}=(\d+)\s", line, re.ASCII):
                return int(match[1])
        raise Unknown(f"scontrol shows no {names[-1]} of a node: {line[:200]!r}")

    state = re.search(r"\sState=(\S+)", line)
    partitions = re.search(r"\sPartitions=(\S*)", line)
    if state is None:
        raise Unknown(f"scontrol shows no State of a node: {line[:200]!r}")
    used_cpus, used_memory = number("CPUAlloc"), number("AllocMem") * _MEBIBYTE
    # CPUEfctv, from 22.05 on, excludes the processors that are reserved for the system.
    cpus, memory = number("CPUEfctv", "CPUTot"), number("RealMemory") * _MEBIBYTE
    parts = set(re.split(r"[+*~#!%$@^-]+", state[1]))
    if parts & _CLOSED or "*" in state[1]:
        cpus, memory = used_cpus, used_memory
    names = set(partitions[1].split(",")) - {""} if partitions else set()
    return (cpus, used_cpus, memory, used_memory), names
