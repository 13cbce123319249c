"""Facts about the cluster that are known before a job comes, and jobs that it cannot run.

The gateway keeps these facts, so that a job from UCloud is refused or taken without a question to Slurm. A job is
refused only if Slurm would refuse it, too, or would let it wait without end. All else is left to sbatch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurm_adapter.cluster.accounting import UNKNOWN, Accounting, read_accounting, slurm_settings
from slurm_adapter.cluster.transports.interface import Command
from slurm_adapter.core.durations import duration
from slurm_adapter.core.errors import InvalidInput, TryAgain, Unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from slurm_adapter.adapter import Adapter
    from slurm_adapter.cluster.schedulers.interface import NodeShape, Partition
    from slurm_adapter.core.directives import Directive

_ENFORCED = frozenset({"associations", "limits", "qos", "safe", "wckeys"})
"""Words of AccountingStorageEnforce (slurm.conf(5)), each of which has Slurm refuse jobs without an association."""

_CLOSED = frozenset({"DRAIN", "INACTIVE"})
_MEMORY = re.compile(r"(\d+)([KMGT]?)", re.ASCII)
_UNITS = {"K": 2**10, "M": 2**20, "": 2**20, "G": 2**30, "T": 2**40}
_WORD = re.compile(r"[\w.-]+", re.ASCII)


class CannotRun(InvalidInput):
    """The cluster cannot run the job, according to these facts; newer ones might allow it."""


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """Facts of one moment."""

    nodes: Mapping[str, str]
    """As `Scheduler.nodes`."""
    system_names: tuple[str, ...]
    """As `system_names`."""
    partitions: Mapping[str, Partition]
    """As `Scheduler.partitions`."""
    accounting: Accounting | None = UNKNOWN
    """As `read_accounting`; it is asked for apart, for nothing waits for it."""


def learn(adapter: Adapter) -> ClusterFacts:
    """Ask the cluster for all facts. Raise `TryAgain` if it does not answer."""
    try:
        return ClusterFacts(adapter.scheduler.nodes(), system_names(adapter), adapter.scheduler.partitions())
    except (TryAgain, Unknown) as error:
        raise TryAgain(f"Slurm does not answer, so nothing was submitted: {error}") from error


def system_names(adapter: Adapter) -> tuple[str, ...]:
    """Return every name in the cluster's own hosts file: with one of these a job could mislead another's users.

    Raise `Unknown` if it cannot be read.
    """
    result = adapter.transport.run(Command(("/bin/sh", "-c", "[ ! -e /etc/hosts ] || cat /etc/hosts")))
    if result.status != 0:
        raise Unknown(f"the cluster's /etc/hosts could not be read: {result.complaint or f'exit code {result.status}'}")
    lines = (line.split("#", 1)[0].split() for line in result.text.splitlines())
    return tuple(name for words in lines for name in words[1:])


def learn_accounting(adapter: Adapter) -> Accounting | None:
    """Ask accounting about the accounts of the cluster that the configuration names. Raise as `read_accounting`."""
    identity, settings = adapter.config.identity, slurm_settings(adapter.transport, adapter.config.cluster)
    return read_accounting(
        adapter.transport,
        adapter.config.cluster,
        sorted({*identity.users.values(), *filter(None, [identity.service_user])}),
        settings,
    )


def check(directives: Iterable[Directive], seconds: int, account: str, facts: ClusterFacts) -> None:
    """Raise `CannotRun` if no partition that the job names can run it. `seconds` is its time limit.

    `account` is the account of the cluster that runs it.
    """
    wanted = {each.name: each.value or "" for each in directives}
    names = [name for name in wanted.get("partition", "").split(",") if name]
    if unknown := [name for name in names if name not in facts.partitions]:
        raise CannotRun(f"the cluster has no partition {', '.join(unknown)}, which the site gives this product")
    if wrong := next(_find_wrongs(wanted, account, facts.accounting), None):
        raise CannotRun(wrong)
    problems = [next(_find_problems(wanted, seconds, facts.partitions[name], facts.accounting), None) for name in names]
    if problems and all(problems):
        raise CannotRun("; ".join(problem for problem in problems if problem))


def _find_wrongs(wanted: Mapping[str, str], account: str, accounting: Accounting | None) -> Iterator[str]:
    """Say which Slurm account or QOS the job may not use, if Slurm enforces that and it is known of its account."""
    if accounting is None or not accounting.enforced & _ENFORCED or account not in accounting.associations:
        return
    associations = accounting.associations[account]
    used = (wanted.get("account") or accounting.defaults.get(account, "")).lower()
    if used and used not in associations:
        yield f"{account} may not use Slurm's account {used}, but {', '.join(sorted(associations))}"
    qos = wanted.get("qos", "").lower()
    if qos and "qos" in accounting.enforced and used in associations and qos not in associations[used]:
        yield f"{account} may not use the QOS {qos}, but {', '.join(sorted(associations[used]))}"


def _find_problems(
    wanted: Mapping[str, str], seconds: int, partition: Partition, accounting: Accounting | None
) -> Iterator[str]:
    lifts = frozenset() if accounting is None else accounting.lifts
    name = f"partition {partition.name}"
    if partition.state in _CLOSED:
        yield f"{name} takes no new jobs: its state is {partition.state}"
    nodes = _number(wanted.get("nodes", "1")) or 1
    if partition.max_nodes is not None and nodes > partition.max_nodes and "PartitionMaxNodes" not in lifts:
        yield f"{nodes} nodes are more than {name} allows: {partition.max_nodes}"
    if partition.max_time is not None and seconds > partition.max_time and "PartitionTimeLimit" not in lifts:
        yield f"{duration(seconds)} are longer than {name} allows: {duration(partition.max_time)}"
    cpus = _number(wanted.get("cpus-per-task", "1")) or 1
    if partition.max_cpus_per_node is not None and cpus > partition.max_cpus_per_node:
        yield f"{cpus} processors on a node are more than {name} allows: {partition.max_cpus_per_node}"
    fitting = sum(count for shape, count in partition.shapes.items() if _fits(wanted, cpus, shape))
    if fitting + partition.hidden_nodes < nodes:
        sizes = [f"{cpus} processors"]
        sizes += [f"{key} {wanted[key]}" for key in ("mem", "gres", "constraint") if wanted.get(key)]
        yield f"{name} has {fitting} nodes with {', '.join(sizes)}, and the job needs {nodes}"


def _fits(wanted: Mapping[str, str], cpus: int, shape: NodeShape) -> bool:
    """Return whether a node of this shape could run the job; also if that cannot be known."""
    memory = _MEMORY.fullmatch(wanted.get("mem", ""))
    if cpus > shape.cpus or (memory and int(memory[1]) * _UNITS[memory[2]] > shape.memory):
        return False
    for entry in wanted.get("gres", "").split(","):
        kind, *words = entry.split(":")
        if kind != "gpu":
            continue
        count = int(words.pop()) if words and words[-1].isdecimal() else 1
        if count > sum(has for of, has in shape.gpus if not words or of == words[0]):
            return False
    constraint = wanted.get("constraint", "")
    return not _WORD.fullmatch(constraint) or constraint in shape.features


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and text.isascii() else None
