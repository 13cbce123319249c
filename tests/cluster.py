"""The sandbox for tests: one cluster for the whole run, brought up where it is not up, and left up."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import pytest

from slurm_adapter import sandbox
from slurm_adapter.sandbox import cluster as whole
from slurm_adapter.sandbox import daemons, layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from slurm_adapter.sandbox.configuration import Identity, Transport

_Found = TypeVar("_Found")

FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED", "DEADLINE")


@dataclass(frozen=True)
class Cluster:
    """A Slurm cluster that is up, and what a test does with it."""

    nodes: tuple[layout.Node, ...]
    """The compute nodes."""

    login = layout.LOGIN
    shared = layout.SHARED_ON_NODES
    """The shared file system as the nodes see it."""
    shared_here = layout.SHARED
    """The same as this machine's root sees it."""
    keys = layout.KEYS

    @property
    def slurmctld(self) -> daemons.Daemon:
        """The controller: `.kill()`, `.stop()`, `.pause()`, `.resume()`, `.start()`."""
        return daemons.slurmctld()

    def slurmd(self, node: layout.Node) -> daemons.Daemon:
        """A node's slurmd, likewise."""
        return daemons.slurmd(node)

    def run(
        self, *argv: str, user: str = "alice", node: str = "login", stdin: bytes = b"", timeout: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command on a node as an account, to its end, whatever its exit code."""
        command = [*sandbox.enter(node, user), *argv]
        return subprocess.run(command, input=stdin, capture_output=True, timeout=timeout, check=False)

    def ask(self, *argv: str, user: str = "alice", node: str = "login", stdin: bytes = b"", timeout: float = 60) -> str:
        """The output of a command that must succeed."""
        done = self.run(*argv, user=user, node=node, stdin=stdin, timeout=timeout)
        assert done.returncode == 0, f"{argv} as {user} on {node}: {done.returncode} {done.stderr.decode()}"
        return done.stdout.decode().strip()

    def submit(self, script: str, *options: str, user: str = "alice") -> str:
        """Submit the body of a shell script; the job's id. Its output is what `output` reads."""
        home = f"{self.shared}/home/{user}"
        command = ["sbatch", "--parsable", f"--chdir={home}", f"--output={home}/test-%j.txt", *options]
        return self.ask(*command, user=user, stdin=f"#!/bin/bash\n{script}\n".encode())

    def output(self, job: str, user: str = "alice") -> str:
        """What a job from `submit` has written so far."""
        path = self.shared_here / "home" / user / f"test-{job}.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    def show(self, job: str) -> dict[str, str]:
        """The fields of `scontrol show job`."""
        words = self.ask("scontrol", "-o", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_state(self, job: str, *states: str, timeout: float = 60) -> str:
        """Wait until a job is in one of the states, and return that state."""

        def look() -> str | None:
            state = self.show(job)["JobState"]
            return state if state in states else None

        return self.wait_for(look, timeout=timeout)

    def wait_end(self, job: str, timeout: float = 60) -> str:
        """Wait until a job has ended, and return its state."""
        return self.wait_state(job, *FINAL, timeout=timeout)

    def wait_for(self, look: Callable[[], _Found | None], timeout: float = 60) -> _Found:
        """Wait until `look` returns something that is neither None nor false, and return that."""
        limit = time.monotonic() + timeout
        while not (found := look()):
            assert time.monotonic() < limit, f"waited {timeout} s in vain for {look}"
            time.sleep(0.1)
        return found

    def config(self, folder: Path, transport: Transport = "local", identity: Identity = "sudo") -> Path:
        """Write the adapter's config for this cluster into a folder; its state is in there too."""
        return sandbox.write_config(folder, transport=transport, identity=identity)

    def set_min_job_age(self, seconds: int) -> None:
        """How long slurmctld remembers a finished job; at least 2 in practice. Set it back to 300 afterwards."""
        whole.change_min_job_age(seconds)

    def repair(self) -> None:
        """Bring back whatever a test has broken."""
        sandbox.up(len(self.nodes), say=_quiet)


def _quiet(_line: str) -> None:
    pass


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The sandbox, up and whole. Skips where this machine cannot have one, and says what would help."""
    if problem := sandbox.obstacle():
        if os.environ.get("CI"):
            pytest.fail(f"CI must have a sandbox: {problem}")
        pytest.skip(problem)
    sandbox.up(say=_quiet)
    return Cluster(layout.compute_nodes(3))


@pytest.fixture
def short_memory(cluster: Cluster) -> Iterator[None]:
    """Slurm's controller forgets a job two seconds after its end."""
    cluster.set_min_job_age(2)
    yield
    cluster.set_min_job_age(300)
