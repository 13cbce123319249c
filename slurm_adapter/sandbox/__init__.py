"""A real Slurm cluster on this one machine, from Debian's packages: for the demo, the tests, and to try things out.

It keeps to its own folder and namespaces; the machine gets no accounts, no services and no configuration from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.sandbox import cluster, files, packages
from slurm_adapter.sandbox.cluster import DaemonStatus, NodeStatus, SandboxStatus
from slurm_adapter.sandbox.configuration import config_text
from slurm_adapter.sandbox.layout import ADAPTER, LOGIN, compute_nodes
from slurm_adapter.sandbox.processes import entry
from slurm_adapter.sandbox.settings import Wishes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slurm_adapter.sandbox.configuration import Identity, Transport

__all__ = [
    "DaemonStatus",
    "NodeStatus",
    "SandboxStatus",
    "down",
    "enter",
    "install",
    "obstacle",
    "status",
    "up",
    "write_config",
]


def install(say: Callable[[str], None], *, accounting: bool = False) -> None:
    """Install the Debian packages that a sandbox needs; nothing happens where all are there.

    `say` is told of progress. Raises `Refused` where this machine cannot have them (not root, not Debian or Ubuntu)
    and `TryAgain` where apt-get failed.
    """
    wanted = packages.PACKAGES + (packages.ACCOUNTING_PACKAGES if accounting else ())
    packages.install_packages(wanted, say)


def up(nodes: int = 3, *, accounting: bool = False, say: Callable[[str], None]) -> Path:
    """Bring the sandbox up and return the adapter's config file for it.

    Safe to repeat: what is up is left alone, what a killed run or a crash left is repaired. Another number of nodes
    makes the nodes anew (their jobs end); another value of `accounting` restarts Slurm's daemons (jobs go on).
    Raises `Refused` where it cannot work on this machine, with what would help, and `TryAgain` where it is not ready
    in time or another `up` or `down` is at work.
    """
    return cluster.bring_up(Wishes(nodes, accounting), say)


def obstacle(*, accounting: bool = False) -> str:
    """Why no sandbox can be on this machine as it is, and what would help, in one line; empty where one can."""
    return cluster.obstacle(Wishes(accounting=accounting))


def status() -> SandboxStatus:
    """What is up and what is not. Raises `Refused` for another account than root."""
    return cluster.look()


def down(say: Callable[[str], None]) -> None:
    """Take the sandbox away with all that is in it: jobs, namespaces, network, control groups, files."""
    cluster.take_down(say)


def enter(node: str = LOGIN.name, user: str = ADAPTER.name) -> tuple[str, ...]:
    """The words before a command that run it on a node as an account of the sandbox; for root only.

    The environment is clean (HOME, USER, LOGNAME, SHELL, PATH), the folder is `/`, and signals and exit codes are
    the command's own.
    """
    machines = {machine.name: machine for machine in (LOGIN, *compute_nodes(999))}
    return entry(machines[node], user)


def write_config(folder: Path, *, transport: Transport = "local", identity: Identity = "sudo") -> Path:
    """Write `config.toml` into a folder, with `state/` beside it as the adapter's own; the file's path."""
    wishes = files.read_record() or Wishes()
    path = folder / "config.toml"
    files.replace(path, config_text(folder / "state", wishes.nodes, transport=transport, identity=identity))
    return path
