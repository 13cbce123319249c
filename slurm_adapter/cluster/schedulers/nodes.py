"""The cluster's nodes and what names resolve to there: commands and their parsers side by side."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from slurm_adapter.cluster.schedulers.hostlist import expand
from slurm_adapter.core.errors import Unknown
from slurm_adapter.core.hosts_file import usable

if TYPE_CHECKING:
    from collections.abc import Sequence

NODES_ARGV = ("scontrol", "-a", "-F", "-o", "show", "node")
"""Hidden ones and those of the state FUTURE, too."""
PARTITIONS_ARGV = ("scontrol", "-a", "-o", "show", "partition")

# $1 is the index, $2 the name. One line for each, shorter than 4096 bytes: written whole to a pipe.
_ONE = """
found=$(timeout 20 getent ahosts "$2" | cut -d ' ' -f 1 | head -n 60 | tr '\\n' ' ')
printf 'resolved %s %s\\n' "$1" "$found"
"""

_TOLD = re.compile(r"resolved (\d+) (.*)", re.ASCII)
"""The index of a name, and what it resolves to."""

_AT_ONCE = 16
"""A look-up of a name that nobody serves takes seconds."""


def parse_nodes(data: bytes, partitions: bytes) -> dict[str, str]:
    """Return the NodeAddr of each node by its name, and by its NodeHostName if that is another one.

    Some releases do not show a powered-down CLOUD node; but its partition names it. Its address is empty, as is one
    that does not exist yet. Raises `Unknown` if there is no node at all, or an answer breaks off.
    """
    if not all(answer.endswith(b"\n") for answer in (data, partitions)):  # half an address is another machine's
        raise Unknown("the list of nodes or partitions breaks off")
    found: dict[str, str] = {}
    told: set[str] = set()
    for line in data.decode(errors="replace").splitlines():
        # Free text (Comment, Reason) comes last on a line, so that the first of each key is the node's.
        name = re.match(r"NodeName=(\S+)", line)
        address = re.search(r"\sNodeAddr=(\S+)", line)
        host = re.search(r"\sNodeHostName=(\S+)", line)
        state = re.search(r"\sState=(\S+)", line)
        if name and address:
            if name[1] in told:  # the free text of a node holds a line about another
                raise Unknown(f"scontrol shows node {name[1]} twice; nothing of its answer can be trusted")
            told.add(name[1])
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
    """Resolve the names on standard input (`addresses_stdin`), several at once."""
    script = f'command -v getent >/dev/null || exit 127; exec xargs -0 -n 2 -P {_AT_ONCE} sh -c "$1" sh'
    return ("sh", "-c", script, "sh", _ONE)


def addresses_stdin(names: Sequence[str]) -> bytes:
    """The names, as `addresses_argv` wants them."""
    return b"".join(f"{index}\0{name}\0".encode() for index, name in enumerate(names))


def parse_addresses(data: bytes, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What each name resolves to, in the resolver's order. Raises `Unknown` where a name has no answer at all."""
    lines = data.decode(errors="replace").split("\n")
    told = {int(match[1]): match[2].split() for line in lines if (match := _TOLD.fullmatch(line))}
    if missing := [name for index, name in enumerate(names) if index not in told]:
        raise Unknown(f"the look-up of {missing[0]} gave no answer")
    found = {name: usable(told[index]) for index, name in enumerate(names)}
    return {name: addresses for name, addresses in found.items() if addresses}
