"""A real Slurm cluster on this machine, from Debian's packages, for the demo, the tests and experiments.

It uses a folder and namespaces of its own. It adds no accounts, services or configuration to the machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm_adapter.sandbox import cluster, files, packages, programs, releases
from slurm_adapter.sandbox.cluster import DaemonStatus, NodeStatus, SandboxStatus
from slurm_adapter.sandbox.configuration import config_text
from slurm_adapter.sandbox.layout import ADAPTER, layout_of
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
    "advice",
    "down",
    "enter",
    "install",
    "obstacle",
    "status",
    "up",
    "write_config",
]


def install(say: Callable[[str], None], *, accounting: bool = False, release: str = "") -> None:
    """Install the Debian packages that a sandbox needs, and make the release's root. Skip what is there already.

    `say` receives progress messages. Raises `Refused` if this machine cannot have the packages (not root, not Debian
    or Ubuntu), and `TryAgain` if apt-get or debootstrap failed.
    """
    release = releases.canonical(release)
    packages.install_packages(packages.wanted_packages(release=release, accounting=accounting), say)
    if release:
        releases.make(release, say)


def up(
    nodes: int = 3,
    *,
    accounting: bool = False,
    release: str | None = None,
    name: str = "",
    say: Callable[[str], None],
) -> Path:
    """Start a sandbox and return the path of the adapter's configuration for it. Install missing packages first.

    Safe to repeat: running parts are left unchanged, and what a crash or a killed run left is repaired. A different
    number of nodes rebuilds the nodes (their jobs end). A different value of `accounting` restarts Slurm's daemons
    (jobs continue). A different release rebuilds the cluster; without one the sandbox keeps its release.

    Raises `Refused`, with a suggestion, if this machine cannot run a sandbox. Raises `TryAgain` if the sandbox is not
    ready in time, or another `up` or `down` is running.
    """
    before = files.read_record(layout_of(name))
    release = releases.canonical(release) if release is not None else before.release if before else ""
    install(say, accounting=accounting, release=release)
    return cluster.bring_up(name, Wishes(nodes, accounting, release=release), say)


def advice(name: str = "") -> tuple[str, ...]:
    """Return commands that submit UCloud's example to a running sandbox."""
    return programs.advice(layout_of(name))


def obstacle(*, accounting: bool = False, release: str = "") -> str:
    """Return why this machine cannot run a sandbox, and a fix, in one line. Empty if it can."""
    return cluster.obstacle(Wishes(accounting=accounting, release=releases.canonical(release)))


def status(name: str = "") -> SandboxStatus:
    """Return the state of a sandbox. Raises `Refused` if the caller is not root."""
    return cluster.look(layout_of(name))


def down(say: Callable[[str], None], *, name: str = "", purge: bool = False) -> None:
    """Remove a sandbox: jobs, namespaces, network, control groups and files.

    With `purge`, also remove the roots of other releases.
    """
    cluster.take_down(layout_of(name), say)
    if purge:
        releases.purge(say)


def enter(node: str = "login", user: str = ADAPTER.name, *, name: str = "") -> tuple[str, ...]:
    """Return the prefix for a command that runs it on a node as an account of the sandbox. For root only.

    The environment is clean (HOME, USER, LOGNAME, SHELL, PATH), and the working directory is `/`. Signals and exit
    codes are those of the command.
    """
    return entry(layout_of(name).node(node), user)


def write_config(folder: Path, *, transport: Transport = "local", identity: Identity = "sudo", name: str = "") -> Path:
    """Write `config.toml` into a folder, with `state/` next to it as state folder. Return the file's path."""
    layout = layout_of(name)
    wishes = files.read_record(layout) or Wishes()
    path = folder / "config.toml"
    text = config_text(layout, folder / "state", wishes.nodes, transport=transport, identity=identity)
    files.replace(path, text)
    return path
