"""The cluster's daemons: list them, check whether they answer, start and stop them."""

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
    """A program that runs while the sandbox is up."""

    name: str
    node: Node
    argv: tuple[str, ...]
    user: Account | None = None
    """None is root."""

    @property
    def label(self) -> str:
        """Name in messages."""
        return f"{self.name} on {self.node.name}"

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids. Empty if it is not running."""
        return on_node(self.node, self.name)

    def start(self) -> None:
        """Start it. Raises `Refused` with its output if it fails to start."""
        log = self.name if self.node.name == "login" else f"{self.name}-{self.node.name}"
        start(
            self.node,
            self.argv,
            user=self.user,
            environment=[f"SLURM_CONF={self.node.layout.slurm}/slurm.conf"],
            log=log,
        )

    def stop(self) -> None:
        """Stop it as a service manager does: send SIGTERM, then SIGKILL after 5 s."""
        with suppress(Refused):
            end(self.pids, signal.SIGTERM, patience=5)
        end(self.pids)

    def kill(self) -> None:
        """Kill it, as a crash would."""
        end(self.pids, signal.SIGKILL)

    def pause(self) -> None:
        """Pause it until `resume`, like a daemon on an overloaded machine."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue it after `pause`."""
        self._signal(signal.SIGCONT)

    def _signal(self, how: signal.Signals) -> None:
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, how)


def munged(layout: Layout) -> Daemon:
    """Return munged. All nodes use its socket."""
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
    """Return slurmctld."""
    return Daemon("slurmctld", layout.login, ("slurmctld",), SLURM_ACCOUNT)


def slurmd(node: Node) -> Daemon:
    """Return the slurmd of a compute node."""
    return Daemon("slurmd", node, ("slurmd", "-N", node.name))


def sshd(layout: Layout) -> Daemon:
    """Return the SSH server of the login node."""
    return Daemon("sshd", layout.login, ("/usr/sbin/sshd",))


def expected(layout: Layout, wishes: Wishes) -> tuple[tuple[str, Node], ...]:
    """Return the name and node of each daemon that runs if the cluster is up."""
    login = layout.login
    accounting = (("mariadbd", login), ("slurmdbd", login)) if wishes.accounting else ()
    compute = tuple(("slurmd", node) for node in layout.compute(wishes.nodes))
    return (("munged", login), *accounting, ("slurmctld", login), *compute, ("sshd", login))


def munge_answers(layout: Layout) -> bool:
    """Return whether munged creates credentials."""
    return _answers(layout, "munge", "-n", "-S", str(layout.munge_socket))


def slurmctld_answers(layout: Layout) -> bool:
    """Return whether slurmctld answers."""
    return _answers(layout, "sinfo", "-h")


def node_states(layout: Layout) -> dict[str, str]:
    """Return Slurm's state of each compute node. Empty if slurmctld does not answer."""
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
