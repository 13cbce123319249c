"""Check that names of jobs work, and that nodes have addresses for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.cli.check.findings import Finding, Level
from slurm_adapter.cluster.transports.interface import Command
from slurm_adapter.core.errors import AdapterError
from slurm_adapter.jobs.gather import find_addresses
from slurm_adapter.jobs.name_methods import methods_that_work

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from slurm_adapter.adapter import Adapter


def check_names(adapter: Adapter, nodes: Mapping[str, str], accounts: list[str]) -> Iterator[Finding]:
    """Check the addresses of nodes, and the methods that give a job its names."""
    addresses = find_addresses(adapter, nodes)
    if lost := sorted(node for node, found in addresses.items() if not found):
        yield Finding(
            Level.PROBLEM,
            f"{len(lost)} nodes have no address that other nodes can use ({', '.join(lost[:5])}, ...); "
            "set NodeAddr in slurm.conf, or peers.address",
        )
    else:
        examples = ", ".join(f"{node} {found[0]}" for node, found in list(addresses.items())[:2])
        yield Finding(Level.GOOD, f"every node has an address ({examples}, ...)")
    if accounts:
        works = methods_that_work(adapter, accounts[0])
        if works:
            yield Finding(
                Level.GOOD, f"names of jobs work on the login node, by {works[0]} (possible: {', '.join(works)})"
            )
        else:
            yield Finding(
                Level.WARNING,
                f"names of jobs do not work on the login node for {accounts[0]} by any of "
                f"{', '.join(adapter.config.peers.methods)}; if the compute nodes are the same, jobs with peers fail: "
                "allow unprivileged user namespaces, or install bubblewrap or libnss-wrapper on the nodes",
            )
    yield Finding(
        Level.NOTE,
        "the adapter sets no firewall between jobs: a client that reaches a node reaches all ports of its jobs",
    )


def check_demo(adapter: Adapter, nodes: Mapping[str, str], accounts: list[str]) -> Iterator[Finding]:
    """Check what `demo` needs in addition to other jobs."""
    lacks = []
    if adapter.config.command_line.user is None:
        lacks.append("command_line.user")
    if len(nodes) < 2:
        lacks.append("a second node")
    if accounts:
        compile_static = Command(
            ("cc", "-static", "-x", "c", "-", "-o", "/dev/null"),
            stdin=b"int main(void) { return 0; }",
            user=accounts[0],
        )
        try:
            compiles = adapter.transport.run(compile_static).status == 0
        except AdapterError:
            compiles = False
        if not compiles:
            lacks.append("a C compiler (cc) with a static C library on the cluster")
    if lacks:
        yield Finding(
            Level.NOTE, f"`slurm-adapter demo` cannot run here: it needs {', '.join(lacks)}; other jobs do not"
        )
