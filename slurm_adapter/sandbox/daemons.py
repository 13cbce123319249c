"""The cluster's daemons: which there are, whether they answer, starting and stopping one of them."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurm_adapter.core.errors import Refused
from slurm_adapter.sandbox.layout import MUNGE_ACCOUNT, SLURM_ACCOUNT, Account, Layout, Node
from slurm_adapter.sandbox.processes import end, on_node, run_on, start

if TYPE_CHECKING:
    from slurm_adapter.sandbox.settings import Wishes


@dataclass(frozen=True, slots=True)
class Daemon:
    """A program that runs for as long as the sandbox is up."""

    name: str
    node: Node
    argv: tuple[str, ...]
    user: Account | None = None
    """None is root."""

    @property
    def label(self) -> str:
        """How people are told of it."""
        return f"{self.name} on {self.node.name}"

    @property
    def pids(self) -> tuple[int, ...]:
        """Its processes; none when it is not running."""
        return on_node(self.node, self.name)

    def start(self) -> None:
        """Start it. Raises `Refused` with its own words where it gives up."""
        log = self.name if self.node.name == "login" else f"{self.name}-{self.node.name}"
        start(
            self.node,
            self.argv,
            user=self.user,
            environment=[f"SLURM_CONF={self.node.layout.slurm}/slurm.conf"],
            log=log,
        )

    def stop(self) -> None:
        """End it as a service manager does: by force where it takes its time."""
        with suppress(Refused):
            end(self.pids, signal.SIGTERM, patience=5)
        end(self.pids)

    def kill(self) -> None:
        """End it as a crash does."""
        end(self.pids, signal.SIGKILL)

    def pause(self) -> None:
        """Stall it, as an overloaded machine does, until `resume`."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._signal(signal.SIGCONT)

    def _signal(self, how: signal.Signals) -> None:
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, how)


def munged(layout: Layout) -> Daemon:
    """Munge's daemon; all nodes use its socket."""
    return Daemon(
        "munged",
        layout.login,
        (
            "munged",
            "--num-threads=4",
            f"--socket={layout.munge_socket}",
            f"--key-file={layout.keys}/munge/munge.key",
            f"--pid-file={layout.run}/munge/munged.pid",
            f"--seed-file={layout.spool}/munge/munge.seed",
            f"--log-file={layout.log}/munge/munged.log",
        ),
        MUNGE_ACCOUNT,
    )


def slurmctld(layout: Layout) -> Daemon:
    """Slurm's controller."""
    return Daemon("slurmctld", layout.login, ("slurmctld",), SLURM_ACCOUNT)


def slurmd(node: Node) -> Daemon:
    """Slurm's daemon of a compute node."""
    return Daemon("slurmd", node, ("slurmd", "-N", node.name))


def sshd(layout: Layout) -> Daemon:
    """The login node's SSH server."""
    return Daemon("sshd", layout.login, ("/usr/sbin/sshd",))


def expected(layout: Layout, wishes: Wishes) -> tuple[tuple[str, Node], ...]:
    """Every daemon of a cluster that is up, by name and node."""
    login = layout.login
    accounting = (("mariadbd", login), ("slurmdbd", login)) if wishes.accounting else ()
    compute = tuple(("slurmd", node) for node in layout.compute(wishes.nodes))
    return (("munged", login), *accounting, ("slurmctld", login), *compute, ("sshd", login))


def munge_answers(layout: Layout) -> bool:
    """Whether munged gives credentials."""
    return _answers(layout, "munge", "-n", "-S", str(layout.munge_socket))


def slurmctld_answers(layout: Layout) -> bool:
    """Whether the controller answers."""
    return _answers(layout, "sinfo", "-h")


def node_states(layout: Layout) -> dict[str, str]:
    """Slurm's own word for each compute node; empty where the controller does not answer."""
    try:
        done = run_on(layout.login, ["sinfo", "-h", "-N", "-o", "%N %T"], timeout=15)
    except subprocess.TimeoutExpired:
        return {}
    words = [line.split() for line in done.stdout.decode(errors="replace").splitlines()]
    return {pair[0]: pair[1] for pair in words if len(pair) == 2}


def _answers(layout: Layout, *argv: str) -> bool:
    try:
        return run_on(layout.login, argv, timeout=15).returncode == 0
    except subprocess.TimeoutExpired:
        return False
