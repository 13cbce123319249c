"""Start the whole sandbox, report its state, and remove it."""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from slurm_adapter.core.errors import Refused, TryAgain
from slurm_adapter.sandbox import accounting, daemons, files, nodes, programs, releases
from slurm_adapter.sandbox.configuration import config_text
from slurm_adapter.sandbox.layout import BASE, MOST_NODES, Layout, layout_of
from slurm_adapter.sandbox.packages import machine_obstacle, missing_packages, wanted_packages
from slurm_adapter.sandbox.processes import (
    DAEMONS,
    control_groups,
    end_all,
    foreign_daemons,
    living,
    locked,
    on_node,
    own,
    run_on,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slurm_adapter.sandbox.settings import Wishes

_USABLE = ("idle", "mixed", "allocated", "completing")
"""Slurm's states of a node that accepts or runs jobs."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """State of a node, for `status`."""

    name: str
    address: str
    state: str
    """Slurm's state; `up` or `down` for the login node; `unknown` if slurmctld does not answer."""


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """State of a daemon, for `status`."""

    name: str
    node: str
    pid: int | None
    """None if it is not running."""


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    """State of the whole sandbox."""

    state: Literal["up", "partly", "down"]
    reasons: tuple[str, ...]
    """Problems, if it is only partly up."""
    notes: tuple[str, ...]
    """Features that this machine cannot offer even if the sandbox is up."""
    accounting: bool
    release: str
    """Release of the nodes. Empty for the machine's own."""
    nodes: tuple[NodeStatus, ...]
    daemons: tuple[DaemonStatus, ...]
    config: Path | None
    """The adapter's configuration file for the sandbox."""


def bring_up(name: str, wishes: Wishes, say: Callable[[str], None]) -> Path:
    """Build or change the cluster to match `wishes`. Return the path of the adapter's configuration for it."""
    if not 1 <= wishes.nodes <= MOST_NODES:
        raise Refused(f"a sandbox has 1 to {MOST_NODES} nodes, not {wishes.nodes}")
    if problem := obstacle(wishes):
        raise Refused(problem)
    layout = _reserve(name, say)
    with locked(layout.root, say):
        if layout_of(name) != layout:
            raise TryAgain("the sandbox was removed at the same time: run the command again")
        before = files.read_record(layout)
        if before:
            wishes = replace(wishes, min_job_age=before.min_job_age)
        if before == wishes and not any(_problems(layout, wishes)):
            say("the sandbox is already up")
        else:
            _make(layout, wishes, before, say)
        if not wishes.release:
            for node in (layout.login, *layout.compute(wishes.nodes)):
                nodes.refresh_etc(node)
        programs.install(layout, say)
        path = _write_default_config(layout, wishes)
        if problem := files.memory_limits_problem(layout):
            say(f"note: {problem}")
        return path


def obstacle(wishes: Wishes) -> str:
    """Return why this machine cannot run a sandbox, and a fix. Empty if it can."""
    if problem := machine_obstacle():
        return problem
    if not wishes.release and (missing := missing_packages(wanted_packages(accounting=wishes.accounting))):
        return f"packages are missing ({', '.join(missing)}): run `slurm-adapter sandbox install`"
    if strangers := foreign_daemons():
        return (
            f"this machine runs {', '.join(strangers)}, which does not belong to a sandbox. The two clusters would "
            "disturb each other: stop it, or use a machine without Slurm"
        )
    return nodes.obstacle()


def look(layout: Layout) -> SandboxStatus:
    """Return the state of the sandbox, its nodes and its daemons."""
    if problem := machine_obstacle():
        raise Refused(problem)
    wishes = files.read_record(layout)
    if wishes is None:
        left = bool(own(layout)) or layout.root.exists()
        begun = "the last `sandbox up` did not finish: `sandbox up` completes the sandbox, `sandbox down` removes it"
        return SandboxStatus("partly" if left else "down", (begun,) if left else (), (), False, "", (), (), None)
    reasons = tuple(_problems(layout, wishes))
    running = tuple(
        DaemonStatus(name, node.name, next(iter(on_node(node, name)), None))
        for name, node in daemons.expected(layout, wishes)
    )
    login_up = nodes.are_whole(layout, 0)
    states = daemons.node_states(layout) if login_up and daemons.slurmctld(layout).pids else {}
    shown = (
        NodeStatus(layout.login.name, layout.login.address, "up" if login_up else "down"),
        *(
            NodeStatus(node.name, node.address, states.get(node.name, "unknown"))
            for node in layout.compute(wishes.nodes)
        ),
    )
    problem = files.memory_limits_problem(layout)
    return SandboxStatus(
        state="up" if not reasons else "partly" if own(layout) else "down",
        reasons=reasons,
        notes=(problem,) if problem else (),
        accounting=wishes.accounting,
        release=wishes.release,
        nodes=shown,
        daemons=running,
        config=layout.config if layout.config.exists() else None,
    )


def take_down(layout: Layout, say: Callable[[str], None]) -> None:
    """Remove everything: jobs, daemons, network, namespaces, control groups, files. Safe to repeat."""
    if problem := machine_obstacle():
        raise Refused(problem)
    with locked(layout.root, say):
        say("stopping all processes of the sandbox")
        _remove_nodes(layout)
        _remove_control_groups(layout)
        say(f"removing {layout.root}")
        while layout.root.exists():
            with suppress(FileNotFoundError):  # the owner of a folder may remove files at the same time
                shutil.rmtree(layout.root)


def change_min_job_age(layout: Layout, seconds: int) -> None:
    """Set slurmctld's MinJobAge in seconds, now and for the next `up`."""
    wishes = files.read_record(layout)
    if wishes is None:
        raise Refused("there is no sandbox: run `slurm-adapter sandbox up`")
    wishes = replace(wishes, min_job_age=seconds)
    files.write_record(layout, wishes)
    files.write_slurm_files(layout, wishes)
    done = run_on(layout.login, ["scontrol", "reconfigure"])
    if done.returncode:
        raise Refused(f"slurmctld did not accept the new MinJobAge: {done.stderr.decode(errors='replace').strip()}")


def _problems(layout: Layout, wishes: Wishes) -> Iterator[str]:
    """Yield why the cluster is not up. Cheap checks come first; later ones are skipped if a whole part is missing."""
    if not nodes.are_whole(layout, wishes.nodes):
        yield "namespaces or network are incomplete"
        return
    missing = [f"{name} on {node.name}" for name, node in daemons.expected(layout, wishes) if not on_node(node, name)]
    if missing:
        yield f"not running: {', '.join(missing)}"
        return
    if stalled := [process.name for process in own(layout) if process.stopped and process.name in DAEMONS]:
        yield f"stopped by a signal (SIGSTOP): {', '.join(stalled)}"
        return
    if files.is_outdated(layout, wishes):
        yield "packages were installed after the sandbox was started"
        return
    if files.differing_slurm_files(layout, wishes):
        yield "Slurm's configuration files differ from the expected ones"
        return
    if not daemons.munge_answers(layout):
        yield "munged does not answer"
        return
    states = daemons.node_states(layout)
    if not states:
        yield "slurmctld does not answer"
    for node in layout.compute(wishes.nodes):
        if states and states.get(node.name, "missing") not in _USABLE:
            yield f"{node.name} is {states.get(node.name, 'missing')}"


def _make(layout: Layout, wishes: Wishes, before: Wishes | None, say: Callable[[str], None]) -> None:
    _make_nodes(layout, wishes, before, say)
    for process in own(layout):
        if process.stopped and process.name in DAEMONS:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
    changed = files.write_slurm_files(layout, wishes) or files.is_outdated(layout, wishes)
    files.write_record(layout, wishes)
    releases.must_be_there(wishes.release)
    _start_munged(layout, say)
    if changed:
        daemons.slurmctld(layout).stop()
        for node in layout.compute(wishes.nodes):
            daemons.slurmd(node).stop()
        # From Slurm 24.05 this file has the cluster's id in accounting, and slurmctld does not start with another id.
        (layout.spool / "slurmctld" / "clustername").unlink(missing_ok=True)
    if wishes.accounting:
        accounting.start_accounting(layout, say)
        accounting.register(layout)  # before slurmctld, which records no jobs of an unknown cluster
    _start_slurm(layout, wishes, say)
    if not wishes.accounting:
        accounting.stop_accounting(layout)
    if not daemons.sshd(layout).pids:
        daemons.sshd(layout).start()
    _wait_for_nodes(layout, wishes, say)


def _make_nodes(layout: Layout, wishes: Wishes, before: Wishes | None, say: Callable[[str], None]) -> None:
    other = before is None or before.release != wishes.release
    anew = before is None or other or before.nodes != wishes.nodes or not nodes.are_whole(layout, wishes.nodes)
    if anew:
        say(f"creating the login node and {wishes.nodes} compute nodes")
        _remove_nodes(layout)
    if other:
        shutil.rmtree(layout.spool, ignore_errors=True)  # another version of Slurm cannot read it
    files.make_folders(layout, wishes)
    files.make_keys(layout)
    if anew:
        nodes.build(layout, wishes)


def _start_munged(layout: Layout, say: Callable[[str], None]) -> None:
    daemon = daemons.munged(layout)
    if daemon.pids and not daemons.munge_answers(layout):
        daemon.kill()
    if not daemon.pids:
        say("starting munged")
        for stale in (layout.run / "munge").iterdir():
            stale.unlink()
        daemon.start()


def _start_slurm(layout: Layout, wishes: Wishes, say: Callable[[str], None]) -> None:
    control = daemons.slurmctld(layout)
    if control.pids and not daemons.slurmctld_answers(layout):
        control.kill()
    if not control.pids:
        say("starting slurmctld")
        control.start()
    for node in layout.compute(wishes.nodes):
        if not daemons.slurmd(node).pids:
            say(f"starting slurmd on {node.name}")
            daemons.slurmd(node).start()


def _wait_for_nodes(layout: Layout, wishes: Wishes, say: Callable[[str], None], patience: float = 60) -> None:
    """Wait until Slurm can start jobs on every node. Resume nodes that are down or drained."""
    say("waiting for the nodes")
    limit = time.monotonic() + patience
    resumed = False
    while True:
        states = daemons.node_states(layout)
        unfit = {node.name: states.get(node.name, "unknown") for node in layout.compute(wishes.nodes)}
        unfit = {name: state for name, state in unfit.items() if state not in _USABLE}
        if not unfit:
            return
        if time.monotonic() > limit:
            words = ", ".join(f"{name} is {state}" for name, state in unfit.items())
            raise TryAgain(
                f"the sandbox's nodes are not ready after {patience:.0f} s: {words}. The logs are in {layout.log}"
            )
        if not resumed and (stuck := [n for n, state in unfit.items() if state.startswith(("drain", "down"))]):
            run_on(layout.login, ["scontrol", "update", f"NodeName={','.join(stuck)}", "State=RESUME"])
            resumed = time.monotonic() > limit - patience + 5
        time.sleep(0.1)


def _remove_nodes(layout: Layout) -> None:
    accounting.stop_accounting(layout)
    for process in own(layout):
        with suppress(OSError):  # a frozen process does not die
            for line in Path(f"/proc/{process.pid}/cgroup").read_text(encoding="utf-8").splitlines():
                _, controllers, path = line.split(":", 2)
                if controllers == "freezer":
                    Path(f"/sys/fs/cgroup/freezer{path}/freezer.state").write_text("THAWED", encoding="utf-8")
    end_all(layout)
    nodes.remove(layout)


def _slurm_control_groups(layout: Layout) -> Iterator[Path]:
    """Yield the control groups of slurmd on all nodes and of its jobs. None if another sandbox uses them."""
    if any(process.name == "slurmd" and process.mark != layout.mark for process in living()):
        return
    for own_group in control_groups(layout):
        for node in own_group.parent.glob("slurm_node[0-9][0-9][0-9]"):
            yield node
            yield from (path for path in node.rglob("*") if path.is_dir())


def _remove_control_groups(layout: Layout) -> None:
    groups = [*_slurm_control_groups(layout), *control_groups(layout)]
    for group in sorted(groups, key=lambda path: len(path.parts), reverse=True):
        for _ in range(50):  # the kernel releases a group shortly after its processes ended
            try:
                group.rmdir()
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.02)
            else:
                break


def _write_default_config(layout: Layout, wishes: Wishes) -> Path:
    files.replace(layout.config, config_text(layout, layout.state, wishes.nodes, transport="local", identity="sudo"))
    return layout.config


def _reserve(name: str, say: Callable[[str], None]) -> Layout:
    """Return a sandbox's layout, with a number that no other sandbox gets."""
    with locked(BASE.parent, say):
        layout = layout_of(name)
        layout.root.mkdir(exist_ok=True)
        files.replace(layout.reservation, f"{layout.number}\n")
    return layout
