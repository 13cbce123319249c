"""The cluster's nodes, and name resolution on the cluster: each command with its parser."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from slurm_adapter.cluster.schedulers.hostlist import expand
from slurm_adapter.core.errors import Unknown
from slurm_adapter.core.hosts_file import usable

if TYPE_CHECKING:
    from collections.abc import Sequence

NODES_ARGV = ("scontrol", "-a", "-F", "-o", "show", "node")
"""Also lists hidden nodes and nodes in the state FUTURE."""
PARTITIONS_ARGV = ("scontrol", "-a", "-o", "show", "partition")

# $1 is the index, $2 the name. Each line has fewer than 4096 bytes, so that a pipe takes it whole.
_ONE = """
found=$(timeout 20 getent ahosts "$2" | cut -d ' ' -f 1 | head -n 60 | tr '\\n' ' ')
printf 'resolved %s %s\\n' "$1" "$found"
"""

_RESOLVED = re.compile(r"resolved (\d+) (.*)", re.ASCII)
"""The index of a name, and its addresses."""

_AT_ONCE = 16
"""Names that are looked up at once. A name that no server answers for takes seconds."""


def parse_nodes(data: bytes, partitions: bytes) -> dict[str, str]:
    """Return the NodeAddr of each node by its name, and by its NodeHostName if that is another name.

    Some releases do not show a powered-down CLOUD node, but its partition lists it. Its address is empty, like that of
    a node that does not exist yet. Raises `Unknown` if there is no node, or if an answer breaks off.
    """
    if not all(answer.endswith(b"\n") for answer in (data, partitions)):  # half an address is another machine's
        raise Unknown("the list of nodes or partitions breaks off")
    found: dict[str, str] = {}
    shown: set[str] = set()
    for line in data.decode(errors="replace").splitlines():
        # Free text (Comment, Reason) comes last on a line, so the first value of each key is the node's own.
        name = re.match(r"NodeName=(\S+)", line)
        address = re.search(r"\sNodeAddr=(\S+)", line)
        host = re.search(r"\sNodeHostName=(\S+)", line)
        state = re.search(r"\sState=(\S+)", line)
        if name and address:
            if name[1] in shown:  # the free text of a node contains a line about another node
                raise Unknown(f"scontrol shows node {name[1]} twice; nothing of its answer can be trusted")
            shown.add(name[1])
            words = set(state[1].split("+")) if state else set()
            away = "FUTURE" in words or {"CLOUD", "POWERED_DOWN"} <= words
            known = "" if away and address[1] == name[1] else address[1]
            found.setdefault(name[1], known)
            if host:
                found.setdefault(host[1], known)
    if not found:
        raise Unknown("scontrol shows no node with an address")
    for nodes in re.findall(r"^PartitionName=.*?\sNodes=(\S+)", partitions.decode(errors="replace"), re.MULTILINE):
        found |= {name: "" for name in expand(nodes) if name not in found}
    return found


def addresses_argv() -> tuple[str, ...]:
    """Return the command that resolves the names on standard input (`addresses_stdin`), several at once."""
    script = f'command -v getent >/dev/null || exit 127; exec xargs -0 -n 2 -P {_AT_ONCE} sh -c "$1" sh'
    return ("sh", "-c", script, "sh", _ONE)


def addresses_stdin(names: Sequence[str]) -> bytes:
    """Return the names as the standard input of `addresses_argv`."""
    return b"".join(f"{index}\0{name}\0".encode() for index, name in enumerate(names))


def parse_addresses(data: bytes, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the addresses of each name, in the resolver's order. Raises `Unknown` if the answer lacks a name."""
    lines = data.decode(errors="replace").split("\n")
    resolved = {int(match[1]): match[2].split() for line in lines if (match := _RESOLVED.fullmatch(line))}
    if missing := [name for index, name in enumerate(names) if index not in resolved]:
        raise Unknown(f"the lookup of {missing[0]} on the cluster gave no answer")
    found = {name: usable(resolved[index]) for index, name in enumerate(names)}
    return {name: addresses for name, addresses in found.items() if addresses}
