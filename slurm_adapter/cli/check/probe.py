"""Submit a probe job to each partition, and report which step failed: `check --job`.

A probe goes through the same code as every other job. It has two nodes if the machine table and the partition allow it.
When it runs, a second job names it as its peer, on a third node if one is free. Both write to their output what they
find on their nodes (`templates/check/probe.sh`). All partitions are tried at the same time.
"""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slurm_adapter.cli.check.findings import Finding, Level
from slurm_adapter.cluster.transports.interface import Command
from slurm_adapter.core import bash
from slurm_adapter.core.errors import AdapterError, InvalidInput, TryAgain, Unknown
from slurm_adapter.core.specification import Owner, parse_specifications
from slurm_adapter.core.states import JobState
from slurm_adapter.jobs import cancel, logs, probes, submit
from slurm_adapter.jobs.item import Item
from slurm_adapter.jobs.sync import sync
from slurm_adapter.local.template_folder import packaged_templates
from slurm_adapter.translation.application_file import read_application_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.cluster.schedulers.interface import Partition
    from slurm_adapter.core.config_tables import Machine
    from slurm_adapter.core.records import Record

START_SECONDS = 60.0
"""Limit for the time of a probe in the queue."""

RUN_SECONDS = 180
"""Limit for the run time of a probe, and its time limit in Slurm, which counts minutes."""

ELSEWHERE_SECONDS = 15.0
"""Limit for the time that the second job waits for a node of its own."""

REMOVE_SECONDS = 60.0

_PAUSE = 0.3

_HOLDERS = 'cat -- "$1"/node/holders-*.txt 2>/dev/null'

USER_SCRIPTS = {"check_probe": _HOLDERS}
"""Scripts that run as the account of a user, by name; see `slurm_adapter.cli.sudo_helper`."""

_APPLICATION = f"""
application: v2
name: {probes.NAME}
version: "{probes.VERSION}"
software: {{type: Native, load: []}}
features: {{multiNode: true, jobLinking: true}}
parameters:
  code: {{type: TextArea, optional: false}}
  exclude: {{type: Text, optional: true}}
invocation: |
  {{% if exclude %}}{{{{ sbatch("exclude", exclude) }}}}{{% endif %}}
  {{- systemLoad -}}
  {{{{ srun() }}}} /bin/sh -c {{{{ code }}}}
"""

TOOLS = (
    "awk bash cat chmod cmp cp cut date getent grep head id ln mkdir mkfifo mktemp mount mv nsenter od readlink rm "
    "rmdir scontrol sed setsid sh sleep sort squeue srun stat tail timeout tr umount uname unshare xargs"
)
"""Programs that the shell files of a job need on its nodes."""

_STEPS = {
    "home": (Level.WARNING, "HOME", "create the account's home there, or mount it on the nodes"),
    "temporary": (Level.PROBLEM, "temporary files", "free or mount that folder on the node"),
    "shared": (Level.PROBLEM, "the folder of the hosts files", "mount the file system of `shared_dir` on the node"),
    "drives": (Level.WARNING, "drives", "mount them on the node, at the same path as on the login node"),
    "tools": (Level.PROBLEM, "programs", "install them on the node, in a directory of PATH"),
    "name": (
        Level.PROBLEM,
        "names of jobs",
        "see peers.address and peers.methods, and the node's nsswitch.conf (hosts: files)",
    ),
    "reach": (
        Level.PROBLEM,
        "the network between jobs",
        "allow connections between the nodes at these addresses (routes, firewall), or set peers.address",
    ),
}
"""Each step of the probe: level of a failure, subject, and fix."""

FAILURES = (
    (r"lacks programs [^:]*: ([\w.-]+(?:[ ,]+[\w.-]+)*)", "install {0} on the nodes"),
    (r"([\w.-]+): (?:command )?not found", "install {0} on the nodes"),
    (r"(/\S*bin/[\w.-]+|\b[\w.-]+): Permission denied", "make {0} executable for all users on the nodes"),
    (r"has no (\w+) \(package", "install {0} on the nodes"),
    (r"([\w./-]+): (?:unrecognized|invalid|illegal) option", "{0} on the nodes is too old; install a newer one"),
    (
        r"no method works that gives the job its names",
        "allow unprivileged user namespaces there (user.max_user_namespaces), or install bubblewrap or libnss-wrapper",
    ),
    (
        (
            r"its folder or its output file cannot be opened|cannot be (?:made nor )?read; nothing was run|No such file"
            r"|names did not come|is \S+ mounted there"
        ),
        "mount the file system of jobs.folder on every node, at the same path",
    ),
    (r"address of \S+ is not known", "make node names resolvable on the nodes, or set peers.address"),
    (r"never started|are not seen on", "mount the file system of `shared_dir` on every node, at the same path"),
    (r"NODE_FAIL|BOOT_FAIL|node fail", "see slurmd's log on the node"),
)
"""Patterns in the messages of a failed probe, and their fixes."""

_REFUSALS = (
    (r"folder .* could not be made", "create the folder of jobs as the account, or change jobs.folder"),
    (r"account|association|qos", "give the account the permission (sacctmgr), or use another account or qos"),
    (r"group|partition", "allow the account to use the partition (AllowGroups, AllowAccounts in slurm.conf)"),
    (r"", "see the messages of slurmctld"),
)


@dataclass(slots=True)
class _Probe:
    """The probe jobs of one partition."""

    name: str
    machine: Machine
    product: tuple[str, str]
    nodes: int
    server: Record | None = None
    client: Record | None = None
    began: float = field(default_factory=time.monotonic)
    done: bool = False
    runs: bool = False
    """True if its first job was seen running."""
    elsewhere: bool = False
    """True if its second job must have another node than the first."""
    trouble: str = ""
    """Why its second job was not submitted yet."""


def probe_site(adapter: Adapter, user: str | None) -> Iterator[Finding]:
    """Try every partition of the machine table as a user. Remove all probe jobs at the end."""
    owner = _choose_owner(adapter, user)
    account = adapter.account_of(owner)
    with adapter.probe_lock() as ours:
        if not ours:
            yield Finding(Level.PROBLEM, "another `check --job` is running on this site; wait for its end")
            return
        _remove(adapter)  # left by a check that was killed
        probes.begin(adapter)
        try:
            yield from _try_all(adapter, owner, account)
        finally:
            remaining = _remove(adapter)
        if remaining:
            yield Finding(
                Level.WARNING,
                f"probe jobs {', '.join(remaining)} have not ended yet; the next check or sync removes them",
            )
        else:
            yield Finding(Level.GOOD, "the probe jobs were removed, with their folders and records")


def _choose_owner(adapter: Adapter, user: str | None) -> Owner:
    config = adapter.config
    name = user or config.command_line.user or next(iter(config.identity.users), None)
    if name is None:
        raise InvalidInput("the probe jobs need an owner: give --user, or set command_line.user in the configuration")
    return Owner(created_by=name, project=None if user else config.command_line.project)


def _try_all(adapter: Adapter, owner: Owner, account: str) -> Iterator[Finding]:
    pending: list[_Probe] = []
    partitions = adapter.scheduler.partitions()
    for probe in _choose(adapter, partitions):
        yield Finding(Level.NOTE, f"{probe.name}: trying {probe.nodes} nodes as {account} (user {owner.created_by})")
        partition = partitions.get(probe.machine.partition)
        if partition is None or partition.state != "UP":
            state = "missing" if partition is None else partition.state
            yield Finding(Level.PROBLEM, f"{probe.name}: the partition is {state}; no job was submitted to it")
            continue
        try:
            probe.server = _submit(adapter, owner, probe, None)
        except AdapterError as error:
            yield _refused(probe, "submit", error)
        else:
            pending.append(probe)
    while pending:
        with adapter.sync_lock() as ours:
            if ours:
                sync(adapter)
        for probe in pending:
            yield from _step(adapter, owner, probe)
        pending = [probe for probe in pending if not probe.done]
        time.sleep(_PAUSE)


def _choose(adapter: Adapter, partitions: Mapping[str, Partition]) -> Iterator[_Probe]:
    """Yield a probe for the smallest machine of each partition, account and QOS."""
    smallest: dict[tuple[str | None, ...], tuple[Machine, tuple[str, str]]] = {}
    for category, products in adapter.config.machines.items():
        for name, machine in products.items():
            key = (machine.partition, machine.account, machine.qos)
            size = (machine.gpus, machine.exclusive, machine.cpus, machine.memory)
            known = smallest.get(key)
            if known is None or size < (known[0].gpus, known[0].exclusive, known[0].cpus, known[0].memory):
                smallest[key] = machine, (category, name)
    for (_, account, qos), (machine, product) in smallest.items():
        partition = partitions.get(machine.partition)
        most = 1 if partition is None else sum(partition.shapes.values()) + partition.hidden_nodes
        if partition is not None and partition.max_nodes is not None:
            most = min(most, partition.max_nodes)
        what = "".join(f", {key} {value}" for key, value in (("account", account), ("QOS", qos)) if value is not None)
        nodes = max(1, min(2, machine.max_nodes, most))
        yield _Probe(f"partition {machine.partition}{what}", machine, product, nodes, elsewhere=most > nodes)


def _submit(adapter: Adapter, owner: Owner, probe: _Probe, peer: Record | None) -> Record:
    """Submit the first job of a probe, or with `peer` its second job."""
    shared = "" if adapter.config.peers.private else adapter.peers_folder
    hosts = [] if peer is None else ["probe", *(f"probe-{rank}" for rank in range(peer.replicas))]
    values = {
        "shared": shared,
        "drives": "\n".join(drive.path for drive in adapter.config.drives if not drive.users and not drive.projects),
        "hosts": " ".join(hosts),
        "tools": TOOLS,
        "stays": "yes" if peer is None else "no",
    }
    head = "".join(f"{name}={bash.quote(value)}\n" for name, value in values.items())
    code = head + (packaged_templates() / "check" / "probe.sh").read_text(encoding="utf-8")
    parameters = {"code": {"type": "text", "value": code}}
    if peer is not None and probe.elsewhere:
        parameters["exclude"] = {"type": "text", "value": ",".join(peer.nodes)}
    category, product = probe.product
    specification = {
        "application": {"name": probes.NAME, "version": probes.VERSION},
        "product": {"provider": adapter.config.provider, "category": category, "id": product},
        "name": "slurm-adapter check",
        "replicas": probe.nodes if peer is None else 1,
        "parameters": parameters,
        "resources": [] if peer is None else [{"type": "peer", "hostname": "probe", "jobId": peer.id}],
        "timeAllocation": {"hours": 0, "minutes": min(RUN_SECONDS, probe.machine.max_time) // 60 or 1, "seconds": 0},
    }
    [parsed] = parse_specifications(json.dumps(specification).encode())
    item = Item(parsed, application=read_application_file(_APPLICATION, probes.NAME))
    return submit.submit(adapter, owner, [item])[0]


def _step(adapter: Adapter, owner: Owner, probe: _Probe) -> Iterator[Finding]:
    """Take the next step of one probe after a sync."""
    if probe.server is None:
        return
    server = probe.server = adapter.store.get(probe.server.id)
    client = probe.client = None if probe.client is None else adapter.store.get(probe.client.id)
    if server.state.final:  # its peer would wait until its own time limit
        yield from _judge(adapter, probe, server)
    elif client is None and server.state is JobState.RUNNING and server.addresses:
        yield from _add_client(adapter, owner, probe, server)
    elif (
        client is not None
        and client.state.final
        and (client.state is not JobState.SUCCESS or _has_looked(adapter, server))
    ):
        yield from _judge(adapter, probe, client)
    else:
        yield from _await(adapter, probe, server if client is None or client.state.final else client)


def _has_looked(adapter: Adapter, server: Record) -> bool:
    """Return whether the first job has finished its checks on each of its nodes."""
    return {node for node, step, _ in _output(adapter, server) if step == "end"} >= set(server.nodes)


def _add_client(adapter: Adapter, owner: Owner, probe: _Probe, server: Record) -> Iterator[Finding]:
    if not probe.runs:
        probe.runs = True
        yield Finding(Level.GOOD, f"{probe.name}: job {server.id} runs on {', '.join(server.nodes)}")
    try:
        probe.client = _submit(adapter, owner, probe, server)
        probe.began = time.monotonic()
    except TryAgain as error:
        probe.trouble = f"; its peer could not be submitted: {error}"
    except AdapterError as error:
        probe.done = True
        yield _refused(probe, "submit a job with a peer", error)


def _await(adapter: Adapter, probe: _Probe, current: Record) -> Iterator[Finding]:
    """Wait for a probe's job up to a limit."""
    late = time.monotonic() - probe.began
    if current.state is JobState.RUNNING:
        if late > RUN_SECONDS:
            probe.done = True
            yield Finding(
                Level.PROBLEM,
                f"{probe.name}: job {current.id} did not end within {RUN_SECONDS} s on {', '.join(current.nodes)}: "
                f"{_last_words(adapter, current)}",
            )
    elif "does not start until" in current.status:
        probe.done = True
        fix = find_fix(current.status, _REFUSALS)
        yield Finding(Level.PROBLEM, f"{probe.name}: job {current.id}: {current.status}. To fix it: {fix}")
    elif probe.client is not None and probe.elsewhere and late > ELSEWHERE_SECONDS:
        probe.elsewhere = False
        cancel.cancel(adapter, [probe.client.id])
        probe.client = None
    elif late > START_SECONDS:
        probe.done = True
        yield Finding(
            Level.WARNING,
            f"{probe.name}: job {current.id} did not start within {START_SECONDS:.0f} s: {current.status}. If the "
            "partition is full, try again later",
        )


def _judge(adapter: Adapter, probe: _Probe, ended: Record) -> Iterator[Finding]:
    """Report the findings of a probe, and why its job failed."""
    probe.done = True
    seen = [line for record in (probe.server, probe.client) if record is not None for line in _output(adapter, record)]
    for step, (level, what, fix) in _STEPS.items():
        bad = list(dict.fromkeys(f"{node}: {words}" for node, name, words in seen if name == step and words))
        if bad:
            yield Finding(level, f"{probe.name}: {what}: {'; '.join(bad)}. {fix[0].upper()}{fix[1:]}")
        elif nodes := sorted({node for node, name, _ in seen if name == step}):
            yield Finding(Level.GOOD, f"{probe.name}: {what}: good on {', '.join(nodes)}")
    if ended.state is JobState.SUCCESS:
        return
    said = f"{ended.status}; {_last_words(adapter, ended)}{probe.trouble}"
    place = f" on {', '.join(ended.nodes)}" if ended.nodes else ""
    yield Finding(
        Level.PROBLEM, f"{probe.name}: job {ended.id} failed{place}: {said}. To fix it: {find_fix(said, FAILURES)}"
    )


def find_fix(said: str, known: tuple[tuple[str, str], ...]) -> str:
    """Return the fix for the first pattern that matches."""
    for pattern, fix in known:
        if (found := re.search(pattern, said, re.IGNORECASE)) is not None:
            return fix.format(*found.groups())
    return "see the messages of slurmd and slurmctld"


def _refused(probe: _Probe, step: str, error: AdapterError) -> Finding:
    level = Level.WARNING if isinstance(error, TryAgain) else Level.PROBLEM
    return Finding(level, f"{probe.name}: {step}: {error}. To fix it: {find_fix(str(error), _REFUSALS)}")


def _output(adapter: Adapter, record: Record) -> list[tuple[str, str, str]]:
    """Return node, step and message of each line of a probe's output."""
    text = b"".join(piece.data for piece in logs.read(adapter, record) if not piece.is_error).decode(errors="replace")
    return re.findall(r"^probe\t([^\t\n]+)\t([^\t\n]+)\t(.*)$", text, re.MULTILINE)


def _last_words(adapter: Adapter, record: Record) -> str:
    """Return the end of a job's stderr and of the log of the processes that hold its names."""
    log = Command(("/bin/sh", "-c", _HOLDERS, "sh", record.folder), user=record.account)
    try:
        errors = b"".join(piece.data for piece in logs.read(adapter, record) if piece.is_error)
        texts = [errors.decode(errors="replace"), adapter.transport.run(log).text]
    except AdapterError as error:
        return str(error)
    lines = [line for text in texts for line in dict.fromkeys(text.strip().splitlines()[-4:])]
    return " | ".join(lines)[-800:] or "no output"


def _remove(adapter: Adapter) -> list[str]:
    """Cancel and remove all probes, and sync until they have ended. Return the ids of jobs that have not."""
    limit = time.monotonic() + REMOVE_SECONDS
    while True:
        remaining: list[str] = ["?"]
        with suppress(TryAgain, Unknown):
            remaining = probes.remove(adapter)
        if not remaining or time.monotonic() > limit:
            return remaining
        time.sleep(_PAUSE)
        with adapter.sync_lock() as ours:
            if ours:
                sync(adapter)
