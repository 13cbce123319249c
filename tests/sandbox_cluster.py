"""The sandbox for tests: one cluster for the whole run, brought up where it is not up, and left up."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from slurm_adapter import sandbox
from slurm_adapter.core.errors import TryAgain
from slurm_adapter.sandbox import accounting, daemons, processes
from slurm_adapter.sandbox import cluster as whole
from slurm_adapter.sandbox import layout as layouts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from slurm_adapter.sandbox.configuration import Identity, Transport

_Found = TypeVar("_Found")

PYSLURM = "/opt/pyslurm/bin/python"
"""The Python of a release's root, or of this machine, that has the pyslurm for its Slurm (docs/installation.md)."""

FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED", "DEADLINE")


@dataclass(frozen=True)
class Cluster:
    """A Slurm cluster that is up, and what a test does with it."""

    layout: layouts.Layout
    """Its folders and addresses."""
    release: str
    """The release that its nodes run; empty for the machine's own."""

    shared = layouts.SHARED_ON_NODES
    """The shared file system as the nodes see it."""

    @property
    def login(self) -> layouts.Node:
        """The login node."""
        return self.layout.login

    @property
    def nodes(self) -> tuple[layouts.Node, ...]:
        """The compute nodes."""
        return self.layout.compute(3)

    @property
    def shared_here(self) -> Path:
        """The shared file system as this machine's root sees it."""
        return self.layout.shared

    @property
    def keys(self) -> Path:
        """The folder with the adapter's SSH key and `known_hosts`."""
        return self.layout.keys

    @property
    def slurmctld(self) -> daemons.Daemon:
        """The controller: `.kill()`, `.stop()`, `.pause()`, `.resume()`, `.start()`."""
        return daemons.slurmctld(self.layout)

    @property
    def sshd(self) -> daemons.Daemon:
        """The login node's SSH server."""
        return daemons.sshd(self.layout)

    def slurmd(self, node: layouts.Node) -> daemons.Daemon:
        """A node's slurmd, likewise."""
        return daemons.slurmd(node)

    def enter(self, node: str = "login", user: str = "ucloud") -> tuple[str, ...]:
        """The words before a command that run it on a node as an account."""
        return sandbox.enter(node, user, name=self.layout.name)

    def run(
        self, *argv: str, user: str = "alice", node: str = "login", stdin: bytes = b"", timeout: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command on a node as an account, to its end, whatever its exit code."""
        command = [*self.enter(node, user), *argv]
        return subprocess.run(command, input=stdin, capture_output=True, timeout=timeout, check=False)

    def ask(self, *argv: str, user: str = "alice", node: str = "login", stdin: bytes = b"", timeout: float = 60) -> str:
        """The output of a command that must succeed."""
        done = self.run(*argv, user=user, node=node, stdin=stdin, timeout=timeout)
        assert done.returncode == 0, f"{argv} as {user} on {node}: {done.returncode} {done.stderr.decode()}"
        return done.stdout.decode(errors="replace").strip()

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
        return sandbox.write_config(folder, transport=transport, identity=identity, name=self.layout.name)

    def save_state(self) -> None:
        """Wait until slurmctld has saved what it knows now: one that is killed forgets what came after that."""
        state = self.layout.spool / "slurmctld" / "job_state"
        before = state.stat().st_mtime
        # Each of the two is a change that makes it save, some seconds later and at most every few.
        self.ask("scancel", self.submit("true", "--hold"))
        self.wait_for(lambda: state.stat().st_mtime > before)
        before = state.stat().st_mtime
        self.ask("scancel", self.submit("true", "--hold"))
        self.wait_for(lambda: state.stat().st_mtime > before)

    def set_min_job_age(self, seconds: int) -> None:
        """How long slurmctld remembers a finished job; at least 2 in practice. Set it back to 300 afterwards."""
        whole.change_min_job_age(self.layout, seconds)

    def repair(self, *, accounting: bool = False) -> None:
        """Bring back what a test has broken."""
        sandbox.up(len(self.nodes), accounting=accounting, name=self.layout.name, release=self.release, say=_quiet)

    def start_accounting(self) -> None:
        """Start what is not running of slurmdbd and its database."""
        accounting.start_accounting(self.layout, _quiet)

    def need_pyslurm(self) -> None:
        """Skip the test if the login node has no pyslurm: it must be built for the release's own Slurm."""
        if self.run(PYSLURM, "-c", "import pyslurm").returncode:
            pytest.skip(f"{PYSLURM} on the login node has no pyslurm; docs/installation.md explains how to build it")

    def kill(self, name: str) -> None:
        """Kill a program on the login node."""
        processes.end(processes.on_node(self.login, name))


def _quiet(_line: str) -> None:
    pass


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sandbox")
    group.addoption("--sandbox-name", default="", help="the sandbox to test with, if not the one without a name")
    group.addoption(
        "--sandbox-release", default="", help="the release that its nodes run, if it is to have another one"
    )
    group.addoption("--releases", default="", help="run tests with the mark `releases` on these, too: trixie,sid")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests with the mark `releases` on the tests' own sandbox, and on one of each of `--releases`."""
    releases = [name for name in metafunc.config.getoption("--releases").split(",") if name]
    if releases and metafunc.definition.get_closest_marker("releases"):
        metafunc.fixturenames.append("release")
        metafunc.parametrize("release", ["", *releases], ids=["here", *releases], indirect=True, scope="session")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep what needs no cluster to one run, and give each sandbox to one worker (`pytest -n 3 --dist loadgroup`)."""
    kept = []
    for item in items:
        callspec = getattr(item, "callspec", None)  # pytest gives it to parametrized tests alone
        release = callspec.params.get("release", "") if callspec else ""
        if item.get_closest_marker("sandbox"):
            item.add_marker(pytest.mark.xdist_group(f"sandbox {release}"))
        elif release:
            continue
        kept.append(item)
    items[:] = kept


_NOTES = pytest.StashKey[list[str]]()


def notes(config: pytest.Config) -> list[str]:
    """Return what the run must say at its end."""
    return config.stash.setdefault(_NOTES, [])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Give a worker's notes to the process that speaks."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["notes"] = notes(session.config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the notes of a worker (pytest-xdist)."""
    notes(node.config).extend(getattr(node, "workeroutput", {}).get("notes", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say loudly which release was not the one that was asked for."""
    for note in notes(config):
        terminalreporter.section("NOT AS ASKED FOR", red=True, bold=True)
        terminalreporter.line(note)


@pytest.fixture(scope="session")
def release(request: pytest.FixtureRequest) -> str:
    """A release of `--releases`; empty for the tests' own sandbox."""
    return str(getattr(request, "param", ""))


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, release: str) -> Iterator[Cluster]:
    """A sandbox, up and whole. Skips if this machine cannot have one, and says what would help."""
    config = request.config
    if of_releases := bool(release):
        release = installed(config, release)
        name = "-".join(word for word in (config.getoption("--sandbox-name") or "pytest", release) if word)
    else:
        name, release = config.getoption("--sandbox-name"), config.getoption("--sandbox-release")
    if problem := sandbox.obstacle(release=release):
        if os.environ.get("CI"):
            pytest.fail(f"CI must have a sandbox: {problem}")
        pytest.skip(problem)
    sandbox.up(name=name, release=release or None, say=_quiet)
    found = Cluster(layouts.layout_of(name), sandbox.status(name).release)
    yield found
    if of_releases:
        sandbox.down(_quiet, name=name)


def installed(config: pytest.Config, release: str) -> str:
    """Install a release, and return its name: sid may be broken, and then it is forky. The run says so at its end."""
    lines: list[str] = []
    try:
        sandbox.install(lines.append, release=release)
    except TryAgain as problem:
        if release != "sid":
            raise
        release = "forky"
        sandbox.install(lines.append, release=release)
        lines.append(f"note: {problem}. Its tests ran on {release} instead")
    notes(config).extend(line for line in lines if line.startswith("note: "))
    return release


@pytest.fixture
def short_memory(cluster: Cluster) -> Iterator[None]:
    """Slurm's controller forgets a job two seconds after its end."""
    cluster.set_min_job_age(2)
    yield
    cluster.set_min_job_age(300)
