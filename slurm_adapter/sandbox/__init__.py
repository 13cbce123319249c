"""A real Slurm cluster on this one machine, from Debian's packages: for the demo, the tests, and to try things out.

It keeps to its own folder and namespaces; the machine gets no accounts, no services and no configuration from it.
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
    """Install the Debian packages that a sandbox needs, and make the release's root; nothing happens if all is there.

    `say` is told of progress. Raises `Refused` if this machine cannot have them (not root, not Debian or Ubuntu) and
    `TryAgain` if apt-get or debootstrap failed.
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
    """Bring a sandbox up and return the adapter's config file for it. What it needs is installed first.

    Safe to repeat: what is up is left alone, what a killed run or a crash left is repaired. Another number of nodes
    makes the nodes anew (their jobs end); another value of `accounting` restarts Slurm's daemons (jobs go on).
    Another release makes the cluster anew; without one it keeps the release that it has.
    Raises `Refused` if it cannot work on this machine, with what would help, and `TryAgain` if it is not ready
    in time or another `up` or `down` is at work.
    """
    before = files.read_record(layout_of(name))
    release = releases.canonical(release) if release is not None else before.release if before else ""
    install(say, accounting=accounting, release=release)
    return cluster.bring_up(name, Wishes(nodes, accounting, release=release), say)


def advice(name: str = "") -> tuple[str, ...]:
    """Return commands that submit UCloud's example to a sandbox that is up."""
    return programs.advice(layout_of(name))


def obstacle(*, accounting: bool = False, release: str = "") -> str:
    """Why no sandbox can be on this machine as it is, and what would help, in one line; empty if one can."""
    return cluster.obstacle(Wishes(accounting=accounting, release=releases.canonical(release)))


def status(name: str = "") -> SandboxStatus:
    """What is up and what is not. Raises `Refused` for another account than root."""
    return cluster.look(layout_of(name))


def down(say: Callable[[str], None], *, name: str = "", purge: bool = False) -> None:
    """Take a sandbox away with all that is in it: jobs, namespaces, network, control groups, files.

    With `purge` the roots of other releases go, too.
    """
    cluster.take_down(layout_of(name), say)
    if purge:
        releases.purge(say)


def enter(node: str = "login", user: str = ADAPTER.name, *, name: str = "") -> tuple[str, ...]:
    """The words before a command that run it on a node as an account of the sandbox; for root only.

    The environment is clean (HOME, USER, LOGNAME, SHELL, PATH), the folder is `/`, and signals and exit codes are
    the command's own.
    """
    return entry(layout_of(name).node(node), user)


def write_config(folder: Path, *, transport: Transport = "local", identity: Identity = "sudo", name: str = "") -> Path:
    """Write `config.toml` into a folder, with `state/` beside it as the adapter's own; the file's path."""
    layout = layout_of(name)
    wishes = files.read_record(layout) or Wishes()
    path = folder / "config.toml"
    text = config_text(layout, folder / "state", wishes.nodes, transport=transport, identity=identity)
    files.replace(path, text)
    return path
