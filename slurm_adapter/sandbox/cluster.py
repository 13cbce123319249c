"""Bringing the whole sandbox up, looking at it, and taking it down."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from slurm_adapter.errors import Refused, TryAgain
from slurm_adapter.sandbox import accounting, daemons, files, nodes
from slurm_adapter.sandbox.configuration import config_text
from slurm_adapter.sandbox.layout import (
    CONFIG,
    LOG,
    LOGIN,
    MOST_NODES,
    ROOT,
    RUN,
    STATE,
)
from slurm_adapter.sandbox.packages import ACCOUNTING_PACKAGES, PACKAGES, machine_obstacle, missing_packages
from slurm_adapter.sandbox.processes import DAEMONS, control_groups, end_all, foreign_daemons, on_node, own, run_on

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from slurm_adapter.sandbox.settings import Wishes

_USABLE = ("idle", "mixed", "allocated", "completing")
"""Slurm's words for a node that takes, or has, jobs."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node as `status` shows it."""

    name: str
    address: str
    state: str
    """Slurm's word; for the login node `up` or `down`; `unknown` where the controller does not answer."""


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """A daemon as `status` shows it."""

    name: str
    node: str
    pid: int | None
    """None: it is not running."""


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    """The sandbox as it is now."""

    state: Literal["up", "partly", "down"]
    reasons: tuple[str, ...]
    """What is wrong where it is up only partly."""
    notes: tuple[str, ...]
    """What this machine cannot give it even when it is up."""
    accounting: bool
    nodes: tuple[NodeStatus, ...]
    daemons: tuple[DaemonStatus, ...]
    config: Path | None
    """The adapter's config for it."""


def bring_up(wishes: Wishes, say: Callable[[str], None]) -> Path:
    """Make the cluster what is wished, from whatever is there now; the adapter's config file for it."""
    if not 1 <= wishes.nodes <= MOST_NODES:
        raise Refused(f"a sandbox has 1 to {MOST_NODES} nodes, not {wishes.nodes}")
    if problem := obstacle(wishes):
        raise Refused(problem)
    with _lock(say):
        before = files.read_record()
        if before:
            wishes = replace(wishes, min_job_age=before.min_job_age)
        if before == wishes and not any(_problems(wishes)):
            say("the sandbox is up already")
        else:
            _make(wishes, before, say)
        for node in wishes.machines:
            nodes.refresh_etc(node)
        path = _write_default_config(wishes)
        if problem := files.memory_limits_problem():
            say(f"note: {problem}")
        return path


def obstacle(wishes: Wishes) -> str:
    """Why no sandbox can be on this machine as it is, and what would help; empty where one can."""
    if problem := machine_obstacle():
        return problem
    if missing := missing_packages((*PACKAGES, *(ACCOUNTING_PACKAGES if wishes.accounting else ()))):
        return f"packages are missing ({', '.join(missing)}): run `slurm-adapter sandbox install` first"
    if strangers := foreign_daemons():
        return (
            f"this machine runs {', '.join(strangers)}, not the sandbox's: a sandbox beside another cluster would "
            "confuse both. Stop it, or use a machine without Slurm"
        )
    return nodes.obstacle()


def look() -> SandboxStatus:
    """The state of everything that belongs to the sandbox."""
    if problem := machine_obstacle():
        raise Refused(problem)
    wishes = files.read_record()
    if wishes is None:
        left = bool(own()) or ROOT.exists()
        begun = "a sandbox was begun and not finished: `sandbox up` finishes it, `sandbox down` removes it"
        return SandboxStatus("partly" if left else "down", (begun,) if left else (), (), False, (), (), None)
    reasons = tuple(_problems(wishes))
    running = tuple(
        DaemonStatus(name, node.name, next(iter(on_node(node, name)), None)) for name, node in daemons.expected(wishes)
    )
    login_up = nodes.are_whole((LOGIN,))
    states = daemons.node_states() if login_up and daemons.slurmctld().pids else {}
    shown = (
        NodeStatus(LOGIN.name, LOGIN.address, "up" if login_up else "down"),
        *(NodeStatus(node.name, node.address, states.get(node.name, "unknown")) for node in wishes.compute),
    )
    problem = files.memory_limits_problem()
    return SandboxStatus(
        state="up" if not reasons else "partly" if own() else "down",
        reasons=reasons,
        notes=(problem,) if problem else (),
        accounting=wishes.accounting,
        nodes=shown,
        daemons=running,
        config=CONFIG if CONFIG.exists() else None,
    )


def take_down(say: Callable[[str], None]) -> None:
    """Remove everything: jobs, daemons, network, namespaces, control groups, files. Safe to repeat."""
    if problem := machine_obstacle():
        raise Refused(problem)
    with _lock(say):
        if ROOT.exists() or own():
            say("ending all processes of the sandbox")
        _remove_nodes()
        _remove_control_groups()
        if ROOT.exists():
            say(f"removing {ROOT}")
        while ROOT.exists():
            with suppress(FileNotFoundError):  # somebody whose folder it is removes something there, too
                shutil.rmtree(ROOT)


def change_min_job_age(seconds: int) -> None:
    """Let slurmctld forget finished jobs after so many seconds, now and after the next `up`."""
    wishes = files.read_record()
    if wishes is None:
        raise Refused("there is no sandbox: bring it up first")
    wishes = replace(wishes, min_job_age=seconds)
    files.write_record(wishes)
    files.write_slurm_files(wishes)
    done = run_on(LOGIN, ["scontrol", "reconfigure"])
    if done.returncode:
        raise Refused(f"slurmctld did not take the new MinJobAge: {done.stderr.decode(errors='replace').strip()}")


def _problems(wishes: Wishes) -> Iterator[str]:
    """What keeps the cluster from being up, the cheapest to find out first; nothing once one thing is missing whole."""
    if not nodes.are_whole(wishes.machines):
        yield "its namespaces or its network are not whole"
        return
    missing = [f"{name} on {node.name}" for name, node in daemons.expected(wishes) if not on_node(node, name)]
    if missing:
        yield f"not running: {', '.join(missing)}"
        return
    if stalled := [process.name for process in own() if process.stopped and process.name in DAEMONS]:
        yield f"stalled by a signal: {', '.join(stalled)}"
        return
    if files.is_outdated():
        yield "packages were installed after it was started"
        return
    if files.differing_slurm_files(wishes):
        yield "Slurm's configuration is not what it should be"
        return
    if not daemons.munge_answers():
        yield "munged does not answer"
        return
    states = daemons.node_states()
    if not states:
        yield "slurmctld does not answer"
    for node in wishes.compute:
        if states and states.get(node.name, "missing") not in _USABLE:
            yield f"{node.name} is {states.get(node.name, 'missing')}"


def _make(wishes: Wishes, before: Wishes | None, say: Callable[[str], None]) -> None:
    files.make_folders(wishes)
    files.make_keys()
    if before is None or before.nodes != wishes.nodes or not nodes.are_whole(wishes.machines):
        say(f"making the login node and {wishes.nodes} compute nodes")
        _remove_nodes()
        nodes.build(wishes)
    for process in own():
        if process.stopped and process.name in DAEMONS:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
    changed = files.write_slurm_files(wishes) or files.is_outdated()
    files.write_record(wishes)
    _start_munged(say)
    if changed:
        daemons.slurmctld().stop()
        for node in wishes.compute:
            daemons.slurmd(node).stop()
    if wishes.accounting:
        accounting.start_accounting(say)
        accounting.register()  # before slurmctld, which tells an unknown cluster's jobs to nobody
    _start_slurm(wishes, say)
    if not wishes.accounting:
        accounting.stop_accounting()
    if not daemons.sshd().pids:
        daemons.sshd().start()
    _wait_for_nodes(wishes, say)


def _start_munged(say: Callable[[str], None]) -> None:
    daemon = daemons.munged()
    if daemon.pids and not daemons.munge_answers():
        daemon.kill()
    if not daemon.pids:
        say("starting munged")
        for stale in (RUN / "munge").iterdir():
            stale.unlink()
        daemon.start()


def _start_slurm(wishes: Wishes, say: Callable[[str], None]) -> None:
    control = daemons.slurmctld()
    if control.pids and not daemons.slurmctld_answers():
        control.kill()
    if not control.pids:
        say("starting slurmctld")
        control.start()
    for node in wishes.compute:
        if not daemons.slurmd(node).pids:
            say(f"starting slurmd on {node.name}")
            daemons.slurmd(node).start()


def _wait_for_nodes(wishes: Wishes, say: Callable[[str], None], patience: float = 60) -> None:
    """Until Slurm would start jobs on every node. A node that it keeps down or drained is told to resume."""
    say("waiting for the nodes")
    limit = time.monotonic() + patience
    told = False
    while True:
        states = daemons.node_states()
        unfit = {node.name: states.get(node.name, "unknown") for node in wishes.compute}
        unfit = {name: state for name, state in unfit.items() if state not in _USABLE}
        if not unfit:
            return
        if time.monotonic() > limit:
            words = ", ".join(f"{name} is {state}" for name, state in unfit.items())
            raise TryAgain(f"the sandbox's nodes are not ready after {patience:.0f} s: {words}. Its logs are in {LOG}")
        if not told and (stuck := [n for n, state in unfit.items() if state.startswith(("drain", "down"))]):
            run_on(LOGIN, ["scontrol", "update", f"NodeName={','.join(stuck)}", "State=RESUME"])
            told = time.monotonic() > limit - patience + 5
        time.sleep(0.1)


def _remove_nodes() -> None:
    accounting.stop_accounting()
    for group in _slurm_control_groups():
        with suppress(OSError):  # a frozen process does not die
            (group / "freezer.state").write_text("THAWED", encoding="utf-8")
    end_all()
    nodes.remove()


def _slurm_control_groups() -> Iterator[Path]:
    """The control groups that slurmd makes on all nodes, and those of its jobs."""
    for own_group in control_groups():
        for node in own_group.parent.glob("slurm_node[0-9][0-9][0-9]"):
            yield node
            yield from (path for path in node.rglob("*") if path.is_dir())


def _remove_control_groups() -> None:
    groups = [*_slurm_control_groups(), *control_groups()]
    for group in sorted(groups, key=lambda path: len(path.parts), reverse=True):
        for _ in range(50):  # the kernel lets go of the dead a moment after they are gone
            try:
                group.rmdir()
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.02)
            else:
                break


def _write_default_config(wishes: Wishes) -> Path:
    files.replace(CONFIG, config_text(STATE, wishes.nodes, transport="local", identity="sudo"))
    return CONFIG


@contextmanager
def _lock(say: Callable[[str], None], patience: float = 120) -> Iterator[None]:
    """One `up` or `down` at a time. The lock is on the folder above `ROOT`: `down` leaves no file behind."""
    folder = os.open(ROOT.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    limit = time.monotonic() + patience
    told = False
    try:
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > limit:
                    raise TryAgain("another `sandbox up` or `down` is at work: look with ps") from None
                if not told:
                    say("waiting for another `sandbox` command to finish")
                    told = True
                time.sleep(0.1)
            else:
                break
        yield
    finally:
        os.close(folder)
